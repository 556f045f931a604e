"""Classifier-free guidance against its equations, and when it is on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from hypothesis import given
from hypothesis import strategies as st

from bimo.core.recipe import Branch, Guidance
from bimo.diffusion.guidance import combine, on, wanted


def answers(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1, 20))
def test_guidance_extrapolates_from_the_unconditional_through_the_conditional(seed: int, scale: float) -> None:
    answer = answers(seed)
    found = combine(Guidance(), scale, answer)
    assert found.shape == (1, 3, 4, 4)
    assert torch.allclose(found, (1 - scale) * answer[:1] + scale * answer[1:], atol=1e-4)


def test_scale_one_is_the_conditional_branch() -> None:
    answer = answers(0)
    assert torch.allclose(combine(Guidance(), 1.0, answer), answer[1:], atol=1e-6)
    assert combine(Guidance(rescale=0.7), 7.5, answer[1:]) is not None
    assert torch.equal(combine(Guidance(), 7.5, answer[1:]), answer[1:])


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1.5, 12), rescale=st.floats(0.05, 1))
def test_rescaling_is_that_of_diffusers(seed: int, scale: float, rescale: float) -> None:
    answer = answers(seed)
    guided = combine(Guidance(), scale, answer)
    expected = rescale_noise_cfg(guided, answer[1:], guidance_rescale=rescale)
    found = combine(Guidance(rescale=rescale), scale, answer)
    assert torch.allclose(found, expected, atol=1e-4)
    whole = combine(Guidance(rescale=1.0), scale, answer)
    assert float(whole.std()) == pytest.approx(float(answer[1:].std()), rel=1e-4)


@pytest.mark.parametrize(("scale", "guided"), [(7.5, True), (1.01, True), (1.0, False), (0.5, False), (0.0, False)])
def test_one_branch_where_guidance_is_off(scale: float, guided: bool) -> None:
    assert on(Guidance(), scale, 0, 10) is guided


def test_interval_is_a_share_of_the_steps() -> None:
    guide = Guidance(interval=(0.25, 0.75))
    assert [on(guide, 5.0, step, 9) for step in range(9)] == [False] * 2 + [True] * 5 + [False] * 2
    assert on(Guidance(), 5.0, 0, 1)


def test_a_prefix_adds_its_difference_and_a_drop_what_is_lost() -> None:
    null, given, other = (torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(i)) for i in range(3))
    answer = torch.cat([null, given, other])
    style = Branch(name="style", prefix="義")
    palette = Branch(name="palette", drop=("palette",))
    plain = null + 6 * (given - null)
    assert torch.allclose(combine(Guidance(), 6.0, answer, [(style, 4.0)]), plain + 4 * (other - given), atol=1e-5)
    assert torch.allclose(combine(Guidance(), 6.0, answer, [(palette, 2.0)]), plain + 2 * (given - other), atol=1e-5)


def test_only_the_first_channels_are_guided() -> None:
    answer = answers(0)
    found = combine(Guidance(channels=2), 5.0, answer)
    assert torch.equal(found[:, 2:], answer[1:, 2:])
    assert torch.allclose(found[:, :2], combine(Guidance(), 5.0, answer[:, :2]))


def test_the_norm_is_capped_at_that_of_the_conditional_branch() -> None:
    answer = answers(1)
    whole = combine(Guidance(norm="whole"), 9.0, answer)
    assert float(whole.norm()) == pytest.approx(float(answer[1:].norm()), rel=1e-5)
    place = combine(Guidance(norm="place"), 9.0, answer).norm(dim=1)
    assert bool((place <= answer[1:].norm(dim=1) * 1.0001).all())


def test_a_patch_norm_is_that_of_a_packed_token_both_ways() -> None:
    """As QwenImagePipeline does it: tokens of 4 C numbers, the guided one given the length of the conditional one."""
    answer = answers(2)
    tokens = answer.reshape(2, 3, 2, 2, 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, 4, 12)
    guided = tokens[:1] + 4 * (tokens[1:] - tokens[:1])
    expected = guided * (tokens[1:].norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))
    found = combine(Guidance(norm="patch", lengthen=True), 4.0, answer)
    assert torch.allclose(found.reshape(1, 3, 2, 2, 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 4, 12), expected)


def test_a_row_norm_is_over_the_last_axis() -> None:
    answer = answers(3)
    found = combine(Guidance(norm="row", lengthen=True), 4.0, answer)
    assert torch.allclose(found.norm(dim=-1), answer[1:].norm(dim=-1), atol=1e-5)


@pytest.mark.parametrize("norm", ["whole", "place", "patch", "row"])
def test_a_shorter_answer_is_lengthened_only_where_asked(norm: Any) -> None:
    answer = torch.cat([torch.full((1, 3, 4, 4), 1.9), torch.ones(1, 3, 4, 4)])  # guided: 1.9 - 1.8 = 0.1
    assert torch.allclose(combine(Guidance(norm=norm), 2.0, answer), torch.full((1, 3, 4, 4), 0.1), atol=1e-5)
    assert torch.allclose(combine(Guidance(norm=norm, lengthen=True), 2.0, answer), answer[1:], atol=1e-5)


def test_the_baseline_scale_may_be_zero() -> None:
    answer = answers(4)
    guide = Guidance(baseline_scale=0.0)
    assert torch.allclose(combine(guide, 3.0, answer), answer[1:] + 3 * (answer[1:] - answer[:1]), atol=1e-5)
    assert (on(guide, 0.0, 0, 4), on(guide, 0.5, 0, 4)) == (False, True)


def test_guidance_that_waits_for_a_negative_prompt() -> None:
    guide = Guidance(only_with_negative=True)
    assert [wanted(guide, 4.0, negative) for negative in ("", None, " ", "x")] == [4.0, 1.0, 4.0, 4.0]
    assert wanted(Guidance(), 4.0, "") == 4.0


def test_guidance_ends_after_a_share_of_the_steps() -> None:
    """As Lumina2Pipeline counts it: off where (i + 1) / steps is more."""
    guide = Guidance(until=0.25)
    assert [on(guide, 4.0, step, 8) for step in range(8)] == [(step + 1) / 8 <= 0.25 for step in range(8)]
