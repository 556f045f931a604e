"""Spaces of x: latents of diffusers' AutoencoderKL (arXiv:2112.10752), pixels, image embeddings."""

# diffusers loads its classes lazily, which reads as private, and leaves parts of its interface untyped.
# pyright: reportPrivateImportUsage=false, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

import torch
from torch import Tensor
from torch.nn import functional

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.diffusion.casting import dtype_of, run_in_own_dtype
from bimo.diffusion.space import Space

#: Mean and standard deviation of red, green and blue in [0, 1] for CLIP's encoders (arXiv:2103.00020).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class Latent(Part):
    """An AutoencoderKL. x is (z - shift) * scaling of its latent z; the defaults are those of Stable Diffusion 1.

    ``channels`` are the latent's; each of ``block_channels`` after the first halves the side. It encodes the picture at
    1 / ``shrink`` of the request's size, for a level that another one upscales. ``quant`` and ``post_quant`` are the
    1x1 convolutions around z, ``attention`` that of the middle block: Flux's has no such convolutions, CogView4's none
    of the three. With a ``mean`` and a ``deviation`` for each channel x is (z - mean) * scaling / deviation. ``config``
    are further settings of diffusers' class.
    """

    channels: int = 4
    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    groups: int = 32
    scaling: float = 0.18215
    shift: float = 0.0
    shrink: int = 1
    quant: bool = True
    post_quant: bool = True
    attention: bool = True
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def build(self) -> LatentSpace:
        """The module."""
        return LatentSpace(self)

    def tiny(self) -> Self:
        """Width 8, one layer a block; as many blocks, so that the factor stays."""
        return replace(self, block_channels=(8,) * len(self.block_channels), layers_per_block=1, groups=4)


class LatentSpace(Space):
    """Latents [B, channels, H / factor, W / factor] of pixels [B, 3, H, W]. Published names are below ``model.``."""

    has_posterior = shift_equivariant = True

    def __init__(self, part: Latent) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        self.part = part
        self.channels = part.channels
        self.shrink = part.shrink
        self.factor = part.shrink * 2 ** (len(part.block_channels) - 1)
        try:
            self.model = AutoencoderKL(
                down_block_types=cast(Any, ("DownEncoderBlock2D",) * len(part.block_channels)),
                up_block_types=cast(Any, ("UpDecoderBlock2D",) * len(part.block_channels)),
                block_out_channels=cast(Any, part.block_channels),
                layers_per_block=part.layers_per_block,
                latent_channels=part.channels,
                norm_num_groups=part.groups,
                scaling_factor=part.scaling,
                shift_factor=part.shift or None,
                use_quant_conv=part.quant,
                use_post_quant_conv=part.post_quant,
                mid_block_add_attention=part.attention,
                latents_mean=cast(Any, part.mean or None),
                latents_std=cast(Any, part.deviation or None),
                **part.config,
            )
        except (ValueError, IndexError, ZeroDivisionError) as error:
            raise RecipeError("the fields of Latent do not go together: {error}", error=error) from None

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """(C, h, w) for (width, height) pixels."""
        return self.channels, size[1] // self.factor, size[0] // self.factor

    def tile(self, side: int) -> bool:
        """As in diffusers: neighbouring tiles overlap by a quarter."""
        self.model.enable_tiling()
        self.model.tile_sample_min_size = side // self.shrink
        self.model.tile_latent_min_size = side // self.factor
        return True

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> [B, C, h, w]: the mean of the posterior, or a sample of it by ``generator``."""
        posterior = self._posterior(pixels)
        return self._scaled(posterior.mode() if generator is None else posterior.sample(generator))

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] in [-1, 1] -> mean and standard deviation of x, each [B, C, h, w]."""
        posterior = self._posterior(pixels)
        deviation = posterior.std * self.part.scaling
        if self.part.deviation:
            deviation = deviation / self._each(self.part.deviation, deviation)
        return self._scaled(posterior.mean), deviation

    def _scaled(self, z: Tensor) -> Tensor:
        if self.part.mean:
            shifted = (z - self._each(self.part.mean, z)) * self.part.scaling
            return shifted / self._each(self.part.deviation, z)
        return (z - self.part.shift) * self.part.scaling

    def _each(self, values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values).view(1, -1, 1, 1).to(like)

    def _posterior(self, pixels: Tensor) -> Any:
        return coded(self.model, smaller(pixels, self.shrink))

    def decode(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, 3, H / shrink, W / shrink]."""
        if self.part.mean:
            z = x * self._each(self.part.deviation, x) / self.part.scaling + self._each(self.part.mean, x)
        else:
            z = x / self.part.scaling
            z = z + self.part.shift if self.part.shift else z
        return run_in_own_dtype(self.model, lambda z: cast(Any, self.model.decode(cast(Any, z))).sample, z)


def coded(model: Any, pixels: Tensor) -> Any:
    """The posterior of a diffusers autoencoder, in the dtype of the pixels, so that its samples use the same noise in
    every dtype of weights.
    """
    kind = dtype_of(model) or pixels.dtype
    latents = model.encode(pixels.to(kind)).latent_dist
    return latents if kind == pixels.dtype else type(latents)(latents.parameters.to(pixels.dtype))


def smaller(pixels: Tensor, shrink: int) -> Tensor:
    """[B, 3, H, W] -> [B, 3, H / shrink, W / shrink], each pixel the mean of those it covers."""
    return functional.avg_pool2d(pixels, shrink) if shrink > 1 else pixels


@dataclass(frozen=True, kw_only=True)
class Pixels(Part):
    """The picture itself, at 1 / ``factor`` of the request's side: 64 pixels of 1024 are a factor of 16."""

    factor: int = 1

    def build(self) -> PixelSpace:
        """The module, without weights."""
        return PixelSpace(self)


