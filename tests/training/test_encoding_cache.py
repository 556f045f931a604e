"""Frozen words are encoded once: the losses are the same to the bit, and what is kept is found by the text itself."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bimo.core.recipe import Recipe
from bimo.core.tensors import TextEncoding
from bimo.data.loader import Pictures
from bimo.diffusion.system import System
from bimo.models.text_encoders.language_model import LanguageModel
from bimo.recipes.viscpm import viscpm_paint
from bimo.training import encoding_cache
from bimo.training.adapters.lora_stage import Lora
from bimo.training.trainer import Trainer
from bimo.xiaomo.recipe import xiaomo
from tests.support.flow_checkpoints import qwen_words
from tests.support.plain_text_encoder import PlainTextEncoder
from tests.support.steps import stepped

PAINTER = 4
MANY = 10**6


def run_of(shards: Path, out: Path, words: Any = None, **fields: Any) -> Trainer:
    """A run of the one stage in which the painter learns and the words are frozen."""
    tiny = xiaomo.tiny()
    text = (tiny.text_encoders[0] if words is None else words,)
    stage = replace(tiny.stages[PAINTER], **{"steps": 6, "batch": 4, **fields})
    made = Trainer(replace(tiny, text_encoders=text, stages=(stage,), prompts=()), Pictures(shards), out)
    made._words()
    made.system.requires_grad_(False)
    return made


def losses(run: Trainer) -> list[float]:
    torch.set_num_threads(1)
    stage = run.recipe.stages[0]
    learning = run._stage_trainer(stage, None)
    run._modes()
    return [stepped(run, stage, learning) for _ in range(stage.steps)]


def counted(run: Trainer) -> Counter[str]:
    """How often each text goes through the tower from now on."""
    tower: Any = run.system.text_encoders[0]
    count: Counter[str] = Counter()
    encode = tower.encode

    def counting(texts: Sequence[str]) -> TextEncoding:
        count.update(texts)
        return encode(texts)

    tower.encode = counting
    return count


def alone(run: Trainer, texts: Sequence[str]) -> TextEncoding:
    """What the first tower says of texts one by one."""
    return encoding_cache.alone(
        encoding_cache.FrozenEncoder(run.system.text_encoders[0], run.recipe.text_encoders[0]), texts
    )


def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding_cache, "SHARE_OF_FREE_DISK", 0.0)


def kept(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "cache").glob("words-*"))


@pytest.mark.parametrize("padding", ["trimmed", "hidden", "shown"])
@pytest.mark.parametrize("drop", [(), (0.5,)])
def test_losses_are_those_without_the_cache_to_the_bit(
    padding: Any, drop: tuple[float, ...], tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = replace(xiaomo.tiny().text_encoders[0], padding=padding, dropout=0.3)  # type: ignore[call-arg]
    with_it = run_of(tiny_shards, tmp_path / "with", words, caption_dropout=0.3, encoder_dropout=drop)
    found = losses(with_it)
    assert len(kept(tmp_path / "with")) == 1
    nothing_kept(monkeypatch)
    without = run_of(tiny_shards, tmp_path / "without", words, caption_dropout=0.3, encoder_dropout=drop)
    assert losses(without) == found
    assert kept(tmp_path / "without") == []


def test_each_text_goes_through_the_text_encoder_once_in_all_runs(tiny_shards: Path, tmp_path: Path) -> None:
    run = run_of(tiny_shards, tmp_path / "run")
    count = counted(run)
    first = losses(run)
    # Besides the sample that tells room and shape beforehand.
    texts = {text for some in run.pictures.captions for text in some} | {""}
    assert set(count) == texts
    again = run_of(tiny_shards, tmp_path / "run")
    count = counted(again)
    assert losses(again) == first
    assert not count


def test_cached_encodings_are_found_by_text_in_any_order(tiny_shards: Path, tmp_path: Path) -> None:
    run = run_of(tiny_shards, tmp_path / "run")
    texts = ["一个红色的方块", "a blue square", "一个黑色的方块"]
    denoiser_input = encoding_cache.cached_encoder(run.system, texts, MANY, run.out)
    count = counted(run)
    other = encoding_cache.cached_encoder(run.system, [*reversed(texts), texts[0]], MANY, run.out)
    assert not count
    for one in texts:
        assert torch.equal(denoiser_input([[one]])[0].tokens, other([[one]])[0].tokens)
        assert torch.equal(denoiser_input([[one]])[0].tokens, alone(run, [one]).tokens)
    both = denoiser_input([["", texts[1]]])[0]
    assert both.mask is not None
    assert both.mask.sum(1).tolist() == [2, 5]


def test_a_batch_is_as_the_text_encoder_makes_it_but_for_rounding(tiny_shards: Path, tmp_path: Path) -> None:
    run = run_of(tiny_shards, tmp_path / "run")
    texts = ["一个红色的方块", "", "a blue square"]
    found = encoding_cache.cached_encoder(run.system, texts, MANY, run.out)([texts])[0]
    wanted = run.system.eval().encode(texts)[0]
    assert found.mask is not None
    assert wanted.mask is not None
    assert torch.equal(found.mask, wanted.mask)
    shown = found.mask[:, :, None]
    assert torch.allclose(found.tokens * shown, wanted.tokens * shown, atol=1e-5)
    assert found.pooled is not None
    assert wanted.pooled is not None
    assert torch.allclose(found.pooled, wanted.pooled, atol=1e-5)


def test_other_weights_or_words_are_never_taken_for_these(tiny_shards: Path, tmp_path: Path) -> None:
    run = run_of(tiny_shards, tmp_path / "run")
    encoding_cache.cached_encoder(run.system, ["红"], MANY, run.out)
    first = kept(run.out)
    with torch.no_grad():
        next(iter(run.system.text.parameters())).view(-1)[0] += 1e-3
    encoding_cache.cached_encoder(run.system, ["红"], MANY, run.out)
    second = kept(run.out)
    assert second != first
    assert len(second) == 1  # what no tower says any more is gone
    path = next((run.out / "words.0").glob("known.txt"))
    path.write_text(path.read_text("utf-8") + "\n多", "utf-8")
    encoding_cache.cached_encoder(run.system, ["红"], MANY, run.out)
    assert kept(run.out) not in (first, second)


def test_a_stage_that_sees_few_of_the_captions_asks_as_it_always_did(tiny_shards: Path, tmp_path: Path) -> None:
    # 24 rows of 9 captions are worth it, 20 are not.
    for steps, count in ((6, 1), (5, 0)):
        run = run_of(tiny_shards, tmp_path / str(steps), steps=steps)
        found = losses(run)
        assert len(kept(run.out)) == count
    again = run_of(tiny_shards, tmp_path / "again", steps=5)
    learning = again._stage_trainer(again.recipe.stages[0], None)
    learning.batches._encode = lambda texts: again.system.encode(texts[0])
    again._modes()
    assert [stepped(again, again.recipe.stages[0], learning) for _ in range(5)] == found


@pytest.mark.parametrize(
    "fields",
    [
        {"train": ("text.0.head.*", "image.denoiser.*")},
        {"train": (), "adapter": Lora(targets=("text.0.model.*.query", "image.denoiser.*.to_q"))},
    ],
    ids=["head", "adapter"],
)
def test_a_text_encoder_that_learns_in_part_is_asked_at_every_step(
    fields: Any, tiny_shards: Path, tmp_path: Path
) -> None:
    run = run_of(tiny_shards, tmp_path / "run", **fields)
    assert len(losses(run)) == 6
    assert kept(run.out) == []


def bridged(family: str, shards: Path, out: Path) -> Trainer:
    """A run of VisCPM's first stage: a language model that is frozen, and what bridges it learns."""
    tiny = viscpm_paint.tiny()
    words: Any = tiny.text_encoders[0]
    if family != "cpmant":
        words = LanguageModel(family=family, template=words.template, bridge=words.bridge).tiny()
    stage = replace(tiny.stages[0], steps=6, batch=4, caption_dropout=0.2)
    qwen_words(out / "words.0")
    made = Trainer(replace(tiny, text_encoders=(words,), stages=(stage,)), Pictures(shards), out)
    made._words()
    return made


