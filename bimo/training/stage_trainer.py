"""One stage in training: its parameters, optimiser and averages, and the reduction of gradients over processes."""

# torch and accelerate leave parts of their interfaces untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import TrainingError
from bimo.core.messages import Listed, Message
from bimo.core.part import loads
from bimo.core.recipe import Stage
from bimo.core.tensors import Share
from bimo.diffusion.system import System
from bimo.engine.devices import default_device
from bimo.training.averaging import average_of
from bimo.training.batch_sampler import BatchSampler
from bimo.training.distributed.processes import Processes, gather
from bimo.training.distributed.zero import DeepSpeedZero
from bimo.training.execution import Execution
from bimo.training.finite import broken, not_finite, some
from bimo.training.frozen_weights import FrozenWeights
from bimo.training.master_weights import MasterWeights
from bimo.training.objectives.objective import BatchSource, Objective
from bimo.training.optimizer_classes import BY_PARAMETER, OWN, plain
from bimo.training.optimizers import ChainedOptimizer, autocast, optimiser, ordered, scaler
from bimo.training.step_losses import StepLosses, own_part
from bimo.training.train_inputs import TrainInputs

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class TrainModule(nn.Module):
    """The one module that DDP, FSDP and DeepSpeed wrap: trained parameters are used inside its ``forward`` only."""

    def __init__(self, system: System, extra: nn.Module | None) -> None:
        super().__init__()
        self.system = system
        self.extra = extra
        #: The share of rows that this process trains on.
        self.share: Share | None = None

    def forward(self, work: Callable[[], Any]) -> Any:
        """Returns the result of ``work``."""
        return work()

    def see_all_rows(self) -> list[Any]:
        """Makes batch normalisation use the statistics of all rows of a step; returns the handles of its hooks."""

        def widened(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            return (gather(inputs[0], self.share),) if module.training and self.share else None

        def narrow(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            return self.share.of(output) if module.training and self.share else None

        norms = [module for module in self.modules() if isinstance(module, NORMS)]
        hooks = [norm.register_forward_pre_hook(widened) for norm in norms]
        return hooks + [norm.register_forward_hook(narrow) for norm in norms]


class StageTrainer:
    """One stage in training.

    ``parameters`` are the trained ones by name: with FSDP this process's shards, as are their average and the
    optimiser's state. ``state`` returns whole tensors, independent of the number of processes.
    """

    def __init__(
        self,
        stage: Stage,
        batches: BatchSource,
        objective: Objective,
        names: Sequence[str],
        saved: Mapping[str, Any] | None,
        number: int = 0,
        state: Path | None = None,
        frozen: FrozenWeights | None = None,
        execution: Execution | None = None,
    ) -> None:
        """``names`` are trained, ``frozen`` keeps the others, ``execution`` ends with the stage. ``saved`` is a result
        of ``state``, whose "stage" may have had other settings. ``number`` is the stage's, in ``state`` the run is
        saved.
        """
        self.stage, self.batches, self.objective = stage, batches, objective
        self.number, self._file, self._frozen = number, state or batches.out / "state.pt", frozen
        self._execution = execution
        self.processes: Processes = batches.processes
        self.extra = batches.blank.extra
        self._module = TrainModule(batches.blank.system, self.extra)
        self._hooks: list[Any] = []
        self._forward: Any = self._module
        #: The master weights if denoisers work in bfloat16; ``parameters`` are these then.
        self.masters: MasterWeights | None = None
        if stage.precision == "bf16_weights":
            if self.processes.sharded or self.processes.zero:
                raise TrainingError(
                    "stage {name!r} wants bf16_weights, which is not parted over processes; begin this one by torchrun "
                    "(DDP), or let precision be bf16",
                    name=stage.name,
                )
            self.masters = MasterWeights(stage, self._module.system, names)
        if self.processes.count > 1:
            self._hooks = self._module.see_all_rows()
            self._forward = self.processes.wrapped(stage, self._module)
        # Collected after wrapping, as FSDP replaces parameters.
        every = named(self._module.system, self.extra, objective)
        self.parameters = {name: every[name] for name in names}
        if self.masters is not None:
            self.parameters |= self.masters.parameters
        self.optimiser = optimiser(stage, self.parameters)
        if self.processes.zero:
            self.optimiser = DeepSpeedZero(stage, self._module, self.optimiser, self.processes)
            self._forward = self.optimiser.engine
        self.average = average_of(stage, self.parameters, self.optimiser)
        self.losses = StepLosses(stage, number, batches, self.parameters, self._file)
        #: For each parameter that is updated in the backward pass, whether its gradient was finite.
        self._fused: dict[str, Tensor] = {}
        if stage.fused_backward:
            self._step_in_backward()
        self.scaler = scaler(stage, self.processes.device)
        if saved is not None:
            self._go_on(saved)

    def step(self, step: int, generator: torch.Generator, lr: float) -> None:
        """One optimiser step. What its loss is stays on the device until ``losses`` reads it."""
        stage = self.stage
        for group in self.optimiser.param_groups:
            group["lr"] = lr * group["share"]
        self.optimiser.zero_grad(set_to_none=True)
        self._fused = {}
        self.losses.begin(step + 1)
        batches = range(step * stage.accumulate, (step + 1) * stage.accumulate)
        for batch in batches:
            drawn_with = generator.get_state()
            # Gradients are reduced once a step.
            with nullcontext() if batch == batches[-1] else self.processes.no_sync(self._forward):
                loss, inputs = self._loss(batch, generator)
                part = self.processes.part(cast(Share, inputs.share))
                loss = loss / stage.accumulate
                self.losses.add(batch, drawn_with, loss, part)
                # Reduction averages over processes, whose numbers of rows may differ.
                loss = self.scaler.scale(loss * (part * self.processes.count))
                self.processes.backward(self._forward, loss)
        if self.masters is not None:
            self.masters.take_gradients()
        self.scaler.unscale_(self.optimiser)
        if self._fused:
            self.losses.add_gradients(list(self._fused), torch.stack(list(self._fused.values())))
        elif not self.processes.zero and not stage.fused_backward:  # DeepSpeed clips before it shards
            self._clip()
        if not stage.fused_backward:
            self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.masters is not None:
            self.masters.copy_to_working()
        self.average.update(self.parameters, step)

    def validate(self, generators: Callable[[int], torch.Generator]) -> float:
        """The mean validation loss; the generator of each batch is seeded by its number."""
        order = cast(BatchSampler, self.batches.held_out)
        total = 0.0
        with torch.no_grad():
            for number in range(order.per_epoch):
                loss, inputs = self._loss(number, generators(number), order)
                total += float(loss) * self.processes.part(cast(Share, inputs.share))
        return self.processes.total(total)[0] / order.per_epoch

    def check_weights(self, step: int) -> None:
        """Raises TrainingError if trained parameters or their averages are not finite after a step."""
        tensors = self.parameters | {f"{name} (ema)": value for name, value in self.average.values.items()}
        bad = not_finite({name: own_part(value) for name, value in tensors.items()})
        if self.processes.total(float(len(bad)))[0]:
            listed = some(bad, len(tensors))
            what = Message("weights are not finite: {listed}", listed=listed)
            raise broken(self.stage, self.number, step, what, self.batches.out, self._file)

    def swap_average(self) -> None:
        """Exchanges the averages with the parameters; a second call undoes it."""
        self.average.swap(self.parameters)
        if self.masters is not None:
            self.masters.copy_to_working()

    def system_state(self) -> dict[str, Tensor]:
        """The state of the system with whole weights, in place of bfloat16 or quantised ones."""
        state = dict(self._module.system.state_dict())
        state |= {} if self._frozen is None else self._frozen.values()
        return state if self.masters is None else state | dict(self.masters.values())

    def whole_weights(self) -> AbstractContextManager[None]:
        """A context in which frozen weights can be read, however they are stored."""
        return nullcontext() if self._frozen is None else self._frozen.whole()

    def within(self, work: Callable[[], Any]) -> Any:
        """Runs ``work``, which uses trained parameters outside of a step: all processes must call this."""
        return self._forward(work)

    def state(self) -> dict[str, Any]:
        """The state to resume from, on the CPU. With FSDP or DeepSpeed all processes must call this."""
        extra = None if self.extra is None else self.extra.state_dict()
        average = self.average.averaged(self.parameters)
        state = {"optimiser": self.optimiser.state_dict(), "average": average, "extra": extra}
        return gather_to_cpu(state | {"scaler": self.scaler.state_dict()})

    def close(self) -> None:
        """Unwraps the modules."""
        for hook in self._hooks:
            hook.remove()
        if self.masters is not None:
            self.masters.close()
        if self._frozen is not None:
            self._frozen.close()
        if self._execution is not None:
            self._execution.close()
        if isinstance(self.optimiser, DeepSpeedZero):
            self.optimiser.close()

    def _step_in_backward(self) -> None:
        """Updates each parameter as soon as its gradient is complete. Raises TrainingError if that is unsupported."""
        stage, plain_name = self.stage, plain(self.stage.optimiser)
        if plain_name not in BY_PARAMETER:
            raise TrainingError(
                "fused_backward of stage {name!r}: the step of {optimiser} looks at all that learns at once; take "
                "{others}",
                name=stage.name,
                optimiser=stage.optimiser,
                others=Listed(BY_PARAMETER, "or"),
            )
        if self.processes.count > 1:
            raise TrainingError(
                "fused_backward of stage {name!r} steps before gradients of several processes are brought together; "
                "begin one process, or leave it out",
                name=stage.name,
            )
        names = {id(parameter): name for name, parameter in self.parameters.items()}

        def take(optimiser: torch.optim.Optimizer, parameter: Tensor) -> None:
            gradient = cast(Tensor, parameter.grad)
            self._fused[names[id(parameter)]] = torch.linalg.vector_norm(gradient.detach()).isfinite()
            optimiser.step()
            parameter.grad = None

        for each in cast(ChainedOptimizer, self.optimiser).optimisers:
            parameter: Any = each.param_groups[0]["params"][0]
            self._hooks.append(parameter.register_post_accumulate_grad_hook(partial(take, each)))

    def _clip(self) -> None:
        """Clips the gradients, and uses their norms to check whether each is finite."""
        learnt = {name: p for name, p in self.parameters.items() if p.grad is not None}
        if not learnt:
            return
        gradients = [cast(Tensor, p.grad) for p in learnt.values()]
        if self.processes.sharded:
            total: Any = nn.utils.get_total_norm(gradients, foreach=True)
            total = total.full_tensor() if hasattr(total, "full_tensor") else total
            norms, names = total[None], ["*"]
        else:
            # Bit-identical to clip_grad_norm_, keeping the norm of each gradient.
            each = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]
            norms, names = torch.stack(list(each)), list(learnt)
            total = torch.linalg.vector_norm(norms)
        if self.stage.max_grad_norm:
            nn.utils.clip_grads_with_norm_(learnt.values(), self.stage.max_grad_norm, total, foreach=True)
        if not self.scaler.is_enabled():  # which skips such a step and lowers its scale
            self.losses.add_gradients(names, norms.detach().isfinite())

    def _loss(
        self, number: int, generator: torch.Generator, order: BatchSampler | None = None
    ) -> tuple[Tensor, TrainInputs]:
        device, made = self.processes.device, list[TrainInputs]()

        def work() -> Tensor:
            # Inside, as DeepSpeed forbids autocast around it.
            with autocast(self.stage, device):
                inputs = self.batches.inputs(number, generator, order)
                self._module.share = inputs.share
                made.append(inputs)
                with default_device(device):
                    return self.objective.loss(inputs)

        return cast(Tensor, self._forward(work)), made[0]

    def _go_on(self, saved: Mapping[str, Any]) -> None:
        optimiser_state = cast("dict[str, Any]", saved["optimiser"])
        if saved.get("stage"):
            optimiser_state = self._regrouped(optimiser_state, cast(Stage, loads(saved["stage"])))
        for at, parameter in enumerate(p for group in self.optimiser.param_groups for p in group["params"]):
            state = optimiser_state["state"].get(at, {})
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[name] = as_is(value, parameter)
        # Learning rates and weight decay of a group come from the stage, which may have changed since.
        group_settings = [{n: v for n, v in g.items() if self._is_setting(n)} for g in self.optimiser.param_groups]
        self.optimiser.load_state_dict(optimiser_state)
        for group, own in zip(self.optimiser.param_groups, group_settings, strict=True):
            group.update(own)
        before = saved["average"]
        self.average.values = {
            n: as_is(before[n], self.parameters[n]) if n in before else v for n, v in self.average.values.items()
        }
        if saved.get("scaler"):
            self.scaler.load_state_dict(saved["scaler"])

    def _is_setting(self, name: str) -> bool:
        """Whether an entry of the optimiser's groups comes from the stage, and is not a library's own state."""
        settings = ("lr", "weight_decay", "share", *self.stage.optimiser_args)
        return name != "params" and (self.stage.optimiser in OWN or name in settings)

    def _regrouped(self, state: dict[str, Any], before: Stage) -> dict[str, Any]:
        """An optimiser's state with parameters in the order of the current stage: learning rates of their own form
        groups, which changes the order.
        """
        names, now = ordered(before, self.parameters), ordered(self.stage, self.parameters)
        if names == now:
            return state
        if self.stage.optimiser not in OWN:
            raise TrainingError(
                "lr_overrides of stage {name!r} cannot be changed under way: {optimiser} keeps by group what it has "
                "found",
                name=self.stage.name,
                optimiser=self.stage.optimiser,
            )
        known = {names[at]: own for at, own in state["state"].items()}
        counts = iter(range(len(now)))
        fresh = optimiser(self.stage, self.parameters).param_groups
        groups = [{**group, "params": [next(counts) for _ in group["params"]]} for group in fresh]
        return {"state": {at: known[name] for at, name in enumerate(now) if name in known}, "param_groups": groups}


def named(system: System, extra: nn.Module | None, objective: Objective) -> dict[str, nn.Parameter]:
    """All parameters by name: the system's, and those of the objective's own module with the objective's prefix."""
    parameters = dict(system.named_parameters())
    if extra is not None:
        parameters |= {f"{objective.prefix()}.{name}": p for name, p in extra.named_parameters()}
    return parameters


def gather_to_cpu(value: Any) -> Any:
    """Gathers all tensors in nested maps and lists, and moves them to the CPU."""
    if isinstance(value, Tensor):
        dtensor: Any = value
        return (dtensor.full_tensor() if hasattr(dtensor, "full_tensor") else dtensor).detach().cpu()
    if isinstance(value, Mapping):
        return {name: gather_to_cpu(part) for name, part in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list):
        return [gather_to_cpu(part) for part in cast("list[Any]", value)]
    return value


def as_is(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor placed like a parameter: on its device, in its order of memory, sharded."""
    other: Any = parameter
    if not hasattr(other, "placements"):
        # In its order of memory, too: fused steps go through both as they lie.
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, other.device_mesh, other.placements)


def read_alike(one: object, other: object) -> bool:
    """Whether two text encoders have the same vocabulary, even if they differ in length limit or pooling."""
    names = ("vocab", "width", "words")
    return type(one) is type(other) and all(getattr(one, n, None) == getattr(other, n, None) for n in names)
