"""Scenes are judged: the judge learns, is kept and examined; what is asked and what is right; a whole evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bimo.core.errors import DataError
from bimo.diffusion.system import System
from bimo.evaluation.report import read_report
from bimo.xiaomo.build import build_scenes
from bimo.xiaomo.evaluation import scene_judge, scene_truth
from bimo.xiaomo.evaluation.run import evaluate
from bimo.xiaomo.evaluation.scene_judge import SceneJudge, SceneNetwork, SceneSeen, scene_judge_for
from bimo.xiaomo.evaluation.scene_run import SceneAnswers, SceneQuestion, measures, scene_questions
from bimo.xiaomo.evaluation.scene_truth import held_out_lines, read_scenes
from bimo.xiaomo.heldout import held_out_scene, held_out_verse
from bimo.xiaomo.recipe import xiaomo

COUNT = 30


def quiet(title: str, done: int, total: int) -> None:
    """Hears of progress."""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "data"
    build_scenes(folder, COUNT, side=48, workers=1)
    return folder


@pytest.fixture(scope="module")
def judge(scenes: Path) -> SceneJudge:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene_judge, "BATCH", 8)
        patch.setattr(scene_judge, "EACH_PAIR", 0)
        patch.setattr(scene_truth, "LINES", 1)
        return scene_judge_for(scenes, quiet, steps=12)


@pytest.mark.slow
def test_pictures_are_read_with_what_is_on_them(scenes: Path) -> None:
    truth = read_scenes(scenes, quiet)
    assert truth.pixels.shape == (COUNT, 96, 96, 3)
    labels = truth.labels
    assert (labels.subject < 0).sum() == COUNT // 5  # two of ten are verses
    assert labels.style.min() >= 0
    assert labels.elements.sum(1).min() >= 0
    assert set(truth.subjects) == {truth.subjects[i] for i in labels.subject if i >= 0}


@pytest.mark.slow
def test_the_judge_is_kept_and_read_back(scenes: Path, judge: SceneJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_judge, "train_scene_judge", None)  # a second training would fail
    again = scene_judge_for(scenes, quiet)
    pixels = read_scenes(scenes, quiet).pixels
    first, second = judge.see(pixels), again.see(pixels)
    assert np.array_equal(first.subject, second.subject)
    assert np.array_equal(first.elements, second.elements)
    assert set(again.facts["accuracy"]) == {"rows of the set", "pairs held out", "verses held out", "dishes"}
    assert again.see(pixels[:0]).subject.shape == (0,)


@pytest.mark.slow
def test_a_damaged_judge_is_named(scenes: Path, judge: SceneJudge) -> None:
    path = scenes / scene_judge.WEIGHTS_FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(DataError, match="Delete it"):
        scene_judge_for(scenes, quiet)
    path.write_bytes(whole)


@pytest.mark.slow
def test_the_judge_learns_what_is_plain_to_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_judge, "BATCH", 16)
    rng = np.random.default_rng(0)
    colours = np.array([(220, 30, 30), (30, 60, 220)], np.uint8)
    subject = rng.integers(0, 2, 64)
    pixels = np.broadcast_to(colours[subject][:, None, None], (64, 96, 96, 3)).copy()
    stands = rng.integers(0, 2, 64)
    pixels[stands == 1, 40:56, 40:56] = 255
    labels = scene_truth.SceneLabels(subject, np.zeros(64, np.int64), stands[:, None].astype(np.float32))
    truth = scene_truth.SceneTruth(pixels, labels, ("red", "blue"), ("flat",), ("square",))
    network = scene_judge._trained(truth, 30, quiet)
    learnt = SceneJudge(network, truth.subjects, truth.styles, truth.elements, torch.zeros(1), {})
    found = scene_judge.examine(learnt, truth)
    assert found["subject"] > 0.95
    assert found["elements seen"] > 0.9
    assert found["elements seen that are not there"] < 0.1


@pytest.mark.slow
def test_what_is_asked_is_held_out_where_it_says_so(judge: SceneJudge) -> None:
    asked = scene_questions(judge)
    assert all(held_out_scene(q.subject, q.style) == (q.group == "unseen scene") for q in asked if q.style)
    verses = [q for q in asked if q.group == "verse"]
    assert verses
    assert all(held_out_verse(q.text) for q in verses)
    assert all(set(q.elements) <= set(judge.elements) for q in verses)
    assert len({(q.group, q.key, q.language) for q in asked}) == len(asked)
    assert len([q for q in scene_questions(judge, limit=2) if q.group == "verse"]) == 2
    assert held_out_lines()


def test_each_measure_says_what_is_right() -> None:
    network = SceneNetwork(3, 2, 2)
    judge = SceneJudge(network, ("bridge", "红烧鱼", "鱼香肉丝"), ("ink", "oil"), ("moon", "boat"), torch.zeros(2), {})
    asked = [
        SceneQuestion("scene", "a", "zh", "小桥", "bridge", "ink"),
        SceneQuestion("verse", "b", "zh", "明月孤舟", elements=("moon", "boat")),
        SceneQuestion("no fish", "c", "zh", "鱼香肉丝", "鱼香肉丝"),
    ]
    seen = SceneSeen(np.array([0, 0, 1]), np.array([1, 0, 0]), np.array([[0, 0], [1, 0], [0, 0]], bool))
    drawn = SceneAnswers(asked, [Image.new("RGB", (8, 8))] * 3, seen)
    rules = measures(judge)
    scene = drawn.of("scene")
    assert [rules["scene"][name](scene) for name in ("subject", "style", "subject and style")] == [
        [True],
        [False],
        [False],
    ]
    assert rules["verse"]["elements"](drawn.of("verse")) == [True, False]
    assert rules["no fish"]["no fish"](drawn.of("no fish")) == [False]


@pytest.mark.slow
def test_a_folder_of_scenes_is_asked_about_scenes(scenes: Path, judge: SceneJudge, tmp_path: Path) -> None:
    torch.manual_seed(0)
    system = System(xiaomo.tiny()).eval()
    words = (scenes / "words.txt").read_text("utf-8").splitlines()
    tower: Any = system.text_encoders[0]
    tower.build_tokenizer(words, words)
    found = evaluate(system, scenes, tmp_path, limit=1, steps=1)
    report = read_report(tmp_path / "report.json")
    groups = {figure["group"] for figure in report.figures}
    assert groups >= {"verse", "dish", "no fish"}
    assert found["numbers"].keys() == report.numbers.keys()
    assert (tmp_path / "verse.png").is_file()
