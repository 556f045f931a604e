"""Pictures of a request: read at its size, refused where they are too large, damaged or of no use."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from bimo.core.errors import RequestError
from bimo.core.files import MAXIMUM_PICTURE_PIXELS
from bimo.core.request import Request, checked
from bimo.diffusion.batching import run_batched
from bimo.diffusion.image_inputs import mask_of, opaque, pixels_of, size_for, to_image
from bimo.diffusion.preparation import prepare
from bimo.diffusion.request_filling import fill_request
from bimo.diffusion.samplers import Euler
from bimo.diffusion.sampling import sample
from bimo.diffusion.system import System
from tests.support.drawing import draw


def encoded(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def red(size: tuple[int, int] = (16, 8)) -> Image.Image:
    return Image.new("RGB", size, (255, 0, 0))


@pytest.fixture(scope="module")
def system(tiny_folder: Path) -> System:
    return System.read(tiny_folder)


def test_pixels_come_back_as_they_were() -> None:
    values = numpy.arange(256, dtype=numpy.uint8).reshape(16, 16)
    image = Image.fromarray(numpy.stack([values, values.T, 255 - values], axis=2))
    assert to_image(pixels_of(image, (16, 16))[0]).tobytes() == image.tobytes()


def test_a_mask_is_painted_where_it_is_half_white_or_more() -> None:
    mask = Image.fromarray(numpy.array([[0, 127], [128, 255]], dtype=numpy.uint8))
    assert mask_of(mask, (2, 2)).tolist() == [[[[0, 0], [1, 1]]]]


def test_sixteen_bits_become_eight() -> None:
    deep = Image.fromarray(numpy.array([[0, 32768, 65535]], dtype=numpy.uint16))
    assert [opaque(deep).getpixel((at, 0)) for at in range(3)] == [(v, v, v) for v in (0, 128, 255)]


def test_what_is_transparent_is_white_and_what_a_camera_turned_is_upright() -> None:
    assert opaque(Image.new("RGBA", (2, 2), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    turned = Image.new("RGB", (4, 2))
    exif = turned.getexif()
    exif[0x0112] = 6  # a quarter turn
    assert opaque(Image.open(io.BytesIO(encoded(turned, "JPEG", exif=exif)))).size == (2, 4)


@pytest.mark.parametrize(
    ("size", "area", "sizes", "expected"),
    [
        ((1000, 500), 512 * 512, (), (720, 360)),
        ((100, 60), 512 * 512, (), (96, 56)),
        ((4000, 3), 64 * 64, (), (2336, 8)),
        ((50000, 1), 512 * 512, (), (8192, 8)),
        ((1000, 500), 512 * 512, ((512, 512), (512, 256), (256, 512)), (512, 256)),
    ],
)
def test_the_size_is_that_of_the_picture(size: Any, area: int, sizes: Any, expected: Any) -> None:
    found = size_for(Image.new("L", size), area, 8, sizes)
    assert found == expected
    assert sizes or math.prod(found) <= max(area, 8 * max(found))


def test_a_picture_is_read_from_bytes_and_leaves_its_fingerprint() -> None:
    request = checked({"text": "红", "image": encoded(red())})
    assert request.image.size == (16, 8)
    assert request.model_dump()["image"].startswith("sha256:")
    with pytest.raises(RequestError, match=r"name the file again|image"):
        checked(request.model_dump())


def postscript() -> bytes:
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"no picture", id="text"),
        pytest.param(encoded(red((64, 64)))[:60], id="cut off"),
        pytest.param(encoded(red())[:40] + b"\xff" * 20 + encoded(red())[60:], id="damaged"),
        pytest.param(postscript(), id="a program"),
        pytest.param("/etc/passwd", id="a path"),
        pytest.param(7, id="a number"),
    ],
)
def test_what_is_no_picture_is_refused(bad: Any) -> None:
    with pytest.raises(RequestError) as raised:
        checked({"text": "红", "image": bad})
    assert "image of the request is wrong" in raised.value.en
    assert len(raised.value.en) < 400


def test_a_large_picture_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(Image.new("1", (9000, 9000)))
    assert len(content) < 20_000

    def load(self: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(RequestError, match="9000x9000"):
        checked({"text": "红", "image": content})
    assert MAXIMUM_PICTURE_PIXELS >= 8192 * 8192


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"strength": 0.5}, "strength without an image"),
        ({"mask": red()}, "mask without an image"),
        ({"image": red(), "mask": Image.new("L", (30, 64))}, "the mask has 30x64 pixels and the image"),
        ({"image": red(), "strength": 0.0}, "above 0"),
        ({"condition_images": {"sketch": red()}}, "reads no picture 'sketch'"),
        ({"condition_images": {"pose": red()}}, "reads no picture 'pose'"),
    ],
)
def test_invalid_images_are_refused(system: System, request_: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as raised:
        draw(system, {"text": "红苹果", "size": (128, 128), "seed": 1, **request_})
    assert message in raised.value.en


def test_numbers_of_a_condition_that_nothing_reads_are_said(system: System) -> None:
    request = {"text": "红苹果", "size": (128, 128), "seed": 1, "steps": 1}
    warnings = draw(system, request | {"conditions": {"score": [0.5], "layers": [2]}})[0].warnings
    assert any("score" in warning and "layers" in warning for warning in warnings)
    assert not any("score" in warning for warning in draw(system, request)[0].warnings)


def test_a_sampler_that_cannot_begin_with_a_picture_says_so(system: System) -> None:
    class Bare(Euler):
        can_add_noise = False

    schedule = type(system.level(system.recipe.levels[-1].name).schedule)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "sampler", lambda self, *_: Bare(torch.tensor([1.0, 0.5, 0.0]), 1000.0))
        with pytest.raises(RequestError, match="Bare"):
            draw(system, "红苹果", size=(128, 128), seed=1, steps=2, image=red())


def test_a_cascade_refuses_a_picture_for_its_last_level(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = system.recipe.levels
    assert [getattr(conditioner, "level", "") for conditioner in last.conditioners].count(first.name) == 1
    space = system.space(last.name)
    shapes = {first.name: (4, 8, 8)}
    monkeypatch.setattr(system, "space", lambda name: _Shaped(space, shapes.get(name)))
    with pytest.raises(RequestError, match=f"what {first.name} drew"):
        fill_request(system, {"text": "红", "image": red((128, 128)), "size": (128, 128)})
    shapes.clear()
    assert fill_request(system, {"text": "红", "image": red((128, 128)), "size": (128, 128)}).request.strength == 0.8


class _Shaped:
    def __init__(self, space: Any, shape: Any) -> None:
        self.factor, self.shape = space.factor, (lambda size: shape) if shape else space.shape


def test_flow_matching_begins_between_the_picture_and_noise(system: System) -> None:
    """(1 - s) x + s noise at the time that strength leaves (diffusers' pipelines of flow matching)."""
    asked: list[Any] = []
    request = {"text": "红苹果", "size": (128, 128), "seed": 7, "steps": 5, "image": red((128, 128)), "strength": 0.5}
    run_batched(system, [sample(system, prepare(system, request))], lambda which, ask: asked.append(ask))
    last = system.recipe.levels[-1].name
    asks = [ask for ask in asked if ask.level == last]
    generator = torch.Generator().manual_seed(7)
    own = system.space(last).encode(pixels_of(red((128, 128)), (128, 128)), generator)
    noise = torch.randn(own.shape, generator=generator)
    s = float(asks[0].t[0]) / 1000
    assert len(asks) == 3
    assert 0.3 < s < 0.9
    assert torch.allclose(asks[0].x[:1], torch.lerp(own, noise, s), atol=1e-4)


def test_settings_beside_a_request_leave_its_pictures(system: System) -> None:
    request = Request(text="红苹果", image=red((128, 128)), size=(128, 128), seed=1)
    picture = draw(system, request, steps=5)[0]
    assert picture.request.strength == 0.8
    assert picture.metadata()["request"]["image"].startswith("sha256:")
    other = draw(system, {"text": "红苹果", "size": (128, 128), "seed": 1}, steps=5)[0]
    assert picture.image.tobytes() != other.image.tobytes()


def test_without_a_size_a_request_takes_its_picture_s(system: System) -> None:
    assert fill_request(system, {"text": "红", "image": red((96, 64))}).request.size == (96, 64)
