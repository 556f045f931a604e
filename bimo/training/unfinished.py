"""Reads an unfinished run as a system: its current weights, for drawing or to start another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from bimo.core import checkpoint_io
from bimo.core.errors import WeightsError
from bimo.core.hashing import LateDigest
from bimo.core.messages import say
from bimo.core.part import loads
from bimo.core.recipe import Recipe, Stage
from bimo.diffusion.system import RECIPE_FILE, WEIGHTS_FILE, System
from bimo.training.adapters.adapter import adapter_of
from bimo.training.history import HISTORY_FILE, Place, position
from bimo.training.run_state import STATE_FILE


def is_unfinished(folder: Path) -> bool:
    """Whether a folder holds a run that has written no weights yet."""
    begun = (folder / STATE_FILE).is_file() or (folder / HISTORY_FILE).is_file()
    return begun and (folder / RECIPE_FILE).is_file() and not (folder / WEIGHTS_FILE).is_file()


def read_unfinished(folder: Path) -> System:
    """The system of a run as if its stage ended now: with averaged weights, an adapter merged if it is to be. Raises
    WeightsError if nothing was saved yet.
    """
    file = folder / STATE_FILE
    if not file.is_file():
        raise WeightsError(
            "nothing was saved yet of the run in {folder}; go on with the command that began it first", folder=folder
        )
    recipe = cast(Recipe, checkpoint_io.read_recipe(folder / RECIPE_FILE))
    saved: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)  # pyright: ignore[reportUnknownMemberType]
    system = System(recipe)
    for index, encoder in enumerate(system.text_encoders):
        encoder.load_tokenizer(folder / f"words.{index}")
    system.load_state_dict(saved["system"])
    place = Place(**saved["place"])
    if saved["optimiser"] is not None:
        stage = cast(Stage, loads(saved["stage"])) if saved.get("stage") else recipe.stages[place.stage]
        adapter = adapter_of(stage)
        if adapter is not None:
            adapter.put(system)
            system.load_state_dict(saved["adapter"], strict=False)
        own = dict(system.named_parameters())
        with torch.no_grad():
            for name, value in saved["average"].items():
                if name in own:  # modules for training only are not part of the system
                    own[name].copy_(value)
        if adapter is not None:
            adapter.leave(system)
    system.weights_hash = LateDigest(file)
    at = position(recipe, place)
    print(say("the run in {folder} is not done: its weights as of {at}", folder=folder, at=at))
    return system.eval()
