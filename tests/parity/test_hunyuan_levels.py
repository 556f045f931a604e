"""HunyuanImage-2.1's distilled form and its refiner beside diffusers' own pipelines."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch

from bimo.core.errors import RecipeError
from bimo.core.part import dumps, loads
from bimo.diffusion.image_inputs import pixels_of
from bimo.diffusion.preparation import prepare
from bimo.diffusion.system import System
from bimo.models.hunyuan_image.refiner import HunyuanRefinerLatent
from bimo.models.layouts.diffusers_folder import read_folder, recipe_of
from bimo.models.layouts.export import to_diffusers
from bimo.models.layouts.folder_check import check
from bimo.recipes.hunyuan_image import hunyuan_image_2_1_distilled, hunyuan_image_2_1_refiner
from tests.parity.test_flow import latents
from tests.support.comparison import compare
from tests.support.drawing import alike, draw, same_weights
from tests.support.edit_checkpoints import photo
from tests.support.flow_checkpoints import opened, saved

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = {"hunyuan_distilled": "hunyuan-image-2.1-distilled", "hunyuan_refiner": "hunyuan-image-2.1-refiner"}
REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {"text": "一只红苹果"},
    "negative": {"text": "red 苹果，写着“福 到”", "negative": "小桥 red"},
    "empty negative": {"text": "小桥", "negative": ""},
    "another size": {"text": "小桥流水人家", "size": (96, 64)},
    "another scale": {"text": "红苹果", "guidance": 1.5},
    "one step": {"text": "红苹果", "steps": 1},
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


def filled(kind: str, **changes: Any) -> dict[str, Any]:
    own: dict[str, Any] = {"seed": 3, "steps": 3, "guidance": 4.0, "size": (64, 64)}
    return own | ({"image": photo()} if kind == "hunyuan_refiner" else {}) | changes


def by_diffusers(pipeline: Any, request: dict[str, Any], **more: Any) -> list[Any]:
    """The pictures of diffusers' own pipeline for a request of bimo."""
    width, height = request["size"]
    given = {"image": request["image"]} if "image" in request else {}
    drawn = [
        pipeline(
            request["text"],
            negative_prompt=request.get("negative"),
            distilled_guidance_scale=request["guidance"],
            width=width,
            height=height,
            num_inference_steps=request["steps"],
            generator=torch.Generator().manual_seed(request["seed"] + index),
            **given,
            **more,
        )
        for index in range(request.get("count", 1))
    ]
    return [each if more else numpy.asarray(each) for one in drawn for each in one.images]


@pytest.mark.slow
@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("kind", NAMES)
def test_draws_as_diffusers(places: Any, kind: str, name: str) -> None:
    folder, pipeline = places(kind)
    assert recipe_of(folder).name == NAMES[kind]
    request = filled(kind, **REQUESTS[name])
    compare(draw(read_folder(folder), request), by_diffusers(pipeline, request))


@pytest.mark.parametrize("kind", NAMES)
def test_two_drawn_together_are_as_two_of_diffusers(places: Any, kind: str) -> None:
    folder, pipeline = places(kind)
    request = filled(kind, text="一只红 red 苹果", count=2)
    compare(draw(read_folder(folder), request, batch=2), by_diffusers(pipeline, request))


@pytest.mark.slow
@pytest.mark.parametrize("kind", NAMES)
def test_latents_are_those_of_diffusers_and_all_that_is_given_moves_them(places: Any, kind: str) -> None:
    folder, pipeline = places(kind)
    system = read_folder(folder)
    request = filled(kind, text="小桥 “a b”", size=(64, 96))
    expected = by_diffusers(pipeline, request, output_type="latent")[0].reshape(
        1, 64, *latents(system, request)[0].shape[2:]
    )
    assert torch.allclose(latents(system, request)[0], expected, atol=2e-4)
    changes: list[dict[str, Any]] = [{"text": "山 x"}, {"guidance": 3.5}]
    changes += [{"image": photo(seed=1)}] if kind == "hunyuan_refiner" else []
    for change in changes:
        assert not torch.allclose(latents(system, {**request, **change})[0], expected, atol=2e-3), change
    assert torch.equal(*(latents(system, {**request, "negative": each})[0] for each in ("", "red")))


def test_a_mean_flow_is_told_where_each_step_leads_to(places: Any) -> None:
    system = read_folder(places("hunyuan_distilled")[0])
    reported: list[tuple[float, float]] = []
    own = system.level("image").denoiser.model
    forward = own.forward

    def kept(**given: Any) -> Any:
        reported.append((float(given["timestep"][0]), float(given["timestep_r"][0])))
        return forward(**given)

    own.forward = kept
    draw(system, filled("hunyuan_distilled", text="红"))
    own.forward = forward
    assert [t for t, _ in reported[1:]] == [r for _, r in reported[:-1]]
    assert reported[-1][1] == 0.0
    assert reported[0][0] == 1000.0


