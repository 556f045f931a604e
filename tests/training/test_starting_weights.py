"""What a run begins as: weights that a stage holds stay in their files until then, and nothing else changes by it."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from bimo.core import checkpoint_io
from bimo.core.errors import TrainingError
from bimo.core.held_weights import held_in
from bimo.core.pages import PAGEMAP, PRESENT
from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.engine.devices import CPU
from bimo.training.starting_weights import StartingWeights
from bimo.training.trainer import Trainer, train
from tests.support.tiny_checkpoints import bert_words
from tests.training.test_lora_stage import recipe

SEED = 3


def holding(kind: Any = "bf16", **fields: Any) -> Recipe:
    made = recipe(**fields)
    return replace(made, stages=tuple(replace(stage, frozen=kind) for stage in made.stages))


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A model whose files have float16."""
    torch.manual_seed(1)
    system = System(recipe())
    bert_words(tmp_path / "words")
    system.text_encoders[0].load_tokenizer(tmp_path / "words")
    system.save(tmp_path / "published", torch.float16)
    return tmp_path / "published"


def test_parameters_are_the_tensors_of_the_file(published: Path) -> None:
    weights = StartingWeights(holding(), SEED, CPU)
    state = System.read(published, None).state_dict()
    weights.put(state, strict=True)
    parameters = dict(weights.system.named_parameters())
    assert all(parameter.data_ptr() == state[name].data_ptr() for name, parameter in parameters.items())
    weights.settle(waiting=True)
    kinds = {name: parameter.dtype for name, parameter in parameters.items()}
    assert kinds["image.denoiser.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"] == torch.float16
    assert {kind for name, kind in kinds.items() if name.endswith(".bias")} == {torch.float32}
    weights.settle()
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
    assert not any(parameter.data_ptr() == state[name].data_ptr() for name, parameter in parameters.items())
    assert all(torch.equal(parameter, state[name].float()) for name, parameter in parameters.items())
    with pytest.raises(TrainingError, match=weights.recipe.name):
        weights.put(dict(list(state.items())[1:]), strict=True)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says which pages are in memory")
def test_a_mapped_model_is_not_in_memory_beside_its_copy(tmp_path: Path) -> None:
    words: Any = recipe().text_encoders[0]
    wide = replace(recipe(), text_encoders=(replace(words, vocab=30_000),))
    file, table = tmp_path / "words.safetensors", "text.0.model.embeddings.word_embeddings.weight"
    checkpoint_io.write(file, {table: torch.ones_like(System(wide).state_dict()[table])})
    weights, mapped = StartingWeights(wide, SEED, CPU), checkpoint_io.read(file)
    assert float(mapped[table].sum()) == mapped[table].numel()
    assert in_memory(mapped[table]) > 0.9
    weights.put(mapped)
    assert in_memory(mapped[table]) < 0.1
    assert torch.equal(weights.system.state_dict()[table], mapped[table])


def in_memory(tensor: torch.Tensor) -> float:
    """The share of a tensor's pages that is in memory."""
    first, count = tensor.data_ptr() // PAGESIZE, -(-tensor.nbytes // PAGESIZE)
    with open(PAGEMAP, "rb", buffering=0) as table:
        pages = numpy.frombuffer(os.pread(table.fileno(), 8 * count, 8 * first), numpy.uint64)
    return float((pages & numpy.uint64(PRESENT) != 0).mean())


def test_what_nothing_gives_a_value_is_drawn_by_the_seed() -> None:
    drawn = StartingWeights(recipe(), SEED, CPU).system.state_dict()
    weights = StartingWeights(holding(), SEED, CPU)
    given = "image.denoiser.model.conv_in.weight"
    weights.put({given: torch.zeros_like(drawn[given])})
    weights.complete()
    for name, value in weights.system.state_dict().items():
        assert torch.equal(value, torch.zeros_like(value) if name == given else drawn[name]), name


@pytest.mark.slow
def test_a_run_from_float16_ends_as_from_float32_and_goes_on_to_the_bit(
    published: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    wanted = holding()
    runs = {name: tmp_path / name for name in ("whole", "stored", "stopped")}
    train(wanted, tiny_shards, runs["whole"], threads=1, start=[System.read(published)])
    train(wanted, tiny_shards, runs["stored"], threads=1, start=[System.read(published, None)])
    for _ in range(3):
        train(wanted, tiny_shards, runs["stopped"], threads=1, stop_after=0.0, start=[System.read(published, None)])
    learnt = {name: (run / "lora-1.safetensors").read_bytes() for name, run in runs.items()}
    assert learnt["whole"] == learnt["stored"] == learnt["stopped"]
    states = {name: System.read(run).state_dict() for name, run in runs.items()}
    for name, value in states["whole"].items():
        assert torch.equal(value, states["stored"][name]), name
        assert torch.equal(value, states["stopped"][name]), name


def test_layers_hold_and_all_else_is_float32(published: Path, tiny_shards: Path, tmp_path: Path) -> None:
    from bimo.data.loader import Pictures

    run = Trainer(holding(), Pictures(tiny_shards), tmp_path / "run")
    run.begin_as(System.read(published, None))
    run._words()
    run._stage_trainer(run.recipe.stages[0], None)
    held = held_in(run.system)
    assert held
    assert {p.dtype for name, p in run.system.named_parameters() if name not in held} == {torch.float32}
