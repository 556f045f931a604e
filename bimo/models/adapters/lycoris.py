"""LoHa, LoKr and OFT for training, as defined in LyCORIS (arXiv:2309.14859): the parameters are a layer's tensors as in
a file, and the change of its weight is computed as for such a file.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bimo.core.held_weights import weight_of
from bimo.models.adapters.lora_kinds import Change, change, rank_of

Algo = Literal["loha", "lokr", "oft"]
KINDS = {"loha": "LoHa", "lokr": "LoKr", "oft": "OFT"}


class Lycoris(nn.Module):
    """The change of a linear or convolutional layer's weight by an algorithm, zero at first.

    For LoHa (arXiv:2108.06098) and LoKr ``rank`` is that of their matrices and ``alpha`` / ``rank`` their scale; for
    OFT (arXiv:2306.07280) ``rank`` is the largest block size, and ``alpha`` the constraint on the rotation.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, algo: Algo, rank: int, alpha: float) -> None:
        super().__init__()
        self.algo, self.alpha = algo, alpha
        tensors = {"loha": _loha, "lokr": _lokr, "oft": _oft}[algo](tuple(layer.weight.shape), rank)
        for name, value in tensors.items():
            self.register_parameter(name, nn.Parameter(value))
        self.to(layer.weight.device)

    def forward(self, x: Tensor, layer: nn.Linear | nn.Conv2d, output: Tensor) -> Tensor:
        """The layer's output for x with the change applied."""
        weight = self.change()(weight_of(layer).detach().float()).to(x)
        if isinstance(layer, nn.Linear):
            return output + functional.linear(x, weight)
        padding = cast("tuple[int, ...]", layer.padding)
        return output + functional.conv2d(x, weight, None, layer.stride, padding, layer.dilation, layer.groups)

    def roles(self) -> dict[str, Tensor]:
        """Its tensors by their names in files."""
        return dict(self.named_parameters())

    def change(self) -> Change:
        """The change of the layer's weight."""
        roles, kind = self.roles(), KINDS[self.algo]
        if self.algo == "oft":
            return change(kind, roles | {"alpha": torch.tensor(self.alpha)}, 1.0, {})
        rank = rank_of(kind, roles)
        return change(kind, roles, self.alpha / rank if rank else 1.0, {})


def _loha(shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
    out, across = shape[0], math.prod(shape[1:])
    return {
        "hada_w1_a": _random(out, rank),
        "hada_w1_b": _random(rank, across),
        "hada_w2_a": torch.zeros(out, rank),
        "hada_w2_b": _random(rank, across),
    }


def _lokr(shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
    """The smaller matrix whole; the larger one as a low-rank product if that has fewer parameters."""
    (few, many), (few_in, many_in) = _factors(shape[0]), _factors(shape[1])
    across = many_in * math.prod(shape[2:])
    if rank >= min(many, across) / 2:
        return {"lokr_w1": _random(few, few_in), "lokr_w2": torch.zeros(many, across)}
    return {
        "lokr_w1": _random(few, few_in),
        "lokr_w2_a": torch.zeros(many, rank),
        "lokr_w2_b": _random(rank, across),
    }


def _oft(shape: tuple[int, ...], rank: int) -> dict[str, Tensor]:
    size = next(size for size in range(min(rank, shape[0]), 0, -1) if shape[0] % size == 0)
    return {"oft_blocks": torch.zeros(shape[0] // size, size, size)}


def _factors(count: int) -> tuple[int, int]:
    """The two factors of a number that are closest to each other, the smaller first."""
    few = next(few for few in range(math.isqrt(count), 0, -1) if count % few == 0)
    return few, count // few


def _random(*shape: int) -> Tensor:
    value = torch.empty(*shape)
    nn.init.kaiming_uniform_(value, a=math.sqrt(5))
    return value
