"""Pictures whose opposite edges meet: convolutions whose padding goes on at the other edge.

A network that knows places by zero-padded convolutions alone becomes one on a torus with circular padding: whatever
crosses an edge comes in at the other, and no place of the picture is an edge to it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn
from torch.nn import functional


@contextmanager
def circular(module: nn.Module, axes: str) -> Generator[None]:
    """Inside, the convolutions of a module are padded with what stands at the other edge, along "x", "y" or "both" axes
    ("" leaves them as they are).
    """
    changed = [one for one in module.modules() if axes and isinstance(one, nn.Conv2d) and any(_padding(one))]
    try:
        for one in changed:
            # Where a module looks it up; what a LoRA or a hook wraps calls it as well.
            one.__dict__["_conv_forward"] = partial(_convolved, one, axes)
        yield
    finally:
        for one in changed:
            one.__dict__.pop("_conv_forward", None)


def _padding(layer: nn.Conv2d) -> tuple[int, int]:
    """Rows and columns that a layer is padded by, at each side."""
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
