"""HunyuanImage-2.1's folders: Qwen2.5-VL's language model, a ByT5 for text to be rendered, and two guiders; its
distilled form; its refiner, alone or as a second level.
"""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, cast

from torch import nn

from bimo.core import module_weights
from bimo.core.errors import RecipeError
from bimo.core.messages import Message, say
from bimo.core.recipe import Defaults, Guidance, Level, ProjectedGuidance, Recipe
from bimo.diffusion.system import System
from bimo.models.hunyuan_dit.layout import t5, t5_name
from bimo.models.hunyuan_image.denoiser import HunyuanImage
from bimo.models.hunyuan_image.refiner import HunyuanRefinerLatent, Refined
from bimo.models.hunyuan_image.space import HunyuanImageLatent
from bimo.models.layouts.configs import Config, defaults_of, read_json
from bimo.models.layouts.diffusers_folder import INDEX_FILE, SECOND, Filling, Folder, Reading, same_name
from bimo.models.layouts.flow_folder import LEVEL, STEPS, denoiser, flow_schedule, reading_with
from bimo.models.layouts.language_model import text_encoder, text_name
from bimo.models.layouts.pipeline_form import QWEN, Form
from bimo.models.stable_diffusion.conditioners import GuidanceScale
from bimo.models.text_encoders import prompt_templates
from bimo.models.text_encoders.language_model import LanguageModel

CLASSES = (QWEN, "T5EncoderModel")
GUIDER = "AdaptiveProjectedMixGuidance"
#: The guiders of a pipeline: for prompts without and with text to be rendered.
GUIDERS = ("guider", "ocr_guider")
#: The number of bytes of rendered text that are encoded.
GLYPHS = 128
#: The fields of a guider -> those of ``ProjectedGuidance``.
PROJECTION = {
    "scale": "adaptive_projected_guidance_scale",
    "momentum": "adaptive_projected_guidance_momentum",
    "threshold": "adaptive_projected_guidance_rescale",
    "eta": "eta",
}
START = "adaptive_projected_guidance_start_step"


def guiders(guidance: Guidance) -> dict[str, Any]:
    """The guiders of a folder, by name, as in diffusers; none for a guidance without projection."""
    from diffusers import AdaptiveProjectedMixGuidance

    projected = guidance.projected
    if projected is None:
        return {}
    own: dict[str, Any] = {theirs: getattr(projected, name) for name, theirs in PROJECTION.items()}
    own |= {"guidance_scale": guidance.scale, "guidance_rescale": guidance.rescale}
    starts = {GUIDERS[0]: projected.start, GUIDERS[1]: projected.start_written}
    return {name: AdaptiveProjectedMixGuidance(**cast(Any, own | {START: start})) for name, start in starts.items()}


TRANSFORMER = "HunyuanImageTransformer2DModel"
BASE, REFINER = "HunyuanImagePipeline", "HunyuanImageRefinerPipeline"
#: The name of the refiner's level after a base.
REFINE = "refine"


def apart(system: System) -> dict[str, System]:
    """A base with its refiner -> each by itself, by the place of its folder in the base's."""
    recipe = system.recipe
    first, second = recipe.levels
    words, again, glyphs = recipe.text_encoders
    base = replace(
        recipe,
        text_encoders=(words, glyphs),
        levels=(replace(first, denoiser=replace(cast(HunyuanImage, first.denoiser), texts=())),),
        stages=(),
    )
    conditioners = tuple(
        replace(each, level=LEVEL, earlier="") if isinstance(each, Refined) else each for each in second.conditioners
    )
    denoiser = replace(cast(HunyuanImage, second.denoiser), texts=())
    refiner = replace(
        recipe,
        text_encoders=(replace(cast(LanguageModel, again), shares=None),),
        levels=(replace(second, name=LEVEL, denoiser=denoiser, conditioners=conditioners),),
        stages=(),
    )
    return {"": _part_of(system, base, (0, 2), first.name), SECOND: _part_of(system, refiner, (1,), second.name)}


def _part_of(system: System, recipe: Recipe, texts: Sequence[int], level: str) -> System:
    """A system of some text encoders and one level of another, which are not copied."""
    with module_weights.unfilled():
        part = System(recipe)
    part.text = nn.ModuleList(system.text[place] for place in texts)
    part.add_module(LEVEL, system.level(level))
    return part


