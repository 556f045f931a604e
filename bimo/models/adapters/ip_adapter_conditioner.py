"""The conditioner of IP-Adapter (arXiv:2308.06721): a picture as a prompt."""

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
    """The picture ``name`` of a request, encoded by the image encoder of the denoiser's IP-Adapter. Its weight is the
    request's ``conditions[name]``, else ``weight``, or [weight, first, last] with the range of steps, as fractions, in
    which it applies; without a picture it is 0.

    In training it is the training picture itself.
    """

    name: str = "prompt"
    level: str = "image"
    weight: float = 1.0

    def resting(self, request: Request, step: int, steps: int) -> tuple[str, ...]:
        """Its weight, outside of the steps in which it applies."""
        return resting(request, self.name, step, steps)

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Encodings [B, L, D] and their weights [B, 1]."""
        space: Any = system.space(self.level)
        adapter = self._adapter(system)
        with torch.no_grad():
            # The pixels of a batch with x alone are decoded from x.
            size = adapter.part.encoder.size
            pixels = space.decode(batch.x).clamp(-1, 1)
            resized = functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)
            resized = adapter.look((resized / 2 + 0.5 - adapter.encoder.mean) / adapter.encoder.deviation)
        return self._of(resized, adapter.blank(), torch.ones(len(resized), 1))

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """The encoding [1, L, D] and the weight [1, 1]. Raises RequestError for a weight that is not one number."""
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
        """The encoding of no picture."""
        blank = value.pictures[f"{self.name}.null"]
        return replace(value, pictures={**value.pictures, self.name: blank})

    def _of(self, encoding: Tensor, blank: Tensor, weight: Tensor) -> Conditioning:
        pictures = {self.name: encoding, f"{self.name}.null": blank.expand_as(encoding)}
        return Conditioning(scalars={weight_name(self.name): weight}, pictures=pictures)

    def _adapter(self, system: System) -> ImagePromptedDenoiser:
        module: Any = system.level(self.level).denoiser
        while not isinstance(module, ImagePromptedDenoiser) or module.part.name != self.name:
            module = module.denoiser
        return module


def prepared(image: Image.Image, size: int) -> Tensor:
    """The centre crop of a picture as in CLIP's preprocessing, [1, 3, size, size] from 0 to 1."""
    from PIL import Image

    image = middle(opaque(image), (size, size))
    width, height = image.size
    short = min(width, height)
    wanted = (int(size * width / short), int(size * height / short))
    resized = image.resize(wanted, resample=Image.Resampling.BICUBIC)
    left, top = (wanted[0] - size) // 2, (wanted[1] - size) // 2
    cut = resized.crop((left, top, left + size, top + size))
    return torch.from_numpy(numpy.array(cut).astype(numpy.float32) / 255.0).permute(2, 0, 1)[None]
