"""Contrastive training of a text encoder against a locked image encoder, as for Taiyi-CLIP."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bimo.core.errors import RecipeError
from bimo.diffusion.system import System
from bimo.training.objectives.objective import Objective
from bimo.training.train_inputs import TrainInputs, Vocabulary

MAXIMUM_LOGIT_SCALE = math.log(100)
TRIES = 10


@dataclass(frozen=True, kw_only=True)
class ClipContrastive(Objective):
    """The contrastive loss of CLIP (arXiv:2103.00020, figure 3) between a text encoder's pooled output and the
    embeddings of the system's image encoder, which is locked (arXiv:2111.07991) unless the stage names it.

    The temperature is clamped to at least 1/100. Pictures are randomly cropped: ``area`` (from, to) of each, with the
    aspect ratio changed by at most ``shape``.
    """

    area: tuple[float, float] = (0.9, 1.0)
    shape: float = 4 / 3
    sees: str = "pixels"

    def extra(self, system: System, vocabulary: Vocabulary) -> nn.Module | None:
        """None. Raises RecipeError for a system without an image encoder."""
        if system.vision is None:
            raise RecipeError("recipe {name} has no vision to match words with", name=system.recipe.name)
        return None

    def loss(self, inputs: TrainInputs) -> Tensor:
        """The mean over both directions."""
        vision: Any = inputs.system.vision
        with torch.no_grad():
            vision.logit_scale.clamp_(0, MAXIMUM_LOGIT_SCALE)
        pooled = inputs.system.encode(inputs.own(inputs.texts))[-1].pooled
        words = functional.normalize(cast(Tensor, pooled), dim=1)
        pixels = cast(Tensor, inputs.pixels)
        height, width = pixels.shape[2:]
        places = [self._part(height, width, inputs.generator) for _ in range(inputs.total_rows)]
        crops = self._parts(pixels, inputs.own(places), vision.part.size)
        pictures = functional.normalize(vision(crops), dim=1)
        scale, right = vision.logit_scale.exp(), inputs.own(torch.arange(inputs.total_rows))
        to_pictures = functional.cross_entropy(scale * words @ inputs.gather(pictures).T, right)
        to_words = functional.cross_entropy(scale * pictures @ inputs.gather(words).T, right)
        return (to_pictures + to_words) / 2

    def _parts(self, pixels: Tensor, places: Sequence[tuple[int, int, int, int]], side: int) -> Tensor:
        rows: list[Tensor] = []
        for row, (top, left, height, width) in zip(pixels, places, strict=True):
            part = row[None, :, top : top + height, left : left + width]
            part = functional.interpolate(part, (side, side), mode="bicubic", antialias=True, align_corners=False)
            rows.append(part.clamp(-1, 1))
        return torch.cat(rows)

    def _part(self, height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
        for _ in range(TRIES):
            draws = [float(draw) for draw in torch.rand(4, generator=generator, device=generator.device)]
            area = (self.area[0] + (self.area[1] - self.area[0]) * draws[0]) * height * width
            shape = math.exp((2 * draws[1] - 1) * math.log(self.shape))
            wide, high = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < wide <= width and 0 < high <= height:
                return int(draws[2] * (height - high + 1)), int(draws[3] * (width - wide + 1)), high, wide
        side = min(height, width)
        return (height - side) // 2, (width - side) // 2, side, side
