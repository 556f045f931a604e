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
from bimo.core.types import Encoding
from bimo.data.loader import Pictures
from bimo.diffusion.system import System
from bimo.recipes.xiaomo import xiaomo
from bimo.train import frozen
from bimo.train.adapter import LowRank
from bimo.train.loop import Run
from bimo.words.budget import Budget

PAINTER = 4
MANY = 10**6


def run_of(shards: Path, out: Path, words: Any = None, **fields: Any) -> Run:
    """A run of the one stage in which the painter learns and the words are frozen."""
    tiny = xiaomo.tiny()
    text = (tiny.text[0] if words is None else words,)
    stage = replace(tiny.stages[PAINTER], **{"steps": 6, "batch": 4, **fields})
    made = Run(replace(tiny, text=text, stages=(stage,), prompts=()), Pictures(shards), out)
    made._words()
    return made


def losses(run: Run) -> list[float]:
    torch.set_num_threads(1)
    stage = run.recipe.stages[0]
    learning = run._learning(stage, None)
    run._modes()
    return [run._step(stage, learning)[0] for _ in range(stage.steps)]


def counted(run: Run) -> Counter[str]:
    """How often each text goes through the tower from now on."""
    tower: Any = run.system.towers[0]
    count: Counter[str] = Counter()
    encode = tower.encode

    def counting(texts: Sequence[str]) -> Encoding:
        count.update(texts)
        return encode(texts)

    tower.encode = counting
    return count


def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "SHARE_OF_FREE_DISK", 0.0)


def kept(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "cache").glob("words-*"))


@pytest.mark.parametrize("padding", ["trimmed", "hidden", "shown"])
@pytest.mark.parametrize("drop", [(), (0.5,)])
def test_losses_are_those_without_the_cache_to_the_bit(
    padding: Any, drop: tuple[float, ...], tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = replace(xiaomo.tiny().text[0], padding=padding, dropout=0.3)  # type: ignore[call-arg]
    with_it = run_of(tiny_shards, tmp_path / "with", words, drop_text=0.3, drop_towers=drop)
    found = losses(with_it)
    assert len(kept(tmp_path / "with")) == 1
    nothing_kept(monkeypatch)
    without = run_of(tiny_shards, tmp_path / "without", words, drop_text=0.3, drop_towers=drop)
    assert losses(without) == found
    assert kept(tmp_path / "without") == []


def test_each_text_goes_through_the_tower_once_in_all_runs(tiny_shards: Path, tmp_path: Path) -> None:
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


def test_what_is_kept_is_found_by_the_text_whatever_the_order(tiny_shards: Path, tmp_path: Path) -> None:
    run = run_of(tiny_shards, tmp_path / "run")
    texts = ["一个红色的方块", "a blue square", "一个黑色的方块"]
    ask = frozen.frozen_words(run.system, texts, MANY, run.out)
    count = counted(run)
    other = frozen.frozen_words(run.system, [*reversed(texts), texts[0]], MANY, run.out)
    assert not count
    for one in texts:
        assert torch.equal(ask([[one]])[0].tokens, other([[one]])[0].tokens)
        assert torch.equal(ask([[one]])[0].tokens, frozen.encoded_alone(run.system, [[one]])[0].tokens)
    both = ask([["", texts[1]]])[0]
    assert both.mask is not None
    assert both.mask.sum(1).tolist() == [2, 5]


def test_a_batch_is_as_the_tower_makes_it_but_for_rounding(tiny_shards: Path, tmp_path: Path) -> None:
    run = run_of(tiny_shards, tmp_path / "run")
    texts = ["一个红色的方块", "", "a blue square"]
    found = frozen.frozen_words(run.system, texts, MANY, run.out)([texts])[0]
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
    frozen.frozen_words(run.system, ["红"], MANY, run.out)
    first = kept(run.out)
    with torch.no_grad():
        next(iter(run.system.text.parameters())).view(-1)[0] += 1e-3
    frozen.frozen_words(run.system, ["红"], MANY, run.out)
    second = kept(run.out)
    assert second != first
    assert len(second) == 1  # what no tower says any more is gone
    path = next((run.out / "words.0").glob("known.txt"))
    path.write_text(path.read_text("utf-8") + "\n多", "utf-8")
    frozen.frozen_words(run.system, ["红"], MANY, run.out)
    assert kept(run.out) not in (first, second)


def test_a_stage_that_sees_few_of_the_captions_asks_as_it_always_did(tiny_shards: Path, tmp_path: Path) -> None:
    # 24 rows of 9 captions are worth it, 20 are not.
    for steps, count in ((6, 1), (5, 0)):
        run = run_of(tiny_shards, tmp_path / str(steps), steps=steps)
        found = losses(run)
        assert len(kept(run.out)) == count
    again = run_of(tiny_shards, tmp_path / "again", steps=5)
    learning = again._learning(again.recipe.stages[0], None)
    learning.lessons._encode = lambda texts: again.system.encode(texts[0])
    again._modes()
    assert [again._step(again.recipe.stages[0], learning)[0] for _ in range(5)] == found


@pytest.mark.parametrize(
    "fields",
    [
        {"train": ("text.0.head.*", "image.denoiser.*")},
        {"train": (), "adapter": LowRank(targets=("text.0.model.*.query", "image.denoiser.*.to_q"))},
    ],
    ids=["head", "adapter"],
)
def test_a_tower_that_learns_in_part_is_asked_at_every_step(fields: Any, tiny_shards: Path, tmp_path: Path) -> None:
    run = run_of(tiny_shards, tmp_path / "run", **fields)
    assert len(losses(run)) == 6
    assert kept(run.out) == []


class Neighbourly(torch.nn.Module):
    """A tower whose padding is seen, as long as the longest text of the batch."""

    def budget(self, text: str) -> Budget:
        return Budget(len(text) + 1, 8)

    def encode(self, texts: Sequence[str]) -> Encoding:
        return Encoding(torch.ones(len(texts), max(map(len, texts)) + 1, 4))


def test_a_tower_that_minds_its_neighbours_is_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    system = System(Recipe(name="r", text=(xiaomo.tiny().text[0],)))
    system.text = torch.nn.ModuleList([Neighbourly()])
    ask = frozen.frozen_words(system, ["一", "一二三"], MANY, tmp_path)
    assert ask([["一", "一二三"]])[0].mask is None
    assert "cached" in capsys.readouterr().out


def test_a_disk_that_is_full_leaves_nothing_half_written(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tiny_shards, tmp_path / "run")
    texts = ["一个红色的方块", "a blue square"]
    wanted = frozen.encoded_alone(run.system, [texts])[0]
    left = [2]

    def full(file: Any, value: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(frozen, "_append", full)
    ask = frozen.frozen_words(run.system, texts, MANY, run.out)
    assert "No space left" in capsys.readouterr().out
    assert torch.equal(ask([texts])[0].tokens, wanted.tokens)
    assert kept(run.out) == []


def test_half_of_a_cache_is_made_anew(tiny_shards: Path, tmp_path: Path) -> None:
    run = run_of(tiny_shards, tmp_path / "run")
    frozen.frozen_words(run.system, ["红"], MANY, run.out)
    folder = next((run.out / "cache").glob("words-*"))
    shutil.move(folder, folder.with_suffix(".part"))
    ask = frozen.frozen_words(run.system, ["红"], MANY, run.out)
    assert kept(run.out) == [folder.name]
    assert torch.equal(ask([["红"]])[0].tokens, frozen.encoded_alone(run.system, [["红"]])[0].tokens)
