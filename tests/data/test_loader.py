"""Pictures of any size become those of a stage: covering, cut at the centre, never squashed, each at its bucket."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bimo.core.errors import DataError
from bimo.data.loader import Fitted, Pictures, buckets, cut, fitted_size
from bimo.data.shards import shard_name, write_index, write_shard
from bimo.training.batch_sampler import BatchSampler

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
    assert fitted.size_ids([0])[0].tolist() == [64, 96, 0, 16, 64, 64]
    assert fitted.size_ids([2])[0].tolist() == [100, 200, 0, 32, 64, 64]


def test_pictures_of_many_sizes_need_one(folder: Path) -> None:
    with pytest.raises(DataError, match="buckets"):
        Pictures(folder).fitted()


def test_buckets_keep_each_picture_at_its_own(folder: Path) -> None:
    pictures = Pictures(folder)
    fitted = pictures.fitted(None, ((64, 64), (96, 64), (64, 96)))
    assert fitted.sizes == [(96, 64), (64, 96), (96, 64), (64, 64), (64, 64), (64, 96), (96, 64)]
    assert fitted.pixels([0, 6]).shape == (2, 3, 64, 96)
    order = BatchSampler(pictures.groups, fitted.sizes, 2, seed=3)
    assert order.per_epoch == 4  # 2 + 1 + 1
    for epoch in range(3):
        batches = [order.groups_of(epoch * 4 + at) for at in range(4)]
        assert all(len({fitted.sizes[row] for group in batch for row in group}) == 1 for batch in batches)
        assert all(len(batch) == 2 for batch in batches)
        assert {row for batch in batches for group in batch for row in group} == set(range(7))
    again = BatchSampler(pictures.groups, fitted.sizes, 2, seed=3)
    assert again.groups_of(9) == order.groups_of(9)


def test_rows_of_a_group_have_one_size(folder: Path) -> None:
    pictures = Pictures(folder).of([(0, 1), (3, 5)])
    fitted = pictures.fitted(None, ((64, 64), (96, 64), (64, 96)))
    assert fitted.sizes[0] == fitted.sizes[1] == (96, 64)
    assert fitted.pixels([3, 5]).shape == (2, 3, 64, 64)


def test_a_whole_epoch_of_one_size_leaves_only_the_rest_out() -> None:
    order = BatchSampler([(row,) for row in range(10)], [(0, 0)] * 10, 4, seed=0)
    assert order.per_epoch == 2
    seen = [group[0] for at in range(2) for group in order.groups_of(at)]
    assert len(set(seen)) == 8
    assert order.groups_of(2) != order.groups_of(0)


def shard_of(folder: Path, pictures: list[tuple[str, bytes]]) -> Path:
    """A folder of one shard of pictures by key."""
    folder.mkdir(parents=True, exist_ok=True)
    row = {"captions": [{"text": "图", "lang": "zh"}], "labels": {}}
    write_index(folder, [write_shard(folder / shard_name(0), [(key, data, row) for key, data in pictures], "s")])
    return folder


def test_maps_are_those_of_the_folder_that_a_picture_is_of(tmp_path: Path) -> None:
    """Running numbers are the same in every folder; a map of another one's picture is never taken."""
    folders = []
    for place, red in (("a", 50), ("b", 200)):
        folder = shard_of(tmp_path / place, [(f"{n:08d}", encoded((32, 32), n)) for n in range(3)])
        (folder / "maps" / "edges").mkdir(parents=True)
        for n in range(3):
            Image.new("RGB", (32, 32), (red + n, 0, 0)).save(folder / f"maps/edges/{n:08d}.png")
        folders.append(folder)
    for order, reds in ((folders, (50, 51, 52, 200, 201, 202)), (folders[::-1], (200, 201, 202, 50, 51, 52))):
        maps = Pictures(*order).fitted().maps("edges", range(6))
        assert [round(float(value) * 127.5 + 127.5) for value in maps[:, 0, 5, 5]] == list(reds)
    (folders[1] / "maps/edges/00000001.png").unlink()
    with pytest.raises(DataError, match=r"of .*b has no edges map; expected .*b/maps/edges/00000001\.png"):
        Pictures(*folders).fitted().maps("edges", range(6))


def test_what_is_held_out_stays_so_when_a_photo_is_added_that_sorts_first(tmp_path: Path) -> None:
    from bimo.training.train_loader import _split

    photos = [encoded((40, 30 + n), n % 12) for n in range(40)]

    def held_out(data: list[bytes], place: str) -> set[str]:
        pictures = Pictures(shard_of(tmp_path / place, [(f"{n:08d}", one) for n, one in enumerate(data)]))
        learnt, kept = _split(pictures, 0.2)
        assert len(learnt) + len(kept) == len(data)
        return {pictures.contents[group[0]] for group in kept}

    before = held_out(photos, "before")
    assert 3 <= len(before) <= 13
    after = held_out([encoded((99, 99), 3), *photos], "after")
    assert before <= after
    assert len(after - before) <= 1
    assert held_out(photos[::-1], "reversed") == before
    # A copy of what is held out is not learnt.
    assert held_out([*photos, *photos[:5]], "copies") == before


