"""Which way to train fits into memory: smaller batches that are added up, then blocks that are worked out twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from bimo.core.errors import RequestError
from bimo.core.messages import Message
from bimo.core.recipe import Stage
from bimo.data.loader import Size
from bimo.diffusion.system import System
from bimo.training.finetune.footprint import Footprint, footprint

#: By how much a side is divided to find one that fits.
SMALLER = (0.75, 0.5, 0.375, 0.25)


@dataclass(frozen=True)
class Fitted:
    """The stages as they fit, the bytes that the largest takes, and whether all of these could be counted."""

    stages: tuple[Stage, ...]
    total: int
    counted: bool


def fitted(system: System, stages: Sequence[Stage], caption: str, free: int | None) -> Fitted:
    """The stages in the first way that fits into ``free`` bytes. Raises RequestError that names the nearest that does:
    a smaller size, or else how much the least takes.
    """
    made: list[Stage] = []
    totals: list[int] = []
    counted = True
    for stage in stages:
        size = _largest(stage, system)
        held = footprint(system, stage, size, caption)
        counted &= held.activations is not None
        ways = list(_ways(stage, held))
        chosen = next((way for way in ways if free is None or _total(way, held) <= free), None)
        if chosen is None:
            raise _too_much(system, stage, held, caption, cast(int, free))
        made.append(chosen)
        totals.append(_total(chosen, held))
    return Fitted(tuple(made), max(totals), counted)


def _largest(stage: Stage, system: System) -> Size:
    """The size of a stage that has most pixels."""
    return max((stage.size or system.recipe.request.size, *stage.buckets), key=lambda size: (size[0] * size[1], size))


def _ways(stage: Stage, held: Footprint) -> Iterator[Stage]:
    """A stage as it is, in smaller batches, with blocks worked out twice: a step always has as many pictures."""
    whole = stage.batch * stage.accumulate
    batches: list[int] = []
    batch = stage.batch
    while batch >= 1:
        batches.append(batch)
        batch //= 2
    for checkpointing in dict.fromkeys((stage.gradient_checkpointing, held.checkpoints)):
        for count in batches:
            if whole % count == 0:
                yield replace(stage, batch=count, accumulate=whole // count, gradient_checkpointing=checkpointing)


def _total(stage: Stage, held: Footprint) -> int:
    return held.total(stage.batch, stage.precision, stage.gradient_checkpointing)


def _too_much(system: System, stage: Stage, held: Footprint, caption: str, free: int) -> RequestError:
    """The sentence for a stage that does not fit, with what does."""
    least = min(_total(way, held) for way in _ways(stage, held))
    own = stage.size or system.recipe.request.size
    for share in SMALLER:
        smaller = cast(Size, tuple(max(64, int(side * share) // 64 * 64) for side in own))
        if smaller == own:
            continue
        shrunk = replace(stage, size=smaller, buckets=())
        need = footprint(system, shrunk, smaller, caption)
        if min(_total(way, need) for way in _ways(shrunk, need)) <= free:
            flags = f"--size {smaller[0]}x{smaller[1]}"
            return _refused(system, stage, least, free, Message("what fits: {flags}", flags=flags))
    near = Message("no size fits; free {least} GB, or take a smaller model", least=_giga(least))
    return _refused(system, stage, least, free, near)


def _refused(system: System, stage: Stage, least: int, free: int, near: Any) -> RequestError:
    return RequestError(
        "training {name!r} of {model} takes {least} GB of memory at the least, and {free} GB are there; {near}",
        name=stage.name,
        model=system.recipe.name,
        least=_giga(least),
        free=_giga(free),
        near=near,
    )


def _giga(count: int) -> str:
    return f"{count / 1e9:.2f}"
