"""What a step of training brings to an objective."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any, cast, overload

import torch
from torch import Tensor, nn

from bimo.core.errors import BimoError
from bimo.core.recipe import Stage
from bimo.core.tensors import Batch, Row, Share
from bimo.data.loader import Pictures
from bimo.diffusion.system import System
from bimo.training.distributed.processes import gather
from bimo.training.objectives.rewards import Judges


@dataclass(frozen=True)
class Vocabulary:
    """The values of each label that the data has, in a fixed order: what a classifier's outputs mean. Of a label that
    is several things, a list of words or a table by them, each word is a value.
    """

    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, "tuple[str, ...]"])

    def sizes(self, labels: Sequence[str]) -> dict[str, int]:
        """How many values each label has, 0 for one that the data does not declare."""
        return {label: len(self.values.get(label, ())) for label in labels}

    def indices(self, label: str, rows: Sequence[Mapping[str, Any]]) -> Tensor:
        """[B]: the place of each row's value, 0 where it has none."""
        table = {value: i + 1 for i, value in enumerate(self.values.get(label, ()))}
        return torch.tensor([table.get(str(row.get(label)), 0) for row in rows])

    def members(self, label: str, rows: Sequence[Mapping[str, Any]]) -> Tensor:
        """[B, values]: 1 for each value that a row's label has, 0 for the others."""
        table = {value: i for i, value in enumerate(self.values.get(label, ()))}
        members = torch.zeros(len(rows), len(table))
        for number, row in enumerate(rows):
            members[number, [table[word] for word in several(row.get(label)) if word in table]] = 1.0
        return members


def several(value: object) -> tuple[str, ...]:
    """The words of a label that is a list of words, or a table by them; () for any other."""
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
    return Vocabulary({label: tuple(sorted(found)) for label, found in sorted(values.items())})


@dataclass(frozen=True)
class TrainInputs:
    """What an objective sees of a step.

    ``texts`` are one caption a row, "" where it was dropped; ``captions`` all of each row by language. ``pixels``
    [B, 3, H, W] or a level's ``batch`` come as the objective ``sees``. ``teacher`` is the frozen system that was named
    for the run to learn from, ``judges`` open what rewards look through.

    Where several processes share a step, labels, texts and captions are of all its rows, pixels and batch of one's
    ``share``; whatever is random is drawn for all rows, alike in every process, and then cut to one's ``own``.
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
    def whole(self) -> int:
        """How many rows the step has in all processes together."""
        return len(self.labels) if self.share is None else self.share.whole

    @overload
    def own(self, values: Tensor) -> Tensor: ...
    @overload
    def own(self, values: Sequence[Row]) -> Sequence[Row]: ...
    def own(self, values: Any) -> Any:
        """One's own rows of what has one for each of the step's."""
        return values if self.share is None else cast(Any, self.share.of(values))

    def gather(self, value: Tensor) -> Tensor:
        """[B, ...] of one's own rows -> [whole, ...] of all, with a gradient for one's own."""
        return value if self.share is None else gather(value, self.share)


@dataclass(frozen=True)
class Prospect:
    """What there is for a stage before anything is learnt."""

    system: System
    stage: Stage
    pictures: Pictures
    vocabulary: Vocabulary
    teacher: System | None
    judges: Judges


def refusals(work: Callable[[], object]) -> Iterator[BimoError]:
    """What some work says that it cannot be done for."""
    try:
        with redirect_stdout(io.StringIO()):  # what it counts is said when its stage comes
            work()
    except BimoError as error:
        yield error
