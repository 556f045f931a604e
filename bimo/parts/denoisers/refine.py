"""A denoiser for rectified flow that begins where a hint of x leaves off, and learns only the rest.

If x is the hint plus Gaussian noise of variance ``left``, the best answer to x_t is known in closed form; the network
adds what is not Gaussian. This is the preconditioning of arXiv:2206.00364 (section 5) about a conditional mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from bimo.core.part import Part
from bimo.core.types import Conditioning
from bimo.diffusion.schedule import expand


@dataclass(frozen=True, kw_only=True)
class Refine(Part):
    """``denoiser`` plus the Gaussian answer. The hint is the first spatial map, of x's own channels; a row whose hint
    is zeros has none, and its x has variance ``whole``. ``last`` is the time of noise alone.
    """

    denoiser: Part
    left: float = 0.3
    whole: float = 0.85
    last: float = 1000.0

    def build(self) -> RefineDenoiser:
        """The module."""
        return RefineDenoiser(self)


class RefineDenoiser(nn.Module):
    """x [R, C, h, w], t [R] and conditioning with a spatial hint -> the velocity noise - x, [R, C, h, w]."""

    def __init__(self, part: Refine) -> None:
        super().__init__()
        self.part = part
        self.denoiser = cast(nn.Module, cast(Any, part.denoiser).build())

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The answer to an ask."""
        assert conditioning.spatial is not None
        hint = conditioning.spatial[:, : x.shape[1]].to(x)
        told = hint.abs().amax(dim=(1, 2, 3)) > 0
        return self.denoiser(x, t, conditioning) + self.gaussian(x, t, hint, told)

    def gaussian(self, x: Tensor, t: Tensor, hint: Tensor, told: Tensor) -> Tensor:
        """E[noise - x | x_t, hint] for x = hint + N(0, v): with s = t / last and y = x_t - (1 - s) hint, of variance
        d = (1 - s)^2 v + s^2, it is (s - (1 - s) v) / d y - hint. ``told`` [R] says which rows have a hint.
        """
        s = expand(t.to(x) / self.part.last, x)
        v = expand(told.to(x) * (self.part.left - self.part.whole) + self.part.whole, x)
        d = (1 - s) ** 2 * v + s**2
        return (s - (1 - s) * v) / d * (x - (1 - s) * hint) - hint
