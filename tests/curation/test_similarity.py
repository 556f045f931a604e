"""The line that similarity is held against: given, or settled on matched and shuffled pairs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from PIL import Image

from bimo.core.errors import DataError, RecipeError
from bimo.core.part import dump, load
from bimo.curation.filters.similarity import Similarity, above_which, area, strangers
from bimo.curation.steps import ModelStep, Pair, Tools, Verdict

COLOURS = {"红": (1.0, 0.0, 0.0), "绿": (0.0, 1.0, 0.0), "蓝": (0.0, 0.0, 1.0)}


class Eye:
    """Knows three colours; counts what it is shown."""

    digest = "eye"

    def __init__(self) -> None:
        self.shown: list[int] = []
        self.read: list[list[str]] = []

    def fitted(self, picture: Image.Image) -> Image.Image:
        return picture

    def words(self, texts: Sequence[str]) -> np.ndarray:
        self.read.append(list(texts))
        return _unit([np.sum([COLOURS[c] for c in text if c in COLOURS], axis=0) for text in texts])

    def pictures(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        self.shown.append(len(pictures))
        return _unit([np.asarray(picture, np.float32)[0, 0] for picture in pictures])


def _unit(rows: Sequence[np.ndarray]) -> np.ndarray:
    made = np.array(rows, np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


class Scored:
    """The columns of similarity, by themselves."""

    def __init__(self, matched: Sequence[float | None], shuffled: Sequence[float | None]) -> None:
        self.columns = {"similarity": np.array(matched, object), "similarity_shuffled": np.array(shuffled, object)}
        self.numbers = np.arange(len(matched))

    def column(self, name: str) -> np.ndarray:
        return self.columns[name]

    def captions(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        return iter(())


def pair(number: int, colour: str, *captions: str) -> Pair:
    return Pair(number, Image.new("RGB", (4, 4), colour), captions)


def opened(eye: Eye) -> tuple[Similarity, Tools]:
    return Similarity(scorer="eye", above=0.5), Tools(scorer=lambda name: eye)


def test_it_is_a_model_step_and_dumps() -> None:
    step, tools = opened(Eye())
    assert isinstance(step, ModelStep)
    assert load(dump(step)) == step
    assert step.measuring(tools) == "Similarity/2 eye"


def test_what_is_decoded_is_viewed_at_once() -> None:
    step, tools = opened(Eye())
    large = Image.new("RGB", (400, 300))
    assert step.view(tools)(large) is large


def test_each_picture_and_caption_is_encoded_once() -> None:
    eye = Eye()
    step, tools = opened(eye)
    pairs = [pair(7, "red", "红", "绿"), pair(3, "lime", "红"), pair(5, "blue", "红蓝"), pair(9, "blue", "蓝")]
    found = step.open(tools)(pairs)
    assert eye.shown == [4]
    assert eye.read == [["红", "绿", "红蓝", "蓝"]]
    half = 0.5**0.5
    assert [row["similarity"] for row in found] == pytest.approx([1, 0, half, 1])
    # By number 3, 5, 7, 9: 3 with 5; 5 with 7; 7 with 9; 9 with 3.
    assert [row["similarity_shuffled"] for row in found] == pytest.approx([0, 0, 0, 0])
    assert json.loads(str(found[0]["similarities"])) == [1, 0]
    assert "similarities" not in found[1]
    again = step.open(tools)([pairs[2], pairs[0], pairs[3], pairs[1]])
    assert [again[i] for i in (1, 3, 0, 2)] == found


def test_a_stranger_shares_no_caption() -> None:
    same = [pair(1, "red", "红"), pair(2, "red", "红", "绿"), pair(3, "blue", "蓝"), pair(4, "red")]
    assert strangers(same) == [2, 2, 0, 0]
    assert strangers(same[:2]) == [-1, -1]
    step, tools = opened(Eye())
    found = step.open(tools)(same[:1])
    assert found == [{"similarity": 1.0, "similarity_shuffled": None}]
    assert step.open(tools)([pair(1, "red")]) == [{"similarity": None, "similarity_shuffled": None}]


@pytest.mark.parametrize(
    ("score", "verdict"),
    [
        (0.51, None),
        (0.5, Verdict(0.5, 0.5)),
        (-0.2, Verdict(-0.2, 0.5)),
        (None, Verdict("", 0.5)),
    ],
)
def test_a_given_line(score: float | None, verdict: Verdict | None) -> None:
    step = Similarity(scorer="eye", above=0.5)
    assert step.judge({"similarity": score}) == verdict
    assert step.settled(Scored([], [])).judge({"similarity": score}) == verdict


def test_no_number_is_above_no_line() -> None:
    assert Similarity(scorer="eye", above=-1.0).judge({"similarity": float("nan")}) is not None


def test_the_best_share_is_kept() -> None:
    matched = [row / 100 for row in range(100)]
    step = Similarity(scorer="eye", top=0.3).settled(Scored(matched, [0.0] * 100))
    assert step.line == pytest.approx(0.69)
    assert sum(step.judge({"similarity": value}) is None for value in matched) == 30
    assert (step.rows, step.shuffled) == (100, 100)
    assert load(dump(step)) == step


def test_at_most_a_share_of_shuffled_pairs_passes() -> None:
    noise = np.random.default_rng(0)
    matched, shuffled = noise.normal(0.5, 0.1, 400), noise.normal(0.3, 0.1, 395)
    table = Scored([*matched, None], [*shuffled, float("nan")])
    step = Similarity(scorer="eye", false_accepts=0.05).settled(table)
    assert step.line is not None
    passed = (shuffled > step.line).sum()
    assert passed == int(0.05 * 395)
    assert (step.rows, step.shuffled) == (400, 395)
    brute = np.mean([(m > shuffled).mean() + 0.5 * (m == shuffled).mean() for m in matched])
    assert step.area == pytest.approx(brute, abs=1e-6)
    assert brute > 0.9


def test_equal_scores_do_not_let_more_through() -> None:
    values = np.array([0.1] * 50 + [0.2] * 50)
    assert above_which(values, 0.3) == 0.2  # the line is not crossed by any: half of them would be
    assert above_which(values, 0.5) == 0.1
    assert area(values, values) == 0.5
    assert area(np.ones(2), np.zeros(3)) == 1.0


def test_too_few_rows_settle_nothing() -> None:
    step = Similarity(scorer="eye", false_accepts=0.05)
    with pytest.raises(DataError, match="49"):
        step.settled(Scored([0.5] * 60, [0.1] * 49))
    with pytest.raises(DataError, match=r"settled|定"):
        step.judge({"similarity": 0.5})


@pytest.mark.parametrize("given", [{}, {"above": 0.2, "top": 0.3}, {"top": 30.0}, {"false_accepts": 0.0}])
def test_one_line_is_asked_for(given: dict[str, float]) -> None:
    with pytest.raises(RecipeError):
        Similarity(scorer="eye", **given)
