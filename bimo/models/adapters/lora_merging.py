"""Merges LoRAs into a system's weights, for all steps or a range, and removes them again bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from bimo.core.errors import WeightsError
from bimo.core.lora_weight import LoraWeight
from bimo.core.messages import Listed, Message
from bimo.diffusion.system import System
from bimo.models.adapters.lora_files import Delta, Lora, read_lora
from bimo.prompts.normalise import normal

#: The prefix of the names of text encoders' parameters.
TEXT = "text."


@dataclass
class Merged:
    """The LoRAs of a system, in the order they were merged, each with its weight.

    ``originals`` are the unchanged weights, so that removal restores them bit by bit.
    """

    base: Callable[[], str] = str
    active: list[tuple[Lora, LoraWeight]] = field(default_factory=list[tuple[Lora, LoraWeight]])
    originals: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    #: Which of them are merged into the denoisers at present.
    counting: tuple[bool, ...] = ()

    def phase(self, step: int, steps: int) -> tuple[bool, ...]:
        """Which of them apply in this step."""
        return tuple(weight.counts(step, steps) for _, weight in self.active)

    def idle(self, counts: Mapping[str, Sequence[int]]) -> list[tuple[str, LoraWeight]]:
        """Name and weight of each that changes denoisers and applies in none of the steps of their levels."""
        found: list[tuple[str, LoraWeight]] = []
        for lora, weight in self.active:
            levels = {path.partition(".")[0] for delta in lora.deltas for path in delta.paths} & counts.keys()
            every = [(step, count) for level in levels for count in counts[level] for step in range(count)]
            if every and not any(weight.counts(*each) for each in every):
                found.append((lora.name, weight))
        return found

    def tensors(self) -> list[Tensor]:
        """What it keeps in memory beside the system's own parameters: the originals, and what the files hold."""
        return [*self.originals.values(), *(tensor for lora, _ in self.active for tensor in lora.tensors)]

    def enter(self, system: System, phase: tuple[bool, ...]) -> None:
        """Merges the LoRAs of a phase into the denoisers. Text encoders keep all LoRAs: a prompt is encoded once."""
        if phase != self.counting:
            paths = [path for path in self.originals if not path.startswith(TEXT)]
            merge(system, self, [one for one, counts in zip(self.active, phase, strict=True) if counts], paths)
            self.counting = phase


def adapt(system: System, path: Path | str, weight: LoraWeight | float = 1.0, level: str = "") -> Lora:
    """Merges a LoRA file into a system at a weight; several may be merged. ``unadapt`` removes it again. With a range
    of steps it is merged into the denoisers during these steps only.

    The weight interpolates between the system's own weights and those with the LoRA, for DoRA too. Merging the same
    file again sets its weight. Raises WeightsError as ``read_lora``.
    """
    lora = read_lora(system, Path(path), level)
    merged = _merged(system)
    others = [(known, w) for known, w in merged.active if known.digest != lora.digest]
    _refresh(system, merged, [*others, (lora, weight if isinstance(weight, LoraWeight) else LoraWeight(weight))])
    return lora


def touched(system: System, path: Path | str, level: str = "") -> set[str]:
    """The parameters that a LoRA file changes. Raises WeightsError as ``read_lora``."""
    return {name for delta in read_lora(system, Path(path), level).deltas for name in delta.paths}


def unadapt(system: System, name: str = "") -> None:
    """Removes a LoRA by its file's stem, or all of them; the weights are restored bit by bit."""
    merged = _merged(system)
    names = [lora.name for lora, _ in merged.active]
    if name and name not in names:
        near = Message("there is {names}", names=Listed(names) if names else Message("none"))
        raise WeightsError("the system has no LoRA called {name!r}; {near}", name=name, near=near)
    _refresh(system, merged, [(lora, w) for lora, w in merged.active if name and lora.name != name])


def stepwise(system: System) -> set[str]:
    """The parameters that change during sampling: those of LoRAs with a range of steps."""
    return {path for lora, w in _merged(system).active if not w.whole for each in lora.deltas for path in each.paths}


def carry_over(
    system: System,
    rebuilt: System,
    name_in: Callable[[str], str],
    hash_of: Callable[[Callable[[], str]], Callable[[], str]],
) -> None:
    """Gives the LoRAs of a system to one that was built around it and shares its tensors, with the ranges of steps in
    which they apply; ``name_in`` is the name there of a parameter, ``hash_of`` the hash there by that of the system.
    """
    rebuilt.captions_learned = system.captions_learned
    if system.merged_loras is None:
        return
    before = _merged(system)

    def renamed(lora: Lora) -> Lora:
        deltas = (
            replace(delta, pieces=tuple(replace(piece, path=name_in(piece.path)) for piece in delta.pieces))
            for delta in lora.deltas
        )
        return replace(lora, deltas=tuple(deltas))

    active = [(renamed(lora), weight) for lora, weight in before.active]
    originals = {name_in(path): value for path, value in before.originals.items()}
    merged = Merged(hash_of(before.base), active, originals, before.counting)
    rebuilt.merged_loras = merged
    rebuilt.stepwise = None if system.stepwise is None else merged


def lora_weights(system: System) -> list[tuple[str, LoraWeight]]:
    """Name of each LoRA in a system, and its weight with the steps in which it applies."""
    return [(lora.name, weight) for lora, weight in _merged(system).active]


def kept_tensors(system: System) -> list[Tensor]:
    """What a system's LoRAs keep in memory beside its parameters."""
    return _merged(system).tensors()


def adapters(system: System) -> list[tuple[str, float]]:
    """Name and weight of each LoRA in a system."""
    return [(name, weight.value) for name, weight in lora_weights(system)]


def _merged(system: System) -> Merged:
    if system.merged_loras is None:
        system.merged_loras = Merged(base=system.hashed)
    return cast(Merged, system.merged_loras)


def _refresh(system: System, merged: Merged, active: list[tuple[Lora, LoraWeight]]) -> None:
    import hashlib

    for path in {path for lora, _ in active for delta in lora.deltas for path in delta.paths}:
        if path not in merged.originals:
            merged.originals[path] = system.get_parameter(path).detach().clone()
    merge(system, merged, active, list(merged.originals))
    merged.active = active
    merged.counting = (True,) * len(active)
    system.stepwise = merged if any(not weight.whole for _, weight in active) else None
    system.captions_learned = tuple(normal(text) for lora, w in active if w.value for text in lora.captions)
    if not active:
        merged.originals.clear()
    base, applied = merged.base, [f"{lora.digest} {weight}" for lora, weight in active]

    def drawn_with() -> str:
        return hashlib.sha256("\n".join([base(), *applied]).encode()).hexdigest()

    # A picture's record includes the merged LoRAs.
    system.weights_hash = drawn_with if active else base


def merge(system: System, merged: Merged, active: Sequence[tuple[Lora, LoraWeight]], paths: Sequence[str]) -> None:
    """Sets the parameters ``paths`` to their originals with these LoRAs merged."""
    touching: dict[str, list[tuple[Delta, float]]] = {}
    for lora, weight in active:
        for delta in lora.deltas if weight.value else ():
            for path in delta.paths:
                touching.setdefault(path, []).append((delta, weight.value))
    with torch.no_grad():
        for path in paths:
            original = merged.originals[path]
            total = original
            if path in touching:
                total = original.float()
                for delta, weight in touching[path]:
                    total = total + weight * delta.value(path, merged.originals)
            system.get_parameter(path).copy_(total)
