"""Drafts: scenes, verses and dishes drawn by the procedures of the training data, for the second level to draw over.

As in SDEdit (arXiv:2108.01073) with a guide made by program: what the weights cannot place yet, the draft places.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from PIL import Image

from bimo.xiaomo.captions.asked import asked, is_scene, rest_of
from bimo.xiaomo.captions.lexicon import elements_of, style_of
from bimo.xiaomo.captions.verses import is_verse
from bimo.xiaomo.chance import Chance
from bimo.xiaomo.dishes.plan import MANNERS
from bimo.xiaomo.scenes.planning import planned
from bimo.xiaomo.scenes.styles import STYLES, render
from bimo.xiaomo.scenes.subjects import SEALED, stamp
from bimo.xiaomo.scenes.subjects.verse import room_for

SIDE = 256
#: The manners of a scene whose prompt names none, those that keep its lines at 16 pixels a place of the latent.
UNNAMED = ("gongbi", "colour", "illustration", "watercolour")
#: Words that the model learned in its captions, and that show nothing.
_EMPTY = re.compile(
    r"[是有两几面个只盏条幅座处棵位朵家着天]|\b(?:is|are|there|some|two|its?|small|little|quiet|beautiful)\b"
)


def can_draft(text: str, unknown: Callable[[str], bool], written: str = "") -> bool:
    """Whether the procedures draw all that a text asks for: a scene, verse or dish, in a style of theirs, and nothing
    beside it that the model learned. ``unknown`` says of words whether the model learned none of them; ``written`` is
    the text before it was said in learned words, by which a verse is known.
    """
    kind, _ = asked(text)
    if not is_scene(text):
        return False
    if kind == "dish" and style_of(text) not in ("", *MANNERS):
        return False
    if not kind and not room_for(elements_of(text)):
        return False
    rest = _EMPTY.sub("", rest_of(text)).strip()
    return not rest or unknown(rest) or is_verse(written or text)


def draft(text: str, key: str, side: int) -> Image.Image:
    """The drawing of a text that ``can_draft`` accepts, ``side`` pixels square; what it leaves open is taken from the
    key, the same as in ``planning.planned_boxes``.
    """
    scene = planned(text, key)
    assert scene is not None
    kind, _ = asked(text)
    style = style_of(text) or (MANNERS[0] if kind == "dish" else Chance(f"{key}/manner").pick(UNNAMED))
    if kind != "dish" and style in SEALED:
        stamp(scene)
    return render(scene, STYLES[style], side)
