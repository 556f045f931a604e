"""How a system's weights are kept in memory: as which kind of number, and whether all of them at once.

Towers, denoisers and spaces may be kept as half-precision numbers; what they are given and what they answer is turned
at their borders, so that noise and samplers stay in float32. A piece may also be left in its file and taken into memory
only while it works. Nothing is in memory twice, as its file has it and as it is kept.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from bimo.core import checkpoint_io
from bimo.core.pages import release
from bimo.core.tensors import DenoiserInput

if TYPE_CHECKING:
    from bimo.diffusion.system import System


def offloadable(system: System) -> dict[str, nn.Module]:
    """What may be kept as other numbers and be offload, by name: each text tower and each level's denoiser."""
    towers = {f"text.{index}": tower for index, tower in enumerate(system.text)}
    return towers | {f"{level.name}.denoiser": system.level(level.name).denoiser for level in system.recipe.levels}


def spaces(system: System) -> dict[str, nn.Module]:
    """What decodes and encodes, by name: the spaces of the levels that have one of their own."""
    levels = [level.name for level in system.recipe.levels if not isinstance(level.space, str)]
    return {f"{name}.space": cast("nn.Module", system.space(name)) for name in levels}


def kept_in_spaces(dtype: torch.dtype) -> torch.dtype:
    """How a space is kept where towers and denoisers are kept as ``dtype``. In bfloat16 decoding takes half the memory
    and time and moves a pixel by about 1 of 255; what overflows float16 would be black.
    """
    return dtype if dtype == torch.bfloat16 else torch.float32


class Offloader:
    """A system whose weights are kept as ``dtype``. Everything is in memory from the beginning, or where ``offload`` is
    set each tower and denoiser only while it works: until then its weights lie where they were read from.

    The system is one read without turning its numbers, so that they still lie in their files.
    """

    def __init__(self, system: System, dtype: torch.dtype, *, offload: bool) -> None:
        self.system = system
        self.dtype = dtype
        self.offload = offload
        self.working = ""
        self._workers = offloadable(system)
        self._stored: dict[str, Tensor] = {}
        own = {id(p) for worker in self._workers.values() for p in worker.parameters()}
        coding = {id(p) for space in spaces(system).values() for p in space.parameters()}
        for parameter in system.parameters():
            if id(parameter) in coding:
                kind = kept_in_spaces(dtype)
                # bfloat16 convolutions are a third faster in that order; those of float32 round otherwise in it.
                parameter.data = self._as(parameter.data, kind, channels_last=kind == torch.bfloat16)
            elif id(parameter) not in own:
                parameter.data = self._as(parameter.data, torch.float32)
            elif not offload:
                parameter.data = self._as(parameter.data, dtype)
        for buffer in system.buffers():
            if buffer.is_floating_point():
                buffer.data = buffer.data.float()

    @contextmanager
    def text_encoders(self) -> Generator[None]:
        """The text towers are in memory inside."""
        taken = {name: self._take(name) for name in self._workers if name.startswith("text.")}
        try:
            yield
        finally:
            for name, stored in taken.items():
                self._put_back(name, stored)

    def on_step(self, ask: DenoiserInput) -> None:
        """Hears of an ask before it is answered: takes that level's denoiser and puts the last one back."""
        name = f"{ask.level}.denoiser"
        if name == self.working:
            return
        self.rest()
        self._stored, self.working = self._take(name), name

    def rest(self) -> None:
        """Puts back what is working, for instance while a picture is decoded."""
        if self.working:
            self._put_back(self.working, self._stored)
        self._stored, self.working = {}, ""

    def _as(self, value: Tensor, dtype: torch.dtype, channels_last: bool = False) -> Tensor:
        """A weight as it is kept."""
        if value.is_floating_point():
            value = checkpoint_io.cast_to(value, dtype, channels_last)
        return checkpoint_io.aligned(value) if self.system.aligned else value

    def _take(self, name: str) -> dict[str, Tensor]:
        """Turns a worker's weights; answers them as they were stored."""
        if not self.offload:
            return {}
        stored: dict[str, Tensor] = {}
        for key, parameter in self._workers[name].named_parameters():
            stored[key] = parameter.data
            parameter.data = self._as(parameter.data, self.dtype)
        return stored

    def _put_back(self, name: str, stored: dict[str, Tensor]) -> None:
        for key, parameter in self._workers[name].named_parameters():
            if key in stored:
                parameter.data = stored[key]
                release(parameter.data)
