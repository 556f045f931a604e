"""`bimo.load`: loads a model by name as an `Engine`, with adapters, on a device, in a dtype."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch

from bimo.core.errors import RequestError
from bimo.core.messages import say
from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.engine import quantisation, spread
from bimo.engine.adapters import Adapters, lora
from bimo.engine.compile import check_graphs, compile_blocks
from bimo.engine.devices import (
    CPU,
    DTYPES,
    cards,
    devices_of,
    dtype_for,
    dtype_warnings,
    dtypes_of,
    emulated_dtypes,
)
from bimo.engine.engine import Engine
from bimo.engine.fast import Fast
from bimo.engine.memory import (
    OFFLOADS,
    Keeping,
    Offload,
    Quantise,
    bytes_of,
    candidates,
    cheapest,
    narrowed,
    total_bytes,
    weights_of,
)
from bimo.engine.processor import AUTO, SMALL_PARAMETERS, Processor, chosen
from bimo.hub import registry
from bimo.hub.memory import LIBRARIES, free_on
from bimo.models.tiny_decoder import tiny_space


def load(
    name: str | Path,
    *,
    device: str = "auto",
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    offload: Offload = "none",
    quantise: Quantise = "none",
    tiles: bool = False,
    memory: str = "",
    compiled: bool = False,
    graphs: bool = False,
    loras: Sequence[str | Path] = (),
    embeddings: Sequence[str | Path] = (),
    controls: Sequence[str | Path] = (),
    ip_adapters: Sequence[str | Path] = (),
    image_encoder: str | Path | None = None,
    engine: str = "torch",
    fast: str | Path | None = None,
    tiny_decoder: str | Path | None = None,
    denoiser: str | Path | None = None,
    text_encoder: str | Path | None = None,
) -> Engine:
    """Loads a model by its name, folder or file, or ``owner/name`` on a hub (see ``registry.load``).

    ``device`` is "cpu", "cuda", "cuda:1", "xpu", "mps", or "auto": the card with the most free memory, else the CPU;
    over "cuda:0+cuda:1" the model's blocks are spread (see ``engine.spread``).
    ``dtype`` "auto" is fp32 on a CPU, and on a card the first of the recipe's ``dtypes`` that the card supports.
    ``offload``, ``quantise`` and ``tiles`` are those of ``engine.memory.Keeping``; with ``memory`` ("8GB") the cheapest
    combination that fits is chosen, and on CUDA the process is limited to it. ``compiled`` compiles the blocks of the
    denoisers, ``graphs`` also records CUDA graphs (see ``engine.compile``). ``loras`` are "FILE" or "FILE:0.8",
    ``embeddings`` "FILE" or "FILE=<word>"; ``controls`` and ``ip_adapters`` are files or folders, and a request passes
    their pictures in ``condition_images`` as "control", "control-2" ... and "prompt", "prompt-2". ``engine`` is a CPU
    inference engine of ``engine.processor``. ``fast`` is a few-step LoRA (see ``engine.fast``), ``tiny_decoder`` a
    folder of diffusers' AutoencoderTiny, for requests that ask for it. ``denoiser`` and ``text_encoder`` are GGUF files
    that replace the model's own. Raises WeightsError, RecipeError, RequestError.
    """
    adapters = Adapters.from_files(loras, embeddings, controls, ip_adapters, image_encoder)
    return load_with(
        name,
        adapters,
        device=device,
        dtype=dtype,
        keeping=Keeping(offload=offload, quantise=quantise, tiles=tiles),
        memory=memory,
        compiled=compiled,
        graphs=graphs,
        engine=engine,
        fast=fast,
        tiny_decoder=tiny_decoder,
        denoiser=denoiser,
        text_encoder=text_encoder,
    )


def load_with(
    name: str | Path,
    adapters: Adapters,
    *,
    device: str = "auto",
    dtype: str = "auto",
    keeping: Keeping | None = None,
    memory: str = "",
    size: tuple[int, int] | None = None,
    compiled: bool = False,
    graphs: bool = False,
    engine: str = "torch",
    fast: str | Path | None = None,
    tiny_decoder: str | Path | None = None,
    denoiser: str | Path | None = None,
    text_encoder: str | Path | None = None,
) -> Engine:
    """As ``load``, with parsed adapters; ``memory`` is estimated for pictures of ``size``."""
    keeping = Keeping() if keeping is None else keeping
    distilled = None
    if fast is not None:
        file, weight = lora(str(fast))
        distilled = Fast.of(file)
        adapters = replace(adapters, loras=(*adapters.loras, (file, weight)))
    # Every engine other than torch runs on the CPU.
    target, *further = (CPU,) if device == "auto" and engine != "torch" else devices_of(device)
    if keeping.offload not in OFFLOADS:
        raise RequestError(
            "offload is {offload!r}; expected {listed}", offload=keeping.offload, listed=", ".join(OFFLOADS)
        )
    quantisation.check(keeping.quantise, target)
    budget = bytes_of(memory) if memory else None
    if further:
        spread.check()
        if budget is not None or compiled or keeping.offloads:
            raise RequestError(
                "--device {device} spreads the model over cards, which goes without --memory, --offload and --compile; "
                "leave those out",
                device=device,
            )
    if graphs:
        check_graphs(target, compiled)
    # GGUF weights are dequantised for OpenVINO, and if adapters are to be added to them.
    read_system = partial(
        registry.load,
        name,
        denoiser=None if denoiser is None else Path(denoiser),
        text_encoder=None if text_encoder is None else Path(text_encoder),
        blocks=engine == "torch" and adapters == Adapters(),
    )
    if engine != "torch":
        if budget is not None or compiled:
            raise RequestError(
                "--engine {engine} goes without --memory and --compile; leave one of them out", engine=engine
            )
        loaded = _with_processor(read_system, adapters, target, dtype, keeping, engine)
    else:
        loaded = _with_torch(read_system, adapters, target, dtype, keeping, budget, size, further)
    if compiled:
        compile_blocks(loaded.system, target, graphs=graphs)
        loaded.compiled = True
    loaded.fast = distilled
    if distilled is not None:
        distilled.set_shift(loaded.system)
    if tiny_decoder is not None:
        loaded.system.tiny_space = tiny_space(Path(tiny_decoder), loaded.system)
    return loaded


def _with_torch(
    read_system: Callable[..., System],
    adapters: Adapters,
    target: torch.device,
    dtype: str,
    keeping: Keeping,
    budget: int | None,
    size: tuple[int, int] | None,
    further: Sequence[torch.device],
) -> Engine:
    """Loads an engine that runs on torch's own kernels."""
    if dtype not in ("auto", *DTYPES):
        dtype_for(Recipe(name=""), target, dtype)  # raises before anything is read
    # If weights are converted or moved, they are read in their stored dtype, so as never to be in memory twice.
    stored = keeping != Keeping() or budget is not None or target.type != "cpu" or dtype in ("bf16", "fp16")
    # Adapters are merged into the stored weights, before these are rounded.
    system = adapters.put(read_system(stored=stored))
    keeping_for_recipe = narrowed(system.recipe, keeping, dtype_for(system.recipe, target, dtype))
    notices: list[str] = []
    if budget is not None:
        keeping_for_recipe, sentence = _fit_memory(
            system, keeping_for_recipe, target, budget, size, fixed=dtype != "auto"
        )
        notices.append(sentence)
    dtype_for_recipe = DTYPES[keeping_for_recipe.dtype]
    engine = Engine(system, device=target, dtype=dtype_for_recipe, keeping=keeping_for_recipe, cards=further)
    if counts := engine.blocks_on:
        listed = ", ".join(f"{card} {count}" for card, count in counts.items())
        notices.append(say("its blocks are spread over the cards: {listed}", listed=listed))
    engine.notices = (
        *_device_notice(engine),
        *notices,
        *dtype_warnings(system.recipe, keeping_for_recipe.dtype, target),
    )
    return engine


