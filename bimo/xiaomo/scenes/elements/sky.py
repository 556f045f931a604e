"""Sky, sun, moon, stars, clouds, mist, rain, snow, birds, smoke, fireworks."""

from __future__ import annotations

import math

import numpy as np

from bimo.xiaomo.scenes.description import Scene, Stroke
from bimo.xiaomo.scenes.geometry import Path, blob, box, ellipse, frame, path, placed, smooth, xy


def sky(scene: Scene, horizon: float, dust: bool = False) -> None:
    """The sky above a horizon, with the sun or the moon if the time and weather show it."""
    scene.fill("sky", box(-0.02, -0.02, 1.02, horizon), into="dust" if dust else "sky_low", rough=0.0)


def light_of_the_hour(scene: Scene) -> None:
    """Moon and stars at night, the sun at dawn and dusk, and on clear days sometimes; none in rain or falling snow."""
    mood = scene.mood
    if mood.weather in ("rain", "snow"):
        return
    if mood.light == "night":
        stars(scene, 26, 0.42)
        moon(scene)
    elif mood.light in ("dawn", "dusk") or scene.chance.fork("sun").chance(0.4):
        sun(scene)


def sun(scene: Scene, x: float | None = None, y: float | None = None, size: float | None = None) -> None:
    """The sun, by default at its place in the layout."""
    layout = scene.layout
    x, y, size = x or layout.light_x, y or layout.light_y, size or layout.light_size
    with scene.element("sun"):
        scene.fill("sun", ellipse(x, y, size, size, 40), rough=0.2)


def moon(
    scene: Scene, x: float | None = None, y: float | None = None, size: float | None = None, thin: bool | None = None
) -> None:
    """The moon: full with its grey seas, or a crescent."""
    layout, chance = scene.layout, scene.chance.fork("moon")
    x, y, size = x or layout.light_x, y or layout.light_y, size or layout.light_size
    crescent = chance.chance(0.25) if thin is None else thin
    with scene.element("moon"):
        if crescent:
            turn = np.linspace(-2.3, 0.9, 24, dtype=np.float32)
            outer = np.stack([x + size * np.cos(turn), y - size * np.sin(turn)], 1)
            inner = np.stack(
                [
                    x - 0.34 * size + 0.86 * size * np.cos(turn * 0.97),
                    y - 0.22 * size - 0.86 * size * np.sin(turn * 0.97),
                ],
                1,
            )
            scene.fill("moon", np.concatenate([outer, inner[::-1]]), rough=0.1)
            return
        scene.fill("moon", ellipse(x, y, size, size, 40), rough=0.2)
        seas = [
            blob(chance, x + dx * size, y + dy * size, r * size, r * 0.8 * size, 0.3)
            for dx, dy, r in ((-0.32, -0.22, 0.26), (0.18, -0.34, 0.2), (0.30, 0.22, 0.24), (-0.12, 0.38, 0.17))
        ]
    scene.fill("moon_mark", *seas, strength=0.4, soft=1.2)


def stars(scene: Scene, count: int, bottom: float) -> None:
    """Stars down to some level."""
    chance = scene.chance.fork("stars")
    made = [
        ellipse(
            chance.uniform(0.02, 0.98),
            bottom * chance.uniform(0.02, 1) ** 1.2,
            r := chance.uniform(0.0025, 0.006),
            r,
            8,
        )
        for _ in range(count)
    ]
    with scene.element("stars"):
        scene.fill("star", *made, strength=0.85, rough=0.0)


def clouds(scene: Scene, count: int, top: float, bottom: float, size: float = 0.12) -> None:
    """Flat-footed clouds."""
    chance = scene.chance.fork(f"clouds{top}")
    with scene.element("cloud"):
        for _ in range(count):
            x, y, wide = chance.uniform(0.05, 0.95), chance.uniform(top, bottom), size * chance.uniform(0.7, 1.5)
            puffs = [
                blob(chance, x + dx * wide, y - dy * wide, r * wide, r * 0.62 * wide, 0.12)
                for dx, dy, r in ((-0.75, 0, 0.36), (-0.3, 0.14, 0.46), (0.2, 0.18, 0.5), (0.65, 0.04, 0.4))
            ]
            scene.fill("cloud", *puffs, strength=0.8, soft=2.2)


def mist(scene: Scene, level: float, thickness: float, strength: float = 0.7, count: int = 3) -> None:
    """Bands of mist about a level."""
    chance = scene.chance.fork(f"mist{level:.3f}")
    bands: list[Path] = []
    for _ in range(count):
        x, y = chance.uniform(-0.1, 1.1), level + chance.normal(thickness * 0.35)
        bands.append(blob(chance, x, y, chance.uniform(0.28, 0.55), thickness * chance.uniform(0.4, 0.8), 0.2))
    scene.fill("mist", *bands, strength=strength, soft=max(4.0, 60 * thickness))


def weather(scene: Scene) -> None:
    """Rain, snow and mist in front of everything; to be added last."""
    kind = scene.mood.weather
    if kind == "rain":
        rain(scene)
    elif kind == "snow":
        snowfall(scene)
    elif kind == "mist":
        mist(scene, scene.layout.horizon + 0.02, 0.09, 0.55, 4)
        scene.declare("mist", 0, scene.layout.horizon - 0.1, 1, scene.layout.horizon + 0.1)


