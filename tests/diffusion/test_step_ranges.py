"""Ranges of steps that hold no step: what was attached changes nothing then, and is named."""

from typing import Any

import pytest
import torch

from bimo.diffusion.step_ranges import step_counts
from bimo.engine.engine import Engine
from bimo.models.layouts.diffusers_folder import read_folder
from tests.models.test_control_adapters import PICTURE, REQUEST
from tests.support.adapter_files import with_adapters


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A toy Stable Diffusion with a LoRA, a ControlNet and an IP-Adapter, of which the LoRA is for two fifths."""
    place = with_adapters(tmp_path_factory.mktemp("sd"))
    engine = Engine(read_folder(place / "sd"), dtype=torch.float32)
    engine.attach(
        f"{place}/ink.safetensors:0.8@0.3-0.7",
        controls=[place / "net"],
        ip_adapters=[place / "ip.safetensors"],
        image_encoder=place / "tower",
    )
    return engine


def warned(engine: Engine, **said: Any) -> list[str]:
    images = {"control": PICTURE, "prompt": PICTURE}
    request = {**REQUEST, "text": "a red cat", "condition_images": images, **said}
    found = engine.prepare(request).warnings
    return [name for name in ("ink", "control", "prompt") if any(name in one and "no step of" in one for one in found)]


@pytest.mark.parametrize(
    ("steps", "conditions", "names"),
    [
        (10, {"control": [1.0, 0.0, 0.5], "prompt": [1.0, 0.5, 1.0]}, []),
        (2, {}, ["ink"]),  # its steps are 0-0.5 and 0.5-1
        (4, {}, ["ink"]),  # 0.25-0.5 and 0.5-0.75 reach beyond it
        (3, {"control": [1.0, 0.4, 0.6], "prompt": [1.0, 0.1, 0.7]}, ["control"]),  # 0.33-0.67 is in both others
        (5, {"control": [1.0, 0.4, 0.6], "prompt": [1.0, 0.9, 1.0]}, ["prompt"]),
    ],
)
def test_a_range_without_a_step_is_named(
    engine: Engine, steps: int, conditions: dict[str, list[float]], names: list[str]
) -> None:
    assert warned(engine, steps=steps, conditions=conditions) == names


def test_the_steps_that_are_taken_count(engine: Engine) -> None:
    """A picture that is drawn over takes a share of the steps, a second pass has its own."""
    ranged = {"control": [1.0, 0.0, 0.2]}
    assert warned(engine, steps=10, conditions=ranged) == []
    assert warned(engine, steps=10, conditions=ranged, image=PICTURE, strength=0.4) == ["ink", "control"]
    system = engine.system
    prepared = engine.prepare({**REQUEST, "text": "cat", "steps": 4, "hires": 2.0, "hires_steps": 10})
    assert step_counts(system, prepared.request) == {"image": [4, 4]}  # two fifths of ten
    assert warned(engine, steps=4, hires=2.0, hires_steps=20) == []  # steps 3 to 5 of eight


def test_it_stands_with_the_picture(engine: Engine) -> None:
    (picture,) = engine.draw({**REQUEST, "text": "a red cat", "steps": 2})
    (sentence,) = (one for one in picture.warnings if "ink" in one)
    assert sentence == (
        "no step of 2 lies within 0.3-0.7, where the LoRA ink applies: it changes none; widen the range, or take more "
        "steps"
    )
