"""The folders of flow-matching transformers that read a language model: Z-Image, Qwen-, LongCat-Image, CogView4."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from bimo.core.errors import RecipeError
from bimo.core.messages import Both, say
from bimo.core.part import Part
from bimo.core.recipe import Defaults, Guidance, Level, Recipe
from bimo.diffusion.schedules import Flow
from bimo.models.flow_transformers import CogView4, LongCatImage, QwenImage, ZImage
from bimo.models.layouts.configs import NO_EFFECT_TEXT, Config, defaults_of, plain, read_json
from bimo.models.layouts.diffusers_folder import Filling, Folder, Reading
from bimo.models.layouts.schedulers import demand_flow_steps, scheduler_class
from bimo.models.qwen_image.space import QwenLatent
from bimo.models.stable_diffusion.layout import latent, vae_name
from bimo.models.text_encoders import prompt_templates
from bimo.models.text_encoders.language_model import FAMILIES, LanguageModel

LEVEL = "image"
STEPS = 50
#: What else a FlowMatchEulerDiscreteScheduler may say; the sampler reads it as it stands.
FLOW_SETTINGS = (
    "invert_sigmas",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "stochastic_sampling",
)
TOKENIZERS = ("Qwen2Tokenizer", "Qwen2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
#: How a rotation is told in configs of before transformers 5, and what may stand beside it.
ROTATION = ("rope_theta", "rope_scaling", "partial_rotary_factor")
#: Fields that tell of pictures in a prompt, of which there are none here.
NO_EFFECT_VISION = {
    *("vision_config", "image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"),
    *("vision_token_id", "pruned_heads"),
}
#: Fields that a family's class once had, or has under another name.
FORMER = {
    # The gate's function is hidden_activation's; no prompt is as long as its window.
    "gemma2": {"hidden_act", "sliding_window_size"},
    "qwen2_5_vl": {"use_mrope"},
}


def reading(folder: Folder) -> Reading:
    """A folder of one of the four. Raises RecipeError for what cannot be drawn."""
    read = {
        "ZImagePipeline": _z_image,
        "QwenImagePipeline": _qwen_image,
        "LongCatImagePipeline": _longcat_image,
        "CogView4Pipeline": _cogview4,
    }[folder.pipeline]
    return filled(folder, read(folder))


def filled(folder: Folder, recipe: Recipe) -> Reading:
    """The reading of a folder whose parts are called text_encoder, transformer, vae and tokenizer."""
    fillings = (
        Filling("text_encoder", "text.0.model", text_name),
        Filling("transformer", "image.denoiser.model"),
        Filling("vae", "image.space.model", vae_name),
    )
    return Reading(recipe, fillings, ("tokenizer",))


def text_name(name: str) -> str | None:
    """Our name of a tensor of a language model: without its head, and without what reads pictures."""
    if name == "lm_head.weight" or re.match(r"(model\.)?visual\.", name):
        return None
    return re.sub(r"^(model\.)?(language_model\.)?(model\.)?", "", name)


def language_model(config: Config, family: str) -> LanguageModel:
    """The tower that a language model's config describes. Raises RecipeError for a field that its class lacks."""
    import transformers

    config_name, _, (feed, head, key_heads) = FAMILIES[family]
    inner = config.fields.get("text_config")
    fields = cast("dict[str, Any]", inner) if isinstance(inner, dict) else dict(config.fields)
    own = {
        "width": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "vocab": "vocab_size",
        "positions": "max_position_embeddings",
        "feed": feed,
        "head": head,
        "key_heads": key_heads,
    }
    named = {name: fields[field] for name, field in own.items() if fields.get(field) is not None}
    if "head" not in named:
        named["head"] = named["width"] // named["heads"]
    sizes = {own[name]: value for name, value in named.items() if own[name]}
    quiet = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    base: dict[str, Any] = getattr(transformers, config_name)(**sizes, **quiet).to_dict()
    rest: dict[str, Any] = {}
    quiet_fields = {*own.values(), *NO_EFFECT_TEXT, *NO_EFFECT_VISION, *FORMER.get(family, ())}
    for name, value in fields.items():
        if name in quiet_fields or config.says_nothing(name, value, name in base or name in ROTATION):
            continue
        if name == "hidden_activation" and value is None:
            continue  # the class's own, as where it is not there
        if name not in base and name not in ROTATION:
            raise RecipeError(
                "{name} of {path} is {value!r}, a field that {config_name} does not have; ignoring it would draw wrong",
                name=name,
                path=config.path,
                value=value,
                config_name=config_name,
            )
        if name not in base or plain(base[name]) != plain(value):
            rest[name] = _plain(value)
    return LanguageModel(family=family, config=rest, **named)


