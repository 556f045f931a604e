"""Tells the layers of a first level apart: beside the picture, which words are of which thing and where it stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bimo.core.errors import BimoError, RecipeError, TrainingError
from bimo.core.messages import Listed
from bimo.core.tensors import Batch
from bimo.diffusion.system import System
from bimo.training.objectives.denoise import Denoise
from bimo.training.train_inputs import Prospect, TrainInputs, Vocabulary
from bimo.xiaomo.first_level import Apart, ExpectedDenoiser

#: What is said of pictures of several things counts for so much more than their share: they are a fourth of the data.
RARE = 4.0


@dataclass(frozen=True, kw_only=True)
class LayeredObjects(Denoise):
    """The squared error of the picture plus ``weight`` times what the labels say of its things.

    ``names`` are the labels of the first thing, the second and so on; ``boxes`` the label of where they stand, [across,
    down, long side] of the side; ``rest`` is how long a thing at rest is. Of pictures of several things each layer has
    to name its own from the words it picks, all by one head, so that they cannot pick alike; and to stand at its box.
    Of all other pictures no layer is seen. The picture alone does not teach it: layers of all words draw worse than
    none, and are hidden at once.
    """

    captions: ClassVar = "selected"

    names: tuple[str, ...] = ("kind", "kind2")
    boxes: str = "boxes"
    rest: float = 1.0
    weight: float = 0.05

    def tiny(self) -> Self:
        """As it is."""
        return self

    def prefix(self) -> str:
        """As runs that are begun and recipes that are saved have it."""
        return "things"

    def extra(self, system: System, vocabulary: Vocabulary) -> nn.Module | None:
        """The head that names a thing from the words read of it. Raises TrainingError for data without such labels,
        RecipeError for a system without layers or with another number of them.
        """
        denoiser = layered(system)
        if denoiser.part.things != len(self.names):
            raise RecipeError(
                "LayeredObjects has {count} names and Expected {things} things; as many are expected",
                count=len(self.names),
                things=denoiser.part.things,
            )
        known = len(_known(vocabulary, self.names))
        if not known:
            raise _unlabelled(self.names)
        return nn.Sequential(nn.LayerNorm(denoiser.width), nn.Linear(denoiser.width, known))

    def problems(self, prospect: Prospect) -> Iterator[BimoError]:
        """Labels by which things could be told apart."""
        if not _known(prospect.vocabulary, self.names):
            yield _unlabelled(self.names)

    def loss(self, inputs: TrainInputs) -> Tensor:
        """The mean over the rows of both."""
        batch = cast(Batch, inputs.batch)
        question = self.question(inputs, inputs.stage.level)
        loss = self.errors(question, inputs.system.denoise(question.denoiser_input)).mean()
        apart = layered(inputs.system, inputs.stage.level).apart(question.denoiser_input.conditioning)
        rows = [dict(row) for row in inputs.own(inputs.labels)]
        return loss + self.weight * self.told_apart(apart, rows, batch.dropped_captions, inputs)

    def told_apart(
        self, apart: Apart, rows: Sequence[Mapping[str, Any]], dropped: Tensor, inputs: TrainInputs
    ) -> Tensor:
        """What the labels of the rows say of their things, against how the layers are told apart."""
        home = apart.there.device
        emptied: list[bool] = cast(Any, dropped).tolist()
        told = [all(row.get(name) for name in (*self.names, self.boxes)) for row in rows]
        several = [number for number, gone in enumerate(emptied) if told[number] and not gone]
        wanted = torch.tensor([[float(number in several)] for number in range(len(rows))], device=home)
        loss = functional.binary_cross_entropy_with_logits(apart.there, wanted.expand_as(apart.there))
        if not several:
            return loss
        known, chosen = _known(inputs.vocabulary, self.names), [rows[number] for number in several]
        kinds = torch.tensor([[known[str(row[name])] for name in self.names] for row in chosen], device=home)
        own = torch.tensor(several, device=home)
        named = cast(nn.Module, inputs.extra)(apart.reads[own].float())
        boxes = torch.tensor([row[self.boxes] for row in chosen], device=home)
        error = functional.cross_entropy(named.flatten(0, 1), kinds.flatten())
        error = error + functional.l1_loss(apart.stands[own], places(boxes, self.rest))
        return loss + RARE * len(several) / len(rows) * error


def _unlabelled(names: Sequence[str]) -> TrainingError:
    return TrainingError(
        "the data has no labels {names}, by which LayeredObjects tells things apart; add them, or take Denoise",
        names=Listed(names),
    )


def places(boxes: Tensor, rest: float = 1.0) -> Tensor:
    """Boxes [..., 3] (across, down, long side, of the side) -> places [..., 3] (scale of a thing that is ``rest`` long,
    its middle from the centre, of half a side).
    """
    return torch.stack([boxes[..., 2] / rest, 2 * boxes[..., 0] - 1, 2 * boxes[..., 1] - 1], dim=-1)


def layered(system: System, name: str | None = None) -> ExpectedDenoiser:
    """The denoiser with layers of a level, or the only one there is. Raises RecipeError for a system without."""
    names = [level.name for level in system.recipe.levels] if name is None else [name]
    for each in names:
        for module in system.level(each).denoiser.modules():
            if isinstance(module, ExpectedDenoiser) and module.layers is not None:
                return module
    raise RecipeError(
        "LayeredObjects teaches an Expected with layers (things=2); there is none in {names}", names=Listed(names)
    )


def _known(vocabulary: Vocabulary, names: Sequence[str]) -> dict[str, int]:
    """The place of every value of the labels ``names``, taken together."""
    values = sorted({value for name in names for value in vocabulary.values.get(name, ())})
    return {value: place for place, value in enumerate(values)}
