"""Requests of valid and hostile values in every field are drawn or refused by a sentence in both languages."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import bimo
from bimo.core.errors import BimoError
from bimo.core.request import Request

pytestmark = pytest.mark.slow

MODES = ("1", "L", "P", "PA", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16")
ODD: list[Any] = [None, "", "猫", "\ud800", 0, 1, -1, 2.5, 1e300, float("nan"), float("inf"), True, [], {}, "x" * 3000]
ODD += ["🐱", 10**400, b"\xff", (64, 64), [64], ["64", 64], object(), {"a": 1}, {1: 2}, {"pose": ["x"]}, {"image": 4.0}]
ODD += [{"pose": [float("nan")] * 5}, {"pose": [1e300] * 5}]


def encoded(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def pictures() -> list[Any]:
    plain = Image.new("RGB", (40, 30), "red")
    found: list[Any] = [Image.new(mode, (40, 30)) for mode in MODES]
    found += [Image.new("RGB", size) for size in ((1, 1), (3000, 2), (1, 4000))]
    found += [encoded(plain, "PNG"), encoded(plain, "PNG")[:60], encoded(plain.convert("CMYK"), "TIFF"), b"", b"x"]
    return [*found, None, "a.png", 3]


def values() -> dict[str, list[Any]]:
    """Likely values of every field."""
    seen = pictures()
    return {
        "text": [
            "猫",
            "a cat",
            "（猫:1.3)",
            "红苹果，不要猫",
            "[a|b]",
            "a AND 猫 :0.5",
            "猫 BREAK [狗:猫:.5]",
            "<lora:x:1>",
            "((((",
            "🐱👩‍🚀",
            "\0",
            "a" * 5000,
            "？？？",
            "(a:1e9)",
        ],
        "negative": ["", None, "狗", "(猫:2)", "🐱"],
        "size": [(64, 64), (128, 64), (8, 8), (1, 1), (0, 0), (64,), (8192, 1), (65, 63), ("64", "64"), (64.0, 64)],
        "count": [1, 2, 0, 65, -1],
        "seed": [0, 1, 2**63 - 1, 2**63, -1, None],
        "steps": [1, 2, 0, 1001],
        "guidance": [0, 1, 2.5, 100, 101],
        "sampler": ["euler", "Euler a", "DPM++ 2M Karras", "heun", "ddim", "lcm", "", "EulerDiscreteScheduler", "x"],
        "schedule": ["karras", "exponential", "beta", "normal", "", "x", "simple", "sgm_uniform", "lu"],
        "spacing": ["leading", "trailing", "linspace", "", "x"],
        "eta": [0, 1, 0.5, 2],
        "guidance_rescale": [0, 0.7, 1, 2],
        "clip_skip": [1, 2, 64, 65, 0],
        "style": ["水墨", "ink", "3d", "x", "", "twemoji"],
        "conditions": [{}, {"pose": [0, 1, 0, 0, 0]}, {"pose": []}, {"x": [1]}],
        "guidance_weights": [{}, {"style": 4.0}, {"x": 1}, {"style": float("nan")}],
        "image": seen,
        "mask": seen,
        "condition_images": [{}, {"x": seen[0]}, {"pose": seen[0]}],
        "strength": [0.1, 0.5, 1, 0, 2],
        "guidance_interval": [(0.2, 0.8), (0, 1), (0.8, 0.2), (0, 0), (-1, 2), ("0", 1)],
        "guidance_every": [2, 3, 0, 99],
        "step_cache": ["", "x", "easy:0.05", "deep:3", "easy:nan", "deep:-1", "deep:1e400", "easy", ":", "first:0.1"],
        "token_merging": [0.25, 0.5, 1, 2],
        "nag": [2, 5, -1, 1e9],
        "tiny_decoder": [True, False],
        "outpaint": [(8, 0, 0, 0), (0, 3, 5, 0), (0, 0, 0, 0), (-8, 0, 0, 0), (9000, 0, 0, 0)],
        "feather": [0, 8, -1, 1000],
        "regions": [
            (),
            [{"text": "狗", "box": (0, 0, 0.5, 1)}],
            [{"text": ""}],
            [{"text": "狗", "box": (0, 0, 2, 1)}],
            [{"text": "狗", "colour": "#ff0000"}],
            [{"text": "a AND b", "box": (0, 0, 1, 1)}],
        ],
        "region_map": seen,
        "base_ratio": [0, 0.5, 1, -1],
        "hires": [1, 1.5, 2, 0.5, 9, float("nan")],
        "hires_strength": [0.4, 1, 0, 2],
        "hires_steps": [1, 2, 0],
        "hires_upscaler": ["lanczos", "latent", "nearest", "esrgan"],
        "tile_size": [32, 64, 1, 9000],
        "tile_overlap": [0, 16, 64, -1],
        "subseed": [0, 7, -1, 2**63, None],
        "subseed_strength": [0, 0.5, 1, 2],
        "seamless": ["x", "y", "both", "z"],
        "inscribe": [(), ("福",), ("",), None],
        "writing": ["horizontal", "vertical", "couplet", "seal", "x"],
        "font": ["", "none of that name", None],
        "inscribe_box": [(0.1, 0.1, 0.8, 0.3), (0, 0, 0, 0), (2, 2, 2, 2), (1,)],
        "inscribe_at": ["thing", "x"],
        "inscribe_method": ["drawn", "conditioned", "composed", "x"],
        "original_text": ["猫", "", None],
        "drawn_text": ["狗", "", None],
        "long_prompt": ["cut", "chunks", "x", None],
        "draft": [0, 0.5, 1, 2, None],
    }


#: What a field goes with: alone it would be refused for that, whatever its value.
PARTNERS: dict[str, dict[str, Any]] = {
    **{key: {"hires": 1.5} for key in ("hires_strength", "hires_steps", "hires_upscaler")},
    **{key: {"regions": [{"text": "狗", "box": (0, 0, 0.5, 1)}]} for key in ("base_ratio", "region_map")},
    "subseed": {"subseed_strength": 0.5},
    "subseed_strength": {"subseed": 7},
    "tile_overlap": {"tile_size": 64},
    **{key: {"image": Image.new("RGB", (40, 30))} for key in ("mask", "strength", "outpaint")},
    "feather": {"image": Image.new("RGB", (40, 30)), "mask": Image.new("L", (40, 30), 255)},
}


def requests(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Requests of which some fields are likely and a few are anything."""
    likely, rng = values(), random.Random(seed)
    for _ in range(count):
        request: dict[str, Any] = {"text": "猫", "size": (64, 64), "steps": 1}
        for name in rng.sample(sorted(likely), rng.randrange(1, 4)):
            request[name] = rng.choice(likely[name] if rng.random() < 0.85 else ODD)
        for name in tuple(request):
            request = PARTNERS.get(name, {}) | request
        if "outpaint" in request:
            request["size"] = None
        yield request


def test_random_requests_are_drawn_or_refused(tiny_folder: Path) -> None:
    assert values().keys() == Request.model_fields.keys()
    engine = bimo.load(tiny_folder)
    drawn = 0
    refused: list[BimoError] = []
    for request in requests(14, 300):
        try:
            drawn += bool(engine.draw(request))
        except BimoError as error:
            refused.append(error)
    assert all(error.zh and error.en for error in refused)
    assert 50 < drawn < 250
    assert drawn + len(refused) == 300
