"""Things that no reference picture shows, drawn in ``things.svg`` and named in ``things.tsv``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources

from PIL import Image

from bimo.xiaomo.captions.drawn_things import THING
from bimo.xiaomo.drawn.vector import painted

#: Left, top, width and height that every thing is drawn in.
_FRAME = (0.0, 0.0, 200.0, 200.0)


@lru_cache(maxsize=1)
def outlines() -> Mapping[str, str]:
    """The shapes of every thing by its name."""
    text = resources.files("bimo.xiaomo.drawn").joinpath("things.svg").read_text("utf-8")
    return {found[1]: found[2] for found in re.finditer(r'^<g id="([^"]+)">(.*)</g>$', text, re.MULTILINE)}


def thing(kind: str, shaded: bool, pixels: int) -> Image.Image:
    """The picture of a kind, RGBA, ``pixels`` square. Raises KeyError for one that is not drawn."""
    return painted(outlines()[kind.removeprefix(THING)], _FRAME, shaded, pixels)
