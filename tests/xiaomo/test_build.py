"""The set on disk: the same bytes whatever the workers, continued where it was broken off, nothing held out."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from bimo.cli import main
from bimo.core.errors import DataError
from bimo.data import shards
from bimo.data.loader import Pictures
from bimo.xiaomo import build
from bimo.xiaomo.build import build_scenes, plan
from bimo.xiaomo.dishes.plan import DishPlan
from bimo.xiaomo.dishes.table import dishes
from bimo.xiaomo.heldout import held_out_dish, held_out_scene, held_out_verse
from bimo.xiaomo.scenes.plan import ScenePlan, VersePlan


def test_nothing_held_out_is_planned_and_larger_sets_begin_with_smaller() -> None:
    plans = plan(1500)
    assert plans[:200] == plan(200)
    assert len({one.key for one in plans}) == len(plans)
    for one in plans:
        if isinstance(one, ScenePlan):
            assert not held_out_scene(one.subject, one.style)
        elif isinstance(one, VersePlan):
            assert not held_out_verse(one.line)
        else:
            usual = usual_vessel(one)
            assert one.vessel == usual or not held_out_dish(one.dish, one.vessel)


def usual_vessel(one: DishPlan) -> str:
    """The vessel that the table gives a dish first."""
    return dishes()[one.dish].vessels[0]


@pytest.mark.slow
def test_the_same_bytes_whatever_the_workers_and_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "SAMPLES_PER_SHARD", 5)
    one = build_scenes(tmp_path / "one", 12, 32, workers=1)
    two = build_scenes(tmp_path / "two", 12, 32, workers=2)
    assert one["digest"] == two["digest"]
    assert one["count"] == 12
    # a shard that is missing or damaged is written again, the others are kept
    first, second = (tmp_path / "one" / shards.shard_name(number) for number in (0, 1))
    second.unlink()
    before = first.stat().st_mtime_ns
    assert build_scenes(tmp_path / "one", 12, 32, workers=1)["digest"] == one["digest"]
    assert first.stat().st_mtime_ns == before
    # another seed is another set
    assert build_scenes(tmp_path / "one", 12, 32, seed=1, workers=1)["digest"] != one["digest"]


def test_a_record_says_all_that_the_picture_declares(tmp_path: Path) -> None:
    build_scenes(tmp_path, 10, 48, workers=1)
    types = set()
    for key, png, record in shards.read(tmp_path):
        picture = Image.open(io.BytesIO(png))
        assert picture.size == (48, 48)
        labels = record["labels"]
        types.add(labels["type"])
        assert key.startswith(labels["type"])
        assert len(record["captions"]) == build.CAPTIONS
        assert labels["style"]
        assert len(labels["layout"]) == (7 if labels["type"] == "dish" else 13)
        assert labels["elements"]
        assert record["licence"]
        if labels["type"] == "verse":
            assert set(labels["named"]) <= set(labels["elements"])
    assert types == {"scene", "verse", "dish"}
    held = json.loads((tmp_path / "held_out.json").read_text("utf-8"))
    assert held["scenes"]
    assert held["verses"]
    assert "MIT" in (tmp_path / "LICENSES.md").read_text("utf-8")
    assert len(Pictures(tmp_path)) == 10


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main.run(["data", "scenes", str(tmp_path), "--count", "2", "--side", "32", "--workers", "1"])
    assert status == 0
    assert (tmp_path / "index.json").is_file()
    assert "count: 2" in capsys.readouterr().out


def test_numbers_that_make_no_set_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="count"):
        build_scenes(tmp_path, 0)
