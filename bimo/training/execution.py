"""How a stage is executed: compiled blocks, channels-last convolutions, deterministic kernels."""

# Parts of torch's interface are untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import TrainingError
from bimo.core.messages import say
from bimo.core.recipe import Stage
from bimo.diffusion.system import System
from bimo.engine.compile import compile_each, repeated_blocks, uncompile
from bimo.training.distributed.processes import Processes
from bimo.training.objectives.objective import objective_of

#: What torch says of an operation without a deterministic kernel, after its name.
NO_KERNEL = " does not have a deterministic implementation"


class Execution:
    """The denoisers of a stage as it executes them; ``close`` undoes it. What a stage asks for and its denoisers have
    no use for is said.
    """

    def __init__(self, stage: Stage, system: System, processes: Processes) -> None:
        """Raises TrainingError for processes that shard what learns or its optimiser."""
        self._blocks: list[nn.Module] = []
        self._kernels: list[Tensor] = []
        asked = [name for name in ("compiled", "channels_last") if getattr(stage, name)]
        if asked and (processes.sharded or processes.zero):
            raise TrainingError(
                "{name} of stage {stage!r} goes with processes that each have all that learns; begin them by torchrun "
                "(DDP), or leave it out",
                name=asked[0],
                stage=stage.name,
            )
        denoisers = [cast(nn.Module, system.level(name).denoiser) for name in objective_of(stage).levels(stage)]
        if stage.channels_last:
            self._kernels = [kernel for denoiser in denoisers for kernel in kernels(denoiser)]
            if not self._kernels:
                print(say("channels_last of stage {name!r}: it has no convolutions to gain by it", name=stage.name))
            for kernel in self._kernels:
                kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)
        if stage.compiled:
            blocks = [block for denoiser in denoisers for block in repeated_blocks(denoiser)]
            if not blocks:
                print(say("compiled of stage {name!r}: it has no blocks that repeat, and is not", name=stage.name))
            # Static shapes: which sizes came first in a process must not decide how later ones are rounded.
            self._blocks = compile_each(blocks, processes.device, dynamic=False)

    def close(self) -> None:
        """Undoes it."""
        uncompile(self._blocks)
        for kernel in self._kernels:
            kernel.data = kernel.data.contiguous()
        self._blocks, self._kernels = [], []


def kernels(module: nn.Module) -> Iterator[Tensor]:
    """The kernels of 2-D convolutions whose windows overlap; those of patches are products of matrices."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and any(k > s for k, s in zip(layer.kernel_size, layer.stride, strict=True)):
            yield layer.weight


@contextmanager
def eager() -> Generator[None]:
    """Runs compiled blocks uncompiled: a few drawings of other sizes are not worth their compilation."""
    # Where nothing was compiled, torch's compiler is not loaded for it.
    with torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext():
        yield


@contextmanager
def deterministic(stage: Stage, device: torch.device) -> Generator[None]:
    """Deterministic kernels of CUDA by ``stage.exact``: everywhere, where they exist (None), or nowhere in particular.
    Those of CPUs always are.

    Raises TrainingError if ``exact`` is wanted of another device, and for an operation that has none.
    """
    if device.type != "cuda":
        if stage.exact and device.type != "cpu":
            raise TrainingError(
                "exact of stage {name!r}: which kernels of {kind} are deterministic torch does not say; learn on cuda "
                "or cpu, or leave it out",
                name=stage.name,
                kind=device.type,
            )
        if stage.exact is False and device.type == "cpu":
            print(say("exact of stage {name!r} is off, and kernels of a processor are deterministic", name=stage.name))
        with _compiler(stage):
            yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first called
    torch.use_deterministic_algorithms(stage.exact is not False, warn_only=stage.exact is None)
    torch.backends.cudnn.benchmark = stage.exact is False
    try:
        with _compiler(stage), no_kernel(stage):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark


@contextmanager
def no_kernel(stage: Stage) -> Generator[None]:
    """Says once of each operation that torch warns of that it has no deterministic kernel; raises TrainingError where
    torch refuses it.
    """
    shown, told = warnings.showwarning, set[str]()

    def show(message: Any, category: type[Warning], *where: Any) -> None:
        name, found, _ = str(message).partition(NO_KERNEL)
        if not found:
            shown(message, category, *where)
        elif name not in told:
            told.add(name)
            print(
                say(
                    "{operation} has no deterministic kernel on this device: a run that is stopped ends in nearly the "
                    "same weights, not in the same bytes",
                    operation=name,
                )
            )

    with warnings.catch_warnings():
        warnings.filterwarnings("always", f".*{NO_KERNEL}")
        warnings.showwarning = show
        try:
            yield
        except RuntimeError as error:
            name, found, _ = str(error).partition(NO_KERNEL)
            if not found:
                raise
            raise TrainingError(
                "exact of stage {stage!r}: {operation} has no deterministic kernel on this device; leave exact out, "
                "which takes them where they exist",
                stage=stage.name,
                operation=name,
            ) from None


@contextmanager
def _compiler(stage: Stage) -> Generator[None]:
    """Has the compiler choose its kernels by rules, not by timing them, unless ``stage.exact`` is off."""
    with ExitStack() as stack:
        if stage.compiled and stage.exact is not False:
            from torch._inductor import config

            settings: Any = config
            if hasattr(settings, "deterministic"):  # since torch 2.9
                stack.enter_context(settings.patch(deterministic=True))
        yield
