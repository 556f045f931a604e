"""A folder of Qwen-Image-Edit edits in bimo as in diffusers' own pipeline, and what is kept stays where it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from bimo.core.errors import RecipeError, WeightsError
from bimo.diffusion.image_inputs import size_of_area
from bimo.models.layouts.diffusers_folder import recipe_of
from bimo.models.layouts.folder_check import State, check
from bimo.models.text_encoders.qwen_vision import QwenVision, QwenVisionTower
from tests.parity.test_flow import latents
from tests.support.comparison import compare
from tests.support.drawing import draw
from tests.support.edit_checkpoints import of_area, opened, photo, read, saved, small
from tests.support.edit_pipelines import (
    by_diffusers,
    saved_by_bimo_draws_the_same,
    written_for_diffusers_draws_the_same,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

NAMES = {"edit": "qwen-image-edit", "edit-plus": "qwen-image-edit-2509", "newer": "qwen-image-edit-2511"}
REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {"text": "把帽子换成红色"},
    "negative": {"text": "red 帽子，写着“福 到”", "negative": "小桥 red"},
    "empty negative": {"text": "小桥", "negative": ""},
    "another size": {"text": "小桥流水人家", "negative": "x", "size": (128, 64)},
    "unguided": {"text": "红苹果", "guidance": 1.0},
    "an upright picture": {"text": "red", "image": photo(50, 110), "size": (32, 96)},
}


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    of_area(monkeypatch)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder and diffusers' pipeline by kind, saved when first asked for."""
    made: dict[str, tuple[Path, Any]] = {}

    def place(kind: str) -> tuple[Path, Any]:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind) / "saved"
            cls = "edit" if kind == "edit" else "edit-plus"
            made[kind] = (folder, saved(folder, cls, newer=kind == "newer"))
        return made[kind]

    return place


def filled(**changes: Any) -> dict[str, Any]:
    own = {"image": photo(), "seed": 3, "steps": 3, "guidance": 4.0, "size": (64, 64), "negative": ""}
    return {**own, **changes}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("kind", NAMES)
def test_edits_as_diffusers(places: Any, kind: str, name: str) -> None:
    folder, pipeline = places(kind)
    assert recipe_of(folder).name == NAMES[kind]
    request = filled(**REQUESTS[name])
    compare(draw(read(folder), request), by_diffusers(pipeline, request))


@pytest.mark.parametrize("kind", ["edit-plus", "newer"])
def test_several_pictures_as_diffusers(places: Any, kind: str) -> None:
    folder, pipeline = places(kind)
    others = {"image-2": photo(40, 90, 3), "image-3": photo(120, 50, 6)}
    request = filled(text="图2里的人戴上图3里的帽子", negative="小桥", condition_images=others, count=2)
    found = draw(read(folder), request, batch=2)
    compare(found, by_diffusers(pipeline, request))
    fewer = draw(read(folder), {**request, "condition_images": {"image-2": others["image-2"]}})
    assert numpy.abs(numpy.asarray(fewer[0].image).astype(int) - numpy.asarray(found[0].image)).max() > 3


@pytest.mark.parametrize("kind", NAMES)
def test_latents_are_those_of_diffusers_and_all_that_is_given_moves_them(places: Any, kind: str) -> None:
    folder, pipeline = places(kind)
    system = read(folder)
    request = filled(text="小桥 “a b”", negative="red", size=(64, 96))
    expected = pipeline(
        image=request["image"],
        prompt=request["text"],
        negative_prompt="red",
        width=64,
        height=96,
        num_inference_steps=3,
        true_cfg_scale=4.0,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).images
    expected = pipeline._unpack_latents(expected, 96, 64, 8)[:, :, 0]
    assert torch.allclose(latents(system, request)[0], expected, atol=2e-4)
    for change in ({"text": "小桥 “a c”"}, {"negative": "rex"}, {"image": photo(seed=1)}):
        assert not torch.allclose(latents(system, {**request, **change})[0], expected, atol=2e-3)


