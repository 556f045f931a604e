"""Packages: hashes are checked, what is missing is named, members are read without unpacking."""

from __future__ import annotations

from pathlib import Path

import pytest

from bimo.core.errors import DataError
from bimo.xiaomo.artwork import packages
from bimo.xiaomo.artwork.packages import PACKAGES, Package, obtain, package_named, read_member


def test_the_pinned_table_has_no_share_alike() -> None:
    assert all("SA" not in package.licence for package in PACKAGES)
    assert not any("openmoji" in package.name or "emojione" in package.name for package in PACKAGES)
    assert len({package.filename for package in PACKAGES}) == len(PACKAGES)
    assert package_named("@iconify-json/noto").filename == "iconify-json-noto-1.2.9.tgz"


def test_a_damaged_package_is_refused(fake: tuple[Path, tuple[Package, ...]], tmp_path: Path) -> None:
    folder, table = fake
    for package in table:
        (tmp_path / package.filename).write_bytes((folder / package.filename).read_bytes())
    bad = tmp_path / table[0].filename
    bad.write_bytes(bad.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match="SHA-256") as caught:
        obtain(table, tmp_path / "cache", tmp_path)
    assert table[0].sha256 in caught.value.en


def test_a_missing_file_is_named(fake: tuple[Path, tuple[Package, ...]], tmp_path: Path) -> None:
    _, table = fake
    with pytest.raises(DataError) as caught:
        obtain(table, tmp_path / "cache", tmp_path)
    assert table[0].filename in caught.value.en
    assert table[0].filename in caught.value.zh


def test_without_npm_the_files_are_named(
    fake: tuple[Path, tuple[Package, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, table = fake
    monkeypatch.setattr(packages.shutil, "which", lambda _: None)
    with pytest.raises(DataError) as caught:
        obtain(table, tmp_path)
    assert "--packages" in caught.value.en
    assert table[-1].filename in caught.value.en


def test_members(fake: tuple[Path, tuple[Package, ...]]) -> None:
    folder, table = fake
    path = folder / package_named("emojibase-data", table).filename
    assert read_member(path, "en/data.json").startswith(b"[")
    with pytest.raises(DataError, match=r"fr/data\.json"):
        read_member(path, "fr/data.json")
    with pytest.raises(DataError, match="no package"):
        package_named("nothing", table)
