"""Which prompts have a draft, by their words: those that the procedures of the training data draw whole, and those of
things that there are references of. Painters are imported for these alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bimo.prompts.negation import negation
from bimo.prompts.normalise import normal
from bimo.prompts.quoted_text import quoted
from bimo.prompts.weighting import emphasis
from bimo.xiaomo.artwork.held_out import hexcode
from bimo.xiaomo.artwork.lexicon import MORE_EFFECTS
from bimo.xiaomo.artwork.places import Placed
from bimo.xiaomo.captions.arranged import Arrangement, arrangement_of
from bimo.xiaomo.captions.asked import (
    asked,
    is_landscape,
    is_scene,
    is_scenic_word,
    rest_of,
    scenic,
    without_name,
)
from bimo.xiaomo.captions.descriptions import Description, Group, description_of
from bimo.xiaomo.captions.drawn_things import THING, views
from bimo.xiaomo.captions.figures import FIGURE
from bimo.xiaomo.captions.lexicon import elements_of, style_of
from bimo.xiaomo.captions.noun_phrases import is_named, things_of
from bimo.xiaomo.captions.verses import is_verse
from bimo.xiaomo.dishes.naming import dish_named
from bimo.xiaomo.dishes.table import dishes
from bimo.xiaomo.scenes.description import NO_MOOD

if TYPE_CHECKING:
    from bimo.diffusion.text_encoder import TextEncoder

#: What no draft has, and nobody has to be told without.
_NEVER_DRAWN = frozenset(
    ("背景", "文字", "字", "水印", "边框", "background", "text", "words", "watermark", "frame", "border")
)
#: Things that are country themselves, which a scene shows better than a picture of one: mountains, waves, temples ...
_COUNTRY = frozenset(map(hexcode, ("🌊", "🏔", "⛰", "🛣", "🛕", "🗼", "🌉", "🏞", "🏙", "🌃", "🌆", "🌅")))
#: A longer text is a sentence rather than a name, in characters.
_TOLD = 18
_CLAUSE_ENDS = re.compile(r"[，,。;；]")
#: What may be a saying that no table has.
_SAYING = re.compile("[\u4e00-\u9fff]{4}")
#: Words that the model learned in its captions, and that show nothing.
_EMPTY = re.compile(
    r"[是有两几面个只盏条幅座处棵位朵家着天]|\b(?:is|are|there|some|two|its?|small|little|old|ancient|tall|quiet|beautiful)\b"
)


@dataclass(frozen=True)
class AsWritten:
    """A text of which the procedures draw every word as it is written, learned or not: a dish by its name or by words
    of how it is cooked of what, a verse, a poem by its title.
    """

    text: str


#: What makes a draft: an arrangement of references, a description, a dish, or the procedures of the data from the text.
Plan = Arrangement | Description | AsWritten | Literal["procedures"]


def plan_of(text: str, encoder: TextEncoder, written: str = "", square: bool = True) -> Plan | None:
    """What makes the draft of all that a text asks for; None where there is none, and for most in another shape than a
    ``square``. ``written`` is the text before it was said in learned words.
    """
    arrangement = arranged(text, encoder, written)
    if arrangement is not None:
        return arrangement if square or arrangement.fits_any_shape else None
    if not square:
        return None
    if (named := _named(written or text)) is not None:
        return named
    drawn = can_draft_scene(text, encoder, written)
    described = _described(written or text, drawn)
    if described is not None or drawn or quoted(written or text):  # no draft has anything written on it
        return described or ("procedures" if drawn else None)
    # What is understood is a better picture than the weights', which draw nothing that one could name of other words.
    found = _described(written or text, False, anyhow=True) or _described(text, False, anyhow=True)
    return found or _of_its_characters(written or text)


def can_draft_scene(text: str, encoder: TextEncoder, written: str = "") -> bool:
    """Whether the procedures draw all that a text asks for: a scene, verse or dish, in a style of theirs, and nothing
    beside it that the model learned, by its text ``encoder``. A verse is known by the text as it was ``written``.
    """
    if is_verse(written or text):
        return is_scene(text) and _fits(text)
    kind, name = asked(text)
    excluded = negation(normal(text))
    if excluded.things and not (kind == "dish" and dish_named(name).without(excluded.things).pieces):
        return False  # of a dish an ingredient can be left out
    text = excluded.text if excluded.things else text
    if not is_scene(text) or not _fits(text):
        return False
    rest = _EMPTY.sub("", rest_of(text)).strip()
    return (not rest or encoder.budget(rest).wholly) and not _of_other_words(text, encoder)


def arranged(text: str, encoder: TextEncoder, written: str = "") -> Arrangement | None:
    """What is put together from references for a text as it was ``written``, else in learned words.

    None if it says anything else, where there is no reference, and for a dish, a landscape, a verse or a subject of
    scenes (荷花和鱼) that the procedures draw.
    """
    arrangement = _arranged_as_wished(written) or _arranged_as_wished(text)
    if arrangement is None:
        return None
    if not arrangement.is_one_thing and _named(written or text) is not None:
        return None  # 烤红薯 is a thing that there is a reference of, 西红柿鸡蛋面 no three things
    if _is_of_scenes(arrangement, text, written) and can_draft_scene(text, encoder, written):
        return None
    from bimo.xiaomo.artwork.references import has_references

    return arrangement if has_references(arrangement.things) else None


def _is_of_scenes(arrangement: Arrangement, text: str, written: str) -> bool:
    """Whether a text that references were found for asks for a dish, a verse, or country rather than for a thing."""
    if arrangement.mood != NO_MOOD or arrangement.scene in views():
        return False  # 雾气缭绕的竹林小路, 庙会上的舞龙: a view in its weather, or with something in it
    whole = normal(written or text)
    named, beside = things_of(whole), without_name(whole).strip()
    if named is not None and named.kind.startswith((FIGURE, THING)) and beside:
        return False  # 台灯, 敦煌莫高窟, a lighthouse: they are shown themselves, not the country that they name
    (name, called), verse = asked(text), is_verse(written or text)
    if name == "dish" and called not in dishes():
        return False
    if arrangement.is_one_thing and not verse and is_named(whole) and (not name or (name == "scene" and beside)):
        # 树 is a tree, 雪人 nobody in the snow, 西兰花 (broccoli) no 兰花 (orchid)
        return arrangement.things[0].kind in _COUNTRY
    return name == "scene" or verse or is_landscape(text) or arrangement.is_one_thing


def _named(text: str) -> AsWritten | None:
    """A verse, a poem by its title, or a dish in a style of dishes with something left of it besides what is not
    wanted; None if a text says more.
    """
    if is_verse(text) and scenic(text) and _fits(text):
        return AsWritten(text)
    kind, name = asked(text)
    excluded = negation(normal(text))
    if kind != "dish" or rest_of(excluded.text) or not _fits(text):
        return None
    return AsWritten(text) if dish_named(name).without(excluded.things).pieces else None


def _described(text: str, drawn: bool, anyhow: bool = False) -> Description | None:
    """What is drawn of a place and what is in it; None where too little is understood (unless it is ``anyhow`` enough),
    a thing has no reference, or the text is ``drawn`` by the procedures and no more than a name.
    """
    description = description_of(emphasis(text).text, anyhow)
    if description is None or (drawn and not _is_told(description, text)):
        return None
    return description if _all_shown(description.groups) else None


def _of_its_characters(text: str) -> Description | None:
    """The animals and other things that single characters of a saying of four name (三人成虎: a tiger)."""
    plain = normal(text).strip()
    if not _SAYING.fullmatch(plain):
        return None
    named = [(one, things_of(one)) for one in plain]
    groups = [Group((Placed(things.kind, "", (0.5, 0.5, 0.98)),)) for _, things in named if things is not None]
    left_out = tuple(one for one, things in named if things is None)
    return Description(tuple(groups), left_out=left_out) if groups and _all_shown(groups) else None


def _all_shown(groups: Sequence[Group]) -> bool:
    from bimo.xiaomo.artwork.references import has_references

    return all(has_references(group.things) for group in groups)


def _is_told(description: Description, text: str) -> bool:
    """Whether a text tells in several clauses what a picture shows, and all of it is understood: no verse or name. Or
    it names an effect that no scene by procedure is drawn in.
    """
    if description.style in MORE_EFFECTS:
        return True
    shows_more = description.groups and not description.left_out and not is_verse(text) and asked(text)[0] != "dish"
    if shows_more and (_lacks(text) or _EMPTY.sub("", rest_of(text)).strip()):
        return True  # 在海边看日出的情侣: the couple is besides what the procedures draw
    several = len([clause for clause in _CLAUSE_ENDS.split(text) if clause.strip()]) > 2 or len(text) > _TOLD
    return several and not description.left_out and not is_verse(text) and asked(text)[0] != "dish"


def _lacks(text: str) -> bool:
    """Whether pictures of the subject that a text asks for lack an element that it names (荷塘里的两只鸭子)."""
    kind, name = asked(text)
    if kind != "scene" or is_verse(text):
        return False
    from bimo.xiaomo.scenes.subjects import SUBJECTS

    return not SUBJECTS[name].scene("some").elements.keys() >= set(elements_of(without_name(text)))


def _arranged_as_wished(text: str) -> Arrangement | None:
    """What is put together for a text besides the clauses that exclude something (不要猫，只要狗), if none of that is
    in it. 没有叶子的树 is no clause: what it excludes is part of the thing.
    """
    text = emphasis(text).text
    clauses = _CLAUSE_ENDS.split(text)
    wishes = [clause for clause in clauses if not (excluded := negation(clause)).things or excluded.text]
    arrangement = arrangement_of("，".join(wishes)) if len(wishes) < len(clauses) else arrangement_of(text)
    if arrangement is None or len(wishes) == len(clauses):
        return arrangement
    unwanted = [things_of(thing) for thing in map(normal, negation(text).things) if thing not in _NEVER_DRAWN]
    kinds = {thing.kind for thing in arrangement.things}
    return None if any(things is None or things.kind in kinds for things in unwanted) else arrangement


def _fits(text: str) -> bool:
    """Whether a dish is drawn in the style that is named, or the elements of a text in one picture."""
    from bimo.xiaomo.dishes.plan import MANNERS
    from bimo.xiaomo.scenes.subjects.verse import room_for

    kind, _ = asked(text)
    if kind == "dish":
        return style_of(text) in ("", *MANNERS)
    return bool(kind) or room_for(scenic(text))


def _of_other_words(text: str, encoder: TextEncoder) -> bool:
    """Whether an element is seen in a text only within another word that the model learned: no goose in 企鹅."""
    words = [piece for _, piece, _ in encoder.pieces(without_name(text))]
    return any(len(word) > 1 and elements_of(word) and not is_scenic_word(word) for word in words)
