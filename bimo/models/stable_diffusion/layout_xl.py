"""Stable Diffusion XL's folders: two CLIP text encoders, a UNet conditioned on sizes, an AutoencoderKL."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bimo.core.errors import RecipeError
from bimo.core.messages import say
from bimo.core.recipe import Defaults, Guidance, Level, Recipe
from bimo.models.layouts.configs import FORMER_TEXT, NO_EFFECT_TEXT, TEXT_ENCODER_SIZES, defaults_of, read_json
from bimo.models.layouts.diffusers_folder import Filling, Folder, Reading
from bimo.models.layouts.pipeline_form import Form
from bimo.models.spaces import Latent
from bimo.models.stable_diffusion.conditioners import Sizes
from bimo.models.stable_diffusion.layout import (
    LEVEL,
    decodes_in,
    guidance_scale,
    guide_of,
    latent,
    masked,
    schedule_of,
    text_name,
    unet,
    vae_name,
)
from bimo.models.stable_diffusion.unet import Unet
from bimo.models.text_encoders.clip import ClipText
from bimo.models.text_encoders.fusion import Channels

#: The default of diffusers' StableDiffusionXLPipeline and KolorsPipeline.
GUIDANCE = 5.0
#: The vocabulary size of Taiyi-XL's text encoders: CLIP's and 8067 more.
TAIYI_WORDS = 57475
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
_ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection")
FORMS = tuple(
    Form(pipeline, "UNet2DConditionModel", _ENCODERS, masked=masked, component="unet", zeros=True, single=True)
    for pipeline, masked in (("StableDiffusionXLPipeline", False), ("StableDiffusionXLInpaintPipeline", True))
)


def level_of(folder: Folder, denoiser: Unet, space: Latent, *, zeros: bool) -> tuple[Level, int]:
    """The level of a folder with a UNet that is conditioned on sizes, and the side in pixels that it was trained at.

    ``zeros`` is the default of ``force_zeros_for_empty_prompt`` in the folder's index.
    """
    factor = 2 ** (len(space.block_channels) - 1)
    zeros = folder.index.get("force_zeros_for_empty_prompt", zeros)
    guidance = Guidance(scale=GUIDANCE, unconditional="zeros_without_negative" if zeros else "empty")
    guidance, steps = guide_of(denoiser, guidance)
    level = Level(
        name=LEVEL,
        space=space,
        denoiser=denoiser,
        schedule=schedule_of(folder, mend=False),
        conditioners=(*masked(denoiser, space), Sizes(factor=factor), *guidance_scale(denoiser)),
        steps=steps,
        guidance=guidance,
        space_dtypes=decodes_in(folder.config("vae")),
    )
    return level, denoiser.size * factor


def reading(folder: Folder) -> Reading:
    """A StableDiffusionXLPipeline. Raises RecipeError for unsupported ones."""
    if folder.index.get("requires_aesthetics_score"):
        raise RecipeError(
            "{path} wants aesthetic scores (requires_aesthetics_score): XL's refiner, which is not supported",
            path=folder.path,
        )
    encoders = (_text_encoder(folder, ""), _text_encoder(folder, "_2"))
    folder.demand("unet", "diffusers", ("UNet2DConditionModel",))
    folder.demand("vae", "diffusers", ("AutoencoderKL",))
    widths = tuple(encoder.width for encoder in encoders)
    denoiser = unet(folder.config("unet"))
    if denoiser.text != sum(widths) or denoiser.vector != encoders[1].project or not denoiser.ids[0]:
        raise RecipeError(
            "the UNet of {path} reads words {text} and a pooled text {vector} wide; the text encoders give {widths} "
            "and {project}",
            path=folder.path,
            text=denoiser.text,
            vector=denoiser.vector,
            widths=widths,
            project=encoders[1].project,
        )
    denoiser = replace(denoiser, text=widths)
    space = latent(folder.config("vae"), ("moments",))
    level, side = level_of(folder, denoiser, space, zeros=True)
    taiyi = all(encoder.vocab == TAIYI_WORDS for encoder in encoders)
    words = " x ".join(str(encoder.vocab) for encoder in encoders)
    why = say("its text encoders are two of CLIP, of {words} words", words=words)
    recipe = Recipe(
        name="taiyi-xl" if taiyi else "stable-diffusion-xl",
        languages=("zh", "en") if taiyi else ("en",),
        text_encoders=encoders,
        text_fusion=Channels(),
        levels=(level,),
        request=Defaults(size=(side, side)),
        note=why,
    )
    return Reading(
        recipe,
        (
            Filling("text_encoder", "text.0.model", text_name),
            Filling("text_encoder_2", "text.1", projected_name),
            Filling("unet", "image.denoiser.model"),
            Filling("vae", "image.space.model", vae_name),
        ),
        ("tokenizer", "tokenizer_2"),
    )


def projected_name(name: str) -> str | None:
    """Our name of a tensor of a CLIPTextModelWithProjection, below the text encoder."""
    if name == "text_projection.weight":
        return "projection.weight"
    below = text_name(name)
    return None if below is None else f"model.{below}"


def _text_encoder(folder: Folder, which: str) -> ClipText:
    from transformers import CLIPTextConfig

    projects = bool(which)
    component, words = f"text_encoder{which}", f"tokenizer{which}"
    folder.demand(component, "transformers", ("CLIPTextModelWithProjection" if projects else "CLIPTextModel",))
    folder.demand(words, "transformers", TOKENIZERS)
    config = folder.config(component)
    own = {
        **TEXT_ENCODER_SIZES,
        "activation": "hidden_act",
        "eps": "layer_norm_eps",
    }
    defaults = {**FORMER_TEXT, **defaults_of(CLIPTextConfig), **CLIPTextConfig().to_dict()}
    read = config.of(defaults, own.values(), NO_EFFECT_TEXT)
    fields: dict[str, Any] = {name: read[field] for name, field in own.items()}
    settings = folder.path / words / "tokenizer_config.json"
    limit = read_json(settings).get("model_max_length") if settings.is_file() else None
    # Positions beyond the embedding table do not exist: longer padding is impossible.
    fields["length"] = min(int(limit), fields["positions"]) if isinstance(limit, (int, float)) else fields["positions"]
    if projects:
        fields["project"] = int(config.fields.get("projection_dim", defaults["projection_dim"]))
        fields["pool"] = "largest" if config.fields.get("eos_token_id", 49407) == 2 else "end"
    return ClipText(penultimate="raw", **fields)
