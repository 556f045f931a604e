"""The everyday words are enough, name each kind once a row, and every question says what is right."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from bimo.xiaomo.evaluation.judge import held_out_pairs
from bimo.xiaomo.evaluation.prompts import ASKED, SHEET, UNKNOWN_EN, UNKNOWN_ZH, everyday, questions
from bimo.xiaomo.evaluation.truth import read_artwork


def test_everyday_words_are_enough_and_differ() -> None:
    rows = everyday()
    assert len(rows) >= 150
    assert len({zh for _, zh, _ in rows}) == len({en for _, _, en in rows}) == len(rows)
    assert all(len(set(codes)) == len(codes) for codes, _, _ in rows)


def test_unknown_words_are_in_no_table() -> None:
    table = resources.files("bimo.xiaomo.artwork").joinpath("words.tsv").read_text("utf-8")
    known = {
        word for line in table.splitlines()[1:] for cell in line.split("\t")[2:] for word in cell.lower().split("/")
    }
    assert not known & {*UNKNOWN_ZH, *UNKNOWN_EN}
    assert min(len(set(UNKNOWN_ZH)), len(set(UNKNOWN_EN))) == 40
    assert len(set(SHEET)) == 60


def test_questions_come_in_both_languages_and_not_from_held_out_pairs(folder: Path) -> None:
    artwork = read_artwork(folder)
    withheld = held_out_pairs(artwork)
    seen = frozenset((kind.hexcode, style) for kind in artwork.kinds for style in ("3d", "flat", "oil"))
    single = frozenset(kind.hexcode for kind in artwork.kinds)
    asked = questions(artwork, seen - set(withheld), withheld, single, 3, seed=5)
    assert {q.group for q in asked} >= set(ASKED) - {"seeds"}
    assert all(q.seed == 5 for q in asked)
    for group in ("seen", "bare", "unseen", "colour", "count", "pair", "place"):
        part = [q for q in asked if q.group == group]
        assert 0 < len(part) <= 6
        assert len([q for q in part if q.language == "zh"]) * 2 == len(part)
        assert all(q.kinds for q in part)
    for question in asked:
        if question.group in ("seen", "unseen"):
            pair = (question.kinds[0], question.style)
            assert (pair in withheld) == (question.group == "unseen")
    texts = [q.text for q in questions(artwork, seen, withheld, single, 3, seed=5)]
    assert texts == [q.text for q in questions(artwork, seen, withheld, single, 3, seed=5)]
