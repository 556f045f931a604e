"""Text on the thing that a picture shows: the box lies within it, as large as the text's shape allows."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bimo.core.errors import RequestError
from bimo.core.request import checked
from bimo.inscription.inscribe import requested
from bimo.inscription.layout import Writing
from bimo.inscription.things import box_on_thing, thing

#: A lantern left of the middle, with a cord and a tassel that no text goes on.
LANTERN = (120, 100, 320, 380)


def lantern(size: tuple[int, int] = (600, 480)) -> Image.Image:
    picture = Image.new("RGB", size, (250, 248, 240))
    pen = ImageDraw.Draw(picture)
    pen.line((220, 20, 220, 460), fill=(200, 30, 20), width=12)
    pen.ellipse(LANTERN, fill=(200, 30, 20))
    pen.line((130, 240, 310, 240), fill=(240, 180, 40), width=10)
    pen.ellipse((520, 60, 560, 100), fill=(40, 60, 200))  # smaller, and not the thing
    return picture


@pytest.mark.parametrize(
    ("text", "writing", "wide"),
    [
        ("福", Writing.HORIZONTAL, (0.8, 1.25)),
        ("大吉", Writing.VERTICAL, (0.35, 0.7)),
        ("一帆风顺", Writing.VERTICAL, (0.15, 0.4)),
        ("一帆风顺", Writing.HORIZONTAL, (0.8, 5.0)),
    ],
)
def test_the_box_lies_on_the_thing(text: str, writing: Writing, wide: tuple[float, float]) -> None:
    picture = lantern()
    left, top, width, height = box_on_thing(picture, text, writing)
    pixels = np.array((left, top, left + width, top + height)) * (600, 480, 600, 480)
    corners = [(pixels[x], pixels[y]) for x in (0, 2) for y in (1, 3)]
    for x, y in corners:
        assert ((x - 220) / 100) ** 2 + ((y - 240) / 140) ** 2 <= 1.02
    across, down = pixels[2] - pixels[0], pixels[3] - pixels[1]
    assert wide[0] <= across / down <= wide[1]
    assert across * down > 0.18 * 200 * 280
    assert abs((pixels[0] + pixels[2]) / 2 - 220) < 20


def test_a_dark_ground_has_things_too() -> None:
    picture = Image.new("RGB", (128, 128), (12, 14, 40))
    ImageDraw.Draw(picture).ellipse((30, 20, 100, 110), fill=(230, 60, 40))
    share = thing(picture).mean()
    assert share == pytest.approx(np.pi * 35 * 45 / 128**2, rel=0.1)


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("RGB", (64, 64), "white"),
        Image.effect_noise((64, 64), 8).convert("RGB"),
        Image.linear_gradient("L").convert("RGB").point(lambda value: 200 + value // 20),
    ],
)
def test_a_picture_without_an_object_is_refused(picture: Image.Image) -> None:
    with pytest.raises(RequestError, match="no thing stands out"):
        box_on_thing(picture, "福", Writing.HORIZONTAL)


@pytest.mark.parametrize(
    "fields",
    [
        {"inscribe": ("福", "禄")},
        {"inscribe": ("福",), "inscribe_box": (0, 0, 0.5, 0.5)},
        {"inscribe": ("福",), "writing": "seal"},
        {"inscribe": ("平安，如意",), "writing": "couplet"},
    ],
)
def test_one_text_without_a_box_stands_there(fields: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="writes one text"):
        requested(checked({"text": "灯笼", "inscribe_at": "thing", **fields}))
    (one,) = requested(checked({"text": "灯笼", "inscribe_at": "thing", "inscribe": ("福",)}))
    assert one.at == "thing"
