"""The engine: one drawing path, its weights at rest after a drawing or a cancelled one, LoRAs attached and detached."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch

import bimo
from bimo.core.errors import BimoError, RequestError
from bimo.diffusion.system import System
from bimo.engine.engine import Engine
from bimo.models.adapters.lora import extract, inject, injected, save_lora

REQUEST = {"text": "红苹果", "seed": 3, "steps": 2}


def state(engine: Engine) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in engine.system.state_dict().items()}


def test_each_picture_comes_as_soon_as_it_is_done(tiny_folder: Path) -> None:
    engine = bimo.load(tiny_folder)
    steps: list[tuple[int, int, int, int]] = []
    pictures = engine.stream({**REQUEST, "count": 2}, progress=lambda *step: steps.append(step))
    first = next(pictures)
    assert {step[:2] for step in steps} == {(0, 2)}
    assert [first.png(), next(pictures).png()] == [p.png() for p in bimo.draw(engine, REQUEST, count=2)]
    assert bimo.draw(engine, REQUEST, seed=4)[0].image.tobytes() != first.image.tobytes()


def test_offloaded_draws_the_same_and_leaves_weights_in_their_file(tiny_folder: Path) -> None:
    expected = bimo.draw(bimo.load(tiny_folder), REQUEST)[0].png()
    engine = bimo.load(tiny_folder, offload="parts")
    places = {name: value.data_ptr() for name, value in engine.system.named_parameters()}
    assert bimo.draw(engine, REQUEST)[0].png() == expected
    assert {name: value.data_ptr() for name, value in engine.system.named_parameters()} == places


def test_prepared_says_what_was_asked_and_what_is_drawn(tiny_folder: Path) -> None:
    engine = bimo.load(tiny_folder)
    prepared = engine.prepare("红苹果", steps=2)
    assert (prepared.asked.steps, prepared.asked.seed, prepared.asked.size) == (2, None, None)
    assert prepared.request.steps == 2
    assert prepared.request.seed is not None
    assert prepared.request.size == engine.recipe.request.size


def test_a_filled_request_is_prepared_as_it_is(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = bimo.load(tiny_folder)
    filled = engine.fill({"text": "红苹果", "draft": 0.5})
    assert engine.fill(filled) is filled
    monkeypatch.setattr("bimo.diffusion.request_filling.check_request", None)  # who fills again calls it
    prepared = engine.prepare(filled)
    assert (prepared.asked, prepared.request) == (filled.asked, filled.request)
    assert any("no draft" in warning for warning in prepared.warnings)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_cancelled_drawing_leaves_the_weights_as_they_were(tiny_folder: Path, dtype: Any) -> None:
    engine = bimo.load(tiny_folder, dtype=dtype, offload="parts")
    before = state(engine)

    def cancel(*step: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.draw(REQUEST, progress=cancel)
    after = state(engine)
    assert all(value.dtype == after[name].dtype and torch.equal(value, after[name]) for name, value in before.items())


def test_requests_drawn_together_are_those_drawn_alone(tiny_folder: Path) -> None:
    engine = bimo.load(tiny_folder)
    together = engine.draw_together([REQUEST, {**REQUEST, "seed": 9}])
    assert [picture.seed for picture in together] == [3, 9]
    for picture in together:
        alone = engine.draw(picture.request)[0]
        assert picture.image.size == alone.image.size
        assert picture.metadata() == alone.metadata()


def test_a_lora_is_attached_and_taken_out(tiny_folder: Path, tmp_path: Path) -> None:
    learning = System.read(tiny_folder)
    inject(learning, ["image.denoiser.*.to_q"], 2, 2.0)
    torch.manual_seed(0)
    for low in injected(learning).values():
        torch.nn.init.normal_(cast(torch.Tensor, low.up.weight))
    save_lora(tmp_path / "ink.safetensors", learning, extract(learning))
    plain = bimo.load(tiny_folder)
    expected = plain.draw(REQUEST)[0].png()
    drawn = bimo.load(tiny_folder, loras=[f"{tmp_path}/ink.safetensors:0.8"]).draw(REQUEST)[0].png()
    assert drawn != expected
    plain.attach(f"{tmp_path}/ink.safetensors:0.8")
    assert plain.adapters == [("ink", 0.8)]
    assert plain.draw(REQUEST)[0].png() == drawn
    plain.detach("ink")
    assert plain.draw(REQUEST)[0].png() == expected


def test_a_system_is_no_engine(tiny_folder: Path) -> None:
    system: Any = System.read(tiny_folder)
    with pytest.raises(RequestError, match=r"bimo\.Engine\(system\)"):
        bimo.draw(system, "红苹果")
    assert bimo.draw(Engine(system), REQUEST)[0].png() == bimo.draw(bimo.load(tiny_folder), REQUEST)[0].png()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"dtype": "fp8"}, "expected auto, fp32, bf16 or fp16"),
        ({"device": "tpu"}, "there is auto, cpu"),
        ({"loras": ["none.safetensors:0.5"]}, "there is no none.safetensors"),
        ({"controls": ["none"]}, "there is no file or folder none"),
    ],
)
def test_what_cannot_be_loaded_is_named(tiny_folder: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BimoError, match=sentence):
        bimo.load(tiny_folder, **settings)
