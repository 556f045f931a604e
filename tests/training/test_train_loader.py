"""What a step sees: latents that stay random, captions dropped tower by tower, all of it the step's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bimo.core.recipe import Recipe
from bimo.data.loader import Pictures
from bimo.models.composer.conditioners import Sketch
from bimo.models.spaces import Latent
from bimo.training.batch_sampler import BatchSampler
from bimo.training.train_loader import TrainLoader, encoded_at_once
from bimo.training.trainer import Trainer, train
from bimo.xiaomo.recipe import xiaomo

PAINTER = 4


def begun(
    shards: Path, out: Path, space: Any = None, encoder_count: int = 1, **fields: Any
) -> tuple[Trainer, TrainLoader]:
    """A run of the painter's stage, and its batches."""
    tiny = xiaomo.tiny()
    stage = replace(tiny.stages[PAINTER], batch=4, **fields)
    levels = tiny.levels if space is None else (tiny.levels[0], replace(tiny.levels[1], space=space.tiny()))
    made = Trainer(
        replace(tiny, text_encoders=tiny.text_encoders * encoder_count, levels=levels, stages=(stage,), prompts=()),
        Pictures(shards),
        out,
    )
    made._words()
    return made, made._stage_trainer(stage, None).batches


def x_of(batches: TrainLoader, seed: int) -> Tensor:
    batch = batches.inputs(0, torch.Generator().manual_seed(seed)).batch
    assert batch is not None
    return batch.x


@pytest.mark.slow
def test_latents_of_a_posterior_are_drawn_anew_at_every_step(tiny_shards: Path, tmp_path: Path) -> None:
    run, batches = begun(tiny_shards, tmp_path, Latent(), sample_latents=True, caption_dropout=0.0)
    assert torch.equal(x_of(batches, 1), x_of(batches, 1))
    drawn = torch.stack([x_of(batches, seed) for seed in range(400)])
    rows = [group[0] for group in batches.order.groups_of(0)]
    assert batches.fitted is not None
    space: Any = run.system.space("image")
    with torch.no_grad():
        mean, deviation = space.posterior(batches.fitted.pixels(rows))
    assert torch.allclose(drawn.std(0), deviation, rtol=0.25)
    assert ((drawn.mean(0) - mean).abs() < 5 * deviation / 20).all()


def test_a_sample_of_the_posterior_is_the_spaces_own(tiny_shards: Path, tmp_path: Path) -> None:
    run, batches = begun(tiny_shards, tmp_path, Latent())
    assert batches.fitted is not None
    pixels, space = batches.fitted.pixels([0, 1]), run.system.space("image")
    mean, deviation = space.posterior(pixels)  # type: ignore[attr-defined]
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(3))
    drawn = space.encode(pixels, torch.Generator().manual_seed(3))
    assert torch.allclose(mean + deviation * noise, drawn, atol=1e-5)
    assert torch.allclose(mean, space.encode(pixels), atol=1e-6)


def test_a_stage_that_says_so_sees_the_mean(tiny_shards: Path, tmp_path: Path) -> None:
    _, batches = begun(tiny_shards, tmp_path / "mean", Latent(), sample_latents=False)
    assert torch.equal(x_of(batches, 1), x_of(batches, 2))
    _, sampled = begun(tiny_shards, tmp_path / "sampled", Latent())
    assert not torch.equal(x_of(sampled, 1), x_of(batches, 1))
    # One is never taken for the other.
    names = {path.name for out in ("mean", "sampled") for path in (tmp_path / out / "cache").glob("latents-*")}
    assert len(names) == 2


