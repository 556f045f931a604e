"""Near-duplicate pictures, found by equal bytes and by perceptual hashes; the best copy is kept.

A picture's hash is the sign of the 8 x 8 lowest frequencies of its grey pixels against their median (pHash, as the
``imagehash`` package defines it). Three further descriptors guard it against false matches: the signs of the
differences of neighbours among 9 x 8 pixels (dHash); those of the 16 x 16 lowest frequencies, so that two cards with
different words are no duplicates; and the colours of the four quarters, so that a red and a blue shirt are none. Crops
are found because pHash and dHash of eight crops of every picture are stored as well.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import BufferedRandom
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bimo.core.errors import DataError, RecipeError
from bimo.curation.dedup.hamming_index import Neighbours
from bimo.curation.phases.store import ranked
from bimo.curation.steps import Change, PictureStep, Scores, Table, TableStep, Verdict

if TYPE_CHECKING:
    from PIL import Image

    from bimo.curation.decoded_image import DecodedImage

#: A picture with fewer cosines above LEVEL than this is flat: its hash says nothing, and only its bytes are compared.
WAVES = 24
#: A picture of which so much is of one grey, within 16 of 256, is sparse, such as words on a card: what it shows is
#: finer than the hash, so that only nearly the same details make a copy. One in a hundred photos is.
BLANK = 0.5
#: Bits of 256 by which the details of copies may differ: of sparse pictures, of rich ones, of rich ones with a mark.
SPARSE_DETAIL, DETAIL, MARKED_DETAIL = 12, 48, 84
#: Least amplitude of a cosine that counts, in grey levels.
LEVEL = 0.5
#: Amplitudes of products of two cosines, from the means of pixels times them.
HEIGHTS = np.outer([1, *[2] * 7], [1, *[2] * 7]).reshape(64)
#: Frequencies down and across of the details.
FINE = 16
#: Side of the grey square that crops are taken from, in pixels.
SQUARE = 64
#: Crops as shares of the sides (left, top, right, bottom): the whole, four that are cropped all around, four that lost
#: a strip, as where a watermark was cut off.
VIEWS = (
    (0.0, 0.0, 1.0, 1.0),
    *((cut, cut, 1 - cut, 1 - cut) for cut in (0.03, 0.06, 0.09, 0.12)),
    *((0.0, 0.08, 1.0, 1.0), (0.0, 0.0, 1.0, 0.92), (0.08, 0.0, 1.0, 1.0), (0.0, 0.0, 0.92, 1.0)),
)
#: Whole pictures that differ in no more bits of dHash than this are duplicates at twice the allowed bits of pHash:
#: marks and stamps change every frequency, but only the neighbours that they cover.
NEAR = 6
#: Bits of dHash in which duplicates by pHash may differ: of whole pictures, and of a picture and a crop.
GUARD, CUT_GUARD = 16, 10
#: Bits of pHash in which a picture and a crop may differ.
CUT_BITS = 7
#: By how much the colour of a quarter may differ, of 255. The quarter that differs most is ignored: it may have a mark.
TINT = 24
MOST_BITS = 11
#: Least and most pictures that are looked up together: fewer where they have many duplicates.
FEWEST, MOST = 16, 512
#: Pairs in memory at a time; with more, rows are looked up one by one.
TOO_MANY = 1 << 20
#: Share of dropped pictures at which the index is built again without them.
REBUILD_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Duplicates(PictureStep, TableStep):
    """Keeps the best of pictures whose pHash differs in at most ``bits`` of 64.

    Rows are taken from the best to the worst; a row is dropped if it duplicates one that was kept before. So every
    dropped picture is near the one that is kept for it, and a chain of small changes does not join unlike pictures. The
    best is first by the columns of ``prefer`` ("-watermark": the lower the better); without them by pixels, then by
    ``sharpness`` where it was measured. Of equals the first of the source stays. With ``merge_captions`` the kept row
    gets the captions of its duplicates. Captions are never compared. Flat pictures, whose hash says nothing, are
    duplicates where their bytes are equal. Raises RecipeError for bits beyond 0..11.
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
                "bits of Duplicates is {bits}; expected 0 to {most_bits}", bits=self.bits, most_bits=MOST_BITS
            )

    def measuring(self) -> str:
        """The version of the hashes."""
        return "Duplicates/3"

    def measure(self, picture: DecodedImage) -> Scores:
        """``phash`` (0 for a flat picture), ``views`` (pHash and dHash of the whole and of its cuts, base64), ``tints``
        (the colours of four quarters), ``details`` (256 bits, hexadecimal), ``waves`` (how much there is to hash, of
        63), ``blank`` (the share that is of one grey).
        """
        from PIL.Image import Resampling

        # Pillow's box takes whole pixels: at sizes that do not divide, its edges jump, and with them fine details.
        square = picture.image.convert("L").resize((SQUARE, SQUARE), Resampling.BILINEAR, reducing_gap=1.0)
        grey = np.asarray(square, np.float32)
        hashes, neighbours, waves = hashed(grey)
        flat = bool(waves[0] < WAVES)
        codes = np.stack([hashes, neighbours], axis=1)
        return {
            "phash": 0 if flat else int(hashes[0].astype(np.int64)),
            "views": base64.b64encode(codes.astype("<u8").tobytes()).decode(),
            "details": _details(grey),
            "tints": int(_tints(picture.image).view(np.int64)[0]),
            "waves": int(waves[0]),
            "blank": _blank(square),
        }

    def judge(self, scores: Scores) -> Verdict | None:
        """None: duplicates are decided by ``select``."""
        return None

    def select(self, table: Table) -> Iterator[Change]:
        """Drops duplicates, labelled ``copy_of`` with the number of the row that is kept."""
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
        # Half of the digits of a hash suffice.
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        halves = (
            _bytes(np.array([word[:32] for word in hashes]), bytes.fromhex).view("V16")
            for hashes in table.pieces("sha256")
        )
        digests = ranked(halves, rank, len(order), (), "V16")
        _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
        best = first[inverse]
        copies = best != np.arange(len(order))
        keeper[order[copies]] = order[best[copies]]

    def _alike(self, table: Table, order: np.ndarray, keeper: np.ndarray, far: np.ndarray) -> None:
        """Sets ``keeper`` and ``far`` (bits) of duplicates by their hashes."""
        order = order[(keeper[order] < 0) & (table.column("phash")[order] != 0)]
        if len(order) < 2:
            return
        with tempfile.TemporaryFile() as cuts:
            self._drop_copies(_Codes.of(table, order, self.bits, cuts), order, keeper, far)

    def _drop_copies(self, codes: _Codes, order: np.ndarray, keeper: np.ndarray, far: np.ndarray) -> None:
        dropped = np.zeros(len(order), bool)
        index = _Index(codes, np.arange(len(order)))
        start, together, since = 0, FEWEST, 0
        while start < len(order):
            rows = np.arange(start, min(start + together, len(order)))
            pairs = codes.pairs(rows[~dropped[rows]], index, dropped)
            if pairs is None:
                # Many duplicates of few pictures: the best drop them, and the rest is looked up again.
                together = 1
                continue
            start, together = start + together, min(2 * together, MOST)
            for row, other, bits in pairs:
                # Of the two the earlier one is better. A row that was dropped itself drops no other.
                better, worse = (row, other) if row < other else (other, row)
                if not dropped[row] and not dropped[better] and not dropped[worse]:
                    dropped[worse] = True
                    since += 1
                    keeper[order[worse]], far[order[worse]] = order[better], bits
            if since > REBUILD_SHARE * len(index.rows):
                index, since = _Index(codes, np.flatnonzero(~dropped)), 0


