"""A prompt in pieces: what stands in quotation marks is read character by character."""

from __future__ import annotations

import re

QUOTES = (("'", "'"), ('"', '"'), ("‘", "’"), ("“", "”"))
_QUOTED = re.compile("|".join(f"{re.escape(a)}[^{re.escape(a + b)}]*?{re.escape(b)}" for a, b in QUOTES))
_APOSTROPHE = re.compile(r"[a-zA-Z]+'[a-zA-Z]+")
#: Stands for an apostrophe inside a word while quotes are looked for: a character of private use.
_HIDDEN = "\ue000"


def pieces(text: str) -> list[tuple[int, str]]:
    """A text in pieces with where each begins: what stands in quotes character by character, the rest whole.

    An apostrophe inside a word is no quote. As LongCat-Image reads its prompts.
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
