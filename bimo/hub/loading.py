"""`bimo.load`: a model by its name as an engine that draws, with its adapters, on a device, as a kind of number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from bimo.core.errors import RequestError
from bimo.engine.adapters import Adapters, lora
from bimo.engine.devices import device_of
from bimo.engine.engine import Engine
from bimo.engine.fast import Fast
from bimo.engine.processor import AUTO, SMALL_PARAMETERS, Processor, chosen
from bimo.hub import registry
from bimo.models.tiny_decoder import tiny_space

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
    engine: str = "torch",
    fast: str | Path | None = None,
    tiny_decoder: str | Path | None = None,
) -> Engine:
    """An engine ready to draw, of a model's name, folder or file, or ``owner/name`` on a hub (see ``registry.load``).

    ``device`` "auto" is a GPU where torch has one; ``dtype`` "auto" is fp32 on a processor and bf16 on a GPU.
    ``offload`` keeps each part in memory only while it works. ``loras`` are "FILE" or "FILE:0.8", ``embeddings`` "FILE"
    or "FILE=<word>"; ``controls`` and ``ip_adapters`` are files or folders, whose pictures a request gives as
    ``condition_images`` named "control", "control-2" ..., and "prompt", "prompt-2". ``engine`` is one of
    ``engine.processor``: by whose kernels a processor draws. ``fast`` is a LoRA of few steps (see ``engine.fast``),
    ``tiny_decoder`` a folder of diffusers' AutoencoderTiny, for requests that ask for it. Raises WeightsError,
    RecipeError, RequestError.
    """
    adapters = Adapters.named(loras, embeddings, controls, ip_adapters, image_encoder)
    return load_with(
        name,
        adapters,
        device=device,
        dtype=dtype,
        offload=offload,
        engine=engine,
        fast=fast,
        tiny_decoder=tiny_decoder,
    )


def load_with(
    name: str | Path,
    adapters: Adapters,
    *,
    device: str = "cpu",
    dtype: str = "auto",
    offload: bool = False,
    engine: str = "torch",
    fast: str | Path | None = None,
    tiny_decoder: str | Path | None = None,
) -> Engine:
    """As ``load`` with adapters that have been read."""
    distilled = None
    if fast is not None:
        file, weight = lora(str(fast))
        distilled = Fast.of(file)
        adapters = replace(adapters, loras=(*adapters.loras, (file, weight)))
    made = _made(name, adapters, device_of(device), dtype, offload, engine)
    made.fast = distilled
    if tiny_decoder is not None:
        made.system.tiny_space = tiny_space(Path(tiny_decoder), made.system)
    return made


def _made(name: str | Path, adapters: Adapters, place: torch.device, dtype: str, offload: bool, engine: str) -> Engine:
    if engine != "torch":
        return _by_processor(name, adapters, place, dtype, offload, engine)
    if dtype == "auto":
        dtype = "fp32" if place.type == "cpu" else "bf16"
    if dtype not in DTYPES:
        raise RequestError("dtype is {dtype!r}; expected auto, fp32, bf16 or fp16", dtype=dtype)
    system = registry.load(name, stored=offload or dtype != "fp32")
    # Adapters are added to weights as they lie in the file, before those are rounded.
    return Engine(adapters.put(system), device=place, dtype=DTYPES[dtype], offload=offload)


def _by_processor(
    name: str | Path, adapters: Adapters, place: torch.device, dtype: str, offload: bool, engine: str
) -> Engine:
    """An engine whose kernels are not torch's own. Raises RequestError for what does not go with that."""
    if place.type != "cpu":
        raise RequestError(
            "--engine {engine} is of the processor, but the device is {place}", engine=engine, place=place
        )
    if offload and engine.startswith("openvino"):
        raise RequestError(
            "--offload with --engine {engine}: what OpenVINO has converted stays in memory; leave one of them out",
            engine=engine,
        )
    if engine != AUTO:
        chosen(engine, 0)  # refused before anything is read
    # OpenVINO takes weights as they lie in the file, and only where they were not converted before.
    system = adapters.put(registry.load(name, stored=engine not in ("torch-onednn", AUTO) or offload))
    found = Processor(
        chosen(engine, sum(parameter.numel() for parameter in system.parameters())), kept=adapters == Adapters()
    )
    if dtype not in ("auto", "fp32") and DTYPES.get(dtype) != found.dtype:
        raise RequestError(
            "--engine {engine} has its own numbers, and --dtype is {dtype}; leave --dtype out",
            engine=engine,
            dtype=dtype,
        )
    return Engine(system, device=place, dtype=found.dtype, offload=offload, processor=found)


def steady(engine: Engine) -> Engine:
    """A small system is drawn by one thread: no slower from the shell, and the same bytes by every process. With two,
    about one process in twenty was seen to differ in the last bit, which may turn a pixel by one of 255.
    """
    if engine.parameters < SMALL_PARAMETERS:
        torch.set_num_threads(1)
    return engine
