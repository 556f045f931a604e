"""Commoner words for those that a model never learned, and what the table of them says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import bimo
from bimo.cli import main
from bimo.core.picture import read_metadata
from bimo.hub.editions import text_encoder_of
from bimo.prompts.commoner_words import table, words_in
from bimo.prompts.paraphrases import paraphrased, proposed
from bimo.prompts.token_budget import Budget
from tests.support.tiny_checkpoints import checkpoint

KNOWN = (
    "可爱的",
    "可爱",
    "cute",
    "狗",
    "猫",
    "蓝色的",
    "月亮",
    "一只",
    "a",
    "dog",
    "the",
    "moon",
    "城市",
    "夜景",
    "森林里",
    "和",
    "猴子",
)


def budget(text: str) -> Budget:
    """A model that learned a dozen words."""
    rest = re.sub("|".join(sorted(KNOWN, key=len, reverse=True)), "·", text)
    unknown = tuple(re.findall(r"[^\W_]+", rest))
    return Budget(len(text), 64, unknown=unknown, wholly=bool(unknown) and "·" not in rest)


@pytest.mark.parametrize(
    ("text", "read", "left_out"),
    [
        ("一只柯基", "一只狗", ()),
        ("柯基和布偶猫，8K，杰作", "狗和猫", ("8K", "杰作")),
        ("成都的布偶猫", "猫", ("成都",)),
        ("A CORGI", "A dog", ()),
        ("corgis", "dog", ()),
        # What only adorns is left out beside other words, though it is known.
        ("可爱的狗", "狗", ("可爱的",)),
        ("a cute dog", "a dog", ("cute",)),
        ("可爱", "可爱", ()),
        ("一只cute的狗", "一只 狗", ("cute",)),
        ("(柯基:1.3) [布偶猫:狗:0.5] <lora:柯基:0.8>", "(狗:1.3) [猫:狗:0.5] <lora:柯基:0.8>", ()),
        ("写着「柯基」的柯基", "写着「柯基」的狗", ()),
        # Part of another word, known in its context, or not of the table.
        ("corgiland", "corgiland", ()),
        ("森林里的狗，金融", "森林里的狗，金融", ()),
        ("一只狗", "一只狗", ()),
        # What is merely like it is not drawn, and all that there is to draw is not left out.
        ("孙悟空", "孙悟空", ()),
        ("成都", "成都", ()),
        ("", "", ()),
    ],
)
def test_a_prompt_in_commoner_words(text: str, read: str, left_out: tuple[str, ...]) -> None:
    found = paraphrased(text, budget)
    assert (found.text, found.left_out) == (read, left_out)
    assert paraphrased(found.text, budget).text == found.text
    assert bool(found.notes()) is (found.text != text)


def test_words_are_found_as_a_pattern_of_all_of_them_finds_them() -> None:
    words = re.compile("|".join(map(re.escape, sorted(table(), key=len, reverse=True))))
    text = "，".join(table()) + "".join(table())
    assert list(words_in(text)) == [found.span() for found in words.finditer(text)]


def test_what_is_like_a_word_is_proposed() -> None:
    assert proposed(("孙悟空", "柯基", "量子", "可爱的"), lambda word: word in (*KNOWN, "-")) == ("猴子", "狗")


@pytest.mark.parametrize("chinese", [True, False])
def test_every_word_of_the_table_is_called_what_the_bundled_models_know(chinese: bool) -> None:
    budgets = [text_encoder_of(name).budget for name in ("xiaomo", "xiaomo-2")]
    rows = {row: word for word, row in table().items()}
    unknown = {
        word: choices
        for row, word in rows.items()
        if (choices := row.every(chinese))
        and not row.adorns
        and all(budget(one).unknown for one in choices for budget in budgets[1:])
    }
    assert not unknown


def test_words_stand_in_one_row() -> None:
    import csv
    from importlib import resources

    lines = resources.files("bimo.prompts").joinpath("paraphrases.tsv").read_text("utf-8").splitlines()
    rows = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    words = [word for row in rows for word in row[0].split("|")]
    assert not {word for word in words if words.count(word) > 1}
    assert all(1 <= len(row) <= 3 and all(row[0].split("|")) for row in rows)


@pytest.mark.slow
def test_the_words_read_are_said_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dog, again, literal = tmp_path / "dog.png", tmp_path / "again.png", tmp_path / "literal.png"
    assert main.run(["draw", "一只柯基", "--seed", "1", "--steps", "1", "-o", str(dog)]) == 0
    assert "柯基 → 狗" in capsys.readouterr().err
    request = read_metadata(dog)["request"]
    assert (request["text"], request["drawn_text"]) == ("一只柯基", "一只狗")
    assert main.run(["draw", "--again", str(dog), "-o", str(again)]) == 0
    assert dog.read_bytes() == again.read_bytes()
    # As it stands: so it was drawn before there were commoner words, and so it is drawn again.
    assert main.run(["draw", "一只柯基", "--seed", "1", "--steps", "1", "--anyway", "-o", str(literal)]) == 0
    assert "drawn_text" not in read_metadata(literal)["request"]
    assert main.run(["draw", "--again", str(literal), "-o", str(again)]) == 0
    assert literal.read_bytes() == again.read_bytes() != dog.read_bytes()


def test_what_is_only_like_something_is_refused_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["draw", "奥特曼", "-o", str(tmp_path / "none.png")]) != 0
    assert "超人" in capsys.readouterr().err
    assert not (tmp_path / "none.png").exists()


def test_a_model_with_a_published_vocabulary_reads_the_prompt_itself(tmp_path: Path) -> None:
    import diffusers

    schedule: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    scheduler = diffusers.DDIMScheduler(**schedule, steps_offset=1, clip_sample=False, set_alpha_to_one=False)
    checkpoint(tmp_path / "model", "bert", scheduler)
    engine = bimo.load(tmp_path / "model")
    prepared = engine.prepare({"text": "一只可爱的柯基，8K", "seed": 1})
    assert prepared.request.drawn_text is None
    assert not any("commoner" in warning or "left out" in warning for warning in prepared.warnings)