def law(folder: Folder, own_sigmas: bool = False, **grid: Any) -> Flow:
    """The times of a folder's scheduler, FlowMatchEulerDiscreteScheduler or another that its pipeline can draw by; with
    ``own_sigmas`` the pipeline leaves the grid to a scheduler with ``use_flow_sigmas``. Raises RecipeError.
    """
    path = folder.path / "scheduler" / "scheduler_config.json"
    config = Config(path, read_json(path))
    name = str(config.fields.get("_class_name", folder.classes.get("scheduler", ("", ""))[1]))
    cls = scheduler_class(path, name)
    own = {
        "shift": "shift",
        "dynamic": "use_dynamic_shifting",
        "curve": "time_shift_type",
        "base_length": "base_image_seq_len",
        "max_length": "max_image_seq_len",
        "base_shift": "base_shift",
        "max_shift": "max_shift",
        "terminal": "shift_terminal",
    }
    grid = {"grid": "even", **grid}
    if name == "FlowMatchEulerDiscreteScheduler":
        defaults = defaults_of(cls)
        read = config.of(defaults, (*own.values(), *FLOW_SETTINGS), ())
        said = {n: read[n] for n in FLOW_SETTINGS if read[n] != defaults[n]}
    else:
        said = {n: plain(v) for n, v in config.fields.items() if not n.startswith("_")}
        # As pipelines read what is not said; what a solver calls flow_shift is its own.
        low, high = (0.25, 0.75) if grid.get("dynamic") == "root" else (0.5, 1.15)
        silent = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": low, "max_shift": high}
        silent |= {
            "shift": 1.0,
            "use_dynamic_shifting": False,
            "time_shift_type": "exponential",
            "shift_terminal": None,
        }
        read = {**silent, **defaults_of(cls), **said}
        if own_sigmas and read.get("use_flow_sigmas"):
            grid["grid"] = "own"
    if said or name != "FlowMatchEulerDiscreteScheduler":
        said = {"_class_name": name, **said}
        demand_flow_steps(path, cls, said, str(grid["grid"]))
    given: dict[str, Any] = {field: read[theirs] for field, theirs in own.items()}
    kind = grid.pop("dynamic", "line")
    given["dynamic"] = kind if given["dynamic"] else ""
    return Flow(**{**given, "terminal": given["terminal"] or 0.0}, **grid, config=said)


