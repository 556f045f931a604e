"""Which device a system runs on. What is random is drawn by a processor and moved, so that all learn alike."""

# torch leaves parts of its interface untyped; what crosses it here is named where it is kept.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import os
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
#: What a device may be called; a card's kind may have a number, "cuda:1".
KINDS = ("cpu", "cuda", "mps", "xpu")
#: Kinds of numbers by their short names.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
#: What draws numbers by a generator.
DRAWS = (torch.rand, torch.randn, torch.randint, torch.randperm)


@dataclass(frozen=True)
class Card:
    """A card that torch can work on: how many bytes of memory it has, and how many of them are free."""

    device: torch.device
    name: str
    total: int
    free: int


def cards() -> list[Card]:
    """The cards that torch finds here, CUDA's first (AMD's are called so too), then Intel's, then Apple's."""
    found: list[Card] = []
    for kind, module in (("cuda", torch.cuda), ("xpu", torch.xpu)):
        if not module.is_available():
            continue
        for number in range(module.device_count()):
            free, total = module.mem_get_info(number)
            found.append(Card(torch.device(kind, number), str(module.get_device_name(number)), total, free))
    if torch.backends.mps.is_available():
        # Memory is shared with the processor: so much of it Metal is willing to use.
        total = torch.mps.recommended_max_memory()
        found.append(Card(torch.device("mps"), "Apple", total, max(0, total - torch.mps.driver_allocated_memory())))
    return found


def device_of(name: str) -> torch.device:
    """The device of a name: "cpu", "mps", "cuda" (the first), "cuda:1", "xpu"; "auto" is the card with the most free
    memory, the processor where there is none. Raises RequestError for one that torch has not here.
    """
    if name == "cpu":
        return CPU
    there = cards()
    if name == "auto":
        return max(there, key=lambda card: card.free).device if there else CPU
    for card in there:
        # A kind alone is the first of that kind.
        if name in (str(card.device), card.device.type):
            return card.device
    told = [f"{card.device} ({card.name}, {card.total / 1e9:.0f} GB)" for card in there]
    raise RequestError(
        "the device is {name!r}, which torch has not here; there is {listed}",
        name=name,
        listed=", ".join(("auto", "cpu", *told)),
    )


def dtypes_of(device: torch.device) -> tuple[str, ...]:
    """The kinds of numbers that a device works out by itself: a processor all, if slowly."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "fp32", "fp16"
    if device.type == "xpu" and not torch.xpu.is_bf16_supported():
        return "fp32", "fp16"
    if device.type == "mps" and not torch.backends.mps.is_macos_or_newer(14, 0):
        return "fp32", "fp16"
    return tuple(DTYPES)


def dtype_for(recipe: Recipe, device: torch.device, asked: str = "auto") -> str:
    """The numbers to draw a recipe in: on a card the first of the recipe's own that it has, else fp32, unless others
    are asked for. Raises RequestError for what is no kind of number or what the device has not.
    """
    if asked not in ("auto", *DTYPES):
        raise RequestError("dtype is {dtype!r}; expected auto, fp32, bf16 or fp16", dtype=asked)
    has = dtypes_of(device)
    if asked == "auto":
        return "fp32" if device.type == "cpu" else next((kind for kind in recipe.dtypes if kind in has), "fp32")
    if asked not in has:
        raise RequestError(
            "dtype is {dtype}, which {device} does not work out; it has {listed}",
            dtype=asked,
            device=device,
            listed=", ".join(has),
        )
    return asked


def dtype_warnings(recipe: Recipe, dtype: str) -> tuple[str, ...]:
    """What is to be said before a recipe is drawn in these numbers."""
    if dtype in ("fp32", *recipe.dtypes):
        return ()
    safe = ", ".join((*recipe.dtypes, "fp32"))
    return (
        say(
            "{name} is not known to stay finite in {dtype}; it does in {safe}", name=recipe.name, dtype=dtype, safe=safe
        ),
    )


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
