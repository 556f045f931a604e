"""A discriminator of patches: each side learns from its own part of the loss alone, and a run resumes exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bimo.core.recipe import Recipe, Stage
from bimo.data.loader import Pictures
from bimo.training.objectives.adversarial import Adversarial
from bimo.training.objectives.reconstruct import Reconstruct
from bimo.training.train_inputs import TrainInputs
from bimo.training.trainer import Trainer, train
from bimo.xiaomo.recipe import xiaomo

STEPS = 6


def recipe(steps: int = STEPS, **fields: Any) -> Recipe:
    tiny = xiaomo.tiny()
    objective = Adversarial(level="image", crop=32, widths=(8, 8, 8), **fields)
    train_ = ("image.space.*", "adversarial.*")
    stage = replace(tiny.stages[0], objective=objective, train=train_, steps=steps, batch=4, lr=1e-3, warmup=0)
    return replace(tiny, stages=(stage,), prompts=())


def begun(shards: Path, out: Path, **fields: Any) -> tuple[Trainer, TrainInputs, Stage]:
    run = Trainer(recipe(**fields), Pictures(shards), out)
    run._words()
    stage = run.recipe.stages[0]
    trainer = run._stage_trainer(stage, None)
    return run, trainer.batches.inputs(0, torch.Generator().manual_seed(1)), stage


def gradients(module: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


def test_the_discriminator_learns_from_telling_apart_alone(tiny_shards: Path, tmp_path: Path) -> None:
    run, inputs, stage = begun(tiny_shards, tmp_path)
    objective: Any = stage.objective
    discriminator: Any = inputs.extra
    objective.loss(replace(inputs, generator=torch.Generator().manual_seed(5))).backward()
    found = gradients(discriminator)
    discriminator.zero_grad()
    run.system.zero_grad()
    answer, pixels = objective.reconstruct(replace(inputs, generator=torch.Generator().manual_seed(5)))
    real, fake = discriminator(pixels)[-1], discriminator(answer.detach())[-1]
    (torch.relu(1 - real).mean() + torch.relu(1 + fake).mean()).backward()
    assert all(torch.equal(a, b) for a, b in zip(found, gradients(discriminator), strict=True))


def test_the_decoder_is_pulled_by_both_and_by_the_share_that_is_asked(tiny_shards: Path, tmp_path: Path) -> None:
    pulled: dict[float, Tensor] = {}
    for share in (0.0, 0.5, 1.0):
        _, inputs, stage = begun(tiny_shards, tmp_path / str(share), share=share)
        objective: Any = stage.objective
        seen: list[Tensor] = []
        reconstruct = Reconstruct.reconstruct

        def caught(self: Any, given: TrainInputs, seen: list[Tensor] = seen, whole: Any = reconstruct) -> Any:
            answer, pixels = whole(self, given)
            answer.register_hook(seen.append)  # the last time it is the whole loss's
            return answer, pixels

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Reconstruct, "reconstruct", caught)
            objective.loss(replace(inputs, generator=torch.Generator().manual_seed(5))).backward()
        pulled[share] = seen[-1]
    added = [pulled[share] - pulled[0.0] for share in (0.5, 1.0)]
    assert torch.allclose(added[0].norm(), pulled[0.0].norm() * 0.5, rtol=1e-3)
    assert torch.allclose(added[1], 2 * added[0], atol=1e-6)


@pytest.mark.slow
def test_a_run_with_a_discriminator_goes_on_exactly(tiny_shards: Path, tmp_path: Path) -> None:
    whole = train(recipe(), tiny_shards, tmp_path / "whole", threads=1)
    parts = tmp_path / "parts"
    for _ in range(20):
        train(recipe(), tiny_shards, parts, threads=1, stop_after=0.0)
        if (parts / "weights.safetensors").is_file():
            break
    assert (whole / "weights.safetensors").read_bytes() == (parts / "weights.safetensors").read_bytes()


@pytest.mark.slow
def test_texture_that_no_latent_holds_comes_back(tiny_shards: Path, tmp_path: Path) -> None:
    """Of noise on flat colour L1 leaves nothing; with the discriminator some of it is drawn."""
    spread: dict[str, float] = {}
    for name, share in (("plain", 0.0), ("judged", 2.0)):
        run, inputs, stage = begun(tiny_shards, tmp_path / name, share=share)
        objective: Any = stage.objective
        space: Any = run.system.space("image")
        generator = torch.Generator().manual_seed(0)
        parameters = [*space.decoder.parameters(), *(inputs.extra or nn.Module()).parameters()]
        optimiser = torch.optim.Adam(parameters, lr=3e-3)
        for _ in range(120):
            pixels = (0.4 * torch.randn(4, 3, 32, 32, generator=generator)).clamp(-1, 1)
            optimiser.zero_grad()
            objective.loss(replace(inputs, pixels=pixels, generator=generator)).backward()
            optimiser.step()
        with torch.no_grad():
            spread[name] = float(space.decode(torch.randn(4, *space.shape((32, 32)), generator=generator)).std())
    assert spread["judged"] > 2 * spread["plain"]
