"""GLM-Image beside diffusers' own pipeline: the tokens that its prior writes, what is drawn from them, its pictures."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.glm_image.image_processing_pil_glm_image import smart_resize

from bimo.core.errors import RecipeError, RequestError, TrainingError
from bimo.core.tensors import DenoiserInput, StepState
from bimo.diffusion import sampling
from bimo.diffusion.image_inputs import pixels_of
from bimo.diffusion.preparation import prepare
from bimo.diffusion.system import System
from bimo.engine.engine import Engine
from bimo.models.glm_image.conditioners import space_of, words_of
from bimo.models.glm_image.denoiser import GlmImage
from bimo.models.glm_image.prior import TOLD, GlmImagePrior
from bimo.models.glm_image.tokens import GlmImageTokens
from bimo.models.layouts.diffusers_folder import read_folder, recipe_of
from bimo.models.layouts.export import to_diffusers
from bimo.models.layouts.folder_check import check
from bimo.models.text_encoders.t5 import T5TextEncoder
from bimo.recipes.glm_image import glm_image as recipe
from tests.parity.test_flow import latents
from tests.support.comparison import compare
from tests.support.drawing import draw
from tests.support.edit_checkpoints import photo
from tests.support.edit_pipelines import by_diffusers, saved_by_bimo_draws_the_same
from tests.support.flow_checkpoints import opened, saved
from tests.support.glm_checkpoints import CODES, PIXELS, TEMPLATE, glm_image_words, reading_pictures

pytestmark = pytest.mark.usefixtures("one_thread")

REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {"text": "一只红苹果"},
    "quotations": {"text": "red 苹果，写着“福 到”和'a'，「丙」 \"d\""},
    "an even number of them": {"text": "“福”，“到”", "guidance": 3.0},
    "another size": {"text": "小桥流水人家", "size": (96, 64)},
    "unguided": {"text": "红苹果 'a'", "guidance": 1.0},
    "one step": {"text": "红苹果", "steps": 1},
    "a picture": {"text": "red 苹果 'a'", "image": photo().resize((96, 64)), "size": (64, 96)},
    "two pictures": {
        "text": "“福”",
        "image": photo().resize((64, 64)),
        "condition_images": {"image-2": photo(seed=1).resize((64, 96))},
    },
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder, and diffusers' pipeline of it."""
    folder = tmp_path_factory.mktemp("glm") / "saved"
    return folder, reading_pictures(saved(folder, "glm_image"))


def filled(**changes: Any) -> dict[str, Any]:
    return {"seed": 3, "steps": 3, "guidance": 1.5, "size": (64, 64), **changes}


def tokens(system: System, request: dict[str, Any]) -> list[int]:
    """What the prior wrote for the first picture of a request."""
    loop = sampling._levels(system, prepare(system, request), 0)
    output = None
    with torch.inference_mode():
        while True:
            try:
                asked: DenoiserInput = loop.send(output)  # type: ignore[arg-type]
            except StopIteration as stop:
                return stop.value.results["prior"][0].tolist()
            output = system.denoise(asked)


@pytest.mark.slow
@pytest.mark.parametrize("name", REQUESTS)
def test_draws_as_diffusers(place: tuple[Path, Any], name: str) -> None:
    folder, pipeline = place
    request = filled(**REQUESTS[name])
    compare(draw(read_folder(folder), request), by_diffusers(pipeline, request))


@pytest.mark.slow
def test_two_drawn_together_are_as_two_of_diffusers(place: tuple[Path, Any]) -> None:
    folder, pipeline = place
    request = filled(text="一只红 red 苹果 'a'", count=2, image=photo().resize((64, 64)))
    compare(draw(read_folder(folder), request, batch=2), by_diffusers(pipeline, request))


@pytest.mark.slow
def test_latents_are_those_of_diffusers_and_all_that_is_given_moves_them(place: tuple[Path, Any]) -> None:
    folder, pipeline = place
    system = read_folder(folder)
    request = filled(text="小桥 “a b”", image=photo().resize((64, 64)))
    expected = by_diffusers(pipeline, request, output_type="latent")[0]
    found = latents(system, request)[0]
    assert torch.allclose(found[0], expected, atol=2e-4)
    others = {"text": "小桥 “a c”"}, {"guidance": 2.0}, {"negative": "'x'"}, {"image": photo(seed=1).resize((64, 64))}
    for change in others:
        assert not torch.allclose(latents(system, {**request, **change})[0][0], expected, atol=2e-3), change
    # Outside of quotation marks it reads nothing that is not to be drawn.
    assert torch.equal(found, latents(system, {**request, "negative": "red"})[0])


