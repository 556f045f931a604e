"""The conditioner of ControlNets: an image of edges, depth, a pose ... (arXiv:2302.05543)."""

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
#: The share of pictures that are masked completely in training.
FULL_MASK = 0.25


@dataclass(frozen=True, kw_only=True)
class Control(Conditioner):
    """The picture ``name`` of a request for the adapter of that name, with values from 0 to 1, or ``coded`` in the
    space of ``level``. Its weight is the request's ``conditions[name]``, else ``weight``; without a picture it is 0.
    Two more numbers, [0.8, 0.0, 0.5], are the first and last fraction of the steps in which it applies.

    With ``guided`` only the conditional branch gets it, so that guidance applies to it. With ``worded`` the adapter
    reads the prompt in every branch of guidance, as diffusers' for Qwen-Image. ``painting`` is for inpainting adapters:
    "alone" they get the mask and the masked picture, which is the request's image by default; "beside" they get the
    control picture, and mask and image if there are any.

    In training the control picture is computed from the picture by ``source``, without another network: its "edges" or
    softer "outlines", by Sobel filters; or it is the "map" of this name in the data.
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
        """The maps that a batch must have."""
        return (self.name,) if self.source == "map" else ()

    def resting(self, request: Request, step: int, steps: int) -> tuple[str, ...]:
        """Its weight, outside of the steps in which it applies."""
        return resting(request, self.name, step, steps)

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Pictures [B, 3, H, W] and their weights [B, 1]."""
        if self.source == "map":
            return self._of(system, batch.maps[self.name], 1.0)
        space: Any = system.space(self.level)
        with torch.no_grad():
            # The pixels of a batch with x alone are decoded from x.
            pixels = space.decode(batch.x) if batch.pixels is None else batch.pixels
            if self.painting == "alone":
                mask = batch.own(random_masks(batch.total_rows, batch.x.shape[2:], FULL_MASK, batch.generator))
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
            conditioning = self._of(system, -torch.ones(1, 3, height, width), 0.0, mask, image)
        else:
            conditioning = self._of(system, picture, weight, mask, image)
        if not self.worded:
            return conditioning
        (encoding, *_) = drawing.encodings
        # One row: its padding is removed.
        tokens = encoding.tokens if encoding.mask is None else encoding.tokens[:, encoding.mask[0]]
        return replace(conditioning, pictures={**conditioning.pictures, words_name(self.name): tokens})

    def unconditional(self, value: Conditioning) -> Conditioning:
        """The same; with ``guided`` a weight of 0."""
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
                control = torch.cat([coded, unmasked(mask, coded)], dim=1)
            elif self.painting == "beside":
                coded = space.encode(picture)
                shown = torch.zeros_like(coded) if mask is None or image is None else space.encode(image * (mask < 0.5))
                of_mask = torch.zeros_like(coded[:, :1]) if mask is None or image is None else unmasked(mask, coded)
                control = torch.cat([coded, of_mask, shown], dim=1)
            else:
                control = space.encode(picture) if self.coded else picture / 2 + 0.5
        weights = torch.full((len(control), 1), weight)
        return Conditioning(scalars={weight_name(self.name): weights}, pictures={self.name: control})


def unmasked(mask: Tensor, like: Tensor) -> Tensor:
    """A mask [B, 1, H, W] at the size of x [B, C, h, w]: [B, 1, h, w] of 1 (unchanged) and 0."""
    return 1 - nn.functional.interpolate(mask, size=like.shape[2:]).to(like)


def words_name(name: str) -> str:
    """The name, among the pictures, of the prompt's tokens that an adapter reads in every branch."""
    return f"{name}.words"


def weight_name(name: str) -> str:
    """The name, among the scalars, of a picture's weight."""
    return f"{name}.weight"


def weight_of(request: Request, name: str, otherwise: float) -> float:
    """The weight of an adapter in a request, with its range of steps. Raises RequestError for an invalid one."""
    numbers = request.conditions.get(name, [otherwise])
    sound = len(numbers) in (1, 3) and math.isfinite(numbers[0]) and abs(numbers[0]) <= STRONGEST
    if not sound or (len(numbers) == 3 and not 0 <= numbers[1] < numbers[2] <= 1):
        raise RequestError(
            "{name} of conditions is how strong (at most {strongest:g}), and perhaps the first and last share of the "
            "steps, as [0.8, 0, 0.5]; got {given}",
            name=name,
            strongest=STRONGEST,
            given=numbers,
        )
    return numbers[0]


def resting(request: Request, name: str, step: int, steps: int) -> tuple[str, ...]:
    """The weight of an adapter if a step is outside of its range, as diffusers' control_guidance_start and
    control_guidance_end.
    """
    numbers = request.conditions.get(name, [])
    if len(numbers) != 3 or (step / steps >= numbers[1] and (step + 1) / steps <= numbers[2]):
        return ()
    return (weight_name(name),)


def edges(pixels: Tensor, threshold: float = 0.4) -> Tensor:
    """[B, 3, H, W] in [-1, 1] -> [B, 3, H, W] of 0 and 1, 1 where the change of grey exceeds the threshold."""
    grey = pixels.mean(dim=1, keepdim=True)
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).to(grey) / 4
    kernels = torch.stack([across, across.T])[:, None]
    slopes = nn.functional.conv2d(nn.functional.pad(grey, (1, 1, 1, 1), mode="replicate"), kernels)
    return (slopes.square().sum(1, keepdim=True).sqrt() > threshold).to(pixels).expand(-1, 3, -1, -1)
