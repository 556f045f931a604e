"""Dtype conversion and offloading of a system's weights.

Text encoders, denoisers and spaces may be half precision; their inputs and outputs are cast, so that noise and samplers
stay float32. A module may also stay in its memory-mapped file and be loaded only while it runs. No weight is ever in
memory twice, in the file's dtype and in the converted one.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn

from bimo.core import module_weights
from bimo.core.errors import RequestError
from bimo.core.pages import release
from bimo.core.recipe import Level
from bimo.core.tensors import DenoiserInput
from bimo.diffusion.space import Space
from bimo.engine import quantisation, spread
from bimo.engine.compile import repeated_blocks
from bimo.engine.devices import CPU, DTYPES
from bimo.engine.memory import TILE, Offload, Quantise

if TYPE_CHECKING:
    from bimo.diffusion.system import System


class WeightMover(Protocol):
    """Moves the modules of a system to the device on which they run: ``System.weight_mover``."""

    device: torch.device

    def text_encoders(self) -> AbstractContextManager[None]:
        """The context in which the text encoders work."""
        ...

    def on_step(self, denoiser_input: DenoiserInput) -> None:
        """Called before each step."""
        ...

    def rest(self) -> None:
        """Called when a drawing is done."""
        ...


def offloadable(system: System) -> dict[str, nn.Module]:
    """The modules that may be converted and offloaded, by name: each text encoder and each level's denoiser."""
    encoders = {f"text.{index}": encoder for index, encoder in enumerate(system.text)}
    return encoders | {f"{level.name}.denoiser": system.level(level.name).denoiser for level in system.recipe.levels}


def spaces(system: System) -> dict[str, nn.Module]:
    """The spaces (autoencoders) by name, without those that a level shares with another."""
    levels = [level.name for level in system.recipe.levels if not isinstance(level.space, str)]
    return {f"{name}.space": cast("nn.Module", system.space(name)) for name in levels}


def space_dtype(level: Level, dtype: torch.dtype) -> torch.dtype:
    """The dtype of a level's space if text encoders and denoisers have ``dtype``: the same if the recipe allows it for
    decoding, else float32. Decoding in bfloat16 takes half the memory and time and moves a pixel by about 1 of 255; an
    autoencoder that overflows float16 would give a black picture.
    """
    return dtype if dtype in {DTYPES[name] for name in level.space_dtypes} else torch.float32


def kept_in_float32(system: System) -> set[int]:
    """Ids of the parameters that stay float32 in half precision, as the text encoders' ``keep_in_fp32`` names them."""
    ids: set[int] = set()
    for encoder in system.text_encoders:
        for name, parameter in encoder.named_parameters():
            if set(encoder.keep_in_fp32) & set(name.split(".")):
                ids.add(id(parameter))
    return ids


