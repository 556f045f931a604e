"""Painting styles, and rendering a scene in one of them."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image

from bimo.xiaomo.chance import Chance
from bimo.xiaomo.scenes.brush import Painting
from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.styles.clear import CLEAR
from bimo.xiaomo.scenes.styles.cut import CUT
from bimo.xiaomo.scenes.styles.lines import GONGBI, PORCELAIN, QINGLU
from bimo.xiaomo.scenes.styles.strokes import GOGH, OIL
from bimo.xiaomo.scenes.styles.style import Style
from bimo.xiaomo.scenes.styles.washes import COLOUR, INK, WATERCOLOUR

STYLES: Mapping[str, Style] = {
    style.name: style for style in (INK, COLOUR, GONGBI, WATERCOLOUR, OIL, GOGH, QINGLU, CUT, PORCELAIN, CLEAR)
}


def render(scene: Scene, style: Style, side: int = 256) -> Image.Image:
    """A scene as a square picture in a style."""
    painting = Painting(Chance(f"{scene.chance.key}/paper"), side, style.paper, style.tooth)
    for shape in scene.shapes:
        style.paint(painting, shape, style, scene.mood)
    style.finish(painting, style, scene.mood, scene.layout)
    return painting.image()
