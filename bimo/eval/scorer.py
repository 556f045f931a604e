"""How well words fit pictures by a system with a text and a picture tower, such as Taiyi-CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from bimo.core.errors import RecipeError
from bimo.diffusion.system import System

if TYPE_CHECKING:
    from PIL import Image

BATCH = 32


def similarity(system: System, texts: Sequence[str], pictures: Sequence[Image.Image]) -> Tensor:
    """The cosine of every text with every picture, [texts, pictures].

    What is high differs from scorer to scorer: compare scores of one system, never of two. Raises RecipeError for a
    system without a picture tower or without pooled words.
    """
    words, seen = word_vectors(system, texts), picture_vectors(system, pictures)
    return words @ seen.T


def word_vectors(system: System, texts: Sequence[str]) -> Tensor:
    """[B, D], each of length 1. Raises RecipeError as ``similarity``."""
    _demand(system)
    rows: list[Tensor] = []
    with torch.inference_mode():
        for first in range(0, len(texts), BATCH):
            pooled = system.encode(texts[first : first + BATCH])[-1].pooled
            if pooled is None:
                raise RecipeError(
                    f"{system.recipe.name} 的文本塔没有 pooled 输出，不能打分",
                    f"the text tower of {system.recipe.name} pools nothing; it cannot score",
                )
            rows.append(functional.normalize(pooled, dim=1))
    return torch.cat(rows)


def picture_vectors(system: System, pictures: Sequence[Image.Image]) -> Tensor:
    """[B, D], each of length 1. Raises RecipeError as ``similarity``."""
    vision = _demand(system)
    rows: list[Tensor] = []
    with torch.inference_mode():
        for first in range(0, len(pictures), BATCH):
            rows.append(functional.normalize(vision(vision.seen(pictures[first : first + BATCH])), dim=1))
    return torch.cat(rows)


def _demand(system: System) -> Any:
    if system.vision is None:
        raise RecipeError(
            f"{system.recipe.name} 没有看图的塔，不能打分；请用 taiyi-clip 一类的模型",
            f"{system.recipe.name} has no tower that sees pictures; score with a system such as taiyi-clip",
        )
    return cast(Any, system.vision)
