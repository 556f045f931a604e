"""The losses of steps, left on their device until they are read; reading them finds numbers that are not finite."""

# Parts of torch's interface are untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from bimo.core.errors import TrainingError
from bimo.core.messages import Message
from bimo.core.recipe import Stage
from bimo.training.finite import broken, not_finite, picked, some
from bimo.training.objectives.objective import BatchSource

#: Every how many steps losses are read of a device that is not the CPU, where a stage does not say: its queue of
#: kernels runs empty while it is waited for.
LOG_EVERY = 10


def log_every(stage: Stage, device: torch.device) -> int:
    """Every how many steps the losses of a stage are read."""
    return stage.log_every or (1 if device.type == "cpu" else LOG_EVERY)


@dataclass
class _Step:
    """A step: its number, the batches with what their generator was at, the losses of this process's rows with their
    weight in the loss of all rows, and whether each gradient is finite. ``value`` is the loss of all rows so far, once
    it is known.
    """

    number: int
    batches: list[tuple[int, Tensor]] = field(default_factory=list[tuple[int, Tensor]])
    losses: list[Tensor] = field(default_factory=list[Tensor])
    parts: list[float] = field(default_factory=list[float])
    value: float = 0.0
    names: Sequence[str] = ()
    finite: Tensor | None = None


class StepLosses:
    """The losses of the steps that were not read yet. ``parameters`` are those that learn, by name; ``number`` is the
    stage's, in ``file`` the run is saved.
    """

    def __init__(
        self, stage: Stage, number: int, batches: BatchSource, parameters: Mapping[str, Tensor], file: Path
    ) -> None:
        self._stage, self._number, self._batches, self._file = stage, number, batches, file
        self._parameters = parameters
        self._processes = batches.processes
        self._steps: list[_Step] = []
        #: Whether each loss is read at once: before the backward pass, so that a bad one changes no weights.
        self._at_once = log_every(stage, self._processes.device) == 1

    def __len__(self) -> int:
        return len(self._steps)

    def begin(self, step: int) -> None:
        """Begins a step."""
        self._steps.append(_Step(step))

    def add(self, batch: int, generator_state: Tensor, loss: Tensor, part: float) -> None:
        """Adds the loss of a batch's rows of this process, a ``part`` of the loss of all rows. ``generator_state`` is
        what the batch was drawn with. Raises TrainingError if losses are read at once and this one is not finite.
        """
        step = self._steps[-1]
        step.batches.append((batch, generator_state))
        step.losses.append(loss.detach().float().reshape(()))
        step.parts.append(part)
        if self._at_once:
            self._sum_up(step, [float(step.losses[-1])])

    def add_gradients(self, names: Sequence[str], finite: Tensor) -> None:
        """Adds whether each of a step's gradients is finite, a boolean tensor."""
        self._steps[-1].names, self._steps[-1].finite = names, finite

    def read(self) -> Iterator[tuple[int, float]]:
        """(number of the step, mean loss of all its rows) of each step since the last call; waits for the device once.
        Raises TrainingError at the first step whose loss or gradients are not finite. With several processes all must
        call this.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return
        device = steps[0].losses[0].device
        fine = [torch.ones((), device=device) if s.finite is None else s.finite.all().float() for s in steps]
        unread = [] if self._at_once else [loss for step in steps for loss in step.losses]
        numbers = cast("list[float]", torch.stack([*unread, *fine]).tolist())
        for step, finite in zip(steps, numbers[len(unread) :], strict=True):
            if unread:
                self._sum_up(step, [numbers.pop(0) for _ in step.losses])
            yield step.number, step.value
            if not finite:
                bad = picked(step.names, () if step.finite is None else step.finite.unbind())
                listed = some(bad, len(step.names))
                raise self._broken(step, Message("gradients are not finite: {listed}", listed=listed))

    def _sum_up(self, step: _Step, losses: Sequence[float]) -> None:
        """Adds the losses of the last batches of a step up. Raises TrainingError at the first that is not finite."""
        places = range(len(step.losses) - len(losses), len(step.losses))
        totals = self._processes.total(*(loss * step.parts[at] for at, loss in zip(places, losses, strict=True)))
        for at, loss, total in zip(places, losses, totals, strict=True):
            step.value += total
            if not math.isfinite(step.value):
                raise self._not_a_number(step, step.batches[at], others=math.isfinite(loss))

    def _not_a_number(self, step: _Step, batch: tuple[int, Tensor], others: bool) -> TrainingError:
        """The error of a loss that is not finite. The batch that caused it is made again and saved; with ``others`` it
        is that of another process.
        """
        rank, out = self._processes.rank, self._batches.out
        path = out / (f"broken-batch.{rank}.pt" if rank else "broken-batch.pt")
        if not others:
            torch.save({"x": self._made_again(*batch)}, path)
        where: Any = out / "broken-batch*.pt" if others else path
        what = Message("the loss is not a number, its batch lies in {where}", where=where)
        bad = not_finite({name: own_part(value) for name, value in self._parameters.items()})
        if bad:
            listed = some(bad, len(self._parameters))
            what = Message("{what}, and so are weights: {listed}", what=what, listed=listed)
        return self._broken(step, what)

    def _made_again(self, number: int, generator_state: Tensor) -> Tensor | None:
        generator = torch.Generator()
        generator.set_state(generator_state)
        inputs = self._batches.inputs(number, generator)
        return inputs.batch.x if inputs.batch else inputs.pixels

    def _broken(self, step: _Step, what: Message) -> TrainingError:
        return broken(self._stage, self._number, step.number, what, self._batches.out, self._file)


def own_part(value: Tensor) -> Tensor:
    """This process's shard of a tensor."""
    dtensor: Any = value.detach()
    return dtensor.to_local() if hasattr(dtensor, "to_local") else dtensor
