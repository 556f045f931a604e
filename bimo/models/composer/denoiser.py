"""A denoiser with conditions from any aspect of a picture, as in Composer (arXiv:2302.09778, section 2.2)."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.tensors import Conditioning, TextEncoding
from bimo.diffusion.denoiser import DenoiserWrapper


@dataclass(frozen=True, kw_only=True)
class Composed(Part):
    """``denoiser`` with two additional inputs. ``maps`` (name, channels), in the order of the level's conditioners,
    each pass through convolutions and are summed to ``width`` channels, concatenated to x; further spatial conditions
    are concatenated unchanged. ``scalars`` (name, width) are projected twice: added to the pooled text, which is added
    to the timestep, and as ``tokens`` further text tokens, ``text`` wide. ``time`` is False for text that is not
    pooled.
    """

    denoiser: Part
    maps: tuple[tuple[str, int], ...] = ()
    scalars: tuple[tuple[str, int], ...] = ()
    width: int = 64
    text: int = 768
    tokens: int = 4
    time: bool = True

    def build(self) -> ComposedDenoiser:
        """The module."""
        return ComposedDenoiser(self)

    def tiny(self) -> Self:
        """Width 8, the text widths of tiny text encoders; the denoiser gets as many channels."""
        small: Any = self.denoiser.tiny()
        fewer = self.width - 8 if self.maps else 0
        scalars = tuple((name, min(width, 16)) for name, width in self.scalars)
        return replace(self, denoiser=replace(small, spatial=small.spatial - fewer), scalars=scalars, width=8, text=16)


class ComposedDenoiser(DenoiserWrapper):
    """x [R, C, h, w], t [R] and conditioning -> the output of the inner denoiser."""

    def __init__(self, part: Composed) -> None:
        super().__init__()
        self.part = part
        self.maps = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Conv2d(channels, part.width, 3, padding=1),
                    nn.SiLU(),
                    nn.Conv2d(part.width, part.width, 3, padding=1),
                )
                for name, channels in part.maps
            }
        )
        pooled = part.scalars if part.time else ()
        self.pooled = nn.ModuleDict({name: nn.Linear(width, part.text) for name, width in pooled})
        self.tokens = nn.ModuleDict({name: nn.Linear(width, part.text * part.tokens) for name, width in part.scalars})
        self.denoiser = cast(Any, part.denoiser).build()

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's output. Raises RecipeError if maps or text differ from those it was built for."""
        return self.denoiser(x, t, replace(self._words(conditioning), spatial=self._summed(x, conditioning.spatial)))

    def _summed(self, x: Tensor, spatial: Tensor | None) -> Tensor | None:
        """The maps as [R, width + further channels, h, w]."""
        if not self.part.maps:
            return spatial
        counts = [channels for _, channels in self.part.maps]
        width = 0 if spatial is None else spatial.shape[1]
        if spatial is None or width < sum(counts):
            listed = ", ".join(f"{name} {channels}" for name, channels in self.part.maps)
            raise RecipeError(
                "Composed is told of the maps {listed}; the conditions give {found} channels",
                listed=listed,
                found=width,
            )
        *each, left = spatial.split([*counts, width - sum(counts)], dim=1)
        summed = torch.stack([layer(map_) for layer, map_ in zip(self.maps.values(), each, strict=True)]).sum(0)
        return torch.cat([summed, left], dim=1)

    def _words(self, conditioning: Conditioning) -> Conditioning:
        """The text with what the scalars add to it."""
        if not self.part.scalars:
            return conditioning
        words, pooled = conditioning.streams[0], conditioning.vector
        widths = {words.tokens.shape[-1]}
        if self.part.time:
            widths.add(0 if pooled is None else pooled.shape[-1])
        if widths != {self.part.text}:
            raise RecipeError(
                "Composed reads words and a pooled text of {text}; it is given {found}",
                text=self.part.text,
                found=sorted(widths),
            )
        values = {name: conditioning.scalars[name] for name, _ in self.part.scalars}
        if pooled is not None and self.part.time:
            pooled = pooled + torch.stack([self.pooled[name](value) for name, value in values.items()]).sum(0)
        more = [self.tokens[name](v).reshape(len(v), self.part.tokens, self.part.text) for name, v in values.items()]
        tokens = torch.cat([words.tokens, *more], dim=1)
        mask = words.mask
        if mask is not None:
            mask = nn.functional.pad(mask, (0, tokens.shape[1] - mask.shape[1]), value=True)
        return replace(conditioning, streams=(TextEncoding(tokens, mask, words.pooled),), vector=pooled)
