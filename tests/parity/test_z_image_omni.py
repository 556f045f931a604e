"""Z-Image-Omni beside diffusers' pipeline: drawn from words, from one picture and from two."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

from bimo.core.errors import RecipeError
from bimo.diffusion.preparation import prepare
from bimo.models.layouts.diffusers_folder import read_folder, recipe_of
from bimo.models.z_image.siglip import SeenReferences, Siglip2Vision
from bimo.recipes.z_image_omni import z_image_omni
from tests.parity.test_flow import latents
from tests.support.comparison import compare
from tests.support.drawing import draw
from tests.support.edit_checkpoints import photo
from tests.support.edit_pipelines import (
    by_diffusers,
    saved_by_bimo_draws_the_same,
    written_for_diffusers_draws_the_same,
)
from tests.support.omni_checkpoints import opened, saved

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

ONE = {"image": photo(90, 70), "size": (80, 64)}
TWO = {"image": photo(64, 80), "condition_images": {"image-2": photo(100, 66, 3)}, "size": (64, 80)}
REQUESTS: dict[str, dict[str, Any]] = {
    "words": {"text": "一只红苹果"},
    "negative": {"text": "red 帽子，写着“福 到”", "negative": "小桥 red"},
    "empty negative": {"text": "小桥", "negative": ""},
    "unguided": {"text": "红苹果", "guidance": 0.0},
    "another size": {"text": "小桥流水人家", "negative": "x", "size": (128, 64)},
    "one picture": {"text": "把帽子换成红色", "negative": "red 桥", **ONE},
    "one picture, unguided": {"text": "red", "guidance": 0.0, **ONE},
    "of another shape": {"text": "red", "image": photo(90, 70), "size": (64, 96)},
    "two pictures": {"text": "图2里的人戴上图1里的帽子", "negative": "桥", **TWO},
    "three pictures": {
        "text": "red",
        **TWO,
        "condition_images": {"image-2": photo(100, 66, 3), "image-3": photo(70, 70, 6)},
    },
}


@pytest.fixture(autouse=True)
def _coded_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline brings pictures to bfloat16 for its autoencoder, whose weights here are float32."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("omni") / "saved"
    return folder, saved(folder)


def filled(**changes: Any) -> dict[str, Any]:
    own = {"seed": 3, "steps": 3, "guidance": 4.0, "size": (64, 64), "negative": ""}
    return {**own, **changes}


@pytest.mark.parametrize("name", REQUESTS)
def test_draws_as_diffusers(place: Any, name: str) -> None:
    folder, pipeline = place
    assert recipe_of(folder).name == "z-image-omni"
    request = filled(**REQUESTS[name])
    compare(draw(read_folder(folder), request), by_diffusers(pipeline, request))


@pytest.mark.parametrize("given", [{}, TWO], ids=["words", "pictures"])
def test_two_drawn_together_are_as_two_of_diffusers(place: Any, given: dict[str, Any]) -> None:
    folder, pipeline = place
    request = filled(text="小桥 a", negative="red 桥 b", count=2, **given)
    compare(draw(read_folder(folder), request, batch=2), by_diffusers(pipeline, request))


def test_a_large_picture_is_seen_and_coded_as_by_diffusers(place: Any) -> None:
    """What is more than a megapixel is brought to the size that is asked for."""
    folder, pipeline = place
    request = filled(text="red 桥", image=photo(1280, 1024), size=(80, 64), steps=2)
    compare(draw(read_folder(folder), request), by_diffusers(pipeline, request))


def test_latents_are_those_of_diffusers_and_all_that_is_given_moves_them(place: Any) -> None:
    folder, pipeline = place
    system = read_folder(folder)
    request = filled(text="小桥 “a b”", negative="red", **TWO)
    expected = by_diffusers(pipeline, request, output_type="latent")[0][None]
    assert torch.allclose(latents(system, request)[0], expected, atol=1e-3)
    other = {"image-2": photo(100, 66, 4)}
    changes: tuple[dict[str, Any], ...] = (
        {"text": "山 “a c”"},
        {"negative": "山"},
        {"image": photo(64, 80, seed=1)},
        {"condition_images": other},
    )
    for change in changes:
        assert not torch.allclose(latents(system, {**request, **change})[0], expected, atol=1e-2), change


def test_pieces_are_read_as_by_diffusers(place: Any) -> None:
    folder, pipeline = place
    encoder: Any = read_folder(folder).text_encoders[0]
    images = [photo(64, 64)] * 2
    found = encoder.encode_with(["把帽子 red", "a"], [images, images])
    expected = pipeline.encode_prompt(["把帽子 red", "a"], do_classifier_free_guidance=False, num_condition_images=2)[0]
    for row, pieces in enumerate(expected):
        own = found.tokens[row][found.mask[row]]
        assert torch.allclose(own, torch.cat(pieces), atol=1e-4)
        split = torch.tensor_split(own, encoder.picture_places(2))
        assert [len(one) for one in split] == [len(one) for one in pieces]


@pytest.mark.parametrize("size", [(64, 64), (300, 40), (41, 200), (1300, 700), (1, 900)])
def test_patches_are_as_many_as_by_the_processor(size: tuple[int, int]) -> None:
    for most in (16, 256):
        rows, columns = Siglip2Vision(max_num_patches=most).grid(*size)
        assert (rows * 16, columns * 16) == get_image_size_for_max_num_patches(size[1], size[0], 16, most)


def test_of_another_size_in_its_shape_it_is_coded_at_that_which_is_drawn() -> None:
    own = SeenReferences()
    assert own._pixels(photo(640, 480), (320, 240)).shape == (1, 3, 240, 320)
    assert own._pixels(photo(645, 490), (640, 480)).shape == (1, 3, 480, 640)
    assert own._pixels(photo(645, 490), (320, 320)).shape == (1, 3, 480, 640)


def test_it_needs_no_picture_and_of_one_draws_at_its_size(place: Any) -> None:
    system = read_folder(place[0])
    assert not prepare(system, {"text": "红", "size": (64, 64)}).warnings
    assert prepare(system, {"text": "红", "image": photo(90, 70)}).request.size == (80, 64)
    assert prepare(system, {"text": "红", "image": photo(2000, 1000)}).request.size == (1440, 720)


def test_saved_by_bimo_it_draws_the_same(place: Any, tmp_path: Path) -> None:
    saved_by_bimo_draws_the_same(read_folder(place[0]), tmp_path, filled(text="red 苹果", negative="桥", **TWO))


def test_written_for_diffusers_it_draws_the_same(place: Any, tmp_path: Path) -> None:
    written_for_diffusers_draws_the_same(*place, tmp_path, filled(text="红 red", negative="桥", **TWO), opened)


@pytest.mark.parametrize(
    ("component", "change", "message"),
    [
        ("siglip_processor", {"image_mean": [0.4, 0.5, 0.5]}, "image_mean"),
        ("siglip_processor", {"patch_size": 14}, "patch_size"),
        ("siglip", {"hidden_size": 16}, "siglip_feat_dim"),
    ],
)
def test_what_would_be_seen_otherwise_is_refused(
    place: Any, tmp_path: Path, component: str, change: dict[str, Any], message: str
) -> None:
    shutil.copytree(place[0], tmp_path / "other", ignore=shutil.ignore_patterns("*.safetensors"))
    name = "config.json" if component == "siglip" else "preprocessor_config.json"
    path = tmp_path / "other" / component / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RecipeError, match=message):
        recipe_of(tmp_path / "other")


def test_full_size() -> None:
    """Z-Image's 6,154,908,736 numbers, and those that lead what is seen of pictures to it."""
    level: Any = z_image_omni.levels[0]
    with torch.device("meta"):
        model = level.denoiser.build().model
        theirs = diffusers.ZImageTransformer2DModel(siglip_feat_dim=1152)
        sight = level.space.build().siglip
    own, other = ({name: value.shape for name, value in each.state_dict().items()} for each in (model, theirs))
    assert own == other
    beside = sum(p.numel() for name, p in model.named_parameters() if name.startswith("siglip"))
    assert sum(p.numel() for p in model.parameters()) - beside == 6_154_908_736
    assert (beside, sum(p.numel() for p in sight.parameters())) == (358_358_144, 427_888_064)
