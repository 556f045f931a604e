"""XGLM as a text tower, against a few lines: no positions, a learnt token at the end that sees the words alone."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import XGLMTokenizer

from bimo.core.errors import WeightsError
from bimo.models.text_encoders.xglm import XglmText, XglmTextEncoder
from tests.support.chinese_checkpoints import sentence_words


def tower(folder: Path) -> XglmTextEncoder:
    torch.manual_seed(0)
    made = XglmText(vocab=64, length=9).tiny().build().eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    sentence_words(folder, 24)
    made.load_tokenizer(folder)
    return made


@torch.no_grad()
def test_the_learnt_token_reads_the_words(tmp_path: Path) -> None:
    made = tower(tmp_path / "words")
    texts = ["一只苹果", "红"]
    found = made.encode(texts).pooled
    assert found is not None
    net = made.model
    for row, text in enumerate(texts):
        ids = torch.tensor(made.tokenizer.encode(text).ids)
        h = torch.cat([math.sqrt(16) * net.token_embedding.weight[ids], net.eos_embedding[0]])
        count = len(ids)
        unseen = torch.ones(count + 1, count + 1).triu(1).bool()
        unseen[count, count] = True
        for block in net.blocks:
            seen = block.norm1(h)
            q, k, v = (layer(seen) for layer in (block.attn.q, block.attn.k, block.attn.v))
            heads = []
            for at in (slice(0, 8), slice(8, 16)):
                scores = (q[:, at] @ k[:, at].T / math.sqrt(8)).masked_fill(unseen, float("-inf"))
                heads.append(scores.softmax(1) @ v[:, at])
            h = h + block.attn.o(torch.cat(heads, dim=1))
            h = h + block.ffn[2](functional.gelu(block.ffn[0](block.norm2(h))))
        assert torch.allclose(found[row], net.head(net.norm(h[-1])), atol=1e-4)


def test_a_long_text_is_cut_at_its_end(tmp_path: Path) -> None:
    made = tower(tmp_path / "words")
    text = "一只红色苹果小桥流水人家"
    budget = made.budget(text)
    ids, mask = made.ids([text, "红"])
    assert budget.used > budget.limit == 9
    assert budget.lost
    assert text.endswith(budget.lost)
    whole = made.tokenizer.encode(text).ids
    assert ids[0].tolist() == whole[:9]
    assert mask[0].all()
    assert mask[1].sum() == len(made.tokenizer.encode("红").ids)
    assert (ids[1][~mask[1]] == 1).all()
    made.save_tokenizer(tmp_path / "again")
    made.load_tokenizer(tmp_path / "again")
    assert made.tokenizer.encode(text).ids == whole
    with pytest.raises(WeightsError):
        made.build_tokenizer((), ())


def test_its_words_are_those_of_transformers(tmp_path: Path) -> None:
    # XGLM begins a text with </s> and ends it with nothing.
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), ("红", -1.0), ("▁a", -1.0)]
    theirs = XGLMTokenizer(vocab=pieces)
    (tmp_path / "tokenizer.json").write_text(theirs.backend_tokenizer.to_str(), "utf-8")
    made = XglmText(vocab=64).tiny().build()
    made.load_tokenizer(tmp_path)
    for text in ("红", "a 红", "红红 a"):
        assert made.tokenizer.encode(text).ids == theirs(text).input_ids
    assert made.tokenizer.encode("红").ids[0] == 2
