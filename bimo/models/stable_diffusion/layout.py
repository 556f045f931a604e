"""Stable Diffusion's folders: a UNet, an AutoencoderKL, and one text encoder."""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.recipe import Defaults, Dtype, Guidance, Level, Recipe
from bimo.diffusion.schedules.ddpm import BETAS, LEARNT, Ddpm
from bimo.models.layouts.configs import Config, before, defaults_of, plain, read_json
from bimo.models.layouts.diffusers_folder import Filling, Folder, Reading
from bimo.models.layouts.pipeline_form import ABSENT, ALT, CHINESE_CLIP, Form
from bimo.models.layouts.schedulers import demand_steps, relatives_settings, scheduler_class
from bimo.models.layouts.text_encoders import (
    TextEncoderPart,
    alt_name,
    alt_text_encoder,
    chinese_clip_name,
    identity,
    text_encoder,
    text_name,
)
from bimo.models.spaces import Latent
from bimo.models.stable_diffusion.conditioners import GuidanceScale, Masked
from bimo.models.stable_diffusion.unet import Unet

LEVEL = "image"
#: The steps of diffusers' StableDiffusionPipeline where none are asked for.
STEPS = 50
NO_EFFECT_VAE = {"sample_size", "force_upcast"}
#: The default side of x if a UNet's config has none: of XL, which is conditioned on sizes, and of others.
SIDES = {True: 128, False: 64}
#: Fields of UNets and autoencoders that are passed on unchanged: they affect the module, but not its inputs or outputs.
UNET_SETTINGS = (
    *("center_input_sample", "flip_sin_to_cos", "freq_shift", "mid_block_type", "only_cross_attention", "act_fn"),
    *("downsample_padding", "mid_block_scale_factor", "norm_eps", "reverse_transformer_layers_per_block"),
    *("dual_cross_attention", "resnet_time_scale_shift", "resnet_skip_time_act", "resnet_out_scale_factor"),
    *("time_embedding_type", "time_embedding_dim", "time_embedding_act_fn", "timestep_post_act", "conv_in_kernel"),
    *("conv_out_kernel", "mid_block_only_cross_attention", "cross_attention_norm"),
)
VAE_SETTINGS = ("act_fn",)
#: diffusers' LatentConsistencyModelPipeline.
CONSISTENCY_STEPS, CONSISTENCY_GUIDANCE = 4, 8.5
#: Fields of a UNet's config about pooled text, size conditioning, and text encoders of another width.
POOLED = (
    "addition_embed_type",
    "class_embed_type",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
)
BRIDGE = ("encoder_hid_dim", "encoder_hid_dim_type")
#: The size condition, and its number of values.
SIZES = ("size_ids", 6)
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_UNET = "UNet2DConditionModel"
_PLAIN: dict[str, Any] = {
    **dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"), ABSENT),
    "requires_safety_checker": False,
}
FORMS = (
    *(
        Form(pipeline, _UNET, (encoder,), masked=masked, component="unet", fixed=_PLAIN, single=True)
        for pipeline, masked in (("StableDiffusionPipeline", False), ("StableDiffusionInpaintPipeline", True))
        for encoder in ("BertModel", "CLIPTextModel")
    ),
    Form("StableDiffusionPipeline", _UNET, (CHINESE_CLIP,), component="unet", fixed=_PLAIN),
    # diffusers itself reads this one up to 0.30; its layout is that of the published folders.
    Form("AltDiffusionPipeline", _UNET, (ALT,), component="unet", fixed=_PLAIN, single=True),
)


def reading(folder: Folder) -> Reading:
    """A StableDiffusionPipeline, or an AltDiffusionPipeline. Raises RecipeError for unsupported ones."""
    if folder.pipeline == "AltDiffusionPipeline":
        return _reading(folder, alt_text_encoder(folder), alt_name)
    encoder = text_encoder(folder)
    chinese_clip = folder.classes["text_encoder"][1] == "ChineseCLIPTextModel"
    return _reading(folder, encoder, chinese_clip_name if chinese_clip else text_name)


def _reading(folder: Folder, encoder: TextEncoderPart, rename: Callable[[str], str | None]) -> Reading:
    folder.demand("unet", "diffusers", ("UNet2DConditionModel",))
    folder.demand("vae", "diffusers", ("AutoencoderKL",))
    denoiser = unet(folder.config("unet"))
    space = latent(folder.config("vae"))
    schedule = schedule_of(folder)
    side = denoiser.size * 2 ** (len(space.block_channels) - 1)
    guide, steps = guide_of(denoiser, Guidance())
    name, languages, why = identity(encoder, folder, folder.config("text_encoder"))
    level = Level(
        name=LEVEL,
        space=space,
        denoiser=denoiser,
        schedule=schedule,
        conditioners=(*masked(denoiser, space), *guidance_scale(denoiser)),
        steps=steps,
        guidance=guide,
    )
    recipe = Recipe(
        name=name,
        languages=languages,
        text_encoders=(encoder,),
        levels=(level,),
        request=Defaults(size=(side, side)),
        note=why,
    )
    return Reading(
        recipe,
        (
            Filling("text_encoder", "text.0.model", rename),
            Filling("unet", "image.denoiser.model"),
            Filling("vae", "image.space.model", vae_name),
        ),
        ("tokenizer",),
    )


