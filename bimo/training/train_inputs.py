"""The inputs of objectives in a training step."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast, overload

import torch
from torch import Tensor, nn

from bimo.core.errors import BimoError
from bimo.core.recipe import Stage
from bimo.core.tensors import Batch, Row, Share
from bimo.diffusion.system import System

if TYPE_CHECKING:
    # Drawing reads a recipe with its objectives, and needs none of these.
    from bimo.data.loader import Pictures
    from bimo.training.objectives.rewards import Judges


@dataclass(frozen=True)
class Vocabulary:
    """The values of each label in the data, in a fixed order: the classes of a classifier. Each word of a multi-valued
    label (a list of words or a table by them) is a value.
    """

    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, "tuple[str, ...]"])

    def sizes(self, labels: Sequence[str]) -> dict[str, int]:
        """The number of values of each label, 0 for one that the data lacks."""
        return {label: len(self.values.get(label, ())) for label in labels}

    def indices(self, label: str, rows: Sequence[Mapping[str, Any]]) -> Tensor:
        """[B]: the index of each row's value, 0 without one."""
        table = {value: i + 1 for i, value in enumerate(self.values.get(label, ()))}
        return torch.tensor([table.get(str(row.get(label)), 0) for row in rows])

    def members(self, label: str, rows: Sequence[Mapping[str, Any]]) -> Tensor:
        """[B, values]: 1 for each value of a row's label, else 0."""
        table = {value: i for i, value in enumerate(self.values.get(label, ()))}
        members = torch.zeros(len(rows), len(table))
        for number, row in enumerate(rows):
            members[number, [table[word] for word in several(row.get(label)) if word in table]] = 1.0
        return members


def several(value: object) -> tuple[str, ...]:
    """The words of a multi-valued label, a list of words or a table by them; () for any other."""
    words = list(cast("Sequence[object]", value)) if isinstance(value, (Mapping, list, tuple)) else []
    return tuple(str(word) for word in words) if all(isinstance(word, str) for word in words) else ()


def vocabulary(labels: Sequence[Mapping[str, Any]]) -> Vocabulary:
    """The vocabulary of all rows' labels."""
    values: dict[str, set[str]] = {}
    for row in labels:
        for label, value in row.items():
            if isinstance(value, (str, int)):
                values.setdefault(label, set()).add(str(value))
            elif words := several(value):
                values.setdefault(label, set()).update(words)
    return Vocabulary({label: tuple(sorted(known)) for label, known in sorted(values.items())})


@dataclass(frozen=True)
class TrainInputs:
    """What an objective gets in a step.

    ``texts`` are one caption for each row, "" if it was dropped; ``captions`` all of each row by language. ``pixels``
    [B, 3, H, W] or a level's ``batch`` are there as the objective ``sees``. ``teacher`` is a frozen system for
    distillation, ``judges`` load the models of rewards.

    In a step of several processes, labels, texts and captions are those of all rows, pixels and batch those of this
    process's ``share``; random numbers are drawn for all rows, equal in every process, and then reduced to its ``own``.
    """

    system: System
    stage: Stage
    extra: nn.Module | None
    labels: Sequence[Mapping[str, Any]]
    vocabulary: Vocabulary
    generator: torch.Generator
    texts: Sequence[str] = ()
    captions: Sequence[Mapping[str, tuple[str, ...]]] = ()
    pixels: Tensor | None = None
    batch: Batch | None = None
    teacher: System | None = None
    judges: Judges | None = None
    share: Share | None = None

    @property
    def total_rows(self) -> int:
        """The number of rows of the step in all processes."""
        return len(self.labels) if self.share is None else self.share.total

    @overload
    def own(self, values: Tensor) -> Tensor: ...
    @overload
    def own(self, values: Sequence[Row]) -> Sequence[Row]: ...
    def own(self, values: Any) -> Any:
        """This process's rows of a sequence with one entry for each row of the step."""
        return values if self.share is None else cast(Any, self.share.of(values))

    def gather(self, value: Tensor) -> Tensor:
        """[B, ...] of this process's rows -> [total, ...] of all, with a gradient for its own."""
        from bimo.training.distributed.processes import gather

        return value if self.share is None else gather(value, self.share)


@dataclass(frozen=True)
class Prospect:
    """What is available to a stage before training starts."""

    system: System
    stage: Stage
    pictures: Pictures
    vocabulary: Vocabulary
    teacher: System | None
    judges: Judges


def refusals(work: Callable[[], object]) -> Iterator[BimoError]:
    """The reasons for which work is refused, as errors."""
    try:
        with redirect_stdout(io.StringIO()):  # counts are reported when the stage starts
            work()
    except BimoError as error:
        yield error
