"""Materials: natural colours by season and light, and properties of their brush strokes.

Light, weather and distance are applied to these colours first, then the colour grading of a style.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bimo.xiaomo.chance import Floats
from bimo.xiaomo.scenes.description import Mood

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Material:
    """The appearance of a material. `tone` is one colour, or colours by season or by light ("snow" has precedence if
    the ground is covered with snow).

    `finish`: wash (transparent paint), body (opaque), line (a drawn line), glow (a light source), sky, water, or air
    (rain, snow, mist). An `accent` keeps its colour in monochrome styles. `lean` is the direction of strokes: level,
    upright, around (along the outline), free; `detail` 0..1 their fineness.
    """

    tone: RGB | Mapping[str, RGB]
    finish: str = "wash"
    accent: bool = False
    lean: str = "free"
    detail: float = 0.5
    lit: bool = True

    def colour(self, mood: Mood) -> Floats:
        """Its colour for a season and light, 0..1, before lighting and distance are applied."""
        tone = self.tone
        if not isinstance(tone, tuple):
            keys = (("snow",) if mood.white else ()) + (mood.light, mood.season)
            tone = next((tone[key] for key in keys if key in tone), next(iter(tone.values())))
        return np.array(tone, np.float32) / 255


def _body(tone: RGB | Mapping[str, RGB], detail: float = 0.85, **options: bool) -> Material:
    return Material(tone, "body", lean="around", detail=detail, **options)


def _line(tone: RGB | Mapping[str, RGB], detail: float = 1.0, **options: bool) -> Material:
    return Material(tone, "line", lean="around", detail=detail, **options)


MATERIALS: Mapping[str, Material] = {
    "sky": Material(
        {"day": (112, 172, 218), "dawn": (148, 178, 208), "dusk": (122, 104, 150), "night": (26, 38, 84)},
        "sky",
        detail=0.0,
        lit=False,
    ),
    "sky_low": Material(
        {"day": (208, 230, 238), "dawn": (252, 212, 188), "dusk": (252, 166, 98), "night": (74, 98, 148)},
        "sky",
        detail=0.0,
        lit=False,
    ),
    "dust": Material({"day": (236, 206, 150), "dusk": (240, 140, 76), "night": (70, 66, 96)}, "sky", lit=False),
    "water": Material(
        {"day": (122, 178, 200), "dawn": (176, 196, 206), "dusk": (206, 142, 122), "night": (38, 58, 106)},
        "water",
        lean="level",
        detail=0.15,
        lit=False,
    ),
    "water_low": Material(
        {"day": (84, 146, 176), "dawn": (136, 168, 190), "dusk": (140, 98, 124), "night": (24, 38, 80)},
        "water",
        lean="level",
        detail=0.15,
        lit=False,
    ),
    "sea": Material(
        {"day": (66, 136, 182), "dawn": (110, 150, 180), "dusk": (150, 98, 120), "night": (24, 42, 90)},
        "water",
        lean="level",
        detail=0.15,
        lit=False,
    ),
    "ripple": Material(
        {"day": (58, 104, 130), "dusk": (112, 66, 86), "night": (118, 140, 186)}, "line", lean="level", lit=False
    ),
    "glitter": Material(
        {"day": (250, 252, 246), "dusk": (255, 206, 130), "night": (248, 232, 170)}, "glow", lean="level", detail=1.0
    ),
    "foam": Material((246, 250, 250), "body", lean="upright", detail=0.5),
    "ridge": Material(
        {"snow": (176, 188, 202), "spring": (104, 142, 132), "summer": (74, 124, 116), "autumn": (146, 112, 92)},
        lean="around",
        detail=0.3,
    ),
    "ridge_low": Material(
        {"snow": (222, 228, 236), "spring": (150, 180, 128), "summer": (112, 156, 106), "autumn": (196, 152, 104)},
        lean="around",
        detail=0.3,
    ),
    "peak": Material(
        {"snow": (150, 160, 174), "spring": (96, 120, 116), "summer": (78, 106, 104), "autumn": (124, 104, 92)},
        "body",
        lean="upright",
        detail=0.4,
    ),
    "peak_low": Material(
        {"snow": (214, 220, 228), "spring": (158, 176, 160), "summer": (138, 166, 150), "autumn": (186, 160, 134)},
        "body",
        lean="upright",
        detail=0.4,
    ),
    "cun": _line({"snow": (96, 106, 122), "spring": (62, 88, 82), "summer": (46, 76, 72), "autumn": (92, 66, 54)}, 0.6),
    "moss": Material(
        {"snow": (240, 244, 248), "spring": (86, 122, 66), "summer": (52, 96, 60), "autumn": (128, 84, 44)}, detail=0.5
    ),
    "ground": Material(
        {"snow": (228, 233, 240), "spring": (152, 184, 100), "summer": (116, 160, 86), "autumn": (198, 158, 96)},
        lean="level",
        detail=0.25,
    ),
    "ground_low": Material(
        {"snow": (206, 214, 226), "spring": (116, 152, 76), "summer": (82, 128, 66), "autumn": (164, 118, 66)},
        lean="level",
        detail=0.25,
    ),
    "meadow": Material(
        {"snow": (232, 236, 242), "spring": (158, 194, 92), "summer": (112, 170, 78), "autumn": (208, 176, 90)},
        lean="level",
        detail=0.3,
    ),
    "bank": _body(
        {"snow": (222, 228, 236), "spring": (168, 168, 128), "summer": (140, 152, 112), "autumn": (178, 146, 106)}, 0.4
    ),
    "rock": _body(
        {"snow": (184, 190, 200), "spring": (134, 134, 124), "summer": (118, 122, 116), "autumn": (140, 122, 104)}, 0.5
    ),
    "rock_low": _body(
        {"snow": (132, 140, 152), "spring": (86, 88, 80), "summer": (72, 78, 74), "autumn": (92, 78, 66)}, 0.5
    ),
    "path": _body((206, 188, 156), 0.5),
    "sand": Material((234, 190, 118), "body", lean="level", detail=0.3),
    "sand_low": Material((206, 148, 84), "body", lean="level", detail=0.3),
    "sand_shade": Material((150, 98, 66), lean="level", detail=0.4),
    "terrace": _body(
        {"snow": (236, 240, 246), "spring": (160, 206, 196), "summer": (138, 196, 96), "autumn": (232, 192, 88)}, 0.5
    ),
    "terrace_edge": _line(
        {"snow": (120, 130, 146), "spring": (74, 104, 62), "summer": (52, 104, 52), "autumn": (140, 94, 44)}
    ),
    "trunk": _line((58, 46, 40), 0.8),
    "bark": _line((106, 84, 66), 0.8),
    "leaf": Material(
        {"snow": (206, 216, 224), "spring": (136, 184, 78), "summer": (72, 138, 66), "autumn": (222, 132, 42)},
        detail=0.6,
    ),
    "leaf_dark": Material(
        {"snow": (150, 164, 172), "spring": (84, 142, 60), "summer": (36, 96, 54), "autumn": (186, 74, 32)}, detail=0.6
    ),
    "maple": Material((212, 62, 36), accent=True, detail=0.6),
    "maple_dark": Material((158, 32, 30), accent=True, detail=0.6),
    "gold_leaf": Material((240, 186, 52), accent=True, detail=0.6),
    "willow": _line(
        {"snow": (170, 178, 176), "spring": (138, 188, 70), "summer": (78, 142, 68), "autumn": (200, 170, 70)}, 0.8
    ),
    "needle": _line(
        {"snow": (66, 96, 92), "spring": (52, 104, 72), "summer": (34, 90, 66), "autumn": (58, 94, 66)}, 0.8
    ),
    "needle_mass": Material(
        {"snow": (128, 152, 150), "spring": (74, 126, 86), "summer": (52, 110, 80), "autumn": (84, 116, 80)}, detail=0.6
    ),
    "blossom": Material((240, 150, 176), "body", accent=True, detail=0.7),
    "blossom_dark": Material((214, 74, 118), "body", accent=True, detail=0.7),
    "plum": Material((214, 44, 66), "body", accent=True, detail=0.8),
    "plum_pale": Material((250, 196, 206), "body", accent=True, detail=0.8),
    "white_blossom": Material((250, 246, 236), "body", detail=0.7),
    "stamen": _line((246, 214, 96)),
    "petal": Material((252, 224, 230), "body", accent=True, lean="around", detail=0.8),
    "petal_tip": Material((228, 84, 130), "body", accent=True, lean="around", detail=0.8),
    "lotus_leaf": _body(
        {"spring": (98, 160, 104), "summer": (62, 134, 92), "autumn": (150, 138, 78), "winter": (136, 122, 96)}, 0.6
    ),
    "lotus_leaf_low": _body(
        {"spring": (52, 118, 84), "summer": (28, 92, 74), "autumn": (104, 92, 54), "winter": (92, 80, 64)}, 0.6
    ),
    "vein": _line(
        {"spring": (164, 204, 140), "summer": (136, 190, 140), "autumn": (196, 176, 112), "winter": (170, 156, 128)}
    ),
    "stem": _line(
        {"spring": (92, 142, 76), "summer": (70, 124, 70), "autumn": (132, 116, 66), "winter": (116, 100, 76)}
    ),
    "pod": _body((122, 148, 76)),
    "bamboo": _body(
        {"snow": (116, 150, 110), "spring": (122, 172, 88), "summer": (88, 146, 76), "autumn": (138, 154, 80)}, 0.7
    ),
    "bamboo_low": _body(
        {"snow": (78, 116, 84), "spring": (78, 132, 68), "summer": (50, 106, 60), "autumn": (102, 118, 60)}, 0.7
    ),
    "bamboo_leaf": _body(
        {"snow": (66, 104, 76), "spring": (82, 144, 66), "summer": (40, 104, 56), "autumn": (104, 128, 54)}, 0.8
    ),
    "blade": _body(
        {"snow": (84, 112, 84), "spring": (74, 126, 70), "summer": (54, 110, 66), "autumn": (96, 116, 62)}, 0.8
    ),
    "orchid": Material((196, 206, 120), "body", accent=True, detail=0.9),
    "orchid_heart": Material((150, 70, 96), "body", accent=True, detail=1.0),
    "chrysanthemum": Material((246, 194, 56), "body", accent=True, lean="around", detail=0.9),
    "chrysanthemum_dark": Material((216, 128, 30), "body", accent=True, lean="around", detail=0.9),
    "reed": _line(
        {"snow": (170, 160, 140), "spring": (140, 160, 84), "summer": (112, 148, 74), "autumn": (188, 152, 92)}, 0.8
    ),
    "plume": Material((236, 226, 204), "body", detail=0.7),
    "grass": _line(
        {"snow": (168, 164, 150), "spring": (104, 152, 60), "summer": (68, 128, 54), "autumn": (168, 130, 62)}, 0.7
    ),
    "flower_red": _body((226, 56, 60), accent=True),
    "flower_yellow": _body((250, 214, 70), accent=True),
    "wall": _body((246, 243, 234), 0.8),
    "wall_low": _body((208, 200, 184), 0.8),
    "roof": _body({"snow": (238, 242, 248), "summer": (70, 74, 82)}, 0.85),
    "thatch": _body({"snow": (238, 242, 248), "summer": (170, 136, 84)}, 0.85),
    "eave": _line((50, 50, 58)),
    "wood": _body((150, 98, 62)),
    "dark_wood": _body((92, 60, 44)),
    "red_wood": _body((178, 52, 40), accent=True),
    "red_wall": _body((176, 58, 44), 0.7, accent=True),
    "gold_roof": _body({"snow": (242, 245, 250), "summer": (222, 164, 56)}, 0.8, accent=True),
    "gold_edge": _line((226, 168, 60), accent=True),
    "green_trim": _body((52, 110, 108), 0.9),
    "marble": _body((242, 238, 228), 0.8),
    "marble_low": _body((206, 202, 194), 0.8),
    "stone": _body((204, 196, 180), 0.7),
    "stone_low": _body((160, 152, 140), 0.7),
    "stone_line": _line((92, 86, 82)),
    "brick": _body((196, 172, 138), 0.7),
    "brick_low": _body((154, 128, 100), 0.7),
    "brick_line": _line((112, 88, 66)),
    "door": _body((112, 66, 46)),
    "window": Material(
        {"night": (255, 216, 116), "dusk": (252, 196, 104), "day": (92, 78, 70)},
        "body",
        lean="upright",
        detail=1.0,
        lit=False,
    ),
    "lamp": Material((255, 214, 110), "glow", accent=True, detail=1.0, lit=False),
    "lantern": Material((222, 44, 36), "body", accent=True, lean="around", detail=0.8, lit=False),
    "lantern_glow": Material((255, 170, 80), "body", accent=True, lean="around", detail=0.8, lit=False),
    "gold": _body((236, 184, 72), accent=True),
    "tassel": _line((206, 40, 38), accent=True),
    "paper_red": _body((206, 36, 40), 0.8, accent=True),
    "robe": _body((234, 232, 224), 0.9),
    "robe_blue": _body((76, 108, 150), 0.9, accent=True),
    "robe_red": _body((196, 62, 56), 0.9, accent=True),
    "robe_line": _line((70, 66, 70)),
    "skin": _body((238, 204, 170), 1.0),
    "hair": _body((44, 38, 40), 1.0),
    "straw": _body((190, 160, 104), 0.9),
    "cloak": _body((146, 118, 78), 0.9),
    "umbrella": _body((206, 84, 60), 0.9, accent=True),
    "hull": _body((96, 72, 56), 0.9),
    "hull_low": _body((62, 46, 40), 0.9),
    "awning": _body((142, 118, 84), 0.9),
    "sail": _body((232, 214, 176), 0.8),
    "dragon": _body((208, 58, 44), 0.9, accent=True),
    "dragon_gold": _body((242, 190, 66), 0.9, accent=True),
    "dark_bird": _line((38, 36, 40)),
    "crow": _body((34, 32, 38), 1.0),
    "white_bird": _body((252, 250, 244), 1.0),
    "bird_line": _line((70, 70, 76)),
    "crown_red": _body((214, 48, 44), 1.0, accent=True),
    "camel": _body((168, 118, 72), 0.9),
    "camel_low": _body((120, 80, 50), 0.9),
    "horse": _body((122, 76, 52), 0.9),
    "ox": _body((84, 74, 70), 0.9),
    "sheep": _body((248, 244, 236), 0.9),
    "fish": _body((234, 84, 48), 0.9, accent=True),
    "fish_white": _body((250, 238, 226), 0.9),
    "rabbit": _body((250, 248, 244), 0.9),
    "tower": _body({"day": (150, 168, 190), "dusk": (124, 106, 130), "night": (38, 48, 84)}, 0.7, lit=False),
    "tower_low": _body({"day": (196, 206, 216), "dusk": (170, 128, 128), "night": (58, 66, 110)}, 0.7, lit=False),
    "glass": Material(
        {"night": (255, 222, 132), "dusk": (255, 206, 132), "day": (226, 238, 246)},
        "body",
        lean="upright",
        detail=1.0,
        lit=False,
    ),
    "neon": Material((240, 90, 150), "glow", accent=True, detail=0.9, lit=False),
    "neon_blue": Material((90, 200, 250), "glow", accent=True, detail=0.9, lit=False),
    "food": Material((200, 120, 60), "body", accent=True, lean="around", detail=0.75),
    "food_line": Material((110, 60, 30), "line", accent=True, lean="around", detail=1.0),
    "broth": Material((190, 110, 50), "body", accent=True, lean="level", detail=0.35),
    "ware": Material((244, 242, 236), "body", lean="around", detail=0.5),
    "ware_line": Material((96, 120, 160), "line", lean="around", detail=0.9),
    "cloth": Material((186, 140, 96), "body", lean="level", detail=0.12),
    "cloth_line": Material((150, 108, 72), "line", lean="level", detail=0.2),
    "gloss": Material((255, 252, 244), "body", lean="around", detail=0.9, lit=False),
    "steam": Material((250, 250, 248), "air", lean="upright", detail=0.1, lit=False),
    "cloud": Material(
        {"day": (252, 252, 250), "dawn": (255, 226, 212), "dusk": (255, 196, 160), "night": (126, 142, 182)},
        "air",
        lean="level",
        detail=0.1,
        lit=False,
    ),
    "mist": Material(
        {"day": (244, 246, 244), "dawn": (250, 230, 220), "dusk": (250, 206, 172), "night": (112, 128, 170)},
        "air",
        lean="level",
        detail=0.1,
        lit=False,
    ),
    "smoke": Material(
        {"day": (226, 228, 228), "dusk": (214, 180, 164), "night": (112, 120, 150)},
        "air",
        lean="upright",
        detail=0.3,
        lit=False,
    ),
    "sun": Material(
        {"day": (252, 222, 120), "dawn": (250, 128, 84), "dusk": (240, 84, 48)},
        "glow",
        accent=True,
        lean="around",
        detail=0.6,
        lit=False,
    ),
    "moon": Material(
        {"night": (252, 240, 196), "dusk": (252, 240, 204), "day": (250, 246, 226)},
        "glow",
        lean="around",
        detail=0.6,
        lit=False,
    ),
    "moon_mark": Material((222, 204, 154), lean="around", detail=0.6, lit=False),
    "star": Material((255, 246, 206), "glow", lean="around", detail=0.9, lit=False),
    "snow": _body((244, 247, 252), 0.7),
    "snowfall": Material((252, 253, 255), "air", detail=0.9, lit=False),
    "rainfall": Material(
        {"day": (150, 164, 174), "dusk": (190, 150, 140), "night": (132, 146, 180)},
        "air",
        lean="upright",
        detail=0.9,
        lit=False,
    ),
    "shadow": Material((96, 98, 112), lean="level", detail=0.3),
    "firework": Material((255, 96, 70), "glow", accent=True, detail=0.9, lit=False),
    "firework_gold": Material((255, 214, 96), "glow", accent=True, detail=0.9, lit=False),
    "firework_blue": Material((120, 190, 255), "glow", accent=True, detail=0.9, lit=False),
    "seal": Material((190, 38, 32), "body", accent=True, detail=1.0, lit=False),
    "seal_mark": Material((248, 236, 216), "body", detail=1.0, lit=False),
}

#: Lighting of colours: a factor for each channel, and a second colour that is mixed in by a share.
LIGHT: Mapping[str, tuple[tuple[float, float, float], tuple[float, float, float], float]] = {
    "dawn": ((1.0, 0.94, 0.92), (0.98, 0.82, 0.76), 0.12),
    "day": ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), 0.0),
    "dusk": ((0.92, 0.76, 0.66), (0.94, 0.50, 0.32), 0.14),
    "night": ((0.36, 0.42, 0.60), (0.12, 0.18, 0.36), 0.16),
}
HAZE: Mapping[str, tuple[float, float, float]] = {
    "dawn": (0.93, 0.83, 0.80),
    "day": (0.84, 0.90, 0.92),
    "dusk": (0.95, 0.70, 0.54),
    "night": (0.22, 0.29, 0.47),
}
#: The desaturation by weather, and the brightness by day that it is towards.
GREY: Mapping[str, tuple[float, float]] = {
    "clear": (0.0, 0.7),
    "mist": (0.30, 0.82),
    "rain": (0.42, 0.62),
    "snow": (0.30, 0.80),
}


def natural(material: Material, mood: Mood, depth: float, light: float, tint: RGB | None = None) -> Floats:
    """A material's colour, or ``tint``, with weather, distance, and a style's strength of lighting ``light`` 0..1."""
    colour = material.colour(mood) if tint is None else np.array(tint, np.float32) / 255
    lit_by, mixed, share = LIGHT[mood.light]
    if material.lit:
        lit = colour * np.array(lit_by, np.float32)
        lit = lit * (1 - share) + share * np.array(mixed, np.float32)
        colour = colour * (1 - light) + lit * light
    haze = np.array(HAZE[mood.light], np.float32) * light + np.array(HAZE["day"], np.float32) * (1 - light)
    if material.finish not in ("sky", "glow", "air", "water"):
        far = min(1.0, depth * (1.15 if mood.weather != "clear" else 0.85))
        colour = colour * (1 - far) + haze * far
    grey, level = GREY[mood.weather]
    if material.finish not in ("glow", "air") and not material.accent:
        level *= 1.0 if mood.light in ("day", "dawn") else (0.75 if mood.light == "dusk" else 0.36)
        share = grey if material.finish in ("sky", "water") else grey * 0.6
        mean = float(colour.mean())
        colour = colour * (1 - share) + share * (0.5 * mean + 0.5 * level)
    return colour.astype(np.float32)
