"""The options of every command that loads a model to draw with."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

import typer

from bimo.core.messages import say
from bimo.hub.options import LoadOptions

#: The parameter of a command that receives them.
PARAMETER = "load_options"
DEVICE_HELP = say("where to draw: auto, the card with the most free memory; cuda, cuda:1, mps, xpu, cpu")
#: Field of LoadOptions -> (option, help).
OPTIONS: dict[str, tuple[str, str]] = {
    "device": (
        "--device",
        say(
            "where to draw: auto, the card with the most free memory; cuda, cuda:1, mps, xpu, cpu; or one model over "
            "several cards, cuda:0+cuda:1"
        ),
    ),
    "dtype": (
        "--dtype",
        say("how weights are kept in memory: auto, on a card what the recipe is safe in; fp32, bf16, fp16"),
    ),
    "memory": (
        "--memory",
        say("the most memory to take, for instance 8GB: the cheapest way that fits is chosen and said"),
    ),
    "offload": (
        "--offload",
        say(
            "what is in memory only while it works: each of the parts, groups of their layers (cards), or layers from "
            "a disk"
        ),
    ),
    "quantise": (
        "--quantise",
        say(
            "round the matrices of text encoders and denoisers: int8, int4, fp8 (torchao), nf4, llm-int8 "
            "(bitsandbytes), uint4 (sdnq)"
        ),
    ),
    "tiles": ("--tiles", say("decode large pictures tile by tile: less memory, slightly other pixels")),
    "compiled": (
        "--compile",
        say("have torch compile the blocks of the denoisers: slow at first, then faster on most cards"),
    ),
    "graphs": (
        "--graphs",
        say("with --compile on CUDA: record the kernels of a block once for each shape and play them back"),
    ),
    "engine": (
        "--engine",
        say(
            "how a processor draws: torch, torch-onednn, torch-bf16, openvino, openvino-bf16, openvino-int8, or auto, "
            "the fastest by a probe, which is told by: bimo show xiaomo --engine"
        ),
    ),
    "denoiser": (
        "--denoiser",
        say("a GGUF file in the place of the model's own denoiser; -m FILE.gguf alone takes its family's other parts"),
    ),
    "text_encoder": (
        "--text-encoder",
        say("a GGUF file in the place of the model's own text encoder of its family: Qwen3, Qwen2.5-VL or T5"),
    ),
}


def takes_engine(command: Callable[..., None]) -> Callable[..., None]:
    """Decorates a command: replaces its parameter ``load_options`` by one option for each field of LoadOptions."""
    types = get_type_hints(LoadOptions)
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[types[field.name], typer.Option(OPTIONS[field.name][0], help=OPTIONS[field.name][1])],
        )
        for field in fields(LoadOptions)
    ]
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    own_parameters = [parameter for parameter in parameters if parameter.name != PARAMETER]
    position = [parameter.name for parameter in parameters].index(PARAMETER)
    combined = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own_parameters]
    combined[position:position] = options

    @functools.wraps(command)
    def called(**arguments: Any) -> None:
        load_options = LoadOptions(**{field.name: arguments.pop(field.name) for field in fields(LoadOptions)})
        command(**arguments, load_options=load_options)

    namespace: Any = called
    namespace.__signature__ = inspect.Signature(combined)
    namespace.__annotations__ = {parameter.name: parameter.annotation for parameter in combined}
    return called
