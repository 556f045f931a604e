"""A conversation: each turn is drawn, kept, can be taken back, and its picture is drawn again by its own record."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from bimo.cli import main
from bimo.core.picture import read_metadata
from tests.support.chat_endpoint import Standin, said


def talk(monkeypatch: pytest.MonkeyPatch, folder: Path, lines: list[str], *more: str) -> list[dict[str, object]]:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
    history = folder / "chat.json"
    assert main.run(["chat", "-o", str(folder), "--history", str(history), "--steps", "1", "--seed", "3", *more]) == 0
    return json.loads(history.read_text(encoding="utf-8"))["turns"]


@pytest.mark.slow
def test_turns_are_kept_and_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = talk(monkeypatch, tmp_path, ["一只猫", "把猫换成狗", "胡说八道", "再来一张", "撤销", "背景改成蓝色"])
    assert [turn["said"] for turn in turns] == ["一只猫", "把猫换成狗", "背景改成蓝色"]
    assert "胡说八道" in capsys.readouterr().err
    turns = talk(monkeypatch, tmp_path, ["撤销", "加上帽子", "退出", "大一点"])
    assert [turn["said"] for turn in turns] == ["一只猫", "把猫换成狗", "加上帽子"]
    (file,) = turns[-1]["files"]  # type: ignore[misc]
    request = read_metadata(file)["request"]
    assert (request["text"], request["seed"], request["steps"]) == ("一只狗，帽子", 3, 1)
    capsys.readouterr()
    assert main.run(["draw", "--again", file, "--json", "-o", str(tmp_path / "again.png")]) == 0
    assert json.loads(capsys.readouterr().out)["identical"]


@pytest.mark.slow
def test_each_turn_is_drawn_by_the_model_that_learned_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("BIMO_MODEL", raising=False)
    turns = talk(monkeypatch, tmp_path, ["红苹果", "把红苹果换成宫保鸡丁", "撤销"])
    assert capsys.readouterr().err.count("xiaomo-2") == 1
    turns = talk(monkeypatch, tmp_path, ["把红苹果换成宫保鸡丁"])
    records = [read_metadata(turn["files"][0]) for turn in turns]  # type: ignore[index]
    assert [record["recipe"] for record in records] == ["xiaomo", "xiaomo-2"]
    assert [record["request"]["size"] for record in records] == [[128, 128], [256, 256]]


def test_what_no_rule_reads_a_language_model_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standin: Standin
) -> None:
    standin.reply = lambda body, count: said('```json\n{"text": "一只睡着的猫", "image": "/etc/passwd"}\n```')
    model = ("--language-model", standin.address, "--language-model-name", "m")
    turns = talk(monkeypatch, tmp_path, ["一只猫", "让它睡着吧"], *model)
    assert turns[-1]["fields"]["text"] == "一只睡着的猫"  # type: ignore[index]
    assert "image" not in turns[-1]["fields"]  # type: ignore[operator]


def test_a_file_that_is_no_conversation_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.json"
    file.write_text("{}")
    assert main.run(["chat", "--history", str(file)]) != 0
    assert file.read_text() == "{}"