FORMS = (
    Form(BASE, TRANSFORMER, CLASSES, guiders=guiders),
    Form(REFINER, TRANSFORMER, (QWEN,)),
    Form(BASE, TRANSFORMER, (QWEN, QWEN, "T5EncoderModel"), levels=2, apart=apart),
)
#: The steps of the distilled form, and of the refiner; the guidance scale that both are conditioned on.
DISTILLED_STEPS, REFINER_STEPS, EMBEDDED_GUIDANCE = 8, 4, 3.25


def reading(folder: Folder) -> Reading:
    """A folder of a HunyuanImagePipeline or a HunyuanImageRefinerPipeline. Raises RecipeError for unsupported ones."""
    if folder.pipeline == REFINER:
        return _refiner(folder)
    second = folder.second or folder.path / SECOND
    if folder.second is None and not (second / INDEX_FILE).is_file():
        return _base(folder)
    return _refined(_base(folder), Folder.at(second), SECOND if folder.second is None else str(second.absolute()))


def _base(folder: Folder) -> Reading:
    words = text_encoder(folder, (QWEN,), "qwen2_5_vl")
    words = replace(words, template=prompt_templates.HUNYUAN_IMAGE, drop=34, length=1000, state=-3)
    folder.demand("text_encoder_2", "transformers", ("T5EncoderModel",))
    folder.demand("tokenizer_2", "transformers", ("ByT5Tokenizer",))
    glyphs = replace(t5(folder.config("text_encoder_2"), GLYPHS), words="bytes", quoted=True)
    model = _denoiser(folder, spatial=False)
    level = Level(
        name=LEVEL,
        space=_space(folder),
        denoiser=model,
        schedule=flow_schedule(folder, patch=1),
        conditioners=(GuidanceScale(scale=EMBEDDED_GUIDANCE),) if model.guidance_embeds else (),
        steps=DISTILLED_STEPS if model.use_meanflow else STEPS,
        guidance=_guidance(folder, model),
    )
    recipe = Recipe(
        name="hunyuan-image-2.1-distilled" if model.use_meanflow else "hunyuan-image-2.1",
        languages=("zh", "en"),
        text_encoders=(words, glyphs),
        levels=(level,),
        request=Defaults(size=(2048, 2048), multiple=32),
        dtypes=("bf16",),
        note=say("a HunyuanImagePipeline; prompts are not rewritten"),
    )
    fillings = (
        Filling("text_encoder", "text.0.model", text_name),
        Filling("text_encoder_2", "text.1.model", t5_name),
        Filling("transformer", "image.denoiser.model"),
        Filling("vae", "image.space.model"),
    )
    return Reading(recipe, fillings, ("tokenizer", "tokenizer_2"), GUIDERS)


def _refiner(folder: Folder) -> Reading:
    words = text_encoder(folder, (QWEN,), "qwen2_5_vl")
    words = replace(words, template=prompt_templates.HUNYUAN_REFINER, drop=36, length=256, state=-3)
    model = _denoiser(folder, spatial=True)
    level = Level(
        name=LEVEL,
        space=_refiner_space(folder),
        denoiser=model,
        schedule=flow_schedule(folder, patch=1),
        conditioners=(Refined(), *((GuidanceScale(scale=EMBEDDED_GUIDANCE),) if model.guidance_embeds else ())),
        steps=REFINER_STEPS,
        guidance=_guidance(folder, model),
    )
    why = Message("a HunyuanImageRefinerPipeline: it refines a given picture")
    size = Defaults(size=(2048, 2048), multiple=16)
    reading = reading_with(folder, "hunyuan-image-2.1-refiner", why, words, level, size)
    return replace(reading, fillings=_plain(reading.fillings), configs=GUIDERS)


