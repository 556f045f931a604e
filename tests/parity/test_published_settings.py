"""Settings that published UNets and autoencoders have and Stable Diffusion's first do not: drawn as diffusers does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch

from bimo.core.errors import RecipeError
from bimo.diffusion.system import System
from bimo.models.layouts.diffusers_folder import read_folder, recipe_of
from bimo.models.layouts.export import to_diffusers
from tests.parity import test_stable_diffusion_xl as xl
from tests.parity.test_stable_diffusion import by_diffusers
from tests.support.comparison import compare
from tests.support.drawing import draw
from tests.support.tiny_checkpoints import checkpoint, read_by_diffusers

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
REQUEST: dict[str, Any] = {"text": "a red cat 苹果", "seed": 3, "steps": 3, "guidance": 6.0, "size": (64, 64)}
SETTINGS: dict[str, dict[str, Any]] = {
    # As pruned models have it: no block in the middle.
    "no middle": {"mid_block_type": None},
    "time as a norm": {"resnet_time_scale_shift": "scale_shift", "resnet_out_scale_factor": 1.5},
    "other embedding": {"flip_sin_to_cos": False, "freq_shift": 1, "time_embedding_act_fn": "silu"},
    "other activation": {"act_fn": "gelu", "norm_eps": 1e-3, "center_input_sample": True},
    "kernels": {"conv_in_kernel": 5, "conv_out_kernel": 5, "only_cross_attention": True},
    "one width for each block": {"cross_attention_dim": (16, 16)},
}


def drawn(folder: Path, tmp_path: Path, request: dict[str, Any], expected: list[numpy.ndarray]) -> System:
    """Compares a folder, and what bimo and diffusers read of it once it was saved again."""
    system = read_folder(folder)
    compare(draw(system, request), expected)
    system.save(tmp_path / "bimo")
    compare(draw(System.read(tmp_path / "bimo"), request), expected)
    compare(draw(read_folder(to_diffusers(system, tmp_path / "again")), request), expected)
    return system


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_a_unet_of_other_settings(tmp_path: Path, name: str) -> None:
    schedule = diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    pipeline = checkpoint(tmp_path / "saved", "clip", schedule, **SETTINGS[name])
    drawn(tmp_path / "saved", tmp_path, REQUEST, by_diffusers(pipeline, REQUEST))


def test_transformers_laid_out_as_in_distilled_xl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another number in each, and on the way up others than on the way down: SSD-1B and its like."""
    deep = {"transformer_layers_per_block": (1, 2, (2,)), "reverse_transformer_layers_per_block": ((2, 1), (1, 2), 1)}
    monkeypatch.setattr(xl, "XL", {**xl.XL, **deep})
    folder = xl.checkpoint(tmp_path / "xl", mid_block_type="UNetMidBlock2DCrossAttn")
    drawn(folder, tmp_path, REQUEST, by_diffusers(xl.read_by_diffusers(folder), REQUEST))


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [1.0, 8.5])
def test_a_consistency_model_is_told_the_scale(tmp_path: Path, guidance: float) -> None:
    """As LatentConsistencyModelPipeline draws: one branch, and the scale among what the UNet is told."""
    checkpoint(tmp_path / "saved", "clip", diffusers.LCMScheduler(**SCHEDULE, steps_offset=1), time_cond_proj_dim=8)
    path = tmp_path / "saved" / "model_index.json"
    path.write_text(path.read_text().replace('"StableDiffusionPipeline"', '"LatentConsistencyModelPipeline"'))
    pipeline = diffusers.LatentConsistencyModelPipeline.from_pretrained(
        str(tmp_path / "saved"), local_files_only=True, safety_checker=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    request = {**REQUEST, "guidance": guidance, "steps": 4}
    expected = pipeline(
        request["text"],
        width=64,
        height=64,
        num_inference_steps=4,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(3),
    ).images
    system = drawn(tmp_path / "saved", tmp_path, request, [numpy.asarray(image) for image in expected])
    level = system.recipe.levels[0]
    assert (level.steps, level.guidance.scale) == (4, 8.5)
    # The scale is heard, and a negative prompt is not.
    other = draw(system, {**request, "guidance": 3.0})[0].image
    assert numpy.asarray(other).astype(int).tolist() != numpy.asarray(expected[0]).astype(int).tolist()
    compare(draw(system, {**request, "negative": "小桥"}), [numpy.asarray(image) for image in expected])


@pytest.mark.slow
def test_a_consistency_model_of_xl(tmp_path: Path) -> None:
    folder = xl.checkpoint(
        tmp_path / "xl", scheduler=diffusers.LCMScheduler(**SCHEDULE, steps_offset=1), time_cond_proj_dim=8
    )
    drawn(folder, tmp_path, REQUEST, by_diffusers(xl.read_by_diffusers(folder), REQUEST))


def edited(folder: Path, target: Path, **changes: Any) -> Path:
    shutil.copytree(folder, target)
    path = target / "vae" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return target


MOMENTS = {"latents_mean": [-1.6, 1.1, 0.3, -0.2], "latents_std": [8.4, 5.9, 4.3, 6.5]}


@pytest.mark.slow
def test_latents_with_means_and_deviations(tmp_path: Path) -> None:
    """XL's pipelines heed them (Playground 2.5), also where they begin with a picture."""
    folder = edited(xl.checkpoint(tmp_path / "xl"), tmp_path / "moments", **MOMENTS, scaling_factor=0.5)
    pipeline = xl.read_by_diffusers(folder)
    expected = by_diffusers(pipeline, REQUEST)
    system = drawn(folder, tmp_path, REQUEST, expected)
    assert any(
        (a != b).any()
        for a, b in zip(expected, by_diffusers(xl.read_by_diffusers(tmp_path / "xl"), REQUEST), strict=True)
    )
    space: Any = system.space("image")
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    x = space.encode(pixels)
    mean, deviation = (torch.tensor(MOMENTS[name]).view(1, 4, 1, 1) for name in ("latents_mean", "latents_std"))
    z = pipeline.vae.encode(pixels).latent_dist.mode()
    torch.testing.assert_close(x, (z - mean) * 0.5 / deviation)
    means, spreads = space.posterior(pixels)
    torch.testing.assert_close(means, x)
    torch.testing.assert_close(spreads, pipeline.vae.encode(pixels).latent_dist.std * 0.5 / deviation)


def test_what_a_familys_pipeline_leaves_alone_is_left_alone(tmp_path: Path) -> None:
    """StableDiffusionPipeline of diffusers does not look at shift, means and deviations."""
    schedule = diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    checkpoint(tmp_path / "saved", "clip", schedule)
    folder = edited(tmp_path / "saved", tmp_path / "other", **MOMENTS, shift_factor=0.3)
    compare(draw(read_folder(folder), REQUEST), by_diffusers(read_by_diffusers(folder), REQUEST))
    with pytest.raises(RecipeError, match=r"latents_std of .*vae.config\.json are 2 numbers"):
        recipe_of(edited(tmp_path / "saved", tmp_path / "bad", latents_std=[1.0, 2.0]))
