"""Where several things stand: in rows, or side by side on the ground of a scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bimo.xiaomo.artwork.compositions import Box
from bimo.xiaomo.artwork.places import LAYOUTS, Placed
from bimo.xiaomo.captions.figures import body_of


def rows(count: int) -> tuple[Box, ...]:
    """Places for ``count`` things, in rows as even as can be, the longer ones first."""
    if count in LAYOUTS:
        return LAYOUTS[count]
    many = 2 if count <= 8 else 3
    short, longer = divmod(count, many)
    lengths = [short + 1] * longer + [short] * (many - longer)
    side = 0.86 / max(lengths)
    return tuple(
        ((place + 0.5) / length, 0.5 + (row - (many - 1) / 2) * (0.92 / many), side)
        for row, length in enumerate(lengths)
        for place in range(length)
    )


def placed_alone(things: Sequence[Placed]) -> tuple[Placed, ...]:
    """Things that stand side by side where something else was among them."""
    count = len(things)
    return tuple(
        replace(each, kind=body_of(each.kind), box=((place + 0.5) / count, 0.5, 0.9 / count))
        for place, each in enumerate(things)
    )


def side_by_side(things: tuple[Placed, ...]) -> tuple[Placed, ...]:
    """Things in rows, in one: they stand on the ground of a scene."""
    count = len(things)
    if count == 1:
        return (replace(things[0], kind=body_of(things[0].kind)),)
    if count not in LAYOUTS or [thing.box for thing in things] != list(rows(count)):
        return things
    return placed_alone(things)
