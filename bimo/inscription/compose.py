"""Composites glyphs into a picture as ink on its ground, with its lighting and grain, covering as little of it as is
legible. The last resort, where the model does not draw the strokes right; the certificate calls it "composed".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bimo.inscription.strokes import distances

#: Dark ink of a picture's light ground, light ink of a dark one, and vermilion of a seal; RGB in 0..255.
DARK, LIGHT, VERMILION = (28.0, 24.0, 22.0), (246.0, 238.0, 220.0), (178.0, 34.0, 30.0)
#: A signboard's lacquer and its frame.
LACQUER, GILT = (46.0, 30.0, 24.0), (196.0, 154.0, 70.0)
#: A ground darker than this (0..255) is written on with light ink.
MIDDLE = 118.0
#: How much of the ink covers the ground; the rest lets its grain through.
COVER = 0.93
#: How calm the ground below the text is made, trial by trial: not at all, washed, and covered with its own colour.
WASHES = (0.0, 0.55, 1.0)
#: How far around the strokes the ground is washed, as a share of the character's side: near them, or below the whole
#: character where it is covered.
WASHED, COVERED = 0.12, 0.5


#: The rim of a seal around its characters, as a share of a character's side.
RIM = 0.16
#: How far a signboard goes beyond its characters, and how wide its frame is, as shares of a character's side.
BOARD, FRAME = 0.22, 0.08


@dataclass(frozen=True)
class Ink:
    """The colour of the strokes: RGB in 0..255."""

    colour: tuple[float, float, float]


def sealed(picture: np.ndarray, box: tuple[int, int, int, int], side: int) -> np.ndarray:
    """[H, W, 3] with the square of a seal printed around ``box`` (left, top, right, bottom): 白文, the characters are
    left out of the vermilion. Its print is uneven as that of stone is, the same for the same place.
    """
    left, top, right, bottom = box
    height, width = picture.shape[:2]
    rim = RIM * side
    y, x = np.mgrid[:height, :width]
    outside = np.maximum.reduce([left - rim - x, x - right - rim, top - rim - y, y - bottom - rim])
    chance = np.random.default_rng((left, top, side))
    uneven = ndimage.gaussian_filter(chance.standard_normal((height, width)), max(1.0, side / 24)) * side / 24
    cover = np.clip(0.5 - (outside + np.clip(uneven, -2, 2)), 0, 1)[..., None] * COVER
    return picture * (1 - cover) + np.asarray(VERMILION, np.float32) * cover


def boarded(picture: np.ndarray, box: tuple[int, int, int, int], side: int) -> np.ndarray:
    """[H, W, 3] with a dark board in a gilt frame hung around ``box`` (left, top, right, bottom), in the picture's own
    light: what is written on it is written in light ink.
    """
    left, top, right, bottom = box
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width]
    outside = np.maximum.reduce([left - x, x - right, top - y, y - bottom]).astype(np.float32)
    board = np.clip(0.5 - (outside - BOARD * side), 0, 1)[..., None] * COVER
    frame = board * np.clip(outside - (BOARD - FRAME) * side + 0.5, 0, 1)[..., None]
    light = ndimage.gaussian_filter(picture.mean(-1, keepdims=True), (side / 2, side / 2, 0)) / 255
    shade = 0.7 + 0.3 * light
    hung = picture * (1 - board) + np.asarray(LACQUER, np.float32) * shade * board
    return hung * (1 - frame) + np.asarray(GILT, np.float32) * shade * frame


def ink_for(picture: np.ndarray, mask: np.ndarray) -> Ink:
    """The ink that stands out from the ground [H, W, 3] around the glyphs of ``mask`` [H, W]."""
    around = distances(mask <= 0.1) <= 3
    return Ink(LIGHT if float(np.median(picture.mean(-1)[around])) < MIDDLE else DARK)


def composed(picture: np.ndarray, mask: np.ndarray, ink: Ink, side: int, wash: float) -> np.ndarray:
    """[H, W, 3] in 0..255: the picture with the glyphs of ``mask`` [H, W] in 0..1, characters of ``side`` pixels.

    ``wash`` 0 leaves the ground as it is; 1 replaces it below the text by its own mean colour. Outside of the text and
    its wash every pixel stays as it was.
    """
    ground = picture.astype(np.float32)
    if wash:
        near = distances(mask < 0.1) / max(1.0, (COVERED if wash == 1 else WASHED) * side)
        soft = np.clip(3 * (1 - near), 0, 1)[..., None] * wash
        ground = ground * (1 - soft) + _mean_near(ground, side) * soft
        ground = _apart(ground, ink, soft)
    grain = ground - ndimage.gaussian_filter(ground, (1.5, 1.5, 0))
    ink_pixels = np.asarray(ink.colour, np.float32) + 0.5 * grain
    cover = (mask * COVER)[..., None]
    return np.clip(ground * (1 - cover) + ink_pixels * cover, 0, 255)


def _mean_near(ground: np.ndarray, side: int) -> np.ndarray:
    return ndimage.gaussian_filter(ground, (side / 2, side / 2, 0))


def _apart(ground: np.ndarray, ink: Ink, soft: np.ndarray) -> np.ndarray:
    """The washed ground moved away from the ink's lightness where the two are too near to be told apart."""
    light, ink_lightness = ground.mean(-1, keepdims=True), float(np.mean(ink.colour))
    least = 110.0
    short = np.clip(least - np.abs(light - ink_lightness), 0, least)
    return ground + np.where(light >= ink_lightness, short, -short) * soft
