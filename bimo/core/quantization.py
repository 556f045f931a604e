"""Weights as int8 in a file, one float32 scale for each row of the first axis: symmetric, no zero point.

A matrix W [out, ...] is stored as ``round(W / s)`` with s = max |W| / 127 over each of its rows, which is its output
channel in a linear layer or a convolution, its word in a table (arXiv:2208.07339, section 2, vector-wise). They are
turned back into float32 when they are read: this saves room in the file, not in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bimo.core.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

#: What a file of safetensors says of itself, and the one thing that it may say.
KEY = "bimo.quantization"
INT8 = "int8"
#: The scales of NAME are the tensor NAME.scale, [out].
SCALE = ".scale"
LARGEST = 127
#: What is smaller stays as it is, as do vectors: norms and biases are few, and more than their share of the picture.
FEWEST = 4096


def quantized(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with int8 and scales in the place of its larger floating matrices; other tensors as they are."""
    import torch

    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if not value.is_floating_point() or value.ndim < 2 or value.numel() < FEWEST:
            found[name] = value
            continue
        rows = value.detach().float().flatten(1)
        # A row of zeros has a scale that is none, or zero would be divided by zero.
        scale = (rows.abs().amax(1) / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        found[name] = (rows / scale[:, None]).round().clamp(-LARGEST, LARGEST).to(torch.int8).reshape(value.shape)
        found[name + SCALE] = scale
    return found


def dequantized(value: Tensor, scale: Tensor) -> Tensor:
    """int8 [out, ...] and scales [out] -> float32 [out, ...]."""
    return value.float() * scale.reshape(-1, *[1] * (value.ndim - 1))


def is_quantized(told: Mapping[str, str], source: object) -> bool:
    """Whether a file that says this of itself holds int8. Raises WeightsError for a kind that is not known here."""
    kind = told.get(KEY, "")
    if kind not in ("", INT8):
        raise WeightsError(
            "{source} is quantized as {kind}, of which this version knows int8 alone; ask for another file",
            source=source,
            kind=kind,
        )
    return kind == INT8
