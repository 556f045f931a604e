"""Drawing with a system that a test has built."""

from dataclasses import replace
from typing import Any

from bimo.core.picture import Picture
from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.engine.engine import Engine


def draw(system: System, request: Any, /, **settings: Any) -> list[Picture]:
    """As `bimo.draw`, with the system's weights where they are and as they are."""
    return Engine(system).draw(request, **settings)


def few_steps(recipe: Recipe, steps: int = 2) -> Recipe:
    """The recipe with so few steps of its sampler: for pictures that training draws on the way, where all steps make
    the same calls.
    """
    return replace(recipe, request=replace(recipe.request, steps=steps))
