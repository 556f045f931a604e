"""Expansion: a short prompt becomes a full one in its own language, by what its words stand for.

What was written stays as it stands, letter by letter, and what is added follows it; what may be added is asked of
lexicons in turn. A language model may write the whole anew: then quoted text must stand in it as it stood.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from bimo.core.errors import RequestError
from bimo.core.messages import say
from bimo.prompts.normalise import normal
from bimo.prompts.quoted_text import quoted, quoted_spans

_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
#: What a language model is asked, in the prompt's own language.
INSTRUCTIONS = {
    True: "把下面画图的提示词写得更具体：主体、动作、环境、光线、构图、画风。只输出一段中文，不超过 120 字，不解释。"
    "引号里的文字一个字也不能改，不能翻译，引号也要保留。",
    False: "Rewrite the prompt of a picture below so that it is specific: subject, action, surroundings, light, "
    "composition, manner. Answer with one English paragraph of at most 80 words and nothing else. Text in quotation "
    "marks stays letter by letter, with its marks.",
}
LONGEST_ANSWER = 1200


@dataclass(frozen=True)
class Addition:
    """What a word of a prompt stands for: the word, and what is to be seen."""

    word: str
    seen: str


Lexicon = Callable[[str, bool], Sequence[Addition]]


@dataclass(frozen=True)
class Expansion:
    """``text`` is the prompt in full, ``original`` as it was written, ``added`` what was added and why."""

    text: str
    original: str
    added: tuple[Addition, ...] = ()

    def notes(self) -> tuple[str, ...]:
        """What is to be said of it."""
        if not self.added and self.text == self.original:
            return (say("nothing is known by which this prompt could be expanded; it is drawn as it stands"),)
        if not self.added:
            return (say("expanded: {text}", text=self.text),)
        return tuple(say("{word}: added “{seen}”", word=one.word, seen=one.seen) for one in self.added)


def is_chinese(text: str) -> bool:
    """Whether a prompt is expanded in Chinese: it has Han characters outside of its quotations."""
    return bool(_HAN.search(outside_quotes(text)))


def outside_quotes(text: str) -> str:
    """A text with blanks for what stands in quotation marks."""
    for start, end in quoted_spans(text):
        text = text[:start] + " " * (end - start) + text[end:]
    return text


def expanded(prompt: str, lexicons: Sequence[Lexicon]) -> Expansion:
    """A prompt with what its words stand for, by lexicons; what it says already is not added."""
    chinese = is_chinese(prompt)
    plain = normal(outside_quotes(prompt))
    found: dict[str, Addition] = {}
    for lexicon in lexicons:
        for one in lexicon(plain, chinese):
            if one.seen and normal(one.seen) not in plain:
                found.setdefault(one.seen, one)
    comma = "，" if chinese else ", "
    text = comma.join((prompt.rstrip(" ,，.。、"), *found)) if found else prompt
    return Expansion(text, prompt, tuple(found.values()))


def rewritten(prompt: str, ask: Callable[[str, str], str]) -> Expansion:
    """A prompt as a language model writes it in full: ``ask`` answers (what it is told, the prompt). Raises
    RequestError for an answer that is empty, endless, or has not every quoted text as it stood.
    """
    answer = ask(INSTRUCTIONS[is_chinese(prompt)], prompt).strip()
    if not answer or len(answer) > LONGEST_ANSWER:
        raise RequestError(
            "the language model answered {count} characters; expected 1 to {most}: take another, or --expand alone",
            count=len(answer),
            most=LONGEST_ANSWER,
        )
    before, after = quoted(prompt), list(quoted(answer))
    lost = [text for text in before if text not in after]
    if lost or len(after) != len(before):
        raise RequestError(
            "the language model changed the text in quotation marks ({before} became {after}); take another, or "
            "--expand alone",
            before=", ".join(before) or "-",
            after=", ".join(after) or "-",
        )
    return Expansion(answer, prompt)


def pictures_of_sayings(plain: str, chinese: bool) -> list[Addition]:
    """Idioms and solar terms of a text, and what is to be seen of them: 守株待兔 is a farmer by a stump."""
    found = [(plain.find(word), word, zh if chinese else en) for word, zh, en in _sayings() if word in plain]
    return [Addition(word, seen) for _, word, seen in sorted(found)]


@cache
def _sayings() -> tuple[tuple[str, str, str], ...]:
    """(word in its normal form, what is to be seen in Chinese, in English); a word in each language is a row."""
    text = resources.files("bimo.prompts").joinpath("sayings.tsv").read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    rows: list[tuple[str, str, str]] = []
    for words, zh, en in csv.reader(lines, delimiter="\t"):
        rows += [(normal(word), zh, en) for word in words.split("|")]
    return tuple(rows)
