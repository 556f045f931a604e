"""An objective for the layers of a first level: besides the picture, it supervises words and placement of each
object.
"""

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
from bimo.xiaomo.first_level import ExpectedDenoiser, LayerReadings

#: The weight of pictures with several objects, which are a fourth of the data.
RARE = 4.0


@dataclass(frozen=True, kw_only=True)
class LayeredObjects(Denoise):
    """The squared error of the picture plus ``weight`` times the loss of the layers by the labels of its objects.

    ``names`` are the labels of the first object, the second and so on; ``boxes`` the label of their positions, [across,
    down, long side] relative to the side; ``rest`` is the length of an object at rest. In pictures of several objects
    each layer is trained to predict its own object from its words, by one shared head, so that layers cannot read the
    same words, and its box. In all other pictures layers are trained to be absent. The picture alone is no sufficient
    supervision: layers that read all words draw worse than none, and are switched off at once.
    """

    captions: ClassVar = "selected"

    names: tuple[str, ...] = ("kind", "kind2")
    boxes: str = "boxes"
    rest: float = 1.0
    weight: float = 0.05

    def tiny(self) -> Self:
        """Unchanged."""
        return self

    def prefix(self) -> str:
        """The prefix in existing runs and saved recipes."""
        return "things"

    def extra(self, system: System, vocabulary: Vocabulary) -> nn.Module | None:
        """The head that predicts an object from a layer's reading. Raises TrainingError for data without such labels,
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
        """Missing labels of objects."""
        if not _known(prospect.vocabulary, self.names):
            yield _unlabelled(self.names)

    def loss(self, inputs: TrainInputs) -> Tensor:
        """The mean over the rows of both losses."""
        batch = cast(Batch, inputs.batch)
        question = self.question(inputs, inputs.stage.level)
        loss = self.errors(question, inputs.system.denoise(question.denoiser_input)).mean()
        readings = layered(inputs.system, inputs.stage.level).read_layers(question.denoiser_input.conditioning)
        rows = [dict(row) for row in inputs.own(inputs.labels)]
        return loss + self.weight * self.layer_loss(readings, rows, batch.dropped_captions, inputs)

    def layer_loss(
        self, readings: LayerReadings, rows: Sequence[Mapping[str, Any]], dropped: Tensor, inputs: TrainInputs
    ) -> Tensor:
        """The loss of the layers against the labels of the rows."""
        home = readings.presence.device
        emptied: list[bool] = cast(Any, dropped).tolist()
        labelled = [all(row.get(name) for name in (*self.names, self.boxes)) for row in rows]
        several = [number for number, is_empty in enumerate(emptied) if labelled[number] and not is_empty]
        wanted = torch.tensor([[float(number in several)] for number in range(len(rows))], device=home)
        loss = functional.binary_cross_entropy_with_logits(readings.presence, wanted.expand_as(readings.presence))
        if not several:
            return loss
        known, chosen = _known(inputs.vocabulary, self.names), [rows[number] for number in several]
        kinds = torch.tensor([[known[str(row[name])] for name in self.names] for row in chosen], device=home)
        own = torch.tensor(several, device=home)
        named = cast(nn.Module, inputs.extra)(readings.reads[own].float())
        boxes = torch.tensor([row[self.boxes] for row in chosen], device=home)
        error = functional.cross_entropy(named.flatten(0, 1), kinds.flatten())
        error = error + functional.l1_loss(readings.placements[own], places(boxes, self.rest))
        return loss + RARE * len(several) / len(rows) * error


def _unlabelled(names: Sequence[str]) -> TrainingError:
    return TrainingError(
        "the data has no labels {names}, by which LayeredObjects tells things apart; add them, or take Denoise",
        names=Listed(names),
    )


def places(boxes: Tensor, rest: float = 1.0) -> Tensor:
    """Boxes [..., 3] (across, down, long side, relative to the side) -> placements [..., 3] (scale relative to length
    ``rest``, centre relative to the picture's, in half sides).
    """
    return torch.stack([boxes[..., 2] / rest, 2 * boxes[..., 0] - 1, 2 * boxes[..., 1] - 1], dim=-1)


def layered(system: System, name: str | None = None) -> ExpectedDenoiser:
    """The denoiser with layers of a level, or the only one of the system. Raises RecipeError for a system without."""
    names = [level.name for level in system.recipe.levels] if name is None else [name]
    for each in names:
        for module in system.level(each).denoiser.modules():
            if isinstance(module, ExpectedDenoiser) and module.layers is not None:
                return module
    raise RecipeError(
        "LayeredObjects teaches an Expected with layers (things=2); there is none in {names}", names=Listed(names)
    )


def _known(vocabulary: Vocabulary, names: Sequence[str]) -> dict[str, int]:
    """The index of every value of the labels ``names``, taken together."""
    values = sorted({value for name in names for value in vocabulary.values.get(name, ())})
    return {value: place for place, value in enumerate(values)}
