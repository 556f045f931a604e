"""LoRAs merged into a system's weights, and taken out again bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from bimo.core.errors import WeightsError
from bimo.core.messages import Both, Listed, Message
from bimo.diffusion.system import System
from bimo.models.adapters.lora_files import Delta, Lora, read_lora


@dataclass
class Merged:
    """The LoRAs in a system, in the order they were merged, each with its weight.

    ``originals`` are the weights they touch as they were: what is taken out leaves them bit for bit.
    """

    base: Callable[[], str] = str
    active: list[tuple[Lora, float]] = field(default_factory=list[tuple[Lora, float]])
    originals: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


def adapt(system: System, path: Path | str, weight: float = 1.0, level: str = "") -> Lora:
    """Merges a LoRA file into a system at a weight; more than one may be in it. ``unadapt`` takes it out again.

    The weight is the share of the way from the system's own weights to those the file makes of them: of a DoRA too.
    Merging the same file again sets its weight. Raises WeightsError as ``read_lora``.
    """
    lora = read_lora(system, Path(path), level)
    merged = _merged(system)
    others = [(known, w) for known, w in merged.active if known.digest != lora.digest]
    _refresh(system, merged, [*others, (lora, weight)])
    return lora


def touched(system: System, path: Path | str, level: str = "") -> set[str]:
    """The parameters that a LoRA file changes. Raises WeightsError as ``read_lora``."""
    return {name for delta in read_lora(system, Path(path), level).deltas for name in delta.paths}


def unadapt(system: System, name: str = "") -> None:
    """Takes a LoRA out by its file's stem, or all of them: weights are bit for bit what they were without it."""
    merged = _merged(system)
    names = [lora.name for lora, _ in merged.active]
    if name and name not in names:
        near = Message("there is {names}", names=Listed(names) if names else Both("空", "none"))
        raise WeightsError("the system has no LoRA called {name!r}; {near}", name=name, near=near)
    _refresh(system, merged, [(lora, w) for lora, w in merged.active if name and lora.name != name])


def adapters(system: System) -> list[tuple[str, float]]:
    """Name and weight of each LoRA in a system."""
    return [(lora.name, weight) for lora, weight in _merged(system).active]


def _merged(system: System) -> Merged:
    if system.merged_loras is None:
        system.merged_loras = Merged(base=system.hashed)
    return cast(Merged, system.merged_loras)


def _refresh(system: System, merged: Merged, active: list[tuple[Lora, float]]) -> None:
    import hashlib

    with torch.no_grad():
        every = [(delta, weight) for lora, weight in active if weight for delta in lora.deltas]
        touching: dict[str, list[tuple[Delta, float]]] = {}
        for path in {path for lora, _ in active for delta in lora.deltas for path in delta.paths}:
            if path not in merged.originals:
                merged.originals[path] = system.get_parameter(path).detach().clone()
        for delta, weight in every:
            for path in delta.paths:
                touching.setdefault(path, []).append((delta, weight))
        for path, original in merged.originals.items():
            total = original
            if path in touching:
                total = original.float()
                for delta, weight in touching[path]:
                    total = total + weight * delta.value(path, merged.originals)
            system.get_parameter(path).copy_(total)
    merged.active = active
    if not active:
        merged.originals.clear()
    base, told = merged.base, [f"{lora.digest} {weight:g}" for lora, weight in active]

    def drawn_with() -> str:
        return hashlib.sha256("\n".join([base(), *told]).encode()).hexdigest()

    # A picture's record tells the weights it was drawn with.
    system.weights_hash = drawn_with if active else base
