"""A folder of a flow-matching transformer draws in bimo as in diffusers' own pipeline."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

from bimo.core.errors import RecipeError, RequestError, WeightsError
from bimo.core.part import dump, dumps, loads
from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.models.flow_tokens import unpacked
from bimo.models.layouts.diffusers_folder import read_folder, recipe_of
from bimo.models.layouts.export import to_diffusers
from bimo.recipes.cogview4 import cogview4 as cogview4_recipe
from bimo.recipes.ernie_image import ernie_image as ernie_recipe
from bimo.recipes.lumina_image import lumina_image as lumina_recipe
from bimo.recipes.z_image import z_image as z_image_recipe
from tests.support.comparison import compare
from tests.support.drawing import alike, draw
from tests.support.flow_checkpoints import awake, glm_words, mistral3, opened, qwen_words, saved

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ("z_image", "qwen_image", "longcat_image", "cogview4", "lumina", "ovis_image", "ernie_image", "hunyuan_image")
REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {"text": "一只红苹果"},
    "negative": {"text": "red 苹果，写着“福 到”和'a don't'", "negative": "小桥 red"},
    "another size": {"text": "小桥流水人家", "negative": "x", "size": (96, 64)},
    "unguided": {"text": "红苹果", "guidance": None},
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder and diffusers' pipeline by kind, saved when first asked for."""
    made: dict[str, tuple[Path, Any]] = {}

    def place(kind: str) -> tuple[Path, Any]:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind) / "saved"
            made[kind] = (folder, saved(folder, kind))
        return made[kind]

    return place


def by_diffusers(pipeline: Any, kind: str, request: dict[str, Any]) -> list[numpy.ndarray]:
    """The pictures of diffusers' own pipeline for a request of bimo."""
    count = request.get("count", 1)
    width, height = request.get("size", (64, 64))
    scale = scaled(pipeline, kind, request["guidance"])
    pictures: list[numpy.ndarray] = []
    # One call a picture: with more, some pipelines ask for a negative prompt of another type.
    for index in range(count):
        drawn = pipeline(
            request["text"],
            negative_prompt=request.get("negative"),
            width=width,
            height=height,
            num_inference_steps=request["steps"],
            generator=torch.Generator().manual_seed(request["seed"] + index),
            **scale,
        )
        pictures += [numpy.asarray(image) for image in drawn.images]
    return pictures


def scaled(pipeline: Any, kind: str, guidance: float) -> dict[str, Any]:
    """What a pipeline is called with for a scale of guidance, or its guiders changed to it."""
    if kind == "hunyuan_image":
        for name in ("guider", "ocr_guider"):
            pipeline.register_modules(**{name: getattr(pipeline, name).new(guidance_scale=guidance)})
        return {}
    scale: dict[str, Any] = {"true_cfg_scale" if kind == "qwen_image" else "guidance_scale": guidance}
    if kind == "longcat_image":
        scale["enable_prompt_rewrite"] = False
    if kind == "lumina":
        scale["cfg_trunc_ratio"] = 0.25
    return scale


def latents(system: Any, request: dict[str, Any]) -> list[torch.Tensor]:
    """What is drawn before it is decoded, [1, C, h, w] each: there a little of a word more shows."""
    kept: list[torch.Tensor] = []
    space = system.space("image")
    own = space.decode
    space.decode = lambda x: (kept.append(x), own(x))[1]
    draw(system, request)
    space.decode = own
    return kept


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_empty_negative_prompt_is_one(places: Any, kind: str) -> None:
    """Qwen-Image guides only where there is a negative prompt, and the empty one is there."""
    folder, pipeline = places(kind)
    request = {"text": "一只红苹果", "negative": "", "seed": 4, "steps": 3, "guidance": 4.0, "size": (64, 64)}
    pictures = draw(read_folder(folder), request)
    compare(pictures, by_diffusers(pipeline, kind, request))
    assert pictures[0].request.negative == ""


