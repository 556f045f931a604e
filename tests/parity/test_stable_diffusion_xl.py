"""Stable Diffusion XL's folders, Taiyi-XL's among them, draw as in diffusers' own pipeline, within 1/255 a channel."""

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
from PIL.PngImagePlugin import PngInfo
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from bimo.core.errors import RecipeError
from bimo.core.part import dumps, loads
from bimo.core.picture import METADATA_KEY, Picture, read_metadata
from bimo.diffusion.system import System
from bimo.models.layouts.diffusers_folder import read_folder, recipe_of
from tests.parity.test_image_inputs import hole, photo, unpasted
from tests.parity.test_stable_diffusion import by_diffusers
from tests.support.comparison import compare
from tests.support.drawing import alike, draw
from tests.support.tiny_checkpoints import clip_words, unet, vae

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
#: Words added to the byte pairs, as Taiyi-XL's added_tokens.json adds Chinese characters.
ADDED = ("苹", "果", "红")
XL: dict[str, Any] = {
    "channels": (8, 8, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 3),
    "attention_head_dim": (2, 2, 4),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
}


def enlarged_words(folder: Path, pad: str) -> CLIPTokenizer:
    """Byte pairs with Chinese characters in the legacy file added_tokens.json."""
    clip_words(folder)
    known = len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    added = {word: known + i for i, word in enumerate(ADDED)}
    (folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 16, "pad_token": pad}))
    words = CLIPTokenizer.from_pretrained(str(folder))
    assert len(words) == known + len(ADDED)
    return words


def checkpoint(folder: Path, eos: int | None = None, scheduler: Any = None, **settings: Any) -> Path:
    torch.manual_seed(5)
    words = [
        enlarged_words(folder.with_name(f"{folder.name}-{i}"), pad) for i, pad in enumerate(("<|endoftext|>", "!"))
    ]
    config = CLIPTextConfig(
        vocab_size=len(words[0]),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        projection_dim=12,
        bos_token_id=words[0].bos_token_id,
        eos_token_id=words[0].eos_token_id if eos is None else eos,
    )
    encoders = CLIPTextModel(config).eval(), CLIPTextModelWithProjection(config).eval()
    with torch.no_grad():
        for parameter in (*encoders[0].parameters(), *encoders[1].parameters()):
            parameter.mul_(2)
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=vae().eval(),
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        tokenizer=words[0],
        tokenizer_2=words[1],
        unet=unet(32, projection_class_embeddings_input_dim=12 + 6 * 8, **XL, **settings).eval(),
        scheduler=scheduler or diffusers.EulerDiscreteScheduler(**SCHEDULE, steps_offset=1, timestep_spacing="leading"),
        add_watermarker=False,
    )
    pipeline.save_pretrained(str(folder))
    return folder


def read_by_diffusers(folder: Path, cls: Any = diffusers.StableDiffusionXLPipeline) -> Any:
    pipeline = cls.from_pretrained(str(folder), local_files_only=True, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("xl") / "saved")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    return read_by_diffusers(folder)


@pytest.fixture(scope="module")
def system(folder: Path) -> System:
    return read_folder(folder)


@pytest.mark.parametrize(
    "request_",
    [
        {"text": "一只红苹果"},
        {"text": "a red cat", "negative": "苹果"},
        {"text": "红", "size": (80, 48), "guidance": 1.0},
        {"text": "苹果 and a very long prompt that is longer than what the towers read of it", "count": 2},
    ],
)
def test_draws_as_diffusers(system: System, pipeline: Any, request_: dict[str, Any]) -> None:
    request = {"seed": 3, "steps": 4, "guidance": 5.0, "size": (64, 64), **request_}
    compare(draw(system, request), by_diffusers(pipeline, request))


