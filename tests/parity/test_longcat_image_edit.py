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
from bimo.diffusion.image_inputs import size_of_area
from bimo.models.flow_tokens import unpacked
from bimo.models.layouts.diffusers_folder import recipe_of
from bimo.recipes.longcat_image_edit import longcat_image_edit
from tests.parity.test_flow import latents
from tests.support.comparison import compare
from tests.support.drawing import draw
from tests.support.edit_checkpoints import AREA, of_area, opened_longcat, photo, read, saved_longcat, small
from tests.support.edit_pipelines import (
    by_diffusers,
    saved_by_bimo_draws_the_same,
    written_for_diffusers_draws_the_same,
)

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
    request = filled(text="red 苹果", negative="桥", steps=2)
    saved_by_bimo_draws_the_same(read(place[0]), tmp_path, request, small)


def test_written_for_diffusers_it_edits_the_same(place: Any, tmp_path: Path) -> None:
    request = filled(text="红 red", negative="桥")
    written_for_diffusers_draws_the_same(*place, tmp_path, request, opened_longcat)


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
