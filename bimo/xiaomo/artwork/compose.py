"""Pixel operations on posed sprites: the affine transform of a pose, pasting, recolouring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from bimo.xiaomo.artwork.lexicon import Colour
from bimo.xiaomo.artwork.sprites import SIDE, content_box

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
MARGIN = 0.01


@dataclass(frozen=True)
class Pose:
    """The transform of a canonical sprite, in this order, about the canvas centre:

    1. `flip` left to right (0 or 1); 2. rotation by `angle` degrees, counter-clockwise; 3. scaling by `scale`; 4.
    translation by `dx` to the right and `dy` down, as fractions of the canvas.
    """

    flip: int = 0
    scale: float = 1.0
    dx: float = 0.0
    dy: float = 0.0
    angle: float = 0.0

    def as_list(self) -> list[float]:
        """[flip, scale, dx, dy, angle], as in the labels."""
        return [self.flip, self.scale, self.dx, self.dy, self.angle]


IDENTITY = Pose()


def forward(pose: Pose, x: float, y: float) -> tuple[float, float]:
    """The position of a point of the canonical sprite after the pose; in fractions of the canvas, y down."""
    u, v = x - 0.5, y - 0.5
    if pose.flip:
        u = -u
    turn = math.radians(pose.angle)
    u, v = u * math.cos(turn) + v * math.sin(turn), -u * math.sin(turn) + v * math.cos(turn)
    return 0.5 + pose.scale * u + pose.dx, 0.5 + pose.scale * v + pose.dy


def apply_pose(image: Image.Image, pose: Pose) -> Image.Image:
    """RGBA, square -> the same size with the pose applied (bicubic, premultiplied)."""
    if pose == IDENTITY:
        return image
    turn, side = math.radians(pose.angle), image.width
    cos, sin, sign = math.cos(turn) / pose.scale, math.sin(turn) / pose.scale, -1.0 if pose.flip else 1.0
    centre = side / 2
    offset_x, offset_y = centre + pose.dx * side, centre + pose.dy * side
    # output pixel -> input pixel: undo the move, the scale, the rotation and the flip
    row_x = (sign * cos, -sign * sin, centre - sign * (cos * offset_x - sin * offset_y))
    row_y = (sin, cos, centre - (sin * offset_x + cos * offset_y))
    moved = image.convert("RGBa").transform(
        image.size, Image.Transform.AFFINE, (*row_x, *row_y), Image.Resampling.BICUBIC
    )
    return moved.convert("RGBA")


def keep_inside(image: Image.Image, pose: Pose) -> Pose:
    """The closest pose that keeps the whole content on the canvas: scale and translation are clamped;
    rounded to 1e-4.
    """
    left, top, right, bottom = content_box(image)
    still = Pose(pose.flip, 1.0, 0.0, 0.0, pose.angle)
    corners = [forward(still, x, y) for x in (left, right) for y in (top, bottom)]
    low_x, high_x = min(c[0] for c in corners) - 0.5, max(c[0] for c in corners) - 0.5
    low_y, high_y = min(c[1] for c in corners) - 0.5, max(c[1] for c in corners) - 0.5
    room = 1 - 2 * MARGIN
    scale = min(pose.scale, room / max(high_x - low_x, high_y - low_y, 1e-6))
    edge = 0.5 - MARGIN
    dx = min(max(pose.dx, -edge - scale * low_x), edge - scale * high_x)
    dy = min(max(pose.dy, -edge - scale * low_y), edge - scale * high_y)
    return Pose(pose.flip, round(float(scale), 4), round(float(dx), 4), round(float(dy), 4), pose.angle)


def on_colour(image: Image.Image, rgb: Sequence[int] = (255, 255, 255)) -> Image.Image:
    """RGBA composited on one colour -> RGB."""
    canvas = Image.new("RGB", image.size, tuple(rgb))
    canvas.paste(image, mask=image.getchannel("A"))
    return canvas


def paste_at(canvas: Image.Image, image: Image.Image, across: float, down: float, size: float) -> None:
    """Pastes a sprite's content on an RGBA layer, centred at (across, down), with long side `size`."""
    content = cropped(image, size)
    x, y = round(across * canvas.width - content.width / 2), round(down * canvas.width - content.height / 2)
    above = Image.new("RGBA", canvas.size)
    above.paste(content, (x, y))
    canvas.alpha_composite(above)