@pytest.mark.parametrize("negative", [None, ""])
def test_no_negative_prompt_is_not_the_empty_one(
    system: System, pipeline: Any, negative: str | None, tmp_path: Path
) -> None:
    """None is zeros, "" is what the towers say of nothing; a record keeps which it was."""
    request = {"text": "一只红苹果", "seed": 3, "steps": 4, "guidance": 5.0, "size": (64, 64), "negative": negative}
    pictures = draw(system, request)
    compare(pictures, by_diffusers(pipeline, request))
    record = read_metadata(pictures[0].save(tmp_path / "drawn.png"))["request"]
    assert record.get("negative") == negative
    assert draw(system, record)[0].png() == pictures[0].png()
    other = draw(system, request | {"negative": "" if negative is None else None})
    assert numpy.abs(pixels(other[0]) - pixels(pictures[0])).max() > 3


def test_records_of_old_that_say_nothing_of_it_had_none(system: System, tmp_path: Path) -> None:
    """Before there was a difference "" was written wherever no negative prompt was given."""
    (picture,) = draw(system, {"text": "红", "seed": 1, "steps": 3, "guidance": 5.0, "size": (64, 64)})
    record = picture.metadata()
    record["request"]["negative"] = ""
    info = PngInfo()
    info.add_itxt(METADATA_KEY, json.dumps(record))
    picture.image.save(tmp_path / "old.png", pnginfo=info)
    assert draw(system, read_metadata(tmp_path / "old.png")["request"])[0].png() == picture.png()


@pytest.mark.parametrize("skip", [1, 2])
def test_clip_skip_is_counted_as_a1111_does(system: System, pipeline: Any, skip: int) -> None:
    request = {"text": "a red cat", "negative": "red", "seed": 3, "steps": 4, "guidance": 5.0, "size": (64, 64)}
    settings = {"negative_prompt": "red", "width": 64, "height": 64, "num_inference_steps": 4, "guidance_scale": 5.0}
    image = pipeline("a red cat", clip_skip=skip - 1, generator=torch.Generator().manual_seed(3), **settings).images[0]
    found = draw(system, request | {"clip_skip": skip})
    compare(found, [numpy.asarray(image)])
    assert (numpy.abs(pixels(found[0]) - pixels(draw(system, request)[0])).max() > 3) == (skip > 1)


def pixels(picture: Picture) -> numpy.ndarray:
    return numpy.asarray(picture.image).astype(int)


def test_two_drawn_together_are_as_two_of_diffusers(system: System, pipeline: Any) -> None:
    request = {"text": "红苹果", "seed": 5, "steps": 3, "guidance": 7.0, "size": (64, 64), "count": 2}
    compare(draw(system, request, batch=2), by_diffusers(pipeline, request))


def test_sizes_may_be_said(system: System, pipeline: Any) -> None:
    request = {"text": "红", "seed": 2, "steps": 3, "guidance": 5.0, "size": (64, 64)}
    drawn = pipeline(
        "红",
        num_inference_steps=3,
        guidance_scale=5.0,
        height=64,
        width=64,
        original_size=(32, 48),
        crops_coords_top_left=(4, 8),
        target_size=(512, 256),
        generator=torch.Generator().manual_seed(2),
    )
    settings = {"conditions": {"size_ids": [32, 48, 4, 8, 512, 256]}}
    compare(draw(system, request | settings), [numpy.asarray(image) for image in drawn.images])


def test_end_is_where_the_config_has_it(system: System, tmp_path: Path) -> None:
    """With eos_token_id 2 transformers pools the largest token, which in an enlarged vocabulary is not the end."""
    other = checkpoint(tmp_path / "old", eos=2)
    request = {"text": "一只红苹果", "seed": 3, "steps": 3, "guidance": 5.0, "size": (64, 64)}
    pictures = draw(read_folder(other), request)
    compare(pictures, by_diffusers(read_by_diffusers(other), request))
    encoders: list[Any] = [system.recipe.text_encoders[1], recipe_of(other).text_encoders[1]]
    assert [tower.pool for tower in encoders] == ["end", "largest"]
    assert pictures[0].image.tobytes() != draw(system, request)[0].image.tobytes()


