"""Weights that layers keep otherwise: narrower, rounded, or on another device, and made whole for each product.

A frozen layer needs its weight twice in a step of training: for its answer, and for the gradient of its input. Neither
the product nor autograd keeps what was made whole (as QLoRA does it, arXiv:2305.14314).
"""

# torch leaves parts of its interface untyped; what crosses it here is named where it is kept.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_input
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

#: What a layer that holds its weight has it as.
HELD = "held_weight"


class HeldWeight(Protocol):
    """The weight of a layer as it is kept."""

    def whole(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The weight as the layer has it, made anew."""
        ...

    def move(self, device: torch.device) -> None:
        """Keeps it there from now on."""
        ...

    @property
    def nbytes(self) -> int:
        """The bytes that it takes."""
        ...


class NarrowWeight:
    """A weight as other numbers."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def whole(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Cast."""
        return self.value.to(device, non_blocking=True).to(dtype)

    def move(self, device: torch.device) -> None:
        """To a device; copies from the processor's memory are faster from pages that stay where they are."""
        self.value = self.value.to(device)
        if device.type == "cpu" and torch.cuda.is_available():
            self.value = self.value.pin_memory()

    @property
    def nbytes(self) -> int:
        """As kept."""
        return self.value.nbytes


def can_hold(layer: nn.Module) -> bool:
    """Whether a layer's weight can be held: that of a linear or convolutional layer which is used by its forward."""
    if isinstance(layer, nn.Conv2d):
        plain = type(layer).forward is nn.Conv2d.forward
        return plain and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    # That subclass stands in attention of torch's own, which reads its weight without asking it.
    odd = isinstance(layer, NonDynamicallyQuantizableLinear)
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward and not odd


def hold(layer: nn.Linear | nn.Conv2d, held: HeldWeight) -> None:
    """Has a layer work with a held weight. Its parameter stays by name and shape and takes no memory: it is NaN
    everywhere, so that whatever reads it in passing by ``weight_of`` is found out.
    """
    setattr(layer, HELD, held)
    placed(layer, layer.weight.device)
    product: Any = _linear if isinstance(layer, nn.Linear) else _convolution
    cast(Any, layer).forward = partial(product, layer)


def release(layer: nn.Linear | nn.Conv2d, weight: Tensor) -> None:
    """Gives a layer a weight of its own again."""
    delattr(layer, HELD)
    del cast(Any, layer).forward
    layer.weight.data = weight


def placed(layer: nn.Linear | nn.Conv2d, device: torch.device) -> None:
    """Puts the parameter of a layer that holds its weight on a device."""
    one = torch.full((), torch.nan, dtype=torch.float32, device=device)
    layer.weight.data = one.expand(layer.weight.shape)


def held_in(module: nn.Module) -> dict[str, HeldWeight]:
    """The held weights below a module, by the names of the parameters that they stand for."""
    layers = {name: layer for name, layer in module.named_modules() if HELD in vars(layer)}
    return {f"{name}.weight" if name else "weight": vars(layer)[HELD] for name, layer in layers.items()}


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a layer, made whole where it is held."""
    weight = cast(Tensor, layer.weight)
    held = cast("HeldWeight | None", vars(layer).get(HELD))
    return weight if held is None else held.whole(weight.device, weight.dtype)


def move(modules: Iterable[nn.Module], device: torch.device, fixed: bool = False) -> None:
    """As ``nn.Module.to``, with held weights; these stay where they are if they are ``fixed``."""
    for module in modules:
        for layer in module.modules():
            held = cast("HeldWeight | None", vars(layer).get(HELD))
            if held is not None:
                placed(cast(Any, layer), device)
                if not fixed:
                    held.move(device)
            for name, parameter in layer.named_parameters(recurse=False):
                if held is None or name != "weight":
                    parameter.data = parameter.data.to(device)
            for buffer in layer.buffers(recurse=False):
                buffer.data = buffer.data.to(device)


def _cast(x: Tensor) -> Tensor:
    """x as autocast would have it for a product."""
    kind = x.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return x.to(torch.get_autocast_dtype(kind)) if on else x


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    answer: Tensor = _Linear.apply(_cast(x), vars(layer)[HELD])
    bias = cast("Tensor | None", layer.bias)
    return answer if bias is None else answer + bias.to(answer.dtype)


def _convolution(layer: nn.Conv2d, x: Tensor) -> Tensor:
    settings = layer.stride, layer.padding, layer.dilation, layer.groups
    answer: Tensor = _Convolution.apply(_cast(x), vars(layer)[HELD], settings)
    return answer if layer.bias is None else answer + layer.bias.to(answer.dtype).view(-1, 1, 1)


class _Linear(torch.autograd.Function):
    """x [..., in] -> x W^T [..., out]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, held: HeldWeight) -> Tensor:
        ctx.held = held
        return functional.linear(x, held.whole(x.device, x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient @ ctx.held.whole(gradient.device, gradient.dtype), None


class _Convolution(torch.autograd.Function):
    """x [B, in, h, w] -> [B, out, h', w']."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, held: HeldWeight, settings: Any) -> Tensor:
        ctx.held, ctx.settings, ctx.shape = held, settings, x.shape
        return functional.conv2d(x, held.whole(x.device, x.dtype), None, *settings)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        weight = ctx.held.whole(gradient.device, gradient.dtype)
        return conv2d_input(ctx.shape, weight, gradient, *ctx.settings), None, None
