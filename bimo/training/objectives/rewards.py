"""What a drawing is worth to its request: rewards as parts. By CLIP, by a head of beauty, by reading what is
written in it, by its colours; several weighed together; a function of the user's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional

from bimo.core.errors import DataError, RecipeError, TrainingError
from bimo.core.part import Part, dumps, meant
from bimo.diffusion.image_inputs import to_image
from bimo.diffusion.system import System
from bimo.models.clip.scoring import word_vectors
from bimo.prompts.quoted_text import quoted

if TYPE_CHECKING:
    from PIL import Image

#: Added to a variance before its root is taken: the slope of a root at 0 is infinite.
LEAST_VARIANCE = 1e-6
TOTAL = "score"


@dataclass(frozen=True)
class Shown:
    """B drawings, as a reward looks at them: ``pixels`` [B, 3, H, W] in [-1, 1], the ``texts`` they were asked for by,
    and the ``labels`` of the rows those are from.
    """

    pixels: Tensor
    texts: Sequence[str]
    labels: Sequence[Mapping[str, Any]] = ()

    def pictures(self) -> list[Image.Image]:
        """The drawings as PIL images."""
        return [to_image(row) for row in self.pixels.detach().float().cpu()]


#: Drawings -> what each is worth, [B], higher is better; NaN where the reward has nothing to say of one.
Scoring = Callable[[Shown], Tensor]


class Judging(Protocol):
    """A reward: a part that opens what it looks through. ``differentiable``: gradients reach the pixels."""

    @property
    def differentiable(self) -> bool:
        """Whether what it gives has a gradient by the pixels."""
        ...

    def open(self, judges: Judges) -> Scoring:
        """Loads what is needed; the function it gives takes batches."""
        ...


class Judges:
    """What rewards look through, each opened once: systems by name or folder, and the user's own functions by name."""

    def __init__(
        self, load: Callable[[str], System] | None = None, own: Mapping[str, Callable[..., Any]] | None = None
    ) -> None:
        self._load, self._own = load, dict(own or {})
        self._systems: dict[str, System] = {}
        self._scorings: dict[str, Scoring] = {}

    def system(self, name: str) -> System:
        """A system that learns nothing. Raises TrainingError where none can be opened here, WeightsError."""
        if name not in self._systems:
            if self._load is None:
                raise TrainingError(
                    "a reward looks through {name}, and nothing says how it is opened; in Python give "
                    "train(judges=Judges(bimo.load))",
                    name=name,
                )
            self._systems[name] = self._load(name).eval().requires_grad_(False)
        return self._systems[name]

    def own(self, name: str) -> Callable[..., Any]:
        """A function of the user's. Raises RecipeError for a name that none has."""
        if name not in self._own:
            near = meant(name, self._own) if self._own else ""
            raise RecipeError(
                "there is no function {name!r} for a reward{near}; give it with --reward ./mine.py:{name}",
                name=name,
                near=near,
            )
        return self._own[name]

    def scoring(self, reward: Part) -> Scoring:
        """A reward, opened. Raises RecipeError for a part that is none."""
        key = dumps(reward)
        if key not in self._scorings:
            if not hasattr(reward, "open"):
                raise RecipeError(
                    "{name} is no reward; there are those of bimo/training/objectives/rewards.py",
                    name=type(reward).__name__,
                )
            self._scorings[key] = cast(Judging, reward).open(self)
        return self._scorings[key]

    def scores(self, reward: Part, shown: Shown) -> dict[str, Tensor]:
        """What a reward gives, [B], as "score", and with ``Weighted`` what each part of it gives, by its name.

        Raises TrainingError for an answer that is not one number a drawing.
        """
        if isinstance(reward, WeightedRewards):
            by_name = {
                name: self.scores(part, shown)[TOTAL]
                for name, (_, part) in zip(names_of(reward), reward.parts, strict=True)
            }
            weights = [weight for weight, _ in reward.parts]
            every = torch.stack([w * score for w, score in zip(weights, by_name.values(), strict=True)])
            silent = every.isnan().all(0)
            return {TOTAL: every.nansum(0).masked_fill(silent, torch.nan), **by_name}
        scores: Any = self.scoring(reward)(shown)
        if not isinstance(scores, Tensor):
            scores = torch.as_tensor(scores, dtype=torch.float32)
        if scores.shape != (len(shown.pixels),):
            raise TrainingError(
                "the reward {name_of} gives the shape {shape}; one number a drawing is expected, [{count}]",
                name_of=name_of(reward),
                shape=list(scores.shape),
                count=len(shown.pixels),
            )
        return {TOTAL: scores.float()}


