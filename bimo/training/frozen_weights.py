"""Frozen weights during a stage: quantised, in a narrower dtype, or offloaded to CPU memory."""

# Parts of torch's interface are untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import TrainingError
from bimo.core.held_weights import HeldWeight, NarrowWeight, can_hold, held_in, hold, move, placed, release
from bimo.core.messages import say
from bimo.core.pages import release as release_pages
from bimo.core.recipe import Stage
from bimo.core.tensors import DenoiserInput
from bimo.diffusion.system import System
from bimo.engine.devices import CPU, DTYPES
from bimo.engine.memory import Quantise
from bimo.engine.offload import kept_in_float32
from bimo.engine.quantisation import LIBRARY, RoundedWeight, available
from bimo.training.distributed.processes import Processes
from bimo.training.logging import save_whole

WHOLE_FILE = "frozen.pt"
Layer = nn.Linear | nn.Conv2d


def holdable(system: System) -> dict[str, Layer]:
    """The layers of text encoders and denoisers with a frozen weight that can be quantised or offloaded, by name: not
    those that share their weight, nor those of text encoders that need float32.
    """
    uses = Counter(id(p) for layer in system.modules() for p in layer.parameters(recurse=False))
    wide = kept_in_float32(system)
    starts = ("text.", *(f"{level.name}.denoiser." for level in system.recipe.levels))
    return {
        name: cast(Layer, layer)
        for name, layer in system.named_modules()
        if name.startswith(starts)
        and can_hold(layer)
        and not cast(Layer, layer).weight.requires_grad
        and uses[id(layer.weight)] == 1
        and id(layer.weight) not in wide
    }


def kind_of(stage: Stage, layer: nn.Module) -> str:
    """The storage of a frozen layer's weight: the stage's ``frozen``, or the dtype of its ``precision``."""
    narrow = stage.precision if stage.precision in ("bf16", "fp16") else "fp32"
    if stage.frozen == "fp32" or (isinstance(layer, nn.Conv2d) and stage.frozen not in DTYPES):
        return narrow if stage.frozen != "fp32" else "fp32"
    return stage.frozen


class FrozenWeights:
    """The frozen weights of a system in a stage, stored by its ``frozen`` and ``offload``, on ``device`` while they are
    used. The original weights are in a memory-mapped file in ``folder`` until ``close`` restores them.

    It is also the `bimo.engine.offload.WeightMover` by which the system draws during the stage.
    """

    def __init__(self, stage: Stage, system: System, folder: Path, processes: Processes) -> None:
        """Raises TrainingError if a library is not installed, for ``offload`` on a CPU, and for processes that shard
        the trained parameters or their optimiser (FSDP, DeepSpeed).
        """
        _check(stage, processes)
        self.system, self.device, self._offload = system, processes.device, stage.offload
        # A file for each process: one may be done while another still reads.
        self._file = folder / (f"{processes.rank}-{WHOLE_FILE}" if processes.rank else WHOLE_FILE)
        folder.mkdir(parents=True, exist_ok=True)
        self._layers = {n: layer for n, layer in holdable(system).items() if kind_of(stage, layer) != "fp32"}
        if stage.offload == "groups":
            # Weights that are not quantised are offloaded, too.
            self._layers = holdable(system)
        save_whole({name: layer.weight.data for name, layer in self._layers.items()}, self._file)
        self._whole: dict[str, Tensor] = torch.load(self._file, weights_only=True, mmap=True)
        for name, layer in self._layers.items():
            begun = layer.weight.data
            hold(layer, _held(begun.to(self.device).float(), kind_of(stage, layer)))
            release_pages(begun)
            self._rest(name, layer)
        #: Whether text encoders stay on the device, as in a stage that runs them at each step.
        self._encoders_resident = stage.offload == "none"
        self._denoisers = [system.level(level.name).denoiser for level in system.recipe.levels]
        rest = [module for name, module in system.named_children() if name != "text"]
        move(rest, self.device, fixed=stage.offload == "groups")
        if self._encoders_resident:
            move([system.text], self.device)
        else:
            system.weight_mover = self

    def _rest(self, name: str, layer: Layer) -> None:
        """Moves a layer's weight, which was quantised on the device, to where it is between uses."""
        held: HeldWeight = held_in(layer)["weight"]
        if self._offload == "groups" or (self._offload == "parts" and name.startswith("text.")):
            held.move(CPU)

    def values(self) -> Mapping[str, Tensor]:
        """The original weights by the names of their parameters, on the CPU."""
        return {f"{name}.weight": value for name, value in self._whole.items()}

    @contextmanager
    def whole(self) -> Generator[None]:
        """A context in which parameters hold the original weights, on the CPU, to be read; layers cannot run in it."""
        for name, layer in self._layers.items():
            layer.weight.data = self._whole[name]
        try:
            yield
        finally:
            for layer in self._layers.values():
                placed(layer, self.device)

    @contextmanager
    def text_encoders(self) -> Generator[None]:
        """A context in which the text encoders are on the device and the denoisers on the CPU."""
        if self._encoders_resident:
            yield
            return
        move(self._denoisers, CPU)
        move([self.system.text], self.device)
        try:
            yield
        finally:
            move([self.system.text], CPU)
            move(self._denoisers, self.device, fixed=self._offload == "groups")

    def keep_text_encoders(self, stage: Stage) -> None:
        """Keeps the text encoders on the device, for a stage that runs them at each step."""
        if not self._encoders_resident:
            print(say("each step of stage {name!r} asks the text encoders, which stay on the device", name=stage.name))
            move([self.system.text], self.device)
            self._encoders_resident = True

    def on_step(self, denoiser_input: DenoiserInput) -> None:
        """Does nothing: the denoisers are on the device already."""

    def rest(self) -> None:
        """Does nothing: they stay on the device."""

    def close(self) -> None:
        """Restores the original weights and moves everything to the CPU."""
        for name, layer in self._layers.items():
            release(layer, self._whole[name])
        move([self.system], CPU)
        self.system.weight_mover = None
        with suppress(OSError):  # a file that is mapped cannot be removed everywhere
            self._file.unlink()
            self._file.parent.rmdir()  # unless a stage keeps something else there


def _held(weight: Tensor, kind: str) -> HeldWeight:
    if kind in DTYPES:
        return NarrowWeight(weight.to(DTYPES[kind], copy=True))  # not in the file that it may have been mapped from
    # A weight of zeros, such as a zero-initialised layer's, has no scale to round by.
    return RoundedWeight(weight, cast(Quantise, kind)) if bool(weight.any()) else NarrowWeight(weight)


def _check(stage: Stage, processes: Processes) -> None:
    kind: Any = stage.frozen
    if kind in LIBRARY and not available(kind):
        raise TrainingError(
            "frozen of stage {name!r} is {kind}, which needs the library {library}: pip install {library}",
            name=stage.name,
            kind=kind,
            library=LIBRARY[kind],
        )
    if stage.offload != "none" and processes.device.type == "cpu":
        raise TrainingError(
            "offload of stage {name!r} keeps weights in the processor's memory, and it is learnt there; leave it out",
            name=stage.name,
        )
    if processes.sharded or processes.zero:
        raise TrainingError(
            "frozen and offload of stage {name!r} go with processes that each have all that learns; begin them by "
            "torchrun (DDP), or leave the two out",
            name=stage.name,
        )
