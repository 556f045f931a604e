"""HunyuanImage-2.1's folders: Qwen2.5-VL's language model, a ByT5 that reads what is to be written, and two guiders."""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, cast

from bimo.core.errors import RecipeError
from bimo.core.messages import Both, say
from bimo.core.recipe import Defaults, Guidance, Level, ProjectedGuidance, Recipe
from bimo.models.hunyuan_dit.layout import t5, t5_name
from bimo.models.hunyuan_image.denoiser import HunyuanImage
from bimo.models.hunyuan_image.space import HunyuanImageLatent
from bimo.models.layouts.configs import Config, defaults_of, read_json
from bimo.models.layouts.diffusers_folder import Filling, Folder, Reading
from bimo.models.layouts.flow_folder import LEVEL, STEPS, denoiser, flow_schedule
from bimo.models.layouts.language_model import text_encoder, text_name
from bimo.models.layouts.pipeline_form import QWEN, Form
from bimo.models.text_encoders import prompt_templates

CLASSES = (QWEN, "T5EncoderModel")
GUIDER = "AdaptiveProjectedMixGuidance"
#: The guiders of a pipeline: of prompts, and of those with something to be written.
GUIDERS = ("guider", "ocr_guider")
#: How many bytes of what is to be written are read.
GLYPHS = 128
#: The fields of a guider by those of ``ProjectedGuidance``.
PROJECTION = {
    "scale": "adaptive_projected_guidance_scale",
    "momentum": "adaptive_projected_guidance_momentum",
    "threshold": "adaptive_projected_guidance_rescale",
    "eta": "eta",
}
START = "adaptive_projected_guidance_start_step"


def guiders(guidance: Guidance) -> dict[str, Any]:
    """The guiders of a folder by their names, as diffusers has them; none of a guidance that projects nothing."""
    from diffusers import AdaptiveProjectedMixGuidance

    projected = guidance.projected
    if projected is None:
        return {}
    own: dict[str, Any] = {theirs: getattr(projected, name) for name, theirs in PROJECTION.items()}
    own |= {"guidance_scale": guidance.scale, "guidance_rescale": guidance.rescale}
    starts = {GUIDERS[0]: projected.start, GUIDERS[1]: projected.start_written}
    return {name: AdaptiveProjectedMixGuidance(**cast(Any, own | {START: start})) for name, start in starts.items()}


FORMS = (Form("HunyuanImagePipeline", "HunyuanImageTransformer2DModel", CLASSES, guiders=guiders),)


def reading(folder: Folder) -> Reading:
    """A folder of a HunyuanImagePipeline. Raises RecipeError for what cannot be drawn."""
    words = text_encoder(folder, (QWEN,), "qwen2_5_vl")
    words = replace(words, template=prompt_templates.HUNYUAN_IMAGE, drop=34, length=1000, state=-3)
    folder.demand("text_encoder_2", "transformers", ("T5EncoderModel",))
    folder.demand("tokenizer_2", "transformers", ("ByT5Tokenizer",))
    glyphs = replace(t5(folder.config("text_encoder_2"), GLYPHS), words="bytes", quoted=True)
    own = {field.name: field.name for field in fields(HunyuanImage)}
    config = folder.config("transformer").fields
    model = denoiser(
        folder, "HunyuanImageTransformer2DModel", HunyuanImage, own, out_channels=config.get("in_channels")
    )
    level = Level(
        name=LEVEL,
        space=_space(folder),
        denoiser=model,
        schedule=flow_schedule(folder, patch=1),
        steps=STEPS,
        guidance=_guidance(folder),
    )
    recipe = Recipe(
        name="hunyuan-image-2.1",
        languages=("zh", "en"),
        text_encoders=(words, glyphs),
        levels=(level,),
        request=Defaults(size=(2048, 2048), multiple=32),
        dtypes=("bf16",),
        note=say(Both("HunyuanImagePipeline；不改写提示词", "a HunyuanImagePipeline; prompts are not rewritten")),
    )
    fillings = (
        Filling("text_encoder", "text.0.model", text_name),
        Filling("text_encoder_2", "text.1.model", t5_name),
        Filling("transformer", "image.denoiser.model"),
        Filling("vae", "image.space.model"),
    )
    return Reading(recipe, fillings, ("tokenizer", "tokenizer_2"), GUIDERS)


def _guidance(folder: Folder) -> Guidance:
    """What the guiders of a folder say; without any it is not guided, as in its pipeline. Raises RecipeError where the
    two differ in more than their start.
    """
    from diffusers import AdaptiveProjectedMixGuidance

    if "guider" not in folder.classes:
        return Guidance(scale=1.0)
    read: list[dict[str, Any]] = []
    for name in GUIDERS:
        if name not in folder.classes:
            continue
        folder.demand(name, "diffusers", (GUIDER,))
        path = folder.path / name / "guider_config.json"
        carried = ("guidance_scale", "guidance_rescale", START, *PROJECTION.values())
        read.append(Config(path, read_json(path)).of(defaults_of(AdaptiveProjectedMixGuidance), carried, ()))
    first, last = read[0], read[-1]
    for name, value in first.items():
        if name != START and last[name] != value:
            path = folder.path / GUIDERS[1]
            raise RecipeError(
                "{name} of {path} is {found!r} and that of {other} {value!r}; two guiders may differ in {start} alone",
                name=name,
                path=path,
                found=last[name],
                other=folder.path / GUIDERS[0],
                value=value,
                start=START,
            )
    own = {name: first[theirs] for name, theirs in PROJECTION.items()}
    projected = ProjectedGuidance(**own, start=first[START], start_written=last[START])
    return Guidance(scale=first["guidance_scale"], rescale=first["guidance_rescale"], projected=projected)


def _space(folder: Folder) -> HunyuanImageLatent:
    from diffusers import AutoencoderKLHunyuanImage

    folder.demand("vae", "diffusers", ("AutoencoderKLHunyuanImage",))
    own = [field.name for field in fields(HunyuanImageLatent)]
    defaults = {**defaults_of(AutoencoderKLHunyuanImage), "in_channels": 3, "out_channels": 3}
    return HunyuanImageLatent(**folder.config("vae").of(defaults, own, ("sample_size",)))
