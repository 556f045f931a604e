"""Attention in bfloat16 is the one that torch works out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bimo.models.attention import attended

_SEEN = torch.tensor([[True, True, False, True, False], [True, False, False, False, False]])[:, None, None]


@pytest.mark.parametrize("mask", [None, _SEEN, (~_SEEN).float() * -10000])
def test_the_products_are_what_torch_works_out(mask: Tensor | None) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 3, 7, 8), torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8)
    wanted = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    assert torch.equal(attended(query, key, value, mask), wanted)
    narrow = attended(query.bfloat16(), key.bfloat16(), value.bfloat16(), mask)
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), wanted, atol=0.03, rtol=0.03)


def test_dropout_leaves_weights_out_in_bfloat16_too() -> None:
    torch.manual_seed(0)
    one = torch.ones(1, 1, 4, 8, dtype=torch.bfloat16)
    found = attended(one, one, one, dropout=0.5)
    assert found.float().std() > 0.1
