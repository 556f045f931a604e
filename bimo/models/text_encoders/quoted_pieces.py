"""Splits a prompt for tokenizers that encode quoted text character by character."""

from __future__ import annotations

import re

QUOTES = (("'", "'"), ('"', '"'), ("‘", "’"), ("“", "”"))
_QUOTED = re.compile("|".join(f"{re.escape(a)}[^{re.escape(a + b)}]*?{re.escape(b)}" for a, b in QUOTES))
_APOSTROPHE = re.compile(r"[a-zA-Z]+'[a-zA-Z]+")
#: A private-use character that replaces apostrophes within words during the search for quotes.
_HIDDEN = "\ue000"


def pieces(text: str) -> list[tuple[int, str]]:
    """The pieces of a text with their offsets: quoted text character by character, the rest whole.

    An apostrophe within a word is not a quote. This is how LongCat-Image tokenizes its prompts.
    """
    masked = text
    for word in dict.fromkeys(_APOSTROPHE.findall(text)):
        masked = masked.replace(word, word.replace("'", _HIDDEN))
    segments: list[tuple[int, str]] = []
    last = 0
    for match in _QUOTED.finditer(masked):
        if match.start() > last:
            segments.append((last, text[last : match.start()]))
        segments += [(at, text[at]) for at in range(match.start(), match.end())]
        last = match.end()
    if last < len(text):
        segments.append((last, text[last:]))
    return segments