@dataclass(frozen=True)
class _Codes:
    """The descriptors of rows, the best first: ``whole`` [N, 2], the hashes of whole pictures, ``details`` [N, 4],
    ``tints`` [N, 4, 2], and whether they are ``rich`` [N]. Duplicates by dHash differ in no more than ``near`` bits of
    it.

    The hashes of crops are most of the data, and are needed for one row at a time: they are in a file, those of the row
    at ``places`` [N].
    """

    bits: int
    near: int
    cuts: BufferedRandom
    places: np.ndarray
    whole: np.ndarray
    details: np.ndarray
    tints: np.ndarray
    rich: np.ndarray

    @classmethod
    def of(cls, table: Table, order: np.ndarray, bits: int, cuts: BufferedRandom) -> _Codes:
        """Reads the rows of a table at the places ``order``, and writes the hashes of their crops into a file."""
        rank = np.full(len(table.numbers), -1, np.int32 if len(order) < 1 << 31 else np.int64)
        rank[order] = np.arange(len(order), dtype=rank.dtype)
        views = cls._store_crops(table.pieces("views"), cuts)
        details = (_bytes(words, bytes.fromhex).reshape(-1, FINE * FINE // 8) for words in table.pieces("details"))
        tints = table.pieces("tints")
        return cls(
            bits,
            min(NEAR, bits),
            cuts,
            order,
            ranked(views, rank, len(order), (2,), "<u8"),
            ranked(details, rank, len(order), (FINE * FINE // 8,), "u1").view("<u8"),
            ranked(tints, rank, len(order), (), "<i8").view(np.uint8).reshape(-1, 4, 2),
            ranked(table.pieces("blank"), rank, len(order), (), "f8") < BLANK,
        )

    @staticmethod
    def _store_crops(pieces: Iterator[np.ndarray], cuts: BufferedRandom) -> Iterator[np.ndarray]:
        for texts in pieces:
            views = _bytes(texts, base64.b64decode)
            cuts.write(views.tobytes())
            yield views.view("<u8").reshape(len(texts), len(VIEWS), 2)[:, 0]
        cuts.flush()

    def pairs(self, rows: np.ndarray, index: _Index, dropped: np.ndarray) -> list[tuple[int, int, int]] | None:
        """(row, other, bits) of duplicates of which the other has not been dropped, row by row, the better others
        first. None where several rows have too many together.
        """
        most = TOO_MANY if len(rows) > 1 else None
        every = self._views(rows)
        batches = [np.zeros((0, 3), np.int64)]
        whole, cuts = np.zeros(1, np.int64), np.arange(1, len(VIEWS))
        ways = ((0, whole, self.bits), (1, whole, self.near), (0, cuts, min(self.bits, CUT_BITS)))
        for kind, views, bits in ways:
            near = index.by[kind].within(every[:, views, kind].ravel(), bits, most)
            if near is None:
                return None
            at, view, other = near[0] // len(views), views[near[0] % len(views)], index.rows[near[1]]
            apart = (rows[at] != other) & ~dropped[other]
            at, view = at[apart], view[apart]
            batches.append(self._past_guards(rows[at], view, every[at, view], other[apart], bool(kind)))
        return [(int(row), int(other), int(bits)) for row, other, bits in np.unique(np.concatenate(batches), axis=0)]

    def _views(self, rows: np.ndarray) -> np.ndarray:
        """[R, V, 2]: the hashes of rows and of their crops."""
        size, file = len(VIEWS) * 16, self.cuts.raw
        read = (file.read(size) for place in self.places[rows].tolist() if file.seek(place * size) >= 0)
        return np.frombuffer(b"".join(read), "<u8").reshape(len(rows), len(VIEWS), 2)

    def _past_guards(
        self, rows: np.ndarray, views: np.ndarray, codes: np.ndarray, others: np.ndarray, by_dhash: bool
    ) -> np.ndarray:
        """[M, 3] (row, other, bits): the pairs of a view, with its ``codes`` [M, 2], and another whole picture that the
        guards let pass.
        """
        differ = np.bitwise_count(codes ^ self.whole[others])
        most = (2 * self.bits, self.near) if by_dhash else (self.bits, np.where(views == 0, GUARD, CUT_GUARD))
        passed = (differ[:, 0] <= most[0]) & (differ[:, 1] <= most[1])
        rows, views, others, bits = rows[passed], views[passed], others[passed], differ[passed, 0]
        rich = self.rich[rows] & self.rich[others]
        finer = np.bitwise_count(self.details[rows] ^ self.details[others]).sum(1, dtype=np.int64)
        detailed = finer <= np.where(rich, MARKED_DETAIL if by_dhash else DETAIL, SPARSE_DETAIL)
        moved = np.abs(self.tints[rows].astype(np.int16) - self.tints[others]).max(2)
        passed = np.where(views == 0, detailed, rich) & (np.sort(moved, axis=1)[:, -2] <= TINT)
        return np.stack([rows[passed], others[passed], bits[passed]], axis=1).astype(np.int64)


class _Index:
    """Index of the whole pictures of some ``rows``, ``by`` pHash and by dHash."""

    def __init__(self, codes: _Codes, rows: np.ndarray) -> None:
        self.rows = rows
        self.by = tuple(Neighbours(np.ascontiguousarray(codes.whole[rows, kind])) for kind in (0, 1))


def best_first(table: Table, prefer: tuple[str, ...] = ()) -> np.ndarray:
    """[N]: the places of the rows, the best first: by columns ("-name": the lower the better), else by pixels and,
    where it was measured, ``sharpness``; of equals the first. Raises DataError for a column that no step measures.
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
    down, across, columns = _weights()
    # Cosines and means down all views at once: one matrix product in place of eighteen.
    drawn = (down @ grey).reshape(2, len(VIEWS), 8, SQUARE)
    low = (drawn[0] @ across).reshape(len(VIEWS), 64)
    waves = (np.abs(low) * HEIGHTS >= LEVEL)[:, 1:].sum(1)
    grid = drawn[1] @ columns
    # Rounded, since equal neighbours differ in the last digits of a float.
    neighbours = (grid[:, :, 1:] - grid[:, :, :-1] > 1e-3).reshape(len(VIEWS), 64)
    return _packed(low > _medians(low)), _packed(neighbours), waves


def _medians(values: np.ndarray) -> np.ndarray:
    """[V, M] -> [V, 1], for an even M."""
    middle = values.shape[1] // 2
    return np.partition(values, (middle - 1, middle), axis=1)[:, middle - 1 : middle + 1].mean(axis=1, keepdims=True)


def _packed(bits: np.ndarray) -> np.ndarray:
    """[..., 64] bool -> uint64, the first bit the highest, as imagehash writes its hexadecimal."""
    return np.packbits(bits, axis=-1).view(">u8")[..., 0].astype(np.uint64)


def _blank(square: Image.Image) -> float:
    counts = np.bincount(np.asarray(square).ravel() >> 3, minlength=32)
    return float((counts + np.append(counts[1:], 0)).max() / SQUARE**2)


def _details(grey: np.ndarray) -> str:
    low = (_cosines(0, 1, FINE) @ grey @ _cosines(0, 1, FINE).T).reshape(1, -1)
    return np.packbits(low > _medians(low)).tobytes().hex()


def _tints(image: Image.Image) -> np.ndarray:
    """[8] uint8: for each quarter how much of its light is red, and blue, against green."""
    from PIL.Image import Resampling

    # A pixel of each part of the picture says its colour as well as all of them do, within two levels.
    some = image.resize((SQUARE, SQUARE), Resampling.NEAREST)
    quarters = np.asarray(some.resize((2, 2), Resampling.BOX), np.float64).reshape(4, 3)
    light = quarters.sum(1, keepdims=True) + 30  # or nearly black pixels would have colours
    tints = np.rint((quarters[:, ::2] - quarters[:, 1:2]) / light * 255 + 128)
    return np.clip(tints, 0, 255).astype(np.uint8).reshape(8)


@lru_cache(maxsize=1)
def _weights() -> tuple[np.ndarray, ...]:
    """The 8 lowest cosines and the means of 8 rows down every view [2 V 8, SQUARE]; for each view the 8 lowest cosines
    across [V, SQUARE, 8], and the means of 9 columns [V, SQUARE, 9].
    """
    down, across = ([(view[side], view[side + 2]) for view in VIEWS] for side in (1, 0))
    rows = np.concatenate([*(_cosines(*span) for span in down), *(_means(*span, 8) for span in down)])
    waves = np.stack([_cosines(*span).T for span in across])
    return rows, np.ascontiguousarray(waves), np.stack([_means(*span, 9).T for span in across])


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


def _bytes(texts: np.ndarray, decode: Callable[[str], bytes]) -> np.ndarray:
    """The bytes, uint8, that a piece of a column of texts encodes."""
    return np.frombuffer(decode("".join(texts)), np.uint8)


def _sharpness(table: Table) -> list[np.ndarray]:
    try:
        return [-table.column("sharpness").astype(np.float64)]
    except DataError:
        return []


def _merged(table: Table, keepers: dict[int, int]) -> Iterator[Change]:
    """The captions of kept rows with those of their duplicates, each once."""
    numbers = {*keepers, *keepers.values()}
    captions = {number: own for number, own in table.captions() if number in numbers}
    joined: dict[int, dict[str, None]] = {}
    for copy, keeper in keepers.items():
        joined.setdefault(keeper, dict.fromkeys(captions[keeper])).update(dict.fromkeys(captions[copy]))
    for keeper, texts in joined.items():
        if tuple(texts) != captions[keeper]:
            yield Change(keeper, captions=tuple(texts))
