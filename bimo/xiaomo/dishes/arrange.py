"""Arrangements of food: mound, stew, soup, on noodles or rice, ring, fan, grid, whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from bimo.xiaomo.dishes.pieces.place import darker
from bimo.xiaomo.dishes.pieces.shapes import draw_piece
from bimo.xiaomo.dishes.serving import Laid, Serving
from bimo.xiaomo.dishes.table import RGB, ingredients
from bimo.xiaomo.dishes.vessels import chimney
from bimo.xiaomo.scenes.geometry import Path, ellipse, smooth


def _mound(serving: Serving) -> None:
    """A heap that is higher in the middle, drawn back to front."""
    lift = serving.surface.across * (0.16 + 0.14 * serving.heap)
    total = sum(count for _, count in serving.dish.pieces)
    reach = min(0.86, 0.60 + total / 200)
    serving.pool(serving.dish.sauce, reach * 1.04)
    laid: list[Laid] = []
    for one, _, _ in serving.every(tuple((name, round(count * 1.3)) for name, count in serving.dish.pieces)):
        x, y, far = serving.spot(reach)
        rise = max(0.0, 1 - (far / reach) ** 2)
        laid.append(Laid(one, x, y - lift * rise, serving.chance.uniform(0, math.tau), 3 * rise if rise > 0.5 else 0.0))
    serving.draw(laid)
    serving.garnish(reach * 0.8, lift)


def _stew(serving: Serving) -> None:
    """Pieces close together that stand out of their sauce."""
    serving.liquid(serving.dish.sauce)
    lift = serving.surface.across * (0.05 + 0.06 * serving.heap)
    laid: list[Laid] = []
    for one, _, _ in serving.every(serving.dish.pieces):
        x, y, far = serving.spot(0.86)
        laid.append(Laid(one, x, y - lift * (1 - far**2), serving.chance.uniform(0, math.tau)))
    serving.draw(laid, 1.12)
    serving.garnish(0.7, lift)


def _soup(serving: Serving) -> None:
    """Pieces spread evenly in soup, with ingredients mixed."""
    serving.liquid(serving.dish.sauce)
    surface = serving.surface
    everything = [one for one, _, _ in serving.every(serving.dish.pieces)]
    order = sorted(range(len(everything)), key=lambda _: serving.chance.uniform())
    laid: list[Laid] = []
    for number, one in zip(order, everything, strict=True):
        far = math.sqrt((number + 0.5) / len(everything)) * 0.86
        turn = number * 2.39996 + serving.turn + serving.chance.normal(0.15)
        x, y = surface.x + surface.across * far * math.cos(turn), surface.y + surface.down * far * math.sin(turn)
        laid.append(Laid(one, x, y, serving.chance.uniform(0, math.tau)))
    serving.draw(laid, 1.1 if len(everything) < 40 else 0.95)
    serving.garnish(0.78)


def _noodles(serving: Serving) -> None:
    """A nest of noodles in soup, with the toppings in groups around the bowl."""
    scene, surface, chance = serving.scene, serving.surface, serving.chance
    serving.liquid(serving.dish.sauce)
    table = ingredients()
    name, count = serving.dish.pieces[0]
    one = table[name]
    lift = surface.across * 0.06
    for number in range(count):
        turn, far = chance.uniform(0, math.tau), math.sqrt(chance.uniform()) * (0.70 if one.size < 1.2 else 0.50)
        x, y = (
            surface.x + surface.across * far * math.cos(turn),
            surface.y + surface.down * far * math.sin(turn) - lift * (1 - far),
        )
        strand = chance.fork(f"strand{number}")
        # Strands are parallel, then bent to one side.
        draw_piece(
            scene,
            strand,
            one,
            x,
            y,
            surface.across * (0.26 if one.size < 1.2 else 0.2),
            serving.turn + strand.normal(0.35),
            serving.flat,
        )
    scene.declare(
        name,
        surface.x - surface.across * 0.8,
        surface.y - surface.down * 0.8,
        surface.x + surface.across * 0.8,
        surface.y + surface.down * 0.8,
    )
    groups = serving.dish.pieces[1:]
    laid: list[Laid] = []
    for place, (topping, amount) in enumerate(groups):
        turn = serving.turn + math.tau * (place + 0.5) / max(1, len(groups))
        cx = surface.x + surface.across * 0.44 * math.cos(turn)
        cy = surface.y + surface.down * 0.44 * math.sin(turn)
        for number in range(amount):
            spread = 0.16 if amount < 6 else 0.24
            laid.append(
                Laid(
                    table[topping],
                    cx + chance.normal(surface.across * spread),
                    cy + chance.normal(surface.down * spread),
                    turn + chance.normal(0.5),
                    0.01 * number,
                )
            )
    serving.draw(laid, 1.2)
    serving.garnish(0.66, lift)


def _rice(serving: Serving) -> None:
    """A heap of rice with its toppings."""
    scene, surface, chance = serving.scene, serving.surface, serving.chance
    lift = surface.across * (0.22 + 0.16 * serving.heap)
    table = ingredients()
    tint = table[serving.dish.pieces[0][0]].colour
    dome = smooth(
        [
            (surface.x - surface.across * 0.88, surface.y + surface.down * 0.1),
            (surface.x - surface.across * 0.6, surface.y - lift * 0.75),
            (surface.x, surface.y - lift * 1.25 - surface.down * 0.25),
            (surface.x + surface.across * 0.6, surface.y - lift * 0.75),
            (surface.x + surface.across * 0.88, surface.y + surface.down * 0.1),
            (surface.x + surface.across * 0.6, surface.y + surface.down * 0.72),
            (surface.x, surface.y + surface.down * 0.88),
            (surface.x - surface.across * 0.6, surface.y + surface.down * 0.72),
            (surface.x - surface.across * 0.88, surface.y + surface.down * 0.1),
        ],
        50,
    )
    scene.fill("food", dome, tint=tint, into_tint=darker(tint, 0.26), rough=0.3)
    laid: list[Laid] = []
    for one, number, _ in serving.every(serving.dish.pieces):
        x, y, far = serving.spot(0.74)
        first = one.shape == "grains"
        laid.append(
            Laid(
                one,
                x,
                y - lift * 1.1 * (1 - far**2),
                chance.uniform(0, math.tau),
                0.0 if first else 1.0 + 0.001 * number,
            )
        )
    serving.draw(laid)
    serving.garnish(0.6, lift)


def _ring(serving: Serving) -> None:
    """Equal pieces in one or two rings and one in the middle."""
    surface = serving.surface
    everything = list(serving.every(serving.dish.pieces))
    count = len(everything)
    outer = count if count <= 4 else max(5, round((count - 1) * (0.72 if count > 9 else 1.0)))
    laid: list[Laid] = []
    for number, (one, _, _) in enumerate(everything):
        if number < outer:
            turn, far = serving.turn + math.tau * number / outer, 0.64
        else:
            inner = count - outer
            turn, far = serving.turn + math.tau * (number - outer + 0.5) / inner, 0.0 if inner == 1 else 0.26
        x, y = surface.x + surface.across * far * math.cos(turn), surface.y + surface.down * far * math.sin(turn)
        standing = one.shape in ("bun", "loaf", "shumai", "ball")
        laid.append(Laid(one, x, y, 0.0 if standing else turn + math.pi / 2))
    serving.draw(laid, 1.15)
    serving.garnish(0.7)


def _few(serving: Serving) -> None:
    """A few large pieces close together, others around them."""
    surface = serving.surface
    if serving.dish.lay == "few" and max(ingredients()[name].size for name, _ in serving.dish.pieces) < 4:
        serving.pool(serving.dish.sauce, 0.86)
    laid: list[Laid] = []
    main = max(serving.dish.pieces, key=lambda pair: ingredients()[pair[0]].size)
    for one, number, count in serving.every(serving.dish.pieces):
        if one.name == main[0]:
            far = 0.0 if count == 1 else 0.36 if count < 5 else 0.44
            turn = serving.turn + math.tau * number / count + serving.chance.normal(0.08)
            if count == 5 and number == 4:
                far = 0.0
            level = 1.0
        else:
            far, turn, level = 0.80, serving.turn + math.tau * (number + 0.5) / count, 0.0
        x, y = surface.x + surface.across * far * math.cos(turn), surface.y + surface.down * far * math.sin(turn)
        laid.append(Laid(one, x, y, turn if level == 0 else serving.chance.normal(0.25), level))
    serving.draw(laid, 1.1)
    serving.garnish(0.55, surface.across * 0.06)


def _fan(serving: Serving) -> None:
    """Overlapping slices in an arc or in rows; other pieces beside or below them."""
    surface = serving.surface
    serving.pool(serving.dish.sauce, 0.90)
    main = max(
        serving.dish.pieces,
        key=lambda pair: ingredients()[pair[0]].size * (1 if ingredients()[pair[0]].shape != "sheet" else 0),
    )
    laid: list[Laid] = []
    for one, number, count in serving.every(serving.dish.pieces):
        if one.name == main[0]:
            row, inside = number % 2, number // 2
            share = (inside + 0.5) / math.ceil(count / 2)
            x = surface.x + surface.across * (-0.62 + 1.24 * share)
            y = surface.y + surface.down * ((-0.26 if row == 0 else 0.28) - 0.10 * math.sin(share * math.pi))
            laid.append(Laid(one, x, y, math.pi / 2 + 0.35 * (share - 0.5), 1.0 + row + share * 0.9))
        else:
            x, y, _ = serving.spot(0.88)
            laid.append(Laid(one, x, y, serving.chance.uniform(0, math.tau)))
    serving.draw(laid, 1.1)
    serving.garnish(0.66)


def _grid(serving: Serving) -> None:
    """Cubes side by side."""
    surface = serving.surface
    serving.pool(serving.dish.sauce, 0.92)
    main = max(serving.dish.pieces, key=lambda pair: ingredients()[pair[0]].size)
    side = max(1, round(math.sqrt(main[1])))
    laid: list[Laid] = []
    for one, number, count in serving.every(serving.dish.pieces):
        if one.name == main[0]:
            x = surface.x + surface.across * 0.52 * ((number % side) - (side - 1) / 2)
            y = surface.y + surface.down * 0.46 * ((number // side) - (side - 1) / 2) - surface.down * 0.1
            laid.append(Laid(one, x, y, 0.3, 1.0 + 0.3 * (number // side)))
        else:
            turn = math.tau * number / count + serving.turn
            laid.append(
                Laid(
                    one,
                    surface.x + surface.across * 0.84 * math.cos(turn),
                    surface.y + surface.down * 0.84 * math.sin(turn),
                    turn,
                )
            )
    serving.draw(laid)
    serving.garnish(0.5, surface.across * 0.05)


def _stack(serving: Serving) -> None:
    """Long things side by side, the upper ones across the gaps."""
    surface = serving.surface
    everything = list(serving.every(serving.dish.pieces))
    lower = math.ceil(len(everything) * 0.6)
    lean = 0.25 * math.sin(serving.turn)
    laid: list[Laid] = []
    for number, (one, _, _) in enumerate(everything):
        upper = number >= lower
        count, place = (len(everything) - lower, number - lower) if upper else (lower, number)
        share = (place + 0.5) / max(1, count) - 0.5
        y = surface.y + surface.down * (1.15 if not upper else 0.7) * share - (surface.down * 0.22 if upper else 0)
        laid.append(
            Laid(
                one,
                surface.x + serving.chance.normal(surface.across * 0.03),
                y,
                lean + serving.chance.normal(0.05),
                1.0 if upper else 0.0,
            )
        )
    serving.draw(laid, 1.15)
    serving.garnish(0.6)


def _whole(serving: Serving) -> None:
    """One large thing, and a bed below it."""
    surface = serving.surface
    serving.pool(serving.dish.sauce, 0.90)
    main = max(serving.dish.pieces, key=lambda pair: ingredients()[pair[0]].size)
    laid: list[Laid] = []
    for one, number, count in serving.every(serving.dish.pieces):
        if one.name == main[0]:
            laid.append(
                Laid(
                    one, surface.x, surface.y - surface.down * 0.04, 0.0 if math.cos(serving.turn) > 0 else math.pi, 1.0
                )
            )
        else:
            turn = serving.turn + math.tau * number / count
            laid.append(
                Laid(
                    one,
                    surface.x + surface.across * 0.74 * math.cos(turn),
                    surface.y + surface.down * 0.72 * math.sin(turn),
                    turn,
                )
            )
    serving.draw(laid, 1.12)
    serving.garnish(0.48, surface.down * 0.12)


def _hotpot(serving: Serving) -> None:
    """Simmering broth, with red and clear halves in a split pot, and plates of ingredients around it."""
    scene, surface, chance = serving.scene, serving.surface, serving.chance
    split = "鸳鸯锅" in scene.elements
    clear: RGB = (236, 214, 160)
    serving.liquid(serving.dish.sauce)
    half = None
    if split:
        turn = np.linspace(-math.pi / 2, math.pi / 2, 24, dtype=np.float32)
        rim = np.stack([surface.x + surface.across * np.cos(turn), surface.y + surface.down * np.sin(turn)], 1)
        wave = smooth(
            [
                (surface.x, surface.y + surface.down),
                (surface.x + surface.across * 0.34, surface.y + surface.down * 0.45),
                (surface.x, surface.y),
                (surface.x - surface.across * 0.34, surface.y - surface.down * 0.45),
                (surface.x, surface.y - surface.down),
            ],
            30,
        )
        half = np.concatenate([rim, wave]).astype(np.float32)
        scene.fill("broth", half, tint=clear, into_tint=darker(clear, 0.12), rough=0.0)
        scene.line("ware", [wave], 0.016, tint=(186, 190, 196), rough=0.0)
        scene.line("gloss", [wave - np.array([0.003, 0.003], np.float32)], 0.004, strength=0.7, rough=0.0)
    laid: list[Laid] = []
    for one, number, _ in serving.every(serving.dish.pieces):
        turn = number * 2.39996 + chance.uniform(0, 1.0)
        far = 0.34 + 0.5 * math.sqrt(chance.uniform())
        laid.append(
            Laid(
                one,
                surface.x + surface.across * far * math.cos(turn),
                surface.y + surface.down * far * math.sin(turn),
                chance.uniform(0, math.tau),
            )
        )
    serving.draw(laid, 1.0)
    bubbles: list[Path] = []
    for _ in range(22):
        x, y, _ = serving.spot(0.9)
        r = surface.across * chance.uniform(0.012, 0.028)
        bubbles.append(ellipse(x, y, r, r * 0.8, 10))
    scene.fill("gloss", *bubbles, strength=0.32, rough=0.0)
    serving.garnish(0.85)
    if "铜火锅" in scene.elements:
        chimney(scene, surface)


LAYS: Mapping[str, Callable[[Serving], None]] = {
    "mound": _mound, "stew": _stew, "soup": _soup, "noodles": _noodles, "rice": _rice, "ring": _ring, "few": _few,
    "fan": _fan, "grid": _grid, "stack": _stack, "whole": _whole, "hotpot": _hotpot,
}  # fmt: skip
