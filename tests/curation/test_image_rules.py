"""Rules over pixels: exact numbers on drawn pictures, verdicts from stored numbers alone, photos told from blur."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from bimo.curation.decoded_image import DecodedImage
from bimo.curation.filters.image_rules import Aspect, Borders, Flat, MinSide, Sharpness, Still, copy_of
from bimo.curation.steps import PictureStep, Verdict
from tests.support.checkout import REAL_DATA

PHOTOS = REAL_DATA / "photos_howtocook" / "img"
STEPS = (MinSide(), Aspect(), Still(), Sharpness(), Flat(), Borders())


def seen(image: Image.Image, size: tuple[int, int] | None = None, *, animated: bool = False) -> DecodedImage:
    return DecodedImage(data=b"", image=image, size=size or image.size, format="PNG", animated=animated)


def drawn(pixels: np.ndarray) -> DecodedImage:
    return seen(Image.fromarray(pixels.astype(np.uint8)))


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_is_a_picture_step_that_measures_what_it_judges(step: PictureStep) -> None:
    assert isinstance(step, PictureStep)
    assert all(step.says)
    assert step.score in step.measure(seen(Image.new("RGB", (64, 48), "red")))


def test_the_side_is_that_of_the_original_not_of_the_copy() -> None:
    scores = MinSide(pixels=200).measure(seen(Image.new("RGB", (50, 100)), (199, 400)))
    assert scores == {"short_side": 199}
    assert MinSide(pixels=200).judge(scores) == Verdict(199, 200)
    assert MinSide(pixels=199).judge(scores) is None


@pytest.mark.parametrize(
    ("size", "verdict"),
    [((300, 100), None), ((100, 300), None), ((301, 100), Verdict(3.01, 3.0)), ((100, 400), Verdict(0.25, 1 / 3))],
)
def test_aspect_keeps_its_bounds(size: tuple[int, int], verdict: Verdict | None) -> None:
    assert Aspect().judge(Aspect().measure(seen(Image.new("RGB", (9, 9)), size))) == verdict


def test_an_animation_goes() -> None:
    image = Image.new("RGB", (9, 9))
    assert Still().judge(Still().measure(seen(image, animated=True))) == Verdict(1, 0)
    assert Still().judge(Still().measure(seen(image))) is None


def test_sharpness_of_one_step_is_what_the_formula_gives() -> None:
    pixels = np.zeros((256, 256, 3))
    pixels[:, 128:] = 100
    # Two columns of the 254 inside have |L| = 100, the same two |G| = 100.
    energy = 2 * 254 * 100**2
    expected = energy / (energy + 4 * 254**2)
    assert Sharpness().measure(drawn(pixels))["sharpness"] == pytest.approx(expected, abs=1e-6)


def test_sharpness_does_not_depend_on_contrast_but_on_blur() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 1)).repeat(3, axis=2)
    full = Sharpness().measure(drawn(noise))["sharpness"]
    half = Sharpness().measure(drawn(noise // 2))["sharpness"]
    soft = Sharpness().measure(seen(drawn(noise).image.filter(ImageFilter.GaussianBlur(4))))["sharpness"]
    assert full == pytest.approx(5.0, rel=0.02)
    assert half == pytest.approx(full, rel=0.01)
    assert isinstance(soft, float)
    assert soft < 0.25


def test_a_plain_picture_is_not_sharp_but_flat_and_all_border() -> None:
    plain = seen(Image.new("RGB", (640, 480), (40, 90, 200)))
    assert Sharpness().measure(plain) == {"sharpness": 0.0}
    assert Flat().measure(plain) == {"common_colour": 1.0, "entropy": 0.0}
    assert Borders().measure(plain) == {"border": 1.0}


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (2, 2), (3, 3), (30_000, 10)])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_slivers_are_measured_too(step: PictureStep, size: tuple[int, int]) -> None:
    value = step.measure(seen(Image.new("RGB", size, "white")))[step.score]
    assert isinstance(value, int | float)
    assert math.isfinite(value)


def test_flat_counts_the_most_common_colour() -> None:
    pixels = np.zeros((128, 128, 3))
    pixels[:32] = (200, 30, 30)
    scores = Flat().measure(drawn(pixels))
    assert scores == {"common_colour": 0.75, "entropy": pytest.approx(0.8113, abs=1e-4)}
    assert Flat(above=0.75, entropy=0.5).judge(scores) is None
    assert Flat(above=0.7, entropy=0.5).judge(scores) == Verdict(0.75, 0.7)
    assert Flat(above=0.75, entropy=1.0).judge(scores) == Verdict(0.8113, 1.0)


def test_borders_add_up_from_all_sides() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3))
    pixels[:32] = 0
    pixels[-32:] = 0
    assert Borders().measure(drawn(pixels)) == {"border": 0.25}
    pixels[:, :64] = 255
    assert Borders().measure(drawn(pixels)) == {"border": 0.25}  # the sides' lines are of two colours now
    pixels[:32] = pixels[-32:] = 255
    assert Borders().measure(drawn(pixels)) == {"border": round(1 - 0.75 * 0.75, 6)}


def test_a_border_may_tremble_as_jpeg_makes_it() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3))
    pixels[:64] = 250 + np.random.default_rng(1).integers(-5, 6, (64, 256, 3))
    assert Borders().measure(drawn(pixels)) == {"border": 0.25}


def test_copies_have_the_longer_side_and_at_least_a_pixel() -> None:
    assert copy_of(Image.new("RGB", (1000, 500)), 256, "L").size == (256, 128)
    assert copy_of(Image.new("RGB", (10, 30_000)), 256, "RGB").size == (1, 256)
    assert copy_of(Image.new("RGB", (64, 64)), 128, "RGB").size == (128, 128)


@given(st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.integers(-10, 10)))
def test_judging_needs_the_stored_number_alone_and_lets_no_nan_through(value: float | None) -> None:
    for step in STEPS:
        scores = {step.score: value, "entropy": 8.0}
        verdict = step.judge(scores)
        assert repr(step.judge(dict(scores))) == repr(verdict)
        assert repr(dataclasses.replace(step).judge(scores)) == repr(verdict)
        if value is None or math.isnan(value):
            assert verdict is not None


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs the real photos")
def test_real_photos_are_told_from_blurred_ones() -> None:
    sharp, blurred = [], []
    for path in sorted(PHOTOS.glob("*.jpg"))[::20]:
        image = Image.open(path).convert("RGB")
        sharp.append(Sharpness().judge(Sharpness().measure(seen(image))) is None)
        soft = image.filter(ImageFilter.GaussianBlur(4))
        blurred.append(Sharpness().judge(Sharpness().measure(seen(soft))) is None)
    assert sharp == [True] * 18
    assert blurred == [False] * 18
