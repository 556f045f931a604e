"""Tang and Song poems, found by a line, a title or a poet: 飞流直下三千尺 is of 李白's 望庐山瀑布.

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
from bimo.core.messages import Both
from bimo.prompts.normalise import normal

_MARKS = re.compile(r"[\W_]+")
_SENTENCE = re.compile(r"[^。？！；]*[。？！；]?")
#: How much of a line must agree where it is remembered wrongly.
ALIKE = 0.6
LEAST_CHARACTERS = 2


@dataclass(frozen=True)
class Poem:
    """A poem as it is printed in simplified characters."""

    title: str
    author: str
    text: str

    @property
    def sentences(self) -> tuple[str, ...]:
        """Its sentences, each with the mark at its end."""
        return tuple(one for one in _SENTENCE.findall(self.text) if one.strip())

    def __str__(self) -> str:
        return f"{self.author}《{self.title}》"


@dataclass(frozen=True)
class Found:
    """A verse in its poem; ``exact`` where it stands there as it was asked for."""

    poem: Poem
    verse: str
    exact: bool = True


@cache
def poems() -> tuple[Poem, ...]:
    """All poems of the collections."""
    packed = resources.files("bimo.prompts").joinpath("poems.tsv.xz").read_bytes()
    lines = lzma.decompress(packed).decode("utf-8").splitlines()
    return tuple(Poem(*line.split("\t")) for line in lines if line and not line.startswith("#"))


def found(asked: str) -> Found:
    """The verse that is asked for: by words that stand in it, by the poem's title, by words nearly like it. Raises
    RequestError with the nearest verse where there is none.
    """
    plain = _plain(asked)
    if len(plain) < LEAST_CHARACTERS:
        raise RequestError("--poem is {asked!r}; write a line of a poem, or its title", asked=asked)
    for poem in poems():
        for first, sentence in enumerate(poem.sentences):
            if plain in _plain(sentence):
                return Found(poem, _trimmed(sentence))
            pair = "".join(poem.sentences[first : first + 2])
            if plain in _plain(pair) and len(plain) > len(_plain(sentence)):
                return Found(poem, _trimmed(pair))
    titled = [poem for poem in reversed(poems()) if plain in (_plain(poem.title), _plain(poem.author + poem.title))]
    titled = titled or [poem for poem in poems() if plain in _plain(poem.title)]
    if titled:
        return Found(titled[0], _trimmed(titled[0].sentences[0]))
    share, near = _nearest(plain)
    if share >= ALIKE:
        return near
    raise RequestError(
        "no poem here has {asked!r}; the nearest verse is “{verse}”, {poem}",
        asked=asked,
        verse=near.verse,
        poem=Both(str(near.poem), str(near.poem)),
    )


def _nearest(plain: str) -> tuple[float, Found]:
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(plain)
    best = (-1.0, Found(poems()[0], ""))
    for poem in poems():
        for sentence in poem.sentences:
            for clause in (sentence, *re.split("[，、]", sentence)):
                matcher.set_seq1(_plain(clause))
                if matcher.quick_ratio() > best[0] and (share := matcher.ratio()) > best[0]:
                    best = (share, Found(poem, _trimmed(sentence), exact=False))
    return best


def _plain(text: str) -> str:
    return _MARKS.sub("", normal(text))


def _trimmed(sentence: str) -> str:
    return sentence.strip().rstrip("。；")
