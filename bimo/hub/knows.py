"""Which of the bundled models learned words of a prompt that another never did."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from bimo.core import checkpoint_io, module_weights
from bimo.core.recipe import Recipe
from bimo.diffusion.text_encoder import TextEncoder
from bimo.hub.registry import BUNDLES, RECIPE_FILE


def models_that_know(text: str, but: str) -> Iterator[str]:
    """The names of bundled models other than ``but`` that learned words of a text. Their weights are not read."""
    for name, folder in BUNDLES.items():
        if name == but or not (folder / RECIPE_FILE).is_file():
            continue
        recipe = checkpoint_io.read_recipe(folder / RECIPE_FILE)
        assert isinstance(recipe, Recipe)
        for index, part in enumerate(recipe.text_encoders):
            with module_weights.unfilled():
                encoder = cast(TextEncoder, cast(Any, part).build())
            encoder.load_tokenizer(folder / f"words.{index}")
            if not encoder.budget(text).nothing_known():
                yield name
                break
