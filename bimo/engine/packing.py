"""Weights of linear layers and convolutions in oneDNN's own order, for bfloat16 on a CPU.

torch hands a weight to oneDNN as it lies, which puts it in order anew at every call. That is a fifth of a step of
Stable Diffusion's UNet. A packed weight is put in order once; the products are the same to a rounding. The operators
are those that torch's compiler makes of the same layers (``torch/_inductor/fx_passes/mkldnn_fusion.py``).
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Container
from typing import Any, cast

import torch
from torch import Tensor, nn

#: Rank of [B, C, H, W].
PICTURES = 4
ops: Any = torch.ops.mkldnn


class _Packed:
    """What packed layers share. One whose ``weight`` is read, as by attentions that multiply with the weights of their
    layers themselves, is unpacked for good.
    """

    @property
    def weight(self) -> Tensor:
        """The weight in the usual order."""
        return _unpacked(cast("Layer", self)).weight

    @property
    def packed(self) -> Tensor:
        """The weight in oneDNN's order. It stays a parameter of the same name, shape and dtype."""
        return cast(Any, self)._parameters["weight"]


class PackedLinear(_Packed, nn.Linear):  # pyright: ignore[reportIncompatibleVariableOverride]
    """``nn.Linear`` with its weight packed."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out]"""
        if input.dtype != torch.bfloat16 or input.shape[-1] != self.in_features:
            return super().forward(input)  # which raises what is usual
        return ops._linear_pointwise(input, self.packed, self.bias, "none", [], "")


class PackedConv2d(_Packed, nn.Conv2d):  # pyright: ignore[reportIncompatibleVariableOverride]
    """``nn.Conv2d`` with its weight packed. What it answers has its channels last."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, out, H', W']"""
        usual = input.ndim == PICTURES and input.dtype == torch.bfloat16 and input.shape[1] == self.in_channels
        # A seamless picture has the padding changed while it is drawn.
        if not usual or self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super().forward(input)
        return ops._convolution_pointwise(
            input, self.packed, self.bias, self.padding, self.stride, self.dilation, self.groups, "none", [], ""
        )


Layer = nn.Linear | nn.Conv2d
#: Layers that are packed. Subclasses are not: they may use their weights otherwise.
PACKED: dict[type[Layer], type[_Packed]] = {nn.Linear: PackedLinear, nn.Conv2d: PackedConv2d}


def possible() -> bool:
    """Whether oneDNN multiplies in bfloat16 on this CPU (AVX-512 or AMX; with less torch emulates it). Other CPUs than
    x86's were not tried.
    """
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and torch.backends.mkldnn.is_available() and bool(ops._is_mkldnn_bf16_supported())


def pack(network: nn.Module) -> None:
    """Packs the linear layers and convolutions of a network that are in bfloat16 on the CPU, one after the other, so
    that no more than one weight is in memory twice. A weight that two layers share stays as it is.
    """
    if not possible():
        return
    modules: list[nn.Module] = list(network.modules())
    used = Counter(id(value) for module in modules for value in module.parameters(recurse=False))
    for layer in modules:
        if not isinstance(layer, nn.Linear | nn.Conv2d) or type(layer) not in PACKED:
            continue
        weight = layer.weight
        if weight.dtype != torch.bfloat16 or weight.device.type != "cpu" or not weight.numel():
            continue
        if used[id(weight)] > 1 or (isinstance(layer, nn.Conv2d) and layer.groups > 1):
            continue
        with torch.no_grad():
            layer.weight = nn.Parameter(_in_order(layer), requires_grad=False)
        _become(layer, PACKED[type(layer)])


def unpack(network: nn.Module, names: Container[str] | None = None) -> None:
    """Undoes ``pack``, for all layers or those whose weights are named."""
    modules: dict[str, nn.Module] = dict(cast(Any, network.named_modules()))
    for path, layer in modules.items():
        if isinstance(layer, PackedLinear | PackedConv2d) and (names is None or f"{path}.weight" in names):
            _unpacked(layer)


def storage_of(tensor: Tensor) -> tuple[int, int]:
    """The address and bytes of a tensor's memory, packed or not; on the meta device the address is 0."""
    if tensor.is_mkldnn:
        return ops.data_ptr(tensor), ops._nbytes(tensor)
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


def _unpacked(layer: Layer) -> Layer:
    # Not one of inference mode's tensors, to which adapters could not be added later.
    with torch.inference_mode(mode=False), torch.no_grad():
        weight = nn.Parameter(cast("_Packed", layer).packed.to_dense(), requires_grad=False)
    _become(layer, next(kind for kind in PACKED if isinstance(layer, kind)))
    layer.weight = weight
    return layer


def _become(layer: Layer, kind: type) -> None:
    layer.__class__ = cast(Any, kind)


def _in_order(layer: Layer) -> Tensor:
    if isinstance(layer, nn.Linear):
        return ops._reorder_linear_weight(layer.weight, None)
    return ops._reorder_convolution_weight(
        layer.weight, layer.padding, layer.stride, layer.dilation, layer.groups, None
    )