@pytest.mark.slow
def test_a_seed_has_its_tokens_again_and_another_has_others(place: tuple[Path, Any]) -> None:
    folder, pipeline = place
    system = read_folder(folder)
    request = filled(text="红苹果")
    written = tokens(system, request)
    assert len(written) == 16 * 16 + 2 * 2
    assert all(0 <= token < CODES for token in written)
    assert tokens(system, request) == written
    for change in ({"seed": 4}, {"text": "小桥流水"}):
        assert tokens(system, {**request, **change}) != written
    expected, _, _ = pipeline.generate_prior_tokens("红苹果", 64, 64, generator=torch.Generator().manual_seed(3))
    assert expected[0, [0, 2, 8, 10]].tolist() == written[-4:]
    assert sampling.calls(system, prepare(system, request).request) == len(written) + 3


def test_without_what_was_kept_it_answers_the_same(place: tuple[Path, Any]) -> None:
    """Of the prior the tokens before, of the transformer the pictures: both are read anew where nothing was kept."""
    system = read_folder(place[0])
    request = filled(text="红 'a'", image=photo().resize((64, 64)), steps=2)
    loop = sampling._levels(system, prepare(system, request), 0)
    output, levels = None, []
    with torch.inference_mode():
        while True:
            try:
                asked: DenoiserInput = loop.send(output)  # type: ignore[arg-type]
            except StopIteration:
                break
            output = system.denoise(asked)
            denoiser = system.level(asked.level).denoiser
            torch.testing.assert_close(denoiser(asked.x, asked.t, asked.conditioning), output, rtol=1e-4, atol=1e-4)
            levels.append(asked.level)
            assert asked.states[0].kept
    assert levels == ["prior"] * 4 + ["image"] * 2


@pytest.mark.slow
def test_rows_of_a_call_have_what_was_kept_of_their_own_drawing(place: tuple[Path, Any]) -> None:
    """Drawings of as many tokens in other shapes and of other prompts share a call where they are told as much."""
    system = read_folder(place[0])
    requests = [filled(text=text, size=(64, 96)) for text in ("红苹果", "小桥流水 'x'")]
    alone = [draw(system, one)[0].image.tobytes() for one in requests]
    engine = Engine(system)
    together = [picture.image for picture in engine.draw_together(requests)]
    for one, other in zip(alone, together, strict=True):
        found = numpy.frombuffer(other.tobytes(), numpy.uint8).astype(int)
        assert numpy.abs(found - numpy.frombuffer(one, numpy.uint8)).max() <= 1


def test_the_prior_is_told_as_by_its_processor(tmp_path: Path) -> None:
    theirs = glm_image_words(tmp_path / "words")
    system = System(recipe.tiny())
    words, space = words_of(system), space_of(system, "prior")
    words.load_tokenizer(tmp_path / "words")
    pictures = transformers.models.glm_image.image_processing_pil_glm_image.GlmImageImageProcessorPil(
        size=PIXELS, patch_size=16, temporal_patch_size=1, merge_size=1
    )
    processor = transformers.GlmImageProcessor(pictures, theirs, chat_template=TEMPLATE)
    whole = GlmImageTokens(preview=16).preview
    for size, text in (((64, 96), "red 小桥"), ((1024, 512), "一"), ((160, 512), ""), ((512, 160), "a16")):
        message = [{"role": "user", "content": [{"type": "text", "text": text}]}]
        expected: Any = processor.apply_chat_template(
            [message], tokenize=True, target_h=size[1], target_w=size[0], return_dict=True, return_tensors="pt"
        )
        space.part = GlmImageTokens(preview=whole)
        grids = space.grids(size)
        assert expected["image_grid_thw"][:, 1:].tolist() == [list(grid) for grid in grids]
        ids, mask = words.ids([text])
        assert [*ids[0][mask[0]].tolist(), *words.told(grids)] == expected["input_ids"][0].tolist()