@pytest.mark.slow
@pytest.mark.parametrize("family", ["cpmant", "qwen3"])
def test_the_frozen_trunk_of_a_text_encoder_is_asked_once_while_its_head_learns(
    family: str, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = bridged(family, tiny_shards, tmp_path / "with")
    tower: Any = run.system.text_encoders[0]
    before, asked = tower.out.weight.clone(), Counter[str]()
    trunk = tower.trunk

    def counting(texts: Sequence[str]) -> TextEncoding:
        asked.update(texts)
        return trunk(texts)

    tower.trunk = counting
    learning = run._stage_trainer(run.recipe.stages[0], None)
    learning.batches.prepared()
    asked.clear()
    found = losses(run)
    assert not asked
    assert not torch.equal(tower.out.weight, before)
    assert len(kept(run.out)) == 1
    # As it is asked at every step, to rounding: padding in front too, which CPM's denoiser sees.
    every = bridged(family, tiny_shards, tmp_path / "every")
    monkeypatch.setattr(encoding_cache, "WORTH", 10**9)
    assert losses(every) == pytest.approx(found, rel=1e-4)
    monkeypatch.undo()
    nothing_kept(monkeypatch)
    without = bridged(family, tiny_shards, tmp_path / "without")
    assert losses(without) == found
    assert kept(without.out) == []


def test_weights_of_the_head_are_no_part_of_what_is_kept(tiny_shards: Path, tmp_path: Path) -> None:
    run = bridged("qwen3", tiny_shards, tmp_path / "run")
    losses(run)
    first = kept(run.out)
    tower: Any = run.system.text_encoders[0]
    encoding_cache.cached_encoder(run.system, [t for some in run.pictures.captions for t in some], MANY, run.out)
    assert kept(run.out) == first
    with torch.no_grad():
        next(tower.model.parameters()).view(-1)[0] += 1e-3
    encoding_cache.cached_encoder(run.system, [t for some in run.pictures.captions for t in some], MANY, run.out)
    assert kept(run.out) != first


@pytest.mark.slow
def test_padding_in_front_is_that_of_a_batch(tiny_shards: Path, tmp_path: Path) -> None:
    run = bridged("cpmant", tiny_shards, tmp_path / "run")
    tower: Any = run.system.eval().text_encoders[0]
    run.system.requires_grad_(False)
    texts = ["", "一个红色的方块", "a"]
    denoiser_input = encoding_cache.cached_encoder(run.system, texts, MANY, run.out)
    wanted, found = tower.encode(texts), denoiser_input([texts])[0]
    assert len(kept(run.out)) == 1
    assert wanted.mask is None
    assert found.mask is None
    assert torch.allclose(found.tokens, wanted.tokens, atol=1e-5)
    assert torch.equal(found.tokens[0, 0], found.tokens[0, 1])  # padding


def test_a_text_encoder_that_learns_leaves_the_others_kept(tiny_shards: Path, tmp_path: Path) -> None:
    tiny = xiaomo.tiny()
    stage = replace(tiny.stages[PAINTER], steps=6, batch=4, train=("text.1.*",))
    run = Trainer(
        replace(tiny, text_encoders=tiny.text_encoders * 2, stages=(stage,), prompts=()),
        Pictures(tiny_shards),
        tmp_path,
    )
    run._words()
    learning = run._stage_trainer(stage, None)
    learning.batches.prepared()
    count = counted(run)
    run._modes()
    batch = learning.batches.inputs(0, torch.Generator().manual_seed(0)).batch
    assert batch is not None
    assert not count, "the first tower is frozen"
    assert len(kept(run.out)) == 1
    first, second = batch.encodings
    assert not first.tokens.requires_grad
    assert second.tokens.requires_grad


class Neighbourly(PlainTextEncoder):
    """A tower whose padding is seen, as long as the longest text of the batch."""

    def encode(self, texts: Sequence[str], skip: int = 0) -> TextEncoding:
        return TextEncoding(torch.ones(len(texts), max(map(len, texts)) + 1, 4))


def test_an_encoder_that_depends_on_the_batch_is_not_cached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    system = System(Recipe(name="r", text_encoders=(xiaomo.tiny().text_encoders[0],)))
    system.text = torch.nn.ModuleList([Neighbourly()])
    denoiser_input = encoding_cache.cached_encoder(system, ["一", "一二三"], MANY, tmp_path)
    assert denoiser_input([["一", "一二三"]])[0].mask is None
    assert "cached" in capsys.readouterr().out


def test_a_full_disk_leaves_no_partial_cache(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tiny_shards, tmp_path / "run")
    texts = ["一个红色的方块", "a blue square"]
    wanted = alone(run, texts)
    left = [2]

    def full(file: Any, value: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(encoding_cache, "_append", full)
    denoiser_input = encoding_cache.cached_encoder(run.system, texts, MANY, run.out)
    assert "No space left" in capsys.readouterr().out
    assert torch.equal(denoiser_input([texts])[0].tokens, wanted.tokens)
    assert kept(run.out) == []


def test_a_partial_cache_is_rebuilt(tiny_shards: Path, tmp_path: Path) -> None:
    run = run_of(tiny_shards, tmp_path / "run")
    encoding_cache.cached_encoder(run.system, ["红"], MANY, run.out)
    folder = next((run.out / "cache").glob("words-*"))
    shutil.move(folder, folder.with_suffix(".part"))
    denoiser_input = encoding_cache.cached_encoder(run.system, ["红"], MANY, run.out)
    assert kept(run.out) == [folder.name]
    assert torch.equal(denoiser_input([["红"]])[0].tokens, alone(run, ["红"]).tokens)
