"""The jobs of a scheduler, and the pictures of them that are started."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bimo.core.messages import language
from bimo.core.tensors import DenoiserInput
from bimo.diffusion.batching import kind_of
from bimo.diffusion.preparation import Prepared
from bimo.diffusion.sampling import SamplingLoop
from bimo.engine.engine import Engine
from bimo.serve.fairness import steps_asked, unguided
from bimo.serve.jobs import LANGUAGE, Failure, Order
from bimo.serve.pool import EngineKey


@dataclass(eq=False)
class Sampled:
    """A started picture and its next denoiser input."""

    task: Task
    place: int
    loop: SamplingLoop
    denoiser_input: DenoiserInput
    done: int = 0
    seconds: float = 0.0

    @property
    def bucket(self) -> tuple[Any, ...]:
        """The key of pictures that can share a call: model, kind of input, LoRAs that count."""
        return self.task.key, kind_of(self.denoiser_input), self._phase

    @property
    def _phase(self) -> tuple[bool, ...]:
        """Which LoRAs count in the next step: the weights of two phases differ."""
        stepwise = None if self.task.engine is None else self.task.engine.system.stepwise
        return () if stepwise is None else stepwise.phase(self.denoiser_input.step, self.denoiser_input.steps)


@dataclass(eq=False)
class Task:
    """A job and the state of its pictures."""

    order: Order
    key: EngineKey
    arrived: float = 0.0
    charged: float = 0.0
    engine: Engine | None = None
    prepared: Prepared | None = None
    steps: int = 0
    done: frozenset[int] = frozenset()
    started: dict[int, Sampled] = field(default_factory=dict[int, Sampled])
    finished: set[int] = field(default_factory=set[int])
    failure: Failure | None = None

    @property
    def language(self) -> str:
        """The language of its warnings: the client's, where it has one."""
        return str(self.order.note.get(LANGUAGE) or language())

    @property
    def waiting(self) -> list[int]:
        """The indices of pictures that are not started."""
        every = range(self.order.count)
        return [p for p in every if p not in self.started and p not in self.finished and p not in self.done]

    @property
    def drawn(self) -> bool:
        """Whether all of its pictures are finished."""
        return not self.started and not self.waiting

    def steps_left(self) -> int:
        """Remaining steps of all of its pictures."""
        steps = self.steps or steps_asked(self.order)
        return steps * (len(self.waiting) + len(self.started)) - sum(one.done for one in self.started.values())

    @property
    def kind(self) -> tuple[EngineKey, Any]:
        """The key of tasks that may share a call."""
        return self.key, tuple(self.order.values.get("size") or ())

    @property
    def pace(self) -> tuple[Any, bool]:
        """The key of tasks whose steps take equally long."""
        return self.kind, unguided(self.order)
