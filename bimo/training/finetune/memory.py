"""Chooses the memory settings of stages: the cheapest that fit.

In the order of their cost: gradient accumulation; on a card, frozen weights in the dtype of their products and text
encoders offloaded; gradient checkpointing; frozen weights quantised to 8 and to 4 bits; frozen weights offloaded to CPU
memory and fetched for each layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from bimo.core.errors import RequestError
from bimo.core.messages import Message, say
from bimo.core.recipe import Stage
from bimo.data.loader import Size
from bimo.diffusion.system import System
from bimo.engine.quantisation import available
from bimo.training.finetune.footprint import Footprint, footprint

#: Factors of a side that are tried for the size that an error suggests.
SMALLER = (0.75, 0.5, 0.375, 0.25)
#: Least share of the weights that is trained for ``fused_backward`` to be tried, which cannot clip gradients.
FUSED_SHARE = 0.1


@dataclass(frozen=True)
class Fitted:
    """The stages with the chosen settings, the bytes of the largest, whether all activations could be counted, and for
    each stage all settings that were considered, with their bytes.
    """

    stages: tuple[Stage, ...]
    total: int
    counted: bool
    ways: tuple[tuple[tuple[Stage, int], ...], ...] = ()


def fitted(
    system: System,
    stages: Sequence[Stage],
    caption: str,
    free: int | None,
    card: bool = False,
    besides: int | None = None,
) -> Fitted:
    """The stages with the first settings that fit into ``free`` bytes, of a ``card`` or of CPU memory. ``frozen`` and
    ``offload`` that a stage sets are unchanged. ``besides`` are the bytes of libraries that a limit that was asked for
    has to hold as well, None without a limit. Raises RequestError that suggests a smaller size that fits, or says how
    much the least settings take.
    """
    chosen_stages: list[Stage] = []
    totals: list[int] = []
    every: list[tuple[tuple[Stage, int], ...]] = []
    counted = True
    for stage in stages:
        size = _largest(stage, system)
        held = footprint(system, stage, size, caption)
        counted &= held.activations is not None
        ways = tuple((way, held.total(way)) for way in _ways(stage, held, card))
        chosen = next(((way, total) for way, total in ways if free is None or total <= free), None)
        if chosen is None:
            least = min(total for _, total in ways)
            raise _too_much(system, stage, least, caption, cast(int, free), card, besides)
        chosen_stages.append(chosen[0])
        totals.append(chosen[1])
        every.append(ways)
    return Fitted(tuple(chosen_stages), max(totals), counted, tuple(every))


def flags(stage: Stage) -> str:
    """The memory settings of a stage as in a recipe: "batch=1 accumulate=4 ..."."""
    settings = [f"batch={stage.batch}", f"accumulate={stage.accumulate}"]
    settings += ["gradient_checkpointing"] * stage.gradient_checkpointing + ["fused_backward"] * stage.fused_backward
    settings += [f"frozen={stage.frozen}"] * (stage.frozen != "fp32") + [f"offload={stage.offload}"] * (
        stage.offload != "none"
    )
    return " ".join(settings)


def memory_ways(fitting: Fitted) -> list[str]:
    """A line for each combination of settings: its memory, the settings, and whether it was chosen."""
    lines: list[str] = []
    for chosen, ways in zip(fitting.stages, fitting.ways, strict=True):
        for way, total in ways:
            mark = say("<- taken") if way == chosen else ""
            lines.append(f"  {total / 1e9:7.2f} GB  {flags(way)}  {mark}".rstrip())
    return lines


def _largest(stage: Stage, system: System) -> Size:
    """The size of a stage with the most pixels."""
    return max((stage.size or system.recipe.request.size, *stage.buckets), key=lambda size: (size[0] * size[1], size))


def _ways(stage: Stage, held: Footprint, card: bool) -> Iterator[Stage]:
    """A stage with every combination of settings, the cheapest first; the pictures of a step stay as many."""
    whole = stage.batch * stage.accumulate
    batches: list[int] = []
    batch = stage.batch
    while batch >= 1:
        batches += [batch] * (whole % batch == 0)
        batch //= 2
    for way in _keeping(stage, held, card):
        for count in batches:
            yield replace(way, batch=count, accumulate=whole // count)
    last = list(_keeping(stage, held, card))[-1]
    learns = held.learning > FUSED_SHARE * held.weights and stage.precision in ("fp32", "bf16")
    if learns and stage.optimiser == "adamw" and not stage.ema:
        yield replace(last, batch=whole, accumulate=1, fused_backward=True, max_grad_norm=0.0)


def _keeping(stage: Stage, held: Footprint, card: bool) -> Iterator[Stage]:
    """A stage with every setting of gradient checkpointing and frozen weights, the cheapest first."""
    twice = tuple(dict.fromkeys((stage.gradient_checkpointing, held.checkpoints)))
    narrow: Any = stage.precision if stage.precision in ("bf16", "fp16") else stage.frozen
    first: Any = (stage.frozen, stage.offload), (narrow if stage.frozen == "fp32" else stage.frozen, "parts")
    for checkpointing in twice:
        for frozen, offload in first if card and stage.offload == "none" else first[:1]:
            yield replace(stage, frozen=frozen, offload=offload, gradient_checkpointing=checkpointing)
    if not card or stage.offload == "groups":
        return
    kinds: tuple[Any, ...] = ("int8", "nf4") if stage.frozen == "fp32" else ()
    here = tuple(kind for kind in kinds if available(kind))
    for frozen in here:
        yield replace(stage, frozen=frozen, offload="parts", gradient_checkpointing=twice[-1])
    for frozen in (narrow if stage.frozen == "fp32" else stage.frozen, *here[1:]):
        yield replace(stage, frozen=frozen, offload="groups", gradient_checkpointing=twice[-1])


def _too_much(
    system: System, stage: Stage, least: int, caption: str, free: int, card: bool, besides: int | None
) -> RequestError:
    """The error for a stage that does not fit, with what does."""
    own = stage.size or system.recipe.request.size
    for share in SMALLER:
        smaller = cast(Size, tuple(max(64, int(side * share) // 64 * 64) for side in own))
        if smaller == own:
            continue
        shrunk = replace(stage, size=smaller, buckets=())
        need = footprint(system, shrunk, smaller, caption)
        if any(need.total(way) <= free for way in _ways(shrunk, need, card)):
            flags = f"--size {smaller[0]}x{smaller[1]}"
            return _refused(system, stage, least, free, Message("what fits: {flags}", flags=flags))
    near = Message("no size fits; free {least} GB, or take a smaller model", least=_giga(least))
    if besides is not None:
        # Rounded up, so that what is suggested fits.
        limit = math.ceil((least + besides) / 1e7) * 10
        near = Message("no size fits; take --memory {limit}MB or more, or a smaller model", limit=limit)
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
