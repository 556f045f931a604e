"""Seamless pictures: denoising and decoding on a torus, so that opposite edges are neighbours.

A network in which zero-padded convolutions alone know positions is put onto a torus by circular padding: no position of
the picture is at an edge. Any other denoiser, such as a transformer with position embeddings, is shown x rolled by
another shift at each step (noise rolling of ControlMat, arXiv:2309.01700); two shifts half a side apart are averaged,
each weighted by the distance from its edges, as windows are in MultiDiffusion (arXiv:2302.08113). A level that works
out x from the words alone has nothing to roll: its picture is replaced by its periodic component (Moisan, "Periodic
plus smooth image decomposition", J. Math. Imaging Vis. 39, 2011).
"""

# torch leaves its Fourier transforms untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from bimo.core.tensors import DenoiserInput
from bimo.diffusion.denoiser import Denoiser
from bimo.diffusion.space import Space

#: Positions of x that are repeated at each side where a space codes a picture that goes on at the other edge.
MARGIN = 8
#: Separates the shifts from the other random numbers of a seed.
SHIFT_SEED = 0x5EA7
#: The least weight of a position in the average of two shifts: where both have an edge.
LEAST = 1e-3


@contextmanager
def circular(module: nn.Module, axes: str) -> Generator[None]:
    """In this context the convolutions of a module use circular padding along "x", "y" or "both" axes ("" for none)."""
    # Without axes modules are not walked through: at each step that takes some percent of a small model's time.
    layers = module.modules() if axes else ()
    changed = [one for one in layers if isinstance(one, nn.Conv2d) and any(_padding(one))]
    try:
        for one in changed:
            # Set on the instance, where modules look it up, and where wrappers such as LoRA and hooks call it.
            one.__dict__["_conv_forward"] = partial(_convolved, one, axes)
        yield
    finally:
        for one in changed:
            one.__dict__.pop("_conv_forward", None)


