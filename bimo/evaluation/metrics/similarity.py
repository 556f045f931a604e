"""What is measured with vectors of length 1, a picture's and a text's: CLIP similarity, CLIP-R, how far apart pictures
of one prompt are, whether two spellings or languages give one picture, near-copies of training pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bimo.curation.dedup.duplicates import SQUARE, hashed
from bimo.curation.dedup.hamming_index import Neighbours

Vectors = NDArray[np.float32]
#: CLIP-R asks for the right one of so many texts (arXiv:2104.08826, 99 others).
CANDIDATES = 100
#: Bits of a 64 bit pHash within which two pictures are near-copies.
COPY_BITS = 8
THUMB = 64


def own_similarity(pictures: Vectors, texts: Vectors) -> list[float]:
    """The cosine of each picture [N, D] with its own text [N, D]."""
    return [float(value) for value in (pictures * texts).sum(1)]


def clip_r(pictures: Vectors, texts: Vectors, names: Sequence[str], seed: int = 0) -> list[bool]:
    """Whether a picture's own text is nearer than 99 others (all others where there are fewer). Rows of one of
    ``names`` have one text and are never each other's candidates.
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
    """Name of a prompt -> mean of 1 - cosine between its pictures, for those with two or more."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    found: dict[str, float] = {}
    for name, mine in rows.items():
        if len(mine) > 1:
            cosines = vectors[mine] @ vectors[mine].T
            found[name] = float(1 - cosines[np.triu_indices(len(mine), 1)].mean())
    return found


def thumbs(pictures: Sequence[Image.Image]) -> Vectors:
    """[N, 12288]: pictures at 64 x 64 without their mean colour, as vectors of length 1: a stand-in where there is no
    CLIP, which sees where colours lie and nothing of what they are.
    """
    rows = [np.asarray(p.convert("RGB").resize((THUMB, THUMB), Image.Resampling.BOX), np.float32) for p in pictures]
    flat = np.stack(rows).reshape(len(rows), -1) if rows else np.zeros((0, THUMB * THUMB * 3), np.float32)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def pairs_alike(vectors: Vectors, pairs: Sequence[tuple[int, int]]) -> list[float]:
    """The cosine of each pair of rows."""
    return [float(vectors[a] @ vectors[b]) for a, b in pairs]


def perceptual_hashes(pictures: Sequence[Image.Image]) -> NDArray[np.uint64]:
    """[N] pHash, as curation finds duplicates by."""
    squares = (p.convert("L").resize((SQUARE, SQUARE), Image.Resampling.BILINEAR, reducing_gap=1.0) for p in pictures)
    return np.array([hashed(np.asarray(square, np.float32))[0][0] for square in squares], np.uint64)


def near_copies(drawn: NDArray[np.uint64], known: NDArray[np.uint64], bits: int = COPY_BITS) -> Mapping[int, int]:
    """Row of a drawn picture -> row of a known one (training pictures) whose pHash is within some bits of its own."""
    if not len(drawn) or not len(known):
        return {}
    found = Neighbours(known).within(drawn, bits)
    assert found is not None
    return {int(a): int(b) for a, b in zip(*found, strict=True)}
