"""The diffusion transformer of PixArt (arXiv:2310.00426)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from bimo.core.part import Part
from bimo.core.tensors import Conditioning
from bimo.diffusion.denoiser import PublishedDenoiser
from bimo.models.pixart.network import PixArtModel


@dataclass(frozen=True, kw_only=True)
class PixArt(Part):
    """A PixArt transformer. ``channels`` are those of x, ``spatial`` those of conditions concatenated to it, ``size``
    the side of x.

    Besides the text's tokens it may attend to the pooled text (``vector`` wide) and to small vectors of conditions
    (``scalars``: name and width), each as one more token; 0 and () for none.
    """

    channels: int = 4
    spatial: int = 0
    size: int = 64
    patch: int = 2
    width: int = 1152
    heads: int = 16
    layers: int = 28
    text: int = 4096
    vector: int = 0
    scalars: tuple[tuple[str, int], ...] = ()

    def build(self) -> PixArtDenoiser:
        """The module."""
        return PixArtDenoiser(self)

    def tiny(self) -> Self:
        """Width 16, two layers; the text widths of tiny text encoders."""
        return replace(self, width=16, heads=2, layers=2, text=16, vector=min(self.vector, 16))


class PixArtDenoiser(PublishedDenoiser):
    """x [R, C, h, w], t [R] and conditioning -> [R, C, h, w]."""

    def __init__(self, part: PixArt) -> None:
        super().__init__()
        self.part = part
        self.multiple = part.patch  # a side of x must be a multiple of this
        self.model = PixArtModel(
            channels=part.channels + part.spatial,
            channels_out=part.channels,
            size=part.size,
            patch=part.patch,
            width=part.width,
            heads=part.heads,
            layers=part.layers,
            text=part.text,
        )
        self.vector = nn.Linear(part.vector, part.text) if part.vector else None
        self.scalars = nn.ModuleDict({name: nn.Linear(width, part.text) for name, width in part.scalars})
        if part.spatial:
            self._start_without_conditions()

    def _start_without_conditions(self) -> None:
        # Zero-initialised, so that training can continue from weights without the condition.
        projection: Any = self.model.pos_embed.proj
        if projection.weight.device.type != "meta":
            with torch.no_grad():
                projection.weight[:, self.part.channels :].mul_(0.2)

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's output."""
        stream = conditioning.streams[0]
        tokens = stream.tokens
        extra: list[Tensor] = []
        if self.vector is not None and conditioning.vector is not None:
            extra.append(self.vector(conditioning.vector))
        extra += [layer(conditioning.scalars[name]) for name, layer in self.scalars.items()]
        mask = stream.mask
        if extra:
            tokens = torch.cat([tokens, torch.stack(extra, dim=1)], dim=1)
            if mask is not None:
                mask = nn.functional.pad(mask, (0, len(extra)), value=True)
        if conditioning.spatial is not None:
            x = torch.cat([x, conditioning.spatial.to(x)], dim=1)
        return self.model(x, tokens, t, mask)
