"""One model on several cards: its blocks are distributed by accelerate's device map, everything else is on the first
card.

Hooks move the inputs of a block to its card and its outputs back (accelerate's AlignDevicesHook). So the code around
blocks, such as ControlNets and step caches, only uses the first card; the cost is two copies of a block's activations
for each block on another card.
"""

# accelerate has no types.
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import nn

from bimo.core.errors import RequestError
from bimo.core.installing import installing
from bimo.engine import devices
from bimo.engine.compile import repeated_blocks

#: The fraction of a card's free memory that is reserved for activations.
SPARE = 0.1


@dataclass(frozen=True)
class Spread:
    """The placement of blocks: pairs of a block and its card, in the order of the forward pass."""

    places: tuple[tuple[nn.Module, torch.device], ...]

    def homes(self) -> dict[int, torch.device]:
        """id of each parameter and buffer of the blocks -> its card."""
        return {id(t): card for block, card in self.places for t in (*block.parameters(), *block.buffers())}

    def counts(self) -> dict[torch.device, int]:
        """Card -> number of its blocks."""
        cards = [card for _, card in self.places]
        return {card: cards.count(card) for card in dict.fromkeys(cards)}

    def connect(self, first: torch.device) -> None:
        """Hooks blocks that are not on the first card to move their inputs to their own card and their outputs back."""
        from accelerate.hooks import AlignDevicesHook, add_hook_to_module

        for block, card in self.places:
            if card != first:
                hook = AlignDevicesHook(execution_device=cast(Any, card), io_same_device=True)
                add_hook_to_module(block, hook)


def check() -> None:
    """Raises RequestError if accelerate is not installed."""
    if find_spec("accelerate") is None:
        raise RequestError(
            "a model is spread over several cards by accelerate, which is not installed; run {command}",
            command=installing("train"),
        )


def free_bytes(cards: Sequence[torch.device]) -> list[int]:
    """Free memory of each card."""
    free = {card.device: card.free for card in devices.cards()}
    return [free[card] for card in cards]


def plan(
    workers: Mapping[str, nn.Module], cards: Sequence[torch.device], free: Sequence[int], dtype: torch.dtype, taken: int
) -> Spread:
    """Distributes the blocks of text encoders and denoisers, whose weights will have ``dtype``: each card gets as many
    as fit into its ``free`` bytes, the first next to ``taken`` bytes and everything outside of blocks. The modules may
    be on the meta device. Raises RequestError if they do not fit.
    """
    from accelerate import infer_auto_device_map

    blocks = [block for worker in workers.values() for block in repeated_blocks(worker)]
    row = nn.ModuleList(blocks)
    own = {id(p) for p in row.parameters()}
    between = [p for worker in workers.values() for p in worker.parameters() if id(p) not in own]
    sizes = [int(count * (1 - SPARE)) for count in free]
    on_first = taken + sum(_bytes(p, dtype) for p in between)
    memory = dict(enumerate(sizes))
    memory[0] = max(0, sizes[0] - on_first)
    floating = [name for name, p in row.named_parameters() if p.is_floating_point()]
    infer = cast(Any, infer_auto_device_map)
    device_map: dict[str, Any] = infer(
        row,
        max_memory=memory,
        no_split_module_classes=sorted({type(block).__name__ for block in blocks}),
        special_dtypes=dict.fromkeys(floating, dtype),
    )
    places = [device_map.get(str(number), device_map.get("")) for number in range(len(blocks))]
    if on_first > sizes[0] or not all(isinstance(place, int) for place in places):
        needed = on_first + sum(_bytes(p, dtype) for p in row.parameters())
        raise RequestError(
            "the weights take {needed:.1f} GB and {cards} have {free} GB free; name more cards, or round them with "
            "--quantise int8",
            needed=needed / 1e9,
            cards="+".join(map(str, cards)),
            free=" + ".join(f"{count / 1e9:.1f}" for count in free),
        )
    return Spread(tuple((block, cards[place]) for block, place in zip(blocks, cast("list[int]", places), strict=True)))


def _bytes(parameter: nn.Parameter, dtype: torch.dtype) -> int:
    return parameter.numel() * dtype.itemsize if parameter.is_floating_point() else parameter.nbytes
