"""What the parity tests of systems that are given pictures share: diffusers' own drawing, saved and written again."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch

from bimo.core.part import dumps, loads
from bimo.diffusion.system import System
from bimo.models.layouts.diffusers_folder import read_folder, recipe_of
from bimo.models.layouts.export import to_diffusers
from bimo.models.layouts.folder_check import check
from tests.support.drawing import alike

#: Pipelines that take one picture, not a list.
SINGLE = ("QwenImageEditPipeline", "LongCatImageEditPipeline")


def by_diffusers(pipeline: Any, request: dict[str, Any], **more: Any) -> list[Any]:
    """The pictures of diffusers' own pipeline for a request of bimo, as arrays; with ``more`` whatever it answers."""
    images = [image for image in (request.get("image"), *request.get("condition_images", {}).values()) if image]
    known = inspect.signature(pipeline.__call__).parameters
    width, height = request.get("size", (None, None))
    given = {"negative_prompt": request.get("negative"), "width": width, "height": height}
    given["true_cfg_scale" if "true_cfg_scale" in known else "guidance_scale"] = request["guidance"]
    drawn = [
        pipeline(
            image=images[0] if type(pipeline).__name__ in SINGLE else list(images) or None,
            prompt=request["text"],
            num_inference_steps=request["steps"],
            generator=torch.Generator().manual_seed(request["seed"] + index),
            **{name: value for name, value in given.items() if name in known},
            **more,
        )
        for index in range(request.get("count", 1))
    ]
    return [each if more else numpy.asarray(each) for one in drawn for each in one.images]


def saved_by_bimo_draws_the_same(
    system: System, place: Path, request: dict[str, Any], ready: Callable[[System], System] = lambda read: read
) -> None:
    """A system, saved in bimo's own layout and read again, has its recipe and weights, and draws the same. ``ready`` is
    what is done to a system that was read.
    """
    assert loads(dumps(system.recipe)) == system.recipe
    system.save(place)
    alike(system, ready(System.read(place)), request)


def written_for_diffusers_draws_the_same(
    folder: Path, pipeline: Any, place: Path, request: dict[str, Any], opened: Callable[[Path], Any]
) -> None:
    """A folder, read and written again, is whole, has its recipe, and diffusers' pipeline draws the same from it."""
    out = to_diffusers(read_folder(folder), place / "out")
    assert recipe_of(out) == recipe_of(folder)
    assert (check(out).recipe, check(out).exit_status) == (recipe_of(folder).name, 0)
    one, other = (by_diffusers(each, request)[0] for each in (pipeline, opened(out)))
    assert numpy.array_equal(one, other)