def test_without_a_picture_the_refiner_says_so(places: Any) -> None:
    system = read_folder(places("hunyuan_refiner")[0])
    request = {"text": "红", "size": (64, 64)}
    assert any("--image" in warning for warning in prepare(system, request).warnings)
    assert not any("--image" in w for w in prepare(system, {**request, "image": photo()}).warnings)


@pytest.mark.parametrize("kind", NAMES)
def test_saved_by_bimo_it_draws_the_same(places: Any, tmp_path: Path, kind: str) -> None:
    system = read_folder(places(kind)[0])
    assert loads(dumps(system.recipe)) == system.recipe
    system.save(tmp_path)
    request = filled(kind, text="red 苹果", steps=2)
    alike(system, System.read(tmp_path), request)


@pytest.mark.parametrize("kind", NAMES)
def test_written_for_diffusers_it_draws_the_same(places: Any, tmp_path: Path, kind: str) -> None:
    folder, pipeline = places(kind)
    to_diffusers(read_folder(folder), tmp_path / "out")
    assert recipe_of(tmp_path / "out") == recipe_of(folder)
    request = filled(kind, text="红 red", size=(64, 96))
    one, other = (by_diffusers(p, request)[0] for p in (pipeline, opened(tmp_path / "out")))
    assert numpy.array_equal(one, other)


@pytest.mark.parametrize("kind", NAMES)
def test_a_folder_of_it_is_whole(places: Any, kind: str) -> None:
    found = check(places(kind)[0])
    assert (found.recipe, found.exit_status) == (NAMES[kind], 0)


@pytest.mark.parametrize(
    ("kind", "file", "change"),
    [
        ("hunyuan_distilled", "model_index.json", {"guider": ["diffusers", "AdaptiveProjectedMixGuidance"]}),
        ("hunyuan_refiner", "transformer/config.json", {"in_channels": 64}),
        ("hunyuan_refiner", "vae/config.json", {"upsample_match_channel": False}),
    ],
)
def test_what_would_draw_wrong_is_refused_by_name(
    places: Any, tmp_path: Path, kind: str, file: str, change: dict[str, Any]
) -> None:
    shutil.copytree(places(kind)[0], tmp_path / "other", ignore=shutil.ignore_patterns("*.safetensors"))
    path = tmp_path / "other" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RecipeError, match=next(iter(change))):
        recipe_of(tmp_path / "other")