def rain(scene: Scene, count: int = 130) -> None:
    """Slanting rain, blown by the wind of the layout."""
    chance, sway = scene.chance.fork("rain"), 0.25 * scene.layout.sway
    lines: list[Path] = []
    for _ in range(count):
        x, y, long = chance.uniform(-0.1, 1.1), chance.uniform(-0.05, 1), chance.uniform(0.03, 0.07)
        lines.append(path((x, y), (x + sway * long, y + long)))
    scene.line("rainfall", lines, 0.0022, 0.0010, strength=0.6, rough=0.0)
    scene.declare("rain", 0, 0, 1, 1)


def snowfall(scene: Scene, count: int = 120) -> None:
    """Falling snow: small far flakes and a few large ones."""
    chance = scene.chance.fork("snow")
    flakes: list[Path] = []
    for _ in range(count):
        size = chance.uniform(0.0025, 0.0065) if chance.chance(0.85) else chance.uniform(0.007, 0.010)
        flakes.append(ellipse(chance.uniform(), chance.uniform(), size, size, 8))
    scene.fill("snowfall", *flakes, strength=0.88, rough=0.0)
    scene.declare("snow", 0, 0, 1, 1)


def smoke(scene: Scene, x: float, y: float, height: float) -> None:
    """Smoke that rises from a roof or a fire and bends with the wind."""
    chance, sway = scene.chance.fork(f"smoke{x:.3f}"), scene.layout.sway
    points = [
        (x + sway * height * 0.4 * t * t + chance.normal(0.008) * t, y - height * t) for t in np.linspace(0, 1, 6)
    ]
    curve = smooth(points, 16)
    with scene.element("smoke"):
        scene.strokes("smoke", [Stroke(curve, 0.008, 0.035)], strength=0.75, soft=1.4)


def geese(scene: Scene, x: float, y: float, size: float, count: int = 7, name: str = "geese") -> None:
    """Geese in a wedge."""
    lines: list[Path] = []
    way = -scene.layout.side
    for number in range(count):
        row, arm = (number + 1) // 2, 1 if number % 2 else -1
        gx, gy = x - way * row * size * 0.9, y + arm * row * size * 0.55 - row * size * 0.15
        lines.append(_wings(gx, gy, size * 0.5))
    with scene.element(name):
        scene.line("dark_bird", lines, 0.006, 0.003, rough=0.2)


def _wings(x: float, y: float, size: float) -> Path:
    return smooth(
        [
            (x - size, y - 0.35 * size),
            (x - 0.35 * size, y - 0.30 * size),
            (x, y),
            (x + 0.35 * size, y - 0.34 * size),
            (x + size, y - 0.2 * size),
        ],
        11,
    )


def egrets(scene: Scene, x: float, y: float, size: float, count: int) -> None:
    """White egrets in a rising line."""
    chance = scene.chance.fork("egrets")
    with scene.element("egret"):
        for number in range(count):
            ex = x + number * size * 1.5 * scene.layout.side + chance.normal(0.006)
            ey = y - number * size * 0.75 + chance.normal(0.006)
            flying_bird(scene, ex, ey, size * (1 - 0.05 * number), "white_bird")


def flying_bird(scene: Scene, x: float, y: float, size: float, material: str) -> None:
    """A bird with long neck and legs, seen from the side, wings up."""
    side = scene.layout.side
    body = placed(
        [
            (-0.5, 0.05),
            (-0.2, -0.07),
            (0.15, -0.08),
            (0.32, -0.16),
            (0.52, -0.16),
            (0.36, -0.08),
            (0.2, 0.05),
            (-0.2, 0.1),
        ],
        x,
        y,
        size,
        side,
    )
    wing = placed([(-0.12, -0.04), (-0.34, -0.34), (-0.42, -0.62), (-0.08, -0.44), (0.12, -0.05)], x, y, size, side)
    other = placed([(-0.02, -0.04), (0.02, -0.3), (0.16, -0.52), (0.2, -0.24), (0.16, -0.05)], x, y, size, side)
    legs = placed([(-0.45, 0.06), (-0.85, 0.12)], x, y, size, side)
    scene.line("bird_line", [legs], 0.004, 0.002, rough=0.2)
    scene.fill(material, other, rough=0.2)
    scene.fill(material, body, wing, rough=0.2)
    tips = placed([(-0.34, -0.34), (-0.42, -0.62), (-0.2, -0.52)], x, y, size, side)
    scene.fill("crow", tips, rough=0.1)


def crane(scene: Scene, x: float, y: float, size: float) -> None:
    """A red-crowned crane in flight."""
    side = scene.layout.side
    with scene.element("crane"):
        flying_bird(scene, x, y, size, "white_bird")
        neck = placed([(0.25, -0.12), (0.42, -0.17), (0.56, -0.17)], x, y, size, side)
        scene.line("crow", [neck], size * 0.05, size * 0.03, rough=0.1)
        scene.fill(
            "crown_red",
            ellipse(*xy(placed([(0.55, -0.20)], x, y, size, side)[0]), size * 0.035, size * 0.028, 10),
            rough=0.0,
        )


