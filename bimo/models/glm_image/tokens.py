"""The space of GLM-Image's prior: pictures as ids of semantic tokens, one for 32x32 pixels."""

# transformers leaves parts of its interface untyped; what crosses it here is named where it is used.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bimo.core.errors import RecipeError, RequestError
from bimo.core.part import Part
from bimo.core.request import Request
from bimo.diffusion.casting import dtype_of
from bimo.diffusion.image_inputs import IMAGE, opaque
from bimo.diffusion.space import Space
from bimo.models.spaces import CLIP_DEVIATION, CLIP_MEAN

if TYPE_CHECKING:
    from PIL import Image

#: A picture is seen at half of its side.
HALVED = 2
#: The side that a picture's may be longer by.
LONGEST_SHAPE = 4
#: How many pictures a request may give.
PICTURES = 8


@dataclass(frozen=True, kw_only=True)
class GlmImageTokens(Part):
    """GLM-Image's vision tower and the codebook that its patches are named by; the defaults are the published model's,
    the names those of transformers' GlmImageVisionConfig and GlmImageVQVAEConfig.

    A picture is seen at half of its side, so that a token is of twice ``patch_size`` pixels; at sides of
    sqrt(``min_pixels``) to sqrt(``max_pixels``). Before the tokens of a picture that is drawn from words alone come
    those of a small one of its shape, of ``preview`` tokens a side.
    """

    depth: int = 40
    hidden_size: int = 1536
    intermediate_size: int = 6144
    num_heads: int = 16
    patch_size: int = 16
    image_size: int = 2048
    embed_dim: int = 2048
    num_embeddings: int = 16384
    min_pixels: int = 512 * 512
    max_pixels: int = 2048 * 2048
    preview: int = 16

    def build(self) -> GlmImageTokenSpace:
        """The module."""
        return GlmImageTokenSpace(self)

    def tiny(self) -> Self:
        """Width 16, two layers; pictures of 32 pixels a side and more, a preview of some four tokens."""
        small = {"depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "image_size": 64}
        return replace(self, **small, embed_dim=16, num_embeddings=32, min_pixels=32 * 32, preview=2)


@dataclass(frozen=True)
class Seen:
    """A picture as the prior sees it: ``ids`` [rows x columns] of its tokens, on the processor."""

    ids: Tensor
    rows: int
    columns: int


class GlmImageTokenSpace(Space):
    """Ids [B, N] of pixels [B, 3, H, W]. Published names are below ``visual.`` and ``vqmodel.``. It cannot be decoded:
    a level in it is followed by one that draws.
    """

    def __init__(self, part: GlmImageTokens) -> None:
        super().__init__()
        from transformers.models.glm_image import modeling_glm_image as published
        from transformers.models.glm_image.configuration_glm_image import GlmImageVisionConfig, GlmImageVQVAEConfig

        self.part = part
        self.channels = 1
        self.factor = part.patch_size * HALVED
        names = ("depth", "hidden_size", "intermediate_size", "num_heads", "patch_size", "image_size")
        sizes: dict[str, Any] = {name: getattr(part, name) for name in names}
        self.visual: Any = published.GlmImageVisionModel(GlmImageVisionConfig(**sizes))
        codes = GlmImageVQVAEConfig(
            embed_dim=part.embed_dim, num_embeddings=part.num_embeddings, latent_channels=part.hidden_size
        )
        self.vqmodel: Any = published.GlmImageVQVAE(codes)

    def grids(self, size: tuple[int, int], given: bool = False) -> list[tuple[int, int]]:
        """The (rows, columns) of tokens that are written for (width, height) pixels: those of the picture, and, unless
        pictures are ``given``, of the preview that is written before.
        """
        columns, rows = (side // self.factor for side in size)
        if given:
            return [(rows, columns)]
        shape = rows / columns
        preview = int(math.sqrt(shape) * self.part.preview), int(math.sqrt(1 / shape) * self.part.preview)
        return [(rows, columns), preview]

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """(N,), the tokens that are written for a picture from words alone."""
        return (sum(rows * columns for rows, columns in self.grids(size)),)

    def shape_for(self, request: Request) -> tuple[int, ...]:
        """(N,), the tokens that are written for a filled request."""
        grids = self.grids(request.size or (0, 0), bool(pictures_of(request)))
        return (sum(rows * columns for rows, columns in grids),)

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> the ids [B, H W / factor²] of a picture by itself; ``generator`` is not used."""
        height, width = (side // self.factor * self.part.patch_size for side in pixels.shape[-2:])
        small = functional.interpolate(pixels, (height, width), mode="bicubic", antialias=True).clamp(-1, 1)
        mean, deviation = (torch.tensor(each).view(3, 1, 1).to(small) for each in (CLIP_MEAN, CLIP_DEVIATION))
        with torch.no_grad():
            return torch.stack([self._named(picture) for picture in (small / 2 + 0.5 - mean) / deviation])

    def decode(self, x: Tensor) -> Tensor:
        """Raises RecipeError: there is nothing that decodes tokens but the level after."""
        raise RecipeError("tokens of a picture cannot be decoded; a level in them must be followed by one that draws")

    def seen(self, image: Image.Image) -> Seen:
        """A picture of a request -> its tokens, seen as transformers' processor brings it to the tower."""
        from PIL import Image

        width, height = self.seen_size(image.size)
        small = opaque(image).resize((width // HALVED, height // HALVED), resample=Image.Resampling.BICUBIC)
        values = torch.from_numpy(np.asarray(small).astype(np.float32) / 255).permute(2, 0, 1)
        mean, deviation = (torch.tensor(each, device="cpu").view(3, 1, 1) for each in (CLIP_MEAN, CLIP_DEVIATION))
        with torch.no_grad():
            ids = self._named((values - mean) / deviation)
        return Seen(ids.cpu(), height // self.factor, width // self.factor)

    def seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height), multiples of the factor, whose half a picture of a size is seen at. Raises RequestError for
        one that is more than four times as long as it is wide.
        """
        if max(size) > LONGEST_SHAPE * min(size):
            raise RequestError(
                "a picture of {width}x{height} is too long to be read: a side may be {times} times the other; cut it",
                width=size[0],
                height=size[1],
                times=LONGEST_SHAPE,
            )
        least, most = (round(math.sqrt(pixels)) for pixels in (self.part.min_pixels, self.part.max_pixels))
        scale = max(1.0, least / min(size))
        if max(size) * scale > most:
            scale = most / max(size)
        unit = self.part.patch_size
        halves = [max(unit, round(side // HALVED * scale / unit) * unit) for side in size]
        return halves[0] * HALVED, halves[1] * HALVED

    def _named(self, picture: Tensor) -> Tensor:
        """A picture [3, h, w], normalised -> the ids [rows x columns] of its patches."""
        side = self.part.patch_size
        rows, columns = picture.shape[-2] // side, picture.shape[-1] // side
        cut = picture.unflatten(2, (columns, side)).unflatten(1, (rows, side)).permute(1, 3, 0, 2, 4)
        device = next(self.parameters()).device
        grid = torch.tensor([[1, rows, columns]], device=device)
        patches = cut.reshape(rows * columns, -1).to(device, dtype_of(self))
        states = self.visual(patches, grid_thw=grid).last_hidden_state
        laid = states.view(1, rows, columns, -1).permute(0, 3, 1, 2).contiguous()
        return self.vqmodel.encode(laid).image_tokens.flatten()


def pictures_of(request: Request) -> Sequence[Image.Image]:
    """The pictures that a request gives: ``image``, then its condition images "image-2", "image-3" ..."""
    named = {IMAGE: request.image, **request.condition_images}
    return [image for name in picture_names() if (image := named.get(name)) is not None]


def picture_names() -> tuple[str, ...]:
    """What the pictures of a request are called."""
    return (IMAGE, *(f"{IMAGE}-{place}" for place in range(2, PICTURES + 1)))
