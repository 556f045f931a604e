"""The rows of each batch of a stage."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from bimo.data.loader import Size


class BatchSampler:
    """The rows of every batch of a stage: epochs in shuffled order; groups are never split, and all pictures of a batch
    have one size.

    With a single size the incomplete last batch of an epoch is dropped; with several sizes it is filled with repeated
    rows of its size, so that every picture is seen.
    """

    def __init__(self, groups: Sequence[tuple[int, ...]], sizes: Sequence[Size], batch: int, seed: int) -> None:
        self.groups, self.seed = groups, seed
        self.count = max(1, batch // len(groups[0]))
        by_size: dict[Size, array[int]] = {}
        for number, group in enumerate(groups):
            by_size.setdefault(sizes[group[0]], array("q")).append(number)
        self.sizes = sorted(by_size)
        #: The group indices of each size.
        self.by_size = [np.asarray(by_size[size], np.int64) for size in self.sizes]
        single_size = len(self.by_size) == 1
        self.per_epoch = max(1, len(groups) // self.count if single_size else sum(map(self._batches, self.by_size)))
        self._epoch_cached: tuple[int, npt.NDArray[np.int64]] = (-1, self.by_size[0])

    def groups_of(self, number: int) -> list[tuple[int, ...]]:
        """The groups of a batch by its number, counted through all epochs."""
        epoch, at = divmod(number, self.per_epoch)
        if self._epoch_cached[0] != epoch:
            self._epoch_cached = (epoch, self._epoch(epoch))
        return [self.groups[place] for place in self._epoch_cached[1][at].tolist()]

    def _epoch(self, epoch: int) -> npt.NDArray[np.int64]:
        """[batches, groups a batch]: the group indices of every batch of an epoch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        orders = [same[torch.randperm(len(same), generator=generator).numpy()] for same in self.by_size]
        if len(orders) == 1:
            return orders[0][: self.per_epoch * self.count].reshape(self.per_epoch, -1)
        # np.resize repeats rows of a size to fill its last batch.
        full = [np.resize(order, (self._batches(order), self.count)) for order in orders]
        batches = np.concatenate(full)
        return batches[torch.randperm(len(batches), generator=generator).numpy()]

    def _batches(self, groups: npt.NDArray[np.int64]) -> int:
        return -(-len(groups) // self.count)