@pytest.fixture(scope="module")
def refined(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A base with its refiner in it, and diffusers' pipelines of both."""
    folder = tmp_path_factory.mktemp("refined") / "saved"
    base, refiner = saved(folder, "hunyuan_image"), saved(folder / "refiner", "hunyuan_refiner")
    return folder, base, refiner


def by_both(base: Any, refiner: Any, request: dict[str, Any], steps: int) -> numpy.ndarray:
    """What a refiner makes of what its base drew, with numbers of one generator."""
    generator = torch.Generator().manual_seed(request["seed"])
    width, height = request["size"]
    given = {"prompt": request["text"], "width": width, "height": height, "generator": generator}
    drawn = base(**given, negative_prompt=request["negative"], num_inference_steps=steps, output_type="pt").images
    scale = {"distilled_guidance_scale": request["guidance"]}
    made = refiner(**given, **scale, image=drawn, num_inference_steps=request["steps"]).images
    return numpy.asarray(made[0])


def shortened(system: System, steps: int) -> System:
    """A system whose first level takes fewer steps."""
    first, second = system.recipe.levels
    system.recipe = replace(system.recipe, levels=(replace(first, steps=steps), second))
    system.level("image").recipe = system.recipe.levels[0]
    return system


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_two_levels_draw_as_one_pipeline_after_the_other(refined: Any, size: tuple[int, int]) -> None:
    folder, *pipelines = refined
    system = shortened(read_folder(folder), 3)
    assert system.recipe.name == "hunyuan-image-2.1-refined"
    request = {"text": "红，写着“福 到”", "negative": "小桥", "seed": 3, "steps": 2, "guidance": 3.0, "size": size}
    compare(draw(system, request), [by_both(*pipelines, request, 3)])


@pytest.mark.slow
def test_both_levels_read_with_one_model(refined: Any, tmp_path: Path) -> None:
    folder, _, _ = refined
    system = shortened(read_folder(folder), 2)
    first, second, _ = system.text_encoders
    assert second.model is first.model
    assert not list(second.parameters())
    assert not [name for name in system.state_dict() if name.startswith("text.1.")]
    system.save(tmp_path / "out")
    request = {"text": "红", "seed": 3, "steps": 2, "size": (64, 64)}
    again = System.read(tmp_path / "out")
    alike(system, again, request)


def test_a_refiner_may_lie_elsewhere(refined: Any, tmp_path: Path) -> None:
    """As the hub has them: two repositories, which are one system all the same."""
    folder, _, _ = refined
    shutil.copytree(folder, tmp_path / "base", ignore=shutil.ignore_patterns("refiner"))
    whole, apart = read_folder(folder), read_folder(tmp_path / "base", second=folder / "refiner")
    assert apart.recipe == whole.recipe
    assert apart.weights_hash == whole.weights_hash
    same_weights(whole, apart)


def test_written_for_diffusers_it_is_the_two_folders_that_were_loaded(refined: Any, tmp_path: Path) -> None:
    folder, *pipelines = refined
    to_diffusers(read_folder(folder), tmp_path / "out")
    assert recipe_of(tmp_path / "out") == recipe_of(folder)
    for place, pipeline in zip((".", "refiner"), pipelines, strict=True):
        written = opened(tmp_path / "out" / place)
        assert type(written) is type(pipeline)
        # Of the text encoder what sees is not loaded.
        for name in ("transformer", "vae"):
            state = written.components[name].state_dict()
            assert all(torch.equal(value, state[key]) for key, value in pipeline.components[name].state_dict().items())
    request = {"text": "红，写着“福 到”", "negative": "小桥", "seed": 3, "steps": 2, "guidance": 3.0, "size": (64, 64)}
    again = [opened(tmp_path / "out" / place) for place in (".", "refiner")]
    assert numpy.array_equal(by_both(*again, request, 3), by_both(*pipelines, request, 3))


def test_a_refiner_with_another_text_encoder_is_refused(refined: Any, tmp_path: Path) -> None:
    folder, _, _ = refined
    shutil.copytree(folder, tmp_path / "other", ignore=shutil.ignore_patterns("*.safetensors"))
    path = tmp_path / "other" / "refiner" / "text_encoder" / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["num_hidden_layers"] = 4
    path.write_text(json.dumps(config))
    with pytest.raises(RecipeError, match="another text encoder"):
        recipe_of(tmp_path / "other")


#: As those who brought the weights to diffusers' layout had them (scripts/convert_hunyuan_image_to_diffusers.py).
PUBLISHED: dict[str, tuple[Any, dict[str, Any]]] = {
    "distilled": (
        hunyuan_image_2_1_distilled,
        {"guidance_embeds": True, "use_meanflow": True, "text_embed_2_dim": 1472},
    ),
    "refiner": (
        hunyuan_image_2_1_refiner,
        {
            "in_channels": 128,
            "rope_axes_dim": (16, 56, 56),
            "num_attention_heads": 26,
            "patch_size": (1, 1, 1),
            "guidance_embeds": True,
        },
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PUBLISHED)
def test_full_size(kind: str) -> None:
    recipe, config = PUBLISHED[kind]
    with torch.device("meta"):
        models = [recipe.levels[0].denoiser.build().model, diffusers.HunyuanImageTransformer2DModel(**config)]
        if kind == "refiner":
            models += [HunyuanRefinerLatent().build().model, diffusers.AutoencoderKLHunyuanImageRefiner()]
        shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in models]
    assert shapes[0::2] == shapes[1::2]
    assert models[0].config.use_meanflow == (kind == "distilled")


def test_space_of_the_refiner_goes_there_and_back(places: Any) -> None:
    folder, pipeline = places("hunyuan_refiner")
    space: Any = read_folder(folder).space("image")
    pixels = pixels_of(photo(), (96, 64))
    with torch.inference_mode():
        x = space.encode(pixels)
        z = pipeline.vae.encode(pixels[:, :, None]).latent_dist
        expected = pipeline._reorder_image_tokens(z.mode())[:, :, 0] * pipeline.vae.config.scaling_factor
        assert tuple(x.shape[1:]) == space.shape((96, 64)) == (64, 4, 6)
        assert torch.allclose(x, expected, atol=1e-5)
        assert torch.allclose(space.decode(x), pipeline.vae.decode(z.mode()).sample[:, :, 0], atol=1e-4)
        one, two = (space.encode(pixels, torch.Generator().manual_seed(i)) for i in (1, 2))
        middle, deviation = space.posterior(pixels)
    assert torch.allclose(middle, x, atol=1e-6)
    assert not torch.equal(one, two)
    assert 0.5 < ((one - middle) / deviation).std() < 1.5