def masked(denoiser: Unet, space: Latent) -> tuple[Part, ...]:
    """The conditioner of an inpainting denoiser, which gets a mask and the latents of the masked picture."""
    return (Masked(level=LEVEL),) if denoiser.spatial == 1 + space.channels else ()


def vae_name(name: str) -> str:
    """Today's name of an autoencoder's tensor: its attention had names of its own."""
    old = re.fullmatch(r"(.*\.attentions\.\d+\.)(query|key|value|proj_attn)\.(weight|bias)", name)
    return f"{old[1]}{OLD_ATTENTION[old[2]]}.{old[3]}" if old else name


def unet(config: Config) -> Unet:
    """The denoiser that a UNet2DConditionModel's config describes. Raises RecipeError."""
    from diffusers import UNet2DConditionModel

    own = {
        "size": "sample_size",
        "down": "down_block_types",
        "up": "up_block_types",
        "block_channels": "block_out_channels",
        "layers_per_block": "layers_per_block",
        "heads": "attention_head_dim",
        "text": "cross_attention_dim",
        "groups": "norm_num_groups",
        "linear": "use_linear_projection",
        "upcast": "upcast_attention",
        "depth": "transformer_layers_per_block",
    }
    defaults = defaults_of(UNet2DConditionModel)
    carried = (*own.values(), *POOLED, *BRIDGE, *UNET_SETTINGS, "in_channels", "out_channels", "time_cond_proj_dim")
    # The heads of an embedding that no supported UNet has.
    read = config.of(defaults, carried, ("addition_embed_type_num_heads",))
    fields: dict[str, Any] = {name: read[field] for name, field in own.items()}
    fields["config"] = changed(defaults, read, UNET_SETTINGS)
    fields["guidance"] = read["time_cond_proj_dim"] or 0
    for name in ("text", "layers_per_block"):
        fields[name] = _same_for_all(config, own[name], fields[name])
    fields["upcast"] = bool(fields["upcast"])  # null in some configs
    fields["spatial"] = read["in_channels"] - read["out_channels"]
    if fields["spatial"] not in (0, 1 + read["out_channels"]):
        raise RecipeError(
            "in_channels of {path} is {read}, out_channels {read_2}: supported is {read_2}, or {value} of an "
            "inpainting model",
            path=config.path,
            read=read["in_channels"],
            read_2=read["out_channels"],
            value=1 + 2 * read["out_channels"],
        )
    fields |= _pooled(config, read)
    if fields["size"] is None:
        fields["size"] = SIDES["vector" in fields]
    if fields["size"] == 32 and before(config.fields.get("_diffusers_version"), (0, 9)):
        # diffusers before 0.9 wrote 32 for every model; its pipeline draws 64 then.
        fields["size"] = 64
    return Unet(channels=read["out_channels"], **fields)


def _same_for_all(config: Config, name: str, value: Any) -> Any:
    """The one value of a field that may have one for each block. Raises RecipeError where they differ."""
    if not isinstance(value, tuple):
        return value
    of_blocks = cast("tuple[Any, ...]", value)
    if len(set(of_blocks)) != 1:
        raise RecipeError(
            "{name} of {path} is {value}, which differs from block to block; supported is the same for all",
            name=name,
            path=config.path,
            value=of_blocks,
        )
    return of_blocks[0]


def _pooled(config: Config, read: dict[str, Any]) -> dict[str, Any]:
    """The UNet's conditioning on pooled text and sizes, and the width of the text encoder that is projected to it."""
    kinds = (read["addition_embed_type"], read["class_embed_type"], read["encoder_hid_dim_type"])
    width, time_width = (read[name] for name in POOLED[2:])
    if kinds not in {(None, None, None), ("text_time", None, None), ("text_time", None, "text_proj")}:
        raise RecipeError(
            "addition_embed_type, class_embed_type of {path} and its encoder_hid_dim_type are {kinds}: not "
            "supported together",
            path=config.path,
            kinds=kinds,
        )
    fields: dict[str, Any] = {"bridge": (read["encoder_hid_dim"] or 0) if kinds[2] else 0}
    if kinds[0]:
        pooled = (time_width or 0) - SIZES[1] * (width or 0)
        if pooled <= 0:
            raise RecipeError(
                "{pooled} of {path} is {told}: no room for {sizes} sizes {width} wide and a pooled text",
                pooled=POOLED[3],
                path=config.path,
                told=time_width,
                sizes=SIZES[1],
                width=width,
            )
        fields |= {"vector": pooled, "ids": SIZES, "id_width": width}
    return fields