def _refined(base: Reading, folder: Folder, place: str) -> Reading:
    """A base with its refiner as a second level; ``place`` is the refiner's folder relative to the base's. Raises
    RecipeError if their language models differ.
    """
    if folder.pipeline != REFINER:
        raise RecipeError(
            "{path} is a {named}; expected a {wanted}", path=folder.path, named=folder.pipeline, wanted=REFINER
        )
    refiner = _refiner(folder)
    words, glyphs = base.recipe.text_encoders
    (again,) = (cast(LanguageModel, each) for each in refiner.recipe.text_encoders)
    if again.sizes != cast(LanguageModel, words).sizes:
        raise RecipeError("{path} has another text encoder than its base, and shares it", path=folder.path)
    first, second = base.recipe.levels[0], refiner.recipe.levels[0]
    conditioners = tuple(
        replace(each, level=REFINE, earlier=LEVEL) if isinstance(each, Refined) else each
        for each in second.conditioners
    )
    levels = (
        replace(first, denoiser=replace(cast(HunyuanImage, first.denoiser), texts=(0, 2))),
        replace(
            second,
            name=REFINE,
            denoiser=replace(cast(HunyuanImage, second.denoiser), texts=(1,)),
            conditioners=conditioners,
        ),
    )
    recipe = replace(
        base.recipe,
        name=f"{base.recipe.name}-refined",
        # Rendered text comes last: the guidance depends on whether it is present.
        text_encoders=(words, replace(again, shares=0), glyphs),
        levels=levels,
        note=base.recipe.note + say("; the refiner in it is a second level"),
    )
    moved = {"text.1.model": "text.2.model"}
    fillings = (
        *(replace(each, module=moved.get(each.module, each.module)) for each in base.fillings),
        *(
            replace(each, component=f"{place}/{each.component}", module=each.module.replace(LEVEL, REFINE, 1))
            for each in refiner.fillings
            if each.component != "text_encoder"
        ),
    )
    tokenizers = (base.tokenizers[0], f"{place}/{refiner.tokenizers[0]}", base.tokenizers[1])
    return replace(base, recipe=recipe, fillings=fillings, tokenizers=tokenizers)


def _plain(fillings: tuple[Filling, ...]) -> tuple[Filling, ...]:
    """Fillings for an autoencoder that has current names only."""
    return tuple(replace(each, rename=same_name) if each.component == "vae" else each for each in fillings)


def _denoiser(folder: Folder, spatial: bool) -> HunyuanImage:
    """The transformer of a folder; ``spatial`` if a picture is concatenated to x. Raises RecipeError for contradicting
    channels.
    """
    own = {field.name: field.name for field in fields(HunyuanImage) if field.name != "texts"}
    model: HunyuanImage = denoiser(folder, TRANSFORMER, HunyuanImage, own)
    if model.in_channels != model.out_channels * (1 + spatial):
        raise RecipeError(
            "in_channels of {path} is {found}, and out_channels {out}; expected is {wanted}",
            path=folder.config("transformer").path,
            found=model.in_channels,
            out=model.out_channels,
            wanted=model.out_channels * (1 + spatial),
        )
    return model


def _guidance(folder: Folder, model: HunyuanImage) -> Guidance:
    """The guidance by a folder's guiders; without any there is none, as in the pipeline, except the scale that a
    distilled transformer is conditioned on. Raises RecipeError if the guiders differ in more than their start, and for
    guiders of a transformer that is conditioned on the scale.
    """
    from diffusers import AdaptiveProjectedMixGuidance

    if model.guidance_embeds:
        if names := [name for name in GUIDERS if name in folder.classes]:
            raise RecipeError(
                "{path} has a {found}, and a transformer that is told the scale of guidance (guidance_embeds); "
                "supported is one of the two",
                path=folder.path / INDEX_FILE,
                found=names[0],
            )
        return Guidance(scale=EMBEDDED_GUIDANCE, until=0.0)
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


def _refiner_space(folder: Folder) -> HunyuanRefinerLatent:
    from diffusers import AutoencoderKLHunyuanImageRefiner

    folder.demand("vae", "diffusers", ("AutoencoderKLHunyuanImageRefiner",))
    own = [field.name for field in fields(HunyuanRefinerLatent)]
    return HunyuanRefinerLatent(**folder.config("vae").of(defaults_of(AutoencoderKLHunyuanImageRefiner), own, ()))


def _space(folder: Folder) -> HunyuanImageLatent:
    from diffusers import AutoencoderKLHunyuanImage

    folder.demand("vae", "diffusers", ("AutoencoderKLHunyuanImage",))
    own = [field.name for field in fields(HunyuanImageLatent)]
    defaults = {**defaults_of(AutoencoderKLHunyuanImage), "in_channels": 3, "out_channels": 3}
    return HunyuanImageLatent(**folder.config("vae").of(defaults, own, ("sample_size",)))
