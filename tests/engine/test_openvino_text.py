"""Text encoders by OpenVINO: one conversion for every length and for padding on either side, within their distance."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bimo.models.text_encoders.bert import Bert
from bimo.models.text_encoders.chatglm import ChatGlm
from bimo.models.text_encoders.clip import ClipText
from bimo.models.text_encoders.language_model import LanguageModel
from bimo.models.text_encoders.t5 import T5
from bimo.models.text_encoders.xglm import XglmText
from bimo.models.text_encoders.xlm import XlmText

pytest.importorskip("openvino")
pytestmark = pytest.mark.slow

WORDS, LENGTHS = 100, (12, 20)
PARTS: dict[str, Any] = {
    "bert": Bert(vocab=WORDS),
    "clip": ClipText(vocab=WORDS, penultimate=True),
    "t5": T5(vocab=WORDS),
    "xlm": XlmText(vocab=WORDS),
    "xglm": XglmText(vocab=WORDS),
    "chatglm": ChatGlm(vocab=WORDS),
    "qwen3": LanguageModel(family="qwen3", vocab=WORDS),
}
#: These are padded on the left, so that the first rows of a shorter text see nothing.
PADDED_LEFT = ("chatglm", "qwen3")


def answers(encoder: nn.Module, length: int, *, left: bool) -> Tensor:
    """The tokens of two texts, the second half as long."""
    generator = torch.Generator().manual_seed(length)
    ids, mask = torch.randint(5, WORDS, (2, length), generator=generator), torch.ones(2, length, dtype=torch.bool)
    mask[1, length // 2 :] = False
    with torch.no_grad():
        tokens = encoder(ids, mask.flip(1) if left else mask).tokens
    return tokens[:, -(length // 2) :] if left else tokens[:, : length // 2]


@pytest.mark.parametrize("name", PARTS)
def test_one_conversion_serves_every_length(name: str) -> None:
    from bimo.engine.openvino import ConvertedBlock, text_blocks
    from bimo.engine.openvino_cache import ConversionCache

    torch.manual_seed(0)
    encoder = PARTS[name].tiny().build().eval()
    left = name in PADDED_LEFT
    expected = [answers(encoder, length, left=left) for length in LENGTHS]

    def failed(error: str, dtype: torch.dtype | None) -> None:
        pytest.fail(error)

    system: Any = SimpleNamespace(text=nn.ModuleList([encoder]))
    rows = text_blocks(system)["text.0"]
    converted = [ConvertedBlock(path, block, "f32", ConversionCache(None), failed) for path, block in rows]
    assert len(converted) == 2
    for length, tokens in zip(LENGTHS, expected, strict=True):
        found = answers(encoder, length, left=left)
        assert found.isfinite().all()
        assert (found - tokens).norm() < 1e-5 * tokens.norm()
    assert [len(block._compiled) for block in converted] == [1, 1]
    for block in converted:
        block.restore()
    assert torch.equal(answers(encoder, LENGTHS[0], left=left), expected[0])
