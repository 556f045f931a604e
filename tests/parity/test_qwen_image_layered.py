"""Qwen-Image-Layered beside diffusers' pipeline: pictures taken apart into layers, transparency kept to the bit."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
from PIL import Image

from bimo.core.errors import RecipeError, RequestError
from bimo.core.label import Label, marked
from bimo.core.part import dumps, loads
from bimo.core.picture import read_metadata
from bimo.diffusion.preparation import prepare
from bimo.diffusion.system import System
from bimo.models.layouts.diffusers_folder import read_folder, recipe_of
from bimo.models.layouts.export import to_diffusers
from bimo.models.layouts.folder_check import check
from bimo.recipes.qwen_image_layered import qwen_image_layered
from tests.support.drawing import draw
from tests.support.edit_checkpoints import of_area, opened, photo, read, saved, small

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {"text": "一只红苹果"},
    "negative": {"text": "red 帽子，写着“福 到”", "negative": "小桥 red"},
    "two layers": {"text": "小桥", "negative": "", "conditions": {"layers": [2]}},
    "an upright picture": {"text": "小桥流水人家", "size": (32, 96)},
    "unguided": {"text": "红苹果", "guidance": 1.0},
}


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    of_area(monkeypatch)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("layered") / "saved"
    return folder, saved(folder, "layered")


def clear(width: int = 90, height: int = 70, seed: int = 0) -> Image.Image:
    """A picture that is transparent on one side."""
    image = photo(width, height, seed)
    image.putalpha(Image.linear_gradient("L").rotate(90).resize(image.size))
    return image


def filled(**changes: Any) -> dict[str, Any]:
    size = changes.get("size", (64, 64))
    own = {"image": clear(*size, seed=2), "seed": 3, "steps": 3, "guidance": 4.0, "size": size, "negative": " "}
    return {**own, **changes}


def by_diffusers(pipeline: Any, request: dict[str, Any], **more: Any) -> list[Any]:
    """The layers of each picture of diffusers' own pipeline for a request of bimo."""
    return [
        pipeline(
            image=request["image"],
            prompt=request["text"],
            negative_prompt=request["negative"],
            true_cfg_scale=request["guidance"],
            layers=int(request.get("conditions", {"layers": [4]})["layers"][0]),
            num_inference_steps=request["steps"],
            generator=torch.Generator().manual_seed(request["seed"] + index),
            **more,
        ).images[0]
        for index in range(request.get("count", 1))
    ]


def compare(picture: Any, expected: list[Image.Image]) -> None:
    assert len(picture.layers) == len(expected)
    for layer, other in zip(picture.layers, expected, strict=True):
        found, array = (numpy.asarray(each).astype(int) for each in (layer, other))
        assert found.shape == array.shape == (*reversed(picture.request.size), 4)
        assert numpy.abs(found - array).max() <= 1
        assert array.std() > 5


@pytest.mark.parametrize("name", REQUESTS)
def test_draws_the_layers_of_diffusers(place: Any, name: str) -> None:
    folder, pipeline = place
    request = filled(**REQUESTS[name])
    compare(draw(read(folder), request)[0], by_diffusers(pipeline, request)[0])


def test_two_drawn_together_are_as_two_of_diffusers_and_all_that_is_given_moves_them(place: Any) -> None:
    folder, pipeline = place
    system = read(folder)
    request = filled(text="小桥 a", count=2)
    drawn = draw(system, request, batch=2)
    for picture, expected in zip(drawn, by_diffusers(pipeline, request), strict=True):
        compare(picture, expected)
    alike = numpy.asarray(drawn[0].layers[0]).astype(int)
    less = request["image"].copy()
    less.putalpha(255)
    for change in ({"text": "山 x"}, {"negative": "山"}, {"image": less}):
        other = draw(system, {**request, **change, "count": 1})[0]
        assert numpy.abs(numpy.asarray(other.layers[0]) - alike).max() > 3, change


