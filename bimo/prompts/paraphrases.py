"""Commoner words for those that a model never learned: 柯基 is drawn as 狗, and words without any are left out.

For models that were trained on a list of words (``Budget.unknown``). What a word is called in commoner words stands in
``paraphrases.tsv``, which anybody can mend; a row marked ``~`` says what is merely like it and is only proposed.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import cache
from importlib import resources

from bimo.core.messages import say
from bimo.prompts.normalise import normal
from bimo.prompts.quoted_text import quoted_spans
from bimo.prompts.token_budget import Budget, listed

_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
#: Prompt syntax, which is neither replaced nor left out.
_SYNTAX = re.compile(r"<[^<>]*>|[:：]\s*[-+]?[\d.．]+|[()（）\[\]［］:：|｜\\]|\b(?:AND|BREAK)\b")
#: Particles that a word left out leaves behind, at the beginning of a phrase.
_LEFT_OVER = re.compile(r"(^|[,，、。;；\s])[的地得之](?=[^,，、。;；\s])")
_COMMAS = re.compile(r"\s*[,，、]\s*(?=[,，、])|^[\s,，、]+|[\s,，、]+$")
_WORD = re.compile(r"\w")
_BLANKS = re.compile(r"\s{2,}")
_LIKE, _ADORNING = "~", "-"


@dataclass(frozen=True)
class Row:
    """What words are called in commoner ones, the nearest first; none for words that name nothing to be seen."""

    zh: tuple[str, ...]
    en: tuple[str, ...]

    @property
    def adorns(self) -> bool:
        """Whether the words only adorn others, and are left out beside them even where they are known."""
        return self.zh == (_ADORNING,)

    def plain(self, chinese: bool) -> tuple[str, ...]:
        """What the word is, without what is merely like it."""
        return tuple(one for one in (self.zh if chinese else self.en) if not one.startswith(_LIKE))

    def every(self, chinese: bool) -> tuple[str, ...]:
        """What the word is or is like; nothing for one that only adorns."""
        return () if self.adorns else tuple(one.removeprefix(_LIKE) for one in (self.zh if chinese else self.en))


@dataclass(frozen=True)
class Paraphrase:
    """A prompt as a model can read it, ``text``, with the words that were ``replaced`` (by which) or ``left_out``."""

    text: str
    replaced: tuple[tuple[str, str], ...] = ()
    left_out: tuple[str, ...] = ()

    def notes(self) -> tuple[str, ...]:
        """A sentence for the words that were replaced and one for those left out, in the user's language."""
        pairs = [f"{word} → {commoner}" for word, commoner in self.replaced]
        sentences = [say("this model never learned some words and draws commoner ones: {pairs}", pairs=listed(pairs))]
        out = [say("left out, as nothing that this model could show: {words}", words=listed(self.left_out))]
        return (*(sentences if pairs else ()), *(out if self.left_out else ()))


def paraphrased(text: str, budget: Callable[[str], Budget]) -> Paraphrase:
    """A prompt with the words that the model never learned replaced by commoner ones that it did learn, and those that
    name nothing to be seen left out. Other unknown words, quoted text and prompt syntax stay as they are.

    ``budget`` is the model's: ``Budget.unknown`` has the words of a text that it never learned.
    """
    unknown = budget(_free(text)).unknown
    if not unknown and not any(table()[word].adorns for word in _words().findall(normal(text))):
        return Paraphrase(text)
    missing = frozenset("".join(map(normal, unknown)))
    pieces: list[str] = []
    replaced: dict[str, str] = {}
    nothing: dict[str, None] = {}
    for piece, free in _pieces(text):
        pieces.append(_replaced(piece, budget, missing, replaced, nothing) if free else piece)
    commoner, pairs = "".join(pieces), tuple(replaced.items())
    shorter = _without(commoner, tuple(nothing))
    # All that there is to draw is not left out.
    if not nothing or budget(_free(shorter)).wholly or not _WORD.search(_free(shorter)):
        return Paraphrase(commoner, pairs)
    return Paraphrase(shorter, pairs, tuple(nothing))


def proposed(words: Sequence[str], known: Callable[[str], bool]) -> tuple[str, ...]:
    """Known words for what the given ones are, or are like."""
    found: dict[str, None] = {}
    for word in words:
        row = table().get(normal(word))
        if row is not None:
            found |= dict.fromkeys([one for one in row.every(bool(_HAN.search(word))) if known(one)][:1])
    return tuple(found)


