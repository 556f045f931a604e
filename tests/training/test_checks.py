"""Before the first step: what the towers read of the captions, and sizes too small for a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bimo.core.errors import TrainingError
from bimo.core.recipe import Stage
from bimo.data.loader import Pictures
from bimo.models.text_encoders.bert import Bert
from bimo.models.text_encoders.clip import ClipText
from bimo.training import checks
from bimo.training.batch_sampler import BatchSampler
from bimo.training.objectives.denoise import Denoise
from bimo.training.trainer import train
from bimo.xiaomo.recipe import xiaomo
from tests.support.tiny_checkpoints import clip_words

STAGE = Stage(name="s", objective=Denoise(), train=("*",))


def pieces(folder: Path, known: Sequence[str], **fields: Any) -> Any:
    """A BERT tower that knows some characters."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *known]), "utf-8")
    tower = replace(Bert().tiny(), vocab=100, **fields).build()
    tower.load_tokenizer(folder)
    return tower


def captioned(shards: Path, captions: Sequence[tuple[str, ...]]) -> Pictures:
    pictures = Pictures(shards)
    return pictures.of(pictures.groups[: len(captions)], [*captions, *[()] * (len(pictures) - len(captions))])


def test_unknown_tokens_are_counted_by_their_id(tmp_path: Path) -> None:
    tower = pieces(tmp_path / "words", "红苹果猫")
    found = checks.reading(tower, ["红苹果", "黑猫"])
    assert found == checks.Reading(1 / 5, 0.0)


def test_byte_pairs_have_no_unknown_tokens_though_their_end_has_that_id(tmp_path: Path) -> None:
    clip_words(tmp_path / "words")
    tower = replace(ClipText(vocab=600, length=16, positions=16).tiny()).build()
    tower.load_tokenizer(tmp_path / "words")
    assert checks.reading(tower, ["红苹果", "a cat"]).unknown == 0


def test_captions_cut_short_are_counted(tmp_path: Path) -> None:
    tower = pieces(tmp_path / "words", "红苹果猫", length=5, positions=5)
    assert checks.reading(tower, ["红苹果", "红苹果猫", "猫", "红红红红红红"]).truncated == 0.5


@pytest.mark.parametrize(
    ("captions", "named"),
    [
        ([("狗",), ("红苹果",), ("红苹果",)], "max_unknown"),
        ([("红苹果猫红",), ("红苹果红苹果",), ("猫",)], "max_truncated"),
        ([("红苹果",), (" ",), ("猫",)], "max_empty"),
        ([("红苹果",), (), ("猫",)], "max_empty"),
    ],
)
def test_too_much_of_it_is_an_error_that_names_the_limit(
    captions: list[tuple[str, ...]], named: str, tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tower = pieces(tmp_path / "words", "红苹果猫", length=5, positions=5)
    pictures = captioned(tiny_shards, captions)
    stage = replace(STAGE, max_unknown=0.1)
    with pytest.raises(TrainingError, match=named):
        checks.check_words(stage, [tower], pictures)
    assert "%" in capsys.readouterr().out
    checks.check_words(replace(stage, **{named: 1.0}), [tower], pictures)


def test_all_of_few_captions_are_looked_at_and_the_same_of_many(
    tiny_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = Pictures(tiny_shards)
    every = [caption for captions in pictures.captions for caption in captions]
    assert checks.sampled(pictures) == every
    monkeypatch.setattr(checks, "SAMPLE", 7)
    some = checks.sampled(pictures)
    assert len(some) == 7
    assert some == checks.sampled(pictures)
    assert set(some) <= set(every)


def test_a_run_does_not_begin_with_captions_it_cannot_read(tiny_shards: Path, tmp_path: Path) -> None:
    tiny = xiaomo.tiny()
    stage = replace(tiny.stages[2], max_truncated=-1.0)
    with pytest.raises(TrainingError, match="max_truncated"):
        train(replace(tiny, stages=(stage,), prompts=()), tiny_shards, tmp_path / "run", threads=1)
    assert not (tmp_path / "run" / "log.jsonl").exists()
    # An autoencoder does not read them.
    stage = replace(tiny.stages[0], max_truncated=-1.0)
    train(replace(tiny, stages=(stage,), prompts=()), tiny_shards, tmp_path / "other", threads=1)


def test_sizes_too_small_for_a_batch_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [(64, 64)] * 5 + [(64, 128)] * 3 + [(128, 64)] * 4
    checks.check_sizes(STAGE, BatchSampler([(row,) for row in range(12)], sizes, 4, 0))
    output = capsys.readouterr().out
    assert "64x128 (3)" in output
    assert "64x64" not in output
    assert "128x64" not in output
    checks.check_sizes(STAGE, BatchSampler([(row,) for row in range(12)], [(0, 0)] * 12, 4, 0))
    assert not capsys.readouterr().out
    checks.check_sizes(STAGE, BatchSampler([(row,) for row in range(3)], [(0, 0)] * 3, 4, 0))
    assert "3" in capsys.readouterr().out


def test_the_table_says_what_learns_and_how_fast(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    tiny = xiaomo.tiny()
    stage = replace(tiny.stages[4], steps=1, lr=1e-3, lr_overrides=(("*.bias", 5e-4),))
    train(replace(tiny, stages=(stage,), prompts=()), tiny_shards, tmp_path / "run", threads=1)
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert cells["image.denoiser"][1:] == ["", "0.0005, 0.001"]
    assert cells["image.denoiser"][0].endswith("M")
    assert cells["text.0"][0] == cells["text.0"][2] == ""
    assert cells["text.0"][1].endswith("M")
