"""Normalisation of prompts: width, case, traditional characters, whitespace and punctuation."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Protocol, cast

#: Punctuation that NFKC leaves alone, by the form that replaces it.
PUNCTUATION = {
    ".": "。．",
    ",": "、，",
    '"': "“”„‟〝〞〟「」『』«»",
    "'": "‘’‚‛",
    "<": "《〈",
    ">": "》〉",
    "[": "【〔〖",
    "]": "】〕〗",
    "-": "—–―‐‑‒−",
    "~": "〜～",
    "·": "•・‧",
}
_ONE_FORM = str.maketrans({mark: form for form, marks in PUNCTUATION.items() for mark in marks})
#: Invisible characters: zero-width spaces, soft hyphens, variation selectors of emoji.
_UNSEEN = re.compile("[\u00ad\u200b\u2060\ufeff\ufe00-\ufe0f]")
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
#: A private character, which no step changes and nothing is written with.
_BETWEEN = "\ue000"
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")
_ABOVE_BASIC_PLANE = re.compile("([\U00010000-\U0010ffff]+)")
#: Usually two rounds reach the fixed point; a text that has not converged by now never does.
MAXIMUM_ROUNDS = 8


class _Converter(Protocol):
    def convert(self, text: str) -> str: ...


@cache
def _to_simplified() -> _Converter:
    import opencc

    return cast(_Converter, opencc.OpenCC("t2s"))


def normal(text: str) -> str:
    """The normal form of a text; ``normal(normal(text)) == normal(text)``.

    Full width becomes half width (NFKC), upper case lower, traditional characters simplified ones (OpenCC, by phrase),
    punctuation one form of each, any blanks one space. Characters above the basic plane (emoji, rare hanzi) stay.
    """
    text = _LONE_SURROGATES.sub("\ufffd", text)
    for _ in range(MAXIMUM_ROUNDS):
        settled = _once(text)
        if settled == text:
            break
        text = settled
    return text


def normal_each(words: Iterable[str]) -> list[str]:
    """The normal form of each of many words, such as those of a table, worked out at once: dozens of times as fast as
    one by one.
    """
    words = list(words)
    found = [each.strip() for each in normal(_BETWEEN.join(words)).split(_BETWEEN)]
    # A word may have the separator itself, and of no words there is not one.
    return found if len(found) == len(words) else list(map(normal, words))


def _once(text: str) -> str:
    # The odd pieces are the separators: characters above the basic plane.
    pieces = _ABOVE_BASIC_PLANE.split(_UNSEEN.sub("", text))
    pieces[::2] = [_basic(piece) for piece in pieces[::2]]
    return _BLANKS.sub(" ", "".join(pieces)).strip()


def _basic(piece: str) -> str:
    if piece.isascii():
        return piece.lower()
    folded = unicodedata.normalize("NFKC", piece.translate(_ONE_FORM)).lower().translate(_ONE_FORM)
    return folded if folded.isascii() else _to_simplified().convert(_BLANKS.sub(" ", folded))
