"""Data-parallel processes: the rows of each process, and the reduction of losses and gradients."""

# torch and accelerate leave parts of their interfaces untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn

from bimo.core.errors import TrainingError
from bimo.core.held_weights import held_in
from bimo.core.messages import Message
from bimo.core.recipe import Stage
from bimo.core.tensors import Share
from bimo.engine.devices import CPU, device_of

#: How long processes wait for the main process, which encodes or draws before the first step.
PATIENCE = timedelta(hours=24)
#: Variables that accelerate's launcher sets by its configuration.
FSDP, DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"
#: Methods besides ``forward`` for which sharded parameters are gathered.
METHODS = ("encode", "decode", "posterior", "look", "blank")


@dataclass(frozen=True)
class Processes:
    """This process, the ``rank``-th of ``count``, and its device. If ``sharded`` each process has a part of the trained
    parameters (FSDP), else all of them (DDP). With ``zero`` each has a part of the optimiser's state (DeepSpeed).
    """

    rank: int = 0
    count: int = 1
    device: torch.device = CPU
    sharded: bool = False
    zero: bool = False

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes files."""
        return not self.rank

    def share(self, group_sizes: Sequence[int]) -> Share:
        """This process's rows of a batch, by the sizes of its groups of rows: consecutive groups, as many as the others
        have or one fewer. With fewer groups than processes each has all rows.
        """
        ends = [0]
        for rows in group_sizes:
            ends.append(ends[-1] + rows)
        if len(group_sizes) < self.count:
            return Share(0, ends[-1], ends[-1])
        first, last = (len(group_sizes) * place // self.count for place in (self.rank, self.rank + 1))
        return Share(ends[first], ends[last], ends[-1])

    def part(self, share: Share) -> float:
        """The weight of the mean loss of a share in the mean over all rows."""
        rows = share.last - share.first
        return 1 / self.count if rows == share.total else rows / share.total

    def total(self, *values: float) -> list[float]:
        """The sum of each number over all processes."""
        if self.count == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64, device=self.device)
        _add_up(summed)
        return summed.tolist()

    def wait(self) -> None:
        """A barrier of all processes."""
        self.total(0.0)

    @contextmanager
    def main_process_first(self) -> Generator[None]:
        """The main process runs the body first, then the others, which read what it wrote."""
        if not self.is_main_process:
            self.wait()
        yield
        if self.is_main_process:
            self.wait()
        self.wait()

    def wrapped(self, stage: Stage, module: nn.Module) -> nn.Module:
        """The module wrapped by DDP or FSDP, so that its gradients are averaged over all processes. DeepSpeed wraps it
        together with its optimiser: `bimo.training.distributed.zero.DeepSpeedZero`.
        """
        if self.sharded:
            return fully_shard(stage, module, self.device)
        if self.zero:
            return module
        # Held weights lie elsewhere: their parameters are one number, expanded, and nothing can be broadcast into them.
        held = list(held_in(module))
        ddp = nn.parallel.DistributedDataParallel
        ddp._set_params_and_buffers_to_ignore_for_model(module, held)  # pyright: ignore[reportPrivateUsage]
        # With find_unused_parameters DDP does not rebuild its buckets after the first step; otherwise a resumed run
        # would sum in another order.
        return ddp(module, find_unused_parameters=True, broadcast_buffers=False)

    def backward(self, module: Any, loss: Tensor) -> None:
        """Backpropagates a loss; gradients are reduced unless inside ``no_sync``."""
        if self.zero:
            module.backward(loss)
        else:
            loss.backward()

    @contextmanager
    def no_sync(self, module: Any) -> Generator[None]:
        """In this context the gradients of a ``wrapped`` module are not reduced."""
        if self.count == 1:
            yield
        elif self.sharded:
            module.set_requires_gradient_sync(False)
            yield
            module.set_requires_gradient_sync(True)
        elif self.zero:
            module.set_gradient_accumulation_boundary(False)
            yield
            module.set_gradient_accumulation_boundary(True)
        else:
            with module.no_sync():
                yield


ALONE = Processes()


@contextmanager
def init_distributed(device: str) -> Generator[Processes]:
    """Joins the processes of a launcher (torchrun, accelerate, Ray Train) for the duration of the context; a single
    process without one. All but the main process are silent.

    Raises TrainingError if another process has ended.
    """
    own = device_of(device)
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if wanted == 1:
        yield Processes(device=own)
        return
    from accelerate import PartialState

    own_group = not distributed.is_initialized()  # Ray has created its own
    state = PartialState(cpu=own.type == "cpu", timeout=PATIENCE)
    if state.num_processes != wanted:
        raise TrainingError(
            "{wanted} processes were begun, but on {kind} they do not find each other; several work with "
            "--device cpu or cuda",
            wanted=wanted,
            kind=own.type,
        )
    sharded, zero = (os.environ.get(name, "").lower() == "true" for name in (FSDP, DEEPSPEED))
    made = Processes(state.process_index, wanted, cast(torch.device, state.device), sharded, zero)
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere if made.rank else sys.stdout):
            yield made
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        raise TrainingError(
            "another process has ended, and so does number {rank}: see what that one said, then go on from "
            "what was saved with the same command",
            rank=made.rank,
        ) from None
    if own_group:
        distributed.destroy_process_group()


def _add_up(tensor: Tensor) -> None:
    """Sums a tensor over all processes, in place."""
    distributed.all_reduce(tensor)
    # A thread of gloo holds the tensor for a moment longer. If it released it last, it would need Python's lock, and
    # waiting for the lock of an interpreter that is shutting down aborts the process (pytorch/pytorch#190489). DDP
    # never releases its group, so that destroying the group does not end the thread.
    while tensor.device.type == "cpu" and tensor._use_count() > 1:  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
        time.sleep(0)


class _Summed(torch.autograd.Function):
    """The sum of a tensor over all processes, with its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        _add_up(value)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous().clone()
        _add_up(gradient)
        return gradient