def denoiser(folder: Folder, cls: str, part: type[Part], own: Mapping[str, str], **given: Any) -> Any:
    """A transformer's part by the names its config has for the part's fields. Raises RecipeError for other fields.

    ``given`` are fields of the config that are known, with the one value that is meant.
    """
    import diffusers

    folder.demand("transformer", "diffusers", (cls,))
    defaults = {**defaults_of(getattr(diffusers, cls)), **given}
    read = folder.config("transformer").of(defaults, own.values(), ())
    return part(**{name: read[field] for name, field in own.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in cast("dict[str, Any]", value).items()}
    return plain(value)


def recipe_with(name: str, why: tuple[str, str], tower: LanguageModel, level: Level, wanted: Defaults) -> Recipe:
    """The recipe of a folder with one tower and one level; ``why`` it is taken for that."""
    return Recipe(
        name=name, languages=("zh", "en"), text_encoders=(tower,), levels=(level,), request=wanted, note=say(Both(*why))
    )


def flux_space(folder: Folder) -> Part:
    """The space of a folder with an AutoencoderKL. Raises RecipeError."""
    folder.demand("vae", "diffusers", ("AutoencoderKL",))
    return latent(folder.config("vae"), ("shift",))


def tower(folder: Folder, classes: tuple[str, ...], family: str, words: tuple[str, ...] = TOKENIZERS) -> LanguageModel:
    """The tower of a folder, without what its pipeline does with it. Raises RecipeError for another class."""
    folder.demand("text_encoder", "transformers", classes)
    folder.demand("tokenizer", "transformers", words)
    return language_model(folder.config("text_encoder"), family)


def _z_image(folder: Folder) -> Recipe:
    words = replace(
        tower(folder, ("Qwen3Model", "Qwen3ForCausalLM"), "qwen3"),
        template=prompt_templates.QWEN3_CHAT,
        length=512,
        state=-2,
    )
    own = {
        "channels": "in_channels",
        "width": "dim",
        "layers": "n_layers",
        "refiners": "n_refiner_layers",
        "heads": "n_heads",
        "key_heads": "n_kv_heads",
        "text": "cap_feat_dim",
        "eps": "norm_eps",
        "normed": "qk_norm",
        "theta": "rope_theta",
        "scale": "t_scale",
        "axes": "axes_dims",
        "lengths": "axes_lens",
    }
    # A field of the published config that no class of diffusers reads.
    extra = {"nheads": folder.config("transformer").fields.get("nheads")}
    model = denoiser(folder, "ZImageTransformer2DModel", ZImage, own, **extra)
    schedule = law(folder)
    # The two published models differ in their weights and in this number.
    turbo = not schedule.dynamic and schedule.shift == 3.0
    name, guidance, steps = ("z-image-turbo", 0.0, 9) if turbo else ("z-image", 5.0, STEPS)
    level = Level(
        name=LEVEL,
        space=flux_space(folder),
        denoiser=model,
        schedule=schedule,
        steps=steps,
        guidance=Guidance(scale=guidance, baseline_scale=0.0),
    )
    why = (
        f"ZImagePipeline；时间表的 shift 是 {schedule.shift:g}：{'蒸馏过的 Turbo' if turbo else '未蒸馏的基础模型'}",
        f"a ZImagePipeline; shift of its times is {schedule.shift:g}: {'distilled, Turbo' if turbo else 'the base'}",
    )
    return recipe_with(name, why, words, level, Defaults(size=(1024, 1024), multiple=16))


def _qwen_image(folder: Folder) -> Recipe:
    words = replace(
        tower(folder, ("Qwen2_5_VLForConditionalGeneration",), "qwen2_5_vl"),
        template=prompt_templates.QWEN_IMAGE,
        drop=34,
        length=512,
    )
    own = {
        "channels": "out_channels",
        "layers": "num_layers",
        "head": "attention_head_dim",
        "heads": "num_attention_heads",
        "text": "joint_attention_dim",
        "axes": "axes_dims_rope",
    }
    fields = folder.config("transformer").fields
    # The published config still has a pooled width that its class no longer reads.
    known = {"pooled_projection_dim": fields.get("pooled_projection_dim"), "in_channels": 4 * fields["out_channels"]}
    model = denoiser(folder, "QwenImageTransformer2DModel", QwenImage, own, **known)
    level = Level(
        name=LEVEL,
        space=_qwen_space(folder),
        denoiser=model,
        schedule=law(folder),
        steps=STEPS,
        guidance=Guidance(scale=4.0, norm="patch", lengthen=True, only_with_negative=True),
    )
    why = ("QwenImagePipeline；有反向提示词时才引导", "a QwenImagePipeline; guided where there is a negative prompt")
    return recipe_with("qwen-image", why, words, level, Defaults(size=(1328, 1328), multiple=16, negative=" "))


def _qwen_space(folder: Folder) -> QwenLatent:
    from diffusers import AutoencoderKLQwenImage

    folder.demand("vae", "diffusers", ("AutoencoderKLQwenImage",))
    own = {
        "channels": "z_dim",
        "width": "base_dim",
        "multiples": "dim_mult",
        "layers_per_block": "num_res_blocks",
        "frames": "temperal_downsample",
        "mean": "latents_mean",
        "deviation": "latents_std",
    }
    read = folder.config("vae").of(defaults_of(AutoencoderKLQwenImage), own.values(), ("dropout",))
    return QwenLatent(**{name: read[field] for name, field in own.items()})


def _longcat_image(folder: Folder) -> Recipe:
    words = replace(
        tower(folder, ("Qwen2_5_VLForConditionalGeneration",), "qwen2_5_vl"),
        template=prompt_templates.LONGCAT_IMAGE,
        length=512,
        pad="full",
        characters=True,
    )
    own = {
        "layers": "num_layers",
        "singles": "num_single_layers",
        "head": "attention_head_dim",
        "heads": "num_attention_heads",
        "text": "joint_attention_dim",
        "axes": "axes_dims_rope",
    }
    # No vector enters this transformer, whatever its config says of one's width.
    known = {"pooled_projection_dim": folder.config("transformer").fields.get("pooled_projection_dim")}
    model = denoiser(folder, "LongCatImageTransformer2DModel", LongCatImage, own, **known)
    level = Level(
        name=LEVEL,
        space=flux_space(folder),
        denoiser=model,
        schedule=law(folder),
        steps=STEPS,
        guidance=Guidance(scale=4.5, norm="patch"),
    )
    why = ("LongCatImagePipeline；不改写提示词", "a LongCatImagePipeline; prompts are not rewritten")
    return recipe_with("longcat-image", why, words, level, Defaults(size=(1024, 1024), multiple=16))


def _cogview4(folder: Folder) -> Recipe:
    words = replace(
        tower(folder, ("GlmModel", "GlmForCausalLM"), "glm"),
        length=1024,
        state=-2,
        multiple=16,
    )
    own = {
        "channels": "in_channels",
        "layers": "num_layers",
        "head": "attention_head_dim",
        "heads": "num_attention_heads",
        "text": "text_embed_dim",
        "time": "time_embed_dim",
        "condition": "condition_dim",
        "positions": "pos_embed_max_size",
        "size": "sample_size",
        "axes": "rope_axes_dim",
    }
    known = {"out_channels": folder.config("transformer").fields.get("in_channels")}
    model = denoiser(folder, "CogView4Transformer2DModel", CogView4, own, **known)
    space: Any = flux_space(folder)
    level = Level(
        name=LEVEL,
        # Its pipeline leaves a shift of the latents alone.
        space=replace(space, shift=0.0),
        denoiser=replace(model, factor=2 ** (len(space.block_channels) - 1)),
        schedule=law(folder, dynamic="root", grid="whole"),
        steps=STEPS,
        guidance=Guidance(scale=5.0),
    )
    side = model.size * 2 ** (len(space.block_channels) - 1)
    why = ("CogView4Pipeline", "a CogView4Pipeline")
    return recipe_with("cogview4", why, words, level, Defaults(size=(side, side), multiple=16))