def name_of(reward: Part) -> str:
    """What a reward is called in reports: its class, of a user's function that function's name."""
    return reward.name if isinstance(reward, CustomReward) else type(reward).__name__


def names_of(reward: WeightedRewards) -> list[str]:
    """What its parts are called, those of one name by their number as well."""
    names = [name_of(part) for _, part in reward.parts]
    return [n if names.count(n) == 1 else f"{n} {names[: place + 1].count(n)}" for place, n in enumerate(names)]


@dataclass(frozen=True, kw_only=True)
class WeightedRewards(Part):
    """The sum of other rewards, each times its weight. Where one has nothing to say of a drawing, that of the rest."""

    parts: tuple[tuple[float, Part], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.parts:
            raise RecipeError("Weighted has no rewards")

    @property
    def differentiable(self) -> bool:
        """Where all of them are."""
        return all(cast(Any, part).differentiable for _, part in self.parts)

    def open(self, judges: Judges) -> Scoring:
        """The sum alone."""
        return lambda shown: judges.scores(self, shown)[TOTAL]


@dataclass(frozen=True, kw_only=True)
class ClipReward(Part):
    """The cosine of the request with the drawing by ``scorer``, a system's name or folder with a text and a picture
    encoder: Taiyi-CLIP, Chinese-CLIP, AltCLIP, OpenCLIP. What is high differs from scorer to scorer.
    """

    differentiable: ClassVar[bool] = True

    scorer: str

    def open(self, judges: Judges) -> Scoring:
        """Raises RecipeError for a scorer that lacks an encoder."""
        system = judges.system(self.scorer)

        def scored(shown: Shown) -> Tensor:
            # Out of inference mode, so that a gradient may pass beside them.
            words = word_vectors(system, list(shown.texts)).clone().to(shown.pixels.device)
            return (words * seen_by(system, shown.pixels)).sum(1)

        return scored


@dataclass(frozen=True, kw_only=True)
class AestheticReward(Part):
    """What a head of linear layers gives to a CLIP's picture vector, as LAION's aesthetic predictors do (0 to 10).

    ``scorer`` names the CLIP (a ViT-L/14 for LAION's heads), ``head`` the file of the head, see
    `bimo.curation.filters.classifiers.Aesthetic`.
    """

    differentiable: ClassVar[bool] = True

    scorer: str
    head: str

    def open(self, judges: Judges) -> Scoring:
        """Raises WeightsError for a head that cannot be read, DataError where the CLIP's vectors are of another width
        than it takes.
        """
        from bimo.curation.filters.classifiers import head_layers

        layers = [(torch.as_tensor(weight), torch.as_tensor(bias)) for weight, bias in head_layers(Path(self.head))]
        system = judges.system(self.scorer)

        def scored(shown: Shown) -> Tensor:
            x = seen_by(system, shown.pixels)
            if x.shape[1] != layers[0][0].shape[1]:
                raise DataError(
                    "{scorer} gives picture vectors of {shape} numbers; {head} takes {shape_2}",
                    scorer=self.scorer,
                    shape=x.shape[1],
                    head=self.head,
                    shape_2=layers[0][0].shape[1],
                )
            for weight, bias in layers:
                x = functional.linear(x, weight.to(x), bias.to(x))
            return x[:, 0]

        return scored


def seen_by(system: System, pixels: Tensor) -> Tensor:
    """The embeddings of pictures by a system's image encoder, [B, D], each of length 1, differentiable."""
    if system.vision is None:
        raise RecipeError(
            "{name} has no image encoder; score with a system such as taiyi-clip", name=system.recipe.name
        )
    # Words are few and stay where they are; pictures are looked at where they were drawn.
    image_encoder = system.vision.to(pixels.device)
    return functional.normalize(image_encoder(pixels.clamp(-1, 1).float()), dim=1)


@dataclass(frozen=True, kw_only=True)
class GlyphReward(Part):
    """Whether a drawing says what it was to say: the share of the characters asked for that are read in it, by OCR
    (`bimo.curation.filters.ocr.accuracy`): 1 - min(ED, n) / n of the edit distance, as Flow-GRPO's (arXiv:2505.05470).

    Asked for is what stands in quotation marks in the request, 「」《》“”, all of it together, or with ``label`` the
    label of that name. Nothing is said of a request that asks for none. ``sure`` is how sure the reader must be of a
    line.
    """

    differentiable: ClassVar[bool] = False

    label: str = ""
    sure: float = 0.3

    def open(self, judges: Judges) -> Scoring:
        """The models lie in rapidocr's wheel."""
        from bimo.curation.filters import ocr

        def scored(shown: Shown) -> Tensor:
            worth: list[float] = []
            for row, (picture, text) in enumerate(zip(shown.pictures(), shown.texts, strict=True)):
                asked = "".join(quoted(text)) if not self.label else str(shown.labels[row].get(self.label) or "")
                # Nothing is read where nothing was asked for: reading is most of the work.
                found = ocr.accuracy(asked, ocr.read(picture, self.sure, single=True)) if asked else None
                worth.append(torch.nan if found is None else found)
            return torch.tensor(worth)

        return scored


@dataclass(frozen=True, kw_only=True)
class ColourfulReward(Part):
    """How colourful a drawing is: M of Hasler and Suesstrunk (SPIE 5007, 2003), over 100, by no weights; what their
    judges called averagely colourful is about 0.45, highly so 0.82.
    """

    differentiable: ClassVar[bool] = True

    def open(self, judges: Judges) -> Scoring:
        """Spread and mean of red less green, and of yellow less blue."""

        def scored(shown: Shown) -> Tensor:
            red, green, blue = ((shown.pixels.clamp(-1, 1) + 1) * 127.5).flatten(2).unbind(1)
            across, along = red - green, (red + green) / 2 - blue
            spread = (across.var(1) + along.var(1) + LEAST_VARIANCE).sqrt()
            middle = (across.mean(1).square() + along.mean(1).square() + LEAST_VARIANCE).sqrt()
            return (spread + 0.3 * middle) / 100

        return scored


@dataclass(frozen=True, kw_only=True)
class BackgroundReward(Part):
    """How near the border of a drawing is to a ``colour`` (red, green, blue of 255): 1 - the mean distance a channel,
    over the outermost ``border`` share of each side. By no weights.
    """

    differentiable: ClassVar[bool] = True

    colour: tuple[int, int, int]
    border: float = 0.08

    def open(self, judges: Judges) -> Scoring:
        """The mean over the border's pixels."""
        wanted = torch.tensor(self.colour).float()[:, None, None] / 127.5 - 1

        def scored(shown: Shown) -> Tensor:
            height, width = shown.pixels.shape[2:]
            tall, wide = (max(1, round(self.border * side)) for side in (height, width))
            inside = torch.zeros(height, width, dtype=torch.bool)
            inside[tall : height - tall, wide : width - wide] = True
            apart = (shown.pixels.clamp(-1, 1) - wanted.to(shown.pixels)).abs().mean(1) / 2
            return 1 - apart[:, ~inside].mean(1)

        return scored


@dataclass(frozen=True, kw_only=True)
class CustomReward(Part):
    """A function of the user's by its ``name``, from the recipe's own .py file or ``--reward ./mine.py:name``: of a
    ``Shown`` it gives one number a drawing, a tensor [B] or a list.

    A recipe says its name alone, never where it lies: a recipe is data, and data must not choose code.
    """

    name: str
    differentiable: bool = field(default=False)

    def open(self, judges: Judges) -> Scoring:
        """The function. Raises RecipeError where none has the name."""
        return judges.own(self.name)


def of_rewards(reward: Part, judges: Judges) -> Iterator[RecipeError]:
    """What is wrong with the functions of the user's that a reward names: nobody gave one."""
    if isinstance(reward, WeightedRewards):
        for _, part in reward.parts:
            yield from of_rewards(part, judges)
    elif isinstance(reward, CustomReward):
        try:
            judges.own(reward.name)
        except RecipeError as error:
            yield error
