"""Numbers that are finite: gradients as they come, and whatever is to be saved before it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from bimo.core.errors import TrainingError
from bimo.core.messages import Both
from bimo.core.recipe import Stage

#: A rate that training begins with where nothing is known: `bimo.core.recipe.Stage` has it too.
USUAL_RATE = 1e-4
FEW = 4


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of those that hold a NaN or an infinity; a device is waited for once, whatever their number."""
    floating = {name: value for name, value in tensors.items() if value.is_floating_point() and value.numel()}
    return picked(floating, [value.isfinite().all() for value in floating.values()])


def picked(names: Mapping[str, object] | Sequence[str], finite: Sequence[Tensor]) -> list[str]:
    """The names whose flag, a tensor of one bool, is false."""
    if not finite:
        return []
    flags = cast("list[bool]", torch.stack(list(finite)).tolist())  # pyright: ignore[reportUnknownMemberType]
    return [name for name, fine in zip(names, flags, strict=True) if not fine]


def broken(stage: Stage, number: int, step: int, what: tuple[str, str], out: Path, state: Path) -> TrainingError:
    """A run whose numbers are none any more: where, ``what``, and how to go on. ``state`` is what is saved of it."""
    rate = f"--set stages.{number}.lr={min(stage.lr / 10, USUAL_RATE):g}"
    if state.is_file():
        zh = f"{state.name} 还是之前好的那个；请降低学习率接着练：同一条命令加 {rate} --from-here"
        en = f"{state.name} is still the good one of before; go on from it at a lower rate: the same command with "
        en += f"{rate} --from-here"
    else:
        zh = f"还没有保存过什么，{out} 可以从头再来；请降低学习率：同一条命令加 {rate}"
        en = f"nothing was saved before, so {out} begins anew; take a lower rate: the same command with {rate}"
    return TrainingError(
        "stage {name!r}, step {step}: {what}; no bad weights were saved, and {near}",
        name=stage.name,
        step=step,
        what=Both(what[0], what[1]),
        near=Both(zh, en),
    )


def some(names: Sequence[str], count: int) -> str:
    """The first of some names, of ``count`` tensors in all."""
    return f"{len(names)}/{count} ({', '.join(names[:FEW])}{' ...' if len(names) > FEW else ''})"
