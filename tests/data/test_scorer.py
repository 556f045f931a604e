"""The best of several drawings, by a scorer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from PIL import Image

from bimo.core.types import Picture, Request
from bimo.data.scorer import ranked


def test_the_best_comes_first() -> None:
    request = Request(text="一只红苹果", seed=1, count=4)
    pictures = [Picture(Image.new("RGB", (4, 4)), request, "r", "", index=i) for i in range(4)]
    asked: list[list[str]] = []

    def similarity(texts: Sequence[str], images: object) -> torch.Tensor:
        asked.append(list(texts))
        return torch.tensor([[0.1, 0.4, 0.4, -0.2]])

    found = ranked(pictures, similarity)
    assert [picture.index for picture, _ in found] == [1, 2, 0, 3]
    assert [score for _, score in found] == pytest.approx([0.4, 0.4, 0.1, -0.2])
    assert asked == [["一只红苹果"]]
    assert ranked([], similarity) == []