@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_those_of_diffusers_and_words_move_them(places: Any, kind: str) -> None:
    folder, pipeline = places(kind)
    system = read_folder(folder)
    scale = scaled(pipeline, kind, 4.0)
    request = {"text": "小桥 “a b”", "negative": "red", "seed": 4, "steps": 4, "guidance": 4.0, "size": (64, 96)}
    expected = pipeline(
        request["text"],
        negative_prompt="red",
        width=64,
        height=96,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(4),
        output_type="latent",
        **scale,
    ).images
    if expected.ndim == 3:
        expected = unpacked(expected, 12, 8)
    found = latents(system, request)[0]
    assert torch.allclose(found, expected, atol=2e-4)
    for change in ({"text": "小桥 “a c”"}, {"negative": "rex"}, {"guidance": 3.9}):
        assert not torch.allclose(latents(system, {**request, **change})[0], expected, atol=2e-3)


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("kind", KINDS)
def test_draws_as_diffusers(places: Any, kind: str, name: str) -> None:
    folder, pipeline = places(kind)
    request = {
        "seed": 3,
        "steps": 4 if kind == "lumina" else 3,
        "guidance": 4.0,
        "size": (64, 64),
        "negative": "",
        **REQUESTS[name],
    }
    if request["guidance"] is None:
        request["guidance"] = 0.0 if kind == "z_image" else 1.0
    compare(draw(read_folder(folder), request), by_diffusers(pipeline, kind, request))


@pytest.mark.parametrize("kind", KINDS)
def test_two_drawn_together_are_as_two_of_diffusers(places: Any, kind: str) -> None:
    folder, pipeline = places(kind)
    request = {"text": "一只红 red 苹果", "negative": "桥", "seed": 5, "steps": 2, "guidance": 3.0, "count": 2}
    request["size"] = (64, 64)
    compare(draw(read_folder(folder), request, batch=2), by_diffusers(pipeline, kind, request))


@pytest.mark.parametrize(
    ("kind", "times", "name"),
    [
        ("lumina", {"use_dynamic_shifting": True}, "lumina-image-2"),
        ("z_image", {"use_dynamic_shifting": True}, "z-image"),
        ("z_image", {"shift": 3.0}, "z-image-turbo"),
        ("qwen_image", {"use_dynamic_shifting": False, "shift": 3.0, "shift_terminal": None}, "qwen-image"),
        ("cogview4", {"time_shift_type": "exponential"}, "cogview4"),
        ("ernie_image", {"shift": 3.0}, "ernie-image"),
    ],
)
def test_other_times_in_a_folder(tmp_path: Path, kind: str, times: dict[str, Any], name: str) -> None:
    pipeline = saved(tmp_path / "saved", kind, **times)
    system = read_folder(tmp_path / "saved")
    assert system.recipe.name == name
    request = {"text": "红苹果", "negative": "x", "seed": 2, "steps": 4, "guidance": 3.0, "size": (64, 96)}
    compare(draw(system, request), by_diffusers(pipeline, kind, request))


@pytest.mark.parametrize("mark", [{"lora_rank": 4, "use_lora": False}, {"lora_rank": 4}, {"use_lora": False}])
def test_the_distilled_ernie_is_told_by_its_transformers_config(places: Any, tmp_path: Path, mark: Any) -> None:
    base = recipe_of(places("ernie_image")[0])
    assert (base.name, base.levels[0].steps, base.levels[0].guidance.scale) == ("ernie-image", 50, 4.0)
    folder = tmp_path / "changed"
    shutil.copytree(places("ernie_image")[0], folder, ignore=shutil.ignore_patterns("*.safetensors"))
    path = folder / "transformer/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | mark))
    turbo = recipe_of(folder)
    assert (turbo.name, turbo.levels[0].steps, turbo.levels[0].guidance.scale) == ("ernie-image-turbo", 8, 1.0)
    assert turbo.levels[0].denoiser == base.levels[0].denoiser


def test_ministral_by_its_own_name_draws_the_same(tmp_path: Path) -> None:
    """The language model by the name that transformers has of it, which scales the attention of places far back."""
    pipeline = saved(tmp_path / "saved", "ernie_image")
    pipeline.text_encoder = awake(mistral3("ministral3"))
    pipeline.save_pretrained(str(tmp_path / "other"))
    system = read_folder(tmp_path / "other")
    assert dump(system.recipe.text_encoders[0])["family"] == "ministral3"
    request = {"text": "一只红苹果", "negative": "", "seed": 4, "steps": 3, "guidance": 4.0, "size": (64, 64)}
    compare(draw(system, request), by_diffusers(opened(tmp_path / "other"), "ernie_image", request))


