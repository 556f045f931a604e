"""Stages for fine-tuning any system on one's own pictures: LoRA on its denoisers, or full fine-tuning."""

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
#: Attention projections, by their names in diffusers.
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
RANK = 16
STEPS = 1000
#: The default learning rates of diffusers' scripts, for LoRA and for a full denoiser.
RATES = {"lora": 1e-4, "full": 1e-5}


def tuned(recipe: Recipe, how: str) -> Recipe:
    """The recipe with stages for a folder of pictures with captions, one level after the other, at its own size; a
    single-step level counts as one more denoiser. Raises RecipeError for an unknown method, and for a system that does
    not draw.
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
        max_unknown=0.5,  # names of dishes or people may be new to the vocabulary
        note="settings of nobody in particular: rate, steps and rank are for you to find",
    )
    if how == "full":
        return stage
    return replace(stage, train=(), adapter=Lora(targets=attention(recipe, level), rank=RANK, alpha=float(RANK)))


def attention(recipe: Recipe, level: Level) -> tuple[str, ...]:
    """Globs of the attention projections in a level's denoiser; of all of its layers if none has such a name."""
    from bimo.diffusion.system import System

    with unfilled():
        names = [name for name, _ in System(replace(recipe, stages=())).named_parameters()]
    start = f"{level.name}.denoiser."
    layers = [end for end in ATTENTION if any(n.startswith(start) and n.endswith(f".{end}.weight") for n in names)]
    return tuple(f"{start}*.{end}" for end in layers) or (f"{start}*",)