def test_no_more_pictures_are_encoded_at_once_than_a_step_has(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    space: Any = type(Latent().tiny().build())
    plain = space.posterior
    monkeypatch.setattr(space, "posterior", lambda self, pixels: (counts.append(len(pixels)), plain(self, pixels))[1])
    _, batches = begun(tiny_shards, tmp_path, Latent())
    assert batches.fitted is not None
    assert sum(counts) == len(batches.fitted.sizes)
    assert max(counts) == 4
    assert [encoded_at_once((side, side), 4) for side in (64, 256, 300, 512, 1024)] == [4, 4, 2, 1, 1]


def test_a_space_without_a_posterior_has_one_code(tiny_shards: Path, tmp_path: Path) -> None:
    _, batches = begun(tiny_shards, tmp_path, sample_latents=True)
    assert torch.equal(x_of(batches, 1), x_of(batches, 2))


def test_captions_are_dropped_for_one_text_encoder_at_a_time(tiny_shards: Path, tmp_path: Path) -> None:
    run, batches = begun(tiny_shards, tmp_path, encoder_count=2, caption_dropout=0.0, encoder_dropout=(0.0, 1.0))
    generator = torch.Generator().manual_seed(0)
    inputs = batches.inputs(0, generator)
    assert inputs.batch is not None
    assert all(inputs.texts)
    assert not inputs.batch.dropped_captions.any()
    first, second = inputs.batch.encodings
    empty = run.system.eval().encode([""])[1]
    assert first.mask is not None
    assert second.mask is not None
    assert first.mask.sum(1).min() > 2
    assert second.mask.sum(1).tolist() == [2] * 4
    assert torch.allclose(second.tokens[:, :2], empty.tokens[:, :2].expand(4, 2, -1), atol=1e-6)


def test_dropped_by_every_text_encoder_a_caption_is_dropped(tiny_shards: Path, tmp_path: Path) -> None:
    _, batches = begun(tiny_shards, tmp_path, encoder_count=2, caption_dropout=0.0, encoder_dropout=(0.5, 0.5))
    gone: list[bool] = []
    for seed in range(200):
        batch = batches.inputs(0, torch.Generator().manual_seed(seed)).batch
        assert batch is not None
        words = torch.stack([e.mask.sum(1) > 2 for e in batch.encodings if e.mask is not None])
        assert torch.equal(batch.dropped_captions, ~words.any(0))
        gone += batch.dropped_captions.tolist()
    assert sum(gone) / len(gone) == pytest.approx(0.25, abs=0.05)


def test_shares_that_are_not_one_a_text_encoder_are_refused(tiny_shards: Path, tmp_path: Path) -> None:
    from bimo.core.errors import RecipeError

    with pytest.raises(RecipeError, match="encoder_dropout"):
        begun(tiny_shards, tmp_path, encoder_count=2, encoder_dropout=(0.5,))


@pytest.mark.slow
def test_dropout_goes_on_exactly(tiny_shards: Path, tmp_path: Path) -> None:
    tiny = xiaomo.tiny()
    words = replace(tiny.text_encoders[0], dropout=0.3)  # type: ignore[call-arg]
    stage = replace(tiny.stages[2], steps=4, batch=4)
    recipe: Recipe = replace(tiny, text_encoders=(words,), stages=(stage,), prompts=())
    whole = train(recipe, tiny_shards, tmp_path / "whole", threads=1)
    for _ in range(5):
        train(recipe, tiny_shards, tmp_path / "stopped", threads=1, stop_after=0.0)
    assert (tmp_path / "stopped" / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


def test_a_row_without_a_caption_has_the_empty_one(tiny_shards: Path, tmp_path: Path) -> None:
    _, batches = begun(tiny_shards, tmp_path, caption_dropout=0.0)
    batches.pictures = batches.pictures.of(batches.pictures.groups, [()] * len(batches.pictures))
    assert list(batches.inputs(0, torch.Generator()).texts) == [""] * 4


def test_an_order_is_that_of_the_seed() -> None:
    groups = [(row,) for row in range(10)]
    orders = [BatchSampler(groups, [(0, 0)] * 10, 4, seed) for seed in (1, 1, 2)]
    found = [[order.groups_of(number) for number in range(6)] for order in orders]
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_pixels_are_decoded_only_where_a_conditioner_reads_them(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, batches = begun(tiny_shards, tmp_path)
    decoded: list[int] = []
    assert batches.fitted is not None
    monkeypatch.setattr(type(batches.fitted), "pixels", lambda self, rows: decoded.extend(rows) or torch.zeros(4, 3))
    batches.prepared()
    decoded.clear()
    batch = batches.inputs(0, torch.Generator().manual_seed(0)).batch
    assert batch is not None
    assert batch.pixels is None
    assert not decoded
    batches.conditioners.append(Sketch())
    batch = batches.inputs(0, torch.Generator().manual_seed(0)).batch
    assert batch is not None
    assert batch.pixels is not None
    assert len(decoded) == 4
