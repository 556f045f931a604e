"""Layouts of scorers, as saved by transformers and OpenCLIP: CLIP (arXiv:2103.00020), Chinese-CLIP (arXiv:2211.01335),
AltCLIP (arXiv:2211.06679), and OpenCLIP's vision transformers.

A folder has config.json, weights and vocabulary, or open_clip_config.json, OpenCLIP's single file and vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from bimo.core import checkpoint_io, module_weights
from bimo.core.errors import RecipeError, WeightsError
from bimo.core.hashing import late_table
from bimo.core.messages import Listed
from bimo.core.part import Part
from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.models.clip.vision import ClipVision
from bimo.models.layouts.configs import FORMER_TEXT, NO_EFFECT_TEXT, TEXT_ENCODER_SIZES, Config, plain, read_json
from bimo.models.layouts.layout import Layout
from bimo.models.layouts.text_encoders import CHINESE_CLIP_LENGTH
from bimo.models.layouts.weight_files import files_of
from bimo.models.spaces import CLIP_DEVIATION, CLIP_MEAN
from bimo.models.stable_diffusion import ldm_names
from bimo.models.text_encoders.bert import Bert
from bimo.models.text_encoders.clip import ClipText
from bimo.models.text_encoders.xlm import UNUSED_POSITIONS, XlmText

CONFIG, OPEN_CONFIG = "config.json", "open_clip_config.json"
#: The model_type of a config.json -> name and languages of the recipe.
KINDS = {
    "clip": ("clip", ("en",)),
    "chinese_clip": ("chinese-clip", ("zh",)),
    "altclip": ("alt-clip", ("zh", "en")),
}
#: The length limit of AltCLIP's texts, that of CLIP.
ALT_LENGTH = 77
VISION_SIZES = {
    "size": "image_size",
    "patch": "patch_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "feed": "intermediate_size",
    "activation": "hidden_act",
}
NO_EFFECT_VISION = {*NO_EFFECT_TEXT, "dropout", "attention_dropout", "num_channels"}
OPEN_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
#: OpenCLIP's names of an image encoder -> transformers' below vision_model.
OPEN_VISION = {
    "conv1": "embeddings.patch_embedding",
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
}
#: The sizes of OpenCLIP's encoders, and further settings with the only supported value.
OPEN_PICTURES = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32, "head_width": 64, "mlp_ratio": 4.0}
OPEN_WORDS = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}
OPEN_FIXED = {
    "pool_type": ("tok", "argmax"),
    "patch_dropout": (0.0,),
    "proj_type": ("linear",),
    "text_pool": ("argmax",),
}


def is_folder(folder: Path) -> bool:
    """Whether a folder holds such a system, by its config."""
    if (folder / OPEN_CONFIG).is_file():
        return True
    return (folder / CONFIG).is_file() and read_json(folder / CONFIG).get("model_type") in KINDS


def recipe_of(folder: Path) -> Recipe:
    """The recipe of a folder, from its configs. Raises RecipeError for unsupported ones."""
    if (folder / OPEN_CONFIG).is_file():
        return _open_clip(folder)
    path = folder / CONFIG
    fields = read_json(path)
    kind = str(fields.get("model_type"))
    project = int(fields.get("projection_dim", 768 if kind == "altclip" else 512))
    text = Config(path, _given(fields.get("text_config")))
    name, languages = KINDS[kind]
    encoders = {"clip": _clip_text, "chinese_clip": _chinese_text, "altclip": _alt_text}
    vision = _vision(folder, kind, Config(path, _given(fields.get("vision_config"))), project)
    return Recipe(name=name, languages=languages, text_encoders=(encoders[kind](folder, text, project),), vision=vision)


def read(folder: Path, dtype: torch.dtype | None = torch.float32) -> System:
    """The system in a folder. Raises RecipeError as ``recipe_of``, WeightsError that lists all tensors that are
    missing, unexpected or misshapen.
    """
    recipe = recipe_of(folder)
    opened = (folder / OPEN_CONFIG).is_file()
    files = [_open_file(folder)] if opened else files_of(folder)
    state = {name: value for file in files for name, value in checkpoint_io.read(file, dtype).items()}
    named = _of_open_clip(state, recipe) if opened else _of_transformers(state, recipe)
    with module_weights.unfilled():
        system = System(recipe)
    module_weights.assign(system, named, dtype, files[0])
    system.files = tuple(files)
    system.weights_hash = late_table(folder, set(files))
    cast(Any, system.text_encoders[0]).load_tokenizer(folder)
    return system.eval()


def _given(config: Any) -> dict[str, Any]:
    """A nested config without null fields, which mean the default, and without fields of no class."""
    table = cast("dict[str, Any]", config) if isinstance(config, dict) else {}
    return {name: value for name, value in table.items() if value is not None}


def _sizes(config: Config, cls: Any, own: Mapping[str, str], no_effect: set[str]) -> dict[str, Any]:
    """The fields of an encoder. Older configs contain those of every class: unknown ones have no effect."""
    defaults = {**FORMER_TEXT, **{name: plain(value) for name, value in cls().to_dict().items()}}
    known = {name: value for name, value in config.fields.items() if name in defaults or name in own.values()}
    read = Config(config.path, known).of(defaults, own.values(), no_effect)
    return {name: read[field] for name, field in own.items()}


def _clip_text(folder: Path, config: Config, project: int) -> Part:
    from transformers import CLIPTextConfig

    own = {**TEXT_ENCODER_SIZES, "activation": "hidden_act", "eps": "layer_norm_eps"}
    made = ClipText(**_sizes(config, CLIPTextConfig, own, NO_EFFECT_TEXT | {"attention_dropout"}), project=project)
    pieces = (folder / "vocab.txt").is_file() and not (folder / "merges.txt").is_file()
    ends = config.fields.get("eos_token_id", CLIPTextConfig().eos_token_id)
    return _with(
        made, length=made.positions, words="pieces" if pieces else "pairs", pool="largest" if ends == 2 else "end"
    )


def _chinese_text(folder: Path, config: Config, project: int) -> Part:
    from transformers import ChineseCLIPTextConfig

    own = {**TEXT_ENCODER_SIZES, "types": "type_vocab_size"}
    no_effect = NO_EFFECT_TEXT | {"hidden_dropout_prob", "attention_probs_dropout_prob"}
    made = Bert(**_sizes(config, ChineseCLIPTextConfig, own, no_effect), project=project, pooler=False, pool="start")
    return _with(made, length=min(CHINESE_CLIP_LENGTH, made.positions), masked=True)


def _alt_text(folder: Path, config: Config, project: int) -> Part:
    from transformers import AltCLIPTextConfig

    own = {**TEXT_ENCODER_SIZES, "types": "type_vocab_size", "eps": "layer_norm_eps", "project": "project_dim"}
    no_effect = NO_EFFECT_TEXT | {"hidden_dropout_prob", "attention_probs_dropout_prob", "pooler_fn", "learn_encoder"}
    made = XlmText(**_sizes(config, AltCLIPTextConfig, own, no_effect), embed=project, norm=True)
    return _with(made, length=min(ALT_LENGTH, made.positions - UNUSED_POSITIONS))


def _with(part: Any, **fields: Any) -> Part:
    import dataclasses

    return dataclasses.replace(part, **fields)


def _vision(folder: Path, kind: str, config: Config, project: int) -> ClipVision:
    import transformers

    classes = {"clip": "CLIPVisionConfig", "chinese_clip": "ChineseCLIPVisionConfig", "altclip": "AltCLIPVisionConfig"}
    sizes = _sizes(config, getattr(transformers, classes[kind]), VISION_SIZES, NO_EFFECT_VISION)
    return ClipVision(**sizes, project=project, fit=_fit(folder, int(sizes["size"])))


def _fit(folder: Path, size: int) -> Any:
    """The folder's preprocessing to a square; CLIP's if there is none. Raises RecipeError for an unsupported one."""
    preprocessing: dict[str, Any] = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            read = read_json(folder / name)
            preprocessing = _given(read.get("image_processor")) or read
            break
    near = {"image_mean": CLIP_MEAN, "image_std": CLIP_DEVIATION, "resample": 3}
    for field, expected in near.items():
        value = plain(preprocessing.get(field, expected))
        if value != expected and not _close(value, expected):
            raise RecipeError(
                "{field} of {folder} is {found}; only CLIP's {expected} is supported",
                field=field,
                folder=folder,
                found=value,
                expected=expected,
            )
    wanted = preprocessing.get("size", size)
    if isinstance(wanted, dict) and {"height", "width"} <= set(cast("dict[str, Any]", wanted)):
        return "squeezed"
    return "cut"


def _close(found: Any, expected: Any) -> bool:
    """Whether numbers are equal up to the rounding of configs."""
    if not isinstance(found, tuple) or not isinstance(expected, tuple):
        return False
    numbers, wanted = cast("tuple[float, ...]", found), cast("tuple[float, ...]", expected)
    return len(numbers) == len(wanted) and all(abs(a - b) < 1e-3 for a, b in zip(numbers, wanted, strict=True))


def _of_transformers(state: Mapping[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    text = recipe.text_encoders[0]
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith("position_ids") or name.startswith("text_model.pooler."):
            continue  # older files have it, and an untrained pooler
        if name == "logit_scale":
            renamed["vision.logit_scale"] = value
        elif name == "text_projection.weight" and isinstance(text, Bert):
            renamed |= {"text.0.head.weight": value, "text.0.head.bias": torch.zeros(len(value), dtype=value.dtype)}
        elif name == "text_projection.weight":
            renamed["text.0.projection.weight"] = value
        elif name.startswith("text_model."):
            renamed[f"text.0.model.{name.removeprefix('text_model.')}"] = value
        else:
            # AltCLIP's blocks were published as layers, and are saved as layer by recent transformers.
            renamed[f"vision.model.{name.replace('.encoder.layer.', '.encoder.layers.')}"] = value
    return renamed


def _open_clip(folder: Path) -> Recipe:
    path = folder / OPEN_CONFIG
    model = _given(read_json(path).get("model_cfg"))
    text, vision = _given(model.get("text_cfg")), _given(model.get("vision_cfg"))
    project = int(model.get("embed_dim", 512))
    activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    seen, read = _open_sizes(path, vision, OPEN_PICTURES), _open_sizes(path, text, OPEN_WORDS)
    picture = ClipVision(
        size=seen["image_size"],
        patch=seen["patch_size"],
        width=seen["width"],
        layers=seen["layers"],
        heads=seen["width"] // seen["head_width"],
        feed=int(seen["width"] * seen["mlp_ratio"]),
        project=project,
        activation=activation,
        fit=_fit(folder, seen["image_size"]),
    )
    words = ClipText(
        width=read["width"],
        layers=read["layers"],
        heads=read["heads"],
        feed=int(read["width"] * read["mlp_ratio"]),
        vocab=read["vocab_size"],
        positions=read["context_length"],
        length=read["context_length"],
        activation=activation,
        project=project,
    )
    return Recipe(name="open-clip", languages=("en",), text_encoders=(words,), vision=picture)


def _open_sizes(path: Path, table: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of an encoder. Raises RecipeError for a field of another type: a ResNet's layers are a list."""
    for name, value in table.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is False or (name in sizes and number) or value in OPEN_FIXED.get(name, ()):
            continue
        raise RecipeError(
            "{name} of {path} is {value!r}, which is not supported: only transformers of CLIP's own kind are",
            name=name,
            path=path,
            value=value,
        )
    return {name: table.get(name, usual) for name, usual in sizes.items()}


