"""Two experts of one diffusion: each row is answered by that of its time, the other is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bimo.core import checkpoint_io, module_weights
from bimo.core.tensors import Conditioning, DenoiserInput, TextEncoding
from bimo.models.pangu.experts import Experts, ExpertsDenoiser
from bimo.models.stable_diffusion.unet import Unet


def experts() -> ExpertsDenoiser:
    torch.manual_seed(0)
    unet = Unet(vector=16, ids=("bucket", 1))
    return Experts(high=unet, low=unet, boundary=500.0).tiny().build().eval()


def told(rows: int) -> tuple[Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(1)
    words = TextEncoding(torch.randn(rows, 3, 16, generator=generator), torch.ones(rows, 3, dtype=torch.bool))
    vector = torch.randn(rows, 16, generator=generator)
    scalars = {"bucket": torch.arange(rows)[:, None].float()}
    return torch.randn(rows, 4, 16, 16, generator=generator), Conditioning((words,), vector, None, scalars)


def test_each_row_goes_to_the_expert_of_its_timestep() -> None:
    made = experts()
    t = torch.tensor([999.0, 499.0, 500.0, 0.0, 499.9])
    x, conditioning = told(5)
    with torch.inference_mode():
        answer = made(x, t, conditioning)
        high, low = made.high(x, t, conditioning), made.low(x, t, conditioning)
    assert torch.allclose(answer[[0, 2]], high[[0, 2]], atol=1e-5)
    assert torch.allclose(answer[[1, 3, 4]], low[[1, 3, 4]], atol=1e-5)
    assert not torch.allclose(high, low, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(("t", "idle"), [([500.0, 900.0], "low"), ([0.0, 499.0], "high")])
def test_the_idle_expert_is_not_run(t: list[float], idle: str) -> None:
    made = experts()
    x, conditioning = told(2)
    getattr(made, idle).forward = None
    with torch.inference_mode():
        assert made(x, torch.tensor(t), conditioning).shape == x.shape


def test_gradients_reach_the_expert_of_the_rows_alone() -> None:
    made = experts().train()
    x, conditioning = told(3)
    made(x, torch.tensor([10.0, 20.0, 30.0]), conditioning).square().mean().backward()
    assert all(p.grad is None for p in made.high.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in made.low.parameters())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads the memory map of Linux")
def test_weights_as_they_are_used_stay_in_their_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(experts().state_dict(), path)
    with module_weights.unfilled():
        made = experts()
    module_weights.assign(made, checkpoint_io.read(path), torch.float32, path)
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    ranges = [tuple(int(end, 16) for end in line[0].split("-")) for line in maps]
    for parameter in made.parameters():
        assert any(low <= parameter.data_ptr() < high for low, high in ranges)


def test_sampling_switches_experts_at_the_boundary_timestep(tmp_path: Path) -> None:
    from bimo.diffusion.batching import run_batched
    from bimo.diffusion.preparation import prepare
    from bimo.diffusion.sampling import sample
    from bimo.diffusion.system import System
    from bimo.recipes.pangu_draw import pangu_draw
    from tests.support.tiny_checkpoints import bert_words, clip_words

    system = System(pangu_draw.tiny()).eval()
    bert_words(tmp_path / "zh")
    clip_words(tmp_path / "en")
    for tower, name in zip(system.text_encoders, ("zh", "en"), strict=True):
        tower.load_tokenizer(tmp_path / name)
    denoiser: Any = system.level("image").denoiser
    seen: list[tuple[str, float]] = []
    for name in ("high", "low"):
        getattr(denoiser, name).register_forward_pre_hook(
            lambda module, inputs, name=name: seen.append((name, float(inputs[1][0])))
        )
    asked: list[DenoiserInput] = []
    request = {"text": "红苹果", "size": (64, 240), "seed": 1, "steps": 3}
    run_batched(system, [sample(system, prepare(system, request))], lambda which, ask: asked.append(ask))
    assert [name for name, _ in seen] == ["high" if t >= 500 else "low" for _, t in seen]
    assert {name for name, _ in seen} == {"high", "low"}
    # Null, given, and the dial that is on: the place of the size in the list stays, the null reads the empty prompt.
    assert [ask.conditioning.scalars["bucket"].tolist() for ask in asked] == [[[1.0]] * 3] * 3
    words, pooled = asked[0].conditioning.streams[0].tokens, asked[0].conditioning.vector
    assert pooled is not None
    with torch.inference_mode():
        empty = system.condition(system.encode([""]))
        assert empty.vector is not None
        torch.testing.assert_close(words[:1], empty.streams[0].tokens)
        torch.testing.assert_close(pooled[:1], empty.vector)
        expected = system.condition(system.encode(["義 红苹果"])).streams[0].tokens
    assert torch.allclose(words[2:], expected, atol=1e-5)
