"""Where the things of a picture stand: what is worn on a face, the corners, so many of one kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bimo.xiaomo.artwork.compositions import Box

ANIMAL_FACES = "🐱🐶🐼🐻🐨🦊🐸🐯🦁🐮🐷🐭🐰🐹🐵🐴🐺"
PLAIN_FACES = "😀😊😍😂😋😴😢😡🤔😳🤖👽👻🎅👶👦👧👨👩👸🧒👴👵🌞🎃"
# An animal's face has the animal's name if it wears or eats something.
FACE_OF: Mapping[str, str] = {
    "🐱": "🐈", "🐶": "🐕", "🐯": "🐅", "🐴": "🐎", "🐮": "🐄", "🐷": "🐖", "🐭": "🐁", "🐰": "🐇", "🐵": "🐒"
}  # fmt: skip
# across, down and long side on the canvas, for a face centred at (0.5, 0.58) with long side 0.74
ACCESSORIES: Mapping[str, tuple[float, float, float]] = {
    "🕶": (0.5, 0.53, 0.56),
    "👓": (0.5, 0.53, 0.56),
    "👑": (0.5, 0.19, 0.36),
    "🎩": (0.5, 0.19, 0.40),
    "👒": (0.5, 0.22, 0.50),
    "🎓": (0.5, 0.20, 0.46),
    "🧢": (0.5, 0.22, 0.44),
    "🎀": (0.68, 0.25, 0.32),
}
#: What is worn below a face, and the face above it.
CLOTHES = "👕👔🧥👗👘🥼"
CLOTHES_BELOW, FACE_ABOVE = (0.5, 0.72, 0.54), (0.5, 0.30, 0.54)
CENTRES: Mapping[str, tuple[float, float]] = {
    "left": (0.23, 0.5), "right": (0.77, 0.5), "top": (0.5, 0.23), "bottom": (0.5, 0.77), "top left": (0.23, 0.23),
    "top right": (0.77, 0.23), "bottom left": (0.23, 0.77), "bottom right": (0.77, 0.77),
}  # fmt: skip
LAYOUTS: Mapping[int, tuple[tuple[float, float, float], ...]] = {
    2: ((0.26, 0.5, 0.44), (0.74, 0.5, 0.44)),
    3: ((0.5, 0.27, 0.40), (0.26, 0.73, 0.40), (0.74, 0.73, 0.40)),
    4: ((0.27, 0.27, 0.38), (0.73, 0.27, 0.38), (0.27, 0.73, 0.38), (0.73, 0.73, 0.38)),
}
#: The width of several things in front of a backdrop.
WIDTH_ON_BACKDROP = 0.86


@dataclass(frozen=True)
class Placed:
    """One thing: its kind (a hexcode), colour (of ``DYES``, "" for its own), centre across and down, and long side."""

    kind: str
    colour: str
    box: Box
