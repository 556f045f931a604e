"""`bimo.load`: a model by its name as an engine that draws, with its adapters, on a device, as a kind of number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from bimo.core.errors import RequestError
from bimo.engine.adapters import Adapters
from bimo.engine.devices import device_of
from bimo.engine.engine import Engine
from bimo.hub import registry

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load(
    name: str | Path,
    *,
    device: str = "cpu",
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    offload: bool = False,
    loras: Sequence[str | Path] = (),
    embeddings: Sequence[str | Path] = (),
    controls: Sequence[str | Path] = (),
    ip_adapters: Sequence[str | Path] = (),
    image_encoder: str | Path | None = None,
) -> Engine:
    """An engine ready to draw, of a model's name, folder or file, or ``owner/name`` on a hub (see ``registry.load``).

    ``device`` "auto" is a GPU where torch has one; ``dtype`` "auto" is fp32 on a processor and bf16 on a GPU.
    ``offload`` keeps each part in memory only while it works. ``loras`` are "FILE" or "FILE:0.8", ``embeddings`` "FILE"
    or "FILE=<word>"; ``controls`` and ``ip_adapters`` are files or folders, whose pictures a request gives as
    ``condition_images`` named "control", "control-2" ..., and "prompt", "prompt-2". Raises WeightsError, RecipeError,
    RequestError.
    """
    adapters = Adapters.named(loras, embeddings, controls, ip_adapters, image_encoder)
    return load_with(name, adapters, device=device, dtype=dtype, offload=offload)


def load_with(
    name: str | Path, adapters: Adapters, *, device: str = "cpu", dtype: str = "auto", offload: bool = False
) -> Engine:
    """As ``load`` with adapters that have been read."""
    place = device_of(device)
    if dtype == "auto":
        dtype = "fp32" if place.type == "cpu" else "bf16"
    if dtype not in DTYPES:
        raise RequestError("dtype is {dtype!r}; expected auto, fp32, bf16 or fp16", dtype=dtype)
    system = registry.load(name, stored=offload or dtype != "fp32")
    # Adapters are added to weights as they lie in the file, before those are rounded.
    return Engine(adapters.put(system), device=place, dtype=DTYPES[dtype], offload=offload)
