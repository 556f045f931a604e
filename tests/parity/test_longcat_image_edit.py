"""LongCat-Image-Edit beside diffusers' pipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from bimo.core.errors import RecipeError
from bimo.core.part import dumps, loads
from bimo.diffusion.image_inputs import size_of_area
from bimo.diffusion.system import System
from bimo.models.flow_tokens import unpacked
from bimo.models.layouts.diffusers_folder import read_folder, recipe_of
from bimo.models.layouts.export import to_diffusers
from bimo.models.layouts.folder_check import check
from bimo.recipes.longcat_image_edit import longcat_image_edit
from tests.parity.test_flow import latents
from tests.support.comparison import compare
from tests.support.drawing import alike, draw
from tests.support.edit_checkpoints import AREA, of_area, opened_longcat, photo, read, saved_longcat, small

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {"text": "把帽子换成红色"},
    "negative": {"text": "red 帽子，写着“福 到”和'a don't'", "negative": "小桥 red"},
    "an upright picture": {"text": "red", "image": photo(50, 110), "negative": ""},
    "unguided": {"text": "红苹果", "guidance": 1.0},
}


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    of_area(monkeypatch)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("longcat") / "saved"
    return folder, saved_longcat(folder)


def filled(**changes: Any) -> dict[str, Any]:
    own = {"image": photo(), "seed": 3, "steps": 3, "guidance": 4.0, "negative": ""}
    return {**own, **changes}


def by_diffusers(pipeline: Any, request: dict[str, Any], **more: Any) -> list[Any]:
    """The pictures of diffusers' own pipeline for a request of bimo."""
    drawn = [
        pipeline(
            request["image"],
            request["text"],
            negative_prompt=request["negative"],
            guidance_scale=request["guidance"],
            num_inference_steps=request["steps"],
            generator=torch.Generator().manual_seed(request["seed"] + index),
            **more,
        )
        for index in range(request.get("count", 1))
    ]
    return [each if more else numpy.asarray(each) for one in drawn for each in one.images]


@pytest.mark.parametrize("name", REQUESTS)
def test_edits_as_diffusers(place: Any, name: str) -> None:
    folder, pipeline = place
    assert recipe_of(folder).name == "longcat-image-edit"
    request = filled(**REQUESTS[name])
    compare(draw(read(folder), request), by_diffusers(pipeline, request))


def test_two_drawn_together_are_as_two_of_diffusers(place: Any) -> None:
    folder, pipeline = place
    request = filled(text="一只红 red 苹果", negative="桥", count=2)
    compare(draw(read(folder), request, batch=2), by_diffusers(pipeline, request))


def test_latents_are_those_of_diffusers_and_all_that_is_given_moves_them(place: Any) -> None:
    folder, pipeline = place
    system = read(folder)
    request = filled(text="小桥 “a b”", negative="red", image=photo(110, 50))
    width, height = size_of_area((110, 50), AREA, 16, up=True)
    expected = unpacked(by_diffusers(pipeline, request, output_type="latent")[0][None], height // 8, width // 8)
    assert torch.allclose(latents(system, request)[0], expected, atol=2e-4)
    for change in ({"text": "山 “a c”"}, {"negative": "山"}, {"image": photo(110, 50, seed=1)}):
        assert not torch.allclose(latents(system, {**request, **change})[0], expected, atol=2e-3)


def test_pictures_of_other_shapes_drawn_together_are_as_each_alone(place: Any) -> None:
    """The places of the image are counted from the length of the text, to which the picture's tokens belong."""
    from bimo.diffusion.batching import run_batched
    from bimo.diffusion.preparation import prepare
    from bimo.diffusion.sampling import sample

    system = read(place[0])
    asked = [filled(text="红", image=photo(*size), size=(64, 64)) for size in ((64, 64), (70, 60))]
    loops = [sample(system, prepare(system, each)) for each in asked]
    together = run_batched(system, loops)
    for picture, each in zip(together, asked, strict=True):
        compare([picture], [numpy.asarray(draw(system, each)[0].image)])


def test_saved_by_bimo_it_edits_the_same(place: Any, tmp_path: Path) -> None:
    system = read(place[0])
    assert loads(dumps(system.recipe)) == system.recipe
    system.save(tmp_path)
    request = filled(text="red 苹果", negative="桥", steps=2)
    again = small(System.read(tmp_path))
    alike(system, again, request)


def test_written_for_diffusers_it_edits_the_same(place: Any, tmp_path: Path) -> None:
    folder, pipeline = place
    to_diffusers(read_folder(folder), tmp_path / "out")
    assert recipe_of(tmp_path / "out") == recipe_of(folder)
    assert (check(folder).recipe, check(folder).exit_status) == ("longcat-image-edit", 0)
    request = filled(text="红 red", negative="桥")
    one, other = (by_diffusers(p, request)[0] for p in (pipeline, opened_longcat(tmp_path / "out")))
    assert numpy.array_equal(one, other)


def test_a_processor_that_shows_pictures_otherwise_is_refused(place: Any, tmp_path: Path) -> None:
    shutil.copytree(place[0], tmp_path / "other", ignore=shutil.ignore_patterns("*.safetensors"))
    path = tmp_path / "other" / "text_processor" / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "patch_size": 16}))
    with pytest.raises(RecipeError, match="patch_size"):
        recipe_of(tmp_path / "other")


def test_full_size() -> None:
    """As many as LongCat-Image's: the picture that is edited needs no weights of its own."""
    with torch.device("meta"):
        model = longcat_image_edit.levels[0].denoiser.build().model  # type: ignore[attr-defined]
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(6.27, abs=0.005)
