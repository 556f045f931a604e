"""A user's folder becomes shards: every way of captions, every unusable picture with its reason, resumed exactly."""

from __future__ import annotations

import errno
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bimo.core.errors import DataError
from bimo.curation import folder
from bimo.curation.decoded_image import ORIENTATION
from bimo.curation.folder import Reason, build_folder
from bimo.data.loader import Pictures
from bimo.data.shards import read


def save(path: Path, size: tuple[int, int] = (40, 30), mode: str = "RGB", **settings: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], len(mode)), dtype=np.uint8)
    Image.fromarray(noise, mode).save(path, **settings)  # type: ignore[arg-type]
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures with texts beside them, and one of every way of being of no use."""
    source = tmp_path / "photos"
    save(source / "猫.jpg")
    (source / "猫.txt").write_text("一只猫\na cat\n", "utf-8")
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    save(source / "sub" / "turned.jpg", exif=turned)
    (source / "sub" / "turned.txt").write_text("转过来的图", "utf-8-sig")
    save(source / "clear.png", mode="RGBA")
    (source / "clear.txt").write_text("透明", "utf-8")
    save(source / "silent.png")
    (source / "damaged.jpg").write_bytes((source / "猫.jpg").read_bytes()[:300])
    (source / "damaged.txt").write_text("坏的", "utf-8")
    save(source / "small.png", size=(9, 60))
    (source / "small.txt").write_text("小的", "utf-8")
    return source


def test_texts_beside_pictures(photos: Path, tmp_path: Path) -> None:
    report = build_folder(photos, tmp_path / "data", side=10)
    assert report.kept == 3
    wanted = {("silent.png", Reason.CAPTION), ("damaged.jpg", Reason.DAMAGED), ("small.png", Reason.SMALL)}
    assert set(report.left) == wanted
    told = json.loads((tmp_path / "data" / "report.json").read_text("utf-8"))
    assert {row["reason"] for row in told["left"]} == {"caption", "damaged", "small"}
    found = {row["source"]: (image, row) for _, image, row in read(tmp_path / "data")}
    image, row = found["猫.jpg"]
    assert image == (photos / "猫.jpg").read_bytes()
    assert row["captions"] == [{"text": "一只猫", "lang": "zh"}, {"text": "a cat", "lang": "en"}]
    assert Image.open(io.BytesIO(found["sub/turned.jpg"][0])).size == (30, 40)
    assert found["sub/turned.jpg"][1]["captions"][0]["text"] == "转过来的图"
    assert Image.open(io.BytesIO(found["clear.png"][0])).mode == "RGB"
    assert Pictures(tmp_path / "data").fitted((32, 32)).pixels([0, 1, 2]).shape == (3, 3, 32, 32)


def test_what_is_transparent_is_kept_as_a_map(photos: Path, tmp_path: Path) -> None:
    build_folder(photos, tmp_path / "data", side=10)
    keys = {row["source"]: key for key, _, row in read(tmp_path / "data")}
    maps = tmp_path / "data" / "maps" / "alpha"
    assert [path.stem for path in maps.iterdir()] == [keys["clear.png"]]
    with Image.open(photos / "clear.png") as clear, Image.open(maps / f"{keys['clear.png']}.png") as alpha:
        assert alpha.tobytes() == clear.getchannel("A").tobytes()
    # Where a picture has none, all of it is there.
    pictures = Pictures(tmp_path / "data")
    fitted = pictures.fitted((32, 32))
    rows = [row for row, key in enumerate(pictures.keys) if key != keys["clear.png"]]
    assert bool((fitted.maps("alpha", rows) == 1).all())
    assert float(fitted.maps("alpha", [pictures.keys.index(keys["clear.png"])]).min()) < 0.5
    save(photos / "clear.png")
    build_folder(photos, tmp_path / "data", side=10)
    assert not list(maps.iterdir())


def test_masks_beside_pictures_are_their_maps_and_no_pictures(tmp_path: Path) -> None:
    photos, data = tmp_path / "photos", tmp_path / "data"
    for name in ("cat.jpg", "dog.png", "bird.png"):
        save(photos / name, size=(60, 40))
        (photos / name).with_suffix(".txt").write_text(name, "utf-8")
    mask = Image.new("L", (60, 40), 0)
    mask.paste(255, (0, 0, 30, 40))
    mask.save(photos / "cat-masklabel.png")
    mask.resize((40, 40)).save(photos / "bird-masklabel.png")  # its sides have another ratio
    mask.save(photos / "gone-masklabel.png")
    mask.save(photos / "dog-condlabel.png")
    report = build_folder(photos, data)
    assert report.left == (("bird.png", Reason.MAP),)
    assert report.files["read"] == {"captions": 3, "maps": 3, "pictures": 3}
    assert [(row["count"], row["examples"]) for row in report.files["not_read"]] == [(1, ["gone-masklabel.png"])]
    keys = {row["source"]: key for key, _, row in read(data)}
    found = {path.relative_to(data / "maps").as_posix() for path in (data / "maps").rglob("*.png")}
    assert found == {f"masklabel/{keys['cat.jpg']}.png", f"condlabel/{keys['dog.png']}.png"}
    pictures = Pictures(data)
    cat, dog = (pictures.keys.index(keys[name]) for name in ("cat.jpg", "dog.png"))
    white = pictures.fitted((60, 40)).maps("masklabel", [cat])
    assert bool((white[..., :30] == 1).all())
    assert bool((white[..., 30:] == -1).all())
    # Where a picture has none, all of it counts.
    assert bool((pictures.fitted((60, 40)).maps("masklabel", [dog]) == 1).all())
    mask.point(lambda value: 255 - value).save(photos / "cat-masklabel.png")
    (photos / "bird-masklabel.png").unlink()
    assert build_folder(photos, data).kept == 3
    keys = {row["source"]: key for key, _, row in read(data)}
    with Image.open(data / "maps" / "masklabel" / f"{keys['cat.jpg']}.png") as changed:
        assert changed.convert("L").getpixel((0, 0)) == 0


def test_run_again_nothing_is_written_twice(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "SAMPLES_PER_SHARD", 2)
    first = build_folder(photos, tmp_path / "data", side=10)
    files = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "data").glob("*.tar")}
    assert len(files) == 3
    assert build_folder(photos, tmp_path / "data", side=10) == first
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "data").glob("*.tar")} == files
    (photos / "silent.txt").write_text("有话说了", "utf-8")
    assert build_folder(photos, tmp_path / "data", side=10).kept == first.kept + 1


def test_metadata_with_labels(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    save(source / "a.png")
    save(tmp_path / "beyond.png")
    rows = [
        {"file_name": "a.png", "text": ["一", "two"], "score": 0.5, "pair": "p1"},
        {"file_name": "gone.png", "text": "没有"},
        {"file_name": "../beyond.png", "text": "外面"},
    ]
    (source / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    report = build_folder(source, tmp_path / "data")
    assert report.left == (("gone.png", Reason.MISSING), ("../beyond.png", Reason.OUTSIDE))
    pictures = Pictures(tmp_path / "data")
    assert pictures.labels == [{"score": 0.5, "pair": "p1"}]
    assert pictures.captions == [("一", "two")]
    assert pictures.languages == [("zh", "en")]


def test_tables_as_published_trainers_read_them(tmp_path: Path) -> None:
    source = tmp_path / "taiyi"
    save(source / "images" / "a.png")
    save(source / "images" / "b.png")
    (source / "release").mkdir()
    (source / "release" / "part.csv").write_text("name,caption,score\na.png,苹果,0.25\nb.png,,1\n", "utf-8")
    report = build_folder(source, tmp_path / "data")
    assert report.left == (("images/b.png", Reason.CAPTION),)
    assert Pictures(tmp_path / "data").labels == [{"score": 0.25}]


def test_what_cannot_be_read_says_where(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    save(source / "a.png")
    with pytest.raises(DataError, match="no caption 1"):
        build_folder(source, tmp_path / "data")
    (source / "a.csv").write_text("who,what\na.png,苹果\n", "utf-8")
    with pytest.raises(DataError, match="who, what"):
        build_folder(source, tmp_path / "data")
    (source / "a.csv").write_bytes("name,caption\na.png,苹果\n".encode("gb18030"))
    assert build_folder(source, tmp_path / "gbk").kept == 1
    (source / "metadata.jsonl").write_text('{"file_name": "a.png"', "utf-8")
    with pytest.raises(DataError, match="line 1"):
        build_folder(source, tmp_path / "data")
    with pytest.raises(DataError, match="no folder"):
        build_folder(tmp_path / "none", tmp_path / "data")


def test_where_nothing_can_be_written_it_is_one_sentence_and_nothing_stays(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="a file and no folder"):
        build_folder(photos, tmp_path / "file" / "data")
    assert (tmp_path / "file").read_text() == "x"

    def full(*given: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "data" / "shard-00000.tar"))

    with monkeypatch.context() as patched:
        patched.setattr(tarfile.TarFile, "addfile", full)
        with pytest.raises(DataError, match=r"No space left on device\. What was finished is kept; make room"):
            build_folder(photos, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    assert build_folder(photos, tmp_path / "data", side=10).kept == 3
