"""Answers the expected picture E[x | words] at once: the first level of a two-level system.

A regression on latents learns what a word looks like at a thousandth of the cost of a diffusion step per sample; a
diffusion level that takes its answer as a hint has only to make it sharp. Words are read by learned queries (the
pooling by multi-head attention of arXiv:1810.00825, section 3.2); a pose moves the features before the last
convolutions, as a spatial transformer does (arXiv:1506.02025).

`Refine` is the other half: a denoiser for rectified flow that begins where that hint leaves off. If x is the hint plus
Gaussian noise, the best answer to x_t is known in closed form, and a network has only to add what is not Gaussian: the
preconditioning of arXiv:2206.00364 (section 5), about a conditional mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from bimo.core.part import Part
from bimo.core.types import Conditioning
from bimo.diffusion.schedule import expand

POSE_WIDTH = 5
POSE_AT_REST = (0.0, 1.0, 0.0, 0.0, 0.0)
#: What one unit of each number of a pose is to a network: about a deviation of the data's.
POSE_SPREAD = (1.0, 0.1, 0.05, 0.05, 6.0)


@dataclass(frozen=True, kw_only=True)
class Expected(Part):
    """Tokens of width ``text`` -> ``channels`` x ``size`` x ``size``, through ``queries`` and ``blocks`` of ``width``.

    ``moved`` of the ``maps`` feature maps follow the pose, the rest stay: things move, backgrounds do not.
    """

    channels: int = 8
    size: int = 16
    text: int = 192
    vector: int = 256
    queries: int = 8
    width: int = 1024
    blocks: int = 2
    maps: int = 64
    moved: int = 48
    pose: str = ""

    def build(self) -> ExpectedDenoiser:
        """The module."""
        return ExpectedDenoiser(self)

    def tiny(self) -> Self:
        """Width 16; the text widths of tiny towers."""
        return replace(self, text=16, vector=min(self.vector, 16), queries=2, width=16, blocks=1, maps=8, moved=4)


class Block(nn.Module):
    """x + MLP(LayerNorm(x)), the last layer beginning at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, D] -> [B, D]."""
        return x + self.second(nn.functional.silu(self.first(self.norm(x))))


class ExpectedDenoiser(nn.Module):
    """Ignores x, which is nothing but noise at the last time, and t; answers [R, C, h, w]."""

    rest: Tensor
    spread: Tensor

    def __init__(self, part: Expected) -> None:
        super().__init__()
        self.part = part
        half = part.size // 2
        self.register_buffer("rest", torch.tensor(POSE_AT_REST), persistent=False)
        self.register_buffer("spread", torch.tensor(POSE_SPREAD), persistent=False)
        self.query = nn.Parameter(torch.randn(part.queries, part.text) / math.sqrt(part.text))
        self.keys = nn.Linear(part.text, part.text * 2)
        self.enter = nn.Linear(part.queries * part.text + part.vector + (POSE_WIDTH if part.pose else 0), part.width)
        self.blocks = nn.ModuleList(Block(part.width) for _ in range(part.blocks))
        self.leave = nn.Sequential(nn.LayerNorm(part.width), nn.Linear(part.width, part.maps * half * half))
        self.up = nn.Conv2d(part.maps, part.maps * 4, 3, padding=1)
        self.mix = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(part.maps, part.maps, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(part.maps, part.maps, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(part.maps, part.channels, 3, padding=1),
        )

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The expected x under the words and the pose."""
        part = self.part
        read = self._read(conditioning)
        h = self.enter(read)
        for block in self.blocks:
            h = block(h)
        half = part.size // 2
        maps = self.leave(h).reshape(-1, part.maps, half, half)
        maps = nn.functional.pixel_shuffle(self.up(nn.functional.silu(maps)), 2)
        if part.pose:
            maps = torch.cat(
                [moved(maps[:, : part.moved], conditioning.scalars[part.pose]), maps[:, part.moved :]], dim=1
            )
        answer = self.mix(maps)
        if answer.shape[-2:] != x.shape[-2:]:
            # torch has no such resizing of half-precision numbers.
            whole = nn.functional.interpolate(answer.float(), size=x.shape[-2:], mode="bicubic", antialias=True)
            answer = whole.to(answer.dtype)
        return answer

    def _read(self, conditioning: Conditioning) -> Tensor:
        """[R, queries x text + vector + pose]: what each query finds among the words, the pooled text, the pose."""
        stream = conditioning.streams[0]
        keys, values = self.keys(stream.tokens).chunk(2, dim=-1)
        scores = torch.einsum("qd,bld->bql", self.query, keys) / math.sqrt(self.part.text / 8)
        if stream.mask is not None:
            scores = scores.masked_fill(~stream.mask[:, None], float("-inf"))
        found = [(scores.softmax(-1) @ values).flatten(1)]
        if conditioning.vector is not None:
            found.append(conditioning.vector)
        if self.part.pose:
            found.append(((conditioning.scalars[self.part.pose] - self.rest) / self.spread).to(found[0].dtype))
        return torch.cat(found, dim=1)


def moved(maps: Tensor, pose: Tensor) -> Tensor:
    """Feature maps [B, C, h, w] under poses [B, 5]: flip (0 or 1), scale, dx, dy (of the side), angle in degrees.

    The thing is flipped, turned counter-clockwise, scaled about the centre, then shifted; the map is read where each
    place came from, edges repeated.
    """
    flip, scale, dx, dy, angle = pose.unbind(1)
    radians = angle * (math.pi / 180)
    cos, sin = radians.cos() / scale, radians.sin() / scale
    sign = 1 - 2 * flip
    # In grid_sample's square of side 2, y down: p = R S F q + 2 d, so q = F S^-1 R^-1 (p - 2 d).
    row_x = torch.stack([sign * cos, sign * -sin], dim=1)
    row_y = torch.stack([sin, cos], dim=1)
    shift = torch.stack([2 * dx, 2 * dy], dim=1)
    matrix = torch.stack([row_x, row_y], dim=1)
    offset = -(matrix @ shift.unsqueeze(-1))
    grid = nn.functional.affine_grid(torch.cat([matrix, offset], dim=2), list(maps.shape), align_corners=False)
    return nn.functional.grid_sample(maps, grid, padding_mode="border", align_corners=False)


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
