"""Systems written for diffusers draw there as they did before: of bimo, in its own pipeline, from its own reader."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from bimo.core.errors import RecipeError
from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.models.layouts.diffusers_folder import read_folder, recipe_of
from bimo.models.layouts.export import to_diffusers, to_single
from bimo.recipes.damo_sd import damo_sd_zh
from bimo.recipes.damo_tiny import damo_tiny
from bimo.recipes.hunyuan_dit import hunyuan_dit_1_1, hunyuan_dit_1_2
from bimo.recipes.kolors import kolors
from bimo.recipes.miaobi import miaobi
from bimo.recipes.pai_diffusion import pai_artist_large
from bimo.recipes.qwen_image import qwen_image
from bimo.recipes.skypaint import skypaint
from bimo.recipes.wukong import wukong
from tests.parity.test_hunyuan_dit import by_diffusers as by_hunyuan
from tests.parity.test_kolors import VOCAB, folder, kolors_unet, scheduler, system, words
from tests.parity.test_stable_diffusion import by_diffusers
from tests.support import hunyuan_checkpoints
from tests.support.chinese_checkpoints import copied, edit, pieces_words, published
from tests.support.comparison import compare
from tests.support.drawing import alike, draw
from tests.support.flow_checkpoints import opened, qwen_words, saved
from tests.support.kolors_checkpoints import chatglm, glm_words, module_of_diffusers, random, save
from tests.support.tiny_checkpoints import read_by_diffusers, vae

pytestmark = pytest.mark.usefixtures("one_thread")

__all__ = ["folder", "system", "words"]

REQUEST = {"text": "一只红苹果，a cat", "negative": "小桥", "seed": 3, "steps": 4, "guidance": 7.5, "size": (64, 48)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a Chinese relative of Stable Diffusion, saved when first asked for."""
    found: dict[str, Path] = {}

    def make(row: str) -> Path:
        if row not in found:
            found[row] = published(tmp_path_factory.mktemp(row) / "saved", row).folder
        return found[row]

    return make


def through_bimo(system: System, place: Path) -> System:
    """The system out of bimo's own folder."""
    system.save(place)
    return System.read(place)


@pytest.mark.parametrize("row", ["pai", "skypaint", "wukong", "miaobi", "damo"])
def test_chinese_relatives_draw_in_diffusers(made: Any, tmp_path: Path, row: str) -> None:
    before = through_bimo(read_folder(made(row)), tmp_path / "bimo")
    out = to_diffusers(before, tmp_path / "out")
    pictures = draw(before, REQUEST)
    compare(pictures, by_diffusers(read_by_diffusers(out), REQUEST))
    again = read_folder(out)
    assert again.recipe.text_encoders == before.recipe.text_encoders
    alike(before, again, REQUEST)