class PixelSpace(Space):
    """Pixels [B, 3, H / factor, W / factor] of pixels [B, 3, H, W], both in [-1, 1]."""

    channels = 3
    shift_equivariant = True

    def __init__(self, part: Pixels) -> None:
        super().__init__()
        self.factor = self.shrink = part.factor

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """(3, h, w) for (width, height) pixels."""
        return 3, size[1] // self.factor, size[0] // self.factor

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, 3, H, W] -> [B, 3, h, w], each pixel the mean of those it covers; ``generator`` is not used."""
        return smaller(pixels, self.factor)

    def decode(self, x: Tensor) -> Tensor:
        """[B, 3, h, w] -> the same."""
        return x


def at_root_length(embeddings: Tensor) -> Tensor:
    """[B, D] -> [B, D] with norm sqrt(D), so that each number has a variance of about 1, as unCLIP's cascades expect
    (arXiv:2204.06125).
    """
    return functional.normalize(embeddings, dim=1) * embeddings.shape[1] ** 0.5


@dataclass(frozen=True, kw_only=True)
class ClipImage(Part):
    """CLIP's image embedding, [B, ``embed``] with norm sqrt(embed): the space of a prior. It cannot be decoded, so that
    a level in it is never the last. The defaults are those of ViT-L/14's image encoder.
    """

    embed: int = 768
    width: int = 1024
    layers: int = 24
    heads: int = 16
    feed: int = 4096
    size: int = 224
    patch: int = 14
    activation: str = "quick_gelu"

    def build(self) -> ClipImageSpace:
        """The module."""
        return ClipImageSpace(self)

    def tiny(self) -> Self:
        """Width 16, two layers, pictures of 16 pixels; the embeddings of tiny encoders."""
        small = {"width": 16, "layers": 2, "heads": 2, "feed": 32, "size": 16, "patch": 8}
        return replace(self, embed=min(self.embed, 16), **small)


class ClipImageSpace(Space):
    """Embeddings [B, embed] of pixels [B, 3, H, W]. transformers' names are below ``model.``."""

    factor = 1
    shrink = 1
    mean: Tensor
    deviation: Tensor

    def __init__(self, part: ClipImage) -> None:
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        self.part = part
        self.channels = part.embed
        self.model = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=part.width,
                intermediate_size=part.feed,
                projection_dim=part.embed,
                num_hidden_layers=part.layers,
                num_attention_heads=part.heads,
                image_size=part.size,
                patch_size=part.patch,
                hidden_act=part.activation,
            )
        )
        self.register_buffer("mean", torch.tensor(CLIP_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(CLIP_DEVIATION)[:, None, None], persistent=False)

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """(embed,) for every size."""
        return (self.part.embed,)

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> [B, embed]; deterministic, ``generator`` is not used.

        The centre square is resized to the encoder's size, as in CLIP's own preprocessing.
        """
        side = min(pixels.shape[-2:])
        top, left = ((length - side) // 2 for length in pixels.shape[-2:])
        square = pixels[:, :, top : top + side, left : left + side]
        whole = (self.part.size, self.part.size)
        resized = functional.interpolate(square, whole, mode="bicubic", antialias=True).clamp(-1, 1)
        normalised = (resized / 2 + 0.5 - self.mean) / self.deviation
        embeddings = run_in_own_dtype(self.model, lambda pixels: self.model(pixels).image_embeds, normalised)
        return at_root_length(embeddings)

    def decode(self, x: Tensor) -> Tensor:
        """Raises RecipeError: embeddings cannot be decoded."""
        raise RecipeError(
            "an embedding of a picture cannot be decoded; a level in it must be followed by one that draws"
        )
