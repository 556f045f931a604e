"""How a system's weights are kept in memory: as which kind of number, on which device, and whether all at once.

Text encoders, denoisers and spaces may be kept as half-precision numbers; their inputs and outputs are converted at
their borders, so that noise and samplers stay in float32. A part may also be left in its file and taken into memory
only while it works. No weight is in memory twice, once as its file has it and once as it is kept.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from bimo.core import checkpoint_io
from bimo.core.pages import release
from bimo.core.recipe import Level
from bimo.core.tensors import DenoiserInput
from bimo.engine.devices import CPU, DTYPES

if TYPE_CHECKING:
    from bimo.diffusion.system import System


def offloadable(system: System) -> dict[str, nn.Module]:
    """What may be converted and offloaded, by name: each text encoder and each level's denoiser."""
    encoders = {f"text.{index}": encoder for index, encoder in enumerate(system.text)}
    return encoders | {f"{level.name}.denoiser": system.level(level.name).denoiser for level in system.recipe.levels}


def spaces(system: System) -> dict[str, nn.Module]:
    """What decodes and encodes, by name: the spaces of the levels that have one of their own."""
    levels = [level.name for level in system.recipe.levels if not isinstance(level.space, str)]
    return {f"{name}.space": cast("nn.Module", system.space(name)) for name in levels}


def space_dtype(level: Level, dtype: torch.dtype) -> torch.dtype:
    """The dtype of a level's space where text encoders and denoisers have ``dtype``: the same where the recipe says
    that it decodes in it, else float32. In bfloat16 decoding takes half the memory and time and moves a pixel by about
    1 of 255; what overflows float16 would be black.
    """
    return dtype if dtype in {DTYPES[name] for name in level.space_dtypes} else torch.float32


def kept_in_float32(system: System) -> set[int]:
    """Of which parameters, by their ids, float16 cannot hold the products: its text encoders say it."""
    found: set[int] = set()
    for encoder in system.text_encoders:
        for name, parameter in encoder.named_parameters():
            if set(encoder.keep_in_fp32) & set(name.split(".")):
                found.add(id(parameter))
    return found


class Offloader:
    """A system whose weights are kept as ``dtype`` on ``device``. Everything is in memory from the beginning, or where
    ``offload`` is set each text encoder and denoiser only while it works: until then its weights lie where they were
    read from.

    The system is one read without converting its weights, so that they still lie in their files.
    """

    def __init__(self, system: System, dtype: torch.dtype, *, offload: bool, device: torch.device = CPU) -> None:
        self.system = system
        self.dtype = dtype
        self.offload = offload
        self.device = device
        self.working = ""
        self._workers = offloadable(system)
        self._stored: dict[str, Tensor] = {}
        self._wide = kept_in_float32(system) if dtype == torch.float16 else set[int]()
        of_workers = {id(p) for worker in self._workers.values() for p in worker.parameters()}
        of_spaces = {
            id(parameter): space_dtype(system.recipe.level(name.partition(".")[0]), dtype)
            for name, space in spaces(system).items()
            for parameter in space.parameters()
        }
        for parameter in system.parameters():
            if id(parameter) in of_spaces:
                kind = of_spaces[id(parameter)]
                # Convolutions of half precision are a third faster in that order; those of float32 round otherwise.
                parameter.data = self._converted(parameter.data, kind, channels_last=kind != torch.float32)
            elif id(parameter) not in of_workers:
                parameter.data = self._converted(parameter.data, torch.float32)
            elif not offload:
                parameter.data = self._converted(parameter.data, self._dtype_of(parameter))
        for buffer in system.buffers():
            buffer.data = (buffer.data.float() if buffer.is_floating_point() else buffer.data).to(device)

    @contextmanager
    def text_encoders(self) -> Generator[None]:
        """The text encoders are in memory inside."""
        stored = {name: self._take(name) for name in self._workers if name.startswith("text.")}
        try:
            yield
        finally:
            for name, weights in stored.items():
                self._put_back(name, weights)

    def on_step(self, denoiser_input: DenoiserInput) -> None:
        """Called before each step: takes the denoiser of its level into memory and puts the last one back."""
        name = f"{denoiser_input.level}.denoiser"
        if name == self.working:
            return
        self.rest()
        self._stored, self.working = self._take(name), name

    def rest(self) -> None:
        """Puts back what is working."""
        if self.working:
            self._put_back(self.working, self._stored)
        self._stored, self.working = {}, ""

    def _converted(self, value: Tensor, dtype: torch.dtype, channels_last: bool = False) -> Tensor:
        """A weight as it is kept."""
        if value.is_floating_point():
            value = checkpoint_io.cast_to(value, dtype, channels_last)
        if self.device.type != "cpu":
            return value.to(self.device)
        return checkpoint_io.aligned(value) if self.system.aligned else value

    def _dtype_of(self, parameter: nn.Parameter) -> torch.dtype:
        return torch.float32 if id(parameter) in self._wide else self.dtype

    def _take(self, name: str) -> dict[str, Tensor]:
        """Converts the weights of a part; returns them as they were stored."""
        if not self.offload:
            return {}
        stored: dict[str, Tensor] = {}
        for key, parameter in self._workers[name].named_parameters():
            stored[key] = parameter.data
            parameter.data = self._converted(parameter.data, self._dtype_of(parameter))
        return stored

    def _put_back(self, name: str, stored: dict[str, Tensor]) -> None:
        for key, parameter in self._workers[name].named_parameters():
            if key in stored:
                parameter.data = stored[key]
                release(parameter.data)
