"""Weight-only quantisation to 8 or 4 bits by torchao and bitsandbytes, the libraries that diffusers uses.

Only linear layers are quantised, each as soon as it has been read, so that a system is never in memory both before and
after. Activations stay in the engine's dtype.
"""

# torchao and bitsandbytes have no types.
# pyright: reportMissingImports=false, reportMissingTypeStubs=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import io
import warnings
from collections import Counter
from collections.abc import Callable, Container
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import RequestError
from bimo.engine.memory import QUANTISES, Quantise

#: The library that implements each kind.
LIBRARY: dict[Quantise, str] = {"int8": "torchao", "int4": "torchao", "fp8": "torchao", "nf4": "bitsandbytes"}
#: Kinds whose kernels need CUDA.
OF_CUDA: tuple[Quantise, ...] = ("int4", "nf4")


def check(kind: str, device: torch.device) -> None:
    """Raises RequestError for an unknown kind, a missing library, or a device without kernels for it."""
    if kind == "none":
        return
    if kind not in QUANTISES:
        raise RequestError("quantise is {kind!r}; expected {listed}", kind=kind, listed=", ".join(QUANTISES))
    if kind in OF_CUDA and device.type != "cuda":
        raise RequestError(
            "--quantise {kind} needs a card of CUDA, and the device is {device}; int8 works there",
            kind=kind,
            device=device,
        )
    if not available(kind):
        raise RequestError(
            "--quantise {kind} needs the library {library}: pip install {library}", kind=kind, library=LIBRARY[kind]
        )


def available(kind: Quantise) -> bool:
    """Whether the library of a kind is installed."""
    return find_spec(LIBRARY[kind]) is not None


def in_blocks(module: nn.Module) -> bool:
    """Whether a module has GGUF-quantised weights, which no LoRA can be merged into."""
    return any(isinstance(layer, nn.Linear) and not layer.weight.is_floating_point() for layer in module.modules())


def quantise(
    module: nn.Module, kind: Quantise, read: Callable[[nn.Parameter], Tensor], whole: Container[int] = ()
) -> None:
    """Quantises the linear layers below a module, except weights whose ids are in ``whole`` and weights that layers
    share (tied embeddings). ``read`` loads a weight from its file.
    """
    uses = Counter(id(p) for layer in module.modules() for p in layer.parameters(recurse=False))
    rounded: set[int] = set()
    for layer in module.modules():
        if not isinstance(layer, nn.Linear) or not layer.weight.is_floating_point():
            continue  # already quantised by GGUF
        if uses[id(layer.weight)] == 1 and id(layer.weight) not in whole:
            layer.weight.data = read(cast(nn.Parameter, layer.weight))
            # A weight of zeros, such as a zero-initialised layer's, has no scale to quantise by.
            if bool(layer.weight.any()):
                _round(layer, kind)
            rounded.add(id(layer.weight))
    for parameter in module.parameters():
        if id(parameter) not in rounded:
            parameter.data = read(parameter)


def _round(layer: nn.Linear, kind: Quantise) -> None:
    if kind == "nf4":
        from bitsandbytes.nn import Params4bit

        whole = layer.weight.data
        weight: Any = Params4bit(whole.cpu(), requires_grad=False, quant_type="nf4", compress_statistics=True)
        layer.weight = weight.to(whole.device)
        cast(Any, layer).forward = _forward_of_nf4(layer)
        return
    quantize_, config = _torchao(kind)
    quantize_(layer, config)


def _forward_of_nf4(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    import bitsandbytes

    def forward(x: Tensor) -> Tensor:
        weight: Any = layer.weight
        return bitsandbytes.matmul_4bit(x, weight.t(), bias=layer.bias, quant_state=weight.quant_state)

    return forward


def _torchao(kind: Quantise) -> tuple[Callable[..., None], Any]:
    """torchao's ``quantize_`` and the config of a kind. Its import-time messages about missing kernels are muted."""
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.quantization import Float8WeightOnlyConfig, Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    config = {"int8": Int8WeightOnlyConfig, "int4": Int4WeightOnlyConfig, "fp8": Float8WeightOnlyConfig}[kind]
    return quantize_, config()