@pytest.mark.parametrize("kind", KINDS)
def test_saved_by_bimo_it_draws_the_same(places: Any, tmp_path: Path, kind: str) -> None:
    system = read_folder(places(kind)[0])
    assert loads(dumps(system.recipe)) == system.recipe
    system.save(tmp_path)
    again = System.read(tmp_path)
    request = {"text": "red 苹果", "negative": "桥", "seed": 3, "steps": 2, "size": (64, 64)}
    alike(system, again, request)


@pytest.mark.parametrize(
    ("kind", "file", "change"),
    [
        ("z_image", "scheduler/scheduler_config.json", {"num_train_timesteps": 500}),
        ("z_image", "transformer/config.json", {"siglip_feat_dim": 8}),
        ("z_image", "text_encoder/config.json", {"hidden_cats": 3}),
        ("z_image", "model_index.json", {"text_encoder": ["remote_code", "Qwen3Model"]}),
        ("qwen_image", "transformer/config.json", {"guidance_embeds": True}),
        ("qwen_image", "vae/config.json", {"input_channels": 4}),
        ("longcat_image", "transformer/config.json", {"patch_size": 2}),
        ("cogview4", "transformer/config.json", {"patch_size": 4}),
        ("lumina", "transformer/config.json", {"out_channels": 3}),
        ("ernie_image", "transformer/config.json", {"use_lora": True}),
        ("ernie_image", "transformer/config.json", {"qk_layernorm": False}),
        ("ernie_image", "vae/config.json", {"decoder_block_out_channels": [96, 192, 384, 384]}),
    ],
)
def test_what_would_draw_wrong_is_refused_by_name(
    places: Any, tmp_path: Path, kind: str, file: str, change: dict[str, Any]
) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(places(kind)[0], folder)
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**config, **change}))
    with pytest.raises(RecipeError, match=next(iter(change))):
        recipe_of(folder)


