"""Several processes that take a step together: whose the rows of its batch are, and what they bring together."""

# torch and accelerate leave parts of their interfaces untyped; what crosses them here is named where it is kept.
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
from bimo.core.messages import Message
from bimo.core.recipe import Stage
from bimo.core.tensors import Share
from bimo.engine.devices import CPU, device_of

#: How long processes wait for the one that encodes or draws before the first step.
PATIENCE = timedelta(hours=24)
#: What accelerate's launcher sets where its configuration says so.
FSDP, DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"
#: What modules are asked by besides ``forward``: for that too the parts are gathered.
METHODS = ("encode", "decode", "posterior", "look", "blank")


@dataclass(frozen=True)
class Processes:
    """This process, the ``rank``-th of ``count``, and its device. Where it is ``sharded`` each keeps a part of what
    learns (FSDP), else all of it (DDP). Where there is ``zero`` each keeps a part of the optimiser's state (DeepSpeed).
    """

    rank: int = 0
    count: int = 1
    device: torch.device = CPU
    sharded: bool = False
    zero: bool = False

    @property
    def is_main_process(self) -> bool:
        """Whether this is the one that writes."""
        return not self.rank

    def share(self, group_sizes: Sequence[int]) -> Share:
        """This process's rows of a batch, by the sizes of its groups of rows: groups next to each other, as many as the
        others have or one fewer. Where there are fewer groups than processes each has all rows.
        """
        ends = [0]
        for rows in group_sizes:
            ends.append(ends[-1] + rows)
        if len(group_sizes) < self.count:
            return Share(0, ends[-1], ends[-1])
        first, last = (len(group_sizes) * place // self.count for place in (self.rank, self.rank + 1))
        return Share(ends[first], ends[last], ends[-1])

    def part(self, share: Share) -> float:
        """How much of the loss of all rows the mean over a share is."""
        rows = share.last - share.first
        return 1 / self.count if rows == share.whole else rows / share.whole

    def total(self, *values: float) -> list[float]:
        """Each number added up over all processes."""
        if self.count == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64, device=self.device)
        _add_up(summed)
        return summed.tolist()

    def wait(self) -> None:
        """Until all of them are here."""
        self.total(0.0)

    @contextmanager
    def main_process_first(self) -> Generator[None]:
        """What is inside is done by the leader, then by the others, who find what it wrote."""
        if not self.is_main_process:
            self.wait()
        yield
        if self.is_main_process:
            self.wait()
        self.wait()

    def wrapped(self, stage: Stage, module: nn.Module) -> nn.Module:
        """The module wrapped by DDP or FSDP, so that its gradients are the mean over all processes. DeepSpeed wraps it
        together with its optimiser: `bimo.training.distributed.zero.DeepSpeedZero`.
        """
        if self.sharded:
            return fully_shard(stage, module, self.device)
        if self.zero:
            return module
        # Told to look for unused parameters, DDP keeps its buckets as they are: they may not change from the first step
        # to the second, or a run that goes on would add up in another order.
        ddp = nn.parallel.DistributedDataParallel
        return ddp(module, find_unused_parameters=True, broadcast_buffers=False)

    def backward(self, module: Any, loss: Tensor) -> None:
        """Gradients of a loss, brought together unless ``apart``."""
        if self.zero:
            module.backward(loss)
        else:
            loss.backward()

    @contextmanager
    def apart(self, module: Any) -> Generator[None]:
        """The gradients of the ``wrapped`` module stay each process's own inside."""
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
    """The processes that a launcher has begun (torchrun, accelerate, Ray Train), for as long as they work together; one
    alone where nothing has. All but the leader are silent.

    Raises TrainingError where another process has ended.
    """
    own = device_of(device)
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if wanted == 1:
        yield Processes(device=own)
        return
    from accelerate import PartialState

    own_group = not distributed.is_initialized()  # Ray has begun its own
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
    """The tensor added up over all processes, in place."""
    distributed.all_reduce(tensor)
    # A thread of gloo's has the tensor for a moment longer. Were it the last to let go, it would have to ask for
    # Python's lock, and asking that of an interpreter that is ending aborts the process (pytorch/pytorch#190489). DDP
    # never gives its group up, so destroying the group does not end that thread.
    while tensor.device.type == "cpu" and tensor._use_count() > 1:  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
        time.sleep(0)


class _Summed(torch.autograd.Function):
    """A tensor added up over all processes, and so its gradient."""

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
    """[B, ...] of a process's own rows -> [whole, ...] of all; to its own goes the gradient of every process's loss."""
    if share.last - share.first == share.whole:
        return value
    before, after = share.first, share.whole - share.last
    parts = [value.new_zeros(before, *value.shape[1:]), value, value.new_zeros(after, *value.shape[1:])]
    # Others have zeros where this process has its rows: their sum is exact.
    return _Summed.apply(torch.cat(parts))  # type: ignore[no-any-return]


def fully_shard(stage: Stage, module: nn.Module, device: torch.device) -> nn.Module:
    """The module by FSDP2: what learns in it is sharded over the processes, what is frozen stays whole in each.

    accelerate's launcher says by its configuration which modules are gathered by themselves (``fsdp_auto_wrap_policy``
    and what belongs to it), whether they are given up between forward and backward (``fsdp_reshard_after_forward``),
    and whether parts lie in the processor's memory (``fsdp_offload_params``). Raises TrainingError where the stage
    cannot be learnt in parts, and for a class to wrap that is not there.
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
            # What has no forward of its own is used through its parts.
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
