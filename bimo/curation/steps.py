"""What a curation step is. A step is a `Part`: plain data, and one or two methods that answer kept, or why not.

Five kinds, told apart by the method they have:

- `PictureStep.measure` looks at a decoded picture, once; `judge` reads the stored numbers alone, so that a changed
  threshold selects again without reading a picture.
- `CaptionStep.caption` reads one caption: the caption, mended or as it is, or the verdict. A row whose last caption
  goes is dropped by the rule that took it.
- `ModelStep.open` gives a function over batches of what is left at that point; `judge` as above. With a `settled`
  method it chooses its threshold by the scores of the whole set.
- `WriterStep.write` gives a function that writes captions for batches of what is left.
- `TableStep.select` reads columns of all that is left and says what changes.

Steps are taken in the order of their list; the first verdict is the one that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from bimo.core.part import Part

if TYPE_CHECKING:
    from PIL import Image

    from bimo.curation.decoded_image import DecodedImage

#: Numbers and short texts by the name of their column; None where there is nothing to measure.
Scores = Mapping[str, float | int | str | None]


@dataclass(frozen=True)
class Verdict:
    """Why a row or a caption goes: what was found, and what it was held against."""

    value: float | str
    threshold: float | str


@dataclass(frozen=True)
class Pair:
    """What models look at: an upright RGB picture and its captions, as they are at that point."""

    number: int
    picture: Image.Image
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """What a table step does to a row: drops it, gives it other captions, writes it ``repeats`` times (0 is a drop
    that needs a verdict), or adds labels.
    """

    number: int
    verdict: Verdict | None = None
    captions: tuple[str, ...] | None = None
    repeats: int = 1
    labels: Mapping[str, float | str] | None = None


class Table(Protocol):
    """The rows that are left at a step, in the order of the source; columns come from disk one at a time."""

    @property
    def numbers(self) -> np.ndarray:
        """[N] int64: the numbers of the rows."""
        ...

    def column(self, name: str) -> np.ndarray:
        """[N]: a score or a label. Raises DataError for a name that no step before this one measures."""
        ...

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """The same in its order, unit by unit, for what is large and can be held in less."""
        ...

    def captions(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        """(number, captions) of every row."""
        ...


class Scorer(Protocol):
    """A system with a text and a picture tower. ``digest`` names its weights and the numbers it reckons in.

    What it says of a text or a picture does not depend on what stands beside it.
    """

    digest: str

    def fitted(self, picture: Image.Image) -> Image.Image:
        """What it sees of a picture, as a small one; ``pictures`` says the same of both."""
        ...

    def words(self, texts: Sequence[str]) -> np.ndarray:
        """[B, D] float32, each of length 1."""
        ...

    def pictures(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """[B, D] float32, each of length 1."""
        ...


@dataclass(frozen=True)
class Tools:
    """What steps get from outside the room: ``scorer`` opens a system of the user's by name or folder."""

    scorer: Callable[[str], Scorer]


@runtime_checkable
class PictureStep(Protocol):
    """Measures pictures, one at a time, and judges by the numbers."""

    #: The reason in Chinese and in English, as the report gives it.
    says: ClassVar[tuple[str, str]]
    #: The column its histogram is of.
    score: ClassVar[str]

    def measuring(self) -> str:
        """What the numbers depend on, such as "Sharpness/1": while it stays, stored numbers stay."""
        ...

    def measure(self, picture: DecodedImage) -> Scores:
        """The numbers of a picture."""
        ...

    def judge(self, scores: Scores) -> Verdict | None:
        """None for a row that stays."""
        ...


@runtime_checkable
class CaptionStep(Protocol):
    """Judges or mends captions, one at a time."""

    says: ClassVar[tuple[str, str]]

    def caption(self, text: str) -> str | Verdict:
        """The caption that goes on, or why none does."""
        ...


@runtime_checkable
class ModelStep(Protocol):
    """Measures with a model, in batches, and judges by the numbers.

    A step that also has ``settled(table) -> step`` is replaced by its answer before it judges. One that has
    ``view(tools)``, a function of a picture, is given pictures as that leaves them: it is called where they are
    decoded, so that what is large need not wait for the model in memory.
    """

    says: ClassVar[tuple[str, str]]
    score: ClassVar[str]

    def measuring(self, tools: Tools) -> str:
        """What the numbers depend on: its own version and the digest of the weights."""
        ...

    def open(self, tools: Tools) -> Callable[[Sequence[Pair]], list[Scores]]:
        """Loads the model; the function it gives measures a batch."""
        ...

    def judge(self, scores: Scores) -> Verdict | None:
        """None for a row that stays."""
        ...


@runtime_checkable
class WriterStep(Protocol):
    """Writes captions, in batches. What it wrote is stored and asked for once."""

    says: ClassVar[tuple[str, str]]

    def measuring(self, tools: Tools) -> str:
        """What the captions depend on."""
        ...

    def write(self, tools: Tools) -> Callable[[Sequence[Pair]], list[tuple[str, ...] | Verdict]]:
        """Opens the model or the endpoint; the function it gives answers all captions a row has from now on."""
        ...


@runtime_checkable
class TableStep(Protocol):
    """Decides over the whole set: how often a caption is there, what is a copy of what, how much of each there is."""

    says: ClassVar[tuple[str, str]]

    def select(self, table: Table) -> Iterator[Change]:
        """What changes; rows that are not named stay as they are."""
        ...


@dataclass(frozen=True, kw_only=True)
class Curation(Part):
    """A list of steps, taken in order. ``note`` says what a paper did and what of it is known."""

    name: str
    title: str = ""
    steps: tuple[Part, ...] = ()
    note: str = ""


def named(step: Part) -> str:
    """The name of a rule in trails and reports: that of its class."""
    return type(step).__name__


def fields_of(step: Part) -> dict[str, Any]:
    """The settings of a step, for the report."""
    from bimo.core.part import KIND, dump

    return {name: value for name, value in dump(step).items() if name != KIND}
