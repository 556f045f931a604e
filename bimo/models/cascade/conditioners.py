"""Conditioners of cascades: the upsampled picture of an earlier level, an image embedding, a score."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from bimo.core.errors import RequestError, TrainingError
from bimo.core.tensors import Batch, Conditioning
from bimo.diffusion.conditioner import Conditioner, Drawing
from bimo.diffusion.system import System


@dataclass(frozen=True, kw_only=True)
class LowRes(Conditioner):
    """The picture of an earlier level, concatenated to x: resized to x bilinearly, or unresized ("none"). ``clamp``
    limits drawn pictures to [-1, 1].

    In training it is the picture itself, downsampled to the earlier level. With ``noise`` it is noised by the earlier
    level's schedule, up to that fraction of its timesteps, and the timestep is passed (the conditioning augmentation of
    arXiv:2106.15282, section 3.3) as scalar ``noise_name``; in drawing it is 0. Without ``noise_name`` no timestep is
    passed.
    """

    level: str
    name: str = "low_res"
    resize: Literal["bilinear", "none"] = "bilinear"
    clamp: bool = True
    noise: float = 0.0
    noise_name: str = ""
    reads: ClassVar = ()
    always: ClassVar = True

    @property
    def earlier_level(self) -> str:
        """``level``."""
        return self.level

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Spatial [B, 3, h, w], scalars [B, 1]. Raises TrainingError if the batch has no pixels."""
        space: Any = system.space(self.level)
        small = functional.avg_pool2d(pixels_of(batch), space.shrink)
        t = torch.zeros(len(small))
        if self.noise:
            schedule = system.level(self.level).schedule
            t = batch.own((schedule.timesteps(batch.total_rows, batch.generator) * self.noise).floor())
            small = schedule.add_noise(small, batch.normal(*small.shape[1:]), t)
        return self._conditioning(small, t, batch.x.shape)

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Spatial [1, 3, h, w], scalars [1, 1]."""
        small = system.space(self.level).decode(drawing.results[self.level])
        small = small.clamp(-1, 1) if self.clamp else small
        return self._conditioning(small, torch.zeros(len(small)), shape)

    def _conditioning(self, small: Tensor, t: Tensor, shape: tuple[int, ...]) -> Conditioning:
        if self.resize == "bilinear":
            small = functional.interpolate(small, tuple(shape[-2:]), mode="bilinear", align_corners=False)
        return Conditioning(spatial=small, scalars={self.noise_name: t[:, None]} if self.noise_name else {})


@dataclass(frozen=True, kw_only=True)
class Semantics(Conditioner):
    """An image embedding as scalars: in training the picture's own, in drawing the result of the level in that space;
    zeros in the unconditional branch. In drawing the request's picture of this ``name`` replaces that level's result:
    variations of a picture.
    """

    level: str
    name: str = "semantics"

    @property
    def earlier_level(self) -> str:
        """``level``."""
        return self.level

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Scalars [B, D]. Raises TrainingError if the batch has no pixels."""
        with torch.no_grad():
            return Conditioning(scalars={self.name: system.space(self.level).encode(pixels_of(batch))})

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Scalars [1, D]."""
        picture = drawing.pictures.get(self.name)
        if picture is not None:
            return Conditioning(scalars={self.name: system.space(self.level).encode(picture)})
        return Conditioning(scalars={self.name: drawing.results[self.level]})

    def unconditional(self, value: Conditioning) -> Conditioning:
        """Zeros."""
        return nothing(value)


@dataclass(frozen=True, kw_only=True)
class Score(Conditioner):
    """A quality score as one scalar: in training the data's, in drawing the request's, else ``wanted``. The
    unconditional branch gets ``low``, so that guidance also leads towards good pictures.
    """

    name: str = "score"
    wanted: float = 1.0
    low: float = 0.0
    reads: ClassVar = ()
    pixels: ClassVar = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The data's labels that it reads."""
        return (self.name,)

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Scalars [B, 1]. Raises TrainingError if the data has no scores; dropped captions get ``low``, as in the
        unconditional branch.
        """
        if self.name not in batch.scalars:
            raise TrainingError(
                "the training data has no {name!r}; score every picture first, into the labels of its shard",
                name=self.name,
            )
        value = batch.scalars[self.name].reshape(-1, 1).float()
        return Conditioning(scalars={self.name: value.masked_fill(batch.dropped_captions[:, None], self.low)})

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Scalars [1, 1]. Raises RequestError for anything but one finite number."""
        score = drawing.request.conditions.get(self.name, [self.wanted])
        if len(score) != 1 or not math.isfinite(score[0]):
            raise RequestError("{name} is one number, got {given}", name=self.name, given=score)
        return Conditioning(scalars={self.name: torch.tensor([score])})

    def unconditional(self, value: Conditioning) -> Conditioning:
        """``low``."""
        return replace(value, scalars={self.name: torch.full_like(value.scalars[self.name], self.low)})


def nothing(value: Conditioning) -> Conditioning:
    """The same maps and scalars as zeros."""
    spatial = None if value.spatial is None else torch.zeros_like(value.spatial)
    return Conditioning(spatial=spatial, scalars={n: torch.zeros_like(v) for n, v in value.scalars.items()})


def pixels_of(batch: Batch) -> Tensor:
    """The pictures of a batch, [B, 3, H, W]. Raises TrainingError if it has none."""
    if batch.pixels is None:
        raise TrainingError("a condition of this level reads pixels; this batch has latents alone")
    return batch.pixels
