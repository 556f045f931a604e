"""A whole evaluation of a tiny system on a tiny data folder: it reports, it goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import bimo
from bimo.core.errors import DataError
from bimo.core.hashing import digest_tensors
from bimo.diffusion.system import System
from bimo.engine.engine import Engine
from bimo.evaluation import drawing_cache
from bimo.evaluation.drawing_cache import DrawingCache
from bimo.evaluation.report import read_report
from bimo.xiaomo.evaluation import judge as judging
from bimo.xiaomo.evaluation import run
from bimo.xiaomo.evaluation.judge import Judge, judge_for
from bimo.xiaomo.evaluation.run import evaluate
from bimo.xiaomo.evaluation.truth import read_artwork
from bimo.xiaomo.recipe import xiaomo

pytestmark = pytest.mark.slow


def quiet(title: str, done: int, total: int) -> None:
    """Hears of progress."""


@pytest.fixture(scope="module")
def judge(folder: Path) -> Judge:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "BATCH", 16)
        patch.setattr(judging, "EXAMINED", {"drawn": 1, "effect": 1, "held out": 1})
        return judge_for(read_artwork(folder), quiet, steps=2, blind_steps=2)


@pytest.fixture(scope="module")
def system(folder: Path) -> System:
    torch.manual_seed(0)
    made = System(xiaomo.tiny()).eval()
    words = (folder / "words.txt").read_text("utf-8").splitlines()
    tower: Any = made.text_encoders[0]
    tower.build_tokenizer(words, words)
    return made


def test_evaluation_reports_and_goes_on(
    system: System, folder: Path, judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = Engine.draw_together, []

    def failing(engine: Engine, requests: list[Any]) -> Any:
        calls.append(len(requests))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(engine, requests)

    monkeypatch.setattr(Engine, "draw_together", failing)
    with pytest.raises(KeyboardInterrupt):
        evaluate(system, folder, tmp_path, limit=2, steps=2, batch=4, judge=judge)
    kept = set((tmp_path / "pictures").glob("*.png"))
    assert len(kept) == 8

    calls.clear()
    monkeypatch.setattr(
        Engine, "draw_together", lambda engine, requests: (calls.append(len(requests)), whole(engine, requests))[1]
    )
    found = evaluate(system, folder, tmp_path, limit=2, steps=2, batch=4, judge=judge)
    every = set((tmp_path / "pictures").glob("*.png"))
    assert kept < every
    assert sum(calls) == len(every) - len(kept) == found["protocol"]["pictures drawn now"]

    calls.clear()
    again = evaluate(system, folder, tmp_path, limit=2, steps=2, batch=4, judge=judge)
    assert not calls
    assert again["numbers"] == found["numbers"]
    assert read_report(tmp_path / "report.json").figures[0]["model"] == again["figures"][0]["model"]

    groups = {figure["group"] for figure in found["figures"]}
    assert groups >= {"seen", "bare", "unseen", "colour", "count", "pair", "place", "warning", "seeds"}
    assert all(
        set(f["baselines"]) == {"nearest picture", "first level"} for f in found["figures"] if f["group"] == "unseen"
    )
    assert all(
        (f["ceiling"] is not None) == (f["group"] in ("seen", "bare", "unseen"))
        for f in found["figures"]
        if f["language"]
    )
    assert found["protocol"]["steps"] == 2
    assert found["weights"] == digest_tensors(system.state_dict())
    for name in ("sheet.png", "unseen.png", "compositions.png", "seeds.png", "report.html", "report.md"):
        assert (tmp_path / name).stat().st_size > 100
    text = json.dumps(found, ensure_ascii=False)
    assert "评判器" in text
    named = {
        figure["language"]: figure["model"] for figure in found["figures"] if figure["measure"] == "unknown word named"
    }
    assert named["zh"]["n"] == 2


def test_a_picture_is_known_by_request_and_weights(system: System, tmp_path: Path) -> None:
    cache = DrawingCache(Engine(system), tmp_path, 2, quiet)
    first, second = run.Request(text="猫", seed=1, steps=2), run.Request(text="猫", seed=2, steps=2)
    assert cache.path(first) == cache.path(run.Request(text="猫", seed=1, steps=2))
    assert cache.path(first) != cache.path(second)
    before = cache.path(first)
    other = DrawingCache(Engine(system), tmp_path, 2, quiet)
    other.weights = "other"
    assert other.path(first) != before
    images = cache.draw([first, second, first])
    assert cache.drawn == 2
    assert images[0].tobytes() == images[2].tobytes()


def test_a_drafted_picture_is_known_by_the_tables_of_drafts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = bimo.load("xiaomo-2")
    monkeypatch.setattr(drawing_cache.inspect, "getfile", lambda of: str(tmp_path / "conditioner.py"))

    def names() -> tuple[str, str]:
        cache = DrawingCache(engine, tmp_path / "pictures", 2, quiet)
        drafted, plain = (run.Request(text="树", seed=1, draft=share) for share in (0.25, 0.0))
        return cache.path(drafted).name, cache.path(plain).name

    (tmp_path / "things.tsv").write_text("🌲\t树", "utf-8")
    before = names()
    assert names() == before
    (tmp_path / "things.tsv").write_text("🌳\t树", "utf-8")
    after = names()
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_an_evaluation_without_data_says_what_to_do(system: System, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--data"):
        evaluate(system, None, tmp_path)
    with pytest.raises(DataError, match="no folder"):
        evaluate(system, tmp_path / "nothing", tmp_path)
