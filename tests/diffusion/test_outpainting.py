"""Borders around a picture: the picture stays to the bit, the seam is even, and what is no border is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
from PIL import Image

import bimo
from bimo.cli.redrawing import border_of
from bimo.core.errors import RequestError
from bimo.core.picture import metadata_of
from bimo.diffusion.outpainting import match_seam
from bimo.engine.engine import Engine
from tests.support.tiny_checkpoints import checkpoint

SCHEDULE: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
REQUEST: dict[str, Any] = {"text": "猫", "steps": 2, "seed": 3}


def photograph(size: tuple[int, int] = (50, 41)) -> Image.Image:
    """Values that any resizing would change."""
    chance = numpy.random.default_rng(0)
    return Image.fromarray(chance.integers(0, 256, (size[1], size[0], 3), dtype=numpy.uint8))


@pytest.fixture(scope="module")
def engines(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Engine]:
    """Of a transformer in two levels, of a UNet, and of one that reads the picture and its mask."""
    found = {"xiaomo": bimo.load(tiny_folder)}
    for name, channels in (("unet", 4), ("inpainting", 9)):
        folder = tmp_path_factory.mktemp(name)
        scheduler = diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, steps_offset=1)
        checkpoint(folder, "bert", scheduler, in_channels=channels)
        found[name] = bimo.load(folder)
    return found


@pytest.mark.parametrize("name", ["xiaomo", "unet", "inpainting"])
@pytest.mark.parametrize("border", [(24, 0, 0, 0), (3, 5, 7, 9)])
def test_the_picture_stays_to_the_bit(engines: dict[str, Engine], name: str, border: Any) -> None:
    image = photograph()
    (picture,) = engines[name].draw(REQUEST, image=image, outpaint=border)
    left, top, right, bottom = border
    assert picture.image.size == (left + 50 + right, top + 41 + bottom)
    whole = numpy.asarray(picture.image)
    kept = whole[top : top + 41, left : left + 50]
    assert (kept == numpy.asarray(image)).all()
    beside = numpy.delete(whole.reshape(-1, 3), 0, axis=0) if not left else whole[:, :left].reshape(-1, 3)
    assert beside.std() > 1
    record = metadata_of(picture.png())["request"]
    again = engines[name].draw(record | {"image": image})[0]
    assert again.image.tobytes() == picture.image.tobytes()


def test_the_border_is_drawn_by_words_and_seed(engines: dict[str, Engine]) -> None:
    asked = [{"seed": 3}, {"seed": 4}, {"text": "红苹果"}]
    pictures = [engines["unet"].draw({**REQUEST, **one}, image=photograph(), outpaint=(0, 0, 24, 0)) for one in asked]
    assert len({picture.image.tobytes() for (picture,) in pictures}) == 3


def test_the_seam_is_even_and_what_is_far_is_as_drawn() -> None:
    """Given 0.2 beside drawn 0.8: at the seam the drawn is as the given, and further away it is itself again."""
    drawn, given, mask = torch.full((1, 3, 8, 64), 0.8), torch.full((1, 3, 8, 64), 0.2), torch.zeros(1, 1, 8, 64)
    mask[..., 32:] = 1
    row = match_seam(drawn, given, mask, 16)[0, 0, 4]
    assert torch.equal(row[:32], drawn[0, 0, 4, :32])
    assert float(row[32]) == pytest.approx(0.2, abs=0.05)
    assert float(row[-1]) == pytest.approx(0.8)
    assert bool((row[32:].diff() >= 0).all())
    assert float(row[32:].diff().max()) < 0.06


def test_a_mask_has_a_seam_as_well(engines: dict[str, Engine]) -> None:
    image, mask = photograph((64, 64)), Image.new("L", (64, 64))
    mask.paste(255, (32, 0, 64, 64))
    hard, soft = (engines["unet"].draw(REQUEST, image=image, mask=mask, feather=n)[0].image for n in (0, 12))
    given, one, other = (numpy.asarray(each).astype(int) for each in (image, hard, soft))
    assert (one[:, :32] == given[:, :32]).all()
    assert (other[:, :32] == given[:, :32]).all()
    assert (one[:, 32:36] != other[:, 32:36]).any()
    assert (one[:, 60:] == other[:, 60:]).all()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"outpaint": (8, 0, 0, 0)}, "outpaint without an image"),
        ({"outpaint": (0, 0, 0, 0), "image": photograph()}, "one of them above 0"),
        ({"outpaint": (-8, 0, 0, 0), "image": photograph()}, "one of them above 0"),
        ({"outpaint": (8, 0, 0, 0), "image": photograph(), "mask": photograph()}, "leave the mask out"),
        ({"outpaint": (8, 0, 0, 0), "image": photograph(), "size": (64, 64)}, "leave the size out"),
        ({"outpaint": (9000, 0, 0, 0), "image": photograph()}, "9050x41 pixels; a side may have 8192"),
        ({"feather": 4, "image": photograph()}, "there is no seam"),
    ],
)
def test_invalid_borders_are_refused(engines: dict[str, Engine], fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        engines["unet"].draw(REQUEST, **fields)


@pytest.mark.parametrize(
    ("text", "border"),
    [
        ("left=64", (64, 0, 0, 0)),
        ("left=50%，bottom=8", (50, 0, 0, 8)),
        ("all=10%", (10, 6, 10, 6)),
        ("16:9", (3, 0, 4, 0)),
        ("1:1", (0, 20, 0, 20)),
    ],
)
def test_borders_as_they_are_typed(text: str, border: Any) -> None:
    assert border_of(text, Image.new("RGB", (100, 60))) == border


@pytest.mark.parametrize("text", ["", "left", "left=-8", "up=8", "left=8.5", "0:9", "left=8 right=8"])
def test_borders_that_are_mistyped_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="--outpaint is"):
        border_of(text, Image.new("RGB", (100, 60)))