def _padding(layer: nn.Conv2d) -> tuple[int, int]:
    """The padding of a layer at each side, rows and columns."""
    if isinstance(layer.padding, str):
        if layer.padding == "valid":
            return 0, 0
        rows, columns = (step * (side - 1) // 2 for step, side in zip(layer.dilation, layer.kernel_size, strict=True))
        return rows, columns
    return layer.padding[0], layer.padding[1]


def _convolved(layer: nn.Conv2d, axes: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows, columns = _padding(layer)
    across, down = axes in ("x", "both"), axes in ("y", "both")
    if columns and across:
        x = functional.pad(x, (columns, columns, 0, 0), mode="circular")
    if rows and down:
        x = functional.pad(x, (0, 0, rows, rows), mode="circular")
    left = (0 if down else rows, 0 if across else columns)
    return functional.conv2d(x, weight, bias, layer.stride, left, layer.dilation, layer.groups)


def is_rolled(denoiser: Denoiser, shape: tuple[int, ...]) -> bool:
    """Whether x of this shape is rolled for a denoiser, rather than its convolutions padded circularly."""
    return denoiser.reads_x and not denoiser.shift_equivariant and len(shape) == 3


@dataclass(frozen=True)
class Rolling:
    """The shifts by which x is rolled along ``axes`` for a denoiser, by the seed of a picture and the step."""

    denoiser: Denoiser
    axes: str
    seed: int

    def predict(self, inputs: DenoiserInput) -> Generator[DenoiserInput, Tensor, Tensor]:
        """The denoiser's output for x [R, C, h, w], of two shifts of x and of the conditioning's maps."""
        rows, columns = inputs.x.shape[-2:]
        total = weights = torch.zeros(())
        for shift in self.shifts(inputs.step, (rows, columns)):
            # What was kept of a drawing, such as the keys of reference pictures, was kept at another shift.
            rolled = replace(
                inputs,
                x=torch.roll(inputs.x, shift, (-2, -1)),
                conditioning=self.denoiser.roll(inputs.conditioning, shift, (rows, columns)),
                states=(),
            )
            output = yield rolled
            weight = _from_edges(rows, "y" in self._axes)[:, None] * _from_edges(columns, "x" in self._axes)[None]
            weight = (weight + LEAST).to(output)
            back = (-shift[0], -shift[1])
            total = total.to(output) + torch.roll(weight * output, back, (-2, -1))
            weights = weights.to(output) + torch.roll(weight, back, (-2, -1))
        return total / weights

    def shifts(self, step: int, sides: tuple[int, int]) -> list[tuple[int, int]]:
        """Two shifts (rows, columns), half a side apart along the rolled axes, in whole patches of the denoiser."""
        generator = torch.Generator().manual_seed((self.seed ^ SHIFT_SEED) * 1000 + step)
        unit = self.denoiser.multiple
        first: list[int] = []
        second: list[int] = []
        for axis, side in zip("yx", sides, strict=True):
            drawn = int(torch.randint(max(1, side // unit), (), generator=generator, device="cpu")) * unit
            first.append(drawn if axis in self._axes else 0)
            second.append((drawn + side // 2 // unit * unit) % side if axis in self._axes else 0)
        return [(first[0], first[1]), (second[0], second[1])]

    @property
    def _axes(self) -> str:
        return "xy" if self.axes == "both" else self.axes


def _from_edges(side: int, rolled: bool) -> Tensor:
    """Weights [side] of the positions of a canvas: 0 at its edges, 1 in the middle; two of them half a side apart sum
    to 1.
    """
    places = (torch.arange(side, dtype=torch.float32) + 0.5) / side
    return 0.5 - 0.5 * torch.cos(2 * math.pi * places) if rolled else torch.ones(side)


def pad(values: Tensor, axes: str, margin: int) -> Tensor:
    """[..., h, w] with ``margin`` positions of the other side before and after, along the axes."""
    for axis, dim in (("y", -2), ("x", -1)):
        if axes in (axis, "both"):
            side = values.shape[dim]
            places = torch.arange(-margin, side + margin, device=values.device) % side
            values = values.index_select(dim, places)
    return values


def crop(values: Tensor, axes: str, margin: int) -> Tensor:
    """[..., h, w] without the margin that ``pad`` added."""
    down, across = (slice(margin, -margin) if axes in (axis, "both") else slice(None) for axis in ("y", "x"))
    return values[..., down, across]


def periodic_x(space: Space, x: Tensor, axes: str) -> Tensor:
    """x [1, C, h, w] whose picture goes on at the other edge. The picture is made periodic rather than x itself, since
    an encoder codes what is at an edge otherwise than what is not; what coding loses stays as it was.
    """
    pixels = space.decode(x)
    factor = space.factor // space.shrink
    around = crop(space.encode(pad(periodic(pixels, axes), axes, MARGIN * factor)), axes, MARGIN)
    return x + around - space.encode(pixels)


def periodic(pixels: Tensor, axes: str) -> Tensor:
    """The periodic component of [..., H, W]: less the smooth one, whose Laplacian is what jumps across the edges."""
    jumps = torch.zeros_like(pixels)
    for axis, dim in (("y", -2), ("x", -1)):
        if axes in (axis, "both"):
            last = pixels.shape[dim] - 1
            jump = pixels.select(dim, last) - pixels.select(dim, 0)
            jumps.select(dim, 0).add_(jump)
            jumps.select(dim, last).sub_(jump)
    rows, columns = (2 * torch.cos(2 * math.pi * torch.arange(side) / side) for side in pixels.shape[-2:])
    laplacian = (rows[:, None] + columns[None] - 4).to(pixels.device)
    laplacian[0, 0] = 1.0
    smooth = torch.fft.fft2(jumps.float()) / laplacian
    smooth[..., 0, 0] = 0.0
    return pixels - torch.fft.ifft2(smooth).real.to(pixels)
