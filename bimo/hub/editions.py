"""Chooses the bundled model that was trained on the words of a prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from bimo.diffusion.image_to_image import begins_from_noise
from bimo.hub.registry import BUNDLES, DEFAULT_MODEL, RECIPE_FILE
from bimo.prompts.expansion import outside_quotes, pictures_of_sayings
from bimo.prompts.normalise import normal, normal_each
from bimo.prompts.paraphrases import Paraphrase, paraphrased, put_right
from bimo.xiaomo.captions.asked import is_landscape, is_scene
from bimo.xiaomo.captions.draftable import plan_of
from bimo.xiaomo.captions.lexicon import CLAUSE, elements_of, subjects
from bimo.xiaomo.captions.noun_phrases import has_its_own_colour
from bimo.xiaomo.captions.verses import verses
from bimo.xiaomo.dishes.table import dishes

if TYPE_CHECKING:
    from bimo.core.request import Request
    from bimo.diffusion.text_encoder import TextEncoder

SECOND = "xiaomo-2"
#: Relations of a face to a thing that only the second edition was taught (``artwork/compositions.tsv``).
_RELATIONS = re.compile(
    r"宇航服|太空服|骑|开(?:着|汽?车|卡车|火车|巴士|拖拉机)|拿着|手拿|捧着|坐在|演奏|[弹拉吹](?=.{1,3}的)|看书|读书|钓鱼|追着|喝"
    r"|踢|过生日|睡觉的"
    r"|\b(?:spacesuit|riding|driving|holding|sitting (?:in|on)|playing|reading|fishing|chasing|drinking)\b"
)

#: Words that no verse has beside its elements: of a thing, or a number of things.
_OF_A_THING = re.compile(r"的|[一两二三四五六七八九十百几群]?[只个条头匹]|[a-z]")


def edition_for(text: str, drafts: bool = True, square: bool = True) -> str:
    """``xiaomo-2`` for a prompt that it has a draft of, one with the name of a scene or dish, or a clause of a verse,
    that only it was trained on, or one of which it knows more words; the default model for others. A thing by a name
    with its own colour (红苹果) is the default model's, which learned it by that name. Without ``drafts`` (a picture to
    begin with) who knows more draws; of another shape than a ``square`` some have none.
    """
    plain = normal(text)
    if has_its_own_colour(plain):
        return DEFAULT_MODEL
    if drafts and _can_draft(text, square):
        return SECOND
    if plain in _learned_first():
        return DEFAULT_MODEL
    if pictures_of_sayings(plain, True) and _read_by(DEFAULT_MODEL, text).replaced:
        return DEFAULT_MODEL  # the second edition was taught idioms and does not draw them yet
    if any(name in plain for name in _names()):
        return SECOND
    first, second = (_Reading.of(name, text) for name in (DEFAULT_MODEL, SECOND))
    if first.unread != second.unread:
        return min(first, second, key=lambda reading: reading.unread).model
    scene = any(name in normal(second.text) for name in _names())
    # Of an odd word among those of a verse more is left in a scene than in a picture of a thing.
    odd = second.unread > (False, 0) and not _OF_A_THING.search(plain)
    scene = (
        scene
        or is_landscape(second.text)
        or (second.text != text and is_scene(second.text))
        or (odd and bool(elements_of(second.text)))
    )
    nothing, _ = second.unread
    return SECOND if not nothing and (scene or _RELATIONS.search(plain)) else DEFAULT_MODEL


def edition_for_all(requests: Sequence[Request]) -> str:
    """The edition that draws several requests: that of each if it is the same, else ``xiaomo-2`` if it has a draft of
    all that are not its own.
    """
    others = [one for one in requests if edition_for(one.text, takes_draft(one), is_square(one.size)) != SECOND]
    drafted = all(takes_draft(one) and _can_draft(one.text, is_square(one.size)) for one in others)
    return SECOND if len(others) < len(requests) and drafted else DEFAULT_MODEL


def takes_draft(request: Request) -> bool:
    """Whether a request may begin with a draft, whatever its text and shape: it begins with nothing else."""
    return begins_from_noise(request) and request.draft != 0


def is_square(size: Sequence[int] | None) -> bool:
    """Whether a (width, height) is square, as the models' own size is."""
    return size is None or len(set(size)) == 1


def _can_draft(text: str, square: bool) -> bool:
    """Whether the second edition has a draft by program of all that a prompt asks for."""
    encoder = text_encoder_of(SECOND)
    written, _ = put_right(text, encoder.budget, encoder.known)
    return plan_of(_read_by(SECOND, text).text, encoder, written, square) is not None


def _read_by(model: str, text: str) -> Paraphrase:
    """A text in words that a bundled model learned."""
    encoder = text_encoder_of(model)
    return paraphrased(text, encoder.budget, encoder.known)


def models_that_know(text: str, but: str) -> Iterator[str]:
    """The names of bundled models other than ``but`` that learned words of a text. Their weights are not read."""
    for name, folder in BUNDLES.items():
        if name != but and (folder / RECIPE_FILE).is_file() and not text_encoder_of(name).budget(text).nothing_known():
            yield name


@dataclass(frozen=True)
class _Reading:
    """What a bundled ``model`` reads of a prompt: its ``text`` in words that it learned, and what is ``unread``
    (whether all of it, and how many words).
    """

    model: str
    text: str
    unread: tuple[bool, int]

    @classmethod
    def of(cls, model: str, prompt: str) -> _Reading:
        budget = text_encoder_of(model).budget
        text = _read_by(model, prompt).text
        left = budget(outside_quotes(text))
        return cls(model, text, (left.wholly, len(left.unknown)))


@lru_cache(maxsize=4)
def text_encoder_of(name: str) -> TextEncoder:
    """The text encoder of a bundled model with its vocabulary, without weights."""
    from bimo.core import checkpoint_io, module_weights
    from bimo.core.recipe import Recipe

    recipe = checkpoint_io.read_recipe(BUNDLES[name] / RECIPE_FILE)
    assert isinstance(recipe, Recipe)
    with module_weights.unfilled():
        encoder = cast("TextEncoder", cast(Any, recipe.text_encoders[0]).build())
    encoder.load_tokenizer(BUNDLES[name] / "words.0")
    return encoder


@lru_cache(maxsize=1)
def _learned_first() -> Set[str]:
    """Words that the first edition learned."""
    return frozenset((BUNDLES[DEFAULT_MODEL] / "words.0" / "known.txt").read_text("utf-8").split("\n"))


@lru_cache(maxsize=1)
def _names() -> Set[str]:
    names = {word for name, dish in dishes().items() for word in (name, dish.english, *dish.also)}
    names |= {word for called in subjects().values() for word in called.names()}
    names |= {clause for verse in verses() for clause in verse.clauses if len(clause) >= CLAUSE}
    return frozenset(name for name in normal_each(names) if name) - _learned_first()
