"""Text on an element of a picture's layout: a lantern, the board of a gate, a seal; what is not there is told."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from bimo.core.errors import RequestError
from bimo.core.request import Request, checked
from bimo.diffusion.conditioner import CONDITIONER_SEED, Drawing
from bimo.inscription.compose import boarded
from bimo.inscription.inscribe import requested
from bimo.inscription.layout import Writing
from bimo.inscription.places import box_at
from bimo.xiaomo.second_edition import layout

REQUEST = checked({"text": "元宵灯会", "seed": 3})


def told(**places: Sequence[Sequence[float]]) -> Any:
    """A system whose conditioner has laid out these elements; "_" is a blank in their names."""
    conditioner = SimpleNamespace(places=lambda request, index: {k.replace("_", " "): v for k, v in places.items()})
    level = SimpleNamespace(name="image", conditioners=(conditioner,))
    return SimpleNamespace(recipe=SimpleNamespace(name="toy", levels=(level,)), level=lambda name: level)


def at(system: Any, place: str, image: Image.Image | None = None) -> tuple[float, ...]:
    image = image or Image.new("RGB", (400, 400), "white")
    return box_at(system, REQUEST, 0, image, "福", Writing.HORIZONTAL, place)


def test_the_picture_says_where_on_the_lantern_there_is_room() -> None:
    image = Image.new("RGB", (400, 400), (240, 240, 230))
    pen = ImageDraw.Draw(image)
    pen.ellipse((220, 120, 300, 190), fill=(200, 30, 20))
    pen.line((260, 100, 260, 230), fill=(200, 30, 20), width=4)
    pen.rectangle((20, 20, 180, 380), fill=(30, 30, 30))  # larger, and no lantern
    left, top, width, height = at(told(lantern=[(0.54, 0.25, 0.76, 0.6)]), "lantern", image)
    for x in (left, left + width):
        for y in (top, top + height):
            assert ((x * 400 - 260) / 40) ** 2 + ((y * 400 - 155) / 35) ** 2 <= 1.1
    assert width * 400 > 30


def test_a_speck_is_no_lantern() -> None:
    image = Image.new("RGB", (400, 400), (240, 240, 230))
    ImageDraw.Draw(image).rectangle((100, 100, 140, 140), fill=(60, 60, 60))
    assert at(told(lantern=[(0.2, 0.2, 0.8, 0.8)]), "lantern", image) == pytest.approx((0.32, 0.32, 0.36, 0.24))


def test_one_lantern_is_taken_before_a_row_and_the_layout_where_nothing_stands_out() -> None:
    found = at(told(lantern=[(0.0, 0.2, 1.0, 0.5), (0.4, 0.5, 0.5, 0.6)], gate=[(0, 0, 1, 1)]), "lantern")
    assert found == pytest.approx((0.42, 0.52, 0.06, 0.04))
    assert at(told(gate=[(0.2, 0.4, 0.8, 1.4)]), "signboard") == pytest.approx((0.368, 0.544, 0.264, 0.12))
    assert at(told(seal=[(0.9, 0.9, 0.96, 0.96)]), "seal") == pytest.approx((0.9, 0.9, 0.06, 0.06))


@pytest.mark.parametrize(
    ("places", "says"),
    [
        ({}, "toy lays out no elements"),
        ({"moon": [(0.1, 0.1, 0.2, 0.2)], "lotus_leaf": [(0, 0, 1, 1)]}, "which has moon, lotus leaf"),
        ({"seal": [(0.9, 0.9, 0.96, 0.96)], "moon": [(0, 0, 1, 1)]}, "there is seal"),
        ({"lantern": [(1.1, 0.1, 1.2, 0.2)]}, "lays out no elements"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(places: Mapping[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        at(told(**places), "lantern")


@pytest.mark.parametrize("seed", [3, 4])
def test_places_are_those_that_the_model_was_told(seed: int) -> None:
    request = Request(text="元宵灯会", seed=seed)
    places = dict(layout.places(request, 1))
    drawing = Drawing(request, torch.Generator().manual_seed((seed + 1) ^ CONDITIONER_SEED), (), torch.Generator())
    spatial = layout.from_request(None, drawing, (16, 16, 16)).spatial  # type: ignore[arg-type]
    assert spatial is not None
    (left, top, right, bottom) = places.pop("seal")[0]  # stamped by the painter, and no part of what is told
    assert 0.85 < top < bottom <= 1
    assert right - left == pytest.approx(0.052, abs=0.002)
    assert "lantern" in places
    assert torch.equal(layout.covered(places, (16, 16)), spatial[0])
    given = Request(text="红苹果", conditions={"boxes": [layout.elements.index("gate"), 0.1, 0.2, 0.5, 0.9]})
    assert layout.places(given, 0) == {"gate": [[0.1, 0.2, 0.5, 0.9]]}
    assert layout.places(Request(text="红苹果", seed=1), 0) == {}


def test_a_seal_is_written_as_a_seal() -> None:
    fields = {"text": "荷塘月色", "inscribe": ("笔墨之印",), "inscribe_at": "seal"}
    (one,) = requested(checked(fields))
    assert (one.writing, one.at) == (Writing.SEAL, "seal")
    for more in ({"writing": "vertical"}, {"inscribe": ("一", "二")}, {"inscribe_box": (0, 0, 1, 1)}):
        with pytest.raises(RequestError, match="inscribe_at seal"):
            requested(checked(fields | more))
    with pytest.raises(RequestError, match="inscribe_at lantern"):
        requested(checked(fields | {"inscribe_at": "lantern", "writing": "seal"}))


def test_a_board_is_dark_in_a_frame_and_leaves_the_rest() -> None:
    picture = np.full((120, 200, 3), 220, np.float32)
    found = boarded(picture, (60, 40, 140, 60), 20)
    assert found[50, 100].mean() < 70
    assert found[50, 58 - 1].mean() > found[50, 100].mean() + 40  # the frame
    changed = np.abs(found - picture).max(-1) > 0
    rows, columns = np.where(changed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) >= (34, 63, 54, 143)
    assert not changed[:30].any()
    assert not changed[:, :50].any()
