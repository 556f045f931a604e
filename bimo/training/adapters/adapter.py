"""The base class of adapters: a few weights that are trained next to a system's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.recipe import Stage
from bimo.diffusion.system import System


@dataclass(frozen=True, kw_only=True)
class Adapter(Part, ABC):
    """A part that a stage names as its adapter. ``kind`` is the prefix of its files."""

    kind: ClassVar[str]

    def layers(self) -> tuple[str, ...]:
        """Globs of the layers that it changes; each must match one."""
        return ()

    @property
    def maps(self) -> tuple[str, ...]:
        """The maps that the data must have."""
        return ()

    @abstractmethod
    def put(self, system: System) -> list[str]:
        """Inserts it into a system; returns the names of its parameters."""

    @abstractmethod
    def learnt(self, system: System) -> dict[str, Tensor]:
        """The trained weights, to be written."""

    @abstractmethod
    def write(self, system: System, path: Path, learnt: dict[str, Tensor]) -> Path:
        """Writes the trained weights under a name, to which it adds the extension; returns the path."""

    @abstractmethod
    def leave(self, system: System) -> None:
        """Removes it from the system."""


def adapter_of(stage: Stage) -> Adapter | None:
    """The adapter of a stage, None without one. Raises RecipeError for a part that is no adapter."""
    if stage.adapter is not None and not isinstance(stage.adapter, Adapter):
        raise RecipeError(
            "{kind} of stage {name!r} is no adapter; take Lora, TextualInversion or ControlAdapters",
            kind=type(stage.adapter).__name__,
            name=stage.name,
        )
    return stage.adapter
