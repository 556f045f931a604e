"""`bimo.load`: a model by its name as an engine that draws, with its adapters, on a device, as a kind of number."""

from __future__ import annotations

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
from bimo.engine import quantisation
from bimo.engine.adapters import Adapters, lora
from bimo.engine.compile import check_graphs, compile_blocks
from bimo.engine.devices import CPU, DTYPES, cards, device_of, dtype_for, dtype_warnings, dtypes_of
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
) -> Engine:
    """An engine ready to draw, of a model's name, folder or file, or ``owner/name`` on a hub (see ``registry.load``).

    ``device`` is "cpu", "cuda", "cuda:1", "xpu", "mps", or "auto": the card with the most free memory, else the
    processor. ``dtype`` "auto" is fp32 on a processor, and on a card the first of the recipe's ``dtypes`` that it has.
    ``offload``, ``quantise`` and ``tiles`` are those of ``engine.memory.Keeping``; ``memory`` ("8GB") has the cheapest
    of them chosen that fits, and on CUDA holds the process to it. ``compiled`` has torch compile the blocks of the
    denoisers, with ``graphs`` played back on CUDA (see ``engine.compile``). ``loras`` are "FILE" or "FILE:0.8",
    ``embeddings`` "FILE" or "FILE=<word>"; ``controls`` and ``ip_adapters`` are files or folders, whose pictures a
    request gives as ``condition_images`` named "control", "control-2" ..., and "prompt", "prompt-2". ``engine`` is one
    of ``engine.processor``: by whose kernels a processor draws. ``fast`` is a LoRA of few steps (see ``engine.fast``),
    ``tiny_decoder`` a folder of diffusers' AutoencoderTiny, for requests that ask for it. ``denoiser`` is a file of
    GGUF in the place of the model's own denoiser. Raises WeightsError, RecipeError, RequestError.
    """
    adapters = Adapters.named(loras, embeddings, controls, ip_adapters, image_encoder)
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
) -> Engine:
    """As ``load`` with adapters that have been read; ``size`` is that of the pictures that ``memory`` is to hold."""
    keeping = Keeping() if keeping is None else keeping
    distilled = None
    if fast is not None:
        file, weight = lora(str(fast))
        distilled = Fast.of(file)
        adapters = replace(adapters, loras=(*adapters.loras, (file, weight)))
    # An engine of the processor says where, too.
    place = CPU if device == "auto" and engine != "torch" else device_of(device)
    if keeping.offload not in OFFLOADS:
        raise RequestError(
            "offload is {offload!r}; expected {listed}", offload=keeping.offload, listed=", ".join(OFFLOADS)
        )
    quantisation.check(keeping.quantise, place)
    budget = bytes_of(memory) if memory else None
    if graphs:
        check_graphs(place, compiled)
    # Adapters are added to matrices, and OpenVINO converts them: then they do not stay in the blocks of GGUF.
    own = None if denoiser is None else Path(denoiser)
    read = partial(registry.load, name, denoiser=own, blocks=engine == "torch" and adapters == Adapters())
    if engine != "torch":
        if budget is not None or compiled:
            raise RequestError(
                "--engine {engine} goes without --memory and --compile; leave one of them out", engine=engine
            )
        made = _by_processor(read, adapters, place, dtype, keeping, engine)
    else:
        made = _made(read, adapters, place, dtype, keeping, budget, size)
    if compiled:
        compile_blocks(made.system, place, graphs=graphs)
        made.compiled = True
    made.fast = distilled
    if tiny_decoder is not None:
        made.system.tiny_space = tiny_space(Path(tiny_decoder), made.system)
    return made


