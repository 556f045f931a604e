"""Hints that are views of the picture or of an earlier level's answer: the expected picture, the pose."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bimo.core.errors import RequestError
from bimo.core.part import Part
from bimo.core.types import Ask, Batch, Conditioning
from bimo.diffusion.system import Drawing, System

POSE = ("flip", "scale", "dx", "dy", "angle")
POSE_AT_REST = (0.0, 1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Earlier(Part):
    """What an earlier one-step level of the same x answers, joined to x on the channels.

    In training it is asked anew for every batch, zeros for the share ``drop`` and wherever the caption is dropped; in
    drawing it is that level's result, zeros in the null branch. ``noise`` is added in training, so that the level
    does not trust it to the last digit.
    """

    level: str
    drop: float = 0.1
    noise: float = 0.0

    def build(self) -> Earlier:
        """It has no weights: the part is the hint."""
        return self

    def learned(self, system: System, batch: Batch) -> Conditioning:
        """Spatial [B, C, h, w]."""
        hints = [hint.learned(system, batch) for hint in system.level(self.level).hints]
        conditioning = system.condition(batch.encodings, hints)
        rows = batch.x.shape[0]
        answer = system.denoise(Ask(self.level, torch.zeros_like(batch.x), torch.ones(rows), conditioning))
        if self.noise:
            answer = answer + self.noise * torch.randn(answer.shape, generator=batch.generator)
        gone = (torch.rand(rows, generator=batch.generator) < self.drop) | batch.dropped
        return Conditioning(spatial=answer.masked_fill(gone[:, None, None, None], 0.0))

    def drawn(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Spatial [1, C, h, w]."""
        return Conditioning(spatial=drawing.results[self.level])

    def null(self, value: Conditioning) -> Conditioning:
        """Zeros."""
        assert value.spatial is not None
        return replace(value, spatial=torch.zeros_like(value.spatial))


@dataclass(frozen=True, kw_only=True)
class Pose(Part):
    """How a thing stands: flip, scale, dx, dy (of the side), angle in degrees; declared by the data, so that the words
    need not account for it.

    In drawing it is the request's ``hints["pose"]``, else taken from the seed within the ranges here: this is what
    makes two seeds differ where the words leave nothing else open.
    """

    name: str = "pose"
    flip: float = 0.5
    scale: tuple[float, float] = (0.85, 1.02)
    shift: float = 0.04
    angle: float = 8.0

    def build(self) -> Pose:
        """It has no weights: the part is the hint."""
        return self

    def learned(self, system: System, batch: Batch) -> Conditioning:
        """Scalars [B, 5], as the data declares them."""
        return Conditioning(scalars={self.name: batch.scalars[self.name]})

    def drawn(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Scalars [1, 5]. Raises RequestError for a pose that is not five finite numbers."""
        given = drawing.request.hints.get(self.name)
        if given is None:
            return Conditioning(scalars={self.name: self._from_seed(drawing.generator.initial_seed())})
        if len(given) != len(POSE) or not all(math.isfinite(v) for v in given) or given[1] <= 0:
            raise RequestError(
                f"pose 应为 {len(POSE)} 个数（{', '.join(POSE)}，scale 大于 0），收到 {given}",
                f"a pose is {len(POSE)} numbers ({', '.join(POSE)}; scale above 0), got {given}",
            )
        return Conditioning(scalars={self.name: torch.tensor([given])})

    def null(self, value: Conditioning) -> Conditioning:
        """The same: guidance is for the words."""
        return value

    def _from_seed(self, seed: int) -> Tensor:
        # Each level that asks gets the same pose of the same picture: a generator of its own, seeded alike.
        source = torch.Generator().manual_seed(seed)
        draws = torch.rand(len(POSE), generator=source)
        low, high = self.scale
        flip = (draws[0] < self.flip).float()
        spread = (draws[2:] * 2 - 1) * torch.tensor([self.shift, self.shift, self.angle])
        return torch.cat([flip[None], (low + (high - low) * draws[1])[None], spread])[None]
