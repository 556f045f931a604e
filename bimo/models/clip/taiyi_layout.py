"""Taiyi-CLIP as published (arXiv:2209.02970): the folder of a text encoder next to that of CLIP's image encoder.

``text_encoder`` is a BertForSequenceClassification, whose classifier is the projection, or a BertModel, whose
projection, if any, is the ``text_projection`` of ``vision_encoder``, a CLIPModel: the layout of the authors' trainer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from bimo.core import checkpoint_io, module_weights
from bimo.core.errors import RecipeError
from bimo.core.hashing import LateDigest
from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.models.clip.vision import ClipVision
from bimo.models.layouts.configs import read_json
from bimo.models.layouts.layout import Layout
from bimo.models.layouts.weight_files import files_of
from bimo.models.text_encoders.bert import Bert

WORDS, PICTURES = "text_encoder", "vision_encoder"
#: Tokens that a text is padded to, as in training.
LENGTH = 77
#: Fields that a recipe does not have, and their only supported value.
FIXED = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "position_embedding_type": "absolute"}


def is_pair(folder: Path) -> bool:
    """Whether a folder has both encoders."""
    return all((folder / name / "config.json").is_file() for name in (WORDS, PICTURES))


def recipe_of(folder: Path) -> Recipe:
    """The recipe of both encoders in a folder, by their configs and the shapes of their tensors alone."""
    shapes = [_merged(checkpoint_io.shapes, files_of(folder / name)) for name in (WORDS, PICTURES)]
    head = shapes[0].get("classifier.weight") or shapes[1].get("text_projection.weight") or (0,)
    return _recipe(folder / WORDS, folder / PICTURES, head[0])


def read(folder: Path, dtype: torch.dtype | None = torch.float32) -> System:
    """The system of both encoders in a folder. Raises as ``read_apart``."""
    return _read(folder / WORDS, folder / PICTURES, True, dtype)


def read_apart(words: Path, pictures: Path, dtype: torch.dtype | None = torch.float32) -> System:
    """The system of encoders from two repositories: an image encoder of another publisher contains a text encoder,
    whose projection is not used. Raises RecipeError for another kind of encoder, WeightsError that lists all tensors
    that are missing, unexpected or misshapen.
    """
    return _read(words, pictures, False, dtype)


def _read(of_words: Path, of_pictures: Path, together: bool, dtype: torch.dtype | None) -> System:
    files = [files_of(folder) for folder in (of_words, of_pictures)]
    words, pictures = (_merged(checkpoint_io.read, part) for part in files)
    table = {"vision.logit_scale": pictures.pop("logit_scale")} if "logit_scale" in pictures else {}
    for name, value in pictures.items():
        if name == "text_projection.weight" and "classifier.weight" not in words and together:
            table |= {"text.0.head.weight": value, "text.0.head.bias": torch.zeros(len(value))}
        elif not name.startswith(("text_model.", "text_projection.")) and not name.endswith("position_ids"):
            table[f"vision.model.{name}"] = value
    for name, value in words.items():
        if name.startswith("classifier."):
            table[f"text.0.head.{name.removeprefix('classifier.')}"] = value
        elif not name.endswith("position_ids"):
            table[f"text.0.model.{name.removeprefix('bert.')}"] = value
    head = table.get("text.0.head.weight")
    with module_weights.unfilled():
        system = System(_recipe(of_words, of_pictures, 0 if head is None else head.shape[0]))
    module_weights.assign(system, table, dtype, of_words)
    system.files = tuple(file for part in files for file in part)
    late = [LateDigest(file) for file in system.files]
    # Independent of paths: the hash of both hashes, text encoder first.
    system.weights_hash = lambda: hashlib.sha256("".join(one() for one in late).encode()).hexdigest()
    system.text_encoders[0].load_tokenizer(of_words)
    return system.eval()


def _merged(content: Callable[[Path], Mapping[str, Any]], files: Iterable[Path]) -> dict[str, Any]:
    """Merges the tensors of several files."""
    return {name: value for file in files for name, value in content(file).items()}


def _recipe(of_words: Path, of_pictures: Path, project: int) -> Recipe:
    encoder, vision = _words(of_words, project), _pictures(of_pictures)
    return Recipe(name="taiyi-clip", languages=("zh",), text_encoders=(encoder,), vision=vision)


def _words(folder: Path, project: int) -> Bert:
    config = read_json(folder / "config.json")
    for name, value in FIXED.items():
        if config.get(name, value) != value:
            raise RecipeError(
                "{name} of {folder} is {config!r}; only {value!r} is supported",
                name=name,
                folder=folder,
                config=config[name],
                value=value,
            )
    return Bert(
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        feed=config["intermediate_size"],
        vocab=config["vocab_size"],
        positions=config["max_position_embeddings"],
        types=config.get("type_vocab_size", 2),
        length=min(LENGTH, config["max_position_embeddings"]),
        pool="first",
        project=project,
    )


def _pictures(folder: Path) -> ClipVision:
    config = read_json(folder / "config.json")
    inner = config.get("vision_config", config)
    # A missing field has the default of CLIP's base encoder.
    return ClipVision(
        size=inner.get("image_size", 224),
        patch=inner.get("patch_size", 32),
        width=inner.get("hidden_size", 768),
        layers=inner.get("num_hidden_layers", 12),
        heads=inner.get("num_attention_heads", 12),
        feed=inner.get("intermediate_size", 3072),
        project=config.get("projection_dim", 512),
        activation=inner.get("hidden_act", "quick_gelu"),
    )


LAYOUT = Layout(is_pair, recipe_of, read)
