"""Prompt expansion: appends descriptions of what the words of a short prompt stand for, in its own language.

The prompt itself stays unchanged and the additions follow it; they are looked up in lexicons in turn. Alternatively a
language model rewrites the whole prompt, and must keep quoted text unchanged.
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
from bimo.prompts.normalise import normal, normal_each
from bimo.prompts.quoted_text import quoted, quoted_spans

_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
#: The system prompt of the language model: True for Chinese prompts, False for others.
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
    """A word of a prompt and the description of what it looks like."""

    word: str
    description: str


Lexicon = Callable[[str, bool], Sequence[Addition]]


@dataclass(frozen=True)
class Expansion:
    """The expanded prompt, the ``original``, and the additions."""

    text: str
    original: str
    added: tuple[Addition, ...] = ()

    def notes(self) -> tuple[str, ...]:
        """Sentences about what was added."""
        if not self.added and self.text == self.original:
            return (say("nothing is known by which this prompt could be expanded; it is drawn as it stands"),)
        if not self.added:  # rewritten by a language model
            return (say("expanded: {text}", text=self.text),)
        return tuple(
            say("{word}: added “{description}”", word=addition.word, description=addition.description)
            for addition in self.added
        )


def is_chinese(text: str) -> bool:
    """Whether a prompt has Han characters outside its quotations."""
    return bool(_HAN.search(outside_quotes(text)))


def outside_quotes(text: str) -> str:
    """A text with its quotations blanked out."""
    for start, end in quoted_spans(text):
        text = text[:start] + " " * (end - start) + text[end:]
    return text


def expanded(prompt: str, lexicons: Sequence[Lexicon]) -> Expansion:
    """Appends to a prompt what the lexicons add to its words, without what it contains already."""
    chinese = is_chinese(prompt)
    plain = normal(outside_quotes(prompt))
    additions: dict[str, Addition] = {}
    for lexicon in lexicons:
        for addition in lexicon(plain, chinese):
            if addition.description and normal(addition.description) not in plain:
                additions.setdefault(addition.description, addition)
    comma = "，" if chinese else ", "
    text = comma.join((prompt.rstrip(" ,，.。、"), *additions)) if additions else prompt
    return Expansion(text, prompt, tuple(additions.values()))


def rewritten(prompt: str, ask: Callable[[str, str], str]) -> Expansion:
    """A prompt rewritten by a language model: ``ask(instructions, prompt)`` returns its answer. Raises RequestError for
    an answer that is empty, too long, or changes quoted text.
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
    """The idioms and solar terms in a text with their descriptions: 守株待兔 is a farmer by a stump."""
    occurrences = [(plain.find(word), word, zh if chinese else en) for word, zh, en in _sayings() if word in plain]
    return [Addition(word, description) for _, word, description in sorted(occurrences)]


@cache
def _sayings() -> tuple[tuple[str, str, str], ...]:
    """Rows of (normalised word, description in Chinese, in English)."""
    text = resources.files("bimo.prompts").joinpath("sayings.tsv").read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    rows: list[tuple[str, str, str]] = []
    for words, zh, en in csv.reader(lines, delimiter="\t"):
        rows += [(word, zh, en) for word in words.split("|")]
    plain = normal_each(word for word, _, _ in rows)
    return tuple((word, zh, en) for word, (_, zh, en) in zip(plain, rows, strict=True))
