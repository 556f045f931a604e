"""IP-Adapter (arXiv:2308.06721): a picture as a prompt, by decoupled cross-attention."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.tensors import Conditioning
from bimo.diffusion.denoiser import DenoiserWrapper
from bimo.models.adapters.control_conditioner import weight_name
from bimo.models.spaces import ClipImage
from bimo.models.stable_diffusion.unet import Unet


@dataclass(frozen=True, kw_only=True)
class Resampled(Part):
    """IP-Adapter-Plus: ``tokens`` learned queries attend to all patches of the picture in ``depth`` layers of
    ``width``.
    """

    width: int = 768
    depth: int = 4
    heads: int = 12
    head: int = 64
    feed: int = 4

    def tiny(self) -> Self:
        """Width 16, two layers."""
        return replace(self, width=16, depth=2, heads=2, head=8)


@dataclass(frozen=True, kw_only=True)
class ImagePrompted(Part):
    """A UNet with cross-attention to ``tokens`` of the picture ``name``, computed from the output of ``encoder``: from
    its pooled embedding, from all patches with ``plus``, or one for each patch with ``full``. It can be nested for
    several pictures.
    """

    denoiser: Unet | ImagePrompted
    encoder: ClipImage
    tokens: int = 4
    plus: Resampled | None = None
    full: bool = False
    name: str = "prompt"

    def build(self) -> ImagePromptedDenoiser:
        """The module."""
        return ImagePromptedDenoiser(self)


class ImagePromptedDenoiser(DenoiserWrapper):
    """x [R, C, h, w], t [R] and conditioning with the picture's encoding -> the UNet's output.

    The UNet's names are below ``denoiser.``, the image encoder's below ``encoder.model.``; the published ones of the
    adapter are ``projection.`` (image_proj) and, below the UNet's attentions, ``processor.to_k_ip`` and ``to_v_ip``.
    """

    def __init__(self, part: ImagePrompted) -> None:
        super().__init__()
        self.part = part
        self.denoiser: Any = part.denoiser.build()
        self.encoder: Any = part.encoder.build()
        unet: Any = self.denoiser.network
        words: int = unet.config.cross_attention_dim
        if part.full:
            self.projection: nn.Module = FullProjection(part.encoder.width, words)
        elif part.plus is not None:
            self.projection = Resampler(part.plus, part.encoder.width, part.tokens, words)
        else:
            self.projection = Projection(part.encoder.embed, part.tokens, words)
        for attention in attentions(unet):
            before = attention.processor if isinstance(attention.processor, ImageAttention) else None
            attention.set_processor(ImageAttention(words, attention.inner_dim, before))
        # Stored because another IP-Adapter may replace them by nested ones.
        self._processors = tuple(cast(ImageAttention, attention.processor) for attention in attentions(unet))

    def forward(
        self, x: Tensor, t: Tensor, conditioning: Conditioning, added: Mapping[str, Any] | None = None
    ) -> Tensor:
        """The denoiser's output. Raises RecipeError if there is no encoding of the picture."""
        embedding = conditioning.pictures.get(self.part.name)
        if embedding is None:
            raise RecipeError(
                "the denoiser looks at a picture {name!r}, but no condition of the level gives one", name=self.part.name
            )
        weight = conditioning.scalars[weight_name(self.part.name)].to(x)[:, :, None]
        image_tokens = (self.projection(embedding.to(x)), weight) if weight.any() else None
        for processor in self._processors:
            processor.image_tokens = image_tokens
        try:
            return self.denoiser(x, t, conditioning, added)
        finally:
            for processor in self._processors:
                processor.image_tokens = None

    def inputs(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """The arguments of the UNet."""
        return self.denoiser.inputs(x, t, conditioning)

    def look(self, values: Tensor) -> Tensor:
        """Encodes normalised pictures [B, 3, size, size]: the pooled embedding [B, 1, embed], or the penultimate
        layer's output for all patches, [B, L, width].
        """
        if self.part.plus is None and not self.part.full:
            return self.encoder.model(values).image_embeds[:, None]
        return self.encoder.model(values, output_hidden_states=True).hidden_states[-2]

    def blank(self) -> Tensor:
        """The encoding of no picture: zeros or, for patches, that of a zero input, [1, L, width]."""
        size = self.part.encoder.size
        if self.part.plus is None and not self.part.full:
            return self.encoder.mean.new_zeros(1, 1, self.part.encoder.embed)
        return self.look(self.encoder.mean.new_zeros(1, 3, size, size))


def attentions(unet: nn.Module) -> Iterator[Any]:
    """The cross-attentions of diffusers' UNet, in the order of IP-Adapter's files."""
    # Down, up, then middle: the order of the UNet's own modules.
    return (module for name, module in unet.named_modules() if name.endswith(".attn2"))


class ImageAttention(nn.Module):
    """diffusers' cross-attention to the text, or to another picture (``before``), plus that to the picture's tokens."""

    def __init__(self, words: int, width: int, before: ImageAttention | None = None) -> None:
        super().__init__()
        from diffusers.models.attention_processor import AttnProcessor2_0

        self.to_k_ip = nn.Linear(words, width, bias=False)
        self.to_v_ip = nn.Linear(words, width, bias=False)
        self.own: Any = AttnProcessor2_0() if before is None else before
        #: The picture's tokens [R, N, D] and its weight [R, 1, 1], during a forward pass.
        self.image_tokens: tuple[Tensor, Tensor] | None = None

    def forward(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """[R, L, width] -> [R, L, width]."""
        output = self.own(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        if self.image_tokens is None:
            return output
        tokens, weight = self.image_tokens
        q, k, v = (
            value.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for value in (attn.to_q(hidden_states), self.to_k_ip(tokens), self.to_v_ip(tokens))
        )
        attended = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        # The same output projection; its bias was added with the text's.
        return output + weight * functional.linear(attended, attn.to_out[0].weight)


class Projection(nn.Module):
    """[B, 1, embed] -> [B, tokens, words]."""

    def __init__(self, embed: int, tokens: int, words: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.proj = nn.Linear(embed, tokens * words)
        self.norm = nn.LayerNorm(words)

    def forward(self, encoding: Tensor) -> Tensor:
        """The picture's tokens."""
        return self.norm(self.proj(encoding[:, 0]).unflatten(-1, (self.tokens, -1)))


class FullProjection(nn.Module):
    """[B, L, encoder_width] -> [B, L, words]: a token for each patch."""

    def __init__(self, encoder_width: int, words: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Linear(encoder_width, encoder_width), nn.GELU(), nn.Linear(encoder_width, words), nn.LayerNorm(words)
        )

    def forward(self, encoding: Tensor) -> Tensor:
        """The picture's tokens."""
        return self.proj(encoding)


class Resampler(nn.Module):
    """[B, L, encoder_width] -> [B, tokens, words], by learned queries (the Perceiver resampler of arXiv:2204.14198,
    section 3.1.1).
    """

    def __init__(self, part: Resampled, encoder_width: int, tokens: int, words: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, tokens, part.width) / math.sqrt(part.width))
        self.proj_in = nn.Linear(encoder_width, part.width)
        self.proj_out = nn.Linear(part.width, words)
        self.norm_out = nn.LayerNorm(words)
        self.layers = nn.ModuleList(nn.ModuleList([Reading(part), _feed(part)]) for _ in range(part.depth))

    def forward(self, encoding: Tensor) -> Tensor:
        """The picture's tokens."""
        latents = self.latents.expand(len(encoding), -1, -1)
        places = self.proj_in(encoding)
        for layer in self.layers:
            reading, feed = cast(nn.ModuleList, layer)
            latents = latents + reading(places, latents)
            latents = latents + feed(latents)
        return self.norm_out(self.proj_out(latents))


class Reading(nn.Module):
    """Queries [B, N, D] attend to patches [B, L, D] and to each other."""

    def __init__(self, part: Resampled) -> None:
        super().__init__()
        inner = part.heads * part.head
        self.heads = part.heads
        self.norm1 = nn.LayerNorm(part.width)
        self.norm2 = nn.LayerNorm(part.width)
        self.to_q = nn.Linear(part.width, inner, bias=False)
        self.to_kv = nn.Linear(part.width, inner * 2, bias=False)
        self.to_out = nn.Linear(inner, part.width, bias=False)

    def forward(self, places: Tensor, latents: Tensor) -> Tensor:
        """The updated queries, [B, N, D]."""
        places, latents = self.norm1(places), self.norm2(latents)
        keys, values = self.to_kv(torch.cat([places, latents], dim=1)).chunk(2, dim=-1)
        q, k, v = (
            value.unflatten(-1, (self.heads, -1)).transpose(1, 2) for value in (self.to_q(latents), keys, values)
        )
        return self.to_out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _feed(part: Resampled) -> nn.Sequential:
    inner = part.width * part.feed
    return nn.Sequential(
        nn.LayerNorm(part.width),
        nn.Linear(part.width, inner, bias=False),
        nn.GELU(),
        nn.Linear(inner, part.width, bias=False),
    )


def adapter_state(unet: nn.Module, state: Mapping[str, Tensor], within: str = "denoiser.model.") -> dict[str, Tensor]:
    """The tensors of a published file ("image_proj...", "ip_adapter.1.to_k_ip.weight") under the names that they have
    in an ``ImagePromptedDenoiser`` whose UNet is at ``within``; those of unknown layers keep their names.
    """
    paths = [name for name, _ in unet.named_modules() if name.endswith(".attn2")]
    named: dict[str, Tensor] = {}
    for key, value in state.items():
        head, _, rest = key.partition(".")
        number, _, end = rest.partition(".")
        if head == "image_proj":
            named[f"projection.{rest}"] = value
        elif head == "ip_adapter" and number.isdigit() and int(number) % 2 and int(number) // 2 < len(paths):
            # The files' numbers count the self-attentions too, which have no tensors.
            named[f"{within}{paths[int(number) // 2]}.processor.{end}"] = value
        else:
            named[key] = value
    return named
