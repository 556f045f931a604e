"""What is left out of a drawing: nothing at its zero, the same alone and together, refused where it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler

from bimo.core.errors import RequestError, WeightsError
from bimo.core.tensors import DeepFeatures
from bimo.diffusion.decoding import decode
from bimo.diffusion.step_cache import CachedBranches, EasyCache, StepCacheSetting
from bimo.diffusion.system import System
from bimo.engine.engine import Engine
from bimo.engine.fast import Fast
from bimo.models.layouts.diffusers_folder import read_folder
from bimo.models.stable_diffusion import shortcuts
from bimo.models.tiny_decoder import tiny_space
from tests.support.tiny_checkpoints import checkpoint

REQUEST: dict[str, Any] = {"text": "红苹果", "negative": "山", "seed": 3, "steps": 6, "size": (64, 64), "guidance": 5.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sd")
    checkpoint(made, "bert", DDIMScheduler(steps_offset=1, clip_sample=False))
    return made


@pytest.fixture(scope="module")
def system(folder: Path) -> System:
    return read_folder(folder)


class Asked(Engine):
    """Counts rows that the denoiser was given."""

    def rows(self, **settings: Any) -> tuple[numpy.ndarray, list[int]]:
        found: list[int] = []
        level = self.system.level(self.recipe.levels[-1].name)
        network: Any = level.denoiser.model
        hook = network.mid_block.register_forward_hook(lambda module, given, answer: found.append(len(answer)))
        try:
            image = self.draw({**REQUEST, **settings})[0].image
        finally:
            hook.remove()
        return numpy.asarray(image).astype(float), found


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({}, [2] * 6),
        ({"guidance_interval": (0.3, 0.7)}, [1, 1, 2, 2, 1, 1]),
        ({"guidance_every": 3}, [2, 1, 1, 2, 1, 1]),
        ({"step_cache": "deep:3"}, [2, 2]),
        ({"token_merging": 0.5}, [2] * 6),
        ({"guidance": 1.0, "nag": 3.0}, [1] * 6),
    ],
)
def test_shortcuts_save_denoiser_rows_and_change_the_picture(
    system: System, settings: dict[str, Any], rows: list[int]
) -> None:
    engine = Asked(system)
    plain = engine.rows(**{name: value for name, value in settings.items() if name == "guidance"})[0]
    picture, asked = engine.rows(**settings)
    assert asked == rows
    assert (picture != plain).any() == bool(settings)
    assert (engine.rows(**settings)[0] == picture).all()


def test_a_step_cache_leaves_out_more_the_more_change_is_let_pass(system: System) -> None:
    counts = [len(Asked(system).rows(steps=12, step_cache=f"easy:{number}")[1]) for number in (1e-6, 0.3, 1)]
    assert counts[0] == 12
    assert counts[0] > counts[1] >= counts[2] >= 3  # the first two and the last are whole


def test_a_tiny_tolerance_changes_almost_nothing(system: System) -> None:
    engine = Asked(system)
    plain = engine.rows()[0]
    assert (engine.rows(guidance_interval=(0.0, 1.0))[0] == plain).all()
    assert (engine.rows(step_cache="easy:1e-9")[0] == plain).all()


@pytest.mark.parametrize(
    "settings", [{"step_cache": "deep:2"}, {"step_cache": "easy:0.3"}, {"guidance_every": 2}, {"token_merging": 0.5}]
)
def test_drawings_together_are_those_drawn_alone(system: System, settings: dict[str, Any]) -> None:
    engine = Engine(system)
    requests = [{**REQUEST, **settings}, {**REQUEST, "seed": 9, "steps": 4}, {**REQUEST, **settings, "seed": 5}]
    for request, picture in zip(requests, engine.draw_together(requests), strict=True):
        apart = numpy.asarray(engine.draw(request)[0].image).astype(int) - numpy.asarray(picture.image).astype(int)
        assert abs(apart).max() <= 1


def test_nag_leads_away_from_the_negative_words(system: System) -> None:
    engine = Engine(system)
    pictures = [engine.draw({**REQUEST, "guidance": 1.0, "nag": 8.0, "negative": words})[0] for words in ("山", "湖")]
    assert pictures[0].image.tobytes() != pictures[1].image.tobytes()


def test_features_of_the_same_step_give_the_whole_answer(system: System) -> None:
    network: Any = system.level(system.recipe.levels[-1].name).denoiser
    with torch.no_grad():
        inputs = {
            "sample": torch.randn(2, 4, 8, 8),
            "timestep": torch.tensor([500, 500]),
            "encoder_hidden_states": torch.randn(2, 5, 16),
        }
        features = DeepFeatures()
        whole = shortcuts.deep(network.model, inputs, features)
        assert torch.equal(whole, network.model(**inputs).sample)
        features.reused = True
        assert torch.allclose(shortcuts.deep(network.model, inputs, features), whole, atol=1e-6)


def test_merged_tokens_come_back_to_their_places() -> None:
    x = torch.arange(4.0).repeat_interleave(4).reshape(1, 16, 1).expand(1, 16, 3) + 1
    x = x + torch.tensor([0.0, 1.0, -1.0]) * x.square()  # no two directions alike but of equal tokens
    merge, spread = shortcuts.merging(x, (4, 4), 0.5)
    assert merge(x).shape == (1, 8, 3)
    assert spread(merge(x)).shape == x.shape
    merge, spread = shortcuts.merging(x, (4, 4), 1e-9)
    assert torch.equal(spread(merge(x)), x)


def test_kept_branches_are_as_far_from_the_given_one_as_they_were() -> None:
    kept = CachedBranches(2)
    assert not kept.holds()
    kept.all_rows(torch.tensor([[1.0], [3.0]]))
    assert kept.holds()
    assert kept.all_rows(torch.tensor([[10.0]])).tolist() == [[8.0], [10.0]]
    assert not kept.holds()


def test_an_output_linear_in_x_is_predicted_exactly() -> None:
    cache = EasyCache(1.0)
    for step in range(2):
        x = torch.full((1, 1, 2, 2), float(step))
        assert cache.guess(x, 1, step, 9) is None
        cache.keep(x, x + 5)
    guessed = cache.guess(torch.full((1, 1, 2, 2), 2.0), 1, 2, 9)
    assert guessed is not None
    assert guessed.tolist() == (torch.full((1, 1, 2, 2), 7.0)).tolist()
    assert cache.guess(x, 1, 8, 9) is None


@pytest.mark.parametrize("text", ["", "fast", "easy:0", "easy:2", "deep:1", "deep:2.5", "easy:x", "deep:nan"])
def test_unknown_step_caches_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"easy:0\.05"):
        StepCacheSetting.named(text)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"guidance_interval": (0.8, 0.2)}, "interval"),
        ({"guidance_every": 1}, "2 to 20"),
        ({"token_merging": 0.9}, "0.75"),
        ({"nag": 1.0, "guidance": 1.0}, "above 1"),
        ({"nag": 3.0, "negative": "", "guidance": 1.0}, "negative"),
        ({"nag": 3.0}, "guidance"),
        ({"tiny_decoder": True}, "--tiny-decoder"),
    ],
)
def test_invalid_shortcuts_are_refused(system: System, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Engine(system).draw({**REQUEST, **settings})


def test_only_a_unet_has_layers_to_leave_out(tiny_folder: Path) -> None:
    import bimo

    for settings in ({"step_cache": "deep"}, {"token_merging": 0.5}):
        with pytest.raises(RequestError, match="UNet"):
            bimo.draw(bimo.load(tiny_folder), {"text": "红苹果", "seed": 1, **settings})


def test_a_tiny_decoder_is_diffusers_own(system: System, tmp_path: Path) -> None:
    torch.manual_seed(0)
    blocks: Any = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    tiny = AutoencoderTiny(**blocks).eval()
    tiny.save_pretrained(str(tmp_path / "tiny"))
    space = tiny_space(tmp_path / "tiny", system)
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        assert torch.equal(space.decode(x), tiny.decode(x).sample)
        for dtype in (torch.float32, torch.bfloat16):
            assert decode(space, x.to(dtype))[0].dtype == dtype
    AutoencoderTiny(**blocks, latent_channels=16).save_pretrained(str(tmp_path / "flux"))
    for name in ("flux", "none"):
        with pytest.raises(WeightsError):
            tiny_space(tmp_path / name, system)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("lcm-lora-sdv1-5", {"steps": 4, "guidance": 1.0, "sampler": "lcm"}),
        ("sdxl_lightning_8step_lora", {"steps": 8, "guidance": 1.0, "sampler": "euler", "spacing": "trailing"}),
        ("Hyper-SD15-1step-lora", {"steps": 1, "guidance": 1.0, "sampler": "tcd", "eta": 1.0}),
        ("Hyper-SD15-12steps-CFG-lora", {"steps": 12, "guidance": 5.0, "sampler": "ddim", "spacing": "trailing"}),
        ("Qwen-Image-Lightning-4steps-V1.0", {"steps": 4, "guidance": 1.0, "sampler": "euler", "spacing": "trailing"}),
    ],
)
def test_a_distilled_adapter_is_told_by_its_name(name: str, settings: dict[str, Any]) -> None:
    assert Fast.of(Path(f"{name}.safetensors")).settings == settings


def test_settings_of_the_request_override_fast(system: System) -> None:
    from bimo.core.request import Request

    fast = Fast.of(Path("lcm.safetensors"))
    assert fast.filled(system, Request(text="红")).sampler == "lcm"
    said = fast.filled(system, Request(text="红", steps=9, sampler="euler"))
    assert (said.steps, said.sampler, said.guidance) == (9, "euler", 1.0)
    with pytest.raises(RequestError, match="lightning"):
        Fast.of(Path("ink.safetensors"))


def test_fast_without_guidance_uses_the_systems_baseline_scale(system: System) -> None:
    from dataclasses import replace

    from bimo.core.request import Request

    level = system.level(system.recipe.levels[-1].name)
    before = level.recipe
    level.recipe = replace(before, guidance=replace(before.guidance, baseline_scale=0.0))
    try:
        assert Fast.of(Path("turbo.safetensors")).filled(system, Request(text="红")).guidance == 0.0
    finally:
        level.recipe = before
