"""Names of emoji from Unicode's CLDR 48.2 (Unicode License V3, in emoji.LICENSE): 🐱 is 猫, "cat"."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from functools import cache
from importlib import resources

COLUMNS = ["emoji", "zh", "en"]
JOINER, TEXT, PICTURE = "\u200d", "\ufe0e", "\ufe0f"
_TONES = re.compile("[\U0001f3fb-\U0001f3ff]")
_ONE = (
    "[\u203c\u2049\u2122\u2139\u2194-\u21aa\u231a-\u23ff\u24c2\u25aa-\u25fe\u2600-\u27bf\u2934\u2935\u2b05-\u2b55"
    "\u3030\u303d\u3297\u3299\U0001f000-\U0001f1e5\U0001f200-\U0001f3fa\U0001f400-\U0001faff]"
)
_MARKS = "[\ufe0e\ufe0f\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]"
#: One displayed emoji: a flag of two letters, a keycap, or a joiner sequence.
_EMOJI = re.compile(
    f"[\U0001f1e6-\U0001f1ff]{{2}}|[0-9#*]\ufe0f?\u20e3|{_ONE}{_MARKS}*(?:{JOINER}{_ONE}{_MARKS}*)*|[\U0001f3fb-\U0001f3ff]"
)
_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff]")
_LATIN = re.compile("[a-zA-Z]")
#: Man and woman to person.
_PERSON = {"\U0001f468": "\U0001f9d1", "\U0001f469": "\U0001f9d1"}
_GENDER = re.compile(f"{JOINER}[\u2640\u2642]")


def is_emoji(text: str) -> bool:
    """Whether a text is exactly one emoji."""
    return _EMOJI.fullmatch(text) is not None


def sequences(text: str) -> list[tuple[int, int]]:
    """The spans of the emoji in a text; a joiner sequence is one emoji."""
    return [match.span() for match in _EMOJI.finditer(text)]


def bare(emoji: str) -> str:
    """An emoji without skin tones and variation selectors."""
    return _TONES.sub("", emoji).replace(PICTURE, "").replace(TEXT, "")


def names(emoji: str, chinese: bool) -> tuple[str, ...]:
    """Names of an emoji, the most specific first: its own, gender-neutral, that of the sequence's first emoji."""
    plain = bare(emoji)
    neutral = _GENDER.sub("", "".join(_PERSON.get(c, c) for c in plain) if JOINER in plain else plain)
    candidates = dict.fromkeys((plain, neutral, plain.partition(JOINER)[0]))
    return tuple(name for candidate in candidates if (name := _table().get(candidate, ("", ""))[0 if chinese else 1]))


def in_words(text: str, known: Callable[[str], bool]) -> str:
    """Replaces each emoji by its first name that is ``known``, in Chinese if the text has Han characters or no Latin
    letters; an emoji without a known name stays.
    """
    spans = sequences(text)
    if not spans:
        return text
    chinese = bool(_HAN.search(text)) or not _LATIN.search(text)
    pieces: list[str] = []
    at = 0
    for start, end in spans:
        name = next((name for name in names(text[start:end], chinese) if known(name)), None)
        pieces.append(text[at:start])
        # Consecutive names are separate words; after a Chinese word the name follows without a space: 红色🐱.
        apart = not chinese or (start == at and at > 0)
        pieces.append(text[start:end] if name is None else f" {name} " if apart else name)
        at = end
    return "".join((*pieces, text[at:]))


@cache
def _table() -> dict[str, tuple[str, str]]:
    text = resources.files("bimo.prompts").joinpath("emoji.tsv").read_text("utf-8")
    rows = csv.reader(io.StringIO(text), delimiter="\t")
    return {emoji: (zh, en) for emoji, zh, en in rows}