def test_a_strip_is_cut_before_it_is_enlarged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enlarged whole, each of these is of billions of pixels."""
    resize, largest = Image.Image.resize, 0

    def watched(self: Image.Image, size: tuple[int, int], *given: object, **more: object) -> Image.Image:
        nonlocal largest
        largest = max(largest, size[0] * size[1])
        assert largest < 1 << 24
        return resize(self, size, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", watched)
    pictures = [("0", encoded((4000, 1), 3)), ("1", encoded((1, 4000), 4)), ("2", encoded((90, 60), 5))]
    folder = shard_of(tmp_path, pictures)
    whole = Pictures(folder).fitted((512, 512))
    pixels = whole.pixels([0, 1, 2])
    assert largest > 512 * 512
    # The middle is kept, and what is cut of what is no strip is as it was.
    assert abs(float(pixels[0, 0].mean())) < 0.05
    values = ((pixels[:, 2] + 1) * 127.5).round()
    assert [int(v.mean().round()) for v in values] == [60, 80, 100]
    (folder / "maps/edges").mkdir(parents=True)
    Image.new("RGB", (4000, 1), (9, 0, 0)).save(folder / "maps/edges/0.png")
    assert whole.maps("edges", [0]).shape == (1, 3, 512, 512)


def test_where_nothing_can_be_written_the_same_pixels_are_decoded_each_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def files() -> list[str]:
        return sorted(str(path) for path in folder.rglob("*"))

    before = files()

    def read_only(self: Path, *args: object, **more: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", read_only)
        fitted = Pictures(folder).fitted((64, 64))
        pixels = [fitted.pixels([0, 1]) for _ in range(2)]
    assert files() == before
    said = capsys.readouterr().out
    assert said.count("Read-only file system") == 2
    assert said.count("--cache") == 2
    elsewhere = tmp_path.parent / f"{tmp_path.name}-cache"
    cached = Pictures(folder, cache=elsewhere).fitted((64, 64))
    assert files() == before
    assert [path.name.partition("-")[0] for path in elsewhere.iterdir()] == ["rows"]
    for again in (pixels[1], cached.pixels([0, 1]), cached.pixels([0, 1])):
        assert torch.equal(pixels[0], again)


def counting(fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that are decoded from now on."""
    decoded: list[int] = []
    decode = fitted._reader._decode

    def watched(row: int) -> np.ndarray:
        decoded.append(row)
        return decode(row)

    monkeypatch.setattr(fitted._reader, "_decode", watched)
    return decoded


def test_pixels_are_decoded_once_where_there_is_room_and_again_where_there_is_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Pictures(folder).fitted((64, 64)).pixels(range(7))
    for room, times in ((7, 1), (3, 2), (0, 2)):
        monkeypatch.setattr("bimo.data.pixels.CACHE_BYTES", room * 64 * 64 * 3)
        fitted = Pictures(folder).fitted((64, 64))
        decoded = counting(fitted, monkeypatch)
        for _ in range(2):
            assert torch.equal(fitted.pixels(range(7)), wanted)
        assert sorted(decoded) == sorted([*range(7), *range(room, 7)] if times == 2 else range(7))
        # Nothing of it outlives the process but the index of the rows.
        assert [path.name.partition("-")[0] for path in (folder / ".cache").iterdir()] == ["rows"]


def test_what_is_decoded_ahead_changes_nothing_and_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bimo.data.pixels.CACHE_BYTES", 0)
    fitted = Pictures(folder).fitted((64, 64))
    wanted = fitted.pixels(range(7))
    decoded = counting(fitted, monkeypatch)
    fitted.prefetch([5, 1])
    fitted.prefetch([1, 4])  # 5 is no longer asked for
    assert set(fitted._reader._waiting) == {1, 4}
    assert torch.equal(fitted.pixels([4, 1]), wanted[[4, 1]])
    assert not fitted._reader._waiting
    assert decoded.count(1) == decoded.count(4) == 1
    # A row twice in a batch, as a size has it that cannot fill one.
    assert torch.equal(fitted.pixels([2, 6, 2]), wanted[[2, 6, 2]])


