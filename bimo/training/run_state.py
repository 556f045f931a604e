"""The saved state of a run, and whether a folder holds the run that is to be continued."""

# Parts of torch's interface are untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import pickle
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from bimo.core.errors import TrainingError
from bimo.core.messages import say
from bimo.core.part import loads
from bimo.core.recipe import Recipe
from bimo.data.loader import Pictures
from bimo.diffusion.system import RECIPE_FILE
from bimo.training.distributed.processes import Processes
from bimo.training.history import Change, History, Place, position, read_history, same_data, same_recipe, summarize_data

STATE_FILE = "state.pt"


def read_state(out: Path, mmap: bool = False) -> dict[str, Any] | None:
    """The saved state of a run's folder, None without one. Raises TrainingError if it cannot be read."""
    path = out / STATE_FILE
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TrainingError(
            "cannot read {path} ({first}); begin in another folder, or delete it to begin anew here",
            path=path,
            first=first,
        ) from None


def history_of(
    out: Path, recipe: Recipe, pictures: Pictures, processes: Processes, from_here: bool, accept_new_data: bool
) -> History:
    """The history of the run in a folder, with the changes that start now. Raises TrainingError if the folder belongs
    to another run.
    """
    path, history, now = out / RECIPE_FILE, read_history(out), summarize_data(pictures, recipe)
    if not path.is_file():
        return History(now)
    # Loaded and compared as recipes, so that fields added since have their defaults.
    before = cast(Recipe, loads(path.read_text(encoding="utf-8")))
    state = read_state(out, mmap=True)
    if state is None:
        other_data = history.data is not None and history.data.digest != now.digest
        if processes.is_main_process and (other_data or before != recipe):
            _discard(out, keep_tokenizers=before.text_encoders == recipe.text_encoders and not other_data)
        return History(now)
    place = Place(**state["place"])
    settings = same_recipe(before, recipe, place, out, from_here)
    data = same_data(history, now, out, accept_new_data, done=place.stage >= len(recipe.stages))
    if not settings and data is None:
        return replace(history, data=now)
    name = recipe.stages[place.stage].name if place.stage < len(recipe.stages) else ""
    change = Change(place.stage, name, place.step, settings, data)
    changes = "".join(f"\n  {line}" for line in change.lines())
    print(say("from {where} on:{changes}", where=position(recipe, place), changes=changes))
    return replace(history.with_change(change), data=now)


def _discard(out: Path, keep_tokenizers: bool) -> None:
    """Deletes what a run without a saved state prepared for another recipe or other data."""
    print(say("nothing had been learnt in {out}; it begins anew", out=out))
    # Tokenizers may come from a --start, and stay valid for the same text encoders and captions.
    tokenizers = [] if keep_tokenizers else [*out.glob("words.*")]
    for folder in (*tokenizers, *out.glob("stage-*")):
        shutil.rmtree(folder)


def copied(value: Any) -> Any:
    """Nested mappings and lists with tensors in memory of their own, in no file."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return {name: copied(part) for name, part in cast("Mapping[Any, Any]", value).items()}
    return [copied(part) for part in cast("list[Any]", value)] if isinstance(value, list) else value


def tensors_in(value: Any, path: str = "") -> dict[str, Tensor]:
    """The tensors in nested mappings and lists, by their dotted paths."""
    if isinstance(value, Tensor):
        return {path: value}
    items: Any = ()
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(cast("Sequence[Any]", value))
    tensors: dict[str, Tensor] = {}
    for name, part in items:
        tensors |= tensors_in(part, f"{path}.{name}" if path else str(name))
    return tensors


@contextmanager
def leaving_nothing(out: Path, fresh: bool, processes: Processes) -> Generator[None]:
    """Removes a new folder again if the run fails before its recipe is written."""
    try:
        yield
    except BaseException:
        if fresh and processes.is_main_process and not (out / RECIPE_FILE).is_file():
            shutil.rmtree(out, ignore_errors=True)
        raise
