"""A conditioner for IP-Adapter (arXiv:2308.06721): what a picture shows, to be drawn anew."""

# torch leaves parts of its interface untyped; what crosses it here is named where it is used.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from bimo.core.request import Request
from bimo.core.tensors import Batch, Conditioning
from bimo.diffusion.conditioner import Conditioner, Drawing
from bimo.diffusion.image_inputs import middle, opaque
from bimo.diffusion.system import System
from bimo.models.adapters.control_conditioner import resting, weight_name, weight_of
from bimo.models.adapters.ip_adapter import ImagePromptedDenoiser

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, kw_only=True)
class ImagePrompt(Conditioner):
    """The picture ``name`` of a request as the image encoder of the denoiser's adapter sees it. Its weight is the
    request's ``conditions[name]``, else ``weight``, or [weight, first, last] with the shares of the steps that it
    counts in; without a picture it is 0.

    In training it is the picture itself.
    """

    name: str = "prompt"
    level: str = "image"
    weight: float = 1.0

    def resting(self, request: Request, step: int, steps: int) -> tuple[str, ...]:
        """Its weight, outside of the steps that it counts in."""
        return resting(request, self.name, step, steps)

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Pictures [B, L, D] and their weights [B, 1]."""
        space: Any = system.space(self.level)
        adapter = self._adapter(system)
        with torch.no_grad():
            # A batch holds x alone: its pixels are what the space makes of it.
            size = adapter.part.encoder.size
            pixels = space.decode(batch.x).clamp(-1, 1)
            resized = functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)
            resized = adapter.look((resized / 2 + 0.5 - adapter.encoder.mean) / adapter.encoder.deviation)
        return self._of(resized, adapter.blank(), torch.ones(len(resized), 1))

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Pictures [1, L, D] and the weight [1, 1]. Raises RequestError for a weight that is not one number."""
        adapter = self._adapter(system)
        weight = weight_of(drawing.request, self.name, self.weight)
        picture = drawing.request.condition_images.get(self.name)
        with torch.no_grad():
            blank = adapter.blank()
            if picture is None:
                return self._of(blank, blank, torch.zeros(1, 1))
            values = prepared(picture, adapter.part.encoder.size).to(adapter.encoder.mean.device)
            embedding = adapter.look((values - adapter.encoder.mean) / adapter.encoder.deviation)
        return self._of(embedding, blank, torch.full((1, 1), weight))

    def unconditional(self, value: Conditioning) -> Conditioning:
        """No picture."""
        blank = value.pictures[f"{self.name}.null"]
        return replace(value, pictures={**value.pictures, self.name: blank})

    def _of(self, seen: Tensor, blank: Tensor, weight: Tensor) -> Conditioning:
        pictures = {self.name: seen, f"{self.name}.null": blank.expand_as(seen)}
        return Conditioning(scalars={weight_name(self.name): weight}, pictures=pictures)

    def _adapter(self, system: System) -> ImagePromptedDenoiser:
        module: Any = system.level(self.level).denoiser
        while not isinstance(module, ImagePromptedDenoiser) or module.part.name != self.name:
            module = module.denoiser
        return module


def prepared(image: Image.Image, size: int) -> Tensor:
    """The middle square of a picture as CLIP's own preparation cuts it, [1, 3, size, size] from 0 to 1."""
    from PIL import Image

    image = middle(opaque(image), (size, size))
    width, height = image.size
    short = min(width, height)
    wanted = (int(size * width / short), int(size * height / short))
    resized = image.resize(wanted, resample=Image.Resampling.BICUBIC)
    left, top = (wanted[0] - size) // 2, (wanted[1] - size) // 2
    cut = resized.crop((left, top, left + size, top + size))
    return torch.from_numpy(numpy.array(cut).astype(numpy.float32) / 255.0).permute(2, 0, 1)[None]
