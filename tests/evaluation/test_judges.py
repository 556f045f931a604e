"""Judges: an endpoint that answers as told, a CLIP that knows colours; answers are kept; votes become ratings."""

import base64
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bimo.core.errors import DataError
from bimo.curation.captioning.endpoint import Endpoint
from bimo.curation.feedback import build_feedback
from bimo.evaluation.judges.clip import ClipJudge
from bimo.evaluation.judges.endpoint import EndpointJudge
from bimo.evaluation.judges.judge import Look, answers
from bimo.evaluation.preference import Vote, expected, ratings, read_votes
from bimo.evaluation.result_cache import ResultCache
from bimo.evaluation.suites.suite import Check
from tests.support.chat_endpoint import PROXIES, Standin, said

RED, CAT = Check("红色", "red"), Check("猫", "a cat", seen=False)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    standin = Standin()
    yield standin
    standin.close()


def judge_of(standin: Standin) -> EndpointJudge:
    return EndpointJudge(Endpoint(address=standin.address, model="眼", tries=2), wait=lambda seconds: None)


@pytest.fixture
def red(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    return tmp_path / "red.png"


def look(path: Path, check: Check, language: str = "zh") -> Look:
    return Look(path, f"sha of {path.name}", check, language)


@pytest.mark.network
def test_an_endpoint_is_shown_the_picture_and_asked_the_check(endpoint: Standin, red: Path) -> None:
    endpoint.reply = lambda body, count: said("否。" if "猫" in json.dumps(body, ensure_ascii=False) else "是")
    judge = judge_of(endpoint)
    found = judge.answer([look(red, RED), look(red, CAT)])
    assert [(one.text, one.right) for one in found] == [("是", True), ("否。", True)]
    image, text = endpoint.bodies[0]["messages"][0]["content"]
    sent = Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"].partition(",")[2])))
    assert sent.getpixel((0, 0)) == (255, 0, 0)
    assert "这张图里能看到" in text["text"]


@pytest.mark.network
@pytest.mark.parametrize(
    ("check", "text", "right"),
    [
        (RED, "Yes, it is red.", True),
        (RED, "不是", False),
        (CAT, "yes", False),
        (RED, "<think>是不是…否</think>是", True),
        (RED, "也许吧", None),
        (RED, "", None),
        (Check("", "", question="How many toys are in the image?", answer="two"), "There are 2 toys.", True),
        (Check("", "", question="How many toys are in the image?", answer="two"), "Three", False),
    ],
)
def test_answers_are_understood(endpoint: Standin, red: Path, check: Check, text: str, right: bool | None) -> None:
    endpoint.reply = lambda body, count: said(text)
    judge = judge_of(endpoint)
    assert judge.answer([look(red, check)])[0].right is right
    assert bool(judge.unanswered) == (right is None)


@pytest.mark.network
def test_what_was_answered_is_asked_once(endpoint: Standin, red: Path, tmp_path: Path) -> None:
    endpoint.reply = lambda body, count: said("也许" if count == 1 else "是")
    looks = [look(red, RED), look(red, CAT)]
    first = answers(judge_of(endpoint), looks, ResultCache(tmp_path / "answers.jsonl"), together=1)
    assert [one.right for one in first] == [True, None]
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write('{"key": "cut off by kill')
    again = answers(judge_of(endpoint), looks, ResultCache(tmp_path / "answers.jsonl"))
    assert [one.right for one in again] == [True, False]
    assert len(endpoint.bodies) == 3  # the one that was not understood is asked again, the other is not


class Colours:
    """A scorer whose vectors are mean colours; words are 红 and 绿."""

    digest = "colours"

    def fitted(self, picture: Image.Image) -> Image.Image:
        return picture

    def words(self, texts: Sequence[str]) -> np.ndarray:
        rows = {"红色": (1, 0, 0), "绿色": (0, 1, 0)}
        return np.array([rows.get(text, (0, 0, 1)) for text in texts], np.float32)

    def pictures(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        x = np.stack([np.asarray(p, np.float32).mean((0, 1)) for p in pictures])
        return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_a_clip_says_yes_above_what_other_pictures_reach(tmp_path: Path) -> None:
    others = {f"other {n}": Colours().pictures([Image.new("RGB", (2, 2), (9 * n, 99, 255))])[0] for n in range(20)}
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    judge = ClipJudge(Colours(), "zh", others)
    seen, green, mistaken = judge.answer(
        [look(tmp_path / "red.png", c) for c in (RED, Check("绿色", "green"), Check("红色", "red", seen=False))]
    )
    assert (seen.text, seen.right) == ("是", True)
    assert (green.text, green.right) == ("否", False)
    assert mistaken.right is False
    assert judge.answer([look(tmp_path / "red.png", Check("", "red"))])[0].right is None
    few = ClipJudge(Colours(), "zh", dict(list(others.items())[:5]))
    assert few.answer([look(tmp_path / "red.png", RED)])[0].right is None


def test_ratings_of_votes_are_on_elo_s_scale() -> None:
    votes = [Vote("a", "b", 1.0)] * 75 + [Vote("b", "a", 1.0)] * 25
    best, worst = ratings(votes)
    assert (best.model, best.won, best.votes) == ("a", 0.75, 100)
    gap = best.points.value - worst.points.value
    assert gap == pytest.approx(400 * np.log10(75.25 / 25.25), abs=0.5)  # half a tie between the two is the prior
    assert expected(best.points.value, worst.points.value) == pytest.approx(0.75, abs=0.01)
    assert best.points.low < best.points.value < best.points.high
    assert best.points.low > worst.points.high
    even = ratings([Vote("a", "b", 0.5)] * 10)
    assert [one.points.value for one in even] == pytest.approx([1000, 1000])


def test_models_that_never_met_are_compared_through_a_third() -> None:
    votes = (
        [Vote("a", "b", 1.0)] * 8 + [Vote("b", "a", 1.0)] * 2 + [Vote("b", "c", 1.0)] * 8 + [Vote("c", "b", 1.0)] * 2
    )
    assert [one.model for one in ratings(votes)] == ["a", "b", "c"]
    with pytest.raises(DataError, match="joined by no vote"):
        ratings([Vote("a", "b", 1.0), Vote("c", "d", 0.0)])
    with pytest.raises(DataError, match="no vote"):
        ratings([])


def test_votes_of_the_page_are_ratings_and_training_pairs(tmp_path: Path) -> None:
    rows = []
    for number, choice in enumerate(("a", "a", "b", "tie")):
        for side in "ab":
            Image.new("RGB", (32, 32), (number * 60, 99, 0 if side == "a" else 255)).save(
                tmp_path / f"{number}{side}.png"
            )
        rows.append({"request": f"红苹果 {number}", "a": f"{number}a.png", "b": f"{number}b.png", "choice": choice,
                     "judge": "我", "model_a": "kolors", "model_b": "xiaomo"})  # fmt: skip
    lines = [json.dumps(row, ensure_ascii=False) for row in [*rows, {**rows[2], "choice": "a"}]]
    table = tmp_path / "choices.jsonl"
    table.write_text("\n".join([*lines, "{", json.dumps({**rows[0], "model_b": "kolors"})]), encoding="utf-8")
    votes, unusable = read_votes(table)
    assert len(votes) == 4
    assert unusable == {"judged again by the same": 1, "line is no vote": 1, "a model against itself": 1}
    assert ratings(votes)[0].model == "kolors"
    assert ratings(votes)[0].won == pytest.approx(3.5 / 4)
    assert build_feedback(table, tmp_path / "pairs").pairs >= 2
    (tmp_path / "none.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="no vote between two models"):
        read_votes(tmp_path / "none.jsonl")
