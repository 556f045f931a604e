"""Rewards for drawings: CLIP similarity, an aesthetic head, OCR accuracy, colours; weighted sums; user functions."""

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
    """B drawings for a reward: ``pixels`` [B, 3, H, W] in [-1, 1], the ``texts`` of their requests, and the ``labels``
    of the rows of these.
    """

    pixels: Tensor
    texts: Sequence[str]
    labels: Sequence[Mapping[str, Any]] = ()

    def pictures(self) -> list[Image.Image]:
        """The drawings as PIL images."""
        return [to_image(row) for row in self.pixels.detach().float().cpu()]


#: Drawings -> the reward of each, [B], higher is better; NaN if there is none.
Scoring = Callable[[Shown], Tensor]


class Judging(Protocol):
    """A reward: a part that loads its models. ``differentiable``: gradients reach the pixels."""

    @property
    def differentiable(self) -> bool:
        """Whether its scores have a gradient by the pixels."""
        ...

    def open(self, judges: Judges) -> Scoring:
        """Loads what is needed; returns a function of batches."""
        ...


class Judges:
    """The models of rewards, each loaded once: systems by name or folder, and user functions by name."""

    def __init__(
        self, load: Callable[[str], System] | None = None, own: Mapping[str, Callable[..., Any]] | None = None
    ) -> None:
        self._load, self._own = load, dict(own or {})
        self._systems: dict[str, System] = {}
        self._scorings: dict[str, Scoring] = {}

    def system(self, name: str) -> System:
        """A frozen system. Raises TrainingError if none can be loaded here, and WeightsError."""
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
        """A user function. Raises RecipeError for an unknown name."""
        if name not in self._own:
            near = meant(name, self._own) if self._own else ""
            raise RecipeError(
                "there is no function {name!r} for a reward{near}; give it with --reward ./mine.py:{name}",
                name=name,
                near=near,
            )
        return self._own[name]

    def scoring(self, reward: Part) -> Scoring:
        """A loaded reward. Raises RecipeError for a part that is no reward."""
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
        """The scores of a reward, [B], as "score", and with ``Weighted`` those of each component, by its name.

        Raises TrainingError for a result other than one number for each drawing.
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
    """The name of a reward in reports: its class, or the name of a user function."""
    return reward.name if isinstance(reward, CustomReward) else type(reward).__name__


def names_of(reward: WeightedRewards) -> list[str]:
    """The names of its components; equal names get a number."""
    names = [name_of(part) for _, part in reward.parts]
    return [n if names.count(n) == 1 else f"{n} {names[: place + 1].count(n)}" for place, n in enumerate(names)]


@dataclass(frozen=True, kw_only=True)
class WeightedRewards(Part):
    """The weighted sum of other rewards. A component without a score for a drawing is left out."""

    parts: tuple[tuple[float, Part], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.parts:
            raise RecipeError("Weighted has no rewards")

    @property
    def differentiable(self) -> bool:
        """Whether all of them are."""
        return all(cast(Any, part).differentiable for _, part in self.parts)

    def open(self, judges: Judges) -> Scoring:
        """Returns the sum alone."""
        return lambda shown: judges.scores(self, shown)[TOTAL]


@dataclass(frozen=True, kw_only=True)
class ClipReward(Part):
    """The cosine similarity of request and drawing by ``scorer``, the name or folder of a system with a text and an
    image encoder: Taiyi-CLIP, Chinese-CLIP, AltCLIP, OpenCLIP. The range differs from scorer to scorer.
    """

    differentiable: ClassVar[bool] = True

    scorer: str

    def open(self, judges: Judges) -> Scoring:
        """Raises RecipeError for a scorer without one of the encoders."""
        system = judges.system(self.scorer)

        def scored(shown: Shown) -> Tensor:
            # Cloned out of inference mode, so that gradients can be computed.
            words = word_vectors(system, list(shown.texts)).clone().to(shown.pixels.device)
            return (words * image_embeddings(system, shown.pixels)).sum(1)

        return scored


@dataclass(frozen=True, kw_only=True)
class AestheticReward(Part):
    """The score of a head of linear layers on a CLIP's image embedding, as LAION's aesthetic predictors (0 to 10).

    ``scorer`` names the CLIP (a ViT-L/14 for LAION's heads), ``head`` the file of the head, see
    `bimo.curation.filters.classifiers.Aesthetic`.
    """

    differentiable: ClassVar[bool] = True

    scorer: str
    head: str

    def open(self, judges: Judges) -> Scoring:
        """Raises WeightsError for a head that cannot be read, DataError if the CLIP's embeddings have another width."""
        from bimo.curation.filters.classifiers import head_layers

        layers = [(torch.as_tensor(weight), torch.as_tensor(bias)) for weight, bias in head_layers(Path(self.head))]
        system = judges.system(self.scorer)

        def scored(shown: Shown) -> Tensor:
            x = image_embeddings(system, shown.pixels)
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


def image_embeddings(system: System, pixels: Tensor) -> Tensor:
    """The embeddings of pictures by a system's image encoder, [B, D], normalised, differentiable."""
    if system.vision is None:
        raise RecipeError(
            "{name} has no image encoder; score with a system such as taiyi-clip", name=system.recipe.name
        )
    # Texts are few and stay where they are; pictures are embedded on the device where they were drawn.
    image_encoder = system.vision.to(pixels.device)
    return functional.normalize(image_encoder(pixels.clamp(-1, 1).float()), dim=1)


@dataclass(frozen=True, kw_only=True)
class GlyphReward(Part):
    """OCR accuracy of the requested text (`bimo.curation.filters.ocr.accuracy`): 1 - min(ED, n) / n with the edit
    distance ED, as Flow-GRPO (arXiv:2505.05470).

    The requested text is all that stands in quotation marks 「」《》“” in the request, or with ``label`` the label of
    that name. Requests without text have no score. ``sure`` is the least confidence of a line.
    """

    differentiable: ClassVar[bool] = False

    label: str = ""
    sure: float = 0.3

    def open(self, judges: Judges) -> Scoring:
        """The models come with rapidocr."""
        from bimo.curation.filters import ocr

        def scored(shown: Shown) -> Tensor:
            worth: list[float] = []
            for row, (picture, text) in enumerate(zip(shown.pictures(), shown.texts, strict=True)):
                wanted = "".join(quoted(text)) if not self.label else str(shown.labels[row].get(self.label) or "")
                # OCR is most of the work, and is skipped if no text was requested.
                accuracy = ocr.accuracy(wanted, ocr.read(picture, self.sure, single=True)) if wanted else None
                worth.append(torch.nan if accuracy is None else accuracy)
            return torch.tensor(worth)

        return scored


@dataclass(frozen=True, kw_only=True)
class ColourfulReward(Part):
    """Colourfulness: M of Hasler and Suesstrunk (SPIE 5007, 2003), over 100, without weights; what their judges called
    averagely colourful is about 0.45, highly colourful 0.82.
    """

    differentiable: ClassVar[bool] = True

    def open(self, judges: Judges) -> Scoring:
        """Spread and mean of red - green, and of yellow - blue."""

        def scored(shown: Shown) -> Tensor:
            red, green, blue = ((shown.pixels.clamp(-1, 1) + 1) * 127.5).flatten(2).unbind(1)
            across, along = red - green, (red + green) / 2 - blue
            spread = (across.var(1) + along.var(1) + LEAST_VARIANCE).sqrt()
            middle = (across.mean(1).square() + along.mean(1).square() + LEAST_VARIANCE).sqrt()
            return (spread + 0.3 * middle) / 100

        return scored


@dataclass(frozen=True, kw_only=True)
class BackgroundReward(Part):
    """The similarity of a drawing's border to a ``colour`` (red, green, blue of 255): 1 - the mean difference of the
    channels, over the outermost ``border`` share of each side. Without weights.
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
            distance = (shown.pixels.clamp(-1, 1) - wanted.to(shown.pixels)).abs().mean(1) / 2
            return 1 - distance[:, ~inside].mean(1)

        return scored


@dataclass(frozen=True, kw_only=True)
class CustomReward(Part):
    """A user function by its ``name``, from the recipe's own .py file or ``--reward ./mine.py:name``: it maps a
    ``Shown`` to one number for each drawing, a tensor [B] or a list.

    A recipe holds its name alone, never its path: a recipe is data, and data must not choose code.
    """

    name: str
    differentiable: bool = field(default=False)

    def open(self, judges: Judges) -> Scoring:
        """Returns the function. Raises RecipeError for an unknown name."""
        return judges.own(self.name)


def of_rewards(reward: Part, judges: Judges) -> Iterator[RecipeError]:
    """The problems of the user functions that a reward names: missing ones."""
    if isinstance(reward, WeightedRewards):
        for _, part in reward.parts:
            yield from of_rewards(part, judges)
    elif isinstance(reward, CustomReward):
        try:
            judges.own(reward.name)
        except RecipeError as error:
            yield error
