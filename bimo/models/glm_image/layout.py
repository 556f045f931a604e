"""GLM-Image's folders: a prior that sees and writes tokens of pictures, a ByT5, a transformer."""

# diffusers and transformers load their classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

from bimo.core.errors import RecipeError
from bimo.core.messages import say
from bimo.core.recipe import Defaults, Guidance, Level, Recipe
from bimo.diffusion.schedules.next_token import NextToken
from bimo.models.glm_image.conditioners import PicturesRead, PriorTask, PriorTokens
from bimo.models.glm_image.denoiser import GlmImage
from bimo.models.glm_image.export import GENERATION, MARKS, PRIOR, PRIOR_LEVEL, PROCESSOR, WHOLE, write_prior
from bimo.models.glm_image.prior import GlmImagePrior
from bimo.models.glm_image.tokens import GlmImageTokens
from bimo.models.glm_image.words import GlmImageWords
from bimo.models.hunyuan_dit.layout import t5, t5_name
from bimo.models.layouts.configs import NO_EFFECT_TEXT, Config, plain, read_json
from bimo.models.layouts.diffusers_folder import Filling, Folder, Reading
from bimo.models.layouts.flow_folder import LEVEL, STEPS, denoiser, flow_schedule
from bimo.models.layouts.pipeline_form import GLM_IMAGE_WORDS, Form
from bimo.models.layouts.qwen_vision import demand_supported, processor_settings
from bimo.models.stable_diffusion.layout import latent, vae_name

PIPELINE, TRANSFORMER = "GlmImagePipeline", "GlmImageTransformer2DModel"
#: The library of both: diffusers writes the name of transformers' module, which is that of a pipeline of its own.
LIBRARIES = ("transformers", "glm_image")
FORMS = (
    Form(
        PIPELINE,
        TRANSFORMER,
        (GLM_IMAGE_WORDS, "T5EncoderModel"),
        levels=2,
        components=("", "text_encoder"),
        tokenizers=(PROCESSOR, "tokenizer"),
        beside=write_prior,
    ),
)
#: How many bytes of a quotation are read.
GLYPHS = 2048
#: Fields of the prior's language model that are kept as they are where they differ from their class's.
KEPT = ("rope_parameters", "rms_norm_eps", "attention_bias", "hidden_act")
#: What a generation config says that its pipeline says otherwise or that changes no token.
NO_EFFECT_GENERATION = ("do_sample", "eos_token_id", "pad_token_id", "bos_token_id", "max_length", "max_new_tokens")


def reading(folder: Folder) -> Reading:
    """A folder of a GlmImagePipeline. Raises RecipeError for what cannot be drawn."""
    for component, cls in ((PRIOR, WHOLE), (PROCESSOR, GLM_IMAGE_WORDS)):
        named = folder.classes.get(component, ("", ""))[0]
        folder.demand(component, named if named in LIBRARIES else LIBRARIES[0], (cls,))
    folder.demand("text_encoder", "transformers", ("T5EncoderModel",))
    folder.demand("tokenizer", "transformers", ("ByT5Tokenizer",))
    tokens, prior = _tokens(folder), _prior(folder)
    own = {field.name: field.name for field in fields(GlmImage) if field.name != "factor"}
    known = {"out_channels": folder.config("transformer").fields.get("in_channels")}
    model: GlmImage = denoiser(folder, TRANSFORMER, GlmImage, own, **known)
    if model.prior_vq_quantizer_codebook_size != tokens.num_embeddings:
        raise RecipeError(
            "{name} of {path} is {value!r}; supported is {expected}, and ignoring it would draw wrong",
            name="prior_vq_quantizer_codebook_size",
            path=folder.config("transformer").path,
            value=model.prior_vq_quantizer_codebook_size,
            expected=repr(tokens.num_embeddings),
        )
    folder.demand("vae", "diffusers", ("AutoencoderKL",))
    # Its pipeline leaves a factor alone and goes by mean and deviation.
    space = replace(latent(folder.config("vae"), ("moments",)), scaling=1.0)
    if not space.mean:
        raise RecipeError("{path} lacks latents_mean and latents_std", path=folder.config("vae").path)
    words = GlmImageWords(vocab=prior.vocab_size, length=prior.max_position_embeddings, **_marks(folder))
    glyphs = replace(t5(folder.config("text_encoder"), GLYPHS), words="bytes", quoted=True, apart=True)
    recipe = Recipe(
        name="glm-image",
        languages=("zh", "en"),
        text_encoders=(words, glyphs),
        levels=(
            Level(
                name=PRIOR_LEVEL,
                space=tokens,
                denoiser=prior,
                schedule=_written(folder, tokens),
                conditioners=(PriorTask(level=PRIOR_LEVEL),),
                guidance=Guidance(scale=1.0),
            ),
            Level(
                name=LEVEL,
                space=space,
                denoiser=replace(model, factor=2 ** (len(space.block_channels) - 1)),
                schedule=flow_schedule(folder, dynamic="root", grid="whole_open"),
                conditioners=(PriorTokens(level=PRIOR_LEVEL), PicturesRead(level=LEVEL, prior=PRIOR_LEVEL)),
                steps=STEPS,
                guidance=Guidance(scale=1.5),
            ),
        ),
        request=Defaults(size=(1024, 1024), multiple=32),
        dtypes=("bf16",),
        note=say("a {pipeline}", pipeline="GlmImagePipeline"),
    )
    fillings = (
        Filling("text_encoder", "text.1.model", t5_name),
        Filling(PRIOR, PRIOR_LEVEL, prior_name),
        Filling("transformer", f"{LEVEL}.denoiser.model"),
        Filling("vae", f"{LEVEL}.space.model", vae_name),
    )
    return Reading(recipe, fillings, (PROCESSOR, "tokenizer"))


