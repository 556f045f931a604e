"""DreamBooth (arXiv:2208.12242): learns one subject from a few pictures without forgetting its class."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self, cast

import torch
from PIL import Image
from torch import Tensor

from bimo.core.errors import BimoError, RecipeError
from bimo.core.messages import Listed, Message, say
from bimo.core.tensors import Batch
from bimo.data.loader import Pictures
from bimo.data.shards import Sample, finished, shard_name, write_index, write_shard
from bimo.diffusion.system import System
from bimo.engine.engine import Engine
from bimo.training.logging import counted
from bimo.training.objectives.denoise import Denoise
from bimo.training.objectives.objective import Objective
from bimo.training.train_inputs import Prospect, TrainInputs

NO_CLASS = Message("where prior of Dreambooth is not 0 it needs class_noun: what is to be kept is called")


@dataclass(frozen=True, kw_only=True)
class Dreambooth(Objective):
    """Half of a batch are the subject's pictures with the caption ``subject``, a sentence with its identifier
    ("[小黄鸭]") or one of several at random; without one each picture has its own captions, so that several subjects
    can be learned at once. The other half are pictures of its class, ``class_noun`` ("小黄鸭") or several in turn, that
    the system drew before the stage; their error is added with the weight ``prior``; 0 for none.

    ``count`` of them are drawn, at ``size`` and with ``steps``, or by the recipe's defaults. They are saved in the
    run's folder: an interruption loses one picture at most. If a level is conditioned on poses, each picture records
    the pose that it was drawn in.
    """

    captions: ClassVar = "selected"

    subject: str | tuple[str, ...] = ()
    class_noun: str | tuple[str, ...] = ()
    count: int = 200
    prior: float = 1.0
    steps: int = 0
    size: tuple[int, int] | None = None
    denoise: Denoise = field(default_factory=Denoise)

    def tiny(self) -> Self:
        """Two pictures of the class, two steps each."""
        return replace(super().tiny(), count=min(self.count, 2), steps=2, size=(128, 128))

    @property
    def maps(self) -> tuple[str, ...]:
        """The mask of the error."""
        return self.denoise.maps

    def pictures(self, system: System, pictures: Pictures, folder: Path) -> Pictures:
        """Pairs of one picture of the subject and one of the class, each seen as often as the other allows; pictures of
        the subject that are repeated in an epoch are so here, too. Raises RecipeError if the class has no name.
        """
        rows, subject, own = len(pictures), _several(self.subject), pictures.groups
        captions = [subject] * rows if subject else pictures.captions
        if not self.prior:
            return pictures.of(pictures.groups, captions)
        nouns = _several(self.class_noun)
        if not nouns:
            raise RecipeError(NO_CLASS)
        drawn = folder / "class"
        self._draw(system, drawn, nouns)
        both = Pictures(*pictures.folders, drawn, cache=pictures.cache)
        pairs = range(max(len(own), self.count))
        groups = [(*own[number % len(own)], rows + number % self.count) for number in pairs]
        return both.of(groups, [*captions, *((nouns[seed % len(nouns)],) for seed in range(self.count))])

    def problems(self, prospect: Prospect) -> Iterator[BimoError]:
        """A missing name of the class."""
        if self.prior and not _several(self.class_noun):
            yield RecipeError(NO_CLASS)
        if self.prior and prospect.stage.captions.trigger:
            yield RecipeError(
                "trigger of captions would stand before what the class is called, too; say it in subject of Dreambooth"
            )
        yield from self.denoise.problems(prospect)

    def loss(self, inputs: TrainInputs) -> Tensor:
        """The mean error of the subject's rows and ``prior`` times that of the class's."""
        inputs = replace(inputs, batch=self.denoise.cropped(cast(Batch, inputs.batch)))
        losses: list[Tensor] = []
        for name in (inputs.stage.level, *self.denoise.also):
            question = self.denoise.question(inputs, name)
            errors = self.denoise.errors(question, inputs.system.denoise(question.denoiser_input))
            if self.prior:
                losses.append(errors[0::2].mean() + self.prior * errors[1::2].mean())
            else:
                losses.append(errors.mean())
        return torch.stack(losses).sum()

    def _draw(self, system: System, folder: Path, nouns: tuple[str, ...]) -> None:
        """Draws the missing pictures of the class, then writes all of them as a shard."""
        wanted = json.dumps([self.class_noun, self.count, self.steps, self.size], ensure_ascii=False)
        shard = folder / shard_name(0)
        if finished(shard, wanted) is not None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        modes = system.training
        engine = Engine(system.eval())
        request: dict[str, object] = {"steps": self.steps} if self.steps else {}
        request |= {"size": self.size} if self.size else {}
        rows: list[Sample] = []
        title = say("first drawing {nouns}", nouns=Listed(nouns[:3]))
        for seed in counted(range(self.count), title):
            noun = nouns[seed % len(nouns)]
            path = folder / f"{seed:05d}.png"
            # Requested by name, so that the recorded values are those that were drawn.
            conditions = system.conditions_of_seed(seed)
            if not path.is_file():
                engine.draw(request | {"text": noun, "seed": seed, "draft": 0, "conditions": conditions})[0].save(path)
            row: dict[str, object] = {"captions": [{"text": noun}], "labels": {}}
            rows.append((f"class-{seed:05d}", path.read_bytes(), row | conditions))
        system.train(modes)
        for name in self.maps:  # no part of a class picture is masked
            (folder / "maps" / name).mkdir(parents=True, exist_ok=True)
            for key, _, _ in rows:
                Image.new("L", (8, 8), 255).save(folder / "maps" / name / f"{key}.png")
        write_index(folder, [write_shard(shard, rows, wanted)])


def _several(words: str | tuple[str, ...]) -> tuple[str, ...]:
    return (words,) if isinstance(words, str) else words
