"""Glyphs as the initial image of img2img (SDEdit, arXiv:2108.01073): the model redraws the typeset text, so that the
strokes get the picture's colour and texture. Only pixels on and near the strokes change.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bimo.core.request import OF_THE_WHOLE, Request
from bimo.engine.engine import Engine
from bimo.inscription.layout import Cell
from bimo.inscription.strokes import distances

#: img2img strengths, tried in turn; the higher the strength, the more of the strokes is the model's own.
STRENGTHS = (0.45, 0.3, 0.18)
#: The characters of one drawing are at least so large in what the model draws, in pixels: an autoencoder of 8 pixels a
#: latent keeps no thinner strokes.
LEAST = 88
#: How far around the strokes is painted anew, as a share of the character's side, and how softly it ends.
AROUND = 0.1
#: The space around a group of characters that the model sees with it, as a share of a character's side.
CONTEXT = 0.2


def groups(cells: Sequence[Cell], native: tuple[int, int]) -> list[list[Cell]]:
    """Neighbours that are drawn at once: as many as a drawing of ``native`` (width, height) shows at LEAST pixels."""
    most = max(1, min(native) // LEAST)
    grouped: list[list[Cell]] = []
    for cell in cells:
        last = grouped[-1] if grouped else []
        trial = [*last, cell]
        reach = most * cell.side
        lefts, tops = [one.left for one in trial], [one.top for one in trial]
        near = max(lefts) - min(lefts) + cell.side <= reach and max(tops) - min(tops) + cell.side <= reach
        if last and near and last[0].side == cell.side:
            last.append(cell)
        else:
            grouped.append([cell])
    return grouped


def square_of(cells: Sequence[Cell], size: tuple[int, int]) -> tuple[int, int, int]:
    """(left, top, side) of the square of the picture that a drawing of these cells sees."""
    left, top = min(cell.left for cell in cells), min(cell.top for cell in cells)
    right = max(cell.left + cell.side for cell in cells)
    bottom = max(cell.top + cell.side for cell in cells)
    side = min(round(max(right - left, bottom - top) + 2 * CONTEXT * cells[0].side), *size)
    x = min(max(0, (left + right - side) // 2), size[0] - side)
    y = min(max(0, (top + bottom - side) // 2), size[1] - side)
    return x, y, side


def redrawn(
    engine: Engine,
    request: Request,
    typeset: np.ndarray,
    ground: np.ndarray,
    mask: np.ndarray,
    cells: Sequence[Cell],
    strength: float,
) -> np.ndarray:
    """[H, W, 3]: ``ground`` with these cells as the model draws them, from ``typeset`` [H, W, 3] with the set glyphs.

    ``mask`` [H, W] has the strokes; what is not near one of these cells' strokes stays as it was to the bit.
    """
    from PIL import Image

    height, width = mask.shape
    x, y, side = square_of(cells, (width, height))
    part = np.s_[y : y + side, x : x + side]
    native = engine.fill(request).request.size or (side, side)
    start = Image.fromarray(np.clip(typeset[part], 0, 255).astype(np.uint8))
    start = start.resize(native, Image.Resampling.LANCZOS)
    settings = {**OF_THE_WHOLE, "image": start, "strength": strength, "size": native}
    drawn = engine.draw(request.model_copy(update=settings))[0].image
    new = np.asarray(drawn.resize((side, side), Image.Resampling.LANCZOS), np.float32)
    own = np.zeros_like(mask)
    for cell in cells:
        left, top, right, bottom = cell.box
        own[top:bottom, left:right] = mask[top:bottom, left:right]
    reach = max(2.0, AROUND * cells[0].side)
    soft = np.clip(1.5 - distances(own[part] < 0.1) / reach, 0, 1)[..., None]
    answer = ground.copy()
    answer[part] = ground[part] * (1 - soft) + new * soft
    return answer
