"""Pictures of any size become those of a stage: covering, cut at the centre, never squashed, each at its bucket."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bimo.core.errors import DataError
from bimo.data.loader import Pictures, buckets, cut, fitted_size
from bimo.data.shards import shard_name, write_index, write_shard
from bimo.train.batches import Order

SIZES = ((96, 64), (64, 96), (200, 100), (64, 64), (130, 130), (100, 210), (90, 60))


def encoded(size: tuple[int, int], number: int) -> bytes:
    """A picture whose red grows to the right and whose blue tells its number."""
    width, height = size
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)[None]
    pixels[..., 2] = number * 20
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = []
    for number, size in enumerate(SIZES):
        record = {"captions": [{"text": f"第{number}张", "lang": "zh"}], "labels": {}}
        rows.append((f"{number:03d}", encoded(size, number), record))
    write_index(tmp_path, [write_shard(tmp_path / shard_name(0), rows, "sizes")])
    return tmp_path


@given(st.tuples(*[st.integers(1, 3000)] * 2), st.tuples(*[st.integers(1, 2000)] * 2))
def test_a_cut_covers_and_keeps_the_shape(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    whole, left, top = cut(size, wanted)
    assert all(side >= least for side, least in zip(whole, wanted, strict=True))
    assert any(side == least for side, least in zip(whole, wanted, strict=True))
    assert left == (whole[0] - wanted[0]) // 2
    assert top == (whole[1] - wanted[1]) // 2
    scale = max(wanted[0] / size[0], wanted[1] / size[1])
    assert all(abs(after - before * scale) <= 1 for after, before in zip(whole, size, strict=True))


def test_buckets_are_of_an_area_and_both_ways() -> None:
    made = buckets(512 * 512, 64, 2.0)
    assert (512, 512) in made
    assert (704, 320) not in made  # longer than twice the shorter side
    for width, height in made:
        assert width % 64 == 0
        assert height % 64 == 0
        assert width * height <= 512 * 512
        assert max(width, height) <= 2 * min(width, height)
        assert (height, width) in made


def test_the_nearest_shape_is_taken() -> None:
    choices = ((64, 64), (96, 64), (64, 96))
    assert [fitted_size(size, choices) for size in SIZES[:4]] == [(96, 64), (64, 96), (96, 64), (64, 64)]


def test_pictures_fit_a_size_and_say_how(folder: Path) -> None:
    fitted = Pictures(folder).fitted((64, 64))
    pixels = fitted.pixels([0, 2])
    assert pixels.shape == (2, 3, 64, 64)
    # Of 96 x 64 the middle 64 columns are left as they were.
    red = np.linspace(0, 255, 96).astype(np.uint8)[16:80].astype(np.float32) / 127.5 - 1
    assert torch.allclose(pixels[0, 0, 10], torch.from_numpy(red), atol=1e-6)
    assert fitted.size_ids[0].tolist() == [64, 96, 0, 16, 64, 64]
    assert fitted.size_ids[2].tolist() == [100, 200, 0, 32, 64, 64]


def test_pictures_of_many_sizes_need_one(folder: Path) -> None:
    with pytest.raises(DataError, match="buckets"):
        Pictures(folder).fitted()


def test_buckets_keep_each_picture_at_its_own(folder: Path) -> None:
    pictures = Pictures(folder)
    fitted = pictures.fitted(None, ((64, 64), (96, 64), (64, 96)))
    assert fitted.sizes == [(96, 64), (64, 96), (96, 64), (64, 64), (64, 64), (64, 96), (96, 64)]
    assert fitted.pixels([0, 6]).shape == (2, 3, 64, 96)
    order = Order(pictures.lots, fitted.sizes, 2, seed=3)
    assert order.per_epoch == 4  # 2 + 1 + 1
    for epoch in range(3):
        batches = [order.lots_of(epoch * 4 + at) for at in range(4)]
        assert all(len({fitted.sizes[row] for lot in batch for row in lot}) == 1 for batch in batches)
        assert all(len(batch) == 2 for batch in batches)
        assert {row for batch in batches for lot in batch for row in lot} == set(range(7))
    again = Order(pictures.lots, fitted.sizes, 2, seed=3)
    assert again.lots_of(9) == order.lots_of(9)


def test_rows_of_a_lot_have_one_size(folder: Path) -> None:
    pictures = Pictures(folder).of([(0, 1), (3, 5)])
    fitted = pictures.fitted(None, ((64, 64), (96, 64), (64, 96)))
    assert fitted.sizes[0] == fitted.sizes[1] == (96, 64)
    assert fitted.pixels([3, 5]).shape == (2, 3, 64, 64)


def test_a_whole_epoch_of_one_size_leaves_only_the_rest_out() -> None:
    order = Order([(row,) for row in range(10)], [(0, 0)] * 10, 4, seed=0)
    assert order.per_epoch == 2
    seen = [lot[0] for at in range(2) for lot in order.lots_of(at)]
    assert len(set(seen)) == 8
    assert order.lots_of(2) != order.lots_of(0)
