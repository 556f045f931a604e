"""Step-distilled LoRAs of transformers draw in bimo as in diffusers with the scheduler that their publisher names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file

import bimo
from bimo.models.layouts.diffusers_folder import read_folder
from tests.parity.test_adapters import compare
from tests.parity.test_flow import by_diffusers
from tests.support.drawing import draw
from tests.support.flow_checkpoints import saved

pytestmark = pytest.mark.usefixtures("one_thread")

#: That of Qwen-Image-Lightning, in diffusers' manual.
LIGHTNING: dict[str, Any] = {
    "base_image_seq_len": 256,
    "base_shift": math.log(3),
    "max_image_seq_len": 8192,
    "max_shift": math.log(3),
    "shift": 1.0,
    "shift_terminal": None,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}


def test_qwen_image_lightning(tmp_path: Path) -> None:
    """Its names, its alpha, its times, as many steps as its name tells, without guidance."""
    pipeline = saved(tmp_path / "saved", "qwen_image")
    generator = torch.Generator().manual_seed(3)
    state: dict[str, torch.Tensor] = {}
    for name in ("attn.to_q", "attn.add_k_proj", "attn.to_out.0", "img_mlp.net.2", "txt_mod.1"):
        at = f"transformer_blocks.1.{name}"
        out, into = pipeline.transformer.get_submodule(at).weight.shape
        state[f"{at}.lora_down.weight"] = torch.randn(4, into, generator=generator) * 0.5
        state[f"{at}.lora_up.weight"] = torch.randn(out, 4, generator=generator) * 0.5
        state[f"{at}.alpha"] = torch.tensor(2.0)
    file = tmp_path / "Qwen-Image-Lightning-4steps-V2.0.safetensors"
    save_file(state, file)
    pipeline.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**LIGHTNING)
    pipeline.load_lora_weights(str(tmp_path), weight_name=file.name)
    request: dict[str, Any] = {"text": "一只红苹果", "negative": " ", "seed": 3, "size": (64, 96)}
    expected = by_diffusers(pipeline, "qwen_image", {**request, "steps": 4, "guidance": 1.0})
    engine = bimo.load(tmp_path / "saved", device="cpu", fast=file)
    found = engine.draw(request)
    assert (found[0].request.steps, found[0].request.guidance) == (4, 1.0)
    compare(found, expected, draw(read_folder(tmp_path / "saved"), {**request, "steps": 4, "guidance": 1.0}))
    schedule: Any = engine.recipe.levels[0].schedule
    assert (schedule.shift, schedule.dynamic, schedule.terminal) == (3.0, "", 0.0)