def changed(defaults: dict[str, Any], read: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The fields of these names that are not as their class has them."""
    return {name: read[name] for name in names if plain(defaults[name]) != read[name]}


def decodes_in(config: Config) -> tuple[Dtype, ...]:
    """The 16-bit dtypes in which an autoencoder of Stable Diffusion XL can decode: float16 only if its config does not
    require upcasting, as that of sdxl-vae-fp16-fix.
    """
    return ("fp16", "bf16") if config.fields.get("force_upcast") is False else ("bf16",)


def latent(config: Config, reads: tuple[str, ...] = ()) -> Latent:
    """The space for an AutoencoderKL's config. Raises RecipeError.

    ``reads`` are the latents' settings that the family's pipeline applies: "shift" and "moments". Others are ignored,
    as in diffusers.
    """
    from diffusers import AutoencoderKL

    own = {
        "channels": "latent_channels",
        "block_channels": "block_out_channels",
        "layers_per_block": "layers_per_block",
        "groups": "norm_num_groups",
        "scaling": "scaling_factor",
        "shift": "shift_factor",
        "quant": "use_quant_conv",
        "post_quant": "use_post_quant_conv",
        "attention": "mid_block_add_attention",
    }
    channels = config.fields.get("block_out_channels")
    count = len(cast("list[int]", channels)) if isinstance(channels, list) else 1
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * count, "up_block_types": ("UpDecoderBlock2D",) * count}
    moments = ("latents_mean", "latents_std")
    defaults = {**defaults_of(AutoencoderKL), **kinds}
    read = config.of(defaults, (*own.values(), *moments, *VAE_SETTINGS), NO_EFFECT_VAE)
    fields = {name: read[field] for name, field in own.items()}
    fields["shift"] = (fields["shift"] or 0.0) if "shift" in reads else 0.0
    fields["config"] = changed(defaults, read, VAE_SETTINGS)
    for name in moments:
        if read[name] is not None and len(read[name]) != fields["channels"]:
            raise RecipeError(
                "{name} of {path} are {count} numbers, and the latents have {given} channels; there should be as many",
                name=name,
                path=config.path,
                count=len(read[name]),
                given=fields["channels"],
            )
    if "moments" in reads and all(read[name] for name in moments):
        fields |= {"mean": read[moments[0]], "deviation": read[moments[1]]}
    return Latent(**fields)


def guide_of(denoiser: Unet, guide: Guidance) -> tuple[Guidance, int]:
    """The guidance of a level and the number of steps: a UNet conditioned on the scale has no second branch."""
    if not denoiser.guidance:
        return guide, STEPS
    return replace(guide, scale=CONSISTENCY_GUIDANCE, until=0.0), CONSISTENCY_STEPS


def guidance_scale(denoiser: Unet) -> tuple[Part, ...]:
    """The conditioner of a denoiser that is conditioned on the guidance scale."""
    return (GuidanceScale(),) if denoiser.guidance else ()


def schedule_of(folder: Folder, mend: bool = True) -> Ddpm:
    """The noise schedule and the publisher's sampler; with ``mend`` corrected as in diffusers' StableDiffusionPipeline.

    Raises RecipeError for a scheduler that such a pipeline does not support.
    """
    path = folder.path / "scheduler" / "scheduler_config.json"
    config = read_json(path)
    name = str(config.get("_class_name", folder.classes.get("scheduler", ("", ""))[1]))
    cls = scheduler_class(path, name)
    full = {n: plain(config.get(n, default)) for n, default in defaults_of(cls).items()}
    silent = [n for n in full if n not in config]
    if mend:
        for setting, value in (("steps_offset", 1), ("clip_sample", False)):
            if setting in full:
                full[setting] = value
                silent = [n for n in silent if n != setting]
    # Settings that its class does not use are kept for schedulers that are chosen by name, as in diffusers.
    relatives = {n: plain(config[n]) for n in relatives_settings(cls) & config.keys() - full.keys()}
    settings = {"_class_name": name, **full, **relatives, "_use_default_values": tuple(silent)}
    demand_steps(path, cls, settings)
    prediction = full.get("prediction_type", "epsilon")
    betas = ("beta_schedule", "beta_start", "beta_end")
    known = full.get("beta_schedule") in BETAS
    return Ddpm(
        **({field: full[field] for field in betas} if known else {}),
        count=full.get("num_train_timesteps", 1000),
        prediction=prediction if prediction in LEARNT else "epsilon",
        zero_terminal=bool(full.get("rescale_betas_zero_snr")) and prediction in LEARNT[1:],
        config=settings,
    )
