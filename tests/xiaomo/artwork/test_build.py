"""The whole set: the same bytes however it is built, nothing held out is drawn, every record says what it shows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bimo.core.errors import DataError
from bimo.data import shards
from bimo.xiaomo.artwork import build
from bimo.xiaomo.artwork.build import build_artwork, read_kinds_table
from bimo.xiaomo.artwork.editions import FIRST
from bimo.xiaomo.artwork.held_out import held_out, held_out_composition
from bimo.xiaomo.artwork.packages import Package

Fake = tuple[Path, tuple[Package, ...]]


@pytest.fixture(scope="module")
def built(fake: Fake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    folder, table = fake
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "SAMPLES_PER_SHARD", 150)
        build_artwork(out, 400, workers=1, packages=folder, table=table)
    return out


@pytest.mark.slow
def test_two_workers_give_the_same_bytes(
    built: Path, fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "SAMPLES_PER_SHARD", 150)
    build_artwork(tmp_path, 400, workers=2, packages=fake[0], table=fake[1])
    assert shards.read_index(tmp_path) == shards.read_index(built)
    for shard in shards.read_index(built).shards:
        assert (tmp_path / shard.name).read_bytes() == (built / shard.name).read_bytes()


@pytest.mark.slow
def test_a_broken_off_run_is_continued(
    built: Path, fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "SAMPLES_PER_SHARD", 150)
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    (tmp_path / "shard-00001.tar").write_bytes(b"half")
    (tmp_path / "shard-00002.done").unlink()
    (tmp_path / "shard-00002.partial").write_bytes(b"rest")
    (tmp_path / "index.json").unlink()
    kept = (tmp_path / "shard-00000.tar").stat().st_mtime_ns
    build_artwork(tmp_path, 400, workers=1, packages=fake[0], table=fake[1])
    assert (tmp_path / "shard-00000.tar").stat().st_mtime_ns == kept
    assert not list(tmp_path.glob("*.partial"))
    assert shards.read_index(tmp_path) == shards.read_index(built)
    shards.verify(tmp_path)


def test_another_seed_gives_other_canvases(fake: Fake, tmp_path: Path) -> None:
    for seed in (0, 1):
        build_artwork(tmp_path / str(seed), 40, seed=seed, workers=1, packages=fake[0], table=fake[1])
    assert shards.read_index(tmp_path / "0").digest != shards.read_index(tmp_path / "1").digest


def test_records(built: Path) -> None:
    kinds = {kind.hexcode: kind for kind in read_kinds_table(built / "kinds.json")}
    assert "1f550" not in kinds
    types = set()
    keys = []
    for key, png, record in shards.read(built):
        labels = record["labels"]
        keys.append(key)
        types.add(labels["type"])
        assert png.startswith(b"\x89PNG")
        assert len(record["captions"]) == 12
        assert len(record["pose"]) == 5
        assert record["source"].endswith("@0.0.1")
        assert record["licence"]
        for name in (labels["kind"], labels["kind2"]):
            if name is not None:
                assert not held_out(kinds[name], labels["style"])
                assert labels["effect"] is None or not held_out(kinds[name], labels["effect"])
        for other in (labels["kind2"], labels["colour"], labels["scene"]):
            assert other is None or not held_out_composition(labels["kind"], other)
    assert keys == sorted(keys)
    assert len(keys) == 400
    assert types == set(FIRST.shares)


def test_tables(built: Path) -> None:
    report = json.loads((built / "report.json").read_text())
    assert report["canvases"] == sum(report["by type"].values()) == 400
    assert "CC-BY-4.0" in (built / "LICENSES.md").read_text()
    assert "苹果" in (built / "words.txt").read_text().splitlines()
    held = json.loads((built / "held_out.json").read_text())
    assert ["1f431", "1f576"] in held["compositions"]


def test_a_damaged_shard_is_found(fake: Fake, tmp_path: Path) -> None:
    build_artwork(tmp_path, 60, workers=1, packages=fake[0], table=fake[1])
    shards.verify(tmp_path)
    (tmp_path / "shard-00000.tar").write_bytes(b"nothing")
    with pytest.raises(DataError, match="SHA-256"):
        shards.verify(tmp_path)
    with pytest.raises(DataError, match="shard-00000"):
        list(shards.read(tmp_path))


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 1"):
        build_artwork(tmp_path, 0)
    with pytest.raises(DataError, match=r"index\.json"):
        shards.read_index(tmp_path)
