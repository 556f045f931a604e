"""Merges, stacks and drops conditioning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from bimo.core.tensors import Batch, Conditioning, TextEncoding
from bimo.diffusion.conditioner import Conditioner


def merge_conditioning(base: Conditioning, extras: Sequence[Conditioning]) -> Conditioning:
    """Adds the output of conditioners: spatial maps are concatenated by channel, scalars and pictures by name."""
    spatial = [c.spatial for c in (base, *extras) if c.spatial is not None]
    scalars = {name: value for c in (base, *extras) for name, value in c.scalars.items()}
    pictures = {name: value for c in (base, *extras) for name, value in c.pictures.items()}
    return Conditioning(base.streams, base.vector, torch.cat(spatial, dim=1) if spatial else None, scalars, pictures)


def zero_scalars(conditioning: Conditioning, names: Sequence[str]) -> Conditioning:
    """The conditioning with the named scalars set to 0."""
    zeros = {name: torch.zeros_like(value) for name, value in conditioning.scalars.items() if name in names}
    return replace(conditioning, scalars={**conditioning.scalars, **zeros})


def zero_text(conditioning: Conditioning, rows: Tensor, masked: bool) -> Conditioning:
    """The conditioning with the text of some rows, [B] bool, set to zeros; with ``masked`` its tokens are masked as
    well.
    """

    def zeroed(value: Tensor) -> Tensor:
        return value.masked_fill(rows.reshape(-1, *[1] * (value.ndim - 1)), 0.0)

    def mask(stream: TextEncoding) -> Tensor | None:
        if not masked:
            return stream.mask
        shape = stream.tokens.shape[:2]
        return (torch.ones(shape, dtype=torch.bool) if stream.mask is None else stream.mask) & ~rows[:, None]

    streams = tuple(
        TextEncoding(zeroed(e.tokens), mask(e), None if e.pooled is None else zeroed(e.pooled))
        for e in conditioning.streams
    )
    vector = conditioning.vector
    return replace(conditioning, streams=streams, vector=None if vector is None else zeroed(vector))


def with_dropout(conditioner: Conditioner, value: Conditioning, batch: Batch) -> Conditioning:
    """The output of a conditioner, with its unconditional form in the rows that drop it."""
    rows = batch.dropped_conditions.get(conditioner.key)
    if rows is None:
        return value
    null = conditioner.unconditional(value)

    def chosen(conditional: Tensor, unconditional: Tensor) -> Tensor:
        return torch.where(rows.reshape(-1, *[1] * (conditional.ndim - 1)), unconditional, conditional)

    spatial = value.spatial
    return replace(
        value,
        spatial=None if spatial is None else chosen(spatial, cast(Tensor, null.spatial)),
        scalars={name: chosen(scalar, null.scalars[name]) for name, scalar in value.scalars.items()},
        pictures={name: chosen(picture, null.pictures[name]) for name, picture in value.pictures.items()},
    )


def stack_rows(rows: Sequence[Conditioning]) -> Conditioning:
    """Stacks conditionings of a few rows each; token streams are padded to the longest."""
    if len(rows) == 1:
        return rows[0]
    streams = tuple(_stacked_encodings([r.streams[i] for r in rows]) for i in range(len(rows[0].streams)))
    vector = None if rows[0].vector is None else torch.cat([cast(Tensor, r.vector) for r in rows])
    spatial = None if rows[0].spatial is None else torch.cat([cast(Tensor, r.spatial) for r in rows])
    scalars = {name: torch.cat([r.scalars[name] for r in rows]) for name in rows[0].scalars}
    pictures = {name: torch.cat([r.pictures[name] for r in rows]) for name in rows[0].pictures}
    away = [r.negative for r in rows if r.negative is not None]
    return Conditioning(streams, vector, spatial, scalars, pictures, _stacked_encodings(away) if away else None)


def _stacked_encodings(parts: Sequence[TextEncoding]) -> TextEncoding:
    length = max(p.tokens.shape[1] for p in parts)
    tokens = torch.cat([nn.functional.pad(p.tokens, (0, 0, 0, length - p.tokens.shape[1])) for p in parts])
    mask = None
    if any(p.mask is not None for p in parts) or any(p.tokens.shape[1] != length for p in parts):
        masks = [p.mask if p.mask is not None else torch.ones(p.tokens.shape[:2], dtype=torch.bool) for p in parts]
        mask = torch.cat([nn.functional.pad(m, (0, length - m.shape[1]), value=False) for m in masks])
    pooled = None if parts[0].pooled is None else torch.cat([cast(Tensor, p.pooled) for p in parts])
    return TextEncoding(tokens, mask, pooled)
