"""Expansion adds what words stand for, in the prompt's language, and leaves what was written as it stands."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from bimo.core.errors import RequestError
from bimo.prompts.expansion import expanded, pictures_of_sayings, rewritten
from bimo.prompts.poems import find_verse, poems
from bimo.xiaomo.captions.expansion import lexicons


@pytest.mark.parametrize(
    ("prompt", "seen"),
    [
        ("守株待兔", "树桩"),
        ("一幅守株待兔的画", "树桩"),
        ("霜降", "红叶"),
        ("宫保鸡丁", "花生"),
        ("Kung Pao chicken", "peanuts"),
        ("Winter Solstice", "dumplings"),
        ("枯藤老树昏鸦", "黄昏"),
        ("飞流直下三千尺，疑是银河落九天", "瀑布"),
        ("亡羊補牢", "羊圈"),
    ],
)
def test_what_a_word_stands_for_is_added_in_its_language(prompt: str, seen: str) -> None:
    full = expanded(prompt, lexicons())
    assert full.text.startswith(prompt)
    assert seen in full.text.removeprefix(prompt)
    assert full.original == prompt
    assert any(seen in one.description for one in full.added)
    assert seen in " ".join(full.notes())
    # A second time there is nothing to add of the same words.
    assert not set(full.added) & set(expanded(full.text, [pictures_of_sayings]).added)


@pytest.mark.parametrize("prompt", ["红苹果", "写着“守株待兔”的匾", "a red apple", "「宫保鸡丁」", ""])
def test_what_stands_for_nothing_or_is_quoted_stays(prompt: str) -> None:
    full = expanded(prompt, lexicons())
    assert (full.text, full.added) == (prompt, ())
    assert full.notes()


@given(some.text(alphabet="守株待兔霜降“”「」，a ", max_size=30))
def test_what_was_written_is_never_changed(prompt: str) -> None:
    full = expanded(prompt, lexicons())
    assert full.text.startswith(prompt.rstrip(" ,，.。、"))


@pytest.mark.parametrize(
    ("answer", "said"),
    [("一块木匾，写着“寿”，厅堂", "寿"), ("一块木匾，厅堂", "福"), ("", "0"), ("长" * 1300, "1300")],
)
def test_an_answer_that_changes_quoted_text_is_refused(answer: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        rewritten("写着“福”的匾", lambda told, prompt: answer)


def test_a_model_is_asked_in_the_language_of_the_prompt() -> None:
    asked: list[str] = []

    def ask(told: str, prompt: str) -> str:
        asked.append(told)
        return f"{prompt}，厅堂"

    assert rewritten("写着“福”的匾", ask).text == "写着“福”的匾，厅堂"
    rewritten("a sign with “福”", ask)
    assert "中文" in asked[0]
    assert "English" in asked[1]


@pytest.mark.parametrize(
    ("asked", "title", "verse"),
    [
        ("飞流直下三千尺", "望庐山瀑布", "飞流直下三千尺，疑是银河落九天"),
        ("飛流直下三千尺，疑是銀河落九天", "望庐山瀑布", "飞流直下三千尺，疑是银河落九天"),
        ("飞流直下三百尺", "望庐山瀑布", "飞流直下三千尺，疑是银河落九天"),
        ("静夜思", "静夜思", "床前明月光，疑是地上霜"),
        ("李白望天门山", "望天门山", "天门中断楚江开，碧水东流至此回"),
        ("明月几时有", "水调歌头", "明月几时有"),
    ],
)
def test_a_poem_is_found_by_what_is_remembered_of_it(asked: str, title: str, verse: str) -> None:
    one = find_verse(asked)
    assert one.poem.title.startswith(title)
    assert one.verse.startswith(verse)


@pytest.mark.parametrize("asked", ["", "。", "the quick brown fox"])
def test_what_no_poem_has_is_said(asked: str) -> None:
    with pytest.raises(RequestError):
        find_verse(asked)


def test_every_poem_has_a_poet_and_sentences() -> None:
    assert len(poems()) > 700
    assert all(poem.author and poem.sentences for poem in poems())