def test_a_character_is_a_token(system: System) -> None:
    for tower, pad in zip(system.text_encoders, ("<|endoftext|>", "!"), strict=True):
        any_tower: Any = tower
        ids, mask = any_tower.ids(["红苹果"])
        assert int(mask.sum()) == 2 + 3
        assert any_tower.tokenizer.id_to_token(int(ids[0, -1])) == pad


def test_saved_by_bimo_it_draws_the_same(system: System, tmp_path: Path) -> None:
    assert loads(dumps(system.recipe)) == system.recipe
    system.save(tmp_path)
    request = {"text": "red 苹果", "seed": 3, "steps": 2, "negative": "红"}
    alike(system, System.read(tmp_path), request)


def of_parts(cls: Any, pipeline: Any) -> Any:
    """Another pipeline of the same parts."""
    made = cls(**pipeline.components, add_watermarker=False)
    made.set_progress_bar_config(disable=True)
    return made


def _of(pictures: Any) -> list[Any]:
    import numpy

    return [numpy.asarray(image) for image in pictures]


def _drawn(system: System, request: dict[str, Any]) -> list[Picture]:
    return draw(unpasted(system), {**request, "guidance": 5.0})


@pytest.mark.slow
def test_begins_from_a_picture_and_paints_in_a_mask_as_diffusers(folder: Path, pipeline: Any) -> None:
    request = {"text": "红", "seed": 4, "steps": 4, "size": (64, 64), "image": photo(), "strength": 0.6}
    common: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 5.0, "strength": 0.6}
    image = photo().resize((64, 64), Image.Resampling.LANCZOS)
    drawn = of_parts(diffusers.StableDiffusionXLImg2ImgPipeline, pipeline)(
        "红", image=image, generator=torch.Generator().manual_seed(4), **common
    )
    compare(_drawn(read_folder(folder), request), _of(drawn.images))
    pipeline = read_by_diffusers(folder, diffusers.StableDiffusionXLInpaintPipeline)
    drawn = pipeline(
        "红",
        image=photo(),
        mask_image=hole(),
        width=64,
        height=64,
        generator=torch.Generator().manual_seed(4),
        **common,
    )
    compare(_drawn(read_folder(folder), request | {"mask": hole()}), _of(drawn.images))


def test_nine_channels_paint_as_diffusers(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "nine", in_channels=9, out_channels=4)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionXLInpaintPipeline"}))
    request = {"text": "红", "seed": 4, "steps": 4, "size": (64, 64), "image": photo(), "mask": hole()}
    pipeline = read_by_diffusers(folder, diffusers.StableDiffusionXLInpaintPipeline)
    for strength in (1.0, 0.6):
        drawn = pipeline(
            "红",
            image=photo(),
            mask_image=hole(),
            width=64,
            height=64,
            strength=strength,
            num_inference_steps=4,
            guidance_scale=5.0,
            generator=torch.Generator().manual_seed(4),
        )
        compare(_drawn(read_folder(folder), request | {"strength": strength}), _of(drawn.images))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("unet/config.json", {"cross_attention_dim": 40}, "words 40"),
        ("unet/config.json", {"projection_class_embeddings_input_dim": 40}, "no room"),
        ("unet/config.json", {"addition_embed_type": "image"}, "not supported together"),
        ("unet/config.json", {"in_channels": 7}, "9 of an inpainting model"),
        ("model_index.json", {"requires_aesthetics_score": True}, "refiner"),
        ("model_index.json", {"text_encoder_2": ["transformers", "CLIPTextModel"]}, "CLIPTextModelWithProjection"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    folder: Path, tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    shutil.copytree(folder, tmp_path / "bad", ignore=shutil.ignore_patterns("*.safetensors"))
    path = tmp_path / "bad" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(RecipeError) as raised:
        recipe_of(tmp_path / "bad")
    assert message in raised.value.en
