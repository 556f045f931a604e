"""Reads PanGu-Draw v3 as published: two MindSpore checkpoints of whole models, one for each expert.

A folder has ``pangu_high_timestamp*.ckpt`` and ``pangu_low_timestamp*.ckpt`` as published, ``vocab.txt`` with the
Chinese text encoder's WordPieces (vocab_zh.txt in the authors' code), and CLIP's vocab.json and merges.txt in
``words.1``. As in the authors' sampling, the low-timestep file provides both text encoders, the autoencoder and its
UNet, the high-timestep file only its UNet; their other tensors are counted and ignored. The same pair is used with two
lists of sizes, which the weights do not determine: the requested recipe decides, else the folder's name if it is
pangu-draw-v3-high, else it is pangu-draw-v3.

The names of tensors are those of the modules in the authors' code. Unverified, as no published file was opened: that
the files use just these names, and the number of layers of the Chinese text encoder. Its vocabulary size is that of the
file. Tensors are copied from the files; for experts that stay in their file until they are needed, save the system
once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from bimo.core import module_weights
from bimo.core.errors import WeightsError
from bimo.core.hashing import late_table
from bimo.core.messages import Listed, Message, say
from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.models.layouts import mindspore
from bimo.models.layouts.diffusers_folder import load_tokenizer
from bimo.models.layouts.layout import Layout
from bimo.models.pangu.experts import Experts
from bimo.models.spaces import Latent
from bimo.models.stable_diffusion import ldm_names
from bimo.models.stable_diffusion.unet import CROSS_DOWN, Unet
from bimo.models.text_encoders.clip import ClipText, ClipTextEncoder

HIGH, LOW = "pangu_high_timestamp*.ckpt", "pangu_low_timestamp*.ckpt"
PAIRS = "words.1"
BASE_RECIPE, HIGH_RECIPE = "pangu-draw-v3", "pangu-draw-v3-high"
CHINESE, LARGER = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."
#: Buffers: position ids, causal masks, and tensors for training.
SPARE = re.compile(
    r"conditioner\.embedders\.0\..*\.position_ids|conditioner\.embedders\.1\.model\.(attn_mask|logit_scale)"
    r"|first_stage_model\.loss\..*"
)


def is_folder(path: Path) -> bool:
    """Whether a folder has a file of either expert."""
    return any(True for pattern in (HIGH, LOW) for _ in path.glob(pattern))


def bases(path: Path) -> tuple[str, ...]:
    """The recipes that a folder can be read as: weights do not determine the sizes, but the folder's name may."""
    return (HIGH_RECIPE, BASE_RECIPE) if path.resolve().name == HIGH_RECIPE else (BASE_RECIPE, HIGH_RECIPE)


def recipe_of(path: Path, wanted: Recipe) -> Recipe:
    """``wanted`` with the vocabulary size of the file's Chinese text encoder; ``note`` lists what is not loaded.

    Raises WeightsError for a file that is missing or damaged.
    """
    high, low = _files(path)
    shapes = mindspore.shapes(low)
    rows = shapes.get(f"{CHINESE}embeddings.token_embedding.weight", ())
    first = cast(ClipText, wanted.text_encoders[0])
    if len(rows) == 2:
        first = replace(first, vocab=rows[0])
    left = sum(not _of_low(name) for name in shapes) + sum(not _of_high(name) for name in mindspore.shapes(high))
    note = say(
        "; read as {name} (weights do not tell the list of sizes; a folder called {high_recipe} is read "
        "as that); {left} more entries of the two files are not loaded",
        name=wanted.name,
        high_recipe=HIGH_RECIPE,
        left=left,
    )
    return replace(wanted, text_encoders=(first, *wanted.text_encoders[1:]), note=wanted.note + note)


def read(path: Path, wanted: Recipe, dtype: torch.dtype | None = torch.float32) -> System:
    """The system in a folder; with ``dtype`` None tensors keep their stored dtype.

    Raises WeightsError for a missing or damaged file, or with a list of missing, unexpected and misshapen tensors.
    """
    recipe = recipe_of(path, wanted)
    high, low = _files(path)
    with module_weights.unfilled():
        system = System(recipe)
    state = dict(_ours(mindspore.read(low, dtype, _of_low), recipe, "low"))
    state |= dict(_ours(mindspore.read(high, dtype, _of_high), recipe, "high"))
    module_weights.assign(system, state, dtype, path)
    larger = cast(ClipTextEncoder, system.text_encoders[1])
    load_tokenizer(system.text_encoders[0], path)
    load_tokenizer(larger, path / PAIRS)
    # The authors' code pads both with id 0, for CLIP too, whose own files have another padding token.
    larger.pad = 0
    system.weights_hash = late_table(path, (high, low))
    return system.eval()


def _files(path: Path) -> tuple[Path, Path]:
    """The files for high and low timesteps. Raises WeightsError if one is missing or ambiguous."""
    by_pattern = [sorted(path.glob(pattern)) for pattern in (HIGH, LOW)]
    for pattern, files in zip((HIGH, LOW), by_pattern, strict=True):
        if len(files) != 1:
            names = Listed(file.name for file in files) or Message("none")
            raise WeightsError(
                "expected one {pattern} in {path} (PanGu has two experts, a file each), found: {listed}",
                pattern=pattern,
                path=path,
                listed=names,
            )
    return by_pattern[0][0], by_pattern[1][0]


def _of_low(name: str) -> bool:
    return name.startswith((ldm_names.UNET, ldm_names.VAE, CHINESE, LARGER)) and not SPARE.fullmatch(name)


def _of_high(name: str) -> bool:
    return name.startswith(ldm_names.UNET)


def _ours(state: Mapping[str, Tensor], recipe: Recipe, expert: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one file under our names; unknown ones are passed on and reported."""
    level = recipe.levels[0]
    unet_part, space = cast(Unet, getattr(cast(Experts, level.denoiser), expert)), cast(Latent, level.space)
    depths = unet_part.depth if isinstance(unet_part.depth, tuple) else (unet_part.depth,) * len(unet_part.down)
    blocks = tuple(cast(int, n) if kind == CROSS_DOWN else 0 for n, kind in zip(depths, unet_part.down, strict=True))
    unet = ldm_names.unet_names(ldm_names.Blocks(unet_part.layers_per_block, blocks))
    vae = ldm_names.vae_names(len(space.block_channels), space.layers_per_block)
    words: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.startswith(CHINESE):
            yield f"text.0.model.{re.sub('[.]embedding_table$', '.weight', name.removeprefix(CHINESE))}", value
        elif name.startswith(LARGER):
            words[name.removeprefix(LARGER)] = value
        elif name.startswith(ldm_names.UNET) and (own := ldm_names.renamed(name.removeprefix(ldm_names.UNET), unet)):
            yield f"{level.name}.denoiser.{expert}.model.{own}", value
        elif name.startswith(ldm_names.VAE) and (own := ldm_names.renamed(name.removeprefix(ldm_names.VAE), vae)):
            yield f"{level.name}.space.model.{own}", ldm_names.vae_tensor(name.removeprefix(ldm_names.VAE), value)
        else:
            yield name, value
    for name, value in ldm_names.open_clip_text(words):
        yield f"text.1.{name}", value


LAYOUT = Layout(is_folder, recipe_of, read, bases)
