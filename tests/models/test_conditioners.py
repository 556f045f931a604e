"""Hints of sizes, buckets and masks, and towers joined side by side."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bimo.core.errors import RecipeError, RequestError
from bimo.core.request import Request
from bimo.core.tensors import Batch, Conditioning, TextEncoding
from bimo.diffusion.space import Space
from bimo.models.pangu.conditioners import Bucket
from bimo.models.stable_diffusion.conditioners import Masked, Sizes, random_masks
from bimo.models.stable_diffusion.unet import Unet
from bimo.models.text_encoders.fusion import Channels

BUCKETS = ((256, 1024), (512, 512), (1024, 256))


def batch(h: int, w: int, **scalars: Tensor) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.randn(3, 4, h, w, generator=generator), (), scalars, torch.zeros(3, dtype=torch.bool), generator)


def drawing(**fields: Any) -> Any:
    return SimpleNamespace(request=Request(text="红", **fields), pictures={}, noise=torch.Generator().manual_seed(0))


def test_sizes_are_those_of_a_whole_picture_unless_said() -> None:
    conditioner, system = Sizes(), Any
    assert conditioner.from_batch(system, batch(16, 8)).scalars["size_ids"].tolist() == [[128, 64, 0, 0, 128, 64]] * 3
    told = torch.arange(18.0).reshape(3, 6)
    assert conditioner.from_batch(system, batch(16, 8, size_ids=told)).scalars["size_ids"] is told
    drawn = conditioner.from_request(system, drawing(size=(64, 128)), (4, 16, 8))
    assert drawn.scalars["size_ids"].tolist() == [[128, 64, 0, 0, 128, 64]]
    assert conditioner.unconditional(drawn) is drawn
    given = conditioner.from_request(
        system, drawing(size=(64, 128), conditions={"size_ids": [9, 8, 7, 6, 5, 4]}), (4, 16, 8)
    )
    assert given.scalars["size_ids"].tolist() == [[9, 8, 7, 6, 5, 4]]


@pytest.mark.parametrize("bad", [[1, 2], [1, 2, 3, 4, 5, float("nan")]])
def test_sizes_that_are_not_six_numbers_are_refused(bad: list[float]) -> None:
    with pytest.raises(RequestError):
        Sizes().from_request(Any, drawing(size=(64, 64), conditions={"size_ids": bad}), (4, 8, 8))


def test_a_bucket_is_a_place_in_the_list() -> None:
    conditioner = Bucket(sizes=BUCKETS)
    assert conditioner.from_request(Any, drawing(size=(1024, 256)), (4, 32, 128)).scalars["bucket"].tolist() == [[2]]
    assert conditioner.from_batch(Any, batch(64, 64)).scalars["bucket"].tolist() == [[1]] * 3
    assert conditioner.from_batch(Any, batch(16, 5)).scalars["bucket"].tolist() == [[0]] * 3  # the nearest in shape
    told = torch.tensor([[2.0], [0.0], [1.0]])
    assert conditioner.from_batch(Any, batch(64, 64, bucket=told)).scalars["bucket"] is told
    with pytest.raises(RequestError, match="1024x256"):
        conditioner.from_request(Any, drawing(size=(512, 256)), (4, 32, 64))


def test_random_masks_differ_and_are_as_often_whole_as_said() -> None:
    masks = random_masks(200, (16, 24), 0.25, torch.Generator().manual_seed(0))
    assert masks.shape == (200, 1, 16, 24)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    shares = masks.mean(dim=(1, 2, 3))
    assert 0.15 < (shares == 1).float().mean() < 0.35
    assert len({mask.numpy().tobytes() for mask in masks[shares < 1]}) > 120
    assert 0.1 < shares[shares < 1].mean() < 0.7


class Doubled(Space):
    """A space whose x is its pixels at half the side."""

    channels, factor = 3, 2

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return 3, size[1] // 2, size[0] // 2

    def decode(self, x: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(x[:, :3], scale_factor=2.0)

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return pixels[:, :, ::2, ::2]


def test_masked_shows_what_the_mask_leaves() -> None:
    system: Any = SimpleNamespace(space=lambda name: Doubled())
    given = batch(8, 8)
    learned = Masked(whole=0.0).from_batch(system, given).spatial
    assert learned is not None
    mask, shown = learned[:, :1], learned[:, 1:]
    assert torch.equal(shown, given.x[:, :3] * (mask < 0.5))
    assert 0 < mask.mean() < 1
    asked = drawing(size=(16, 16))
    asked.pictures = {"image": torch.ones(1, 3, 16, 16), "mask": torch.zeros(1, 1, 16, 16)}
    asked.pictures["mask"][..., 8:] = 1
    drawn = Masked().from_request(system, asked, (3, 8, 8)).spatial
    assert drawn is not None
    assert drawn[0, :, 0].tolist() == [[0.0] * 4 + [1.0] * 4] + [[1.0] * 4 + [0.0] * 4] * 3
    empty = Masked().from_request(system, drawing(size=(16, 16)), (3, 8, 8)).spatial
    assert empty is not None
    assert empty[:, 0].min() == 1
    assert empty[:, 1:].abs().max() == 0


def test_text_encoders_are_joined_on_the_width() -> None:
    one = TextEncoding(torch.randn(2, 5, 3), None, torch.randn(2, 3))
    other = TextEncoding(torch.randn(2, 5, 4), None, torch.randn(2, 4))
    joined = Channels().build().fuse((one, other))
    assert torch.equal(joined.streams[0].tokens[..., :3], one.tokens)
    assert torch.equal(joined.streams[0].tokens[..., 3:], other.tokens)
    assert joined.vector is other.pooled
    assert joined.streams[0].mask is None
    masks = [torch.tensor([[True, False, False]]), torch.tensor([[True, True, False]])]
    both = Channels().build().fuse(tuple(TextEncoding(torch.zeros(1, 3, 2), mask) for mask in masks))
    assert both.streams[0].mask is not None
    assert both.streams[0].mask.tolist() == [[True, True, False]]
    with pytest.raises(RecipeError, match=r"5, 6"):
        Channels().build().fuse((one, TextEncoding(torch.zeros(2, 6, 4))))


def test_a_unet_reports_missing_conditions() -> None:
    unet = Unet(vector=16, ids=("size_ids", 6)).tiny().build()
    x, t, words = torch.randn(1, 4, 16, 16), torch.zeros(1), TextEncoding(torch.zeros(1, 2, 16))
    with pytest.raises(RecipeError, match="size_ids"):
        unet(x, t, Conditioning((words,), torch.zeros(1, 16)))
    with pytest.raises(RecipeError, match="expected 16"):
        unet(x, t, Conditioning((words,), torch.zeros(1, 9), None, {"size_ids": torch.zeros(1, 6)}))
    with pytest.raises(RecipeError, match="join"):
        unet(x, t, Conditioning((words, words)))


def test_a_pooled_text_alone_joins_the_time() -> None:
    torch.manual_seed(0)
    unet = Unet(vector=16).tiny().build().eval()
    x, t, words = torch.randn(1, 4, 16, 16), torch.zeros(1), TextEncoding(torch.zeros(1, 2, 16))
    with torch.inference_mode():
        answers = [unet(x, t, Conditioning((words,), torch.full((1, 16), value))) for value in (0.0, 1.0)]
        expected = unet.model.time_embedding.linear_1.out_features
    assert unet.model.class_embedding.linear_1.in_features == 16
    assert unet.model.class_embedding.linear_2.out_features == expected
    assert not torch.equal(*answers)
