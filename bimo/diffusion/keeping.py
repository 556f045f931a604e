"""How a system's weights are kept in memory: as which kind of number, and whether all of them at once.

Towers and denoisers may be kept as half-precision numbers; what they are given and what they answer is turned at their
borders, so that noise, samplers and the spaces' decoders stay in float32. A piece may also be left in its file and
taken into memory only while it works.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bimo.core.types import Ask, Conditioning, Encoding

if TYPE_CHECKING:
    from bimo.diffusion.system import System


def kind_of_numbers(module: nn.Module) -> torch.dtype | None:
    """The kind of a module's first floating parameter; None where it has none."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), None)


def turned(conditioning: Conditioning, dtype: torch.dtype) -> Conditioning:
    """The same with its floating numbers as ``dtype``."""
    return Conditioning(
        tuple(turned_encoding(stream, dtype) for stream in conditioning.streams),
        _turned(conditioning.vector, dtype),
        _turned(conditioning.spatial, dtype),
        {name: value.to(dtype) if value.is_floating_point() else value for name, value in conditioning.scalars.items()},
    )


def turned_encoding(encoding: Encoding, dtype: torch.dtype) -> Encoding:
    """The same with its floating numbers as ``dtype``."""
    if encoding.tokens.dtype == dtype:
        return encoding
    return replace(encoding, tokens=encoding.tokens.to(dtype), pooled=_turned(encoding.pooled, dtype))


def _turned(value: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if value is None else value.to(dtype)


def workers(system: System) -> dict[str, nn.Module]:
    """What may be kept as other numbers, by name: each text tower and each level's denoiser."""
    towers = {f"text.{index}": tower for index, tower in enumerate(system.text)}
    return towers | {f"{level.name}.denoiser": system.level(level.name).denoiser for level in system.recipe.levels}


class Shelf:
    """A system whose weights are kept as ``dtype``. Everything is in memory from the beginning, or where ``away`` is
    set each tower and denoiser only while it works: until then its weights lie where they were read from.

    The system is one read without turning its numbers, so that they still lie in their files.
    """

    def __init__(self, system: System, dtype: torch.dtype, *, away: bool) -> None:
        self.system = system
        self.dtype = dtype
        self.away = away
        self.working = ""
        self._workers = workers(system)
        self._stored: dict[str, Tensor] = {}
        kept = {id(p) for worker in self._workers.values() for p in worker.parameters()}
        for parameter in system.parameters():
            if id(parameter) not in kept and parameter.is_floating_point():
                parameter.data = parameter.data.float()
        for buffer in system.buffers():
            if buffer.is_floating_point():
                buffer.data = buffer.data.float()
        if not away:
            for worker in self._workers.values():
                for parameter in worker.parameters():
                    if parameter.is_floating_point():
                        parameter.data = parameter.data.to(dtype)

    @contextmanager
    def towers(self) -> Generator[None]:
        """The text towers are in memory inside."""
        names = [name for name in self._workers if name.startswith("text.")]
        stored = [self._take(name) for name in names]
        try:
            yield
        finally:
            for name, weights in zip(names, stored, strict=True):
                self._put_back(name, weights)

    def told(self, ask: Ask) -> None:
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

    def _take(self, name: str) -> dict[str, Tensor]:
        """Turns a worker's weights; answers them as they were stored."""
        if not self.away:
            return {}
        parameters = dict(self._workers[name].named_parameters())
        stored = {key: parameter.data for key, parameter in parameters.items()}
        for parameter in parameters.values():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(self.dtype)
        return stored

    def _put_back(self, name: str, stored: dict[str, Tensor]) -> None:
        for key, parameter in self._workers[name].named_parameters():
            if key in stored:
                parameter.data = stored[key]
