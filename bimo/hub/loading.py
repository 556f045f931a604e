"""`bimo.load`: a model by its name as an engine that draws, with its adapters, on a device, as a kind of number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from bimo.core.errors import RequestError
from bimo.core.messages import say
from bimo.core.recipe import Recipe
from bimo.engine.adapters import Adapters, lora
from bimo.engine.devices import CPU, DTYPES, cards, device_of, dtype_for, dtype_warnings
from bimo.engine.engine import Engine
from bimo.engine.fast import Fast
from bimo.engine.processor import AUTO, SMALL_PARAMETERS, Processor, chosen
from bimo.hub import registry
from bimo.models.tiny_decoder import tiny_space


def load(
    name: str | Path,
    *,
    device: str = "auto",
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

    ``device`` is "cpu", "cuda", "cuda:1", "xpu", "mps", or "auto": the card with the most free memory, else the
    processor. ``dtype`` "auto" is fp32 on a processor, and on a card the first of the recipe's ``dtypes`` that it has.
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
    device: str = "auto",
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
    # An engine of the processor says where, too.
    place = CPU if device == "auto" and engine != "torch" else device_of(device)
    made = _made(name, adapters, place, dtype, offload, engine)
    made.fast = distilled
    if tiny_decoder is not None:
        made.system.tiny_space = tiny_space(Path(tiny_decoder), made.system)
    return made


def _made(name: str | Path, adapters: Adapters, place: torch.device, dtype: str, offload: bool, engine: str) -> Engine:
    if engine != "torch":
        return _by_processor(name, adapters, place, dtype, offload, engine)
    if dtype not in ("auto", *DTYPES):
        dtype_for(Recipe(name=""), place, dtype)  # refused before anything is read
    # What weights lie in, where they are not to stay so, is turned as it is moved: they are never in memory twice.
    stored = offload or place.type != "cpu" or dtype in ("bf16", "fp16")
    # Adapters are added to weights as they lie in the file, before those are rounded.
    system = adapters.put(registry.load(name, stored=stored))
    kind = dtype_for(system.recipe, place, dtype)
    made = Engine(system, device=place, dtype=DTYPES[kind], offload=offload)
    made.told = (*_where(made), *dtype_warnings(system.recipe, kind))
    return made


def _where(engine: Engine) -> tuple[str, ...]:
    """On which card it draws and in which numbers; nothing of a processor, which is not chosen."""
    card = next((card for card in cards() if card.device == engine.device), None)
    if card is None:
        return ()
    return (
        say(
            "drawing on {device} ({name}, {free:.1f} of {total:.1f} GB free) in {dtype}, decoding in {space}",
            device=card.device,
            name=card.name,
            free=card.free / 1e9,
            total=card.total / 1e9,
            dtype=next(name for name, kind in DTYPES.items() if kind == engine.dtype),
            space=engine.space_dtype,
        ),
    )


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
    # OpenVINO takes weights as they lie in the file, and only where they were not converted before; torch turns them.
    system = adapters.put(registry.load(name, stored=True))
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
