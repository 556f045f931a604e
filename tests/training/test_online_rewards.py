"""Learning from one's own drawings: rounds that are drawn once and gone on with, and the gradient of a reward."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bimo.core.errors import RecipeError, TrainingError
from bimo.core.part import Part
from bimo.core.picture import read_metadata
from bimo.core.recipe import Recipe, Stage
from bimo.curation.texts import build_texts
from bimo.data.loader import Pictures
from bimo.data.shards import read
from bimo.diffusion.system import System
from bimo.engine.engine import Engine
from bimo.training.adapters.lora_stage import Lora
from bimo.training.objectives.draft import DRaFT
from bimo.training.objectives.online_rewards import OnlineRewards, advantages_of, rounds_of, summary
from bimo.training.objectives.preferences import DiffusionDPO, RewardWeighted
from bimo.training.objectives.rewards import (
    BackgroundReward,
    ColourfulReward,
    CustomReward,
    GlyphReward,
    Judges,
    Shown,
    WeightedRewards,
)
from bimo.training.trainer import Trainer, train
from bimo.xiaomo.recipe import xiaomo
from tests.support.drawing import draw

pytestmark = pytest.mark.slow

GLOB = "image.denoiser.*"
BLUE = BackgroundReward(colour=(40, 80, 220))


def recipe(objective: Part, **fields: Any) -> Recipe:
    """xiaomo at toy width with one stage; its first level wants to know how things stand."""
    given = {"train": (GLOB,), "steps": 4, "batch": 4, "lr": 1e-3, "max_unknown": 1.0} | fields
    stage = Stage(name="s", objective=objective, level="image", **given)
    return replace(xiaomo.tiny(), stages=(stage,), prompts=())


def rounds(**fields: Any) -> OnlineRewards:
    given: dict[str, Any] = {"reward": BLUE, "requests": 3, "draws": 2, "every": 2, "batch": 4, "steps": 2}
    return OnlineRewards(**(given | fields))


def weights(run: Path) -> bytes:
    return (run / "weights.safetensors").read_bytes()


def test_a_round_is_drawn_scored_and_learnt_from(tiny_shards: Path, tmp_path: Path) -> None:
    run = train(recipe(rounds()), tiny_shards, tmp_path / "run", threads=1)
    told = rounds_of(run)
    assert [(row["stage"], row["round"], row["step"], row["drawings"]) for row in told] == [(1, 1, 0, 6), (1, 2, 2, 6)]
    folder = run / "stage-1" / "round-0001"
    rows = list(read(folder))
    scores = [row["labels"]["score"] for _, _, row in rows]
    assert told[0]["scores"]["score"]["mean"] == pytest.approx(sum(scores) / 6, abs=1e-5)
    captions = {text for some in Pictures(tiny_shards).captions for text in some}
    by_pair: dict[str, list[dict[str, Any]]] = {}
    for key, _, row in rows:
        by_pair.setdefault(row["labels"]["pair"], []).append(row)
        plan = read_metadata(folder / f"{key}.png")["request"]
        # What is declared is what was asked for.
        assert plan["text"] == row["captions"][0]["text"]
        assert plan["seed"] == row["labels"]["seed"]
        assert plan["conditions"]["pose"] == pytest.approx(row["pose"])
        assert plan["text"] in captions
    assert [len(some) for some in by_pair.values()] == [2, 2, 2]
    for some in by_pair.values():
        assert len({row["labels"]["seed"] for row in some}) == 2
        assert sum(row["labels"]["advantage"] for row in some) == pytest.approx(0, abs=1e-4)
    second = {row["labels"]["seed"] for _, _, row in read(run / "stage-1" / "round-0002")}
    assert not second & {row["labels"]["seed"] for _, _, row in rows}
    page = (run / "report.html").read_text("utf-8")
    assert all(f"{row['scores']['score']['mean']:.4f} ± " in page for row in told)


@pytest.mark.parametrize(
    "learn", [DiffusionDPO(worst=True, beta=100.0), RewardWeighted(score="advantage", temperature=0.5)]
)
def test_stopped_anywhere_it_goes_on_to_the_same_weights(
    learn: Part, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = recipe(rounds(learn=learn), adapter=Lora(targets=("image.denoiser.*.to_q",), rank=2), train=())
    whole = train(wanted, tiny_shards, tmp_path / "whole", threads=1)
    count = 0

    draw_together = Engine.draw_together

    def stopping(*values: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:  # the first batch of the second round is drawn and lies there, the second is not
            raise KeyboardInterrupt
        return draw_together(*values)

    monkeypatch.setattr(Engine, "draw_together", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(wanted, tiny_shards, tmp_path / "run", threads=1)
    for _ in range(4):
        train(wanted, tiny_shards, tmp_path / "run", threads=1, stop_after=0.0)
    train(wanted, tiny_shards, tmp_path / "run", threads=1)
    assert weights(tmp_path / "run") == weights(whole)
    log = [(row["step"], row["loss"]) for row in map(json.loads, (whole / "log.jsonl").read_text("utf-8").splitlines())]
    again = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text("utf-8").splitlines())
    assert [(row["step"], row["loss"]) for row in again] == log
    for name in ("round-0001", "round-0002"):
        shards = [folder / "stage-1" / name / "shard-00000.tar" for folder in (whole, tmp_path / "run")]
        assert shards[0].read_bytes() == shards[1].read_bytes()


def test_what_is_drawn_is_not_drawn_again(tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = recipe(rounds())
    train(wanted, tiny_shards, tmp_path / "run", threads=1, stop_after=0.0)
    monkeypatch.setattr(Engine, "draw_together", None)
    train(wanted, tiny_shards, tmp_path / "run", threads=1, stop_after=0.0)
    assert len(rounds_of(tmp_path / "run")) == 1


def test_every_caption_is_asked_for_before_any_comes_again(tiny_shards: Path, tmp_path: Path) -> None:
    wanted = recipe(rounds(requests=4))
    run = Trainer(wanted, Pictures(tiny_shards), tmp_path / "run")
    batches = run._stage_trainer(wanted.stages[0], None).batches
    rows = [one.row for which in range(4) for one in batches.plan(which)[::2]]
    assert sorted(rows) == list(range(16))
    assert [one.row for one in batches.plan(4)] != [one.row for one in batches.plan(0)]


def test_rounds_say_what_cannot_be_learnt_from(tiny_shards: Path, tmp_path: Path) -> None:
    def run(objective: Part, judges: Judges | None = None, **fields: Any) -> None:
        train(recipe(objective, **fields), tiny_shards, tmp_path / str(len(list(tmp_path.iterdir()))), judges=judges)

    with pytest.raises(TrainingError, match="nothing to say"):
        run(rounds(reward=GlyphReward()))
    with pytest.raises(TrainingError, match="no better or worse"):
        run(rounds(reward=CustomReward(name="flat")), Judges(own={"flat": lambda shown: [1.0] * len(shown.texts)}))
    with pytest.raises(RecipeError, match="validation"):
        run(rounds(), validation=0.5)
    with pytest.raises(RecipeError, match="draws"):
        rounds(draws=1)


def test_what_is_written_is_read_in_rounds(tmp_path: Path) -> None:
    """A toy writes nothing: OCR gives 0 to what should, nothing to what should not, and the other reward decides."""
    (tmp_path / "prompts.txt").write_text("写着「福」的方块\n红色的方块\n", "utf-8")
    build_texts(str(tmp_path / "prompts.txt"), tmp_path / "data")
    reward = WeightedRewards(parts=((1.0, GlyphReward()), (0.1, ColourfulReward())))
    run = train(recipe(rounds(reward=reward, requests=2)), tmp_path / "data", tmp_path / "run", threads=1)
    told = rounds_of(run)[0]["scores"]
    assert told["GlyphReward"] == {"count": 2, "mean": 0.0, "error": 0.0}
    assert told["score"]["count"] == told["ColourfulReward"]["count"] == 4
    for _, _, row in read(run / "stage-1" / "round-0001"):
        assert ("GlyphReward" in row["labels"]) == ("福" in row["captions"][0]["text"])
        assert row["labels"]["score"] == pytest.approx(0.1 * row["labels"]["ColourfulReward"])


def test_advantages_are_over_the_mean_of_a_caption() -> None:
    nan = float("nan")
    found = advantages_of(["a", "a", "b", "b", "c"], [1.0, 3.0, 10.0, 10.0, nan])
    assert found[:4] == pytest.approx([-(2**0.5), 2**0.5, 0.0, 0.0])
    assert found[4] != found[4]
    assert summary([1.0, 3.0, nan]) == {"count": 2, "mean": 2.0, "error": pytest.approx(1.96)}
    assert summary([nan]) == {"count": 0}


def mean_reward(system: System, reward: Part) -> float:
    """Over captions and seeds that no run sees."""
    drawn = [draw(system, "红色方块", seed=9000 + seed, steps=2)[0].image for seed in range(6)]
    from bimo.training.objectives.online_rewards import pixels_of

    shown = Shown(torch.stack([pixels_of(one) for one in drawn]), ["红色方块"] * 6)
    return float(Judges().scores(reward, shown)["score"].mean())


def test_draft_raises_the_reward_and_resumes_exactly(tiny_shards: Path, tmp_path: Path) -> None:
    wanted = recipe(DRaFT(reward=BLUE, through=2, steps=2), steps=20, batch=2, lr=1e-2)
    whole = train(wanted, tiny_shards, tmp_path / "whole", threads=1)
    losses = [json.loads(row)["loss"] for row in (whole / "log.jsonl").read_text("utf-8").splitlines()]
    began = System(wanted).eval()
    began.load_state_dict(Trainer(wanted, Pictures(tiny_shards), tmp_path / "begun").system.state_dict())
    began.text_encoders[0].load_tokenizer(whole / "words.0")
    after = System.read(whole)
    assert mean_reward(after, BLUE) > mean_reward(began, BLUE) + 0.01
    assert sum(losses[-3:]) < sum(losses[:3])
    for _ in range(2):
        train(wanted, tiny_shards, tmp_path / "stopped", threads=1, stop_after=0.0)
    train(wanted, tiny_shards, tmp_path / "stopped", threads=1)
    assert weights(tmp_path / "stopped") == weights(whole)


def test_the_gradient_is_that_of_drawing(tiny_shards: Path, tmp_path: Path) -> None:
    """Along its gradient the reward of the same seeds changes by what the gradient says."""
    wanted = recipe(DRaFT(reward=BLUE, through=2, steps=2), batch=2)
    run = Trainer(wanted, Pictures(tiny_shards), tmp_path / "run")
    run._words()
    learning = run._stage_trainer(wanted.stages[0], None)
    run.system.eval()

    def loss() -> torch.Tensor:
        return learning.objective.loss(learning.batches.inputs(0, torch.Generator().manual_seed(3)))

    parameters = list(learning.parameters.values())
    at_first = loss()
    gradients = torch.autograd.grad(at_first, parameters, allow_unused=True)
    square = sum(float(g.square().sum()) for g in gradients if g is not None)
    step = 1e-3 / square**0.5
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter -= step * gradient
        changed = float(loss() - at_first.detach())
    assert square > 0
    assert changed == pytest.approx(-step * square, rel=0.1)


def test_the_anchor_limits_the_distance_from_the_start(tiny_shards: Path, tmp_path: Path) -> None:
    free, held = (
        recipe(DRaFT(reward=BLUE, steps=2, anchor=weight), steps=6, batch=2, lr=5e-3) for weight in (0.0, 50.0)
    )
    drifted = []
    for name, wanted in (("free", free), ("held", held)):
        before = Trainer(wanted, Pictures(tiny_shards), tmp_path / f"{name}-begun").system.state_dict()
        after = System.read(train(wanted, tiny_shards, tmp_path / name, threads=1)).state_dict()
        drifted.append(sum(float((after[key] - value).square().sum()) for key, value in before.items()))
    assert drifted[1] < drifted[0]


def test_draft_refuses_unsupported_samplers_and_rewards(tiny_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="OnlineRewards"):
        DRaFT(reward=GlyphReward())
    with pytest.raises(RecipeError, match="through"):
        DRaFT(reward=ColourfulReward(), through=0)
    given = {"steps": 1, "batch": 2}
    with pytest.raises(RecipeError, match="text"):
        train(recipe(DRaFT(reward=BLUE, steps=2), train=("text.*", GLOB), **given), tiny_shards, tmp_path / "words")
    with pytest.raises(RecipeError, match=r"drops nothing|不丢弃"):
        train(recipe(DRaFT(reward=BLUE, steps=2), caption_dropout=0.1, **given), tiny_shards, tmp_path / "dropped")
