"""A picture to begin from and a mask to paint in give what diffusers' pipelines give, within 1/255 a channel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
from PIL import Image, ImageDraw

from bimo.core.errors import RequestError
from bimo.diffusion.request_filling import fill_request
from bimo.diffusion.system import System
from bimo.models.layouts.diffusers_folder import read_folder
from bimo.models.stable_diffusion.conditioners import Masked
from tests.parity.test_stable_diffusion import SCHEDULERS
from tests.support.comparison import compare
from tests.support.drawing import draw
from tests.support.tiny_checkpoints import checkpoint, read_by_diffusers

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def photo(size: tuple[int, int] = (90, 70)) -> Image.Image:
    """A picture of another size than is drawn."""
    width, height = size
    across, down = numpy.meshgrid(numpy.linspace(0, 255, width), numpy.linspace(0, 255, height))
    return Image.fromarray(numpy.stack([across, down, 255 - across], axis=2).astype(numpy.uint8))


def hole(size: tuple[int, int] = (90, 70)) -> Image.Image:
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).ellipse((20, 15, 70, 50), fill=255)
    return mask


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder by scheduler, saved when first asked for."""
    made: dict[str, Path] = {}

    def place(scheduler: str) -> Path:
        if scheduler not in made:
            made[scheduler] = tmp_path_factory.mktemp(scheduler) / "saved"
            schedule = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
            more = {
                "heun": lambda: diffusers.HeunDiscreteScheduler(**schedule),
                "euler-a": lambda: diffusers.EulerAncestralDiscreteScheduler(**schedule),
            }
            checkpoint(made[scheduler], "bert", {**SCHEDULERS, **more}[scheduler]())
        return made[scheduler]

    return place


def unpasted(system: System) -> System:
    """As diffusers leaves it: what is outside of the mask comes from the decoder."""
    system.recipe = replace(system.recipe, request=replace(system.recipe.request, paste=False))
    return system


