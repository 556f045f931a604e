"""Stages for one's own pictures, made for whatever system there is: LoRA beside its denoisers, or all of these."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from bimo.core.errors import RecipeError
from bimo.core.module_weights import unfilled
from bimo.core.part import meant
from bimo.core.recipe import Level, Recipe, Stage
from bimo.training.adapters.lora_stage import Lora
from bimo.training.objectives.denoise import Denoise

Tuning = Literal["lora", "full"]
#: The projections of attention, as diffusers names them.
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
RANK = 16
STEPS = 1000
#: What diffusers' scripts begin with: for LoRA, and for all of a denoiser.
RATES = {"lora": 1e-4, "full": 1e-5}


def tuned(recipe: Recipe, how: str) -> Recipe:
    """The recipe with stages that teach it a folder of pictures with captions, a level after the other, at its own
    size; a level of a single step is one more denoiser to them. Raises RecipeError for a word that is none, and for a
    system that does not draw.
    """
    if how not in get_args(Tuning):
        near = meant(how, get_args(Tuning))
        raise RecipeError("--tune is {how!r}{near}", how=how, near=near)
    if not recipe.levels:
        raise RecipeError("{name} does not draw: there is no denoiser to tune", name=recipe.name)
    return replace(recipe, stages=tuple(_stage(recipe, level, how) for level in recipe.levels))


def _stage(recipe: Recipe, level: Level, how: str) -> Stage:
    everything = f"{level.name}.denoiser.*"
    stage = Stage(
        name=how if len(recipe.levels) == 1 else f"{how}, {level.name}",
        objective=Denoise(),
        level=level.name,
        train=(everything,),
        steps=STEPS,
        batch=4,
        lr=RATES[how],
        warmup=20,
        caption_dropout=0.1,
        size=recipe.request.size,
        max_unknown=0.5,  # names of dishes or people may well be new to its words
        note="settings of nobody in particular: rate, steps and rank are for you to find",
    )
    if how == "full":
        return stage
    return replace(stage, train=(), adapter=Lora(targets=attention(recipe, level), rank=RANK, alpha=float(RANK)))


def attention(recipe: Recipe, level: Level) -> tuple[str, ...]:
    """Globs of the projections of attention in a level's denoiser; of all of its layers where it has none so named."""
    from bimo.diffusion.system import System

    with unfilled():
        names = [name for name, _ in System(replace(recipe, stages=())).named_parameters()]
    start = f"{level.name}.denoiser."
    layers = [end for end in ATTENTION if any(n.startswith(start) and n.endswith(f".{end}.weight") for n in names)]
    return tuple(f"{start}*.{end}" for end in layers) or (f"{start}*",)
