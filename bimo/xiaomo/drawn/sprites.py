"""Drawings of the kinds that are drawn by this project: figures, and the things of ``things.svg``."""

from __future__ import annotations

from bimo.xiaomo.artwork.drawings import Drawing
from bimo.xiaomo.captions.figures import FIGURE, looks_of
from bimo.xiaomo.drawn.figures import figure
from bimo.xiaomo.drawn.things import THING, thing


def is_drawn(kind: str) -> bool:
    """Whether a kind is drawn; the others have a reference picture or none."""
    return kind.startswith((FIGURE, THING))


def drawn(kind: str) -> Drawing:
    """The flat drawing of a kind. Raises KeyError for one that no table has."""
    return figure(looks_of(kind)) if kind.startswith(FIGURE) else thing(kind)