def test_layers_are_files_with_their_transparency_and_the_record(place: Any, tmp_path: Path) -> None:
    picture = draw(read(place[0]), filled(text="红", conditions={"layers": [2]}))[0]
    whole = picture.layers[0].copy()
    whole.alpha_composite(picture.layers[1])
    assert picture.image.tobytes() == whole.tobytes()
    assert 0 < numpy.asarray(picture.image)[..., 3].mean() < 255
    picture.save(tmp_path / "red.png")
    assert {file.name for file in tmp_path.iterdir()} == {"red.png", "red.layer-1.png", "red.layer-2.png"}
    for name, image in zip(("red.png", "red.layer-1.png", "red.layer-2.png"), (whole, *picture.layers), strict=True):
        with Image.open(tmp_path / name) as kept:
            assert (kept.mode, kept.tobytes()) == ("RGBA", image.tobytes())
        assert read_metadata(tmp_path / name)["request"]["conditions"] == {"layers": [2]}


def test_a_label_leaves_the_rest_as_transparent_as_it_was(place: Any) -> None:
    image = Image.effect_noise((256, 256), 90).convert("RGB")
    image.putalpha(Image.linear_gradient("L"))
    made = numpy.asarray(marked(image))
    changed = (made != numpy.asarray(image)).any(axis=2)
    assert changed.any()
    assert not changed[:128].any()
    assert (made[changed][:, 3] == 255).all()
    picture = draw(read(place[0]), filled(text="红"))[0]
    with Image.open(io.BytesIO(picture.png(label=Label("某公司")))) as kept:
        assert kept.mode == "RGBA"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conditions": {"layers": [0]}}, "layers"),
        ({"conditions": {"layers": [1.5]}}, "layers"),
        ({"text": " "}, "empty"),
        ({"mask": photo(64, 64)}, "mask"),
        ({"tile_size": 32}, "tile_size"),
    ],
)
def test_what_is_not_of_layers_is_refused(place: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        draw(read(place[0]), filled(**({"text": "红"} | change)))


def test_without_a_picture_it_says_so_and_of_one_it_draws_at_its_shape(place: Any) -> None:
    system = read(place[0])
    assert any("--image" in warning for warning in prepare(system, {"text": "红"}).warnings)
    given = prepare(system, {"text": "红", "image": clear(50, 110)})
    assert given.request.size == (32, 96)
    assert not any("--image" in warning for warning in given.warnings)


def test_saved_by_bimo_it_draws_the_same(place: Any, tmp_path: Path) -> None:
    system = read(place[0])
    assert loads(dumps(system.recipe)) == system.recipe
    system.save(tmp_path)
    request = filled(text="red 苹果", steps=2)
    one, other = (draw(each, request)[0] for each in (system, small(System.read(tmp_path))))
    assert [layer.tobytes() for layer in one.layers] == [layer.tobytes() for layer in other.layers]


def test_written_for_diffusers_it_draws_the_same(place: Any, tmp_path: Path) -> None:
    folder, pipeline = place
    to_diffusers(read_folder(folder), tmp_path / "out")
    assert recipe_of(tmp_path / "out") == recipe_of(folder)
    assert (check(folder).recipe, check(folder).exit_status) == ("qwen-image-layered", 0)
    request = filled(text="红 red")
    one, other = (by_diffusers(p, request)[0] for p in (pipeline, opened(tmp_path / "out")))
    assert [layer.tobytes() for layer in one] == [layer.tobytes() for layer in other]


def test_it_does_not_learn_from_pictures(place: Any) -> None:
    level: Any = read(place[0]).level("image")
    x, words = torch.zeros(1, 16, 4, 4), torch.zeros(1, 3, 16)
    from bimo.core.tensors import Conditioning, TextEncoding

    given = Conditioning((TextEncoding(words),), pictures={"reference.1": x})
    with pytest.raises(RecipeError, match="draws layers"):
        level.denoiser(x, torch.zeros(1), given)
    with pytest.raises(RecipeError, match="taken apart"):
        level.denoiser(x.repeat(1, 2, 1, 1), torch.zeros(1), Conditioning((TextEncoding(words),)))


def test_full_size() -> None:
    level: Any = qwen_image_layered.levels[0]
    with torch.device("meta"):
        theirs = diffusers.QwenImageTransformer2DModel(use_additional_t_cond=True, use_layer3d_rope=True)
        pairs = (
            (level.denoiser.build().model, theirs),
            (
                level.space.build().model,
                diffusers.AutoencoderKLQwenImage(input_channels=4),
            ),
        )
        for ours, other in pairs:
            shapes = [{name: value.shape for name, value in each.state_dict().items()} for each in (ours, other)]
            assert shapes[0] == shapes[1]
    assert sum(p.numel() for p in theirs.parameters()) == 20_430_407_232
