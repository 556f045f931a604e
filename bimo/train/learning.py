"""A stage under way: what learns, how, and how several processes bring its gradients together."""

# torch and accelerate leave parts of their interfaces untyped; what crosses them here is named where it is kept.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import TrainingError
from bimo.core.recipe import Stage
from bimo.core.types import Share
from bimo.diffusion.system import System
from bimo.train.batches import Lessons, Order
from bimo.train.devices import on
from bimo.train.lesson import Lesson, Objective
from bimo.train.optim import Average, Zero, narrowed, optimiser, scaler
from bimo.train.processes import Processes, gathered

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Exercise(nn.Module):
    """The one module that DDP, FSDP and DeepSpeed know: whatever uses what learns is done inside its ``forward``."""

    def __init__(self, system: System, extra: nn.Module | None) -> None:
        super().__init__()
        self.system = system
        self.extra = extra
        #: Of the rows that are being learnt from.
        self.share: Share | None = None

    def forward(self, work: Callable[[], Any]) -> Any:
        """What some work answers."""
        return work()

    def see_all_rows(self) -> list[Any]:
        """Has batch normalisation take its statistics from all rows of a step; answers the handles of what does so."""

        def widened(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            return (gathered(given[0], self.share),) if module.training and self.share else None

        def narrow(module: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> Tensor | None:
            return self.share.of(answer) if module.training and self.share else None

        norms = [module for module in self.modules() if isinstance(module, NORMS)]
        hooks = [norm.register_forward_pre_hook(widened) for norm in norms]
        return hooks + [norm.register_forward_hook(narrow) for norm in norms]


class Learning:
    """What a stage learns from, what learns, and how.

    ``parameters`` are those that learn, by name: with FSDP this process's parts of them, as are their average and the
    optimiser's state. What ``state`` answers is whole, and alike whatever the number of processes.
    """

    def __init__(
        self,
        stage: Stage,
        lessons: Lessons,
        objective: Objective,
        names: Sequence[str],
        saved: Mapping[str, Any] | None,
    ) -> None:
        """``names`` are of what learns. ``saved`` is what ``state`` answered when the stage was left."""
        self.stage, self.lessons, self.objective = stage, lessons, objective
        self.processes: Processes = lessons.processes
        self.extra = lessons.blank.extra
        self._exercise = Exercise(lessons.blank.system, self.extra)
        self._hooks: list[Any] = []
        self._forward: Any = self._exercise
        if self.processes.count > 1:
            self._hooks = self._exercise.see_all_rows()
            self._forward = self.processes.joined(stage, self._exercise)
        # Looked up here, for FSDP puts others in their place.
        every = named(self._exercise.system, self.extra, objective)
        self.parameters = {name: every[name] for name in names}
        self.optimiser = optimiser(stage, self.parameters)
        if self.processes.zero:
            self.optimiser = Zero(stage, self._exercise, self.optimiser, self.processes)
            self._forward = self.optimiser.engine
        self.average = Average(self.parameters, stage.ema)
        self.scaler = scaler(stage, self.processes.device)
        if saved is not None:
            self._go_on(saved)

    def step(self, step: int, generator: torch.Generator, lr: float) -> float:
        """One step of the optimiser; answers the loss of all its rows. Raises TrainingError where that is no number."""
        stage, value = self.stage, 0.0
        for group in self.optimiser.param_groups:
            group["lr"] = lr * group["share"]
        self.optimiser.zero_grad(set_to_none=True)
        batches = range(step * stage.accumulate, (step + 1) * stage.accumulate)
        for batch in batches:
            # Gradients are brought together once a step.
            with nullcontext() if batch == batches[-1] else self.processes.apart(self._forward):
                loss, lesson = self._loss(batch, generator)
                part = self.processes.part(cast(Share, lesson.share))
                loss = loss / stage.accumulate
                value += self.processes.total(float(loss.detach()) * part)[0]
                if not math.isfinite(value):
                    self._broken(step, lesson, math.isfinite(float(loss.detach())))
                # What is brought together is the mean over the processes, whatever rows each has.
                loss = self.scaler.scale(loss * (part * self.processes.count))
                self.processes.backward(self._forward, loss)
        self.scaler.unscale_(self.optimiser)
        if stage.clip and not self.processes.zero:  # which clips before it parts
            nn.utils.clip_grad_norm_(self.parameters.values(), stage.clip, foreach=True)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.average.update(self.parameters, step)
        return value

    def validated(self, generators: Callable[[int], torch.Generator]) -> float:
        """The mean loss of what is held out; each batch has a generator by its number."""
        order = cast(Order, self.lessons.held_out)
        total = 0.0
        with torch.no_grad():
            for number in range(order.per_epoch):
                loss, lesson = self._loss(number, generators(number), order)
                total += float(loss) * self.processes.part(cast(Share, lesson.share))
        return self.processes.total(total)[0] / order.per_epoch

    def within(self, work: Callable[[], Any]) -> Any:
        """What some work answers that uses what learns otherwise than a step does: all processes do it."""
        return self._forward(work)

    def state(self) -> dict[str, Any]:
        """What goes on from here, on the processor. With FSDP or DeepSpeed all processes have to ask."""
        extra = None if self.extra is None else self.extra.state_dict()
        held = {"optimiser": self.optimiser.state_dict(), "average": self.average.values, "extra": extra}
        return whole(held | {"scaler": self.scaler.state_dict()})

    def close(self) -> None:
        """Leaves the modules as they were."""
        for hook in self._hooks:
            hook.remove()
        if isinstance(self.optimiser, Zero):
            self.optimiser.close()

    def _loss(self, number: int, generator: torch.Generator, order: Order | None = None) -> tuple[Tensor, Lesson]:
        device, made = self.processes.device, list[Lesson]()

        def work() -> Tensor:
            # In here, for DeepSpeed allows no such numbers but its own around it.
            with narrowed(self.stage, device):
                lesson = self.lessons.lesson(number, generator, order)
                self._exercise.share = lesson.share
                made.append(lesson)
                with on(device):
                    return self.objective.loss(lesson)

        return cast(Tensor, self._forward(work)), made[0]

    def _go_on(self, saved: Mapping[str, Any]) -> None:
        held = cast("dict[str, Any]", saved["optimiser"])
        ordered = [p for group in self.optimiser.param_groups for p in group["params"]]
        for at, parameter in enumerate(ordered):
            state = held["state"].get(at, {})
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[name] = as_is(value, parameter)
        self.optimiser.load_state_dict(held)
        self.average.values = {n: as_is(saved["average"][n], self.parameters[n]) for n in self.average.values}
        if saved.get("scaler"):
            self.scaler.load_state_dict(saved["scaler"])

    def _broken(self, step: int, lesson: Lesson, others: bool) -> None:
        """Raises TrainingError, with the batch saved that did it: that of another process where it was ``others``."""
        rank = self.processes.rank
        path = self.lessons.out / (f"broken-batch.{rank}.pt" if rank else "broken-batch.pt")
        if not others:
            torch.save({"x": lesson.batch.x if lesson.batch else lesson.pixels}, path)
        where = self.lessons.out / "broken-batch*.pt" if others else path
        raise TrainingError(
            f"阶段 {self.stage.name!r} 第 {step} 步的损失不是数；这一批存在 {where}，请降低 lr 后重试",
            f"the loss of stage {self.stage.name!r} is not a number at step {step}; "
            f"the batch lies in {where}; try again with a lower lr",
        )


def named(system: System, extra: nn.Module | None, objective: Objective) -> dict[str, nn.Parameter]:
    """All parameters by name: the system's, and those of the objective's own module after the objective."""
    parameters = dict(system.named_parameters())
    if extra is not None:
        prefix = type(objective).__name__.lower()
        parameters |= {f"{prefix}.{name}": p for name, p in extra.named_parameters()}
    return parameters


def whole(value: Any) -> Any:
    """The same with its tensors whole and on the processor, in maps and lists of whatever depth."""
    if isinstance(value, Tensor):
        given: Any = value
        return (given.full_tensor() if hasattr(given, "full_tensor") else given).detach().cpu()
    if isinstance(value, Mapping):
        return {name: whole(part) for name, part in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list):
        return [whole(part) for part in cast("list[Any]", value)]
    return value


def as_is(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor where a parameter is, and in parts as that is."""
    other: Any = parameter
    if not hasattr(other, "placements"):
        return value.to(parameter.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, other.device_mesh, other.placements)


def read_alike(one: object, other: object) -> bool:
    """Whether two towers have the same table of words: a longer one of the kind, or one pooled elsewhere, has."""
    names = ("vocab", "width", "words")
    return type(one) is type(other) and all(getattr(one, n, None) == getattr(other, n, None) for n in names)