def test_a_tensor_too_few_or_too_many_is_listed(places: Any, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(places("z_image")[0], folder)
    file = folder / "text_encoder" / "model.safetensors"
    state = load_file(file)
    save_file({**{n: v for n, v in state.items() if n != "norm.weight"}, "more": torch.zeros(1)}, file)
    with pytest.raises(WeightsError) as raised:
        read_folder(folder)
    assert "norm.weight" in raised.value.en
    assert "more" in raised.value.en


def test_names_of_a_whole_language_model_are_read(places: Any, tmp_path: Path) -> None:
    """Published towers were saved with their heads, under the names of the whole."""
    folder = tmp_path / "changed"
    shutil.copytree(places("z_image")[0], folder)
    file = folder / "text_encoder" / "model.safetensors"
    state = {f"model.{name}": value for name, value in load_file(file).items()}
    save_file({**state, "lm_head.weight": torch.zeros(2, 2)}, file)
    request = {"text": "红", "seed": 1, "steps": 2, "size": (64, 64)}
    alike(read_folder(places("z_image")[0]), read_folder(folder), request)


@pytest.mark.parametrize("kind", ["z_image", "cogview4", "lumina", "ernie_image", "hunyuan_image"])
def test_written_for_diffusers_it_draws_the_same(places: Any, tmp_path: Path, kind: str) -> None:
    folder, pipeline = places(kind)
    to_diffusers(read_folder(folder), tmp_path / "out")
    assert recipe_of(tmp_path / "out") == recipe_of(folder)
    request = {"text": "红 red", "negative": "桥", "seed": 3, "steps": 4, "guidance": 3.0, "size": (64, 96)}
    one, other = (by_diffusers(p, kind, request)[0] for p in (pipeline, opened(tmp_path / "out")))
    assert numpy.array_equal(one, other)


@pytest.mark.parametrize("recipe", [z_image_recipe, cogview4_recipe, lumina_recipe, ernie_recipe], ids=lambda r: r.name)
def test_a_recipe_is_written_and_read_back_whole(recipe: Recipe, tmp_path: Path) -> None:
    system = System(recipe.tiny())
    (glm_words if recipe.name == "cogview4" else qwen_words)(tmp_path / "words")
    system.text_encoders[0].load_tokenizer(tmp_path / "words")
    read = recipe_of(to_diffusers(system, tmp_path / "out"))
    assert (read.text_encoders, read.levels) == (system.recipe.text_encoders, system.recipe.levels)


def test_where_the_pipeline_would_ask_for_what_was_not_loaded_none_is_written(places: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"rewrites prompts with the whole of Qwen2\.5-VL") as raised:
        to_diffusers(read_folder(places("longcat_image")[0]), tmp_path / "out")
    assert "改写提示词" in raised.value.zh
    assert not (tmp_path / "out").exists()


FLOWS: dict[str, dict[str, Any]] = {
    "karras": {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_karras_sigmas": True},
    "beta": {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_beta_sigmas": True, "shift": 2.0},
    "exponential": {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "use_exponential_sigmas": True,
        "use_dynamic_shifting": True,
    },
    "linear": {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "use_dynamic_shifting": True,
        "time_shift_type": "linear",
        "shift_terminal": 0.1,
        "max_shift": 0.9,
    },
    "unipc": {
        "_class_name": "UniPCMultistepScheduler",
        "use_flow_sigmas": True,
        "use_dynamic_shifting": True,
        "prediction_type": "flow_prediction",
        "final_sigmas_type": "zero",
    },
    "heun": {"_class_name": "FlowMatchHeunDiscreteScheduler", "shift": 3.0},
    "multistep": {
        "_class_name": "DPMSolverMultistepScheduler",
        "use_flow_sigmas": True,
        "prediction_type": "flow_prediction",
        "use_dynamic_shifting": True,
    },
    "ddim": {"_class_name": "DDIMScheduler"},
    "epsilon": {"_class_name": "EulerDiscreteScheduler"},
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("kind", ["z_image", "cogview4", "ovis_image"])
def test_every_scheduler_draws_as_the_pipeline_or_is_refused(places: Any, tmp_path: Path, kind: str, name: str) -> None:
    folder, _ = places(kind)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    said = FLOWS[name]
    (other / "scheduler" / "scheduler_config.json").write_text(json.dumps(said))
    pipeline = opened(folder)
    pipeline.scheduler = getattr(diffusers, said["_class_name"]).from_config(said)
    if (kind, name) == (
        "z_image",
        "unipc",
    ):  # the pipeline's own times are a list, with which this solver cannot reckon
        pipeline = partial(pipeline, sigmas=numpy.linspace(1.0, 0.25, 4))
    request = {"text": "一只红苹果", "negative": "小桥", "seed": 4, "steps": 4, "guidance": 4.0, "size": (64, 64)}
    try:
        expected = by_diffusers(pipeline, kind, request)
    except Exception:  # diffusers cannot draw by it: then bimo says so, by its name
        with pytest.raises((RecipeError, RequestError), match=said["_class_name"]):
            draw(read_folder(other), request)
        return
    compare(draw(read_folder(other), request), expected)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [("DPM++ 2M", "does not go with"), ("DDIM", "there is euler, lcm"), ("Heun", "there is euler, lcm")],
)
def test_samplers_of_other_noise_are_refused(places: Any, sampler: str, message: str) -> None:
    folder, _ = places("z_image")
    with pytest.raises(RequestError) as raised:
        draw(read_folder(folder), {"text": "苹果", "steps": 2, "size": (64, 64), "sampler": sampler})
    assert message in raised.value.en


@pytest.mark.parametrize("sampler", ["Euler", "FlowMatchEulerDiscreteScheduler", "euler Karras", "LCM"])
def test_samplers_of_flows_go_by_the_folder(places: Any, sampler: str) -> None:
    folder, pipeline = places("z_image")
    request = {"text": "一只红苹果", "seed": 4, "steps": 4, "guidance": 4.0, "size": (64, 64)}
    drawn = draw(read_folder(folder), request | {"sampler": sampler})
    plain = draw(read_folder(folder), request)
    if "Karras" in sampler or sampler == "LCM":
        assert drawn[0].image.tobytes() != plain[0].image.tobytes()
    else:
        assert drawn[0].image.tobytes() == plain[0].image.tobytes()
        compare(drawn, by_diffusers(pipeline, "z_image", request))


def test_no_clip_no_clip_skip(places: Any) -> None:
    folder, _ = places("z_image")
    with pytest.raises(RequestError) as raised:
        draw(read_folder(folder), {"text": "苹果", "steps": 2, "size": (64, 64), "clip_skip": 2})
    assert "is no CLIP, clip_skip does nothing there" in raised.value.en
