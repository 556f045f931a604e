"""Qwen-Image-2.1 beside diffusers' pipeline: drawn from words, from one picture and from two, with transparency."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
from PIL import Image

from bimo.core.errors import RecipeError
from bimo.core.tensors import Conditioning, TextEncoding
from bimo.diffusion.preparation import prepare
from bimo.models.flow_tokens import PLACES
from bimo.models.layouts.diffusers_folder import read_folder, recipe_of
from bimo.models.layouts.export import to_diffusers
from bimo.models.layouts.folder_check import check
from bimo.recipes.qwen_image_21 import qwen3_vl_8b, qwen_image_21
from tests.parity.test_flow import latents
from tests.support.comparison import compare
from tests.support.drawing import draw
from tests.support.edit_checkpoints import of_area, opened_21, photo, read, saved_21, small
from tests.support.edit_pipelines import (
    by_diffusers,
    saved_by_bimo_draws_the_same,
    written_for_diffusers_draws_the_same,
)
from tests.support.one_device import ELSEWHERE, OneDevice, counted

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def clear(width: int = 90, height: int = 70, seed: int = 0) -> Image.Image:
    """A picture that is transparent on one side."""
    image = photo(width, height, seed)
    image.putalpha(Image.linear_gradient("L").rotate(90).resize(image.size))
    return image


TWO = {"image": photo(), "condition_images": {"image-2": photo(40, 90, 3)}}
REQUESTS: dict[str, dict[str, Any]] = {
    "words": {"text": "一只红苹果"},
    "negative": {"text": "red 帽子，写着“福 到”", "negative": "小桥 red"},
    "empty negative": {"text": "小桥", "negative": ""},
    "unguided": {"text": "红苹果", "negative": "red", "guidance": 1.0},
    "another size": {"text": "小桥流水人家", "negative": "x", "size": (128, 64)},
    "one picture": {"text": "把帽子换成红色", "image": photo(), "negative": "red 桥"},
    "a transparent picture": {"text": "red", "image": clear(64, 64), "negative": ""},
    "an upright picture": {"text": "red", "image": photo(50, 110), "size": (32, 96)},
    "two pictures": {"text": "图2里的人戴上图1里的帽子", "negative": "桥", **TWO},
    "two pictures, another size": {"text": "red", **TWO, "size": (128, 32)},
}


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    of_area(monkeypatch)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("qwen21") / "saved"
    return folder, saved_21(folder)


def filled(**changes: Any) -> dict[str, Any]:
    own = {"seed": 3, "steps": 3, "guidance": 4.0, "size": (64, 64)}
    return {**own, **changes}


@pytest.mark.parametrize("name", REQUESTS)
def test_draws_as_diffusers(place: Any, name: str) -> None:
    folder, pipeline = place
    assert recipe_of(folder).name == "qwen-image-2.1"
    request = filled(**REQUESTS[name])
    expected = by_diffusers(pipeline, request)
    compare(draw(read(folder), request), expected)
    assert expected[0][..., 3].std() > 5


@pytest.mark.parametrize("given", [{}, TWO], ids=["words", "pictures"])
def test_two_drawn_together_are_as_two_of_diffusers(place: Any, given: dict[str, Any]) -> None:
    folder, pipeline = place
    request = filled(text="小桥 a", negative="red 桥 b", count=2, **given)
    compare(draw(read(folder), request, batch=2), by_diffusers(pipeline, request))


def test_latents_are_those_of_diffusers_and_all_that_is_given_moves_them(place: Any) -> None:
    folder, pipeline = place
    system = read(folder)
    request = filled(text="小桥 “a b”", negative="red", size=(64, 96), **TWO)
    packed = by_diffusers(pipeline, request, output_type="latent")[0]
    expected = packed.transpose(0, 1).unflatten(1, (6, 4))[None]
    assert torch.allclose(latents(system, request)[0], expected, atol=2e-4)
    swapped = {"image": TWO["condition_images"]["image-2"], "condition_images": {"image-2": TWO["image"]}}
    changes: tuple[dict[str, Any], ...] = ({"text": "山 “a c”"}, {"negative": "山"}, {"image": photo(seed=1)}, swapped)
    for change in changes:
        assert not torch.allclose(latents(system, {**request, **change})[0], expected, atol=2e-3), change


def test_the_encoder_says_the_words_alone_and_where_the_pictures_stand(place: Any) -> None:
    folder, pipeline = place
    encoder: Any = read(folder).text_encoders[0]
    images = [photo(64, 64), photo(96, 32)]
    expected, _, slots = pipeline.encode_prompt("把帽子 red", images)
    found = encoder.encode_with(["把帽子 red"], [images]).tokens
    assert torch.allclose(found[0], expected[0][~slots[0]], atol=1e-4)
    begins = [int(place) for place in slots[0].nonzero()[[0, 4]]]
    assert encoder.picture_places(2) == (begins[0], begins[1] - 4)


def test_it_needs_no_picture_and_of_one_draws_at_its_shape(place: Any) -> None:
    system = read(place[0])
    assert not prepare(system, {"text": "红", "size": (64, 64)}).warnings
    assert prepare(system, {"text": "红", "image": photo(50, 110)}).request.size == (32, 96)


def test_outside_of_a_mask_every_pixel_stays(place: Any) -> None:
    image, mask = photo(64, 64), Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    drawn = numpy.asarray(draw(read(place[0]), filled(text="红", image=image, mask=mask))[0].image)
    outside = numpy.asarray(mask) == 0
    assert (drawn[outside][:, :3] == numpy.asarray(image)[outside]).all()
    assert (drawn[outside][:, 3] == 255).all()
    assert numpy.abs(drawn[~outside][:, :3].astype(int) - numpy.asarray(image)[~outside]).mean() > 5


def test_it_is_saved_with_its_transparency(place: Any, tmp_path: Path) -> None:
    picture = draw(read(place[0]), filled(text="红"))[0]
    picture.save(tmp_path / "red.png")
    with Image.open(tmp_path / "red.png") as kept:
        assert (kept.mode, kept.tobytes()) == ("RGBA", picture.image.tobytes())


def test_saved_by_bimo_it_draws_the_same(place: Any, tmp_path: Path) -> None:
    request = filled(text="red 苹果", negative="桥", steps=2, **TWO)
    saved_by_bimo_draws_the_same(read(place[0]), tmp_path, request, small)


def test_written_for_diffusers_it_draws_the_same(place: Any, tmp_path: Path) -> None:
    written_for_diffusers_draws_the_same(*place, tmp_path, filled(text="红 red", negative="桥", **TWO), opened_21)


def test_its_written_chat_is_read_as_the_pipeline_asks_it(place: Any, tmp_path: Path) -> None:
    """The tokens that are dropped are counted by the processor's own template."""
    import transformers

    to_diffusers(read_folder(place[0]), tmp_path / "out")
    tokenizer = transformers.Qwen2Tokenizer.from_pretrained(str(tmp_path / "out" / "processor"))
    tokenizer.chat_template = (tmp_path / "out" / "processor" / "chat_template.jinja").read_text()
    message = [{"role": "system", "content": [{"type": "text", "text": place[1].sys_prompt}]}]
    said = tokenizer.apply_chat_template(message, tokenize=False)
    assert said == qwen3_vl_8b.drop_text


