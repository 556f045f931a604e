"""What a curation step is: a `Part` of one of five kinds, each a base class to derive from.

- `PictureStep` measures a decoded picture, once, and judges by the stored numbers alone, so that another threshold
  selects again without reading a picture.
- `CaptionStep` gets one caption and returns it, changed or as it is, or the verdict. A row that has lost its last
  caption is dropped by the step that took it.
- `ModelStep` measures batches of the rows that are left with a model, and judges as above.
- `WriterStep` writes captions for batches of the rows that are left.
- `TableStep` reads columns of all rows that are left and says what changes.

Steps are taken in the order of their list; the first verdict counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np

from bimo.core.part import KIND, Part, dump

if TYPE_CHECKING:
    from PIL import Image

    from bimo.curation.decoded_image import DecodedImage

#: Numbers and short texts by the name of their column; None where there is nothing to measure.
Scores = Mapping[str, float | int | str | None]
#: Resizes a picture to what a model uses of it.
View = Callable[["Image.Image"], "Image.Image"]


@dataclass(frozen=True)
class Verdict:
    """Why a row or a caption is dropped: the value that was measured, and the threshold that it was compared with."""

    value: float | str
    threshold: float | str


@dataclass(frozen=True)
class Pair:
    """A sample as models get it: the upright RGB picture and its captions, as the steps before have left them."""

    number: int
    picture: Image.Image
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """What a table step changes of a row: a verdict drops it, ``captions`` replace its captions, ``repeats`` is how
    often it is written (0 drops it and needs a verdict), ``labels`` are added.
    """

    number: int
    verdict: Verdict | None = None
    captions: tuple[str, ...] | None = None
    repeats: int = 1
    labels: Mapping[str, float | str] | None = None


class Table(Protocol):
    """The rows that no earlier step has dropped, in the order of the source; columns are read from disk one by one."""

    @property
    def numbers(self) -> np.ndarray:
        """[N] int64: the numbers of the rows."""
        ...

    def column(self, name: str) -> np.ndarray:
        """[N]: a score or a label. Raises DataError for a name that no earlier step measures."""
        ...

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """The same in the same order, a unit at a time, for columns that should not be in memory whole."""
        ...

    def captions(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        """(number, captions) of every row."""
        ...


class Scorer(Protocol):
    """A system with a text and an image encoder. ``digest`` names its weights and the dtype it computes in.

    The embedding of a text or a picture does not depend on the rest of its batch.
    """

    digest: str

    def fitted(self, picture: Image.Image) -> Image.Image:
        """The picture resized as the encoder does; ``pictures`` gives the same embedding for both."""
        ...

    def words(self, texts: Sequence[str]) -> np.ndarray:
        """[B, D] float32, each of length 1."""
        ...

    def pictures(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """[B, D] float32, each of length 1."""
        ...


@dataclass(frozen=True)
class Tools:
    """What steps get from the caller: ``scorer`` loads a system by name or folder."""

    scorer: Callable[[str], Scorer]


@dataclass(frozen=True, kw_only=True)
class Step(Part):
    """What every step has, of whatever kind."""

    #: The reason in Chinese and in English, as the report gives it.
    says: ClassVar[tuple[str, str]]
    #: The column that the report's histogram is of; "" for a step that measures none.
    score: ClassVar[str] = ""
    #: Whether it uses a large model or an endpoint: it runs once then, while small models run in every process.
    single: ClassVar[bool] = False

    def reason(self) -> tuple[str, str]:
        """``says``, but for a step whose reason depends on its settings."""
        return self.says

    def score_name(self) -> str:
        """``score``, but for a step whose column depends on its settings."""
        return self.score


@dataclass(frozen=True, kw_only=True)
class PictureStep(Step, ABC):
    """Measures pictures, one at a time, and judges by the numbers."""

    @abstractmethod
    def measuring(self) -> str:
        """What the numbers depend on, such as "Sharpness/1": while it stays, stored numbers are reused."""

    @abstractmethod
    def measure(self, picture: DecodedImage) -> Scores:
        """The numbers of a picture."""

    @abstractmethod
    def judge(self, scores: Scores) -> Verdict | None:
        """None for a row that stays."""


@dataclass(frozen=True, kw_only=True)
class CaptionStep(Step, ABC):
    """Judges or changes captions, one at a time."""

    @abstractmethod
    def caption(self, text: str) -> str | Verdict:
        """The caption that later steps get, or why none does."""


@dataclass(frozen=True, kw_only=True)
class ModelStep(Step, ABC):
    """Measures with a model, in batches, and judges by the numbers."""

    @abstractmethod
    def measuring(self, tools: Tools) -> str:
        """What the numbers depend on: the step's version and the digest of the weights."""

    def view(self, tools: Tools) -> View | None:
        """How pictures are resized where they are decoded, so that no large ones wait in memory; None: not at all."""
        return None

    @abstractmethod
    def open(self, tools: Tools) -> Callable[[Sequence[Pair]], list[Scores]]:
        """Loads the model; the function that it returns measures a batch."""

    def settled(self, table: Table) -> Self:
        """The step with its threshold chosen by the scores of the whole set, before it judges; itself by default."""
        return self

    @abstractmethod
    def judge(self, scores: Scores) -> Verdict | None:
        """None for a row that stays."""


@dataclass(frozen=True, kw_only=True)
class ScorerStep(ModelStep, ABC):
    """Measures with the embeddings of ``scorer``, a system's name or folder."""

    scorer: str
    single: ClassVar[bool] = True

    def view(self, tools: Tools) -> View:
        """Resizes as the scorer's image encoder does."""
        return tools.scorer(self.scorer).fitted


@dataclass(frozen=True, kw_only=True)
class WriterStep(Step, ABC):
    """Writes captions, in batches. What was written is stored, and written once."""

    @abstractmethod
    def measuring(self, tools: Tools) -> str:
        """What the captions depend on."""

    @abstractmethod
    def write(self, tools: Tools) -> Callable[[Sequence[Pair]], list[tuple[str, ...] | Verdict]]:
        """Opens the model or the endpoint; the function that it returns gives each row all the captions it then has."""


@dataclass(frozen=True, kw_only=True)
class TableStep(Step, ABC):
    """Decides over the whole set: how frequent a caption is, what is a duplicate of what, how much of each class."""

    @abstractmethod
    def select(self, table: Table) -> Iterator[Change]:
        """The changes; rows that are not among them stay as they are."""


@dataclass(frozen=True, kw_only=True)
class Curation(Part):
    """A list of steps, taken in order. ``note`` says what a paper did and how much of that is published."""

    name: str
    title: str = ""
    steps: tuple[Part, ...] = ()
    note: str = ""


def step_name(step: Part) -> str:
    """The name of a step in trails and reports: that of its class."""
    return type(step).__name__


def fields_of(step: Part) -> dict[str, Any]:
    """The settings of a step, for the report."""
    return {name: value for name, value in dump(step).items() if name != KIND}
