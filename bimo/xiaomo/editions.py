"""Which of the two bundled models draws a prompt when none is named."""

from __future__ import annotations

from collections.abc import Set
from functools import lru_cache

from bimo.hub.registry import BUNDLES, DEFAULT_MODEL
from bimo.prompts.normalise import normal
from bimo.xiaomo.captions.lexicon import subjects
from bimo.xiaomo.captions.verses import verses
from bimo.xiaomo.dishes.table import dishes

SECOND = "xiaomo-2"
#: Characters of the shortest clause of a verse that is told by itself.
SHORTEST = 4


def edition_for(text: str) -> str:
    """``xiaomo-2`` for a prompt with the name of a scene or dish, or a clause of a verse, that it learned and the first
    edition did not; the default model for any other: of bare things its pictures are sharper.
    """
    plain = normal(text)
    return SECOND if any(name in plain for name in _names()) else DEFAULT_MODEL


@lru_cache(maxsize=1)
def _names() -> Set[str]:
    known = frozenset((BUNDLES[DEFAULT_MODEL] / "words.0" / "known.txt").read_text("utf-8").split("\n"))
    names = {word for name, dish in dishes().items() for word in (name, dish.english, *dish.also)}
    names |= {word for called in subjects().values() for word in (*called.zh, *called.en, *called.words)}
    names |= {clause for verse in verses() for clause in verse.clauses if len(clause) >= SHORTEST}
    return frozenset(filter(None, map(normal, names))) - known
