"""bimo's PixArtModel against diffusers' PixArtTransformer2DModel: same names, beginning, answers and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import PixArtTransformer2DModel

from bimo.core.errors import RecipeError
from bimo.models.pixart.network import PixArtModel

SIZES = {"channels": 5, "channels_out": 4, "size": 8, "patch": 2, "width": 24, "heads": 3, "layers": 2, "text": 10}


def published() -> Any:
    torch.manual_seed(5)
    return PixArtTransformer2DModel(
        in_channels=5, out_channels=4, sample_size=8, patch_size=2, num_attention_heads=3, attention_head_dim=8,
        num_layers=2, cross_attention_dim=24, caption_channels=10, use_additional_conditions=False,
        interpolation_scale=1,
    )  # fmt: skip


def own() -> PixArtModel:
    torch.manual_seed(5)
    return PixArtModel(**SIZES)


def alike() -> tuple[Any, PixArtModel]:
    """Both with the same weights, gone over in both directions."""
    theirs, ours = published(), own()
    torch.manual_seed(9)
    state = {name: value + 0.1 * torch.randn_like(value) for name, value in theirs.state_dict().items()}
    ours.load_state_dict(state, strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return theirs, ours


def inputs(height: int, width: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[0, 2:] = False
    mask[2, 6:] = False
    x, words = (torch.randn(shape, generator=generator) for shape in ((3, 5, height, width), (3, 7, 10)))
    return x, words, torch.tensor([999.0, 500.5, 1.0]), mask


def test_the_same_names_and_shapes() -> None:
    shapes = [{n: tuple(v.shape) for n, v in model.state_dict().items()} for model in (published(), own())]
    assert shapes[0] == shapes[1]


def test_the_same_seed_begins_with_the_same_weights() -> None:
    theirs, ours = published().state_dict(), own().state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in theirs.items())


@pytest.mark.parametrize("size", [(8, 8), (12, 8), (4, 16)])
@pytest.mark.parametrize("masked", [False, True])
def test_the_same_answers_and_gradients(masked: bool, size: tuple[int, int]) -> None:
    theirs, ours = alike()
    x, words, t, mask = inputs(*size)
    one = theirs(
        x, encoder_hidden_states=words, timestep=t, encoder_attention_mask=mask.float() if masked else None,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None}, return_dict=False,
    )[0]  # fmt: skip
    other = ours(x, words, t, mask if masked else None)
    torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)
    weight = torch.randn(one.shape, generator=torch.Generator().manual_seed(3))
    for answer in (one, other):
        (answer * weight).sum().backward()
    theirs_grads = {name: p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        expected = theirs_grads.pop(name)
        torch.testing.assert_close(parameter.grad, expected, atol=2e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
        assert expected.abs().sum() > 0
    assert not theirs_grads


def test_it_draws_in_half_precision() -> None:
    theirs, ours = (model.to(torch.bfloat16) for model in alike())
    x, words, t, mask = (v.to(torch.bfloat16) if v.is_floating_point() else v for v in inputs(8, 8))
    one = theirs(
        x, encoder_hidden_states=words, timestep=t, encoder_attention_mask=mask.to(x),
        added_cond_kwargs={"resolution": None, "aspect_ratio": None}, return_dict=False,
    )[0]  # fmt: skip
    torch.testing.assert_close(ours(x, words, t, mask), one, atol=0.1, rtol=0.1)


def test_places_are_real_wherever_they_are_first_asked_for() -> None:
    with torch.device("meta"):
        PixArtModel(**(SIZES | {"size": 6}))
    with torch.inference_mode():
        made = PixArtModel(**(SIZES | {"size": 6}))
    where = made.pos_embed.pos_embed
    assert where.device.type == "cpu"
    assert not where.is_inference()


def test_a_model_whose_weights_leave_takes_no_others_along() -> None:
    leaving, other = (PixArtModel(**(SIZES | {"size": 6})) for _ in range(2))
    before = other.pos_embed.pos_embed.clone()
    # As offloading does it: in place, for whoever holds the same tensor.
    leaving.pos_embed.pos_embed.data = torch.empty(0)
    assert torch.equal(other.pos_embed.pos_embed, before)
    assert torch.equal(PixArtModel(**(SIZES | {"size": 6})).pos_embed.pos_embed, before)


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(RecipeError, match="heads"):
        PixArtModel(**(SIZES | {"heads": 5}))
