"""A ControlNet beside a UNet, both by OpenVINO: within its distance of float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from bimo.hub.loading import load
from tests.engine.test_processor import decibels
from tests.support.adapter_files import with_adapters

pytest.importorskip("openvino")
pytestmark = pytest.mark.slow

PICTURE = Image.linear_gradient("L").convert("RGB").resize((64, 64))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_adapters(tmp_path_factory.mktemp("adapters"))


def drawn(place: Path, engine: str) -> numpy.ndarray:
    made = load(place / "sd", engine=engine, controls=[place / "net"])
    request: dict[str, Any] = {"text": "an apple", "seed": 3, "steps": 2, "size": (64, 64)}
    picture = made.draw({**request, "condition_images": {"control": PICTURE}})[0]
    if engine != "torch":
        from bimo.engine.openvino import ConvertedBlock

        networks = [(name, m) for name, m in made.system.named_modules() if type(m).__name__ == "ControlNetModel"]
        assert networks
        for _, network in networks:
            down: Any = network.down_blocks
            assert all(isinstance(block.forward, ConvertedBlock) for block in down)
    return numpy.asarray(picture.image).astype(float)


def test_a_controlnet_is_converted_with_its_unet(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIMO_CACHE", str(tmp_path))
    assert decibels(drawn(place, "torch"), drawn(place, "openvino")) >= 50
