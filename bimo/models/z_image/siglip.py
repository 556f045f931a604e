"""What Z-Image-Omni sees of its reference pictures: SigLIP 2 (arXiv:2502.14786), beside the autoencoder."""

# torch and transformers leave parts of their interfaces untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from bimo.core.part import Part
from bimo.core.request import Request
from bimo.core.tensors import Batch, Conditioning
from bimo.diffusion.casting import dtype_of
from bimo.diffusion.image_inputs import opaque, pixels_of, to_image, upright
from bimo.diffusion.system import System
from bimo.models.flow_tokens import SEEN
from bimo.models.qwen_image.references import InlineReferences
from bimo.models.spaces import Latent, LatentSpace

if TYPE_CHECKING:
    from PIL import Image

#: A picture is enlarged by no more than this, and by how much is found to within ``EPS``.
MOST, EPS = 100.0, 1e-5


@dataclass(frozen=True, kw_only=True)
class Siglip2Vision(Part):
    """SigLIP 2's image encoder for pictures of any shape; the names are those of transformers' Siglip2VisionConfig and
    Siglip2ImageProcessor, the defaults So400m's. A picture is seen at up to ``max_num_patches`` patches in about its
    own shape.
    """

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_hidden_layers: int = 27
    num_attention_heads: int = 16
    patch_size: int = 16
    layer_norm_eps: float = 1e-6
    vision_use_head: bool = True
    num_patches: int = 256
    max_num_patches: int = 256

    def build(self) -> Siglip2Encoder:
        """The module."""
        return Siglip2Encoder(self)

    def tiny(self) -> Self:
        """Width 16, two layers, up to 16 patches."""
        small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        return replace(self, num_patches=16, max_num_patches=16, **small)

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of patches of a picture: as large as it may be, each side rounded up to whole patches."""

        def at(scale: float) -> tuple[int, int]:
            return tuple(max(1, math.ceil(side * scale / self.patch_size)) for side in (height, width))  # type: ignore[return-value]

        low, high = EPS / 10, MOST
        while high - low >= EPS:
            middle = (low + high) / 2
            low, high = (middle, high) if math.prod(at(middle)) <= self.max_num_patches else (low, middle)
        return at(low)


class Siglip2Encoder(nn.Module):
    """Pictures -> features [1, hidden_size, rows, columns]. Published names are below ``model.``."""

    def __init__(self, part: Siglip2Vision) -> None:
        super().__init__()
        from transformers import Siglip2VisionConfig, Siglip2VisionModel

        self.part = part
        settings = {name: value for name, value in vars(part).items() if name != "max_num_patches"}
        self.model: Any = Siglip2VisionModel(Siglip2VisionConfig(**settings))

    def forward(self, image: Image.Image) -> Tensor:
        """A picture, opaque -> what is seen of it."""
        from PIL import Image

        side = self.part.patch_size
        rows, columns = self.part.grid(*image.size)
        shown = image.resize((columns * side, rows * side), resample=Image.Resampling.BILINEAR)
        values = torch.from_numpy(np.asarray(shown).astype(np.float32) / 255) * 2 - 1
        patches = values.reshape(rows, side, columns, side, 3).transpose(1, 2).reshape(1, rows * columns, -1)
        device = next(self.parameters()).device
        seen = self.model(
            pixel_values=patches.to(device, dtype_of(self)),
            pixel_attention_mask=torch.ones(1, rows * columns, dtype=torch.int32, device=device),
            spatial_shapes=torch.tensor([[rows, columns]], device="cpu"),
        ).last_hidden_state
        return seen.float().unflatten(1, (rows, columns)).movedim(-1, 1)


@dataclass(frozen=True, kw_only=True)
class SeenLatent(Latent):
    """Latents, and the image encoder by which reference pictures are seen beside."""

    siglip: Siglip2Vision = field(default_factory=Siglip2Vision)

    def build(self) -> SeenLatentSpace:
        """The module."""
        return SeenLatentSpace(self)

    def tiny(self) -> Self:
        """Both at toy width."""
        return replace(super().tiny(), siglip=self.siglip.tiny())


class SeenLatentSpace(LatentSpace):
    """As LatentSpace; the image encoder's names are below ``siglip.model.``."""

    def __init__(self, part: SeenLatent) -> None:
        super().__init__(part)
        self.siglip = part.siglip.build()


@dataclass(frozen=True, kw_only=True)
class SeenReferences(InlineReferences):
    """References that an image encoder sees as well, as Z-Image-Omni's pipeline has them: of their own size up to
    ``area``, and coded without what is more than whole ``unit``s. Of the shape and not the size that is drawn they are
    coded at that.
    """

    unit: int = 16

    def size_for(self, request: Request) -> tuple[int, int] | None:
        """That of the picture that is edited, up to ``area`` pixels."""
        return None if request.image is None else self._whole(self._within(upright(request.image).size, self.area))

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Pictures [B, C, h, w], at the places of the picture that is learnt, and what is seen of them."""
        rows = [[to_image(row) for row in batch.maps[name]] for name in self.maps]
        return self._seen(system, super().from_batch(system, batch), rows)

    def from_images(self, system: System, images: Sequence[Image.Image], drawn: tuple[int, int]) -> Conditioning:
        """Pictures [1, C, h', w'] and what is seen of them, [1, D, rows, columns]."""
        shown = [self._shown(opaque(image), drawn) for image in images]
        coded = self._coded(system, [self._pixels(image, drawn) for image in shown])
        return self._seen(system, coded, [[image] for image in shown])

    def _seen(self, system: System, coded: Conditioning, rows: Sequence[Sequence[Image.Image]]) -> Conditioning:
        encoder = cast(SeenLatentSpace, system.space(self.level)).siglip
        with torch.no_grad():
            seen = {f"{SEEN}{place}": torch.cat([encoder(one) for one in each]) for place, each in enumerate(rows, 1)}
        return replace(coded, pictures={**coded.pictures, **seen})

    def _shown(self, image: Image.Image, drawn: tuple[int, int]) -> Image.Image:
        """A picture at no more than ``area`` pixels, or where another size was asked for no more than that has."""
        from PIL import Image

        size = self._within(image.size, self.area)
        if size != image.size and self._whole(size) != drawn:
            size = self._within(image.size, math.prod(drawn))
        return image if size == image.size else image.resize(size, resample=Image.Resampling.LANCZOS)

    def _pixels(self, image: Image.Image, drawn: tuple[int, int]) -> Tensor:
        """[1, 3, H, W] of a picture as it is coded: its middle in whole units, or all of it at the size drawn."""
        width, height = self._whole(image.size)
        if (width, height) != drawn and self.coded_size(image, drawn) == drawn:
            return pixels_of(image, drawn)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return pixels_of(image.crop((left, top, left + width, top + height)), (width, height))

    def _within(self, size: tuple[int, int], area: int) -> tuple[int, int]:
        scale = math.sqrt(area / math.prod(size))
        return (int(size[0] * scale), int(size[1] * scale)) if math.prod(size) > self.area else size

    def _whole(self, size: tuple[int, int]) -> tuple[int, int]:
        return max(self.unit, size[0] // self.unit * self.unit), max(self.unit, size[1] // self.unit * self.unit)
