"""A device without contents: what a step does on it shows where a tensor was left behind on the processor."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: torch's device of tensors that have all but their numbers: no operation takes them and a processor's together.
ELSEWHERE = torch.device("meta")
#: What brings a tensor from one device to another on purpose; the second is the first where gradients are off.
CASTS = {torch.ops.aten._to_copy.default, torch.ops.aten.to.dtype_layout}
COPIES = {*CASTS, torch.ops.aten.copy_.default}
#: What was asked for numbers since this was cleared: each waits for a device.
ASKED: list[str] = []


class OneDevice(TorchDispatchMode):
    """Raises AssertionError where an operation is given tensors of two devices. A number that was drawn or counted on
    the processor may go with tensors of any, as on a GPU.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func in CASTS and args[0].device == ELSEWHERE and _leaves(named):
            # Brought back on purpose: there were no numbers to bring.
            ASKED.append(str(func))
            kind = named.get("dtype") or args[0].dtype
            return brought_back(args[0]).to(kind)
        if func is torch.ops.aten.copy_.default and args[0].device.type == "cpu" and args[1].device == ELSEWHERE:
            ASKED.append(str(func))
            return args[0].copy_(brought_back(args[1]))
        given = list(_tensors((args, named)))
        devices = {tensor.device.type for tensor in given if tensor.ndim or tensor.device.type != "cpu"}
        indexed = func in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)
        if len(devices) > 1 and func not in COPIES:
            summary = ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for tensor in given)
            # An index of the processor is taken to the device by torch itself.
            assert indexed, f"{func} is given {summary}"
            assert given[0].device == ELSEWHERE, f"{func} is given {summary}"
        if func is torch.ops.aten.index.Tensor and args[0].device == ELSEWHERE and _is_mask(args[1]):
            return _all_of(args[0], args[1][0])
        if devices == {ELSEWHERE.type} and _is_fresh(func):
            return _answered(func, args, named)
        return func(*args, **named)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors among the arguments of an operation."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _tensors(each)


def _is_mask(indices: Any) -> bool:
    """Whether a tensor is indexed by one mask without contents: how many are taken only its numbers would say."""
    return len(indices) == 1 and indices[0].dtype == torch.bool and indices[0].device == ELSEWHERE


def _all_of(value: Tensor, mask: Tensor) -> Tensor:
    """What a mask takes of a value, as if all of it were True: as ``brought_back`` has it."""
    return torch.empty((mask.numel(), *value.shape[mask.ndim :]), dtype=value.dtype, device=ELSEWHERE)


#: Operation and what it was given, without contents -> the tensors that it answers: torch finds that out in Python, at
#: a hundred times the cost of asking here.
_ANSWERS: dict[Any, tuple[type | None, list[tuple[Any, ...]]]] = {}


@cache
def _is_fresh(func: Any) -> bool:
    """Whether an operation writes into nothing, and answers no view of what it was given."""
    schema = func._schema
    return not any(each.alias_info is not None for each in (*schema.arguments, *schema.returns))


def _answered(func: Any, args: Any, named: Any) -> Any:
    try:
        key = func, _described(args), _described(tuple(sorted(named.items())))
    except LookupError:
        return func(*args, **named)
    if key not in _ANSWERS:
        found = func(*args, **named)
        every = [found] if isinstance(found, Tensor) else found
        if isinstance(every, (list, tuple)) and all(isinstance(one, Tensor) and one.is_meta for one in every):
            several = None if isinstance(found, Tensor) else type(found)
            _ANSWERS[key] = several, [(one.shape, one.stride(), one.dtype) for one in every]
        return found
    several, every = _ANSWERS[key]
    made = [torch.empty_strided(shape, strides, dtype=dtype, device=ELSEWHERE) for shape, strides, dtype in every]
    return made[0] if several is None else several(made)


def _described(value: Any) -> Any:
    """All that a result without contents depends on. Raises LookupError for what this cannot say of."""
    if isinstance(value, Tensor):
        if not value.is_meta or value.is_complex():
            raise LookupError
        return Tensor, value.shape, value.stride(), value.dtype
    if isinstance(value, (list, tuple)):
        return tuple(map(_described, value))
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device, torch.memory_format)):
        return type(value), value
    raise LookupError


def brought_back(value: Any) -> Tensor:
    """A tensor as if its numbers had come back from a device: small ones; whatever is asked to be so is so."""
    settings = {torch.bool: True}.get(value.dtype, 0.01 if value.is_floating_point() else 0)
    return torch.full(value.shape, settings, dtype=value.dtype, device="cpu")


def _leaves(named: Any) -> bool:
    """Whether a copy goes to the processor."""
    return named.get("device") is not None and torch.device(named["device"]).type == "cpu"


@contextmanager
def counted() -> Generator[None]:
    """What asks a tensor of ``ELSEWHERE`` for its numbers is told some, as if they had come back from a device."""
    kept = {name: getattr(Tensor, name) for name in ("item", "__bool__", "__float__", "__int__", "tolist", "cpu")}

    def told(name: str, value: Any) -> Any:
        def ask(self: Tensor, *given: Any) -> Any:
            if self.device != ELSEWHERE:
                return kept[name](self, *given)
            ASKED.append(name)
            return value(self)

        return ask

    several = {"tolist": lambda self: brought_back(self).tolist(), "cpu": brought_back}
    single: dict[str, Any] = {
        "item": lambda _: 0,
        "__bool__": lambda _: True,
        "__float__": lambda _: 0.5,
        "__int__": lambda _: 1,
    }
    for name, value in (single | several).items():
        setattr(Tensor, name, told(name, value))
    autocast = torch.autocast

    def narrowed(device_type: str, *given: Any, **settings: Any) -> Any:
        # Of no such device there are narrower products.
        return nullcontext() if device_type == ELSEWHERE.type else autocast(device_type, *given, **settings)

    torch.autocast = narrowed  # type: ignore[assignment, misc]
    several_at_once: Any = torch.nn.utils.clip_grad
    asked, several_at_once._device_has_foreach_support = several_at_once._device_has_foreach_support, lambda *_: True
    adamw = torch.optim.AdamW

    def unfused(*given: Any, fused: bool | None = None, **settings: Any) -> torch.optim.Optimizer:
        return adamw(*given, **settings)

    torch.optim.AdamW = unfused  # type: ignore[assignment, misc]
    data: Any = Tensor.data

    def put(self: Tensor, value: Tensor) -> None:
        # Between a processor and a card torch swaps the contents itself.
        if (self.device == ELSEWHERE) == (value.device == ELSEWHERE):
            data.__set__(self, value)
        elif isinstance(self, torch.nn.Parameter):
            torch.utils.swap_tensors(self, torch.nn.Parameter(value, self.requires_grad))
        else:
            torch.utils.swap_tensors(self, value.detach())

    Tensor.data = property(data.__get__, put)  # type: ignore[assignment]
    try:
        yield
    finally:
        Tensor.data = data  # type: ignore[assignment]
        torch.optim.AdamW = adamw  # type: ignore[misc]
        torch.autocast = autocast  # type: ignore[misc]
        several_at_once._device_has_foreach_support = asked
        for name, method in kept.items():
            setattr(Tensor, name, method)