def _made(
    read: Callable[..., System],
    adapters: Adapters,
    place: torch.device,
    dtype: str,
    keeping: Keeping,
    budget: int | None,
    size: tuple[int, int] | None,
) -> Engine:
    """An engine of torch's own kernels."""
    if dtype not in ("auto", *DTYPES):
        dtype_for(Recipe(name=""), place, dtype)  # refused before anything is read
    # What weights lie in, where they are not to stay so, is turned as it is moved: they are never in memory twice.
    stored = keeping != Keeping() or budget is not None or place.type != "cpu" or dtype in ("bf16", "fp16")
    # Adapters are added to weights as they lie in the file, before those are rounded.
    system = adapters.put(read(stored=stored))
    kept = narrowed(system.recipe, keeping, dtype_for(system.recipe, place, dtype))
    told: list[str] = []
    if budget is not None:
        kept, sentence = _fitting(system, kept, place, budget, size, fixed=dtype != "auto")
        told.append(sentence)
    made = Engine(system, device=place, dtype=DTYPES[kept.dtype], keeping=kept)
    made.told = (*_where(made), *told, *dtype_warnings(system.recipe, kept.dtype))
    return made


def _fitting(
    system: System, asked: Keeping, place: torch.device, budget: int, size: tuple[int, int] | None, *, fixed: bool
) -> tuple[Keeping, str]:
    """The cheapest way to keep a system in so many bytes, and the sentence that says it. Raises RequestError where none
    is cheap enough.
    """
    card = place.type != "cpu"
    weights, recipe = weights_of(system), system.recipe
    free = free_on(place)
    # A processor's memory holds the libraries, too.
    most = min(budget - (0 if card else LIBRARIES), budget if free is None else free)
    size = size or recipe.request.size
    ways = candidates(
        recipe,
        asked,
        card=card,
        has=dtypes_of(place),
        quantises=quantisation.available("int8"),
        fixed=fixed,
    )
    chosen, least = cheapest(weights, size, most, ways)
    width, height = size
    if chosen is None:
        raise RequestError(
            "{name} at {width}x{height} does not fit into {giga:.1f} GB; the least it takes is {least:.1f} GB",
            name=recipe.name,
            width=width,
            height=height,
            giga=budget / 1e9,
            least=(least + (0 if card else LIBRARIES)) / 1e9,
        )
    if place.type == "cuda":
        total = next(each.total for each in cards() if each.device == place)
        limit = cast("Callable[[float, torch.device], None]", cast(Any, torch.cuda).set_per_process_memory_fraction)
        limit(min(1.0, budget / total), place)
    return chosen, say(
        "to fit into {giga:.1f} GB: {flags}; about {total:.1f} GB are taken",
        giga=budget / 1e9,
        flags=chosen.flags or "--dtype fp32",
        total=(total_bytes(weights, size, chosen) + (0 if card else LIBRARIES)) / 1e9,
    )


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
    read: Callable[..., System],
    adapters: Adapters,
    place: torch.device,
    dtype: str,
    keeping: Keeping,
    engine: str,
) -> Engine:
    """An engine whose kernels are not torch's own. Raises RequestError for what does not go with that."""
    if place.type != "cpu":
        raise RequestError(
            "--engine {engine} is of the processor, but the device is {place}", engine=engine, place=place
        )
    if keeping.offloads and engine.startswith("openvino"):
        raise RequestError(
            "--offload with --engine {engine}: what OpenVINO has converted stays in memory; leave one of them out",
            engine=engine,
        )
    if engine != AUTO:
        chosen(engine, 0)  # refused before anything is read
    # OpenVINO takes weights as they lie in the file, and only where they were not converted before; torch turns them.
    system = adapters.put(read(stored=True))
    found = Processor(
        chosen(engine, sum(parameter.numel() for parameter in system.parameters())), kept=adapters == Adapters()
    )
    if dtype not in ("auto", "fp32") and DTYPES.get(dtype) != found.dtype:
        raise RequestError(
            "--engine {engine} has its own numbers, and --dtype is {dtype}; leave --dtype out",
            engine=engine,
            dtype=dtype,
        )
    return Engine(system, device=place, dtype=found.dtype, keeping=keeping, processor=found)


def steady(engine: Engine) -> Engine:
    """A small system is drawn by one thread: no slower from the shell, and the same bytes by every process. With two,
    about one process in twenty was seen to differ in the last bit, which may turn a pixel by one of 255.
    """
    if engine.parameters < SMALL_PARAMETERS:
        torch.set_num_threads(1)
    return engine
