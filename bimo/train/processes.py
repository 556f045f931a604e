"""Several processes that take a step together: whose the rows of its batch are, and what they bring together."""

# torch leaves parts of its interface untyped; what crosses it here is named where it is kept.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from bimo.core.types import Share


@dataclass(frozen=True)
class Processes:
    """This process, the ``rank``-th of ``count``."""

    rank: int = 0
    count: int = 1

    def share(self, lots: Sequence[int]) -> Share:
        """This process's rows of a batch of so many rows a lot: lots next to each other, as many as the others have or
        one fewer. Where there are fewer lots than processes all rows are every one's.
        """
        ends = [0]
        for rows in lots:
            ends.append(ends[-1] + rows)
        if len(lots) < self.count:
            return Share(0, ends[-1], ends[-1])
        first, last = (len(lots) * place // self.count for place in (self.rank, self.rank + 1))
        return Share(ends[first], ends[last], ends[-1])

    def wait(self) -> None:
        """Until all of them are here."""
        if self.count > 1:
            distributed.barrier()


ALONE = Processes()


class _Summed(torch.autograd.Function):
    """A tensor added up over all processes, and so its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        distributed.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous().clone()
        distributed.all_reduce(gradient)
        return gradient


def gathered(value: Tensor, share: Share) -> Tensor:
    """[B, ...] of a process's own rows -> [whole, ...] of all; to its own goes the gradient of every process's loss."""
    if share.last - share.first == share.whole:
        return value
    before, after = share.first, share.whole - share.last
    parts = [value.new_zeros(before, *value.shape[1:]), value, value.new_zeros(after, *value.shape[1:])]
    # Others have zeros where this process has its rows: their sum is exact.
    return _Summed.apply(torch.cat(parts))  # type: ignore[no-any-return]
