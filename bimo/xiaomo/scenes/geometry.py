"""Curves and outlines in unit coordinates: [0, 0] is the upper left corner of the picture, [1, 1] the lower right."""

# numpy's arrays are only partly typed.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from bimo.xiaomo.chance import Chance, Floats

#: A path: [count x 2], across and down.
Path = Floats


def path(*points: tuple[float, float]) -> Path:
    """A path of points."""
    return np.array(points, np.float32)


def xy(point: Floats) -> tuple[float, float]:
    """Across and down of one point of a path."""
    return float(point[0]), float(point[1])


def box(left: float, top: float, right: float, bottom: float) -> Path:
    """The outline of an upright rectangle."""
    return path((left, top), (right, top), (right, bottom), (left, bottom))


def ellipse(x: float, y: float, across: float, down: float, count: int = 28) -> Path:
    """The outline of an ellipse with half axes `across` and `down`."""
    turn = np.linspace(0, math.tau, count, endpoint=False, dtype=np.float32)
    return np.stack([x + across * np.cos(turn), y + down * np.sin(turn)], 1)


def arc(x: float, y: float, across: float, down: float, begin: float, end: float, count: int = 20) -> Path:
    """A part of an ellipse between two angles in radians; 0 is right, pi / 2 is down."""
    turn = np.linspace(begin, end, count, dtype=np.float32)
    return np.stack([x + across * np.cos(turn), y + down * np.sin(turn)], 1)


def blob(chance: Chance, x: float, y: float, across: float, down: float, wobble: float = 0.18, count: int = 18) -> Path:
    """An irregular rounded outline."""
    turn = np.linspace(0, math.tau, count, endpoint=False, dtype=np.float32)
    reach = 1 + wobble * chance.bell(1, count)
    reach = (reach + np.roll(reach, 1) + np.roll(reach, -1)) / 3
    return np.stack([x + across * reach * np.cos(turn), y + down * reach * np.sin(turn)], 1)


def smooth(points: Path | Sequence[tuple[float, float]], count: int = 24) -> Path:
    """A curve through some points (Catmull-Rom)."""
    knots = np.asarray(points, np.float32)
    padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    place = np.linspace(0, len(knots) - 1 - 1e-4, count, dtype=np.float32)
    step = place.astype(int)
    t = (place - step)[:, None]
    a, b, c, d = (padded[step + shift] for shift in range(4))
    return (0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)).astype(
        np.float32
    )


