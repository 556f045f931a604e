"""Search in Tang and Song poems by a line, a title or a poet: 飞流直下三千尺 is from 李白's 望庐山瀑布.

`poems.tsv.xz` holds 唐诗三百首, 宋词三百首 and 水墨唐诗 in simplified characters from chinese-poetry
(https://github.com/chinese-poetry/chinese-poetry, MIT licence; its notice is in `poems.LICENSE`), and some well-known
old poems that those lack.
"""

from __future__ import annotations

import difflib
import lzma
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from bimo.core.errors import RequestError
from bimo.prompts.normalise import normal

_MARKS = re.compile(r"[\W_]+")
_SENTENCE = re.compile(r"[^。？！；]*[。？！；]?")
#: The least similarity (difflib ratio) of a misremembered line.
ALIKE = 0.6
LEAST_CHARACTERS = 2


@dataclass(frozen=True)
class Poem:
    """A poem in simplified characters."""

    title: str
    author: str
    text: str

    @property
    def sentences(self) -> tuple[str, ...]:
        """Its sentences, each with its closing punctuation."""
        return tuple(one for one in _SENTENCE.findall(self.text) if one.strip())

    def __str__(self) -> str:
        return f"{self.author}《{self.title}》"


@dataclass(frozen=True)
class VerseMatch:
    """A verse and its poem; ``exact`` unless it was found by similarity only."""

    poem: Poem
    verse: str
    exact: bool = True


@cache
def poems() -> tuple[Poem, ...]:
    """All poems of the collections."""
    packed = resources.files("bimo.prompts").joinpath("poems.tsv.xz").read_bytes()
    lines = lzma.decompress(packed).decode("utf-8").splitlines()
    return tuple(Poem(*line.split("\t")) for line in lines if line and not line.startswith("#"))


def find_verse(query: str) -> VerseMatch:
    """Finds a verse by words in it, by the poem's title, or by similarity. Raises RequestError with the nearest verse
    if there is no match.
    """
    plain = _plain(query)
    if len(plain) < LEAST_CHARACTERS:
        raise RequestError("--poem is {query!r}; write a line of a poem, or its title", query=query)
    for poem in poems():
        for first, sentence in enumerate(poem.sentences):
            if plain in _plain(sentence):
                return VerseMatch(poem, _trimmed(sentence))
            pair = "".join(poem.sentences[first : first + 2])
            if plain in _plain(pair) and len(plain) > len(_plain(sentence)):
                return VerseMatch(poem, _trimmed(pair))
    by_title = [poem for poem in reversed(poems()) if plain in (_plain(poem.title), _plain(poem.author + poem.title))]
    by_title = by_title or [poem for poem in poems() if plain in _plain(poem.title)]
    if by_title:
        return VerseMatch(by_title[0], _trimmed(by_title[0].sentences[0]))
    share, near = _nearest(plain)
    if share >= ALIKE:
        return near
    raise RequestError(
        "no poem here has {query!r}; the nearest verse is “{verse}”, {poem}",
        query=query,
        verse=near.verse,
        poem=near.poem,
    )


def _nearest(plain: str) -> tuple[float, VerseMatch]:
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(plain)
    best_match = (-1.0, VerseMatch(poems()[0], ""))
    for poem in poems():
        for sentence in poem.sentences:
            for clause in (sentence, *re.split("[，、]", sentence)):
                matcher.set_seq1(_plain(clause))
                if matcher.quick_ratio() > best_match[0] and (share := matcher.ratio()) > best_match[0]:
                    best_match = (share, VerseMatch(poem, _trimmed(sentence), exact=False))
    return best_match


def _plain(text: str) -> str:
    return _MARKS.sub("", normal(text))


def _trimmed(sentence: str) -> str:
    return sentence.strip().rstrip("。；")
