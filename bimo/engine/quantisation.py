"""Quantised linear layers by torchao, bitsandbytes and SDNQ, the libraries that diffusers uses.

Only linear layers are quantised, each as soon as it has been read, so that a system is never in memory both before and
after. Activations stay in the engine's dtype, except with LLM.int8(), which quantises them too.

========  ============  ==============================================================================================
int8      torchao       a scale for each row
fp8       torchao       float8_e4m3, a scale for each row
int4      torchao       groups of 128
nf4       bitsandbytes  blocks of 64 in the quantiles of a normal distribution, double quantisation (arXiv:2305.14314)
llm-int8  bitsandbytes  8-bit products, columns with outliers of 6 and more in full (arXiv:2208.07339)
uint4     sdnq          groups with a scale and a zero point, in torch alone: 4 bits on any device
========  ============  ==============================================================================================
"""

# torchao, bitsandbytes and sdnq have no types.
# pyright: reportMissingImports=false, reportMissingTypeStubs=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections import Counter
from collections.abc import Callable, Container, Generator
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import RequestError
from bimo.core.installing import installing
from bimo.engine.devices import KINDS
from bimo.engine.memory import QUANTISES, Quantise

#: The library that implements each kind.
LIBRARY: dict[Quantise, str] = {
    "int8": "torchao",
    "int4": "torchao",
    "fp8": "torchao",
    "nf4": "bitsandbytes",
    "llm-int8": "bitsandbytes",
    "uint4": "sdnq",
}
OF_BITSANDBYTES: tuple[Quantise, ...] = ("nf4", "llm-int8")
#: Kinds whose weights are integer tensors. Networks take their dtype from the weights of some layers, which are
#: therefore not quantised: those outside of the repeated blocks, and those that text encoders keep in float32.
OF_INTEGERS: tuple[Quantise, ...] = (*OF_BITSANDBYTES, "uint4")
#: The extra that installs each library.
EXTRAS = {"torchao": "quantise", "bitsandbytes": "quantise", "sdnq": "sdnq"}
#: Device types of kinds that lack kernels on the others.
DEVICES: dict[Quantise, tuple[str, ...]] = {"int4": ("cuda",), "llm-int8": ("cuda", "xpu", "cpu")}
#: Activations of at least this size are outliers in LLM.int8(), as in its paper and in diffusers' BitsAndBytesConfig.
OUTLIER = 6.0


def check(kind: str, device: torch.device) -> None:
    """Raises RequestError for an unknown kind, a missing library, or a device without kernels for it."""
    if kind == "none":
        return
    if kind not in QUANTISES:
        raise RequestError("quantise is {kind!r}; expected {listed}", kind=kind, listed=", ".join(QUANTISES))
    if device.type not in (places := DEVICES.get(kind, KINDS)):
        raise RequestError(
            "--quantise {kind} has kernels for {places}, and the device is {device}; int8 works there",
            kind=kind,
            places=", ".join(places),
            device=device,
        )
    if not available(kind):
        library = LIBRARY[kind]
        raise RequestError(
            "--quantise {kind} needs {library}, which is not installed; run {command}",
            kind=kind,
            library=library,
            command=installing(EXTRAS[library]),
        )


def available(kind: Quantise) -> bool:
    """Whether the library of a kind is installed."""
    return find_spec(LIBRARY[kind]) is not None


def in_blocks(module: nn.Module) -> bool:
    """Whether a module has GGUF-quantised weights, which no LoRA can be merged into."""
    layers = (layer for layer in module.modules() if isinstance(layer, nn.Linear))
    return any(not weight.is_floating_point() for layer in layers for weight in layer.parameters(recurse=False))


def quantise(
    module: nn.Module, kind: Quantise, read: Callable[[nn.Parameter], Tensor], whole: Container[int] = ()
) -> None:
    """Quantises the linear layers below a module, except weights whose ids are in ``whole`` and weights that layers
    share (tied embeddings); of kinds OF_INTEGERS only those in lists of blocks. ``read`` loads a weight from its file.
    """
    uses = Counter(id(p) for layer in module.modules() for p in layer.parameters(recurse=False))
    lists = (inner for inner in module.modules() if isinstance(inner, nn.ModuleList))
    of_blocks = {layer for inner in lists for layer in inner.modules()}
    linear = [
        (path, layer)
        for path, layer in module.named_modules(remove_duplicate=False)
        if isinstance(layer, nn.Linear)
        and (kind not in OF_INTEGERS or layer in of_blocks)
        and layer.weight.is_floating_point()  # else already quantised by GGUF
        and uses[id(layer.weight)] == 1
        and id(layer.weight) not in whole
    ]
    of_linear = {id(layer.weight) for _, layer in linear}
    for parameter in module.parameters():
        if id(parameter) not in of_linear:
            parameter.data = read(parameter)
    rounded: dict[nn.Linear, nn.Module] = {}
    for path, layer in linear:
        if layer not in rounded:
            layer.weight.data = read(cast(nn.Parameter, layer.weight))
            # A weight of zeros, such as a zero-initialised layer's, has no scale to quantise by.
            rounded[layer] = _rounded(layer, kind) if bool(layer.weight.any()) else layer
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, rounded[layer])


