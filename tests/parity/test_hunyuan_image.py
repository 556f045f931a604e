"""HunyuanImage-2.1 beside diffusers: its bytes and quotations, its projected guidance, its guiders in folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers.pipelines.hunyuan_image.pipeline_hunyuanimage import extract_glyph_text

from bimo.core.errors import RecipeError, WeightsError
from bimo.core.recipe import Guidance, ProjectedGuidance
from bimo.core.tensors import TextEncoding
from bimo.diffusion.guidance import Projection, combine
from bimo.diffusion.system import System
from bimo.models.hunyuan_image.layout import guiders
from bimo.models.hunyuan_image.space import HunyuanImageLatent
from bimo.models.layouts.diffusers_folder import read_folder, recipe_of
from bimo.models.layouts.export import to_diffusers
from bimo.models.text_encoders.t5 import T5, T5TextEncoder
from bimo.recipes.hunyuan_image import hunyuan_image_2_1
from tests.support.flow_checkpoints import qwen_words, saved

PROMPTS = (
    "一只红苹果",
    "写着“福 到”",
    "'a' and \"b c\" and ‘丙’ and “丁😀”",
    'it is "" and "x</s>y <color-0>"',
    "“" + "长" * 60 + "”",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hunyuan") / "saved"
    saved(place, "hunyuan_image")
    return place


def byt5(folder: Path) -> Any:
    words = transformers.ByT5Tokenizer()
    words.add_tokens(["<color-0>", "<zh-font-0>"], special_tokens=True)
    words.save_pretrained(str(folder))
    return words


def encoder() -> T5TextEncoder:
    torch.manual_seed(0)
    return T5(vocab=400, length=128, words="bytes", quoted=True).tiny().build().eval()


def test_what_is_quoted_is_read_as_the_pipeline_reads_it(tmp_path: Path) -> None:
    theirs, ours = byt5(tmp_path / "words"), encoder()
    ours.load_tokenizer(tmp_path / "words")
    ours.save_tokenizer(tmp_path / "again")
    again = encoder()
    again.load_tokenizer(tmp_path / "again")
    written = transformers.ByT5Tokenizer.from_pretrained(str(tmp_path / "again"), local_files_only=True)
    with torch.no_grad():
        encoding = ours.encode(PROMPTS)
    assert encoding.mask is not None
    for row, prompt in enumerate(PROMPTS):
        glyphs = extract_glyph_text(prompt)
        assert ours.spelt(prompt) == (glyphs or "")
        if glyphs is None:
            assert not encoding.mask[row].any()
            assert not encoding.tokens[row].any()
            continue
        for tokenizer in (theirs, written):
            read = tokenizer(glyphs, padding="max_length", max_length=128, truncation=True, return_tensors="pt")
            for tower in (ours, again):
                ids, mask = tower.ids([prompt])
                assert torch.equal(ids, read.input_ids), prompt
                assert torch.equal(mask.long(), read.attention_mask)
        with torch.no_grad():
            expected = ours.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        assert torch.allclose(encoding.tokens[row], expected[0], atol=1e-6)


def test_what_is_lost_of_a_quotation_is_told(tmp_path: Path) -> None:
    byt5(tmp_path / "words")
    ours = encoder()
    ours.load_tokenizer(tmp_path / "words")
    budget = ours.budget(PROMPTS[-1])
    assert budget.used > budget.limit == 128
    assert set(budget.lost[:5]) == {"长"}
    assert not ours.budget(PROMPTS[0]).lost


def test_tokens_that_do_not_count_on_are_refused(tmp_path: Path) -> None:
    byt5(tmp_path / "words")
    path = tmp_path / "words" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["added_tokens_decoder"]["395"] = settings["added_tokens_decoder"].pop("384")
    path.write_text(json.dumps(settings))
    (tmp_path / "words" / "added_tokens.json").unlink(missing_ok=True)
    with pytest.raises(WeightsError, match="a number of their own"):
        encoder().load_tokenizer(tmp_path / "words")


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize(
    ("rescale", "settings"),
    [
        (0.0, {}),
        (0.0, {"eta": 0.7, "momentum": 0.4}),
        (0.0, {"threshold": 0.0, "scale": 3.0}),
        (0.6, {"threshold": 1.5}),
    ],
    ids=str,
)
def test_guidance_is_projected_as_by_diffusers(rescale: float, settings: dict[str, Any], written: bool) -> None:
    projected = ProjectedGuidance(start=1, start_written=2, **settings)
    guide = Guidance(scale=3.5, rescale=rescale, projected=projected)
    theirs = guiders(guide)["ocr_guider" if written else "guider"]
    mask = torch.tensor([[True, False]]) if written else torch.zeros(1, 2, dtype=torch.bool)
    words = TextEncoding(torch.zeros(1, 3, 4))
    projection = Projection(projected, (words, TextEncoding(torch.zeros(1, 2, 4), mask)))
    generator = torch.Generator().manual_seed(3)
    plain: list[bool] = []
    for step in range(6):
        null, given = torch.randn(2, 1, 5, 3, 4, generator=generator).unbind()
        theirs.set_state(step=step, num_inference_steps=6, timestep=torch.tensor(0))
        theirs.prepare_inputs({"x": (given, null)})
        expected = theirs.forward(given, null).pred
        found = combine(guide, 3.5, torch.cat([null, given]), (), projection, step)
        assert torch.allclose(found, expected, atol=1e-5), step
        plain.append(torch.allclose(found, combine(guide, 3.5, torch.cat([null, given])), atol=1e-4))
    assert plain == [step <= (2 if written else 1) for step in range(6)]


def changed(folder: Path, place: Path, file: str, **changes: Any) -> Path:
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("*.safetensors"))
    path = place / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return place


def test_guiders_are_those_of_the_folder(folder: Path, tmp_path: Path) -> None:
    recipe = recipe_of(folder)
    guidance = recipe.levels[0].guidance
    assert guidance == Guidance(
        scale=3.5, projected=ProjectedGuidance(scale=6.0, threshold=4.0, eta=0.3, start=0, start_written=1)
    )
    assert "guider" not in recipe.note
    alone = changed(folder, tmp_path / "alone", "model_index.json", ocr_guider=[None, None])
    projected = recipe_of(alone).levels[0].guidance.projected
    assert projected is not None
    assert projected.start == projected.start_written == 0
    none = changed(folder, tmp_path / "none", "model_index.json", guider=[None, None], ocr_guider=[None, None])
    assert recipe_of(none).levels[0].guidance == Guidance(scale=1.0)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("ocr_guider/guider_config.json", {"eta": 0.1}),
        ("ocr_guider/guider_config.json", {"use_original_formulation": True}),
        ("transformer/config.json", {"guidance_embeds": True}),
        ("transformer/config.json", {"in_channels": 128}),
        ("vae/config.json", {"downsample_match_channel": False}),
        ("model_index.json", {"tokenizer_2": ["transformers", "T5Tokenizer"]}),
        ("model_index.json", {"guider": ["diffusers", "ClassifierFreeGuidance"]}),
    ],
)
def test_what_would_draw_wrong_is_refused_by_name(folder: Path, tmp_path: Path, file: str, change: Any) -> None:
    with pytest.raises(RecipeError, match=next(iter(change))):
        recipe_of(changed(folder, tmp_path / "changed", file, **change))


def test_a_recipe_is_written_and_read_back_whole(tmp_path: Path) -> None:
    system = System(hunyuan_image_2_1.tiny())
    qwen_words(tmp_path / "words")
    byt5(tmp_path / "bytes")
    for tower, place in zip(system.text_encoders, ("words", "bytes"), strict=True):
        tower.load_tokenizer(tmp_path / place)
    out = to_diffusers(system, tmp_path / "out")
    read = recipe_of(out)
    assert (read.text_encoders, read.levels) == (system.recipe.text_encoders, system.recipe.levels)
    guider = diffusers.AdaptiveProjectedMixGuidance.from_pretrained(str(out / "ocr_guider"))
    assert guider.config.adaptive_projected_guidance_start_step == 75


@pytest.mark.slow
def test_space_at_full_size_and_there_and_back(folder: Path) -> None:
    config = {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 64,
        "block_out_channels": (128, 256, 512, 512, 1024, 1024),
        "layers_per_block": 2,
        "spatial_compression_ratio": 32,
        "sample_size": 384,
        "scaling_factor": 0.75289,
    }
    with torch.device("meta"):
        models = HunyuanImageLatent().build().model, diffusers.AutoencoderKLHunyuanImage(**config)
        shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in models]
    assert shapes[0] == shapes[1]
    space: Any = read_folder(folder).space("image")
    pixels = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        x = space.encode(pixels)
        z = space.model.encode(pixels).latent_dist.mode()
        assert tuple(x.shape[1:]) == space.shape((96, 64)) == (64, 2, 3)
        assert torch.allclose(x, z * 0.75289, atol=1e-6)
        assert torch.allclose(space.decode(x), space.model.decode(z).sample, atol=1e-4)
        one, two = (space.encode(pixels, torch.Generator().manual_seed(i)) for i in (1, 2))
        middle, deviation = space.posterior(pixels)
    assert torch.allclose(middle, x, atol=1e-6)
    assert not torch.equal(one, two)
    assert 0.5 < ((one - middle) / deviation).std() < 1.5
