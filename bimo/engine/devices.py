"""Which device a system runs on. What is random is drawn by a processor and moved, so that all learn alike."""

# torch leaves parts of its interface untyped; what crosses it here is named where it is kept.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bimo.core.errors import RequestError

Value = TypeVar("Value")

CPU = torch.device("cpu")
DEVICES = ("auto", "cpu", "cuda", "mps")
#: What draws numbers by a generator.
DRAWS = (torch.rand, torch.randn, torch.randint, torch.randperm)


def device_of(name: str) -> torch.device:
    """The device of a name; "auto" is a GPU where torch has one. Raises RequestError for one that it has not."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if there[kind]))
    if not there.get(name):
        listed = ", ".join(("auto", *(kind for kind, here in there.items() if here)))
        raise RequestError(
            "the device is {name!r}, which torch has not here; there is {listed}", name=name, listed=listed
        )
    return torch.device(name)


def device_of_module(module: nn.Module) -> torch.device:
    """The device that a module's weights lie on."""
    return next((p.device for p in module.parameters()), CPU)


class _Moved(TorchFunctionMode):
    """What a processor's generator draws goes to the device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        told = dict(kwargs or {})
        if func in DRAWS and told.get("generator") is not None and told.get("device") is None:
            return func(*args, **told, device=told["generator"].device).to(self.device)
        return func(*args, **told)


@contextmanager
def default_device(device: torch.device) -> Generator[None]:
    """Tensors made inside are made on a device, whoever makes them; what is drawn by a generator of the processor is
    drawn there, and then moved.
    """
    if device.type == "cpu":
        yield
        return
    with device, _Moved(device):
        yield


def to_device(value: Value, device: torch.device) -> Value:
    """The same with its tensors on a device: a tensor, or what is made up of them."""
    if device.type == "cpu":
        return value
    made: Any = value
    if isinstance(value, Tensor):
        made = value.to(device)
    elif isinstance(value, Mapping):
        made = {name: to_device(part, device) for name, part in cast("Mapping[str, Any]", value).items()}
    elif isinstance(value, tuple):
        made = tuple(to_device(part, device) for part in cast("tuple[Any, ...]", value))
    elif is_dataclass(value) and not isinstance(value, type):
        made = replace(value, **{f.name: to_device(getattr(value, f.name), device) for f in fields(value)})
    return made


@contextmanager
def exact(device: torch.device) -> Generator[None]:
    """Kernels that give the same bits every time. A processor's do; of a GPU's the others are refused by torch."""
    if device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first called
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