@pytest.mark.parametrize(
    "size", [(64, 64), (600, 400), (512, 512), (2048, 1024), (3000, 2100), (2048, 520), (513, 1999)]
)
def test_pictures_are_seen_at_the_sizes_of_its_processor(size: tuple[int, int]) -> None:
    with torch.device("meta"):
        space = GlmImageTokens().build()
    width, height = space.seen_size(size)
    assert (height // 2, width // 2) == smart_resize(size[1], size[0])
    assert width % 32 == height % 32 == 0


def test_a_picture_that_is_too_long_is_refused(place: tuple[Path, Any]) -> None:
    system = read_folder(place[0])
    with pytest.raises(RequestError, match="96x16 is too long") as raised:
        draw(system, filled(text="红", image=Image.new("RGB", (96, 16))))
    assert "96x16" in raised.value.zh


def test_a_picture_gives_its_shape(place: tuple[Path, Any]) -> None:
    system = read_folder(place[0])
    full = prepare(system, {"text": "红", "image": photo().resize((96, 48))}).request
    assert full.size is not None
    assert full.size[0] / full.size[1] == pytest.approx(2, rel=0.05)
    assert math.prod(full.size) == pytest.approx(1024 * 1024, rel=0.05)


def test_in_training_a_picture_is_named_by_its_own_tokens(place: tuple[Path, Any]) -> None:
    space = space_of(read_folder(place[0]), "prior")
    images = [photo(seed=seed).resize((96, 64)) for seed in range(4)]
    found = space.encode(torch.cat([pixels_of(image, (96, 64)) for image in images]))
    seen = torch.stack([space.seen(image).ids for image in images])
    assert found.shape == seen.shape == (4, 6)
    # Pillow rounds what it resizes to bytes, torch does not: a patch between two codes may have either.
    assert (found == seen).float().mean() > 0.8
    assert len(found.unique()) > 1


def test_the_prior_is_not_learnt_here(place: tuple[Path, Any]) -> None:
    system = read_folder(place[0])
    with pytest.raises(TrainingError, match="no noise to learn from"):
        system.level("prior").schedule.timesteps(1, torch.Generator())
    x = torch.zeros(1, 4, dtype=torch.long)
    untold = DenoiserInput("prior", x, torch.zeros(1), system.condition(()), states=(StepState(),))
    with pytest.raises(RecipeError, match=TOLD):
        system.denoise(untold)


@pytest.mark.slow
def test_saved_by_bimo_it_draws_the_same(place: tuple[Path, Any], tmp_path: Path) -> None:
    saved_by_bimo_draws_the_same(read_folder(place[0]), tmp_path, filled(text="red 苹果 'a'", steps=2))


@pytest.mark.slow
def test_written_for_diffusers_it_draws_the_same(place: tuple[Path, Any], tmp_path: Path) -> None:
    folder, pipeline = place
    to_diffusers(read_folder(folder), tmp_path / "out")
    assert recipe_of(tmp_path / "out") == recipe_of(folder)
    again = reading_pictures(opened(tmp_path / "out"))
    for name in ("quotations", "a picture"):
        request = filled(**REQUESTS[name])
        one, other = (by_diffusers(each, request)[0] for each in (pipeline, again))
        assert numpy.array_equal(one, other), name


def test_a_recipe_is_written_and_read_back_whole(tmp_path: Path) -> None:
    system = System(recipe.tiny())
    glm_image_words(tmp_path / "words")
    transformers.ByT5Tokenizer().save_pretrained(str(tmp_path / "bytes"))
    for tower, words in zip(system.text_encoders, ("words", "bytes"), strict=True):
        tower.load_tokenizer(tmp_path / words)
    # How many tokens a preview has is nowhere in a folder.
    prior, image = system.recipe.levels
    with pytest.raises(RecipeError, match=r"space\.preview"):
        to_diffusers(system, tmp_path / "out")
    space = replace(prior.space, preview=16)  # type: ignore[type-var]
    system.recipe = replace(system.recipe, levels=(replace(prior, space=space), image))
    read = recipe_of(to_diffusers(system, tmp_path / "out"))
    assert read.text_encoders == system.recipe.text_encoders
    # The steps of the prior are its tokens, whatever is said.
    assert tuple(replace(level, steps=50) for level in read.levels) == tuple(
        replace(level, steps=50) for level in system.recipe.levels
    )


def test_a_folder_of_it_is_whole(place: tuple[Path, Any], tmp_path: Path) -> None:
    found = check(place[0])
    assert (found.recipe, found.exit_status) == ("glm-image", 0)
    shutil.copytree(place[0], tmp_path / "part")
    (tmp_path / "part" / "vision_language_encoder" / "model.safetensors").unlink()
    assert [each.name for each in check(tmp_path / "part").lacking] == ["vision_language_encoder"]


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("transformer/config.json", {"prior_vq_quantizer_codebook_size": 64}),
        ("transformer/config.json", {"patch_size": 4}),
        ("vision_language_encoder/config.json", {"vision_config": {"spatial_merge_size": 2}}),
        ("vision_language_encoder/config.json", {"text_config": {"hidden_cats": 2}}),
        ("vision_language_encoder/generation_config.json", {"repetition_penalty": 1.2}),
        ("vae/config.json", {"latents_mean": None}),
        ("processor/processor_config.json", {"image_processor": {"temporal_patch_size": 2}}),
        ("processor/tokenizer_config.json", {"grid_bos_token": None}),
        ("model_index.json", {"tokenizer": ["transformers", "T5Tokenizer"]}),
        ("model_index.json", {"vision_language_encoder": ["remote_code", "GlmImageForConditionalGeneration"]}),
    ],
)
def test_what_would_draw_wrong_is_refused_by_name(
    place: tuple[Path, Any], tmp_path: Path, file: str, change: dict[str, Any]
) -> None:
    shutil.copytree(place[0], tmp_path / "other", ignore=shutil.ignore_patterns("*.safetensors"))
    path = tmp_path / "other" / file
    config = json.loads(path.read_text())
    ((name, value),) = change.items()
    if isinstance(value, dict):
        ((name, _),) = value.items()
        change = {key: config[key] | value for key in change}
    path.write_text(json.dumps(config | change))
    with pytest.raises(RecipeError, match=name):
        recipe_of(tmp_path / "other")


