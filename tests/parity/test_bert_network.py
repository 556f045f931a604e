"""bimo's BertModel against transformers': same names, same beginning, same answers, same gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig
from transformers import BertModel as Published

from bimo.core.errors import RecipeError
from bimo.models.text_encoders.bert_network import BertModel

SIZES = {"width": 24, "layers": 2, "heads": 3, "feed": 40, "vocab": 50, "positions": 12, "types": 2}
NAMES = {
    "width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
    "feed": "intermediate_size", "vocab": "vocab_size", "positions": "max_position_embeddings",
    "types": "type_vocab_size",
}  # fmt: skip


def published(pooler: bool = True, dropout: float = 0.1) -> Any:
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    sizes = {NAMES[name]: value for name, value in SIZES.items()}
    torch.manual_seed(5)
    return Published(BertConfig(**sizes, **rates), add_pooling_layer=pooler)


def own(pooler: bool = True, dropout: float = 0.1) -> BertModel:
    torch.manual_seed(5)
    return BertModel(**SIZES, dropout=dropout, pooler=pooler)


def stirred(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights far from their beginning, biases and norms too, so that each one matters to the answer."""
    torch.manual_seed(9)
    return {name: value + 0.3 * torch.randn_like(value) for name, value in model.state_dict().items()}


def words() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, SIZES["vocab"], (3, 10), generator=generator)
    mask = torch.ones(3, 10, dtype=torch.long)
    mask[1, 4:] = 0
    mask[2, 9:] = 0
    return ids, mask, torch.randint(0, 2, (3, 10), generator=generator)


@pytest.mark.parametrize("pooler", [True, False])
def test_the_same_names_and_shapes(pooler: bool) -> None:
    shapes = [{n: tuple(v.shape) for n, v in model.state_dict().items()} for model in (published(pooler), own(pooler))]
    assert shapes[0] == shapes[1]
    assert list(shapes[0]) == list(shapes[1])


def test_the_same_seed_begins_with_the_same_weights() -> None:
    theirs, ours = published().state_dict(), own().state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in theirs.items())


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_same_answers_and_gradients(masked: bool, typed: bool) -> None:
    theirs, ours = published(dropout=0.0).train(), own(dropout=0.0).train()
    state = stirred(theirs)
    theirs.load_state_dict(state, strict=True)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ids, mask, types = words()
    settings = {"attention_mask": mask if masked else None, "token_type_ids": types if typed else None}
    answers = [model(ids, **settings) for model in (theirs, ours)]
    for name in ("last_hidden_state", "pooler_output"):
        one, other = (getattr(answer, name) for answer in answers)
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)
    for answer in answers:
        weight = torch.randn(answer.last_hidden_state.shape, generator=torch.Generator().manual_seed(3))
        ((answer.last_hidden_state * weight).sum() + answer.pooler_output.sum()).backward()
    for (name, one), (_, other) in zip(theirs.named_parameters(), ours.named_parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
        assert one.grad.abs().sum() > 0 or (not typed and "token_type" in name)


def test_dropout_is_for_training_alone() -> None:
    model = own(dropout=0.5)
    ids, mask, _ = words()
    quiet, loud = [], []
    for rows, training in ((quiet, False), (loud, True)):
        model.train(training)
        rows += [model(ids, mask).last_hidden_state for _ in range(2)]
    assert torch.equal(*quiet)
    assert not torch.equal(*loud)


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(RecipeError, match="heads"):
        BertModel(**(SIZES | {"heads": 5}))
