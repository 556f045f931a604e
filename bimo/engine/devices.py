"""Choice of device and dtype. Random numbers are drawn on the CPU and moved, so that all devices get the same ones."""

# Parts of torch's interface are untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bimo.core.errors import RequestError
from bimo.core.messages import say
from bimo.core.recipe import Recipe

Value = TypeVar("Value")

CPU = torch.device("cpu")
#: Types of devices; all but "cpu" may have an index, "cuda:1".
KINDS = ("cpu", "cuda", "mps", "xpu")
#: dtypes by their short names.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
#: torch functions that draw random numbers from a generator.
DRAWS = (torch.rand, torch.randn, torch.randint, torch.randperm)


@dataclass(frozen=True)
class Card:
    """An accelerator that torch can use, with its total and free memory in bytes."""

    device: torch.device
    name: str
    total: int
    free: int


def cards() -> list[Card]:
    """The accelerators that torch finds: CUDA (which includes AMD's ROCm), then Intel XPU, then Apple MPS."""
    available: list[Card] = []
    for kind, module in (("cuda", torch.cuda), ("xpu", torch.xpu)):
        if not module.is_available():
            continue
        for number in range(module.device_count()):
            free, total = module.mem_get_info(number)
            available.append(Card(torch.device(kind, number), str(module.get_device_name(number)), total, free))
    if torch.backends.mps.is_available():
        # Memory is shared with the CPU; this is how much of it Metal recommends to use.
        total = torch.mps.recommended_max_memory()
        available.append(Card(torch.device("mps"), "Apple", total, max(0, total - torch.mps.driver_allocated_memory())))
    return available


def device_of(name: str) -> torch.device:
    """The torch device for "cpu", "mps", "cuda" (the first), "cuda:1", "xpu" or "auto": the card with the most free
    memory, else the CPU. Raises RequestError if torch does not have it on this machine.
    """
    if name == "cpu":
        return CPU
    available = cards()
    if name == "auto":
        return max(available, key=lambda card: card.free).device if available else CPU
    for card in available:
        # A type without an index means the first device of that type.
        if name in (str(card.device), card.device.type):
            return card.device
    descriptions = [f"{card.device} ({card.name}, {card.total / 1e9:.0f} GB)" for card in available]
    raise RequestError(
        "the device is {name!r}, which torch has not here; there is {listed}",
        name=name,
        listed=", ".join(("auto", "cpu", *descriptions)),
    )


def devices_of(name: str) -> tuple[torch.device, ...]:
    """The cards of "cuda:0+cuda:1", over which one model is spread; for any other name the one device. Raises
    RequestError as ``device_of``, and for anything but a list of different cards.
    """
    names = [each.strip() for each in name.split("+")]
    devices = tuple(device_of(each) for each in names)
    if len(devices) > 1 and ("auto" in names or CPU in devices or len(set(devices)) < len(devices)):
        raise RequestError(
            "the device is {name!r}; a model is spread over different cards, such as cuda:0+cuda:1", name=name
        )
    return devices


def dtypes_of(device: torch.device) -> tuple[str, ...]:
    """The dtypes that a device supports natively; a CPU supports all, some of them slowly."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "fp32", "fp16"
    if device.type == "xpu" and not torch.xpu.is_bf16_supported():
        return "fp32", "fp16"
    if device.type == "mps" and not torch.backends.mps.is_macos_or_newer(14, 0):
        return "fp32", "fp16"
    return tuple(DTYPES)


def emulated_dtypes(device: torch.device) -> tuple[str, ...]:
    """The dtypes for which a device has no instructions: with AVX2 alone torch's convolutions take a hundred times as
    long in bfloat16 and float16 as in float32, its matrix products eight times.
    """
    emulates = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return ("bf16", "fp16") if emulates else ()


def dtype_for(recipe: Recipe, device: torch.device, requested: str = "auto") -> str:
    """The dtype to draw a recipe in. "auto" is fp32 on a CPU, and on a card the first of the recipe's dtypes that it
    supports, else fp32. Raises RequestError for an unknown dtype or one that the device does not support.
    """
    if requested not in ("auto", *DTYPES):
        raise RequestError("dtype is {dtype!r}; expected auto, fp32, bf16 or fp16", dtype=requested)
    supported = dtypes_of(device)
    if requested == "auto":
        return "fp32" if device.type == "cpu" else next((kind for kind in recipe.dtypes if kind in supported), "fp32")
    if requested not in supported:
        raise RequestError(
            "dtype is {dtype}, which {device} does not work out; it has {listed}",
            dtype=requested,
            device=device,
            listed=", ".join(supported),
        )
    return requested


def dtype_warnings(recipe: Recipe, dtype: str, device: torch.device) -> tuple[str, ...]:
    """Warnings to show before a recipe is drawn in this dtype on a device."""
    warnings: list[str] = []
    if dtype not in ("fp32", *recipe.dtypes):
        warnings.append(
            say(
                "{name} is not known to stay finite in {dtype}; it does in {safe}",
                name=recipe.name,
                dtype=dtype,
                safe=", ".join((*recipe.dtypes, "fp32")),
            )
        )
    if dtype in emulated_dtypes(device):
        warnings.append(emulation_warning(dtype))
    return tuple(warnings)


def emulation_warning(dtype: str) -> str:
    """What to say before a drawing in an emulated dtype."""
    return say("this processor has no instructions for {dtype}: it takes many times as long as fp32", dtype=dtype)


def device_of_module(module: nn.Module) -> torch.device:
    """The device of a module's first parameter, the CPU if it has none."""
    return next((p.device for p in module.parameters()), CPU)


class _Moved(TorchFunctionMode):
    """Calls that draw from a generator run on the generator's device; their result is moved to ``device``."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func in DRAWS and options.get("generator") is not None and options.get("device") is None:
            return func(*args, **options, device=options["generator"].device).to(self.device)
        return func(*args, **options)


@contextmanager
def default_device(device: torch.device) -> Generator[None]:
    """Makes ``device`` the default device of new tensors. Random numbers from a CPU generator are drawn on the CPU and
    then moved.
    """
    if device.type == "cpu":
        yield
        return
    with device, _Moved(device):
        yield


def to_device(value: Value, device: torch.device) -> Value:
    """Moves a tensor, or all tensors in a mapping, tuple or dataclass, to a device."""
    if device.type == "cpu":
        return value
    moved: Any = value
    if isinstance(value, Tensor):
        moved = value.to(device)
    elif isinstance(value, Mapping):
        moved = {name: to_device(part, device) for name, part in cast("Mapping[str, Any]", value).items()}
    elif isinstance(value, tuple):
        moved = tuple(to_device(part, device) for part in cast("tuple[Any, ...]", value))
    elif is_dataclass(value) and not isinstance(value, type):
        moved = replace(value, **{f.name: to_device(getattr(value, f.name), device) for f in fields(value)})
    return moved
