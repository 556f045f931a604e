"""Nearest neighbours by Hamming distance: all 64-bit hashes that differ from a hash in at most so many bits, exactly.

Multi-index hashing (Norouzi et al., arXiv:1307.2982): a hash is split into parts. Where two hashes differ in few bits,
one of their parts differs in still fewer, so that it is enough to look up each part with a bit or two flipped. The more
hashes there are, the longer the parts, so that few hashes share one.
"""

# numpy has no types; what crosses it here is named where it is kept.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np

BITS = 64
#: Up to so many hashes four parts of 16 bits are faster, above three of 22, 21 and 21.
FEW = 1 << 18
#: Pairs that are compared at once: each array of them takes 256 KB, which fits a processor's cache.
AT_ONCE = 1 << 15


@dataclass(frozen=True)
class _Part:
    """Bits of a hash from ``shift`` on: the hashes with ``key`` are ``places[starts[key] : starts[key + 1]]``."""

    shift: int
    width: int
    filled: np.ndarray
    starts: np.ndarray
    places: np.ndarray

    def keys(self, hashes: np.ndarray) -> np.ndarray:
        return ((hashes >> np.uint64(self.shift)) & np.uint64((1 << self.width) - 1)).astype(np.int64)


class Neighbours:
    """An index over ``hashes`` [N] uint64. It takes 4 bytes a hash and part, and up to 20 MB a part."""

    def __init__(self, hashes: np.ndarray) -> None:
        self.hashes = hashes
        self.parts = tuple(self._part(shift, width) for shift, width in _cut(4 if len(hashes) <= FEW else 3))

    def _part(self, shift: int, width: int) -> _Part:
        blank = np.zeros(0, np.int64)
        part = _Part(shift, width, blank, blank, blank)
        keys = part.keys(self.hashes)
        counts = np.bincount(keys, minlength=1 << width)
        kind = np.int32 if len(keys) < 1 << 31 else np.int64
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(kind)
        return _Part(shift, width, counts > 0, starts, np.argsort(keys, kind="stable").astype(kind))

    def within(self, queries: np.ndarray, bits: int, most: int | None = None) -> tuple[np.ndarray, np.ndarray] | None:
        """Queries [Q] uint64 -> places of queries and of the hashes that differ from them in at most ``bits``, [M]
        each; a pair may occur twice. None where there are more than ``most``.
        """
        total = 0
        batches = [np.zeros((2, 0), np.int64)]
        for part, radius in zip(self.parts, radii(bits, len(self.parts)), strict=True):
            for left, right in self._under(part, queries, radius) if radius >= 0 else ():
                near = np.bitwise_count(queries.take(left) ^ self.hashes.take(right)) <= bits
                batches.append(np.stack([left[near], right[near]]))
                total += batches[-1].shape[1]
                if most is not None and total > most:
                    return None
        left, right = np.concatenate(batches, axis=1)
        return left, right

    def _under(self, part: _Part, queries: np.ndarray, radius: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(places of queries, places of hashes) that differ in at most ``radius`` bits of a part."""
        flips = _flips(part.width, radius)
        keys_nearby = (part.keys(queries)[:, None] ^ flips).ravel()
        hit = np.flatnonzero(part.filled.take(keys_nearby))
        keys = keys_nearby.take(hit)
        query = hit // len(flips)
        first = part.starts.take(keys)
        count = part.starts.take(keys + 1) - first
        ends = np.cumsum(count, dtype=np.int64)
        # Split once there are so many pairs, at the end of a key.
        cuts = np.searchsorted(ends, np.arange(AT_ONCE, int(ends[-1]) if len(ends) else 0, AT_ONCE), "right")
        for low, high in zip([0, *cuts.tolist()], [*cuts.tolist(), len(ends)], strict=True):
            if high > low:
                many = count[low:high]
                before = ends[low:high] - many
                at = np.arange(before[0], ends[high - 1]) + np.repeat(first[low:high] - before, many)
                yield np.repeat(query[low:high], many), part.places.take(at)


def radii(bits: int, parts: int) -> list[int]:
    """The radius in which each part is looked up so that no pair within ``bits`` is missed; -1 where it need not be.

    Were every part beyond its radius, the hashes would differ in at least one bit more than ``bits``.
    """
    most, rest = divmod(bits, parts)
    return [most if part <= rest else most - 1 for part in range(parts)]


@lru_cache(maxsize=2)
def _cut(parts: int) -> tuple[tuple[int, int], ...]:
    """(shift, width) of each part, the longer ones first."""
    spans, shift = list[tuple[int, int]](), BITS
    for part in range(parts):
        width = BITS // parts + (part < BITS % parts)
        shift -= width
        spans.append((shift, width))
    return tuple(spans)


@lru_cache(maxsize=16)
def _flips(width: int, most: int) -> np.ndarray:
    """Every number of ``width`` bits of which at most ``most`` are set."""
    every = [
        sum(1 << bit for bit in chosen) for count in range(most + 1) for chosen in combinations(range(width), count)
    ]
    return np.array(every, np.int64)