class RoundedWeight:
    """A frozen weight [out, in], quantised by ``kind``, of a layer with a trainable adapter:
    `bimo.core.held_weights`.
    """

    def __init__(self, weight: Tensor, kind: Quantise) -> None:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(weight, requires_grad=False)
        weight_of_layer: Any = _rounded(layer, kind).weight
        self._value: Any = weight_of_layer if kind == "nf4" else weight_of_layer.data
        self._nf4 = kind == "nf4"

    def whole(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The dequantised weight."""
        value = self._value.to(device)
        if not self._nf4:
            return value.dequantize().to(dtype)
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(value.data, value.quant_state).to(dtype)

    def move(self, device: torch.device) -> None:
        """Moves it to a device."""
        self._value = self._value.to(device)

    @property
    def nbytes(self) -> int:
        """The size of the quantised weight and its scales."""
        if not self._nf4:
            return sum(getattr(self._value, name).nbytes for name in self._value.tensor_data_names)
        state = self._value.quant_state
        scales = state.absmax.nbytes + (state.state2.absmax.nbytes if state.nested else 0)
        return int(self._value.data.nbytes + scales)


def _rounded(layer: nn.Linear, kind: Quantise) -> nn.Module:
    """The layer with its weight quantised, or its replacement."""
    if kind == "nf4":
        return Nf4Linear(layer)
    if kind == "llm-int8":
        return _llm_int8(layer)
    if kind == "uint4":
        return _uint4(layer)
    quantize_, config = _torchao(kind)
    quantize_(layer, config)
    return layer


class Nf4Linear(nn.Linear):
    """A linear layer with an NF4 weight. On a CPU bitsandbytes' own layer would repack it at the first call, and round
    float32 activations to bfloat16.
    """

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        params_4bit: Any = _bitsandbytes().nn.Params4bit
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.data
        rounded = params_4bit(weight.cpu(), requires_grad=False, quant_type="nf4", compress_statistics=True)
        self.weight = rounded.to(weight.device)
        self.bias = layer.bias

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        weight: Any = self.weight
        matmul: Any = _bitsandbytes().matmul_4bit
        return matmul(input, weight.t(), bias=self.bias, quant_state=weight.quant_state)


def _llm_int8(layer: nn.Linear) -> nn.Module:
    layers: Any = _bitsandbytes().nn
    weight = layer.weight.data
    linear: Any = layers.Linear8bitLt(
        layer.in_features, layer.out_features, False, has_fp16_weights=False, threshold=OUTLIER, device="meta"
    )
    linear.weight = layers.Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False).to(weight.device)
    linear.bias = layer.bias
    return linear.eval()


def _uint4(layer: nn.Linear) -> nn.Module:
    sdnq = _sdnq()
    config = sdnq.SDNQConfig(weights_dtype="uint4")
    quantised_layer, _ = sdnq.sdnq_quantize_layer(layer, config, torch_dtype=layer.weight.dtype)
    # Buffers, so that their float32 does not count as the dtype of a half-precision module.
    for name in ("scale", "zero_point"):
        value: Tensor = getattr(quantised_layer, name).data
        delattr(quantised_layer, name)
        quantised_layer.register_buffer(name, value)
    return quantised_layer


def _bitsandbytes() -> Any:
    with _muted("bitsandbytes"):
        import bitsandbytes
    # It warns on every call of LLM.int8() that activations are quantised, which is intended.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return bitsandbytes


def _sdnq() -> Any:
    """SDNQ, not compiled unless SDNQ_USE_TORCH_COMPILE is set: on a CPU that takes a minute for each shape."""
    before = os.environ.get("SDNQ_USE_TORCH_COMPILE")
    os.environ["SDNQ_USE_TORCH_COMPILE"] = before or "0"
    try:
        with _muted("sdnq"):
            import sdnq
    finally:
        if before is None:
            del os.environ["SDNQ_USE_TORCH_COMPILE"]
    return sdnq


def _torchao(kind: Quantise) -> tuple[Callable[..., None], Any]:
    """torchao's ``quantize_`` and the config of a kind."""
    with _muted("torchao"):
        from torchao.quantization import Float8WeightOnlyConfig, Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    config = {"int8": Int8WeightOnlyConfig, "int4": Int4WeightOnlyConfig, "fp8": Float8WeightOnlyConfig}[kind]
    return quantize_, config()


@contextlib.contextmanager
def _muted(library: str) -> Generator[None]:
    """Mutes a library's warnings of missing kernels on import."""
    logger = logging.getLogger(library)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