def test_kolors_draws_in_diffusers(system: System, words: Any, tmp_path: Path) -> None:
    before = through_bimo(system, tmp_path / "bimo")
    out = to_diffusers(before, tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = module_of_diffusers("pipeline_kolors").KolorsPipeline.from_pretrained(
            str(out), local_files_only=True, tokenizer=words(out / "tokenizer")
        )
    pipeline.set_progress_bar_config(disable=True)
    pictures = draw(before, REQUEST)
    compare(pictures, by_diffusers(pipeline, REQUEST))
    alike(before, read_folder(out), REQUEST)


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_hunyuan_dit_draws_in_diffusers(tmp_path: Path, version: str) -> None:
    hunyuan_checkpoints.checkpoint(tmp_path / "saved", version)
    before = through_bimo(read_folder(tmp_path / "saved"), tmp_path / "bimo")
    out = to_diffusers(before, tmp_path / "out")
    pictures = draw(before, REQUEST)
    compare(pictures, by_hunyuan(hunyuan_checkpoints.read_by_diffusers(out), REQUEST))
    alike(before, read_folder(out), REQUEST)


def test_qwen_image_draws_in_diffusers(tmp_path: Path) -> None:
    saved(tmp_path / "saved", "qwen_image")
    before = through_bimo(read_folder(tmp_path / "saved"), tmp_path / "bimo")
    out = to_diffusers(before, tmp_path / "out")
    request = {**REQUEST, "guidance": 4.0, "size": (64, 96)}
    drawn = opened(out)(
        request["text"],
        negative_prompt=request["negative"],
        true_cfg_scale=4.0,
        width=64,
        height=96,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(3),
    )
    pictures = draw(before, request)
    compare(pictures, [numpy.asarray(image) for image in drawn.images])
    alike(before, read_folder(out), request)


def test_spelling_of_the_tokenizer_goes_along(made: Any, tmp_path: Path) -> None:
    """BERT's class makes its own normaliser of its settings: one that keeps capitals must say so."""
    kept = copied(made("pai"), tmp_path / "kept")
    edit(kept / "tokenizer/tokenizer_config.json", do_lower_case=False)
    before = read_folder(kept)
    theirs = read_by_diffusers(to_diffusers(before, tmp_path / "out")).tokenizer
    tower: Any = before.text_encoders[0]
    ids = theirs("Red 红 a", padding="max_length", max_length=32, return_tensors="pt").input_ids
    assert torch.equal(ids, tower.ids(["Red 红 a"])[0])
    assert not torch.equal(ids, tower.ids(["red 红 a"])[0])


def refused(write: Callable[[System, Path], Path], system: System, place: Path) -> str:
    """What is told of a system that does not go out, in English; nothing is left behind."""
    with pytest.raises(RecipeError) as raised:
        write(system, place)
    assert "--to bimo" in raised.value.zh
    assert not place.exists()
    return raised.value.en


def changed(system: System, **parts: Any) -> System:
    """The system with fields of its first tower's part changed; tensors and words stay."""
    tower: Any = system.text_encoders[0]
    tower.part = replace(tower.part, **parts)
    system.recipe = replace(system.recipe, text_encoders=(tower.part,))
    return system


def test_a_mask_of_kolors_has_no_pipeline(tmp_path: Path) -> None:
    nine = kolors_unet(in_channels=9, out_channels=4)
    save(tmp_path / "nine", random(chatglm(VOCAB)), nine, vae().eval(), scheduler(), "KolorsInpaintPipeline")
    message = refused(to_diffusers, read_folder(tmp_path / "nine"), tmp_path / "out")
    assert "kolors-inpainting (ChatGLMModel + UNet2DConditionModel, 1 levels, with a mask)" in message


def test_several_levels_have_no_pipeline(tmp_path: Path) -> None:
    message = refused(to_diffusers, System(damo_tiny.tiny()), tmp_path / "out")
    assert "damo-tiny-tiny (BertModel + PixelDenoiser, 3 levels)" in message


@pytest.mark.parametrize(
    ("row", "change", "message"),
    [
        # Nothing of diffusers hides the padding from the painter.
        ("damo", {"padding": "hidden"}, "diffusers' layout cannot keep text.0.masked"),
        # Pooled words go nowhere in it.
        ("damo", {"pool": "mean"}, "diffusers' layout cannot keep text.0.pool of"),
        # Other marks than MiaoBi's are in no publisher's folder.
        ("miaobi", {"marks": (2, 49407)}, "diffusers' layout cannot keep text.0.marks"),
        ("skypaint", {"length": 20, "long": "pieces"}, "diffusers' layout cannot keep text.0.long"),
    ],
)
def test_what_a_folder_cannot_keep_is_named(
    made: Any, tmp_path: Path, row: str, change: dict[str, Any], message: str
) -> None:
    assert message in refused(to_diffusers, changed(read_folder(made(row)), **change), tmp_path / "out")


@pytest.mark.parametrize("row", ["damo", "kolors"])
def test_single_files_have_no_names_for_it(made: Any, system: System, tmp_path: Path, row: str) -> None:
    wanted = system if row == "kolors" else read_folder(made(row))
    message = refused(to_single, wanted, tmp_path / "out.safetensors")
    assert f"has no names for the parts of {wanted.recipe.name}" in message


def test_what_a_single_file_cannot_keep_is_named(made: Any, tmp_path: Path) -> None:
    """MiaoBi's tokenizer would begin and end with BERT's marks."""
    message = refused(to_single, read_folder(made("miaobi")), tmp_path / "out.safetensors")
    assert "the layout of single files cannot keep text.0." in message
    assert not list(tmp_path.iterdir())


WORDS: dict[str, Callable[[Path], Any]] = {
    "Bert": lambda place: pieces_words(place, 512),
    "ClipText": lambda place: pieces_words(place, 77),
    "ChatGlm": glm_words,
    "T5": hunyuan_checkpoints.t5_words,
    "LanguageModel": qwen_words,
}


@pytest.mark.parametrize(
    "recipe",
    [pai_artist_large, skypaint, wukong, miaobi, damo_sd_zh, kolors, hunyuan_dit_1_1, hunyuan_dit_1_2, qwen_image],
    ids=lambda recipe: recipe.name,
)
def test_a_recipe_is_written_and_read_back_whole(recipe: Recipe, tmp_path: Path) -> None:
    tiny = recipe.tiny()
    own = System(tiny)
    for index, (part, tower) in enumerate(zip(tiny.text_encoders, own.text_encoders, strict=True)):
        place = tmp_path / f"words.{index}"
        WORDS[type(part).__name__](place)
        tower.load_tokenizer(place)
    read = recipe_of(to_diffusers(own, tmp_path / "out"))
    assert read.text_encoders == tiny.text_encoders
    one, other = tiny.levels[0], read.levels[0]
    assert (one.space, one.denoiser, one.conditioners) == (other.space, other.denoiser, other.conditioners)