def _pieces(text: str) -> list[tuple[str, bool]]:
    """The text in pieces, and whether each is free to be changed: quotations and syntax are not."""
    fixed = sorted((*quoted_spans(text), *(found.span() for found in _SYNTAX.finditer(text))))
    pieces: list[tuple[str, bool]] = []
    at = 0
    for start, end in fixed:
        if start >= at:
            pieces += [(text[at:start], True), (text[start:end], False)]
            at = end
    return [*pieces, (text[at:], True)]


def _free(text: str) -> str:
    """What of a text is free to be changed."""
    return " ".join(piece for piece, free in _pieces(text) if free and piece.strip())


def _replaced(
    piece: str,
    budget: Callable[[str], Budget],
    missing: Set[str],
    replaced: dict[str, str],
    nothing: dict[str, None],
) -> str:
    """A piece with its words replaced; those that name nothing are added to ``nothing``. ``missing`` are the characters
    of the prompt's unknown words: 森林里 may be known where 森林 is not.
    """
    plain = normal(piece)
    aligned = plain if len(plain) == len(piece) else piece.lower()
    done, at = "", 0
    for found in _words().finditer(aligned):
        word = piece[found.start() : found.end()]
        row = table()[found[0]]
        if row.adorns and _alone(aligned, found.start(), found.end()):
            nothing[word] = None
            continue
        strange = not missing.isdisjoint(found[0]) and _alone(aligned, found.start(), found.end())
        if strange and budget(word).unknown:
            chinese = bool(_HAN.search(word))
            choices = row.plain(chinese)
            commoner = next((one for one in choices if not budget(one).unknown), None)
            if commoner is not None:
                done += piece[at : found.start()]
                # 上海外滩: both words are the same commoner one.
                done, at = done if done.endswith(commoner) else done + commoner, found.end()
                replaced[word] = commoner
            elif not row.every(chinese):
                nothing[word] = None
    return done + piece[at:]


def _alone(text: str, start: int, end: int) -> bool:
    """Whether a word is no part of another: letters must not touch it, nor a Chinese one of one character others."""
    before, after = text[start - 1 : start], text[end : end + 1]
    if _HAN.match(text[start]):
        return end - start > 1 or not any(_HAN.match(c) for c in (before, after) if c and c not in "的和与在里上下")
    return not any(c.isalnum() and not _HAN.match(c) for c in (before, after))


def _without(text: str, words: Sequence[str]) -> str:
    """A text without the words, and without the particles and commas that they leave behind."""
    if not words:
        return text
    pieces: list[str] = []
    for piece, free in _pieces(text):
        for word in sorted(words, key=len, reverse=True) if free else ():
            pattern = re.escape(word) if _HAN.search(word) else rf"(?<![A-Za-z0-9_]){re.escape(word)}(?![A-Za-z0-9_])"
            piece = re.sub(pattern, " " if word.isascii() else "", piece, flags=re.IGNORECASE)
        pieces.append(piece)
    shorter = _LEFT_OVER.sub(r"\1", "".join(pieces))
    return _BLANKS.sub(" ", _COMMAS.sub("", shorter)).strip()


@cache
def _words() -> re.Pattern[str]:
    """Any word of the table, the longest that begins at a place."""
    return re.compile("|".join(map(re.escape, sorted(table(), key=len, reverse=True))))


def _choices(cell: str) -> tuple[str, ...]:
    """What stands in a cell; its first ``~`` holds for all."""
    like = _LIKE if cell.startswith(_LIKE) else ""
    return tuple(like + choice.removeprefix(like) for choice in cell.split("|") if choice)


@cache
def table() -> dict[str, Row]:
    """The row of each word, in its normal form; English words in the plural, too."""
    text = resources.files("bimo.prompts").joinpath("paraphrases.tsv").read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    table: dict[str, Row] = {}
    for cells in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
        words, zh, en = (*cells, "", "")[:3]
        row = Row(*map(_choices, (zh, en)))
        for word in map(normal, words.split("|")):
            table.setdefault(word, row)
            if word.isascii() and not word.endswith("s"):
                table.setdefault(word + "s", row)
    return table