def _open_file(folder: Path) -> Path:
    path = next((folder / name for name in OPEN_FILES if (folder / name).is_file()), None)
    if path is None:
        raise WeightsError(
            "no weights in {folder}: expected {open_files}", folder=folder, open_files=Listed(OPEN_FILES, "or")
        )
    return path


def _of_open_clip(state: Mapping[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    text, vision = cast(ClipText, recipe.text_encoders[0]), cast(ClipVision, recipe.vision)
    visual = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
    words = {name: value for name, value in state.items() if not name.startswith("visual.")}
    own = {"vision.logit_scale": words["logit_scale"].reshape(())} if "logit_scale" in words else {}
    for name, value in ldm_names.open_clip_to_own(words, text.layers, True).items():
        own["text.0.projection.weight" if name == "text_projection.weight" else f"text.0.model.{name}"] = value
    blocks = {name: value for name, value in visual.items() if re.match(r"transformer\.resblocks\.\d+\.", name)}
    for name, value in ldm_names.open_clip_to_own(blocks, vision.layers, True).items():
        own[f"vision.model.vision_model.{name}"] = value
    for name, value in visual.items():
        if name == "proj":
            own["vision.model.visual_projection.weight"] = value.T.contiguous()
        elif name not in blocks:
            own[f"vision.model.vision_model.{ldm_names.renamed(name, OPEN_VISION) or name}"] = value
    return own


LAYOUT = Layout(is_folder, recipe_of, read)
