"""Copies of a picture, found by their bits and by perceptual hashes, of which the best is kept.

A picture's hash is the sign of the 8 x 8 lowest frequencies of 32 x 32 grey pixels against their median (pHash, as the
``imagehash`` package defines it). Three further numbers guard it: the signs of the differences of neighbours among
9 x 8 pixels (dHash); those of the 16 x 16 lowest frequencies, so that two cards with other words stay two; and the
colours of the four quarters, so that a red and a blue shirt do. Crops are found because pHash and dHash are kept of
eight cuts of every picture as well.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bimo.core.errors import DataError, RecipeError
from bimo.core.part import Part
from bimo.data.curation.steps import Change, Scores, Table, Verdict

if TYPE_CHECKING:
    from PIL import Image

    from bimo.data.curation.seen import Seen

#: What a hash is worth less than: a picture with fewer waves than this is flat, and only its bytes are compared.
WAVES = 24
#: A picture of which so much is of one grey, within 16 of 256, is sparse, such as words on a card: what it shows is
#: finer than the hash, so that only nearly the same details make a copy. One in a hundred photos is.
BLANK = 0.5
#: Bits of 256 by which the details of copies may differ: of sparse pictures, of rich ones, of rich ones with a mark.
SPARSE_DETAIL, DETAIL, MARKED_DETAIL = 12, 48, 84
#: How high a wave must be to count, in grey levels.
LEVEL = 0.5
#: Heights of products of two cosines, by the means of pixels times them.
HEIGHTS = np.outer([1, *[2] * 7], [1, *[2] * 7]).reshape(64)
#: Frequencies down and across of the details.
FINE = 16
#: Side of the grey square that cuts are taken from, in pixels.
SQUARE = 160
#: Parts of the sides at which cuts begin and end (left, top, right, bottom): the whole, four cut all around, four
#: that lost a strip, as where a watermark was cut off.
VIEWS = (
    (0.0, 0.0, 1.0, 1.0),
    *((cut, cut, 1 - cut, 1 - cut) for cut in (0.03, 0.06, 0.09, 0.12)),
    *((0.0, 0.08, 1.0, 1.0), (0.0, 0.0, 1.0, 0.92), (0.08, 0.0, 1.0, 1.0), (0.0, 0.0, 0.92, 1.0)),
)
#: Whole pictures that differ in no more bits of dHash than this are copies where pHash differs in twice the bits that
#: are asked for: marks and stamps move every frequency, but only the neighbours that they cover.
NEAR = 6
#: Bits of dHash that copies by pHash may differ in: of whole pictures, and of a picture and a cut.
GUARD, CUT_GUARD = 16, 10
#: Bits of pHash that a picture and a cut may differ in: with one more a look-up would take eight times as long.
CUT_BITS = 7
#: How far the colour of a quarter may move, of 255. The quarter that moved most does not count: it may bear a mark.
TINT = 24
#: The parts of 16 bits that a hash of 64 is looked up by: with b bits wrong, one of four has at most b // 4.
PARTS, PART_BITS = 4, 16
MOST_BITS = 11
#: Pictures that are looked up together, so that what is found fits into memory.
BATCH = 1024


@dataclass(frozen=True, kw_only=True)
class Duplicates(Part):
    """Keeps the best of pictures whose pHash differs in at most ``bits`` of 64.

    Rows are taken from the best to the worst; each goes that is a copy of one kept before. So every copy is near the
    one that stands for it, and a chain of small changes does not make one of unlike pictures. The best is first by the
    columns of ``prefer`` ("-watermark": the lower the better); without them by pixels, then by ``sharpness`` where it
    was measured. Of equals the first of the source stays. With ``merge_captions`` the one that stays is given the
    captions of its copies. Captions are never compared. Flat pictures, whose hash says nothing, are copies where their
    bytes are the same. Raises RecipeError for bits beyond 0..11.
    """

    says: ClassVar[tuple[str, str]] = ("与另一张图重复", "copy of another picture")
    score: ClassVar[str] = "waves"

    bits: int = 10
    merge_captions: bool = False
    prefer: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.bits <= MOST_BITS:
            raise RecipeError(
                f"Duplicates 的 bits 是 {self.bits}，应在 0 到 {MOST_BITS} 之间",
                f"bits of Duplicates is {self.bits}; expected 0 to {MOST_BITS}",
            )

    def measuring(self) -> str:
        """The version of the hashes."""
        return "Duplicates/1"

    def measure(self, picture: Seen) -> Scores:
        """``phash`` (0 for a flat picture), ``views`` (pHash and dHash of the whole and of its cuts, base64), ``tints``
        (the colours of four quarters), ``details`` (256 bits, hexadecimal), ``waves`` (how much there is to hash, of
        63), ``blank`` (the share that is of one grey).
        """
        image, least = picture.image, min(picture.image.size)
        small = image.reduce(least // SQUARE) if least >= 2 * SQUARE else image
        grey = np.asarray(small.convert("L").resize((SQUARE, SQUARE), _box()), np.float32)
        hashes, neighbours, waves = hashed(grey)
        flat = bool(waves[0] < WAVES)
        codes = np.stack([hashes, neighbours], axis=1)
        return {
            "phash": 0 if flat else int(hashes[0].astype(np.int64)),
            "views": base64.b64encode(codes.astype("<u8").tobytes()).decode(),
            "details": _details(grey),
            "tints": int(_tints(small).view(np.int64)[0]),
            "waves": int(waves[0]),
            "blank": _blank(grey),
        }

    def judge(self, scores: Scores) -> Verdict | None:
        """None: a picture alone is no copy."""
        return None

    def select(self, table: Table) -> Iterator[Change]:
        """Drops copies, labelled ``copy_of`` with the number of the row that stays."""
        numbers = table.numbers
        order = best_first(table, self.prefer)
        keeper = np.full(len(numbers), -1, np.int64)
        far = np.zeros(len(numbers), np.uint8)
        self._same_bytes(table, order, keeper)
        self._alike(table, order, keeper, far)
        dropped = np.flatnonzero(keeper >= 0)
        # What has the bytes of a row that went as a copy is a copy of the same.
        further = keeper[keeper[dropped]]
        moved, stand = dropped[further >= 0], further[further >= 0]
        far[moved], keeper[moved] = far[keeper[moved]], stand
        for at in dropped:
            verdict = Verdict(int(far[at]), self.bits)
            yield Change(int(numbers[at]), verdict=verdict, repeats=0, labels={"copy_of": int(numbers[keeper[at]])})
        if self.merge_captions and len(dropped):
            yield from _merged(
                table, dict(zip(numbers[dropped].tolist(), numbers[keeper[dropped]].tolist(), strict=True))
            )

    def _same_bytes(self, table: Table, order: np.ndarray, keeper: np.ndarray) -> None:
        # Half of the digits tell any two files apart, and need half of the memory.
        digests = table.column("sha256")[order].astype("S32")
        _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
        best = first[inverse]
        copies = best != np.arange(len(order))
        keeper[order[copies]] = order[best[copies]]

    def _alike(self, table: Table, order: np.ndarray, keeper: np.ndarray, far: np.ndarray) -> None:
        """Sets ``keeper`` and ``far`` (bits) of copies by their hashes."""
        order = order[(keeper[order] < 0) & (table.column("phash")[order] != 0)]
        if len(order) < 2:
            return
        codes = _Codes.of(table, order, self.bits)
        by_phash, by_dhash = index(codes.views[:, 0, 0]), index(codes.views[:, 0, 1])
        gone = np.zeros(len(order), bool)
        for start in range(0, len(order), BATCH):
            rows = np.arange(start, min(start + BATCH, len(order)))
            rows = rows[~gone[rows]]
            for row, other, bits in codes.pairs(rows, by_phash, by_dhash):
                # Of the two the one that is earlier in the order is better; a copy of a copy is nobody's.
                better, worse = (row, other) if row < other else (other, row)
                if not gone[row] and not gone[better] and not gone[worse]:
                    gone[worse] = True
                    keeper[order[worse]], far[order[worse]] = order[better], bits


@dataclass(frozen=True)
class _Codes:
    """What is compared of rows, the best first: ``views`` [N, V, 2], ``details`` [N, 4], ``tints`` [N, 4, 2], and
    whether they are ``rich`` [N]. Copies by dHash differ in no more than ``near`` bits of it.
    """

    bits: int
    near: int
    views: np.ndarray
    details: np.ndarray
    tints: np.ndarray
    rich: np.ndarray

    @classmethod
    def of(cls, table: Table, order: np.ndarray, bits: int) -> _Codes:
        views = np.frombuffer(base64.b64decode("".join(table.column("views")[order])), "<u8")
        details = np.frombuffer(bytes.fromhex("".join(table.column("details")[order])), "<u8")
        return cls(
            bits,
            min(NEAR, bits),
            views.reshape(len(order), len(VIEWS), 2),
            details.reshape(len(order), 4),
            table.column("tints")[order].astype("<i8").view(np.uint8).reshape(-1, 4, 2),
            table.column("blank")[order] < BLANK,
        )

    def pairs(self, rows: np.ndarray, by_phash: Any, by_dhash: Any) -> list[tuple[int, int, int]]:
        """(row, other, bits) of pairs that are copies, row by row, the better others first."""
        parts: list[np.ndarray] = []
        for view in range(len(VIEWS)):
            bits = min(self.bits, CUT_BITS) if view else self.bits
            left, right = near(by_phash, self.views[rows, view, 0], bits)
            parts.append(self._kept(rows[left], right, view))
        left, right = near(by_dhash, self.views[rows, 0, 1], self.near)
        parts.append(self._kept(rows[left], right, -1))
        every = np.concatenate(parts)
        every = every[np.lexsort((every[:, 2], every[:, 1], every[:, 0]))]
        return [(int(row), int(other), int(bits)) for row, other, bits in every]

    def _kept(self, rows: np.ndarray, others: np.ndarray, view: int) -> np.ndarray:
        """[M, 3]: those of the pairs that the guards let pass. View -1 are whole pictures found by dHash."""
        apart = rows != others
        rows, others = rows[apart], others[apart]
        differ = np.bitwise_count(self.views[rows, max(view, 0)] ^ self.views[others, 0])
        guard = self.near if view < 0 else GUARD if view == 0 else CUT_GUARD
        passed = (differ[:, 1] <= guard) & (differ[:, 0] <= (2 * self.bits if view < 0 else self.bits))
        rich = self.rich[rows] & self.rich[others]
        if view <= 0:
            finer = np.bitwise_count(self.details[rows] ^ self.details[others]).sum(1, dtype=np.int64)
            passed &= finer <= np.where(rich, MARKED_DETAIL if view < 0 else DETAIL, SPARSE_DETAIL)
        else:
            passed &= rich
        moved = np.abs(self.tints[rows].astype(np.int16) - self.tints[others]).max(2)
        passed &= np.sort(moved, axis=1)[:, -2] <= TINT
        return np.stack([rows[passed], others[passed], differ[passed, 0]], axis=1).astype(np.int64)


def best_first(table: Table, prefer: tuple[str, ...] = ()) -> np.ndarray:
    """[N]: the places of the rows, the best first: by columns ("-name": the lower the better), else by pixels and,
    where it was measured, ``sharpness``; of equals the first. Raises DataError for a column that nothing measures.
    """
    columns: list[np.ndarray] = []
    for name in prefer:
        sign = 1 if name.startswith("-") else -1
        columns.append(sign * table.column(name.removeprefix("-")).astype(np.float64))
    if not prefer:
        columns.append(-table.column("width").astype(np.float64) * table.column("height"))
        columns += _sharpness(table)
    return np.lexsort((table.numbers, *reversed(columns)))


def hashed(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grey pixels [SQUARE, SQUARE] -> pHash and dHash of every view, both [V] uint64, and waves [V]: how many of 63
    cosines are higher than LEVEL.
    """
    down, across, rows, columns = _weights()
    low = (down @ grey @ across.swapaxes(1, 2)).reshape(len(VIEWS), 64)
    waves = (np.abs(low) * HEIGHTS >= LEVEL)[:, 1:].sum(1)
    grid = rows @ grey @ columns.swapaxes(1, 2)
    # Neighbours that are equal differ in the last digits of a float.
    neighbours = (grid[:, :, 1:] - grid[:, :, :-1] > 1e-3).reshape(len(VIEWS), 64)
    return _packed(low > np.median(low, axis=1, keepdims=True)), _packed(neighbours), waves