def prior_name(name: str) -> str | None:
    """Where a tensor of the whole prior is in its level: what sees in the space, what writes in the denoiser."""
    if name == "lm_head.weight":
        return f"denoiser.{name}"
    found = re.fullmatch(r"(?:model\.)?(visual|vqmodel|language_model)\.(.+)", name)
    if found is None:
        return name
    return f"denoiser.model.{found[2]}" if found[1] == "language_model" else f"space.{found[1]}.{found[2]}"


def _inner(folder: Folder, name: str) -> Config:
    whole = folder.config(PRIOR)
    return Config(whole.path, cast("Mapping[str, Any]", whole.fields.get(name) or {}))


def _tokens(folder: Folder) -> GlmImageTokens:
    """The prior's space: its vision tower, its codebook, and how its processor brings pictures to them."""
    from transformers.models.glm_image.configuration_glm_image import GlmImageVisionConfig, GlmImageVQVAEConfig

    names = ("depth", "hidden_size", "intermediate_size", "num_heads", "image_size", "patch_size")
    seen = _inner(folder, "vision_config").of(GlmImageVisionConfig().to_dict(), names, NO_EFFECT_TEXT)
    defaults = {**GlmImageVQVAEConfig().to_dict(), "latent_channels": seen["hidden_size"]}
    codes = _inner(folder, "vq_config").of(defaults, ("embed_dim", "num_embeddings"), NO_EFFECT_TEXT)
    path, said = processor_settings(folder.path / PROCESSOR)
    demand_supported(path, said, {"patch_size": seen["patch_size"], "merge_size": 1, "temporal_patch_size": 1})
    size = cast("dict[str, int]", said.get("size") or {})
    least = said.get("min_pixels") or size.get("shortest_edge")
    most = said.get("max_pixels") or size.get("longest_edge")
    limits: dict[str, Any] = {name: value for name, value in (("min_pixels", least), ("max_pixels", most)) if value}
    return GlmImageTokens(**seen, **codes, **limits)


def _prior(folder: Folder) -> GlmImagePrior:
    """The language model that writes tokens."""
    from transformers.models.glm_image.configuration_glm_image import GlmImageTextConfig

    own = [f.name for f in fields(GlmImagePrior) if f.name not in ("image_start", "image_end", "config")]
    defaults = GlmImageTextConfig().to_dict()
    inner = _inner(folder, "text_config")
    read = inner.of(defaults, (*own, *KEPT), NO_EFFECT_TEXT)
    kept = {name: read.pop(name) for name in KEPT}
    config = {name: value for name, value in kept.items() if value != plain(defaults.get(name))}
    whole = folder.config(PRIOR).fields
    marks = {"image_start": whole.get("image_start_token_id"), "image_end": whole.get("image_end_token_id")}
    return GlmImagePrior(**read, config=config, **{name: id_ for name, id_ in marks.items() if id_ is not None})


def _written(folder: Folder, tokens: GlmImageTokens) -> NextToken:
    """How the prior's tokens are drawn: by its generation config, of which there may be none."""
    path = folder.path / PRIOR / "generation_config.json"
    if not path.is_file():
        return NextToken(vocabulary=tokens.num_embeddings)
    read = Config(path, read_json(path)).of(GENERATION, GENERATION, (*NO_EFFECT_GENERATION, "transformers_version"))
    settings = {name: default if read[name] is None else read[name] for name, default in GENERATION.items()}
    return NextToken(**cast("dict[str, Any]", settings), vocabulary=tokens.num_embeddings)


def _marks(folder: Folder) -> dict[str, str]:
    """The tokens that the prior is told by, by the settings of its tokenizer."""
    path: Path = folder.path / PROCESSOR / "tokenizer_config.json"
    settings = read_json(path)
    marks: dict[str, str] = {}
    for name, theirs in MARKS.items():
        token = settings.get(theirs)
        content = cast("dict[str, Any]", token).get("content") if isinstance(token, dict) else token
        if not content:
            raise RecipeError("{path} lacks {name}, a token that the prior is told by", path=path, name=theirs)
        marks[name] = str(content)
    return marks
