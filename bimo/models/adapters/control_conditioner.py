"""The conditioner of ControlNets: an image of edges, depth, a pose ... to be followed (arXiv:2302.05543)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bimo.core.errors import RequestError
from bimo.core.request import Request
from bimo.core.tensors import Batch, Conditioning
from bimo.diffusion.conditioner import Conditioner, Drawing
from bimo.diffusion.system import System
from bimo.models.composer.conditioners import outlines

STRONGEST = 10.0


@dataclass(frozen=True, kw_only=True)
class Control(Conditioner):
    """The picture ``name`` of a request for the adapter of that name, as values from 0 to 1, or ``coded`` in the space
    of ``level``. Its weight is the request's ``conditions[name]``, else ``weight``; without a picture it is 0. Two more
    numbers, [0.8, 0.0, 0.5], are the first and last share of the steps that it counts in.

    With ``guided`` only what follows the words sees it: guidance is for the picture as well.

    In training the control picture is made of the picture itself by ``source``, which needs no other network: its
    "edges" or its softer "outlines", by Sobel's filters; or it is the "map" of this name that comes with the data.
    """

    name: str = "control"
    level: str = "image"
    coded: bool = False
    weight: float = 1.0
    source: Literal["edges", "outlines", "map"] = "edges"
    guided: bool = False
    always: ClassVar = True

    @property
    def maps(self) -> tuple[str, ...]:
        """The maps that a batch must bring."""
        return (self.name,) if self.source == "map" else ()

    def resting(self, request: Request, step: int, steps: int) -> tuple[str, ...]:
        """Its weight, outside of the steps that it counts in."""
        return resting(request, self.name, step, steps)

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Pictures [B, 3, H, W] and their weights [B, 1]."""
        if self.source == "map":
            return self._of(system, batch.maps[self.name], 1.0)
        space: Any = system.space(self.level)
        with torch.no_grad():
            # Of a batch that holds x alone the pixels are what the space makes of it.
            pixels = space.decode(batch.x) if batch.pixels is None else batch.pixels
            picture = edges(pixels) if self.source == "edges" else outlines(pixels).expand(-1, 3, -1, -1)
        return self._of(system, picture * 2 - 1, 1.0)

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Pictures [1, 3, H, W] and the weight [1, 1]. Raises RequestError for a weight that is not one number."""
        weight = weight_of(drawing.request, self.name, self.weight)
        width, height = drawing.request.size or (0, 0)
        picture = drawing.pictures.get(self.name)
        if picture is None:
            return self._of(system, -torch.ones(1, 3, height, width), 0.0)
        return self._of(system, picture, weight)

    def unconditional(self, value: Conditioning) -> Conditioning:
        """The same, as guidance is for the words; ``guided``, nothing."""
        if not self.guided:
            return value
        name = weight_name(self.name)
        return replace(value, scalars={**value.scalars, name: torch.zeros_like(value.scalars[name])})

    def _of(self, system: System, picture: Tensor, weight: float) -> Conditioning:
        with torch.no_grad():
            space: Any = system.space(self.level)
            control = space.encode(picture) if self.coded else picture / 2 + 0.5
        weights = torch.full((len(control), 1), weight)
        return Conditioning(scalars={weight_name(self.name): weights}, pictures={self.name: control})


def weight_name(name: str) -> str:
    """Under which name among the scalars the weight of a picture is."""
    return f"{name}.weight"


def weight_of(request: Request, name: str, otherwise: float) -> float:
    """How strong a request wants an adapter. Raises RequestError for what is no weight, alone or with its steps."""
    given = request.conditions.get(name, [otherwise])
    sound = len(given) in (1, 3) and math.isfinite(given[0]) and abs(given[0]) <= STRONGEST
    if not sound or (len(given) == 3 and not 0 <= given[1] < given[2] <= 1):
        raise RequestError(
            "{name} of conditions is how strong (at most {strongest:g}), and perhaps the first and last share of the "
            "steps, as [0.8, 0, 0.5]; got {given}",
            name=name,
            strongest=STRONGEST,
            given=given,
        )
    return given[0]


def resting(request: Request, name: str, step: int, steps: int) -> tuple[str, ...]:
    """The weight of an adapter where a step lies outside of those that it counts in, by diffusers'
    control_guidance_start and control_guidance_end.
    """
    given = request.conditions.get(name, [])
    if len(given) != 3 or (step / steps >= given[1] and (step + 1) / steps <= given[2]):
        return ()
    return (weight_name(name),)


def edges(pixels: Tensor, threshold: float = 0.4) -> Tensor:
    """[B, 3, H, W] in [-1, 1] -> [B, 3, H, W] of 0 and 1, 1 where the grey value changes by more than the threshold."""
    grey = pixels.mean(dim=1, keepdim=True)
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).to(grey) / 4
    kernels = torch.stack([across, across.T])[:, None]
    slopes = nn.functional.conv2d(nn.functional.pad(grey, (1, 1, 1, 1), mode="replicate"), kernels)
    return (slopes.square().sum(1, keepdim=True).sqrt() > threshold).to(pixels).expand(-1, 3, -1, -1)
