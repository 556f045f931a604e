"""Measures on normalised embeddings: CLIP similarity, CLIP-R, diversity of a prompt's pictures, agreement between
spellings or languages of a prompt; and near-copies of training pictures by pHash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bimo.curation.dedup.duplicates import SQUARE, hashed
from bimo.curation.dedup.hamming_index import Neighbours

Vectors = NDArray[np.float32]
#: The number of texts among which CLIP-R looks for the right one (arXiv:2104.08826: 99 others).
CANDIDATES = 100
#: Bits of a 64 bit pHash within which two pictures are near-copies.
COPY_BITS = 8
THUMB = 64


def own_similarity(pictures: Vectors, texts: Vectors) -> list[float]:
    """The cosine of each picture [N, D] with its own text [N, D]."""
    return [float(value) for value in (pictures * texts).sum(1)]


def clip_r(pictures: Vectors, texts: Vectors, names: Sequence[str], seed: int = 0) -> list[bool]:
    """Whether a picture is nearer to its own text than to 99 random others (all others if there are fewer). Rows with
    the same name have the same text and are not each other's candidates.
    """
    rng = np.random.default_rng(seed)
    first = {name: row for row, name in reversed(list(enumerate(names)))}
    distinct = np.array(list(first.values()))
    right: list[bool] = []
    for row, name in enumerate(names):
        others = distinct[distinct != first[name]]
        if len(others) > CANDIDATES - 1:
            others = rng.choice(others, CANDIDATES - 1, replace=False)
        best = float((texts[others] @ pictures[row]).max()) if len(others) else -1.0
        right.append(float(texts[row] @ pictures[row]) > best)
    return right


def spread(vectors: Vectors, names: Sequence[str]) -> dict[str, float]:
    """For each name with two or more pictures, the mean of 1 - cosine between them."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    spreads: dict[str, float] = {}
    for name, own_rows in rows.items():
        if len(own_rows) > 1:
            cosines = vectors[own_rows] @ vectors[own_rows].T
            spreads[name] = float(1 - cosines[np.triu_indices(len(own_rows), 1)].mean())
    return spreads


def thumbs(pictures: Sequence[Image.Image]) -> Vectors:
    """[N, 12288]: pictures at 64 x 64, minus their mean colour, normalised. A substitute for CLIP embeddings that
    captures the layout of colours but no content.
    """
    rows = [np.asarray(p.convert("RGB").resize((THUMB, THUMB), Image.Resampling.BOX), np.float32) for p in pictures]
    flat = np.stack(rows).reshape(len(rows), -1) if rows else np.zeros((0, THUMB * THUMB * 3), np.float32)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def pairs_alike(vectors: Vectors, pairs: Sequence[tuple[int, int]]) -> list[float]:
    """The cosine of each pair of rows."""
    return [float(vectors[a] @ vectors[b]) for a, b in pairs]


def perceptual_hashes(pictures: Sequence[Image.Image]) -> NDArray[np.uint64]:
    """[N] pHash, the same as in curation's duplicate search."""
    squares = (p.convert("L").resize((SQUARE, SQUARE), Image.Resampling.BILINEAR, reducing_gap=1.0) for p in pictures)
    return np.array([hashed(np.asarray(square, np.float32))[0][0] for square in squares], np.uint64)


def near_copies(drawn: NDArray[np.uint64], known: NDArray[np.uint64], bits: int = COPY_BITS) -> Mapping[int, int]:
    """Maps rows of drawn pictures to rows of known ones whose pHash differs in at most ``bits`` bits."""
    if not len(drawn) or not len(known):
        return {}
    pairs = Neighbours(known).within(drawn, bits)
    assert pairs is not None
    return {int(a): int(b) for a, b in zip(*pairs, strict=True)}
