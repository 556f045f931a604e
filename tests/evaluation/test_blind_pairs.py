"""Blind pairs of pictures from reports: chosen evenly, once by each judge, remembered."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from bimo.core.errors import DataError
from bimo.evaluation.blind_pairs import BlindPair, BlindPairs, vote_of
from bimo.evaluation.preference import Vote, ratings, read_votes
from bimo.evaluation.suite_drawings import GIVEN
from tests.support.suite_report import report


def test_every_pair_is_asked_once_of_each_judge_and_models_evenly(tmp_path: Path) -> None:
    folder = report(tmp_path / "a", {"one": "red", "two": "blue", "three": "green"}, seeds=2)
    pairs, chance = BlindPairs([folder]), random.Random(0)
    assert pairs.models == ("one", "three", "two")
    assert pairs.left_for("me") == 3 * 2 * 2
    seen, compared, lefts = set(), Counter(), Counter()
    for _ in range(12):
        pair = pairs.next_for("me", chance)
        assert pair is not None
        assert pair.left.case == pair.right.case
        assert pair.files not in seen
        seen.add(pair.files)
        compared[frozenset((pair.left.model, pair.right.model))] += 1
        lefts[pair.left.model] += 1
        pairs.chosen("me", pair)
    assert set(compared.values()) == {4}
    assert all(lefts[model] for model in pairs.models)  # the sides are by chance
    assert pairs.next_for("me", chance) is None
    assert pairs.left_for("you") == 12


def test_two_reports_meet_where_they_have_the_same_prompt(tmp_path: Path) -> None:
    first = report(tmp_path / "first", {"one": "red"}, ("红苹果", "绿苹果"))
    second = report(tmp_path / "second", {"one": "blue", "two": "green"}, ("红苹果", "别的"))
    (second / "two" / "pictures" / "0-0.png").unlink()
    pairs = BlindPairs([first, second])
    assert [pair[0].text for pair in pairs.pairs].count("红苹果") == 1  # the picture of "two" is gone
    assert pairs.models == ("first/one", "second/one", "two")
    assert pairs.missing == 1
    with pytest.raises(DataError, match="no two models' pictures of one prompt"):
        BlindPairs([first])
    with pytest.raises(DataError, match="no report of a suite"):
        BlindPairs([tmp_path])


def test_pictures_drawn_elsewhere_are_found(tmp_path: Path) -> None:
    folder = report(tmp_path / "a", {"one": "red", "api": "blue"})
    (folder / "api" / "pictures").rename(tmp_path / "elsewhere")
    (folder / "api" / GIVEN).write_text(str(tmp_path / "elsewhere"), encoding="utf-8")
    assert len(BlindPairs([folder]).pairs) == 2


def test_votes_are_remembered_and_are_ratings(tmp_path: Path) -> None:
    folder = report(tmp_path / "a", {"one": "red", "two": "blue"}, tuple(f"第{n}句" for n in range(9)))
    pairs, chance, rows = BlindPairs([folder]), random.Random(1), []
    for _ in range(6):
        pair = pairs.next_for("me", chance)
        assert pair is not None
        choice = "a" if pair.left.model == "one" else "b"
        rows.append({"judge": "me", "a": str(pair.left.path), "b": str(pair.right.path), **vote_of(pair, choice)})
        pairs.chosen("me", pair)
    again = BlindPairs([folder])
    again.recall([*rows, {"judge": "me"}, 3, None])
    assert again.left_for("me") == 3
    turned = rows[0] | {
        "a": rows[0]["b"],
        "b": rows[0]["a"],
        "model_a": rows[0]["model_b"],
        "model_b": rows[0]["model_a"],
    }
    table = tmp_path / "choices.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in [*rows, turned]), encoding="utf-8")
    votes, unusable = read_votes(table)
    assert len(votes) == 6  # the same two pictures again, the other way round: the last counts
    assert dict(unusable) == {"judged again by the same": 1}
    assert ratings(votes)[0].model == "one"


def test_a_picture_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    pairs = BlindPairs([report(tmp_path / "a", {"one": "red", "two": "blue"})])
    pairs.drop(pairs.pairs[0][0])
    assert (len(pairs.pairs), pairs.missing, pairs.left_for("me")) == (1, 1, 1)
    assert BlindPair(*pairs.pairs[0]).files == {one.path for one in pairs.pairs[0]}


#: Wins of the row over the column in the American League East of 1987, and the abilities that Agresti prints for it
#: (Categorical Data Analysis, second edition, tables 10.10 and 10.11), in logits above Baltimore.
TEAMS = ("Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore")
WINS = (
    (0, 7, 9, 7, 7, 9, 11),
    (6, 0, 7, 5, 11, 9, 9),
    (4, 6, 0, 7, 7, 8, 12),
    (6, 8, 6, 0, 6, 7, 10),
    (6, 2, 6, 7, 0, 7, 12),
    (4, 4, 5, 6, 6, 0, 6),
    (2, 4, 1, 3, 1, 7, 0),
)
ABILITIES = (1.58, 1.44, 1.29, 1.25, 1.11, 0.68, 0.0)


def test_a_published_table_of_bradley_and_terry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bimo.evaluation.preference.PRIOR", 1e-9)  # the table's maximum likelihood has none
    monkeypatch.setattr("bimo.evaluation.preference.RESAMPLES", 1)
    votes = [
        Vote(first, second, 1.0)
        for first, row in zip(TEAMS, WINS, strict=True)
        for second, wins in zip(TEAMS, row, strict=True)
        for _ in range(wins)
    ]
    points = {one.model: one.points.value for one in ratings(votes)}
    logits = [(points[team] - points["Baltimore"]) / 400 * 2.302585 for team in TEAMS]
    assert logits == pytest.approx(ABILITIES, abs=0.006)
