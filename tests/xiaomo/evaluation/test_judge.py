"""The judge learns, is kept and read back, and says so where its file is damaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bimo.core.errors import DataError
from bimo.xiaomo.artwork.lexicon import DRAWN
from bimo.xiaomo.evaluation import judge as judging
from bimo.xiaomo.evaluation.judge import held_out_pairs, judge_for
from bimo.xiaomo.evaluation.truth import gather, read_artwork, seen_pairs, stacked, training_batch


def quiet(title: str, done: int, total: int) -> None:
    """Hears of progress."""


@pytest.mark.slow
def test_the_judge_learns_and_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artwork = read_artwork(folder)
    monkeypatch.setattr(judging, "BATCH", 32)
    monkeypatch.setattr(judging, "EXAMINED", {"drawn": 3, "effect": 1, "held out": 3})
    judge = judge_for(artwork, quiet, steps=20, blind_steps=2)
    rest = stacked([artwork.picture(kind, "3d") for kind in artwork.kinds])
    seen = judge.see(rest)
    assert judge.facts["accuracy"]["overall"]["kind top-1"] > 1 / len(artwork.kinds)
    assert judge.nearest(seen.embedding, ["3d"] * len(rest)) == [kind.hexcode for kind in artwork.kinds]
    assert set(judge.facts["blind accuracy"]) == {"overall", "overall by style", "held out", "held out by style"}
    assert (sum(p.numel() for p in judge.network.parameters())) < 1_500_000

    monkeypatch.setattr(judging, "train_judge", None)
    again = judge_for(artwork, quiet)
    assert again.facts == judge.facts
    assert np.array_equal(again.see(rest).embedding, seen.embedding)
    assert torch.equal(again.gallery, judge.gallery)

    (folder / judging.WEIGHTS_FILE).write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"judge\.safetensors"):
        judge_for(artwork, quiet)
    (folder / judging.WEIGHTS_FILE).unlink()
    with pytest.raises(TypeError):
        judge_for(artwork, quiet)


def test_lessons_are_pictures_and_repeatable(folder: Path) -> None:
    artwork = read_artwork(folder)
    truth = gather(artwork, quiet)
    first, second = (training_batch(truth, 32, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert first[0].shape == (len(first[1]), 3, 64, 64)
    assert float(first[0].min()) >= -1
    assert float(first[0].max()) <= 1
    assert set(truth.canvases.style.tolist()) == {artwork.styles.index(s) for s in artwork.styles[7:]}


def test_the_blind_judge_is_not_shown_held_out_pairs(folder: Path) -> None:
    artwork = read_artwork(folder)
    truth, pairs = gather(artwork, quiet), held_out_pairs(artwork)
    hidden = frozenset(
        ([kind.hexcode for kind in artwork.kinds].index(kind), artwork.styles.index(style)) for kind, style in pairs
    )
    assert hidden
    left = truth.without(hidden)
    for pool in (left.sprites, left.recoloured, left.canvases):
        assert not hidden & set(zip(pool.kind.tolist(), pool.style.tolist(), strict=True))
    assert len(left.sprites.kind) + len(left.canvases.kind) == len(truth.sprites.kind) + len(truth.canvases.kind) - len(
        hidden
    )


def test_seen_pairs_are_read_once(folder: Path) -> None:
    artwork = read_artwork(folder)
    pairs = seen_pairs(artwork)
    assert pairs == {(kind.hexcode, "3d") for kind in artwork.kinds}
    assert seen_pairs(artwork) == pairs
    assert len(list((folder / ".cache").glob("pairs-*.json"))) == 1


def test_a_folder_without_sprites_says_so(tmp_path: Path, build_artwork: Callable[[Path], Path]) -> None:
    data = build_artwork(tmp_path / "data")
    for path in (data / ".sprites").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="sprites"):
        read_artwork(data)


def test_styles_of_the_second_edition_are_the_judges_too(folder: Path) -> None:
    artwork = read_artwork(folder)
    assert "vector" not in artwork.styles
    kinds = tuple(replace(kind, styles=(*kind.styles, "vector")) for kind in artwork.kinds)
    later = replace(artwork, kinds=kinds)
    assert later.styles.index("vector") == len(DRAWN)
    assert set(artwork.styles) | {"vector"} == set(later.styles)
