"""Figures put together from the parts in ``figure.svg``: a head with hair, beard and hat, a dress, arms and what they
hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from string import Template
from typing import TypeVar

from bimo.core.errors import DataError
from bimo.xiaomo.artwork.drawings import Drawing

#: What a figure has where its row says nothing. Colours are of #rrggbb.
PLAIN: Mapping[str, str] = {
    "skin": "#fbdcc0", "face": "plain", "hair": "short", "hair_colour": "#2b2226", "dress": "robe", "main": "#6f8fb0",
    "trim": "#f4ead8", "pose": "down", "sleeve": "tight",
}  # fmt: skip
#: What else a row may say.
PARTS = ("beard", "hat", "wear", "mark", "back", "front", "right", "left")
COLOURS = ("beard_colour", "hat_colour", "hat_trim_colour", "ribbon_colour")


Value = TypeVar("Value")


@dataclass(frozen=True)
class Pose:
    """Where the two hands are, in the frame of ``figure.svg``, and the degrees that what they hold is turned by."""

    left: tuple[float, float]
    right: tuple[float, float]
    turned_left: float = 0.0
    turned_right: float = 0.0


POSES: Mapping[str, Pose] = {
    "down": Pose((62, 222), (178, 222)),
    "hold": Pose((62, 222), (190, 196), 0, 4),
    "both": Pose((50, 196), (190, 196), -8, 8),
    "raise": Pose((62, 222), (204, 128), 0, 14),
    "cheer": Pose((36, 122), (204, 122), -14, 14),
    "front": Pose((106, 214), (134, 214)),
    "chest": Pose((66, 222), (152, 200), 0, -6),
    "pray": Pose((113, 196), (127, 196)),
    "pray2": Pose((113, 196), (127, 196)),
    "play": Pose((78, 238), (162, 238)),
    "playr": Pose((70, 226), (168, 214), 0, -20),
    "write": Pose((72, 238), (150, 226), 0, -24),
    "pipa": Pose((162, 168), (112, 228)),
    "spread": Pose((26, 184), (214, 184), -30, 30),
    "taichi": Pose((32, 196), (206, 158)),
    "ballet": Pose((74, 40), (214, 168), 0, 0),
    "run": Pose((44, 178), (186, 206)),
    "salute": Pose((62, 222), (174, 80)),
    "micup": Pose((48, 150), (160, 164), 0, -24),
    "lantern": Pose((62, 222), (206, 168)),
    "flute": Pose((96, 140), (158, 142), 0, 4),
    "bow": Pose((44, 176), (110, 184)),
}
_SHOULDERS = ((94, 166), (146, 166))
#: Half the width of a sleeve at the shoulder and at the hand.
_SLEEVES: Mapping[str, tuple[float, float]] = {"tight": (13, 11), "wide": (13, 27), "bare": (11, 9)}
_FRAME = (-40.0, -60.0, 330.0, 380.0)


@lru_cache(maxsize=1)
def parts() -> Mapping[str, str]:
    """The shapes of every part by its name in ``figure.svg``, with $names for colours."""
    text = resources.files("bimo.xiaomo.drawn").joinpath("figure.svg").read_text("utf-8")
    return {found[1]: found[2] for found in re.finditer(r'^<g id="([a-z/0-9]+)">(.*)</g>$', text, re.MULTILINE)}


def figure(looks: Mapping[str, str]) -> Drawing:
    """A figure of the parts and colours that ``looks`` names. Raises DataError for a part that ``figure.svg`` lacks."""
    return Drawing(_FRAME, shapes(looks))


def shapes(looks: Mapping[str, str]) -> str:
    """The SVG of a figure, from back to front. Raises DataError as ``figure`` does."""
    all_looks = {**PLAIN, **looks}
    colours = {name: all_looks[name] for name in ("skin", "main", "trim")}
    colours["hair"] = all_looks["hair_colour"]
    of_others = {"beard": "hair", "hat": "main", "hat_trim": "trim", "ribbon": "trim"}
    for name, other in of_others.items():
        colours[name] = all_looks.get(f"{name}_colour", colours[other])
    pose = _known(POSES, all_looks["pose"], "pose")
    hands = [_held(all_looks.get(side, ""), at, turn) for side, at, turn in (
        ("left", pose.left, pose.turned_left), ("right", pose.right, pose.turned_right))]  # fmt: skip

    def part(group: str, layer: str = "") -> str:
        name = all_looks.get(group, "")
        if not name:
            return ""
        return parts().get(f"{group}/{name}/{layer}", "") if layer else _part(group, name)

    layers = [
        part("back"), part("hat", "back"), part("hair", "back"), part("dress", "back"), part("dress"),
        *_arms(pose, all_looks["sleeve"]), part("dress", "over"), _HEAD, part("mark"), part("face"), part("beard"),
        part("hair"), part("hat"), part("wear"), part("front"), *hands, *map(_hand, (pose.left, pose.right)),
    ]  # fmt: skip
    return Template("".join(layers)).substitute(colours)


_HEAD = (
    '<circle cx="64" cy="106" r="11" fill="$skin"/><circle cx="176" cy="106" r="11" fill="$skin"/>'
    '<ellipse cx="120" cy="98" rx="57" ry="54" fill="$skin"/>'
)


def _known(table: Mapping[str, Value], name: str, of: str) -> Value:
    if name not in table:
        raise DataError("a figure has no {of} {name!r}; there are {known}", of=of, name=name, known=", ".join(table))
    return table[name]


def _part(group: str, name: str) -> str:
    return _known(
        {each.partition("/")[2]: shape for each, shape in parts().items() if each.startswith(group)}, name, group
    )


def _held(name: str, at: tuple[float, float], turned: float) -> str:
    if not name:
        return ""
    return f'<g transform="translate({at[0]} {at[1]}) rotate({turned})">{_part("prop", name)}</g>'


def _hand(at: tuple[float, float]) -> str:
    return f'<circle cx="{at[0]}" cy="{at[1]}" r="12" fill="$skin"/>'


def _arms(pose: Pose, sleeve: str) -> list[str]:
    """The two sleeves, each from its shoulder to the wrist."""
    narrow, wide = _known(_SLEEVES, sleeve, "sleeve")
    drawn: list[str] = []
    for (x, y), (to_x, to_y) in zip(_SHOULDERS, (pose.left, pose.right), strict=True):
        across, down = to_x - x, to_y - y
        length = max(1.0, (across**2 + down**2) ** 0.5)
        side_x, side_y = -down / length, across / length
        end_x, end_y = to_x - across / length * 5, to_y - down / length * 5
        corners = [
            (x + side_x * narrow, y + side_y * narrow),
            (end_x + side_x * wide, end_y + side_y * wide),
            (end_x - side_x * wide, end_y - side_y * wide),
            (x - side_x * narrow, y - side_y * narrow),
        ]
        outline = " L".join(f"{a:.1f} {b:.1f}" for a, b in corners)
        colour = "$skin" if sleeve == "bare" else "$main"
        shoulder = f"A{narrow} {narrow} 0 0 1 {corners[0][0]:.1f} {corners[0][1]:.1f}"
        drawn.append(f'<path d="M{outline}{shoulder}Z" fill="{colour}"/>')
        if sleeve != "bare":
            (a, b), (c, d) = corners[1:3]
            drawn.append(f'<path d="M{a:.1f} {b:.1f} L{c:.1f} {d:.1f}" {_CUFF}/>')
    return drawn


_CUFF = 'stroke="$trim" stroke-width="7" stroke-linecap="round"'