class Offloader:
    """Converts a system's weights to ``dtype`` on ``device`` and offloads them as described in
    ``engine.memory.Keeping``.

    ``offload`` "none" loads everything at once; "parts" loads each text encoder and denoiser only while it runs, until
    then its weights stay memory-mapped. "groups" and "disk" use diffusers' group offloading (``diffusers.hooks``), on
    CUDA and XPU with a separate stream. ``quantise`` quantises linear layers as they are read, ``tiles`` enables tiled
    decoding. Blocks are spread over ``device`` and ``cards`` (see ``engine.spread``), with ``reserved`` bytes of the
    device left for activations.

    The system must have been read without converting its weights, so that they are still memory-mapped.
    """

    def __init__(
        self,
        system: System,
        dtype: torch.dtype,
        *,
        offload: Offload = "none",
        device: torch.device = CPU,
        quantise: Quantise = "none",
        tiles: bool = False,
        cards: Sequence[torch.device] = (),
        reserved: int = 0,
    ) -> None:
        quantisation.check(quantise, device)
        if offload == "groups" and device.type == "cpu":
            raise RequestError("--offload groups moves layers to a card, and there is none; parts or disk work without")
        if offload == "groups" and quantise in quantisation.OF_BITSANDBYTES:
            raise RequestError(
                "--offload groups does not move the scales of --quantise {kind}; take --offload parts, or int8",
                kind=quantise,
            )
        if offload == "disk" and quantise != "none":
            raise RequestError("--offload disk keeps no quantised weights; take --offload parts or groups")
        self.system = system
        self.dtype = dtype
        self.offload: Offload = offload
        self.device = device
        self.quantise: Quantise = quantise
        self.working = ""
        self._workers = offloadable(system)
        self._stored: dict[str, Tensor] = {}
        self._folder = ""
        self._wide = kept_in_float32(system) if dtype == torch.float16 else set[int]()
        #: The device of idle modules: the CPU if a hook or ``_take`` moves them, else the device itself.
        self._home = CPU if offload in ("groups", "disk") or (offload == "parts" and quantise != "none") else device
        #: The placement of blocks on several cards.
        self.spread = self._plan_spread(cards, reserved) if cards else None
        self._homes = {} if self.spread is None else self.spread.homes()
        of_workers = {id(p) for worker in self._workers.values() for p in worker.parameters()}
        of_spaces = {
            id(parameter): space_dtype(system.recipe.level(name.partition(".")[0]), dtype)
            for name, space in spaces(system).items()
            for parameter in space.parameters()
        }
        for parameter in system.parameters():
            if id(parameter) in of_spaces:
                kind = of_spaces[id(parameter)]
                # Half-precision convolutions are a third faster channels-last; float32 ones would round differently.
                parameter.data = self._converted(parameter.data, kind, channels_last=kind != torch.float32)
            elif id(parameter) not in of_workers:
                parameter.data = self._converted(parameter.data, torch.float32)
            elif quantise == "none" and offload != "parts":
                parameter.data = self._read(parameter)
        for buffer in system.buffers():
            value = buffer.data.float() if buffer.is_floating_point() else buffer.data
            buffer.data = value.to(self._homes.get(id(buffer), device))
        if quantise != "none":
            whole = kept_in_float32(system) if quantise in quantisation.OF_INTEGERS else self._wide
            for worker in self._workers.values():
                quantisation.quantise(worker, quantise, self._read, whole)
        if offload in ("groups", "disk"):
            self._in_groups()
        if self.spread is not None:
            self.spread.connect(device)
        if tiles:
            for space in spaces(system).values():
                cast(Space, space).tile(TILE)

    def _plan_spread(self, cards: Sequence[torch.device], reserved: int) -> spread.Spread:
        row = (self.device, *cards)
        numbers = sum(parameter.numel() for space in spaces(self.system).values() for parameter in space.parameters())
        # An upper bound: 4-bit weights take less.
        dtype = self.dtype if self.quantise == "none" else torch.int8
        reserved_bytes = reserved + numbers * torch.float32.itemsize
        return spread.plan(self._workers, row, spread.free_bytes(row), dtype, reserved_bytes)

    def _read(self, parameter: nn.Parameter) -> Tensor:
        """A worker's weight in its dtype, where it is while the worker is idle."""
        home = self._homes.get(id(parameter), self._home)
        return self._converted(parameter.data, self._dtype_of(parameter), home=home)

    def _in_groups(self) -> None:
        """Applies group offloading to the repeated blocks. Everything else stays on the device: it is small, and some
        of those modules read the weights of layers without calling them, which triggers no hook.
        """
        from diffusers.hooks.group_offloading import apply_group_offloading

        if self.offload == "disk":
            self._folder = tempfile.mkdtemp(prefix="bimo-weights-")
            # The files are needed as long as the system lives, not only this object.
            weakref.finalize(self.system, shutil.rmtree, self._folder, ignore_errors=True)
        for name, worker in self._workers.items():
            blocks = repeated_blocks(worker)
            moved = {id(parameter) for block in blocks for parameter in block.parameters()}
            for parameter in worker.parameters():
                if id(parameter) not in moved:
                    parameter.data = parameter.data.to(self.device)
            for number, block in enumerate(blocks):
                apply_group_offloading(
                    block,
                    onload_device=self.device,
                    offload_device=CPU,
                    offload_type="leaf_level",
                    use_stream=self.device.type in ("cuda", "xpu"),
                    # One folder per block, as layers of different blocks have the same names.
                    offload_to_disk_path=f"{self._folder}/{name}.{number}" if self._folder else None,
                )

    @contextmanager
    def text_encoders(self) -> Generator[None]:
        """Loads the text encoders for the duration of the context."""
        stored = {name: self._take(name) for name in self._workers if name.startswith("text.")}
        try:
            yield
        finally:
            for name, weights in stored.items():
                self._put_back(name, weights)

    def on_step(self, denoiser_input: DenoiserInput) -> None:
        """To be called before each step: loads the denoiser of its level and offloads the previous one."""
        name = f"{denoiser_input.level}.denoiser"
        if name == self.working:
            return
        self.rest()
        self._stored, self.working = self._take(name), name

    def rest(self) -> None:
        """Offloads the loaded denoiser."""
        if self.working:
            self._put_back(self.working, self._stored)
        self._stored, self.working = {}, ""

    def _converted(
        self, value: Tensor, dtype: torch.dtype, channels_last: bool = False, home: torch.device | None = None
    ) -> Tensor:
        """A weight converted to ``dtype``, on ``home`` if given, else on the device."""
        if value.is_mkldnn:
            return value  # packed by an engine that shares it
        if value.is_floating_point():
            value = module_weights.cast_to(value, dtype, channels_last)
        home = self.device if home is None else home
        if home.type != "cpu":
            return value.to(home)
        return module_weights.aligned(value) if self.system.aligned else value

    def _dtype_of(self, parameter: nn.Parameter) -> torch.dtype:
        return torch.float32 if id(parameter) in self._wide else self.dtype

    def _take(self, name: str) -> dict[str, Tensor]:
        """Loads the weights of a module; returns the stored tensors, for ``_put_back``."""
        if self.offload != "parts":
            return {}
        if self.quantise != "none":
            self._move(name, self.device)
            return {}
        stored: dict[str, Tensor] = {}
        for key, parameter in self._workers[name].named_parameters():
            stored[key] = parameter.data
            parameter.data = self._converted(parameter.data, self._dtype_of(parameter))
        return stored

    def _put_back(self, name: str, stored: dict[str, Tensor]) -> None:
        if self.offload == "parts" and self.quantise != "none":
            self._move(name, self._home)
        for key, parameter in self._workers[name].named_parameters():
            if key in stored:
                parameter.data = stored[key]
                release(parameter.data)

    def _move(self, name: str, device: torch.device) -> None:
        # torchao's tensors are replaced by moved ones, which does not work for tensors created in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            self._workers[name].to(device)
