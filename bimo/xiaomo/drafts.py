"""Drafts: scenes, verses and dishes drawn by the procedures of the training data, for the second level to draw over.

As in SDEdit (arXiv:2108.01073) with a guide made by program: what the weights cannot place yet, the draft places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from bimo.xiaomo.captions.asked import asked
from bimo.xiaomo.captions.lexicon import style_of
from bimo.xiaomo.chance import Chance
from bimo.xiaomo.dishes.plan import MANNERS
from bimo.xiaomo.scenes.planning import planned
from bimo.xiaomo.scenes.styles import STYLES, render
from bimo.xiaomo.scenes.subjects import SEALED, stamp

if TYPE_CHECKING:
    pass

#: The manners of a scene whose prompt names none, those that keep its lines at 16 pixels a place of the latent.
UNNAMED = ("gongbi", "colour", "illustration", "watercolour")


def draft(text: str, key: str, side: int) -> Image.Image:
    """The drawing of a text that the procedures draw whole (``plan_of``), ``side`` pixels square; what it leaves
    open is taken from the key, the same as in ``planning.planned_boxes``.
    """
    scene = planned(text, key)
    assert scene is not None
    kind, _ = asked(text)
    style = style_of(text) or (MANNERS[0] if kind == "dish" else Chance(f"{key}/manner").pick(UNNAMED))
    if kind != "dish" and style in SEALED:
        stamp(scene)
    return render(scene, STYLES[style], side)
