"""A dish on the surface of its vessel: positions of pieces, and drawing of pieces, sauce and soup."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from bimo.xiaomo.chance import Chance
from bimo.xiaomo.dishes.pieces.place import darker, lighter
from bimo.xiaomo.dishes.pieces.shapes import draw_piece
from bimo.xiaomo.dishes.table import RGB, Dish, Ingredient, ingredients
from bimo.xiaomo.dishes.vessels import Surface
from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.geometry import Path, blob, ellipse, smooth

PIECE = 0.175  # half the length of a usual piece, of half the width of its vessel's surface


@dataclass(frozen=True)
class Laid:
    """A piece with its position; pieces of a higher `level` are drawn later."""

    ingredient: Ingredient
    x: float
    y: float
    angle: float
    level: float = 0.0


@dataclass(frozen=True)
class Serving:
    """A dish on a surface, with the height of its heap and the tilt of the view."""

    scene: Scene
    chance: Chance
    dish: Dish
    surface: Surface
    heap: float
    turn: float

    @property
    def unit(self) -> float:
        """Half the length of an average piece."""
        return self.surface.across * PIECE

    @property
    def flat(self) -> float:
        """The vertical scale of flat pieces in the slanted view."""
        return 0.45 + 0.55 * min(1.0, self.surface.down / self.surface.across)

    def every(self, counted: tuple[tuple[str, int], ...]) -> Iterator[tuple[Ingredient, int, int]]:
        """All pieces: (ingredient, index, number of pieces of that ingredient)."""
        table = ingredients()
        for name, count in counted:
            for number in range(count):
                yield table[name], number, count

    def spot(self, reach: float = 1.0) -> tuple[float, float, float]:
        """A random position on the surface, denser in the middle, and its distance from the middle (0..1)."""
        turn, far = self.chance.uniform(0, math.tau), math.sqrt(self.chance.uniform()) * reach
        return (
            self.surface.x + self.surface.across * far * math.cos(turn),
            self.surface.y + self.surface.down * far * math.sin(turn),
            far,
        )

    def draw(self, laid: list[Laid], unit: float = 1.0) -> None:
        """Draws pieces back to front, and declares each ingredient with the box of all of its pieces."""
        for one in sorted(laid, key=lambda piece: (round(piece.level, 1), piece.y)):
            chance = self.chance.fork(f"{one.ingredient.name}{one.x:.4f}{one.y:.4f}")
            draw_piece(self.scene, chance, one.ingredient, one.x, one.y, self.unit * unit, one.angle, self.flat)
        for name in dict.fromkeys(one.ingredient.name for one in laid):
            some = [one for one in laid if one.ingredient.name == name]
            reach = self.unit * some[0].ingredient.size
            xs, ys = [one.x for one in some], [one.y for one in some]
            self.scene.declare(name, min(xs) - reach, min(ys) - reach, max(xs) + reach, max(ys) + reach)

    def garnish(self, reach: float = 0.62, lift: float = 0.0) -> None:
        """Scatters the garnish."""
        laid: list[Laid] = []
        for one, _, _ in self.every(self.dish.garnish):
            x, y, far = self.spot(reach)
            laid.append(Laid(one, x, y - lift * (1 - far**2), self.chance.uniform(0, math.tau)))
        self.draw(laid, 0.9)

    def pool(self, tint: RGB, share: float) -> None:
        """Sauce on a plate."""
        surface = self.surface
        outline = blob(
            self.chance.fork("pool"),
            surface.x,
            surface.y + 0.01,
            surface.across * share,
            surface.down * share,
            0.10,
            26,
        )
        self.scene.fill("broth", outline, tint=tint, into_tint=darker(tint, 0.15), rough=0.6, strength=0.9)

    def liquid(self, tint: RGB, oil: bool = True) -> None:
        """Soup up to the rim, with glossy drops of fat."""
        surface, chance = self.surface, self.chance.fork("liquid")
        self.scene.fill(
            "broth",
            ellipse(surface.x, surface.y, surface.across, surface.down, 44),
            tint=darker(tint, 0.10),
            into_tint=lighter(tint, 0.08),
            rough=0.0,
        )
        if oil:
            drops: list[Path] = []
            for _ in range(26):
                turn, far = chance.uniform(0, math.tau), math.sqrt(chance.uniform()) * 0.92
                r = surface.across * chance.uniform(0.012, 0.036)
                drops.append(
                    ellipse(
                        surface.x + surface.across * far * math.cos(turn),
                        surface.y + surface.down * far * math.sin(turn),
                        r,
                        r * self.flat,
                        12,
                    )
                )
            self.scene.fill("broth", *drops, tint=lighter(tint, 0.30), rough=0.0, strength=0.7)
        shine = [
            smooth(
                [
                    (surface.x - surface.across * 0.8, surface.y - surface.down * 0.34),
                    (surface.x - surface.across * 0.5, surface.y - surface.down * 0.68),
                    (surface.x - surface.across * 0.1, surface.y - surface.down * 0.82),
                ],
                14,
            )
        ]
        self.scene.line("gloss", shine, 0.008, 0.003, strength=0.5, rough=0.0)
