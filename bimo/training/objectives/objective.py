"""The base class of objectives: what a stage minimises, and on which batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from bimo.core.errors import BimoError, RecipeError
from bimo.core.part import Part
from bimo.core.recipe import Stage
from bimo.diffusion.system import System
from bimo.training.train_inputs import Prospect, TrainInputs, Vocabulary

if TYPE_CHECKING:
    from bimo.data.loader import Pictures
    from bimo.training.batch_sampler import BatchSampler
    from bimo.training.distributed.processes import Processes


class BatchSource(Protocol):
    """The source of a stage's batches: data, or pictures drawn during training."""

    blank: TrainInputs
    out: Path
    processes: Processes
    pictures: Pictures
    #: The prefix of every caption.
    prefix: str
    #: The validation batches.
    held_out: BatchSampler | None

    @property
    def runs_encoders(self) -> bool:
        """Whether steps ask the text encoders, whose answers are not all cached."""
        ...

    @property
    def order(self) -> BatchSampler:
        """The rows of each batch."""
        ...

    def inputs(self, number: int, generator: torch.Generator, order: BatchSampler | None = None) -> TrainInputs:
        """The batch with that number; all randomness comes from ``generator``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Objective(Part, ABC):
    """What a stage minimises. ``sees`` is what a batch has besides captions: nothing ("texts"), "pixels" or the
    "latents" of a level.
    """

    #: Which captions of the data it uses: all unchanged, some that it selects or replaces, or none.
    captions: ClassVar[Literal["all", "selected", "none"]] = "all"

    #: Whether its rows are pictures of the data, varied by a stage's ``captions``, ``augment`` and ``repeats``.
    varies_rows: ClassVar[bool] = True

    sees: str = "latents"

    @property
    def maps(self) -> tuple[str, ...]:
        """The maps of the pictures that it reads itself: a mask."""
        return ()

    @property
    def draws_every(self) -> int:
        """Every how many steps it draws from what it learns, 0 for never."""
        return 0

    def levels(self, stage: Stage) -> tuple[str, ...]:
        """The levels that it trains, first the one whose latents a batch has; empty if no denoiser is trained."""
        return (stage.level,) if stage.level else ()

    def problems(self, prospect: Prospect) -> Iterator[BimoError]:
        """What the data or the run lacks, checked before anything is trained."""
        return iter(())

    def pictures(self, system: System, pictures: Pictures, folder: Path) -> Pictures:
        """The pictures of the stage in their training groups. ``folder`` is for those that it draws itself; they stay
        there for resumed runs.
        """
        return pictures

    def extra(self, system: System, vocabulary: Vocabulary) -> nn.Module | None:
        """A module for training only, None for none. Its parameters are named after the objective:
        ``contrast.heads.kind.weight``, see ``prefix``.
        """
        return None

    def batches(
        self, blank: TrainInputs, pictures: Pictures, out: Path, folder: Path, seed: int, processes: Processes
    ) -> BatchSource:
        """The batches of the stage, whose inputs are ``blank`` filled in. ``folder`` is the stage's in the run's folder
        ``out``.
        """
        from bimo.training.train_loader import TrainLoader  # not needed for drawing

        loader = TrainLoader(blank, self.sees, self.levels(blank.stage), pictures, out, seed, processes, self.maps)
        if self.sees == "latents":
            loader.prepared()
        return loader

    def prefix(self) -> str:
        """The prefix of the parameters of ``extra`` in globs and in the state of a run."""
        return type(self).__name__.lower()

    @abstractmethod
    def loss(self, inputs: TrainInputs) -> Tensor:
        """The loss of a step."""


def objective_of(stage: Stage) -> Objective:
    """The objective of a stage. Raises RecipeError for a part that is no objective."""
    if not isinstance(stage.objective, Objective):
        raise RecipeError(
            "{kind} of stage {name!r} is no objective; take one of bimo.training.objectives, such as Denoise",
            kind=type(stage.objective).__name__,
            name=stage.name,
        )
    return stage.objective