def gather(value: Tensor, share: Share) -> Tensor:
    """[B, ...] of a process's own rows -> [total, ...] of all; its own rows get the gradients of all processes'
    losses.
    """
    if share.last - share.first == share.total:
        return value
    before, after = share.first, share.total - share.last
    parts = [value.new_zeros(before, *value.shape[1:]), value, value.new_zeros(after, *value.shape[1:])]
    # Other rows are zeros here, so that the sum is exact.
    return _Summed.apply(torch.cat(parts))  # type: ignore[no-any-return]


def fully_shard(stage: Stage, module: nn.Module, device: torch.device) -> nn.Module:
    """Shards a module by FSDP2: its trained parameters are sharded over the processes, frozen ones are whole in each.

    accelerate's launcher configures which modules are gathered separately (``fsdp_auto_wrap_policy`` and its settings),
    whether they are freed between forward and backward (``fsdp_reshard_after_forward``), and whether shards are in CPU
    memory (``fsdp_offload_params``). Raises TrainingError if the stage cannot be sharded, and for a class to wrap that
    does not exist.
    """
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    _refuse_parts(stage, module)
    plugin: Any = FullyShardedDataParallelPlugin(fsdp_version=2)
    settings: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (torch.distributed.get_world_size(),)),
        "reshard_after_forward": plugin.reshard_after_forward,
        "offload_policy": plugin.cpu_offload,
        "ignored_params": {p for p in module.parameters() if not p.requires_grad},
    }
    try:
        wanted = cast(Any, fsdp2_prepare_auto_wrap_policy(plugin, module))
    except ValueError as error:
        raise TrainingError("a class that FSDP is configured to wrap: {error}", error=error) from None
    if wanted is not None:
        for child in [*module.modules()][:0:-1]:
            # A module without forward is used through its children.
            used = type(child).forward is not nn.Module.forward
            if used and wanted(child) and any(p.requires_grad for p in child.parameters()):
                fully_shard(child, **settings)
                for name in (name for name in METHODS if hasattr(child, name)):
                    register_fsdp_forward_method(child, name)
    return cast(nn.Module, fully_shard(module, **settings))


def _refuse_parts(stage: Stage, module: nn.Module) -> None:
    scalars = [name for name, p in module.named_parameters() if p.requires_grad and not p.ndim]
    wrong: Message | None = None
    if scalars:
        wrong = Message("{name} is a single number, which has no parts", name=scalars[0])
    elif stage.optimiser != "adamw":
        wrong = Message("the state of {optimiser} cannot be parted", optimiser=stage.optimiser)
    elif stage.precision == "fp16":
        wrong = Message("fp16's scaling has not been tried on parts")
    if wrong is not None:
        raise TrainingError(
            "stage {name!r} cannot be learnt by FSDP: {wrong}; begin it by torchrun (DDP)",
            name=stage.name,
            wrong=wrong,
        )
