"""LoRAs that count in a range of steps: as if they were attached and taken out by hand between the steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import bimo
from bimo.core.errors import RequestError
from bimo.core.lora_weight import LoraWeight
from bimo.diffusion.system import System
from bimo.engine.engine import Engine
from bimo.models.adapters import attach
from bimo.models.adapters.lora import extract, inject, injected, save_lora

REQUEST: dict[str, Any] = {"text": "红苹果", "seed": 3, "steps": 4}


@pytest.fixture(scope="module")
def loras(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two LoRAs of the denoiser."""
    folder = tmp_path_factory.mktemp("loras")
    for seed, name in enumerate(("ink", "oil")):
        learning = System.read(tiny_folder)
        inject(learning, ["image.denoiser.*.to_q"], 2, 2.0)
        torch.manual_seed(seed)
        for low in injected(learning).values():
            torch.nn.init.normal_(cast(torch.Tensor, low.up.weight))
        save_lora(folder / f"{name}.safetensors", learning, extract(learning))
    return folder


def by_hand(engine: Engine, request: dict[str, Any], before: Callable[[int], None]) -> bytes:
    """A drawing whose caller does something to the engine before each step."""
    with engine.working():
        loop = engine.loop(engine.prepare(request))
        try:
            asked = next(loop)
            while True:
                before(asked.step)
                asked = loop.send(engine.denoise([asked])[0])
        except StopIteration as stop:
            return stop.value.image.tobytes()


def test_a_range_of_steps_is_attaching_and_detaching_by_hand(tiny_folder: Path, loras: Path) -> None:
    ranged = bimo.load(tiny_folder, loras=[f"{loras}/ink.safetensors:0.8@0.25-0.75", f"{loras}/oil.safetensors:0.5"])
    assert ranged.lora_weights == [("ink", LoraWeight(0.8, 0.25, 0.75)), ("oil", LoraWeight(0.5))]
    engine = bimo.load(tiny_folder, loras=[f"{loras}/oil.safetensors:0.5"])
    reported: list[int] = []

    def switch(step: int) -> None:
        reported.append(step)
        attached = "ink" in dict(attach.adapters(engine.system))
        if 1 <= step < 3 and not attached:
            attach.unadapt(engine.system, "oil")  # the same order, so that sums are rounded alike
            attach.adapt(engine.system, loras / "ink.safetensors", 0.8)
            attach.adapt(engine.system, loras / "oil.safetensors", 0.5)
        if step == 3:
            attach.unadapt(engine.system, "ink")

    hand = by_hand(engine, REQUEST, switch)
    assert reported[-4:] == [0, 1, 2, 3]  # after the step of an earlier level
    drawn = ranged.draw(REQUEST)[0]
    assert drawn.image.tobytes() == hand
    assert ranged.draw(REQUEST)[0].png() == drawn.png()  # the weights are left as they were found
    others = [
        bimo.load(tiny_folder, loras=[f"{loras}/oil.safetensors:0.5", *more]).draw(REQUEST)[0]
        for more in ([], [f"{loras}/ink.safetensors:0.8"])
    ]
    assert all(other.image.tobytes() != hand for other in others)
    assert len({picture.weights for picture in (drawn, *others)}) == 3


def test_pictures_at_different_steps_take_turns(tiny_folder: Path, loras: Path) -> None:
    engine = bimo.load(tiny_folder, loras=[f"{loras}/ink.safetensors:1@0-0.5"])
    requests = [REQUEST, {**REQUEST, "steps": 3, "seed": 5}]
    alone = [np.asarray(engine.draw(request)[0].image, int) for request in requests]
    together = [np.asarray(picture.image, int) for picture in engine.draw_together(requests)]
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one - other).max() <= 1  # rows of a batch are rounded otherwise


def test_the_range_is_asked_for_in_the_prompt_and_refused_where_weights_are_rounded(
    tiny_folder: Path, loras: Path
) -> None:
    engine = bimo.load(tiny_folder, loras=[f"{loras}/ink.safetensors:0.8@0.2-0.6"])
    engine.draw({**REQUEST, "text": "红苹果<lora:ink:0.8@0.2-0.6>"})
    with pytest.raises(RequestError, match=r"at 0\.8, and it is attached at 0\.8@0\.2-0\.6"):
        engine.draw({**REQUEST, "text": "红苹果<lora:ink:0.8>"})
    with pytest.raises(RequestError, match=r"0\.8@0\.2-0\.6"):
        bimo.load(tiny_folder, loras=[f"{loras}/ink.safetensors:0.8@0.6-0.2"])
    pytest.importorskip("torchao")
    rounded = bimo.load(tiny_folder, loras=[f"{loras}/ink.safetensors:0.8@0.2-0.6"], quantise="int8")
    with pytest.raises(RequestError, match="range of steps"):
        rounded.draw(REQUEST)