def crow(scene: Scene, x: float, y: float, size: float, flying: bool = False) -> None:
    """A crow, perched or on the wing."""
    side = scene.layout.side
    with scene.element("crow"):
        if flying:
            wings = placed(
                [
                    (-0.9, -0.35),
                    (-0.35, -0.42),
                    (0, -0.05),
                    (0.35, -0.46),
                    (0.95, -0.3),
                    (0.4, -0.12),
                    (0.12, 0.16),
                    (-0.25, 0.3),
                    (-0.1, 0.02),
                    (-0.4, -0.14),
                ],
                x,
                y,
                size * 0.7,
                side,
            )
            scene.fill("crow", wings, rough=0.2)
            return
        body = placed(
            [
                (-0.75, 0.30),
                (-0.35, -0.1),
                (0.0, -0.36),
                (0.16, -0.56),
                (0.38, -0.58),
                (0.62, -0.44),
                (0.40, -0.36),
                (0.34, -0.1),
                (0.1, 0.14),
                (-0.25, 0.18),
            ],
            x,
            y,
            size,
            side,
        )
        scene.fill("crow", body, rough=0.2)


def small_birds(scene: Scene, places: list[tuple[float, float]], size: float) -> None:
    """Small birds that perch or hop, with a yellow breast."""
    chance = scene.chance.fork("small birds")
    with scene.element("bird"):
        for x, y in places:
            way = chance.pick((-1.0, 1.0))
            at = frame(x, y, size, way)
            scene.fill("crow", at((-0.2, 0.0), (-0.95, 0.30), (-0.85, 0.42), (-0.1, 0.2)), rough=0.1)
            scene.fill(
                "chrysanthemum",
                at(
                    (-0.35, 0.05),
                    (-0.1, -0.28),
                    (0.2, -0.42),
                    (0.46, -0.40),
                    (0.56, -0.2),
                    (0.4, 0.1),
                    (0.1, 0.32),
                    (-0.2, 0.28),
                ),
                rough=0.2,
            )
            scene.fill("crow", at((-0.45, 0.02), (-0.05, -0.22), (0.16, -0.02), (-0.12, 0.14)), rough=0.1)
            scene.fill("dark_wood", at((0.54, -0.30), (0.78, -0.22), (0.54, -0.18)), rough=0.0)
            eye = at((0.40, -0.27))[0]
            scene.fill("crow", ellipse(float(eye[0]), float(eye[1]), size * 0.05, size * 0.05, 8), rough=0.0)


def swallows(scene: Scene, places: list[tuple[float, float]], size: float, name: str = "swallow") -> None:
    """Swallows with forked tails."""
    chance = scene.chance.fork("swallows")
    with scene.element(name):
        for x, y in places:
            way = chance.pick((-1.0, 1.0))
            body = placed(
                [
                    (0.5, -0.06),
                    (0.2, -0.14),
                    (-0.05, -0.46),
                    (-0.34, -0.72),
                    (-0.16, -0.2),
                    (-0.5, -0.04),
                    (-0.98, 0.2),
                    (-0.55, 0.12),
                    (-0.9, 0.42),
                    (-0.3, 0.12),
                    (-0.26, 0.5),
                    (0.05, 0.14),
                    (0.25, 0.06),
                ],
                x,
                y,
                size,
                way,
            )
            scene.fill("crow", body, rough=0.1)


def firework(scene: Scene, x: float, y: float, size: float, material: str) -> None:
    """One burst: rays with sparks at their ends."""
    chance = scene.chance.fork(f"firework{x:.3f}")
    rays: list[Path] = []
    sparks: list[Path] = []
    for ring, count in ((1.0, 20), (0.6, 14)):
        for number in range(count):
            turn = math.tau * number / count + chance.normal(0.06)
            reach = size * ring * chance.uniform(0.85, 1.1)
            dx, dy = math.cos(turn), math.sin(turn)
            fall = 0.16 * reach
            rays.append(
                smooth(
                    [
                        (x + dx * reach * 0.3, y + dy * reach * 0.3),
                        (x + dx * reach * 0.7, y + dy * reach * 0.7 + fall * 0.4),
                        (x + dx * reach, y + dy * reach + fall),
                    ],
                    7,
                )
            )
            sparks.append(ellipse(x + dx * reach, y + dy * reach + fall, 0.005, 0.005, 8))
    with scene.element("firework"):
        scene.line(material, rays, 0.0025, 0.005, strength=0.85, rough=0.0)
        scene.fill("firework_gold", *sparks, rough=0.0)


def sky_lantern(scene: Scene, x: float, y: float, size: float) -> None:
    """A paper lantern that rises by its own flame."""
    with scene.element("sky lantern"):
        scene.fill(
            "lantern_glow",
            placed([(-0.36, 0.5), (-0.5, -0.2), (-0.3, -0.5), (0.3, -0.5), (0.5, -0.2), (0.36, 0.5)], x, y, size),
            into="lamp",
            rough=0.1,
        )