def paste_standing(
    canvas: Image.Image, image: Image.Image, across: float, foot: float, size: float, shadow: bool
) -> None:
    """Like `paste_at`, with its lower edge at `foot`, and a soft shadow if requested."""
    content = cropped(image, size)
    side, unit = canvas.width, canvas.width / SIDE
    x, y = round(across * side - content.width / 2), round(foot * side - content.height)
    if shadow:
        veil = Image.new("L", canvas.size)
        half, middle = content.width * 0.40, across * side
        ImageDraw.Draw(veil).ellipse(
            (middle - half, foot * side - 5 * unit, middle + half, foot * side + 3 * unit), fill=90
        )
        canvas.paste((20, 20, 30), mask=veil.filter(ImageFilter.GaussianBlur(2 * unit)))
    canvas.paste(content, (x, y), content.getchannel("A"))


def cropped(image: Image.Image, size: float) -> Image.Image:
    """The content of a sprite, its long side `size` of the canvas."""
    left, top, right, bottom = (round(part * image.width) for part in content_box(image))
    content = image.convert("RGBa").crop((left, top, right, bottom))
    scale = size * image.width / max(content.size)
    shape = (max(1, round(content.width * scale)), max(1, round(content.height * scale)))
    return content.resize(shape, Image.Resampling.LANCZOS).convert("RGBA")


def recolour(image: Image.Image, colour: Colour) -> Image.Image:
    """RGBA -> RGBA in the given colour, shading preserved.

    The dominant hue of the object is replaced, and small parts of other hues stay (a leaf on an apple); without a
    dominant hue everything except near-black and near-white is replaced.
    """
    array = np.asarray(image, np.float32) / 255
    rgb, alpha = array[..., :3], array[..., 3]
    top, low = rgb.max(-1), rgb.min(-1)
    chroma = top - low
    hue = _hue(rgb, top, chroma)
    weight = (alpha * chroma).ravel()
    counts, _ = np.histogram(hue.ravel(), 36, (0, 360), weights=weight)
    smooth = counts + np.roll(counts, 1) + np.roll(counts, -1)
    lead = float(smooth.argmax()) * 10 + 5
    apart = np.abs((hue - lead + 180) % 360 - 180)
    near = np.clip((62 - apart) / 16, 0, 1) * np.clip((chroma - 0.06) / 0.10, 0, 1)
    if (near * alpha).sum() < 0.55 * max(float(alpha.sum()), 1.0):
        near = np.clip((chroma - 0.03) / 0.06, 0, 1)
        if (near * alpha).sum() < 0.55 * max(float(alpha.sum()), 1.0):
            near = np.ones_like(alpha)
    light = rgb @ LUMA
    mass = near * alpha
    mean = float((light * mass).sum() / max(float(mass.sum()), 1e-6))
    target = np.array(colour.rgb, np.float32) / 255
    ratio = light / max(mean, 0.08)
    dark = target * np.clip(ratio, 0.30, 1)[..., None]
    lift = np.clip((light - mean) / max(1 - mean, 0.10), 0, 1) * (0.55 if colour.hue is not None else 0.35)
    painted = dark + (1 - dark) * lift[..., None]
    mixed = rgb * (1 - near[..., None]) + painted * near[..., None]
    out = np.concatenate([np.clip(mixed, 0, 1), alpha[..., None]], -1)
    return Image.fromarray(np.round(out * 255).astype(np.uint8))


def _hue(rgb: np.ndarray, top: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """[H, W, 3] in 0..1 -> hue in degrees, 0 where grey."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    safe = np.where(chroma < 1e-6, 1, chroma)
    hue = np.where(
        top == red, (green - blue) / safe % 6, np.where(top == green, (blue - red) / safe + 2, (red - green) / safe + 4)
    )
    return np.where(chroma < 1e-6, 0, hue * 60)
