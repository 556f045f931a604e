"""Scaled dot-product attention of short sequences, by the fastest implementation for the device and dtype.

That is torch's own except for bfloat16 on a CPU: there it takes several times as long as two matrix products and a
softmax, and most of a training step of a small transformer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """[R, H, N, D], [R, H, L, D] and [R, H, L, E] -> [R, H, N, E]. ``mask``, broadcastable to [R, H, N, L], is bool
    with False for masked positions, or is added to the scores; ``dropout`` is a probability.
    """
    if query.dtype != torch.bfloat16 or query.device.type != "cpu" or dropout:
        return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask.to(scores)
    return scores.softmax(-1).to(value.dtype) @ value
