"""Buildings of stone and brick: arched bridges, gate towers, the Great Wall with its watch towers."""

from __future__ import annotations

import math

import numpy as np

from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.elements.palaces import hall
from bimo.xiaomo.scenes.geometry import Path, arc, box, height_at, path


def arch_bridge(scene: Scene, x: float, foot: float, span: float, rise: float) -> None:
    """A stone bridge of one high arch with steps and a rail; it stands with its arch on the water."""
    turn = np.linspace(-1, 1, 44, dtype=np.float32)
    deck = np.stack([x + span / 2 * turn, foot - 0.02 - rise * np.cos(turn * 1.5706) ** 1.25], 1).astype(np.float32)
    hole_across, hole_down = span * 0.255, rise * 0.74
    opening = arc(x, foot, hole_across, hole_down, math.pi, math.tau, 32)
    body = np.concatenate(
        [
            deck,
            path((x + span / 2, foot), (x + hole_across, foot)),
            opening[::-1],
            path((x - hole_across, foot), (x - span / 2, foot)),
        ]
    )
    first = len(scene.shapes)
    with scene.element("bridge"):
        scene.fill("stone", body, into="stone_low", rough=0.4)
        ring = arc(x, foot, hole_across * 1.16, hole_down * 1.13, math.pi, math.tau, 32)
        wedges = [np.stack([opening[k], ring[k]]) for k in range(2, 31, 3)]
        scene.line("stone_line", [opening], 0.006, rough=0.4)
        scene.line("stone_line", [ring], 0.003, rough=0.4, strength=0.8)
        scene.line("stone_line", wedges, 0.0025, rough=0.2, strength=0.7)
        courses = [deck + np.array([0, k], np.float32) for k in (0.022, 0.044)]
        scene.line("stone_line", [one[2:-2] for one in courses], 0.002, rough=0.4, strength=0.35)
        scene.line("stone", [deck - np.array([0, 0.017], np.float32)], 0.009, rough=0.3)
        scene.line("stone_line", [deck, deck - np.array([0, 0.022], np.float32)], 0.0034, rough=0.3)
        posts = [path((px, py + 0.002), (px, py - 0.030)) for px, py in deck[2:-2:5].tolist()]
        scene.line("stone_line", posts, 0.0055, 0.0045, rough=0.1)
    scene.mirror(first, foot, 0.42, 0.7)


def gate_tower(scene: Scene, x: float, foot: float, wide: float, depth: float = 0.0) -> None:
    """A city gate: a battlemented wall with an arch, and a hall on top."""
    high = wide * 0.42
    with scene.element("city gate"):
        scene.fill(
            "brick",
            path(
                (x - wide * 0.62, foot),
                (x - wide * 0.56, foot - high),
                (x + wide * 0.56, foot - high),
                (x + wide * 0.62, foot),
            ),
            into="brick_low",
            depth=depth,
            rough=0.3,
        )
        teeth = [
            box(
                x + wide * k - wide * 0.022,
                foot - high - wide * 0.045,
                x + wide * k + wide * 0.022,
                foot - high + 0.002,
            )
            for k in np.linspace(-0.53, 0.53, 13)
        ]
        scene.fill("brick", *teeth, depth=depth, rough=0.1)
        opening = arc(x, foot - high * 0.36, wide * 0.11, high * 0.3, math.pi, math.tau, 14)
        scene.fill(
            "dark_wood",
            np.concatenate([opening, path((x + wide * 0.11, foot), (x - wide * 0.11, foot))]),
            depth=depth,
            rough=0.1,
        )
        courses = [
            path((x - wide * 0.58, foot - high * k), (x + wide * 0.58, foot - high * k)) for k in (0.25, 0.5, 0.75)
        ]
        scene.line("brick_line", courses, 0.002, depth=depth, strength=0.4)
    hall(scene, x, foot - high, wide * 0.72, depth, terrace=False)


def great_wall(scene: Scene, edge: Path, thick: float, towers: list[float], depth: float) -> None:
    """The wall along a ridge: its lit face, its battlements, and watch towers."""
    with scene.element("great wall"):
        top = edge - np.array([0, thick], np.float32)
        scene.fill(
            "brick",
            np.concatenate([top, (edge + np.array([0, thick * 0.25], np.float32))[::-1]]),
            into="brick_low",
            depth=depth,
            rough=0.4,
        )
        scene.line(
            "brick_line", [edge - np.array([0, thick * 0.45], np.float32)], 0.002, depth=depth, strength=0.45, rough=0.4
        )
        pace = thick * 0.55
        places = np.arange(float(edge[0, 0]), float(edge[-1, 0]), pace)
        teeth = [
            box(px, height_at(top, px) - thick * 0.24, px + pace * 0.55, height_at(top, px) + 0.003)
            for px in places.tolist()
        ]
        scene.fill("brick", *teeth, depth=depth, rough=0.4)
        scene.line("brick_line", [top], 0.0035, depth=depth, strength=0.8, rough=0.4)
        for tx in towers:
            watch_tower(scene, tx, height_at(edge, tx) + thick * 0.3, thick * 1.5, depth)


def watch_tower(scene: Scene, x: float, foot: float, size: float, depth: float) -> None:
    """A watch tower with its battlements and three arched windows."""
    high = size * 1.75
    scene.fill(
        "brick",
        path(
            (x - size * 0.62, foot),
            (x - size * 0.54, foot - high),
            (x + size * 0.54, foot - high),
            (x + size * 0.62, foot),
        ),
        into="brick_low",
        depth=depth,
        rough=0.2,
    )
    teeth = [
        box(x + size * k - size * 0.09, foot - high - size * 0.22, x + size * k + size * 0.09, foot - high + 0.002)
        for k in (-0.48, -0.16, 0.16, 0.48)
    ]
    scene.fill("brick", *teeth, depth=depth, rough=0.1)
    scene.line(
        "brick_line",
        [path((x - size * 0.58, foot - high + size * 0.06), (x + size * 0.58, foot - high + size * 0.06))],
        0.0045,
        depth=depth,
        rough=0.1,
    )
    panes = [
        np.concatenate(
            [
                arc(x + size * k, foot - high * 0.62, size * 0.10, size * 0.14, math.pi, math.tau, 8),
                path((x + size * (k + 0.10), foot - high * 0.46), (x + size * (k - 0.10), foot - high * 0.46)),
            ]
        )
        for k in (-0.3, 0.0, 0.3)
    ]
    scene.fill("door", *panes, depth=depth, rough=0.1)
