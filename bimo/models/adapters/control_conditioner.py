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
from bimo.diffusion.image_inputs import IMAGE, MASK
from bimo.diffusion.system import System
from bimo.models.composer.conditioners import outlines
from bimo.models.stable_diffusion.conditioners import random_masks

STRONGEST = 10.0
#: The share of pictures that are painted as a whole in training.
WHOLE = 0.25


@dataclass(frozen=True, kw_only=True)
class Control(Conditioner):
    """The picture ``name`` of a request for the adapter of that name, as values from 0 to 1, or ``coded`` in the space
    of ``level``. Its weight is the request's ``conditions[name]``, else ``weight``; without a picture it is 0. Two more
    numbers, [0.8, 0.0, 0.5], are the first and last share of the steps that it counts in.

    With ``guided`` only what follows the words sees it: guidance is for the picture as well. With ``worded`` the
    adapter reads the prompt in every branch of guidance, as diffusers has Qwen-Image's. ``painting`` is for adapters
    that paint in the request's mask: "alone" they look at the mask and the picture without what is to be painted, which
    is the request's image where none is given by name; "beside" the control picture they look at the mask and the
    image, where there are some.

    In training the control picture is made of the picture itself by ``source``, which needs no other network: its
    "edges" or its softer "outlines", by Sobel's filters; or it is the "map" of this name that comes with the data.
    """

    name: str = "control"
    level: str = "image"
    coded: bool = False
    weight: float = 1.0
    source: Literal["edges", "outlines", "map"] = "edges"
    guided: bool = False
    worded: bool = False
    painting: Literal["", "alone", "beside"] = ""
    always: ClassVar = True

    @property
    def images(self) -> tuple[str, ...]:
        """The images of the request that it reads."""
        return (self.name, MASK) if self.painting else (self.name,)

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
            if self.painting == "alone":
                mask = batch.own(random_masks(batch.total_rows, batch.x.shape[2:], WHOLE, batch.generator))
                return self._of(system, pixels, 1.0, nn.functional.interpolate(mask, size=pixels.shape[2:]))
            picture = edges(pixels) if self.source == "edges" else outlines(pixels).expand(-1, 3, -1, -1)
        return self._of(system, picture * 2 - 1, 1.0)

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Pictures [1, 3, H, W] and the weight [1, 1]. Raises RequestError for a weight that is not one number."""
        weight = weight_of(drawing.request, self.name, self.weight)
        width, height = drawing.request.size or (0, 0)
        image, mask = drawing.pictures.get(IMAGE), drawing.pictures.get(MASK)
        picture = drawing.pictures.get(self.name, image if self.painting == "alone" else None)
        if self.painting == "alone" and mask is None:
            mask = torch.ones(1, 1, height, width)
        if picture is None:
            found = self._of(system, -torch.ones(1, 3, height, width), 0.0, mask, image)
        else:
            found = self._of(system, picture, weight, mask, image)
        if not self.worded:
            return found
        (said, *_) = drawing.encodings
        # One row: what is padding in it is left out.
        tokens = said.tokens if said.mask is None else said.tokens[:, said.mask[0]]
        return replace(found, pictures={**found.pictures, words_name(self.name): tokens})

    def unconditional(self, value: Conditioning) -> Conditioning:
        """The same, as guidance is for the words; ``guided``, nothing."""
        if not self.guided:
            return value
        name = weight_name(self.name)
        return replace(value, scalars={**value.scalars, name: torch.zeros_like(value.scalars[name])})

    def _of(
        self, system: System, picture: Tensor, weight: float, mask: Tensor | None = None, image: Tensor | None = None
    ) -> Conditioning:
        space: Any = system.space(self.level)
        with torch.no_grad():
            if self.painting == "alone" and mask is not None:
                coded = space.encode(torch.where(mask > 0.5, -1.0, picture))
                control = torch.cat([coded, kept(mask, coded)], dim=1)
            elif self.painting == "beside":
                coded = space.encode(picture)
                shown = torch.zeros_like(coded) if mask is None or image is None else space.encode(image * (mask < 0.5))
                of_mask = torch.zeros_like(coded[:, :1]) if mask is None or image is None else kept(mask, coded)
                control = torch.cat([coded, of_mask, shown], dim=1)
            else:
                control = space.encode(picture) if self.coded else picture / 2 + 0.5
        weights = torch.full((len(control), 1), weight)
        return Conditioning(scalars={weight_name(self.name): weights}, pictures={self.name: control})


def kept(mask: Tensor, like: Tensor) -> Tensor:
    """A mask [B, 1, H, W] as one of x [B, C, h, w]: [B, 1, h, w] of 1 (what is kept) and 0."""
    return 1 - nn.functional.interpolate(mask, size=like.shape[2:]).to(like)


def words_name(name: str) -> str:
    """Under which name among the pictures are the tokens of the prompt that an adapter reads in every branch."""
    return f"{name}.words"


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
