"""The conditioners of 小墨's second level besides text: the first level's estimate and the pose."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from bimo.core.errors import RequestError
from bimo.core.tensors import Batch, Conditioning, DenoiserInput
from bimo.diffusion.conditioner import CONDITIONER_SEED, Conditioner, Drawing
from bimo.diffusion.system import System

POSE = ("flip", "scale", "dx", "dy", "angle")
POSE_AT_REST = (0.0, 1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Earlier(Conditioner):
    """The output of an earlier single-step level with the same x, concatenated to x.

    In training it is computed for every batch, with zeros for the share ``drop`` and for dropped captions; in drawing
    it is that level's result, with zeros in the unconditional branch. ``noise`` is added in training, so that the level
    does not rely on small errors.
    """

    level: str
    drop: float = 0.1
    noise: float = 0.0
    pixels: ClassVar = False

    @property
    def earlier_level(self) -> str:
        """``level``."""
        return self.level

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Spatial [B, C, h, w]."""
        conditioning = system.condition(batch.encodings, system.level(self.level).conditions_of(system, batch))
        rows = batch.x.shape[0]
        estimate = system.denoise(DenoiserInput(self.level, torch.zeros_like(batch.x), torch.ones(rows), conditioning))
        if self.noise:
            estimate = estimate + self.noise * batch.normal(*estimate.shape[1:])
        dropped = batch.own(torch.rand(batch.total_rows, generator=batch.generator)) < self.drop
        dropped = dropped | batch.dropped_captions
        return Conditioning(spatial=estimate.masked_fill(dropped[:, None, None, None], 0.0))

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Spatial [1, C, h, w]."""
        return Conditioning(spatial=drawing.results[self.level])

    def unconditional(self, value: Conditioning) -> Conditioning:
        """Zeros."""
        assert value.spatial is not None
        return replace(value, spatial=torch.zeros_like(value.spatial))


@dataclass(frozen=True, kw_only=True)
class Pose(Conditioner):
    """The pose of an object: flip, scale, dx, dy (of the side), angle in degrees; a label of the data, so that the text
    need not determine it.

    In training a picture without the label has the rest pose. In drawing it is the request's ``conditions["pose"]``,
    else derived from the seed within the ranges here: this makes two seeds differ even if the text determines
    everything else. With ``scenes_at_rest`` a prompt of a scene, verse or dish has the rest pose, as data of those has
    boxes and no pose; there the layout differs from seed to seed.
    """

    name: str = "pose"
    scenes_at_rest: bool = False
    flip: float = 0.5
    scale: tuple[float, float] = (0.85, 1.02)
    shift: float = 0.04
    angle: float = 8.0
    reads: ClassVar = ()
    always: ClassVar = True
    pixels: ClassVar = False

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Scalars [B, 5] by the labels; the rest pose without one (no value, or NaN)."""
        rest = torch.tensor([POSE_AT_REST] * batch.x.shape[0])
        if self.name not in batch.scalars:
            return Conditioning(scalars={self.name: rest})
        declared = batch.scalars[self.name]
        return Conditioning(scalars={self.name: torch.where(declared.isnan(), rest.to(declared), declared)})

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Scalars [1, 5]. Raises RequestError for a pose other than five finite numbers."""
        requested = drawing.request.conditions.get(self.name)
        if requested is None:
            at_rest = self.scenes_at_rest and (bool(drawing.request.draft) or self._is_scene(drawing.request.read_text))
            return Conditioning(scalars={self.name: torch.tensor([POSE_AT_REST]) if at_rest else self._seeded(drawing)})
        if len(requested) != len(POSE) or not all(math.isfinite(v) for v in requested) or requested[1] <= 0:
            raise RequestError(
                "a pose is {count} numbers ({pose}; scale above 0), got {given}",
                count=len(POSE),
                pose=", ".join(POSE),
                given=requested,
            )
        return Conditioning(scalars={self.name: torch.tensor([requested])})

    @staticmethod
    def _is_scene(text: str) -> bool:
        # What draws scenes takes a tenth of a second to import, which a model without them need not spend.
        from bimo.xiaomo.captions.asked import is_scene

        return is_scene(text)

    def _seeded(self, drawing: Drawing) -> Tensor:
        """The pose of a drawing's seed; with a subseed an interpolated pose, flipped as the nearer one."""
        own = self.of_seed(drawing.generator.initial_seed())
        if drawing.variation is None:
            return own
        share = drawing.request.subseed_strength or 0.0
        other = self.of_seed(drawing.variation.initial_seed() ^ CONDITIONER_SEED)
        between = torch.lerp(own, other, share)
        between[:, 0] = (own if share <= 0.5 else other)[:, 0]
        return between

    def of_seed(self, seed: int) -> Tensor:
        """A pose within the ranges, [1, 5], determined by the seed."""
        # A generator of its own, so that every level gets the same pose of a picture.
        source = torch.Generator().manual_seed(seed)
        draws = torch.rand(len(POSE), generator=source)
        low, high = self.scale
        flip = (draws[0] < self.flip).float()
        spread = (draws[2:] * 2 - 1) * torch.tensor([self.shift, self.shift, self.angle])
        return torch.cat([flip[None], (low + (high - low) * draws[1])[None], spread])[None]
