"""Prompts for parts of a picture: where they count, by boxes and by painted maps, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
from PIL import Image

import bimo
from bimo.cli.redrawing import region_of
from bimo.core.errors import RequestError
from bimo.core.picture import metadata_of
from bimo.core.recipe import Guidance
from bimo.core.request import checked
from bimo.core.tensors import Conditioning, DenoiserInput
from bimo.diffusion.guidance import join
from bimo.diffusion.regions import compose_regions, shares
from bimo.diffusion.request_filling import fill_request
from bimo.engine.engine import Engine
from bimo.hub import registry
from tests.support.tiny_checkpoints import checkpoint
from tests.support.tiny_systems import TEXT, tiny_system

SCHEDULE: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
REQUEST: dict[str, Any] = {"text": "小桥流水人家", "size": (64, 64), "steps": 2, "seed": 3}
RIGHT = {"text": "红苹果", "box": (0.5, 0, 0.5, 1)}


@pytest.fixture(scope="module")
def engines(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Engine]:
    folder = tmp_path_factory.mktemp("unet")
    checkpoint(folder, "bert", diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, steps_offset=1))
    return {"unet": bimo.load(folder), "xiaomo": bimo.load(tiny_folder)}


def drawn(engine: Engine, **settings: Any) -> Any:
    return numpy.asarray(engine.draw(REQUEST, **settings)[0].image).astype(int)


def test_shares_are_one_together_and_the_base_ratio_stays() -> None:
    request = checked({**REQUEST, "regions": [RIGHT, {"text": "猫", "box": (0.5, 0, 0.5, 0.5), "weight": 3}]})
    whole, right, upper = (each[0, 0] for each in shares(request, (4, 8, 8)))
    assert torch.allclose(whole + right + upper, torch.ones(8, 8))
    assert torch.equal(whole[:, :4], torch.ones(8, 4))
    assert torch.allclose(whole[:, 4:], torch.tensor(0.2))
    assert torch.allclose(right[4:, 4:], torch.tensor(0.8))
    assert torch.allclose(upper[:4, 4:] / right[:4, 4:], torch.tensor(3.0))


def test_each_prompt_guides_where_it_counts() -> None:
    null, first, other = (torch.full((1, 1, 1, 2), value) for value in (1.0, 3.0, 7.0))
    left = torch.tensor([[[[1.0, 0.0]]]])
    joined = join(Guidance(), torch.cat([null, first, other]), 2, [left, 1 - left])
    assert joined[:, 0, 0].tolist() == [[1.0, 1.0], [3.0, 7.0]]


def test_a_region_that_says_what_the_whole_says_changes_nothing(engines: dict[str, Engine]) -> None:
    same = drawn(engines["unet"], regions=[{**RIGHT, "text": REQUEST["text"]}])
    assert numpy.abs(same - drawn(engines["unet"])).max() <= 1


@pytest.mark.parametrize("name", ["unet", "xiaomo"])
def test_a_painted_map_is_a_box_is_a_record(engines: dict[str, Engine], name: str) -> None:
    (boxed,) = engines[name].draw(REQUEST, regions=[RIGHT])
    assert (numpy.asarray(boxed.image) != drawn(engines[name])).any()
    map_ = Image.new("RGB", (100, 50), "white")
    map_.paste((250, 3, 0), (50, 0, 100, 50))  # a brush's red is not quite red
    painted = [{"text": "红苹果", "colour": "#FF0000"}]
    assert (drawn(engines[name], regions=painted, region_map=map_) == numpy.asarray(boxed.image)).all()
    record = metadata_of(boxed.png())["request"]
    assert engines[name].draw(record)[0].image.tobytes() == boxed.image.tobytes()


def test_in_one_step_each_region_is_a_whole_picture_at_its_place() -> None:
    """Of a picture twice as wide as high, a region of its right half has room for one of half the size."""
    asked: list[DenoiserInput] = []
    request = checked({**REQUEST, "regions": [RIGHT]})
    denoiser_input = DenoiserInput("first", torch.zeros(1, 2, 8, 16), torch.ones(1), Conditioning())
    loop = compose_regions(denoiser_input, request, [Conditioning()])
    asked.append(next(loop))
    asked.append(loop.send(torch.full((1, 2, 8, 16), 1.0)))
    with pytest.raises(StopIteration) as end:
        loop.send(torch.full((1, 2, 4, 8), 5.0))
    answer = end.value.value[0, 0]
    assert [tuple(one.x.shape) for one in asked] == [(1, 2, 8, 16), (1, 2, 4, 8)]
    assert torch.equal(answer[3:5, 9:15], torch.full((2, 6), 5.0))
    assert bool(((answer[2:6, 8:] > 1) & (answer[2:6, 8:] <= 5)).all())
    assert torch.equal(answer[:, :8], torch.ones(8, 8))
    assert torch.equal(answer[:2], torch.ones(2, 16))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"regions": [{"text": " ", "box": (0, 0, 1, 1)}]}, "region 1 has no text"),
        ({"regions": [RIGHT, {"text": "猫"}]}, "region 2 needs a box or a colour"),
        ({"regions": [{"text": "猫", "box": (0.5, 0, 0.6, 1)}]}, "the box of region 1"),
        ({"regions": [{"text": "猫", "colour": "red"}]}, "expected #rrggbb"),
        ({"regions": [{"text": "猫", "colour": "#ff0000"}]}, "give the map"),
        (
            {"regions": [{"text": "猫", "colour": "#ff0000"}], "region_map": Image.new("RGB", (8, 8))},
            "the map of regions has no #ff0000",
        ),
        ({"regions": [{**RIGHT, "weight": 0}]}, "the weight of region 1"),
        ({"regions": [{**RIGHT, "text": "猫 AND 狗"}]}, "which are for the whole picture"),
        ({"regions": [{**RIGHT, "text": "猫<lora:x:1>"}]}, "which are for the whole picture"),
        ({"regions": [RIGHT] * 17}, "17 regions; at most 16"),
        ({"base_ratio": 0.5}, "without regions"),
        ({"regions": [RIGHT], "base_ratio": 1.0}, "below 1"),
        ({"regions": [RIGHT], "guidance_every": 2}, "by which AND and regions join"),
    ],
)
def test_invalid_regions_are_refused(engines: dict[str, Engine], fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        engines["unet"].draw(REQUEST, **fields)


def test_regions_as_they_are_typed() -> None:
    assert region_of("left=一只猫") == {"text": "一只猫", "box": (0, 0, 0.5, 1)}
    assert region_of("0.1,0.2，0.3,0.4:1.5=a=b") == {"text": "a=b", "box": (0.1, 0.2, 0.3, 0.4), "weight": 1.5}
    assert region_of("#00ff00 = 狗") == {"text": "狗", "colour": "#00ff00"}
    for wrong in ("", "left", "left=", "middle=猫", "0,0,1=猫", "left:x=猫"):
        with pytest.raises(RequestError, match="--region is"):
            region_of(wrong)


def test_an_embedding_has_no_places_and_a_cascade_enlarges_by_itself(tmp_path: Path) -> None:
    system = tiny_system(registry.recipe("damo-cascade"), tmp_path)
    request: dict[str, Any] = {"text": TEXT}
    with pytest.raises(RequestError, match="draws an embedding, which has none"):
        fill_request(system, {**request, "regions": [{"text": TEXT, "box": (0, 0, 0.5, 1)}]})
    with pytest.raises(RequestError, match="cannot draw over a larger picture of its own"):
        fill_request(system, {**request, "hires": 2})
