"""Things that no reference picture shows, drawn in ``things.svg`` and named in ``things.tsv``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources

from bimo.xiaomo.artwork.drawings import Drawing
from bimo.xiaomo.captions.drawn_things import THING

#: Left, top, width and height that every thing is drawn in.
_FRAME = (0.0, 0.0, 200.0, 200.0)


@lru_cache(maxsize=1)
def outlines() -> Mapping[str, str]:
    """The shapes of every thing by its name."""
    text = resources.files("bimo.xiaomo.drawn").joinpath("things.svg").read_text("utf-8")
    return {found[1]: found[2] for found in re.finditer(r'^<g id="([^"]+)">(.*)</g>$', text, re.MULTILINE)}


def thing(kind: str) -> Drawing:
    """The flat drawing of a kind. Raises KeyError for one that is not drawn."""
    return Drawing(_FRAME, outlines()[kind.removeprefix(THING)])
