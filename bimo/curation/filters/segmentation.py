"""Chinese word segmentation: the most likely segmentation by a dictionary with frequencies.

The dictionary is jieba's (MIT), 349,045 words with their frequencies; its file is read, its code is not used.
"""

from __future__ import annotations

import math
from functools import cache

from bimo.core.errors import DataError
from bimo.core.installing import installing
from bimo.prompts.normalise import normal

#: The longest word that is looked up, in characters.
LONGEST_WORD = 8
#: Characters on each side of a place that are segmented with it; words further away have no influence.
REACH = 16


@cache
def words() -> tuple[dict[str, float], frozenset[str]]:
    """The natural logarithm of each word's relative frequency, and the words that are names of persons (tag nr).

    Raises DataError where the dictionary is not installed.
    """
    import importlib.util
    from pathlib import Path

    # Located without importing the package, which warns and does more than reading a dictionary.
    spec = importlib.util.find_spec("jieba")
    if spec is None or spec.origin is None:
        raise DataError("jieba (a dictionary) is not installed; run {installing}", installing=installing("data"))
    counts: dict[str, int] = {}
    names: set[str] = set()
    for line in (Path(spec.origin).parent / "dict.txt").read_text(encoding="utf-8").splitlines():
        word, count, tag = line.split(" ")
        counts[word] = int(count)
        if tag.startswith("nr"):
            names.add(word)
    total = math.log(sum(counts.values()))
    return {word: math.log(count) - total for word, count in counts.items() if count}, frozenset(names)


def cut(run: str) -> list[str]:
    """The words of a run of Chinese characters, by Viterbi's algorithm over a unigram model.

    A character that no word contains is a word of its own, with the lowest probability.
    """
    shares, _ = words()
    rarest = -math.log(1e8)
    best = [0.0] + [-math.inf] * len(run)
    begin = [0] * (len(run) + 1)
    for end in range(1, len(run) + 1):
        for start in range(max(0, end - LONGEST_WORD), end):
            share = shares.get(run[start:end], rarest if end - start == 1 else None)
            if share is not None and best[start] + share > best[end]:
                best[end], begin[end] = best[start] + share, start
    tokens: list[str] = []
    end = len(run)
    while end:
        tokens.append(run[begin[end] : end])
        end = begin[end]
    return tokens[::-1]


def is_word(text: str, start: int, end: int) -> bool:
    """Whether text[start:end], Chinese characters of a simplified text, is exactly one word or several words."""
    left, right = start, end
    while left > max(0, start - REACH) and is_han(text[left - 1]):
        left -= 1
    while right < min(len(text), end + REACH) and is_han(text[right]):
        right += 1
    cuts = {left}
    at = left
    for word in cut(text[left:right]):
        at += len(word)
        cuts.add(at)
    return start in cuts and end in cuts


def is_han(character: str) -> bool:
    """Whether a character is a Chinese character of the basic plane."""
    return "\u4e00" <= character <= "\u9fff" or "\u3400" <= character <= "\u4dbf"


def folded(text: str) -> tuple[str, list[int]]:
    """A text in normal form, and for each of its characters the offset in the original, so that matches can be cut out
    of it.

    A blank stays one blank, however wide. Characters are folded one by one; where ``normal`` gives as many characters,
    its result is used, since it sees phrases (乾隆 is not 干隆).
    """
    pieces = list(map(_fold, text))
    places = [place for place, piece in enumerate(pieces) for _ in piece]
    alone = "".join(pieces)
    phrased = alone if alone.isascii() else normal(text)
    return (phrased if len(phrased) == len(alone) else alone), places


@cache
def _fold(character: str) -> str:
    return " " if character.isspace() else normal(character)