def test_rows_come_in_their_order_whichever_thread_is_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bimo.data.pixels.CACHE_BYTES", 0)
    fitted = Pictures(folder).fitted((64, 64))
    wanted, plain, others = fitted.pixels(range(7)), fitted._reader._decode, threading.Semaphore(0)

    def slowest_first(row: int) -> Any:
        if row == 0:
            assert others.acquire(timeout=60)  # not before another one is done
        pixels = plain(row)
        if row:
            others.release()
        return pixels

    monkeypatch.setattr(fitted._reader, "_decode", slowest_first)
    monkeypatch.setattr("bimo.data.pixels.THREADS", 2)
    fitted.prefetch([0, 3, 1])
    assert torch.equal(fitted.pixels([0, 3, 1]), wanted[[0, 3, 1]])


def test_a_full_disk_ends_the_cache_and_not_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = Pictures(folder).fitted((64, 64))
    wanted = fitted.pixels([0, 1, 2])

    class Full(io.BytesIO):
        def write(self, data: object, /) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("bimo.data.pixels.tempfile.TemporaryFile", lambda **more: Full())
    again = Pictures(folder).fitted((64, 64))
    for _ in range(2):
        assert torch.equal(again.pixels([0, 1, 2]), wanted)


def test_a_damaged_picture_is_named_when_it_is_read(tmp_path: Path) -> None:
    good = encoded((64, 64), 1)
    fitted = Pictures(shard_of(tmp_path, [("0", good), ("1", good[:-60])])).fitted()
    assert fitted.pixels([0]).shape == (1, 3, 64, 64)
    fitted.prefetch([0, 1])
    with pytest.raises(DataError, match=r"picture 1 cannot be decoded.*build the data again"):
        fitted.pixels([0, 1])


def test_raw_copies_of_earlier_versions_are_removed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = folder / ".cache"
    cache.mkdir()
    (cache / "pixels-0123456789abcdef.u8").write_bytes(bytes(3 << 20))
    (cache / "notes.u8").write_bytes(b"not ours")
    Pictures(folder)
    assert "3 MB" in capsys.readouterr().out
    assert not list(cache.glob("pixels-*"))
    assert (cache / "notes.u8").exists()
    Pictures(folder)
    assert not capsys.readouterr().out


def test_columns_are_read_from_the_shards_of_all_folders(tmp_path: Path) -> None:
    folders: list[Path] = []
    for name in ("甲", "乙"):
        folder = tmp_path / name
        folder.mkdir()
        written = []
        for shard in range(2):
            rows: list[tuple[str, bytes, dict[str, Any]]] = []
            for n in range(3):
                captions = [{"text": f"{name}{shard}{n}", "lang": "zh"}, {"text": f"{shard} {n}"}]
                picture = encoded((40 + n, 30), n) if n else b""
                rows.append((f"{name}-{shard}-{n}", picture, {"captions": captions, "labels": {"n": n}}))
            written.append(write_shard(folder / shard_name(shard), rows, "s"))
        write_index(folder, written)
        folders.append(folder)
    cache = tmp_path / "cache"
    for _ in range(2):  # scanned, then mapped from the cache
        pictures = Pictures(*folders, cache=cache)
        assert len(pictures) == 12
        assert pictures.keys[::5] == ["甲-0-0", "甲-1-2", "乙-1-1"]
        assert pictures.homes == [folders[0]] * 6 + [folders[1]] * 6
        assert pictures.captions[7] == ("乙01", "0 1")
        assert pictures.languages[-1] == ("zh", "")
        assert pictures.labels == [{"n": n} for n in range(3)] * 4
        assert pictures.sizes == [(0, 0), (41, 30), (42, 30)] * 4
        assert pictures.contents[1] == hashlib.sha256(encoded((41, 30), 1)).hexdigest()
        assert pictures.contents[6] == hashlib.sha256("乙00\n0 0".encode()).hexdigest()
        assert pictures.drawn().groups == [(row,) for row in range(12) if row % 3]
        with pytest.raises(IndexError):
            pictures.keys[12]


def test_latents_and_pixels_keep_the_name_that_earlier_versions_gave_them(folder: Path) -> None:
    pictures = Pictures(folder)
    fitted = pictures.fitted(None, ((64, 64), (96, 64), (64, 96)))
    plan = f"{pictures.digest} {list(fitted.sizes)} 2"
    assert fitted.digest == hashlib.sha256(plan.encode()).hexdigest()


def test_of_two_processes_that_index_the_same_data_the_slower_takes_the_other_s(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slower(source: Path, target: Path) -> None:
        shutil.copytree(source, target)
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))

    monkeypatch.setattr("bimo.data.rows.os.replace", slower)
    assert Pictures(folder).sizes == list(SIZES)
    assert not capsys.readouterr().out
    assert len(list((folder / ".cache").iterdir())) == 1