def by_diffusers(cls: type, folder: Path, request: dict[str, Any], **settings: Any) -> list[numpy.ndarray]:
    pipeline: Any = cls(**read_by_diffusers(folder).components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    width, height = request["size"]
    count = request.get("count", 1)
    given: dict[str, Any] = {"image": request["image"]}
    if "mask" in request:
        given |= {"mask_image": request["mask"], "width": width, "height": height}
    else:
        given["image"] = request["image"].resize((width, height), Image.Resampling.LANCZOS)
    drawn = pipeline(
        request["text"],
        negative_prompt=request.get("negative"),
        num_inference_steps=request["steps"],
        guidance_scale=5.0,
        num_images_per_prompt=count,
        generator=[torch.Generator().manual_seed(request["seed"] + i) for i in range(count)]
        if count > 1
        else torch.Generator().manual_seed(request["seed"]),
        **given,
        **settings,
    )
    return [numpy.asarray(image) for image in drawn.images]


@pytest.mark.parametrize(
    ("scheduler", "extra"),
    [
        ("pndm", {"strength": 0.8}),
        ("ddim", {"strength": 1.0, "negative": "小桥"}),
        ("euler", {"strength": 0.35, "size": (80, 48)}),
        ("dpm++", {"strength": 0.8, "count": 2}),
        ("heun", {"strength": 0.6}),
        ("euler-a", {"strength": 0.6}),
    ],
)
def test_begins_from_a_picture_as_diffusers(places: Any, scheduler: str, extra: dict[str, Any]) -> None:
    request = {"text": "一只红苹果", "image": photo(), "seed": 3, "steps": 5, "size": (64, 64), **extra}
    cls = diffusers.StableDiffusionImg2ImgPipeline
    expected = by_diffusers(cls, places(scheduler), request, strength=extra["strength"])
    compare(draw(read_folder(places(scheduler)), {**request, "guidance": 5.0}), expected)


def test_with_a_mask_the_strength_is_the_recipe_s(places: Any) -> None:
    system = read_folder(places("ddim"))
    request = {"text": "红", "image": photo(), "mask": hole(), "seed": 4, "steps": 4, "size": (64, 64)}
    assert fill_request(system, request).request.strength == 1.0
    system.recipe = replace(system.recipe, request=replace(system.recipe.request, strength=0.75))
    assert fill_request(system, request).request.strength == 0.75
    assert fill_request(system, request | {"strength": 0.5}).request.strength == 0.5


def test_less_than_a_step_is_refused(places: Any) -> None:
    with pytest.raises(RequestError, match="less than one"):
        draw(read_folder(places("ddim")), {"text": "红", "image": photo(), "strength": 0.1, "steps": 5})


def test_where_no_strength_is_said_it_is_that_of_diffusers(places: Any) -> None:
    request = {"text": "一只红苹果", "image": photo(), "seed": 3, "steps": 5, "size": (64, 64)}
    picture = draw(read_folder(places("ddim")), {**request, "guidance": 5.0})
    assert picture[0].request.strength == 0.8
    compare(picture, by_diffusers(diffusers.StableDiffusionImg2ImgPipeline, places("ddim"), request))


@pytest.mark.parametrize(
    ("scheduler", "extra"),
    [
        ("pndm", {}),
        ("ddim", {"strength": 0.5, "negative": "小桥"}),
        ("euler", {"strength": 1.0, "size": (80, 48)}),
        ("euler-a", {"strength": 0.7}),
    ],
)
def test_paints_in_a_mask_as_diffusers(places: Any, scheduler: str, extra: dict[str, Any]) -> None:
    request = {"text": "红", "image": photo(), "mask": hole(), "seed": 4, "steps": 5, "size": (64, 64), **extra}
    strength = extra.get("strength", 1.0)
    expected = by_diffusers(diffusers.StableDiffusionInpaintPipeline, places(scheduler), request, strength=strength)
    compare(draw(unpasted(read_folder(places(scheduler))), {**request, "guidance": 5.0}), expected)


def test_outside_of_the_mask_every_pixel_stays(places: Any) -> None:
    image, mask = photo((64, 64)), hole((64, 64))
    request = {"text": "红", "image": image, "mask": mask, "seed": 4, "steps": 2, "size": (64, 64)}
    drawn = numpy.asarray(draw(read_folder(places("ddim")), request)[0].image)
    outside = numpy.asarray(mask) == 0
    assert (drawn[outside] == numpy.asarray(image)[outside]).all()
    assert numpy.abs(drawn[~outside].astype(int) - numpy.asarray(image)[~outside]).mean() > 5


@pytest.fixture(scope="module")
def inpainter(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A UNet that reads the mask and what it leaves, as a system and as diffusers' pipeline."""
    folder = tmp_path_factory.mktemp("inpainting")
    checkpoint(folder / "nine", "bert", SCHEDULERS["ddim"](), in_channels=9, out_channels=4)
    system = read_folder(folder / "nine")
    assert (system.recipe.levels[0].conditioners, system.recipe.levels[0].denoiser.spatial) == ((Masked(),), 5)  # type: ignore[attr-defined]
    return unpasted(system), folder / "nine"


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_nine_channels_paint_as_diffusers(inpainter: Any, strength: float) -> None:
    system, folder = inpainter
    request = {"text": "红", "image": photo(), "mask": hole(), "seed": 6, "steps": 4, "size": (64, 64)}
    expected = by_diffusers(diffusers.StableDiffusionInpaintPipeline, folder, request, strength=strength)
    compare(draw(system, {**request, "strength": strength, "guidance": 5.0}), expected)


def test_nine_channels_without_a_picture_paint_all_of_it(inpainter: Any) -> None:
    system, folder = inpainter
    request = {"text": "红", "seed": 6, "steps": 3, "size": (64, 64)}
    grey = {"image": Image.new("RGB", (64, 64), (128, 128, 128)), "mask": Image.new("L", (64, 64), 255)}
    expected = by_diffusers(diffusers.StableDiffusionInpaintPipeline, folder, request | grey, strength=1.0)
    compare(draw(system, {**request, "guidance": 5.0}), expected)
