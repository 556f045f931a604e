"""Every message of the package stands in the Chinese catalogue, with the values of the English sentence."""

import ast
import importlib.util
import io
import re
import string
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

from bimo.core import messages
from bimo.core.errors import RequestError
from bimo.core.messages import Both, Listed, Message, say

PACKAGE = Path(messages.__file__).resolve().parents[1]
ROOT = PACKAGE.parent
#: Full-width marks.
CHINESE_MARKS = re.compile("[、，。；：（）！？]")
CALLS = {"say", "Message", "BimoError", "RequestError", "RecipeError", "WeightsError", "DataError", "TrainingError"}
PO = messages.LOCALE / "zh" / "LC_MESSAGES" / "bimo.po"


def said_in(tree: ast.AST) -> Iterator[tuple[int, str, set[str]]]:
    """Line, sentence and names of values of every message in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            first = node.args[0]
            if name in CALLS and isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield node.lineno, first.value, {keyword.arg or "**" for keyword in node.keywords}


def values_in(sentence: str) -> set[str]:
    """The names in braces of a sentence."""
    return {field for _, field, _, _ in string.Formatter().parse(sentence) if field is not None}


@cache
def spoken() -> list[tuple[str, str, set[str]]]:
    """(place, sentence, names of values) of every message of the package."""
    return [
        (f"{path.relative_to(PACKAGE)}:{line}", sentence, given)
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, sentence, given in said_in(ast.parse(path.read_text(encoding="utf-8")))
    ]


CATALOGUE = read_po(io.BytesIO(PO.read_bytes()))


def test_every_message_has_a_chinese_translation() -> None:
    assert len(spoken()) > 500
    missing = {place: text for place, text, _ in spoken() if text and not CATALOGUE.get(text)}
    assert not missing, "add them: make messages"
    assert not {m.id for m in CATALOGUE if m.id and not m.string}


def test_both_languages_name_the_same_values() -> None:
    assert not {m.id for m in CATALOGUE if m.id and values_in(str(m.id)) != values_in(str(m.string))}


def test_every_placeholder_is_given_a_value() -> None:
    wrong = {place: text for place, text, given in spoken() if "**" not in given and values_in(text) - given}
    assert not wrong


@pytest.mark.slow
def test_a_message_is_one_sentence_and_named_values() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("bimo", "tests", "bench", "tools")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in CALLS
        if len(node.args) != 1 or isinstance(node.args[0], ast.JoinedStr)
    ]
    assert not wrong


def test_english_has_no_chinese_marks() -> None:
    assert not {text for _, text, _ in spoken() if CHINESE_MARKS.search(text)}
    joined = [
        f"{path.relative_to(PACKAGE)}:{number}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if '"、".join(' in line and "xiaomo" not in path.parts
    ]
    assert not joined, "Listed puts the comma of the reader's language"


def test_the_catalogue_has_no_unused_message() -> None:
    assert not {m.id for m in CATALOGUE if m.id} - {text for _, text, _ in spoken()}, "make messages"


def test_the_compiled_catalogue_is_that_of_the_text() -> None:
    compiled = io.BytesIO()
    write_mo(compiled, CATALOGUE)
    assert PO.with_suffix(".mo").read_bytes() == compiled.getvalue(), "make messages"


def test_a_message_is_said_in_either_language(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RequestError("there is no folder {text}", text="a{b}")
    assert (error.zh, error.en) == ("没有文件夹 a{b}", "there is no folder a{b}")
    monkeypatch.setenv("BIMO_LANGUAGE", "zh")
    assert str(error) == "没有文件夹 a{b}"
    assert say("there is no folder {text}", text=Listed(["甲", "乙"])) == "没有文件夹 甲、乙"
    monkeypatch.setenv("BIMO_LANGUAGE", "en")
    assert say("there is no folder {text}", text=Listed(["a", "b"], "or")) == "there is no folder a or b"
    inner = Message("there is no folder {text}", text=Both("书", "books"))
    assert RequestError("there is no folder {text}", text=inner).zh == "没有文件夹 没有文件夹 书"


def test_a_message_is_found_wherever_it_stands() -> None:
    spec = importlib.util.spec_from_file_location("catalogue", ROOT / "tools" / "catalogue.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    source = 'raise DataError("a {b}", b=Listed([Message("c"), *d]) or say("e" "f", g=errors.Message("h")))'
    assert sorted(tool.messages_in(source)) == ["a {b}", "c", "ef", "h"]
