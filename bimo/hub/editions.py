"""Which of the bundled models learned what a prompt asks for."""

from __future__ import annotations

from collections.abc import Iterator, Set
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from bimo.hub.registry import BUNDLES, DEFAULT_MODEL, RECIPE_FILE
from bimo.prompts.normalise import normal
from bimo.xiaomo.captions.lexicon import subjects
from bimo.xiaomo.captions.verses import verses
from bimo.xiaomo.dishes.table import dishes

if TYPE_CHECKING:
    from bimo.diffusion.text_encoder import TextEncoder

SECOND = "xiaomo-2"
#: Characters of the shortest clause of a verse that is told by itself.
SHORTEST = 4


def edition_for(text: str) -> str:
    """``xiaomo-2`` for a prompt with the name of a scene or dish, or a clause of a verse, that it learned and the first
    edition did not; the default model for any other: of bare things its pictures are sharper.
    """
    plain = normal(text)
    return SECOND if any(name in plain for name in _names()) else DEFAULT_MODEL


def models_that_know(text: str, but: str) -> Iterator[str]:
    """The names of bundled models other than ``but`` that learned words of a text. Their weights are not read."""
    from bimo.core import checkpoint_io, module_weights
    from bimo.core.recipe import Recipe

    for name, folder in BUNDLES.items():
        if name == but or not (folder / RECIPE_FILE).is_file():
            continue
        recipe = checkpoint_io.read_recipe(folder / RECIPE_FILE)
        assert isinstance(recipe, Recipe)
        for index, part in enumerate(recipe.text_encoders):
            with module_weights.unfilled():
                encoder = cast("TextEncoder", cast(Any, part).build())
            encoder.load_tokenizer(folder / f"words.{index}")
            if not encoder.budget(text).nothing_known():
                yield name
                break


@lru_cache(maxsize=1)
def _names() -> Set[str]:
    known = frozenset((BUNDLES[DEFAULT_MODEL] / "words.0" / "known.txt").read_text("utf-8").split("\n"))
    names = {word for name, dish in dishes().items() for word in (name, dish.english, *dish.also)}
    names |= {word for called in subjects().values() for word in (*called.zh, *called.en, *called.words)}
    names |= {clause for verse in verses() for clause in verse.clauses if len(clause) >= SHORTEST}
    return frozenset(name for name in map(normal, names) if name) - known