def test_whole_or_what_is_wanting(place: Any, tmp_path: Path) -> None:
    folder, _ = place
    found = check(folder)
    assert (found.recipe, found.exit_status) == ("qwen-image-2.1", 0)
    shutil.copytree(folder, tmp_path / "other", ignore=shutil.ignore_patterns("*.safetensors"))
    path = tmp_path / "other" / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sample_sigmas": [1.0, 0.5]}))
    with pytest.raises(RecipeError, match="sample_sigmas"):
        recipe_of(tmp_path / "other")


def test_the_transformer_is_given_all_on_its_device() -> None:
    """What it makes of that goes by values, which a device without contents has none of."""
    denoiser: Any = qwen_image_21.tiny().levels[0].denoiser.build()  # type: ignore[attr-defined]
    given: list[dict[str, Any]] = []

    def transformer(**settings: Any) -> tuple[torch.Tensor]:
        given.append(settings)
        return (settings["hidden_states"],)

    object.__setattr__(denoiser, "_modules", {})
    denoiser.model = transformer
    x, picture = torch.zeros(2, 64, 4, 6, device=ELSEWHERE), torch.zeros(2, 64, 2, 2, device=ELSEWHERE)
    text = TextEncoding(torch.zeros(2, 9, 16, device=ELSEWHERE))
    places = torch.tensor([[3], [3]]).to(ELSEWHERE)
    with counted(), OneDevice():
        conditioning = Conditioning((text,), scalars={PLACES: places}, pictures={"reference.1": picture})
        answer = denoiser(x, torch.zeros(2, device=ELSEWHERE), conditioning)
    assert (answer.shape, answer.device) == (x.shape, ELSEWHERE)
    tensors = {name: value for name, value in given[0].items() if isinstance(value, torch.Tensor)}
    assert {value.device for value in tensors.values()} == {ELSEWHERE}
    assert tensors["hidden_states"].shape == (2, 4 + 24, 64)
    assert tensors["img_mask"].shape == (1, 9 + 1 + 6)
    assert given[0]["img_shapes"][0] == [(1, 2, 2), (1, 4, 6)]


def test_full_size() -> None:
    """7 B, and Qwen3-VL-8B's 8,767,123,696 without the head that speaks."""
    level: Any = qwen_image_21.levels[0]
    with torch.device("meta"):
        pairs = (
            (level.denoiser.build().model, diffusers.QwenImage21Transformer2DModel()),
            (level.space.build().model, diffusers.AutoencoderKLQwenImage21()),
        )
        encoder = qwen3_vl_8b.build()
    for ours, other in pairs:
        shapes = [{name: value.shape for name, value in each.state_dict().items()} for each in (ours, other)]
        assert shapes[0] == shapes[1]
    assert sum(p.numel() for p in pairs[0][0].parameters()) == 7_115_124_736
    assert sum(p.numel() for p in encoder.parameters()) + 151_936 * 4_096 == 8_767_123_696
