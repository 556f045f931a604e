"""What learns is what the globs name, and nothing else."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bimo.core.errors import RecipeError
from bimo.training.optimizers import chosen, freeze

NAMES = [
    "text.0.model.embeddings.weight",
    "text.0.head.weight",
    "image.space.decoder.0.weight",
    "image.denoiser.blocks.0.attn2.to_k.weight",
    "image.denoiser.blocks.0.attn2.to_v.weight",
    "image.denoiser.blocks.0.attn1.to_k.weight",
]
GLOBS = ["text.*", "image.*", "*.attn2.to_[kv].weight", "image.denoiser.*", "*.weight"]


@given(st.lists(st.sampled_from(GLOBS), min_size=1))
def test_chosen_is_the_union_of_the_globs_in_order(globs: list[str]) -> None:
    expected = [name for name in NAMES if any(fnmatch.fnmatch(name, glob) for glob in globs)]
    assert chosen(NAMES, globs) == expected


def test_keys_and_values_alone() -> None:
    assert chosen(NAMES, ("*.attn2.to_[kv].*",)) == NAMES[3:5]


def test_a_glob_that_matches_nothing_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"image\.denoiser"):
        chosen(NAMES, ("image.denoisers.*",))


def test_freeze_sets_every_parameter() -> None:
    parameters = {name: nn.Parameter(nn.Linear(1, 1).weight.detach()) for name in NAMES}
    learns = freeze(parameters, ("text.*",))
    assert learns == NAMES[:2]
    assert [p.requires_grad for p in parameters.values()] == [True, True, False, False, False, False]
