"""What rows do without: each condition by its own share, all together, none, and what a hint says then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bimo.core.errors import RecipeError
from bimo.core.recipe import Stage
from bimo.core.tensors import Conditioning
from bimo.data.loader import Pictures
from bimo.models.adapters.control_conditioner import Control
from bimo.models.cascade.conditioners import LowRes, Score, Semantics
from bimo.models.composer.conditioners import Intensity, Map, Palette, Sketch
from bimo.models.pangu.conditioners import Bucket
from bimo.models.stable_diffusion.conditioners import Masked, Sizes
from bimo.recipes.composer import composer
from bimo.training.conditioning_dropout import ConditioningDropout, Dropout
from bimo.training.objectives.denoise import Denoise
from bimo.training.trainer import Trainer
from bimo.xiaomo.conditioners import Earlier, Pose
from tests.support.tiny_checkpoints import clip_words

ROWS = 20000
CONDITIONERS: Any = (Sketch(), Intensity(), Palette(), LowRes(level="base"))


def stage(**fields: Any) -> Stage:
    return Stage(name="s", objective=Denoise(), train=("*",), level="base", **fields)


def of(rows: int = ROWS, encoder_count: int = 1, **fields: Any) -> Dropout:
    return ConditioningDropout(stage(**fields), encoder_count, CONDITIONERS).of(
        [1] * rows, torch.Generator().manual_seed(0)
    )


def share(*gone: Tensor) -> float:
    return float(torch.stack(gone).all(0).float().mean())


def test_each_goes_by_its_own_share() -> None:
    found = of(caption_dropout=0.2, condition_dropout=(("*", 0.5), ("intensity", 0.7)))
    assert share(found.captions) == pytest.approx(0.2, abs=0.02)
    assert {name: round(share(gone), 1) for name, gone in found.conditions.items()} == {
        "sketch": 0.5,
        "intensity": 0.7,
        "palette": 0.5,
    }
    # By itself: what two do without together is the product.
    assert share(found.captions, found.conditions["sketch"]) == pytest.approx(0.1, abs=0.02)
    assert share(found.conditions["sketch"], found.conditions["palette"]) == pytest.approx(0.25, abs=0.02)


def test_all_are_dropped_and_all_are_kept_together() -> None:
    found = of(
        caption_dropout=0.5, condition_dropout=(("*", 0.5), ("intensity", 0.7)), joint_dropout=0.1, joint_keep=0.1
    )
    every = [found.captions, *found.conditions.values()]
    assert [share(gone) for gone in every] == pytest.approx([0.5, 0.5, 0.1 + 0.8 * 0.7, 0.5], abs=0.02)
    assert share(*every) == pytest.approx(0.1 + 0.8 * 0.5 * 0.5 * 0.7 * 0.5, abs=0.02)
    assert share(*(~gone for gone in every)) == pytest.approx(0.1 + 0.8 * 0.5 * 0.5 * 0.3 * 0.5, abs=0.02)


def test_a_stage_may_drop_all_or_nothing() -> None:
    found = of(joint_dropout=0.3)
    assert share(found.captions) == pytest.approx(0.3, abs=0.02)
    assert all(torch.equal(gone, found.captions) for gone in (*found.encoders, *found.conditions.values()))
    kept = of(caption_dropout=1.0, joint_keep=1.0)
    assert not kept.captions.any()


def test_text_encoders_go_by_themselves_and_with_all() -> None:
    found = of(encoder_count=2, encoder_dropout=(0.5, 0.2), joint_dropout=0.1, joint_keep=0.1)
    assert [share(gone) for gone in found.encoders] == pytest.approx([0.1 + 0.8 * 0.5, 0.1 + 0.8 * 0.2], abs=0.02)
    assert torch.equal(found.captions, found.encoders[0] & found.encoders[1])
    assert share(found.captions) == pytest.approx(0.1 + 0.8 * 0.1, abs=0.02)


def test_a_group_does_without_it_together() -> None:
    made = ConditioningDropout(
        stage(caption_dropout=0.5, condition_dropout=(("sketch", 0.5),), joint_dropout=0.2), 1, CONDITIONERS
    )
    found = made.of([2, 3] * 50, torch.Generator().manual_seed(0))
    for gone in (found.captions, found.conditions["sketch"]):
        first, second = gone.reshape(50, 5)[:, :2], gone.reshape(50, 5)[:, 2:]
        assert torch.equal(first.all(1), first.any(1))
        assert torch.equal(second.all(1), second.any(1))
        assert not torch.equal(first[:, 0], second[:, 0])


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"condition_dropout": (("sketsh", 0.5),)}, "sketch"),
        # What conditions the null branch as well cannot be dropped.
        ({"condition_dropout": (("base", 0.5),)}, "'base' matches no condition"),
        ({"caption_dropout": 1.5}, "1.5"),
        ({"condition_dropout": (("sketch", -0.1),)}, "-0.1"),
        ({"joint_dropout": 0.6, "joint_keep": 0.6}, "1.2"),
        ({"encoder_dropout": (0.1, 0.1)}, "encoder_dropout"),
    ],
)
def test_invalid_shares_are_refused(fields: dict[str, Any], found: str) -> None:
    with pytest.raises(RecipeError, match=found):
        of(**fields)


@pytest.mark.parametrize(
    ("conditioner", "value"),
    [
        (LowRes(level="a"), Conditioning(spatial=torch.ones(1, 3, 2, 2))),
        (Semantics(level="a"), Conditioning(scalars={"semantics": torch.ones(1, 2)})),
        (Score(), Conditioning(scalars={"score": torch.ones(1, 1)})),
        (Palette(), Conditioning(scalars={"palette": torch.ones(1, 2)})),
        (Sketch(), Conditioning(spatial=torch.ones(1, 1, 2, 2))),
        (Map(), Conditioning(spatial=torch.ones(1, 1, 2, 2))),
        (Intensity(), Conditioning(spatial=torch.ones(1, 1, 2, 2))),
        (Earlier(level="a"), Conditioning(spatial=torch.ones(1, 1, 2, 2))),
        (Masked(), Conditioning(spatial=torch.ones(1, 4, 2, 2))),
        (Masked(guided=True), Conditioning(spatial=torch.ones(1, 4, 2, 2))),
        (Control(), Conditioning(scalars={"control": torch.ones(1, 1)})),
        (Pose(), Conditioning(scalars={"pose": torch.ones(1, 5)})),
        (Sizes(), Conditioning(scalars={"size_ids": torch.ones(1, 6)})),
        (Bucket(sizes=((8, 8),)), Conditioning(scalars={"bucket": torch.ones(1, 1)})),
    ],
    ids=lambda part: type(part).__name__,
)
def test_conditions_of_the_null_branch_are_never_dropped(conditioner: Any, value: Conditioning) -> None:
    assert conditioner.droppable == (conditioner.unconditional(value) is not value)


def test_a_run_of_composer_leaves_out_what_it_says(tiny_shards: Path, tmp_path: Path) -> None:
    tiny = composer.tiny()
    named = {one.level: one for one in tiny.stages}
    assert named["base"].joint_dropout == named["base"].joint_keep == 0.1
    only = replace(named["base"], batch=16, caption_dropout=0.0, condition_dropout=(("depth", 0.5), ("semantics", 0.5)))
    run = Trainer(
        replace(tiny, stages=(replace(only, joint_dropout=0.3, joint_keep=0.1),)), Pictures(tiny_shards), tmp_path
    )
    clip_words(tmp_path / "words.0")
    run._words()
    batches = run._stage_trainer(run.recipe.stages[0], None).batches
    batch = batches.inputs(0, torch.Generator().manual_seed(2)).batch
    assert batch is not None
    level = run.system.level("base")
    assert set(batch.dropped_conditions) == {
        "sketch",
        "instances",
        "depth",
        "intensity",
        "masked",
        "palette",
        "semantics",
    }
    assert batch.dropped_captions.any()
    for conditioner, value in zip(level.conditioners, level.conditions_of(run.system, batch), strict=True):
        name = getattr(conditioner, "name", "")
        told = value.scalars[name] if value.spatial is None else value.spatial.flatten(1)
        gone = batch.dropped_conditions[name]
        assert torch.equal(told.abs().sum(1) == 0, gone), name
        # Those without a share of their own go with all the rest alone.
        assert torch.equal(gone, batch.dropped_captions) == (name not in ("depth", "semantics"))
        assert not (batch.dropped_captions & ~gone).any()
