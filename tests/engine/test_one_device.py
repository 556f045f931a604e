"""The whole of drawing on a device without contents, of every recipe: no tensor is left behind on the processor; in
float16, which every device has; and in bfloat16 with packed weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from bimo.core.part import dumps
from bimo.core.recipe import Published, Recipe
from bimo.engine import packing
from bimo.engine.engine import Engine
from bimo.engine.processor import Processor
from bimo.hub.registry import recipes
from tests.support.one_device import ELSEWHERE, OneDevice, counted
from tests.support.tiny_systems import TEXT, tiny_system

pytestmark = pytest.mark.slow

SIZE, CASCADE_SIZE = (64, 64), (128, 128)
#: What of a recipe is nothing to a drawing of it at a given size.
NOT_DRAWN: dict[str, Any] = {
    "name": "",
    "title": "",
    "paper": "",
    "licence": "",
    "languages": (),
    "source": "own",
    "note": "",
    "stages": (),
    "prompts": (),
    "weights": Published(),
}

#: Who looks at pictures by the values of a tensor, of which a device without contents has none: the grid of a picture.
#: These draw from words alone there.
BY_VALUES = ("glm-image", "qwen-image-edit-2509", "qwen-image-edit-2511")
#: Whose denoiser makes tensors as long as numbers there say: what it is given is looked at in its test of parity.
READ_BACK = "qwen-image-2.1"


def drawn() -> list[str]:
    """The recipes that draw, one of those that draw by the same parts."""
    kinds = {dumps(replace(r.tiny(), **NOT_DRAWN)): name for name, r in sorted(recipes().items()) if r.levels}
    return sorted(kinds.values())


@pytest.fixture(scope="module", params=drawn())
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    recipe = recipes()[request.param]
    return Engine(tiny_system(recipe, tmp_path_factory.mktemp(recipe.name)))


def request_of(recipe: Recipe) -> dict[str, Any]:
    """A request that gives every conditioner the picture that it reads."""
    several = len(recipe.levels) > 1
    size = recipe.request.sizes[-1] if recipe.request.sizes else CASCADE_SIZE if several else SIZE
    picture = Image.linear_gradient("L").resize(size).convert("RGB")
    read = {name for level in recipe.levels for each in level.conditioners for name in each.images}  # type: ignore[attr-defined]
    wanted: dict[str, Any] = {"text": TEXT, "negative": "蓝", "size": size, "seed": 1, "steps": 2}
    if "mask" in read and not several:  # what a cascade enlarges cannot be given
        wanted |= {"image": picture, "mask": picture}
    others = dict.fromkeys(read - {"image", "mask"}, picture)
    return wanted | ({"condition_images": others} if others else {})


def test_float16_gives_finite_values(engine: Engine) -> None:
    (picture,) = Engine(engine.system, dtype=torch.float16).draw(request_of(engine.recipe))
    assert not [warning for warning in picture.warnings if "fp32" in warning]


@pytest.mark.skipif(not packing.possible(), reason="oneDNN has no bfloat16 on this processor")
def test_packed_weights_draw_what_the_same_weights_draw(engine: Engine) -> None:
    wanted = request_of(engine.recipe)
    (plain,) = Engine(engine.system, dtype=torch.bfloat16).draw(wanted)
    packed = Engine(engine.system, dtype=torch.bfloat16, processor=Processor("torch-bf16"))
    assert any(parameter.is_mkldnn for parameter in engine.system.parameters())
    (picture,) = packed.draw(wanted)
    packed.processor.restore()
    before, after = (numpy.asarray(each.image).astype(int) for each in (plain, picture))
    assert abs(before - after).mean() < 2


def test_drawing_is_all_on_its_device(engine: Engine) -> None:
    wanted = request_of(engine.recipe)
    if engine.recipe.name.removesuffix("-tiny") == READ_BACK:
        pytest.skip("its tensors are as long as numbers on the device say, and this device has none")
    if engine.recipe.name.removesuffix("-tiny") in BY_VALUES:
        wanted = {name: value for name, value in wanted.items() if name not in ("image", "mask", "condition_images")}
    with counted(), OneDevice():
        there = Engine(engine.system, device=ELSEWHERE, dtype=torch.float16)
        assert {p.device for p in there.system.parameters()} == {ELSEWHERE}
        (picture,) = there.draw(wanted)
    assert picture.image.size == wanted["size"]