def test_how_tokens_are_drawn_is_read(place: tuple[Path, Any], tmp_path: Path) -> None:
    shutil.copytree(place[0], tmp_path / "other", ignore=shutil.ignore_patterns("*.safetensors"))
    path = tmp_path / "other" / "vision_language_encoder" / "generation_config.json"
    schedule: Any = recipe_of(tmp_path / "other").levels[0].schedule
    assert (schedule.temperature, schedule.top_k, schedule.top_p, schedule.vocabulary) == (0.9, 50, 0.75, CODES)
    path.write_text(json.dumps({"top_k": 3, "do_sample": True}))
    schedule = recipe_of(tmp_path / "other").levels[0].schedule
    assert (schedule.temperature, schedule.top_k, schedule.top_p) == (1.0, 3, 1.0)
    path.unlink()
    assert recipe_of(tmp_path / "other").levels[0].schedule.top_k == 50  # type: ignore[attr-defined]


def test_each_quotation_is_read_by_itself(place: tuple[Path, Any]) -> None:
    folder, pipeline = place
    encoder = read_folder(folder).text_encoders[1]
    assert isinstance(encoder, T5TextEncoder)
    texts = ["红", "“福 到”", "'a', “b”", "\"a\" 'bc' 「d」 ‘e’", "it is ''"]
    with torch.no_grad():
        every = encoder.encode(texts)
        for row, text in enumerate(texts):
            expected = pipeline._get_glyph_embeds([text])
            assert every.mask is not None
            assert int(every.mask[row].sum()) == expected.shape[1], text
            assert torch.allclose(every.tokens[row, : expected.shape[1]], expected[0], atol=1e-5), text
    budget = encoder.budget("“" + "长" * 700 + "” 'a'")
    assert (budget.used, budget.limit) == (2101, 2048)
    assert set(budget.lost) == {"长"}
    assert encoder.budget("红").used == 1


def test_full_size() -> None:
    """The parts of the recipe are the libraries' classes as they stand."""
    text = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}
    with torch.device("meta"):
        ours = System(recipe)
        whole = transformers.GlmImageForConditionalGeneration(transformers.GlmImageConfig(text_config=text))
        transformer = diffusers.GlmImageTransformer2DModel(attention_head_dim=128, num_attention_heads=32)
    named = {name: value.shape for name, value in whole.state_dict().items()}
    prior: Any = ours.level("prior")
    inner = {"visual": prior.space.visual, "vqmodel": prior.space.vqmodel, "language_model": prior.denoiser.model}
    found = {f"model.{name}.{key}": v.shape for name, part in inner.items() for key, v in part.state_dict().items()}
    assert found | {"lm_head.weight": prior.denoiser.lm_head.weight.shape} == named
    image: Any = ours.level("image").denoiser
    assert {n: v.shape for n, v in image.model.state_dict().items()} == {
        n: v.shape for n, v in transformer.state_dict().items()
    }
    counts = [sum(p.numel() for p in part.parameters()) for part in (prior.denoiser, image)]
    # Its publisher says 9 B and 7 B.
    assert counts == [8_914_788_352, 6_926_882_880]
    assert [round(count / 1e9) for count in counts] == [9, 7]
    assert isinstance(recipe.levels[0].denoiser, GlmImagePrior)
    assert recipe.levels[1].denoiser == GlmImage()
