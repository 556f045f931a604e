"""Engines of the processor: each within its distance of float32, converted once for every size, given back whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from diffusers import DDIMScheduler

import bimo
from bimo.core.errors import RequestError
from bimo.engine import processor
from bimo.engine.engine import Engine
from bimo.engine.openvino import blocks
from bimo.engine.processor import ENGINES, Measured, Processor
from bimo.models.layouts.diffusers_folder import read_folder
from tests.support.tiny_checkpoints import checkpoint

pytest.importorskip("openvino")
REQUEST: dict[str, Any] = {"text": "红苹果", "seed": 3, "steps": 2, "size": (64, 64)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sd")
    checkpoint(made, "bert", DDIMScheduler(steps_offset=1))
    return made


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BIMO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def engine(folder: Path, name: str) -> Engine:
    made = Processor(name)
    return Engine(read_folder(folder, None), dtype=made.dtype, processor=made)


def pixels(engine: Engine, **settings: Any) -> numpy.ndarray:
    return numpy.asarray(engine.draw({**REQUEST, **settings})[0].image).astype(float)


@pytest.mark.parametrize(("name", "apart"), [("openvino", 1), ("openvino-bf16", 6), ("openvino-int8", 24)])
def test_a_picture_is_within_its_distance_and_one_conversion_serves_every_size(
    folder: Path, cache: Path, name: str, apart: int
) -> None:
    plain, other = engine(folder, "torch"), engine(folder, name)
    assert abs(pixels(plain) - pixels(other)).max() <= apart
    files = sorted(cache.rglob("*.xml"))
    assert files
    assert abs(pixels(plain, size=(128, 64)) - pixels(other, size=(128, 64))).max() <= apart
    assert sorted(cache.rglob("*.xml")) == files