def closed(points: Path | Sequence[tuple[float, float]], count: int = 36) -> Path:
    """A closed curve through some points."""
    knots = np.asarray(points, np.float32)
    looped = np.concatenate([knots[-2:], knots, knots[:2]])
    curve = smooth(looped, count + count // 2)
    return curve[count // 6 : -(count // 6)]


def turned(points: Path, x: float, y: float, angle: float, scale: float = 1.0) -> Path:
    """Rotates a path around the origin by an angle in radians, scales it, and moves it to (x, y)."""
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
    rotation = np.array([[cos, sin], [-sin, cos]], np.float32)
    return points @ rotation + np.array([x, y], np.float32)


def placed(points: Sequence[tuple[float, float]] | Path, x: float, y: float, size: float, side: float = 1.0) -> Path:
    """Transforms a path of the unit frame: scaled by `size`, mirrored if `side` is negative, its origin at (x, y)."""
    return np.asarray(points, np.float32) * np.array([size * side, size], np.float32) + np.array([x, y], np.float32)


def frame(x: float, y: float, size: float, side: float = 1.0) -> Callable[..., Path]:
    """A function that transforms points of the unit frame as `placed` does."""

    def at(*points: tuple[float, float]) -> Path:
        return placed(points, x, y, size, side)

    return at


def ridge(
    chance: Chance,
    base: float,
    height: float,
    waves: float,
    rough: float = 0.52,
    left: float = -0.02,
    right: float = 1.02,
) -> Path:
    """The upper edge of a range of hills from left to right: octaves of straight slopes, each `rough` times the last.

    It lies between `base - height` and `base`.
    """
    x = np.linspace(0, 1, 160, dtype=np.float32)
    y = np.zeros_like(x)
    for octave in range(6):
        knots = waves * 2**octave
        heights = chance.array(int(knots) + 3)
        place = x * knots
        slopes: Floats = np.interp(place, np.arange(len(heights)), heights).astype(np.float32)
        y += slopes * rough**octave
    y = (y - np.min(y)) / max(float(np.ptp(y)), 1e-6)
    swell = 0.4 + 0.6 * np.sin(np.pi * (x * chance.uniform(0.8, 1.5) + chance.uniform())) ** 2
    return np.stack([left + (right - left) * x, base - height * y * swell], 1).astype(np.float32)


def below(edge: Path, bottom: float) -> Path:
    """The area between an edge that runs from left to right and a level below it."""
    return np.concatenate([edge, path((float(edge[-1, 0]), bottom), (float(edge[0, 0]), bottom))])


def height_at(edge: Path, x: float) -> float:
    """The height (y) of an edge at x, interpolated."""
    return float(np.interp(x, edge[:, 0], edge[:, 1]))


def leaf(x: float, y: float, angle: float, length: float, width: float) -> Path:
    """A pointed leaf that begins at (x, y) and runs along an angle."""
    return turned(LEAF * np.array([length, width], np.float32), x, y, angle)


LEAF = path((0, 0), (0.12, -0.30), (0.35, -0.5), (0.7, -0.28), (1, 0), (0.7, 0.28), (0.35, 0.5), (0.12, 0.30))


def petal(x: float, y: float, angle: float, length: float, width: float) -> Path:
    """A round-ended petal that begins at (x, y) and runs along an angle."""
    return turned(PETAL * np.array([length, width], np.float32), x, y, angle)


PETAL = path((0, 0), (0.25, -0.32), (0.6, -0.5), (0.88, -0.36), (1, 0), (0.88, 0.36), (0.6, 0.5), (0.25, 0.32))


def ribbon(points: Path, begin: float, end: float) -> Path:
    """The outline of a stroke along a path whose width goes from `begin` to `end`."""
    count = len(points)
    along = np.empty_like(points)
    along[1:-1] = points[2:] - points[:-2]
    along[0], along[-1] = points[1] - points[0], points[-1] - points[-2]
    length = np.maximum(np.sqrt(along[:, 0] ** 2 + along[:, 1] ** 2), 1e-9)
    half = (begin + (end - begin) * np.arange(count, dtype=np.float32) / (count - 1)) / 2
    outline = np.empty((2 * count, 2), np.float32)
    across = along[:, ::-1] * (half / length)[:, None] * np.array([-1, 1], np.float32)
    outline[:count] = points + across
    outline[count:] = (points - across)[::-1]
    return outline


def as_bytes(values: Floats) -> NDArray[np.uint8]:
    """0..1 as 0..255."""
    return (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)


def dense(points: Path, step: float) -> Path:
    """A closed outline with points at most about `step` apart, so that it can be deformed."""
    looped = np.concatenate([points, points[:1]])
    pieces = np.hypot(*np.diff(looped, axis=0).T)
    reach = np.concatenate([[0.0], np.cumsum(pieces)])
    count = int(reach[-1] / step)
    if count <= len(points):
        return points
    place = np.union1d(np.linspace(0, reach[-1], count, endpoint=False), reach[:-1])
    return np.stack([np.interp(place, reach, looped[:, axis]) for axis in (0, 1)], 1).astype(np.float32)


def bounds(paths: Iterable[Path]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of some paths."""
    everything = np.concatenate(list(paths))
    left, top = everything.min(0)
    right, bottom = everything.max(0)
    return float(left), float(top), float(right), float(bottom)
