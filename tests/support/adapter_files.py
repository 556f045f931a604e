"""A tiny Stable Diffusion and, beside it, one of each kind of adapter that may be attached to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import diffusers
import torch
from safetensors.torch import save_file

from bimo.models.adapters.lora import extract, inject, injected, save_lora
from bimo.models.layouts.diffusers_folder import read_folder
from tests.models.test_control_adapters import SCHEDULE, UNET
from tests.parity.test_adapters import image_tower, ip_adapter
from tests.support.tiny_checkpoints import checkpoint


def with_adapters(place: Path) -> Path:
    """Writes sd/, net/ (a ControlNet), tower/ and ip.safetensors, duck.safetensors (a word), ink.safetensors (a LoRA)
    into a folder, which it answers.
    """
    checkpoint(place / "sd", "clip", diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False))
    torch.manual_seed(2)
    net = diffusers.ControlNetModel(**UNET)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    net.save_pretrained(str(place / "net"))
    system = read_folder(place / "sd")
    image_tower(place / "tower")
    state = ip_adapter(cast(Any, system.level("image").denoiser).model, plus=False)
    flat = {f"{part}.{name}": value for part, table in state.items() for name, value in table.items()}
    save_file(flat, place / "ip.safetensors")
    width = cast(Any, system.text_encoders[0]).part.width
    save_file({"<duck>": torch.randn(2, width)}, place / "duck.safetensors")
    inject(system, ["image.denoiser.*.to_q"], 2, 2.0)
    for low in injected(system).values():
        torch.nn.init.normal_(cast(torch.Tensor, low.up.weight))
    save_lora(place / "ink.safetensors", system, extract(system))
    return place
