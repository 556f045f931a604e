"""A model's weights in several files: they are read as one, hashed as one, and each is verified."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import bimo
from bimo.core import checkpoint_io
from bimo.core.errors import WeightsError
from bimo.core.hashing import digest
from bimo.diffusion.system import HASHES_FILE, WEIGHTS_FILE, System
from tests.support.drawing import same_weights


@pytest.fixture
def parts(tiny_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "parts"
    shutil.copytree(tiny_folder, folder)
    state = checkpoint_io.read(folder / WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).unlink()
    for name, mine in (("painter", True), ("rest", False)):
        own = {key: value for key, value in state.items() if key.startswith("image.denoiser.") == mine}
        checkpoint_io.write(folder / f"{name}.safetensors", own)
    hashes = json.loads((folder / HASHES_FILE).read_text("utf-8"))
    del hashes[WEIGHTS_FILE]
    hashes |= {f"{name}.safetensors": digest(folder / f"{name}.safetensors") for name in ("painter", "rest")}
    (folder / HASHES_FILE).write_text(json.dumps(hashes), "utf-8")
    return folder


def test_parts_are_one_system(parts: Path, tiny_folder: Path) -> None:
    read = System.read(parts)
    same_weights(System.read(tiny_folder), read)
    assert sorted(file.name for file in read.files) == ["painter.safetensors", "rest.safetensors"]
    assert len(read.weights_hash) == 64
    assert bimo.load(parts).system.weights_hash == read.weights_hash
    read.save(parts / "saved")
    assert System.read(parts / "saved").files == (parts / "saved" / WEIGHTS_FILE,)


def test_another_denoiser_gives_another_hash(parts: Path) -> None:
    before = System.read(parts).weights_hash
    state = checkpoint_io.read(parts / "painter.safetensors")
    checkpoint_io.write(parts / "painter.safetensors", {name: value + 1 for name, value in state.items()})
    with pytest.raises(WeightsError, match=r"painter\.safetensors"):
        System.read(parts)
    hashes = json.loads((parts / HASHES_FILE).read_text("utf-8"))
    hashes["painter.safetensors"] = digest(parts / "painter.safetensors")
    (parts / HASHES_FILE).write_text(json.dumps(hashes), "utf-8")
    assert System.read(parts).weights_hash != before


def test_a_part_that_is_missing_is_named(parts: Path) -> None:
    (parts / "rest.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"rest\.safetensors"):
        System.read(parts)
