"""Casts at the borders of modules whose weights have another dtype than their inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from bimo.core.tensors import Conditioning, TextEncoding


def dtype_of(module: nn.Module) -> torch.dtype | None:
    """The dtype of a module's first floating-point parameter; None if it has none."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), None)


def run_in_own_dtype(module: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Runs ``function`` on x in the dtype of a module's weights; the result has the dtype of x."""
    kind = dtype_of(module) or x.dtype
    return function(x) if kind == x.dtype else function(x.to(kind)).to(x.dtype)


def cast_conditioning(conditioning: Conditioning, dtype: torch.dtype) -> Conditioning:
    """The conditioning with its floating-point tensors as ``dtype``."""
    negative = conditioning.negative
    return replace(
        conditioning,
        streams=tuple(cast_encoding(stream, dtype) for stream in conditioning.streams),
        vector=_cast(conditioning.vector, dtype),
        spatial=_cast(conditioning.spatial, dtype),
        scalars=_cast_each(conditioning.scalars, dtype),
        pictures=_cast_each(conditioning.pictures, dtype),
        negative=None if negative is None else cast_encoding(negative, dtype),
    )


def _cast_each(values: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in values.items()}


def cast_encoding(encoding: TextEncoding, dtype: torch.dtype) -> TextEncoding:
    """The encoding with its floating-point tensors as ``dtype``."""
    if encoding.tokens.dtype == dtype or not encoding.tokens.is_floating_point():
        return encoding
    return replace(encoding, tokens=encoding.tokens.to(dtype), pooled=_cast(encoding.pooled, dtype))


def _cast(value: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if value is None else value.to(dtype)