def _fit_memory(
    system: System, requested: Keeping, target: torch.device, budget: int, size: tuple[int, int] | None, *, fixed: bool
) -> tuple[Keeping, str]:
    """The cheapest combination for a system that fits into ``budget`` bytes, and a sentence about it. Raises
    RequestError if none fits.
    """
    card = target.type != "cpu"
    weights, recipe = weights_of(system), system.recipe
    free_bytes = free_on(target)
    # On a CPU the libraries need memory from the same budget.
    limit_bytes = min(budget - (0 if card else LIBRARIES), budget if free_bytes is None else free_bytes)
    size = size or recipe.request.size
    quantises, supported = quantisation.available("int8"), dtypes_of(target)
    native = tuple(dtype for dtype in supported if dtype not in emulated_dtypes(target))
    # An emulated dtype takes longer than any offloading.
    combinations = itertools.chain.from_iterable(
        candidates(recipe, requested, card=card, supported=dtypes, quantises=quantises, fixed=fixed)
        for dtypes in dict.fromkeys((native, supported))
    )
    chosen, least = cheapest(weights, size, limit_bytes, combinations)
    width, height = size
    if chosen is None:
        raise RequestError(
            "{name} at {width}x{height} does not fit into {giga:.3g} GB; the least it takes is {least:.1f} GB",
            name=recipe.name,
            width=width,
            height=height,
            giga=budget / 1e9,
            least=(least + (0 if card else LIBRARIES)) / 1e9,
        )
    if target.type == "cuda":
        total = next(each.total for each in cards() if each.device == target)
        set_fraction = cast(
            "Callable[[float, torch.device], None]", cast(Any, torch.cuda).set_per_process_memory_fraction
        )
        set_fraction(min(1.0, budget / total), target)
    return chosen, say(
        "to fit into {giga:.1f} GB: {flags}; about {total:.1f} GB are taken",
        giga=budget / 1e9,
        flags=chosen.flags or "--dtype fp32",
        total=(total_bytes(weights, size, chosen) + (0 if card else LIBRARIES)) / 1e9,
    )