def test_pictures_have_places_of_their_own_for_the_text_encoder(places: Any) -> None:
    """Told nothing of the pictures, as diffusers' pipeline tells it, transformers' model gives them those of text."""
    folder, pipeline = places("edit")
    encoder: Any = read(folder).text_encoders[0]
    found = encoder.encode_with(["把帽子换成红色", "red"], [[photo()]] * 2)
    image = photo().resize((64, 64), resample=1)
    expected = [pipeline.encode_prompt([text], image)[0] for text in ("把帽子换成红色", "red")]
    for row, tokens in enumerate(expected):
        own = found.tokens[row] if found.mask is None else found.tokens[row][found.mask[row]]
        assert torch.allclose(own, tokens[0], atol=1e-4)
    told = pipeline.text_encoder.forward
    pipeline.text_encoder.forward = lambda **given: type(pipeline.text_encoder).forward(pipeline.text_encoder, **given)
    untold = pipeline.encode_prompt(["red"], image)[0]
    pipeline.text_encoder.forward = told
    assert not torch.allclose(untold, expected[1], atol=1e-2)


def test_a_folder_of_it_is_whole_or_wants_its_processor(places: Any, tmp_path: Path) -> None:
    folder, _ = places("newer")
    found = check(folder)
    assert (found.recipe, found.exit_status) == ("qwen-image-edit-2511", 0)
    assert {component.name: component.state for component in found.components}["processor"] == State.read
    shutil.copytree(folder, tmp_path / "without")
    for file in (tmp_path / "without" / "processor").iterdir():
        file.unlink()
    error = check(tmp_path / "without").error
    assert isinstance(error, WeightsError)
    assert "preprocessor_config.json" in error.en


@pytest.mark.parametrize(
    ("change", "message"), [({"image_mean": [0.5, 0.5, 0.5]}, "image_mean"), ({"patch_size": 16}, "patch_size")]
)
def test_a_processor_that_shows_pictures_otherwise_is_refused(
    places: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    shutil.copytree(places("edit")[0], tmp_path / "other", ignore=shutil.ignore_patterns("*.safetensors"))
    path = tmp_path / "other" / "processor" / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RecipeError, match=message):
        recipe_of(tmp_path / "other")


@pytest.mark.parametrize("size", [(64, 64), (300, 40), (41, 200), (1300, 700)])
def test_patches_are_those_of_the_processor(size: tuple[int, int]) -> None:
    part = QwenVision(area=96 * 96)
    tower = QwenVisionTower(part.tiny())
    tower.part = part
    image = photo(*size)
    shown = image.resize(size_of_area(size, 96 * 96), resample=1)
    expected = Qwen2VLImageProcessorPil()(images=[shown], return_tensors="pt")
    patches, rows, columns = tower.patches(image)
    assert expected["image_grid_thw"].tolist() == [[1, rows, columns]]
    assert torch.allclose(patches, expected["pixel_values"], atol=1e-5)


@pytest.mark.parametrize("kind", NAMES)
def test_saved_by_bimo_it_edits_the_same(places: Any, tmp_path: Path, kind: str) -> None:
    request = filled(text="red 苹果", negative="桥", steps=2)
    saved_by_bimo_draws_the_same(read(places(kind)[0]), tmp_path, request, small)


@pytest.mark.parametrize("kind", NAMES)
def test_written_for_diffusers_it_edits_the_same(places: Any, tmp_path: Path, kind: str) -> None:
    request = filled(text="红 red", negative="桥", size=(64, 96))
    written_for_diffusers_draws_the_same(*places(kind), tmp_path, request, opened)


def test_outside_of_a_mask_every_pixel_stays(places: Any) -> None:
    from PIL import Image

    image, mask = photo(64, 64), Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    request = filled(text="红", image=image, mask=mask)
    drawn = numpy.asarray(draw(read(places("edit")[0]), request)[0].image)
    outside = numpy.asarray(mask) == 0
    assert (drawn[outside] == numpy.asarray(image)[outside]).all()
    assert numpy.abs(drawn[~outside].astype(int) - numpy.asarray(image)[~outside]).mean() > 5