def index(hashes: np.ndarray) -> Any:
    """A faiss index over hashes [N] uint64 by four parts of each (Norouzi et al., arXiv:1307.2982)."""
    import faiss

    made: Any = faiss.IndexBinaryMultiHash(64, PARTS, PART_BITS)
    made.add(_bytes(hashes))
    return made


def near(made: Any, hashes: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes [Q] uint64 -> places of queries and of what lies within ``bits`` of them, both [M]."""
    made.nflip = bits // PARTS
    limits, _, places = made.range_search(_bytes(hashes), bits + 1)
    return np.repeat(np.arange(len(hashes)), np.diff(limits.astype(np.int64))), places


def _bytes(hashes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(hashes.astype("<u8")).view(np.uint8).reshape(-1, 8)


def _packed(bits: np.ndarray) -> np.ndarray:
    """[..., 64] bool -> uint64, the first bit the highest, as imagehash writes its hexadecimal."""
    return np.packbits(bits, axis=-1).view(">u8")[..., 0].astype(np.uint64)


def _blank(grey: np.ndarray) -> float:
    counts = np.bincount(grey.astype(np.int64).ravel() // 8, minlength=33)
    return float((counts[:-1] + counts[1:]).max() / grey.size)


def _details(grey: np.ndarray) -> str:
    low = _cosines(0, 1, FINE) @ grey @ _cosines(0, 1, FINE).T
    return np.packbits(low > np.median(low)).tobytes().hex()


def _box() -> Any:
    from PIL import Image

    return Image.Resampling.BOX


def _tints(image: Image.Image) -> np.ndarray:
    """[8] uint8: for each quarter how much of its light is red, and blue, against green."""
    quarters = np.asarray(image.resize((2, 2), _box()), np.float64).reshape(4, 3)
    light = quarters.sum(1, keepdims=True) + 30  # or what is nearly black would have colours
    return (
        np.clip(np.rint((quarters[:, ::2] - quarters[:, 1:2]) / light * 255 + 128), 0, 255).astype(np.uint8).reshape(8)
    )


@lru_cache(maxsize=1)
def _weights() -> tuple[np.ndarray, ...]:
    """For each view the 8 lowest cosines down and across [V, 8, SQUARE], and means of 8 rows [V, 8, SQUARE] and of 9
    columns [V, 9, SQUARE].
    """
    down, across = ([(view[side], view[side + 2]) for view in VIEWS] for side in (1, 0))
    waves = (np.stack([_cosines(*span) for span in spans]) for spans in (down, across))
    means = (np.stack([_means(*span, count) for span in spans]) for spans, count in ((down, 8), (across, 9)))
    return *waves, *means


@lru_cache(maxsize=len(VIEWS) * 2)
def _cosines(start: float, end: float, count: int = 8) -> np.ndarray:
    """[count, SQUARE]: mean over a span of pixels times cos(pi k x), x from 0 to 1 over it: the DCT-II's waves."""
    edges = np.clip((np.arange(SQUARE + 1) / SQUARE - start) / (end - start), 0, 1)
    angles = np.pi * np.arange(1, count)[:, None]
    return np.concatenate([np.diff(edges)[None], np.diff(np.sin(angles * edges)) / angles]).astype(np.float32)


def _means(start: float, end: float, count: int) -> np.ndarray:
    """[count, SQUARE]: means over equal parts of a span."""
    edges = np.clip((np.arange(SQUARE + 1) / SQUARE - start) / (end - start), 0, 1) * count
    return np.diff(np.clip(edges - np.arange(count)[:, None], 0, 1)).astype(np.float32)


def _sharpness(table: Table) -> list[np.ndarray]:
    try:
        return [-table.column("sharpness").astype(np.float64)]
    except DataError:
        return []


def _merged(table: Table, keepers: dict[int, int]) -> Iterator[Change]:
    """The captions of rows that stay, with those of their copies, each once."""
    wanted = {*keepers, *keepers.values()}
    captions = {number: own for number, own in table.captions() if number in wanted}
    joined: dict[int, dict[str, None]] = {}
    for copy, keeper in keepers.items():
        joined.setdefault(keeper, dict.fromkeys(captions[keeper])).update(dict.fromkeys(captions[copy]))
    for keeper, texts in joined.items():
        if tuple(texts) != captions[keeper]:
            yield Change(keeper, captions=tuple(texts))
