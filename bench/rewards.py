"""Reward fine-tuning of the bundled model on a processor: mean rewards before and after, on held-out prompts and seeds.

Two ways. `Ascent` follows the gradient of a reward that has one: a ground of rice paper's colour. `Rounds` draws,
scores and prefers the best to the worst (Diffusion-DPO) by a reward that is asked for numbers alone: colourfulness.
The prompts of a quarter of the kinds are kept from training; they are drawn with seeds of their own before and after,
and what is told is the mean of the pairs' differences with the interval of 95 of 100 (bootstrap over prompts).

    OMP_NUM_THREADS=1 python bench/rewards.py --out RUN [--ways ascent rounds] [--prompts 32] [--steps 40]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from bimo.core.part import Part
from bimo.core.recipe import Recipe, Stage
from bimo.curation.texts import build_texts
from bimo.data.sheets import sheet
from bimo.diffusion.system import System
from bimo.engine.engine import Engine
from bimo.hub import registry
from bimo.training.objectives.draft import DRaFT
from bimo.training.objectives.online_rewards import OnlineRewards, pixels_of, rounds_of
from bimo.training.objectives.preferences import DiffusionDPO
from bimo.training.objectives.rewards import BackgroundReward, ColourfulReward, Judges, Shown
from bimo.training.trainer import train
from bimo.xiaomo.recipe import xiaomo

STYLES = ("", "，3D风格", "，扁平风格", "，水墨画", "，水彩", "，剪影")
#: 宣纸, the yellowish white of rice paper.
PAPER = (238, 216, 170)
HELD_OUT, FIRST_SEED, STEPS = 0.25, 50_000, 8
RESAMPLES = 2000


def prompts() -> tuple[list[str], list[str]]:
    """(prompts to learn from, prompts of other kinds to measure by): a kind's first Chinese word, in a style."""
    rows = resources.files("bimo.data").joinpath("artwork_words.tsv").read_text("utf-8").splitlines()[1:]
    parted: tuple[list[str], list[str]] = ([], [])
    for row in rows:
        word = row.split("\t")[2].split("/")[0]
        number = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
        held = number / (1 << 32) < HELD_OUT
        parted[held].append(word + STYLES[number % len(STYLES)])
    return parted


def drawings(system: System, texts: Sequence[str], batch: int = 8) -> list[Image.Image]:
    """One drawing for each prompt, each with a seed of its own."""
    engine, made = Engine(system), list[Image.Image]()
    for first in range(0, len(texts), batch):
        some = enumerate(texts[first : first + batch], FIRST_SEED + first)
        requests = [{"text": text, "seed": seed, "steps": STEPS} for seed, text in some]
        made += [picture.image for picture in engine.draw_together(requests)]
    return made


def rewards(reward: Part, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
    """The reward of each drawing."""
    shown = Shown(torch.stack([pixels_of(image) for image in images]), texts)
    return Judges().scores(reward, shown)["score"].tolist()


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): the bootstrap's interval of 95 of 100."""
    dice = random.Random(0)
    means = sorted(statistics.fmean(dice.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return statistics.fmean(values), means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES)]


def ways(steps: int, rounds: int) -> dict[str, Stage]:
    """The training stage of each method."""
    common: dict[str, Any] = {"level": "image", "train": ("image.denoiser.*",), "warmup": 5}
    ascent = DRaFT(reward=BackgroundReward(colour=PAPER), through=2, steps=STEPS)
    every = 10
    prefer = OnlineRewards(
        reward=ColourfulReward(),
        learn=DiffusionDPO(worst=True, beta=1000.0),
        requests=16,
        draws=4,
        every=every,
        steps=STEPS,
    )
    return {
        "ascent": Stage(name="ground of paper", objective=ascent, steps=steps, batch=4, lr=3e-5, **common),
        "rounds": Stage(name="colours", objective=prefer, steps=rounds * every, batch=16, lr=1e-4, **common),
    }


def beside(before: Sequence[Image.Image], after: Sequence[Image.Image], titles: Sequence[str], path: Path) -> None:
    """Writes a sheet: drawings before training above those of the same seeds after it."""
    columns = 10
    rows: list[Image.Image] = []
    names: list[str] = []
    for first in range(0, min(len(before), 2 * columns), columns):
        rows += [*before[first : first + columns], *after[first : first + columns]]
        names += [*titles[first : first + columns], *["→"] * len(after[first : first + columns])]
    sheet(rows, names, path, columns)


def main() -> None:
    """Trains and evaluates each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ways", nargs="+", default=["ascent", "rounds"])
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    learnt, unseen = prompts()
    unseen = random.Random(1).sample(unseen, given.prompts)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "prompts.txt").write_text("\n".join(learnt), "utf-8")
    build_texts(str(given.out / "prompts.txt"), given.out / "data")
    system = registry.load("xiaomo")
    before = drawings(system, unseen)
    for way in given.ways:
        stage = ways(given.steps, given.rounds)[way]
        recipe: Recipe = replace(xiaomo, stages=(stage,), prompts=())
        began = time.perf_counter()
        run = train(recipe, given.out / "data", given.out / way, threads=torch.get_num_threads(), start=[system])
        seconds = time.perf_counter() - began
        after = drawings(System.read(run), unseen)
        reward = stage.objective.reward  # type: ignore[attr-defined]
        pair = [rewards(reward, images, unseen) for images in (before, after)]
        mean, low, high = interval([b - a for a, b in zip(*pair, strict=True)])
        settings = {
            "way": way,
            "reward": type(reward).__name__,
            "seconds": round(seconds),
            "prompts": len(unseen),
            "before": [round(value, 4) for value in interval(pair[0])],
            "after": [round(value, 4) for value in interval(pair[1])],
            "gain": [round(value, 4) for value in (mean, low, high)],
            "better": sum(b > a for a, b in zip(*pair, strict=True)),
            "rounds": [row["scores"]["score"] for row in rounds_of(run)],
        }
        print(json.dumps(settings, ensure_ascii=False))
        (given.out / f"{way}.json").write_text(json.dumps(settings, ensure_ascii=False, indent=1), "utf-8")
        beside(before, after, unseen, given.out / f"{way}.png")


if __name__ == "__main__":
    main()
