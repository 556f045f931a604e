"""A seed varied towards another: the noise between, the pictures at both ends, and what records say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import bimo
from bimo.core.errors import RequestError
from bimo.core.picture import Picture, metadata_of
from bimo.diffusion.noise import slerp
from bimo.engine.engine import Engine

REQUEST: dict[str, Any] = {"text": "猫", "size": (64, 64), "steps": 2}


@pytest.fixture(scope="module")
def engine(tiny_folder: Path) -> Engine:
    return bimo.load(tiny_folder)


def pixels(picture: Picture) -> bytes:
    return picture.image.tobytes()


def test_interpolated_noise_keeps_its_norm() -> None:
    one, other = (torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    between = slerp(one, other, 0.3)
    assert float(between.norm()) == pytest.approx(0.7 * float(one.norm()) + 0.3 * float(other.norm()), rel=0.02)
    cosine = torch.nn.functional.cosine_similarity
    whole = torch.acos(cosine(one.flatten(), other.flatten(), dim=0))
    part = torch.acos(cosine(one.flatten(), between.flatten(), dim=0))
    assert float(part / whole) == pytest.approx(0.3, abs=0.01)
    assert torch.equal(slerp(one, other, 0.0), one)
    assert torch.equal(slerp(one, other, 1.0), other)
    assert torch.allclose(slerp(one, one, 0.4), one)


def test_the_ends_are_the_pictures_of_both_seeds(engine: Engine) -> None:
    (first,), (last,) = (engine.draw(REQUEST, seed=seed) for seed in (1, 7))
    row = [engine.draw(REQUEST, seed=1, subseed=7, subseed_strength=share)[0] for share in (0.0, 0.5, 1.0)]
    assert pixels(row[0]) == pixels(first)
    assert pixels(row[2]) == pixels(last)
    assert pixels(row[1]) not in (pixels(first), pixels(last))


def test_of_several_the_second_seed_counts_on_and_each_record_draws_its_own(engine: Engine) -> None:
    pictures = engine.draw(REQUEST, seed=1, subseed=7, subseed_strength=0.4, count=2)
    records = [metadata_of(picture.png())["request"] for picture in pictures]
    assert [(record["seed"], record["subseed"]) for record in records] == [(1, 7), (1, 8)]
    assert [pixels(engine.draw(record)[0]) for record in records] == [pixels(picture) for picture in pictures]
    unvaried = engine.draw(REQUEST, seed=1, subseed=7, subseed_strength=0.0, count=2)
    assert [picture.seed for picture in unvaried] == [1, 2]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"subseed": 7}, "said together"),
        ({"subseed_strength": 0.3}, "said together"),
        ({"subseed": 7, "subseed_strength": 1.5}, "expected a number from 0 to 1"),
        ({"subseed": -1, "subseed_strength": 0.5}, "subseed is -1"),
        ({"subseed": 2**63 - 1, "subseed_strength": 0.5, "count": 2}, "the last seed of 2 pictures"),
    ],
)
def test_a_subseed_without_a_strength_is_refused(engine: Engine, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        engine.draw(REQUEST, **fields)
