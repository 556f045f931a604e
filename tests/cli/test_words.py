"""Poems, expansion and translation on the command line: said, recorded, and by a stand-in for a language model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bimo.cli import main, words
from bimo.core.errors import RequestError
from bimo.core.picture import read_metadata
from bimo.curation.captioning.dictionary_translation import translated
from bimo.hub import registry
from tests.support.chat_endpoint import PROXIES, Standin, said


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def standin() -> Iterator[Standin]:
    made = Standin()
    yield made
    made.close()


def drawn(file: Path, *arguments: str) -> dict[str, object]:
    assert main.run(["draw", *arguments, "--steps", "1", "--seed", "1", "--anyway", "-o", str(file)]) == 0
    return read_metadata(file)["request"]


def test_an_expanded_prompt_keeps_what_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = drawn(tmp_path / "a.png", "守株待兔", "--expand")
    assert request["original_text"] == "守株待兔"
    assert str(request["text"]).startswith("守株待兔，")
    assert "树桩" in capsys.readouterr().err
    plain = drawn(tmp_path / "b.png", str(request["text"]))
    assert "original_text" not in plain


def test_a_poem_is_found_drawn_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = drawn(tmp_path / "a.png", "--poem", "飞流直下三千尺")
    assert (request["original_text"], request["style"]) == ("飞流直下三千尺", "ink")
    assert "望庐山瀑布" in capsys.readouterr().err
    fields, _ = words.poem_fields("静夜思", {}, inscribed=True)
    assert (fields["inscribe"], fields["writing"]) == (("床前明月光，疑是地上霜",), "vertical")
    assert main.run(["draw", "a", "--poem", "静夜思"]) != 0
    assert main.run(["draw", "a", "--inscribe-verse"]) != 0


def test_a_language_model_writes_it_and_may_not_touch_quoted_text(tmp_path: Path, standin: Standin) -> None:
    model = ("--language-model", standin.address, "--language-model-name", "m")
    standin.reply = lambda body, count: said("木匾上写着“福”，厅堂，灯光")
    request = drawn(tmp_path / "a.png", "写着“福”的匾", "--expand", "--no-inscribe", *model)
    assert (request["text"], request["original_text"]) == ("木匾上写着“福”，厅堂，灯光", "写着“福”的匾")
    assert "写着“福”的匾" in str(standin.bodies[0]["messages"])
    standin.reply = lambda body, count: said("木匾上写着“寿”")
    assert main.run(["draw", "写着“福”的匾", "--expand", *model, "-o", str(tmp_path / "b.png")]) != 0
    assert not (tmp_path / "b.png").exists()
    standin.reply = lambda body, count: (400, {"error": "no"}, {})
    with pytest.raises(RequestError, match="400"):
        words.language_model(standin.address, "m")("", "猫")
    for place, name in ((standin.address, ""), (str(tmp_path / "none"), "m")):
        with pytest.raises(RequestError, match="--language-model"):
            words.language_model(place, name)


@pytest.mark.slow
def test_a_prompt_in_chinese_for_a_model_of_english_is_said_and_translated() -> None:
    from dataclasses import replace

    xiaomo = registry.recipe("xiaomo")
    english = replace(xiaomo, languages=("en",))
    assert "--translate" in words.unread(english, "红苹果")
    assert words.unread(english, "a red apple “福”") == ""
    assert words.unread(xiaomo, "红苹果") == ""
    assert translated("红苹果，写着“福”") == "red apple, write “福”"
    fields, output = words.translation("一只猫", None)
    assert "cat" in fields["text"]
    assert fields["original_text"] == "一只猫"
    assert "cat" in output[0]
    assert words.translation("a cat", None) == ({"text": "a cat"}, [])
