"""Copies of pictures: what the hashes say, which pairs the index finds, which of the copies stays."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from bimo.core.errors import DataError, RecipeError
from bimo.core.part import dump, load
from bimo.curation.decoded_image import DecodedImage
from bimo.curation.dedup import duplicates, hamming_index
from bimo.curation.dedup.duplicates import Duplicates
from bimo.curation.steps import Change, PictureStep, TableStep
from tests.support.checkout import REAL_DATA

PHOTOS = REAL_DATA / "photos_howtocook" / "img"


class Rows:
    """A table in memory."""

    def __init__(self, columns: Mapping[str, Sequence[Any]], captions: Sequence[tuple[str, ...]] = ()) -> None:
        self.columns = {name: np.array(values) for name, values in columns.items()}
        self.own = captions
        self.numbers = np.arange(len(next(iter(self.columns.values())))) * 10

    def column(self, name: str) -> np.ndarray:
        if name not in self.columns:
            raise DataError("no {name}", name=name)
        return self.columns[name]

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        yield from np.array_split(self.column(name), 3)

    def captions(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        yield from zip(self.numbers.tolist(), self.own, strict=True)


def seen(image: Image.Image) -> DecodedImage:
    return DecodedImage(b"", image, image.size, "JPEG")


def scene(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Soft blobs of many sizes, as a photo has them."""
    noise = np.random.default_rng(seed)
    layers = [Image.fromarray(noise.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize(size) for n in (3, 6, 12)]
    return Image.blend(Image.blend(layers[0], layers[1], 0.5), layers[2], 0.4)


def table(images: Sequence[Image.Image], captions: Sequence[tuple[str, ...]] = (), **more: Sequence[Any]) -> Rows:
    measured = [Duplicates().measure(seen(image)) for image in images]
    columns: dict[str, Sequence[Any]] = {name: [scores[name] for scores in measured] for name in measured[0]}
    columns |= {"width": [image.width for image in images], "height": [image.height for image in images]}
    # As the step is to work without equal bytes, every row has its own.
    return Rows({**columns, "sha256": digests(len(images)), **more}, captions)


def digests(count: int) -> list[str]:
    return [hashlib.sha256(str(row).encode()).hexdigest() for row in range(count)]


def gone(changes: Iterator[Change]) -> dict[int, int]:
    """Number of a row that goes -> that of the one that stays."""
    return {c.number: int((c.labels or {})["copy_of"]) for c in changes if c.verdict is not None}


def test_it_is_measured_and_selects_and_dumps() -> None:
    step = Duplicates(bits=8, prefer=("-watermark",))
    assert isinstance(step, PictureStep)
    assert isinstance(step, TableStep)
    assert load(dump(step)) == step
    assert step.judge({"phash": 1}) is None
    with pytest.raises(RecipeError, match="12"):
        Duplicates(bits=12)


def test_the_hash_is_the_sign_of_low_frequencies_against_their_median() -> None:
    """A picture of one wave has that wave alone: its bit is set, and with it those that are as the median."""
    side = np.arange(duplicates.SQUARE) + 0.5
    wave = 127 + 100 * np.cos(np.pi * 3 * side / duplicates.SQUARE)
    grey = np.broadcast_to(wave, (duplicates.SQUARE, duplicates.SQUARE)).astype(np.float32)
    cosines, across = duplicates._cosines(0, 1), duplicates._cosines(0, 1).T
    low = (cosines @ grey @ across).reshape(64) * duplicates.HEIGHTS
    assert low[0] == pytest.approx(127, abs=0.1)
    assert low[3] == pytest.approx(100, abs=0.1)
    assert np.abs(np.delete(low, [0, 3])).max() < 0.1
    _, _, waves = duplicates.hashed(grey)
    assert waves[0] == 1


@pytest.mark.parametrize("few", [0, 1 << 18])
@pytest.mark.parametrize("bits", [0, 3, 6, 7, 10, 11])
def test_the_index_finds_every_pair(bits: int, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With three parts and with four. Against all pairs, one by one."""
    monkeypatch.setattr(hamming_index, "FEW", few)
    monkeypatch.setattr(hamming_index, "AT_ONCE", 100)
    noise = np.random.default_rng(bits)
    base = noise.integers(0, 2**63, 40, dtype=np.uint64)
    flips = [np.bitwise_or.reduce(np.uint64(1) << noise.choice(64, n, replace=False).astype(np.uint64)) for n in
             range(1, 15) for _ in range(40)]  # fmt: skip
    hashes = np.concatenate([base, np.repeat(base[None], 14, 0).reshape(-1) ^ np.array(flips)])
    expected = np.argwhere(np.bitwise_count(hashes[:, None] ^ hashes[None]) <= bits)
    made = hamming_index.Neighbours(hashes)
    assert len(made.parts) == (4 if few else 3)
    found = made.within(hashes, bits)
    assert found is not None
    assert sorted({*zip(*(side.tolist() for side in found), strict=True)}) == [tuple(p) for p in expected.tolist()]
    assert len(expected) > len(hashes) or bits == 0
    assert made.within(hashes, bits, most=len(hashes) - 1) is None


@pytest.mark.parametrize("parts", [3, 4])
def test_no_spread_of_bits_over_the_parts_escapes(parts: int) -> None:
    for bits in range(12):
        spreads = (s for s in itertools.product(range(bits + 1), repeat=parts) if sum(s) <= bits)
        radii = hamming_index.radii(bits, parts)
        assert all(any(own <= radius for own, radius in zip(s, radii, strict=True)) for s in spreads)


def test_many_copies_need_constant_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept does not depend on how many rows are looked up together."""
    noise = np.random.default_rng(0)
    heap = [0x0F0F0F0F0F0F0F0F ^ (1 << int(bit)) ^ (1 << int(other)) for bit, other in noise.integers(0, 63, (60, 2))]
    rows = codes(*heap, *(int(value) for value in noise.integers(1, 2**62, 40)))
    expected = gone(Duplicates().select(Rows(rows)))
    assert len(expected) == 59
    for limit, share in ((1, 0.25), (10, 0.0), (1 << 20, 1.0)):
        monkeypatch.setattr(duplicates, "TOO_MANY", limit)
        monkeypatch.setattr(duplicates, "REBUILD_SHARE", share)
        assert gone(Duplicates().select(Rows(rows))) == expected


def edits(image: Image.Image) -> dict[str, Image.Image]:
    width, height = image.size
    marked = image.copy()
    ImageDraw.Draw(marked).rectangle((0.62 * width, 0.86 * height, 0.97 * width, 0.96 * height), fill="white")
    cut = {n: (n * width, n * height, (1 - n) * width, (1 - n) * height) for n in (0.03, 0.08)}
    return {
        "smaller": image.resize((width * 6 // 10, height * 6 // 10)),
        "brighter": ImageEnhance.Brightness(image).enhance(1.15),
        "marked": marked,
        "cut by 3 %": image.crop(tuple(map(round, cut[0.03]))),
        "cut by 8 %": image.crop(tuple(map(round, cut[0.08]))),
        "strip cut off": image.crop((0, 0, width, round(0.92 * height))),
    }


def test_edited_copies_go_and_other_pictures_stay() -> None:
    scenes = [scene(seed) for seed in range(12)]
    for seed in range(3):
        for name, edited in edits(scenes[seed]).items():
            found = gone(Duplicates().select(table([*scenes, edited])))
            # The larger one stays; where they are of a size, the first.
            assert found == {120: 10 * seed}, name


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the photos are not part of the project")
def test_real_photos() -> None:
    photos = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.jpg"))]
    # Looked at: one photo that was stored twice, and one beside a cut of it that bears marks.
    assert gone(Duplicates().select(table(photos))) == {1490: 1380, 2430: 2330}
    for edit in ("smaller", "brighter", "cut by 3 %", "cut by 8 %", "strip cut off"):
        some = photos[:40]
        found = gone(Duplicates().select(table([*some, *(edits(photo)[edit] for photo in some)])))
        expected = {10 * (40 + row): 10 * row for row in range(40)}
        # Between two of the cuts that are kept, one in fifty is missed.
        assert found.items() <= expected.items(), edit
        assert len(found) >= (39 if edit == "cut by 8 %" else 40), edit


def test_the_best_stays() -> None:
    picture = scene(1)
    large, small = picture.resize((640, 480)), picture.resize((160, 120))
    assert gone(Duplicates().select(table([small, picture, large]))) == {0: 20, 10: 20}
    equal = [picture, picture, picture]
    assert gone(Duplicates().select(table(equal))) == {10: 0, 20: 0}
    sharper = table(equal, sharpness=[1.0, 5.0, 2.0])
    assert gone(Duplicates().select(sharper)) == {0: 10, 20: 10}
    marked = table(equal, watermark=[0.9, 0.5, 0.1])
    assert gone(Duplicates(prefer=("-watermark",)).select(marked)) == {0: 20, 10: 20}
    with pytest.raises(DataError):
        list(Duplicates(prefer=("beauty",)).select(marked))


def test_another_colour_is_another_picture() -> None:
    light = scene(2).convert("L")
    dark = light.point(lambda value: value // 3)
    red, blue = Image.merge("RGB", (light, dark, dark)), Image.merge("RGB", (dark, dark, light))
    assert gone(Duplicates().select(table([red, blue]))) == {}
    assert gone(Duplicates().select(table([red, ImageEnhance.Color(red).enhance(0.9)]))) == {10: 0}


def card(word: str) -> Image.Image:
    """A big word on a card: the same layout, other strokes."""
    small = Image.new("L", (24, 12), 245)
    ImageDraw.Draw(small).text((0, 0), word, fill=0)
    made = Image.new("L", (320, 320), 245)
    made.paste(small.resize((240, 120), Image.Resampling.NEAREST), (40, 100))
    return made.convert("RGB")


def test_cards_with_other_words_stay() -> None:
    cards = [card(word) for word in ("ABCD", "EFGH", "ABCE", "WXYZ")]
    rows = table([*cards, cards[0].resize((300, 300))])
    assert min(rows.column("blank")) > 0.5
    assert gone(Duplicates().select(rows)) == {40: 0}


def page(seed: int) -> Image.Image:
    """Lines of made-up words, 400 x 300 pixels."""
    letters, made = np.random.default_rng(seed), Image.new("RGB", (400, 300), "white")
    for line in range(4):
        text = "".join(letters.choice(list("abcdefghijklmnopqrstuvwxyz    "), 18 - 3 * (seed % 3)))
        ImageDraw.Draw(made).text((20 + 10 * (seed % 4), 20 + 60 * line), text, "black", ImageFont.load_default(24))
    return made


def test_small_copies_of_pages_of_words_go() -> None:
    """Three in four; where the edges of a box jumped from pixel to pixel, one in twenty."""
    pages = [page(seed) for seed in range(24)]
    small = [one.resize((140, 105), Image.Resampling.LANCZOS) for one in pages]
    found = gone(Duplicates().select(table([*pages, *small])))
    assert found.items() <= {240 + 10 * row: 10 * row for row in range(24)}.items()
    assert len(found) >= 16


def test_flat_pictures_are_no_copies_unless_their_bytes_are() -> None:
    gradient = Image.linear_gradient("L").convert("RGB")
    flat = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue", "white")]
    rows = [gradient, gradient.rotate(90), *flat, Image.new("RGB", (64, 64), "white")]
    assert gone(Duplicates().select(table(rows))) == {}
    assert table(rows).column("phash").tolist() == [0] * 6
    same = [*digests(5), digests(5)[4]]
    changes = list(Duplicates().select(table(rows, sha256=same)))
    assert gone(iter(changes)) == {50: 40}
    assert changes[0].verdict is not None
    assert (changes[0].verdict.value, changes[0].verdict.threshold) == (0, 10)


def codes(*hashes: int) -> dict[str, list[Any]]:
    """Columns of made-up hashes, best first; their cuts are far from everything."""
    noise = np.random.default_rng(0)
    views: list[str] = []
    for row, value in enumerate(hashes):
        code = noise.integers(0, 2**63, (len(duplicates.VIEWS), 2), dtype=np.uint64)
        # Differences of neighbours that are near enough to be copies, and too far to be so by themselves.
        code[0] = (value, 0xFF << 8 * (row % 8))
        views.append(base64.b64encode(code.astype("<u8").tobytes()).decode())
    count = len(hashes)
    return {
        "phash": list(hashes),
        "views": views,
        "details": ["0" * 64] * count,
        "blank": [0.0] * count,
        "tints": [0] * count,
        "width": [count - row for row in range(count)],
        "height": [1] * count,
        "sha256": digests(count),
    }


def test_a_chain_does_not_make_one_of_unlike_pictures() -> None:
    """Each is 8 bits from the next: the second goes to the first, the third is 16 from that and stays."""
    first = 0x0F0F0F0F0F0F0F0F
    chain = [first, first ^ 0xFF, first ^ 0xFFFF, first ^ 0xFFFFFF, first ^ 0xFFFFFFFF]
    found = list(Duplicates(bits=8).select(Rows(codes(*chain))))
    # The fourth is near the third, which stays; the fifth is 16 from it.
    assert gone(iter(found)) == {10: 0, 30: 20}
    assert [c.verdict.value for c in found if c.verdict] == [8, 8]


def test_what_has_the_bytes_of_a_copy_goes_to_the_one_that_stays() -> None:
    large, small = scene(3).resize((640, 480)), scene(3)
    rows = table([large, small, small], sha256=[*digests(2), digests(2)[1]])
    assert gone(Duplicates().select(rows)) == {10: 0, 20: 0}


def test_captions_of_copies_are_joined_and_never_compared() -> None:
    same = ("一只红苹果",)
    pictures = [scene(4), scene(5), scene(4).resize((160, 120))]
    rows = table(pictures, [same, same, ("苹果", "一只红苹果")])
    assert gone(Duplicates().select(rows)) == {20: 0}
    changes = list(Duplicates(merge_captions=True).select(rows))
    assert [(c.number, c.captions) for c in changes if c.verdict is None] == [(0, ("一只红苹果", "苹果"))]


def test_no_rows_and_one_row() -> None:
    assert list(Duplicates().select(table([scene(1)]))) == []
    empty: dict[str, list[Any]] = {name: [] for name in codes(1)}
    assert list(Duplicates(merge_captions=True).select(Rows(empty))) == []
