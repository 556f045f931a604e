"""How well words fit pictures by a system with a text and a picture tower, such as Taiyi-CLIP; the best of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from bimo.core.errors import RecipeError
from bimo.core.types import Picture
from bimo.diffusion.system import System

if TYPE_CHECKING:
    from PIL import Image

BATCH = 32
#: Texts and pictures -> [texts, pictures], higher where they fit better.
Similarity = Callable[[Sequence[str], "Sequence[Image.Image]"], Tensor]


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


def ranked(pictures: Sequence[Picture], similarity: Similarity) -> list[tuple[Picture, float]]:
    """Pictures of one request with their scores, the best first; those that score alike stay in their order.

    VisCPM-Paint draws four and keeps the first. The words are those of the request, as the user wrote them.
    """
    if not pictures:
        return []
    scores: list[float] = similarity([pictures[0].request.text], [picture.image for picture in pictures])[0].tolist()
    return sorted(zip(pictures, scores, strict=True), key=lambda pair: -pair[1])


def _demand(system: System) -> Any:
    if system.vision is None:
        raise RecipeError(
            f"{system.recipe.name} 没有看图的塔，不能打分；请用 taiyi-clip 一类的模型",
            f"{system.recipe.name} has no tower that sees pictures; score with a system such as taiyi-clip",
        )
    return cast(Any, system.vision)