def _device_notice(engine: Engine) -> tuple[str, ...]:
    """A notice of the card and dtype that it draws with; none for a CPU."""
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


def _with_processor(
    read_system: Callable[..., System],
    adapters: Adapters,
    target: torch.device,
    dtype: str,
    keeping: Keeping,
    engine: str,
) -> Engine:
    """Loads an engine with another CPU inference engine. Raises RequestError for options that exclude it."""
    if target.type != "cpu":
        raise RequestError(
            "--engine {engine} is of the processor, but the device is {place}", engine=engine, place=target
        )
    if keeping.offloads and engine.startswith("openvino"):
        raise RequestError(
            "--offload with --engine {engine}: what OpenVINO has converted stays in memory; leave one of them out",
            engine=engine,
        )
    if engine != AUTO:
        chosen(engine, 0)  # raises before anything is read
    # Weights are read as stored: OpenVINO reads those that are not cached yet, torch converts them.
    system = adapters.put(read_system(stored=True))
    processor = Processor(
        chosen(engine, sum(parameter.numel() for parameter in system.parameters())),
        cache_converted=adapters == Adapters(),
    )
    if dtype != "auto" and DTYPES.get(dtype) != processor.asked_dtype:
        raise RequestError(
            "--engine {engine} has its own numbers, and --dtype is {dtype}; leave --dtype out",
            engine=engine,
            dtype=dtype,
        )
    return Engine(system, device=target, dtype=processor.dtype, keeping=keeping, processor=processor)


def steady(engine: Engine) -> Engine:
    """Limits torch to one thread for a small system: no slower from the shell, and the same bytes in every process.
    With two threads about one process in twenty differed in the last bit, which can change a pixel by one of 255.
    """
    if engine.parameters < SMALL_PARAMETERS:
        torch.set_num_threads(1)
    return engine
