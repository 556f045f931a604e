"""Seamless pictures: circular padding of convolutions, so that opposite edges are neighbours.

A network in which zero-padded convolutions alone know positions becomes one on a torus by circular padding: no position
of the picture is at an edge.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn
from torch.nn import functional


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
