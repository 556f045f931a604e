"""Facts about a recipe that need no weights: sizes, token limits, levels, what each training stage trains."""

from __future__ import annotations

import dataclasses
import fnmatch
from typing import TYPE_CHECKING, Any

from bimo.core import part
from bimo.core.messages import Both, Message, say
from bimo.core.recipe import Recipe
from bimo.hub import registry

if TYPE_CHECKING:
    from bimo.diffusion.system import System

#: The values of ``Recipe.source`` as messages.
SOURCES = {
    "published weights": Message("published weights"),
    "published description": Message("published description"),
    "reconstruction": Message("reconstruction"),
    "own": Message("own"),
}


def whereabouts(recipe: Recipe) -> str:
    """Where a recipe's weights are: 'bundled', 'here' (on this machine), 'to fetch' or 'none'."""
    folder = registry.local_folder(recipe)
    if folder is not None:
        return "bundled" if folder in registry.BUNDLES.values() else "here"
    return "to fetch" if recipe.weights.repo or recipe.weights.modelscope else "none"


def brief(recipe: Recipe) -> dict[str, Any]:
    """The row of a recipe in the list, as JSON-compatible values."""
    return {
        "name": recipe.name,
        "title": recipe.title,
        "source": recipe.source,
        "licence": recipe.licence,
        "languages": list(recipe.languages),
        "weights": whereabouts(recipe),
        "repository": recipe.weights.repo or recipe.weights.modelscope,
    }


def full(recipe: Recipe) -> dict[str, Any]:
    """All facts about one recipe, as JSON-compatible values; "recipe" is the dumped recipe."""
    system = unfilled(recipe)
    counts = parameters(system)
    terms = say(Both(*recipe.weights.terms))
    return brief(recipe) | {
        "paper": recipe.paper,
        "terms": terms,
        "size": list(recipe.request.size),
        "note": recipe.note,
        "parameters": sum(counts.values()),
        "parts": parts(system, counts),
        "levels": levels(system),
        "stages": stages(recipe, counts),
        "recipe": part.dump(recipe),
    }


def unfilled(recipe: Recipe) -> System:
    """The system on the meta device: 20 billion parameters take seconds to build and no memory."""
    from bimo.core.module_weights import unfilled
    from bimo.diffusion.system import System

    with unfilled():
        return System(recipe)


def parameters(system: System) -> dict[str, int]:
    """Parameter name -> number of elements."""
    return {name: parameter.numel() for name, parameter in system.named_parameters()}


def parts(system: System, counts: dict[str, int]) -> list[dict[str, Any]]:
    """One row for each module of the system: text encoders, text fusion, each level's space and denoiser."""
    rows: list[dict[str, Any]] = []
    for name, piece in _pieces(system.recipe).items():
        size = sum(count for key, count in counts.items() if key.startswith(f"{name}."))
        limit = part.dump(piece).get("length")
        rows.append({"name": name, "kind": type(piece).__name__, "parameters": size, "tokens": limit})
    return rows


def _pieces(recipe: Recipe) -> dict[str, part.Part]:
    """The parts of a recipe that become modules, by the prefix of their parameter names."""
    pieces: dict[str, object] = {f"text.{index}": encoder for index, encoder in enumerate(recipe.text_encoders)}
    pieces |= {"text_fusion": recipe.text_fusion, "vision": recipe.vision}
    for level in recipe.levels:
        pieces |= {f"{level.name}.space": level.space, f"{level.name}.denoiser": level.denoiser}
    return {path: piece for path, piece in pieces.items() if isinstance(piece, part.Part)}


def levels(system: System) -> list[dict[str, Any]]:
    """Each level: the shape of x at the recipe's size, its schedule, sampler, steps, guidance and conditioners."""
    rows: list[dict[str, Any]] = []
    defaults = system.recipe.request
    for level in system.recipe.levels:
        shared = isinstance(level.space, str)
        # The recipe's default request applies to the last level, which makes the picture.
        last = level is system.recipe.levels[-1]
        guidance = defaults.guidance if last else None
        rows.append(
            {
                "name": level.name,
                "space": level.space if shared else type(level.space).__name__,
                "shape": list(system.space(level.name).shape(defaults.size)),
                "schedule": _plainly(level.schedule),
                "sampler": (defaults.sampler if last else "") or level.sampler,
                "steps": (defaults.steps if last else None) or level.steps,
                "guidance": level.guidance.scale if guidance is None else guidance,
                "guidance_weights": [branch.name for branch in level.guidance.branches],
                "conditioners": [type(conditioner).__name__ for conditioner in level.conditioners],
            }
        )
    return rows


def _plainly(schedule: part.Part) -> str:
    """A noise schedule with its non-default fields: "Ddpm(prediction='v_prediction')"."""
    changed = [
        f"{field.name}={getattr(schedule, field.name)!r}"
        for field in dataclasses.fields(schedule)
        if field.name != "config" and getattr(schedule, field.name) != field.default
    ]
    return f"{type(schedule).__name__}({', '.join(changed)})" if changed else type(schedule).__name__


def stages(recipe: Recipe, counts: dict[str, int]) -> list[dict[str, Any]]:
    """One row for each training stage, with the number of parameters that its globs select."""
    rows: list[dict[str, Any]] = []
    for stage in recipe.stages:
        # Modules that an objective adds for training only, such as contrastive heads, are not part of the system.
        learning = {key for glob in stage.train for key in fnmatch.filter(counts, glob)}
        rows.append(
            {
                "name": stage.name,
                "objective": type(stage.objective).__name__,
                "level": stage.level,
                "steps": stage.steps,
                "batch": stage.batch,
                "learns": list(stage.train),
                "parameters": sum(counts[key] for key in learning),
                "note": stage.note,
            }
        )
    return rows
