"""Two denoisers for one diffusion, one for the noisy timesteps and one for the clean (arXiv:2312.16486, section
3.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from bimo.core.part import Part
from bimo.core.tensors import Conditioning, TextEncoding
from bimo.diffusion.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True)
class Experts(Part):
    """``high`` predicts for timesteps t of ``boundary`` and more (the structure of a picture), ``low`` below it (its
    texture). The boundary is a timestep of the noise schedule, whatever the steps of a drawing.

    While one runs the other is not read: memory-mapped weights stay on disk until they are used.
    """

    high: Part
    low: Part
    boundary: float = 500.0

    def build(self) -> ExpertsDenoiser:
        """The module."""
        return ExpertsDenoiser(self)


class ExpertsDenoiser(Denoiser):
    """x [R, C, h, w], t [R] and conditioning -> [R, C, h, w]; timesteps of both experts may be mixed."""

    def __init__(self, part: Experts) -> None:
        super().__init__()
        self.part = part
        self.high = cast(nn.Module, cast(Any, part.high).build())
        self.low = cast(nn.Module, cast(Any, part.low).build())

    @property
    def shift_equivariant(self) -> bool:
        """Whether both experts are."""
        return all(cast(Denoiser, expert).shift_equivariant for expert in (self.high, self.low))

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The output, each row by its own expert."""
        early = t >= self.part.boundary
        if bool(early.all()):
            return self.high(x, t, conditioning)
        if not bool(early.any()):
            return self.low(x, t, conditioning)
        output = torch.empty(0)
        for expert, rows in ((self.high, early), (self.low, ~early)):
            part = expert(x[rows], t[rows], chosen(conditioning, rows))
            output = part.new_empty(len(x), *part.shape[1:]) if not len(output) else output
            output = output.index_put((rows.nonzero()[:, 0],), part)
        return output


def chosen(conditioning: Conditioning, rows: Tensor) -> Conditioning:
    """The conditioning of the selected rows, ``rows`` [R] bool."""

    def of(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[rows]

    streams = tuple(TextEncoding(e.tokens[rows], of(e.mask), of(e.pooled)) for e in conditioning.streams)
    scalars = {name: value[rows] for name, value in conditioning.scalars.items()}
    return Conditioning(streams, of(conditioning.vector), of(conditioning.spatial), scalars)
