"""Checks for NaN and infinity: in gradients at every step, and in everything before it is saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from bimo.core.errors import TrainingError
from bimo.core.messages import Message
from bimo.core.recipe import Stage

#: The default learning rate, also that of `bimo.core.recipe.Stage`.
USUAL_RATE = 1e-4
FEW = 4


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors with a NaN or an infinity, with one synchronisation of the device for all of them."""
    floating = {name: value for name, value in tensors.items() if value.is_floating_point() and value.numel()}
    return picked(floating, [value.isfinite().all() for value in floating.values()])


def picked(names: Mapping[str, object] | Sequence[str], finite: Sequence[Tensor]) -> list[str]:
    """The names whose flag, a boolean scalar tensor, is false."""
    if not finite:
        return []
    flags = cast("list[bool]", torch.stack(list(finite)).tolist())  # pyright: ignore[reportUnknownMemberType]
    return [name for name, fine in zip(names, flags, strict=True) if not fine]


def broken(stage: Stage, number: int, step: int, what: Message, out: Path, state: Path) -> TrainingError:
    """The error of a run with non-finite numbers: where, ``what``, and how to continue. ``state`` is its state file."""
    rate = f"--set stages.{number}.lr={min(stage.lr / 10, USUAL_RATE):g}"
    if state.is_file():
        advice = Message(
            "{file} is still the good one of before; go on from it at a lower rate: the same command with {rate} "
            "--from-here",
            file=state.name,
            rate=rate,
        )
    else:
        advice = Message(
            "nothing was saved before, so {out} begins anew; take a lower rate: the same command with {rate}",
            out=out,
            rate=rate,
        )
    return TrainingError(
        "stage {name!r}, step {step}: {what}; no bad weights were saved, and {near}",
        name=stage.name,
        step=step,
        what=what,
        near=advice,
    )


def some(names: Sequence[str], count: int) -> str:
    """The number and first few of some names, of ``count`` tensors in all."""
    return f"{len(names)}/{count} ({', '.join(names[:FEW])}{' ...' if len(names) > FEW else ''})"
