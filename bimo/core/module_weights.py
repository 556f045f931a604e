"""Weights put into modules that were built without any: every missing, unexpected and misshapen name is reported."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bimo.core.errors import WeightsError
from bimo.core.messages import Listed, Message
from bimo.core.pages import release

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


NAMES_SHOWN = 6
#: Where torch puts tensors of its own: at multiples of this.
CACHE_LINE_BYTES = 64


def assign(
    module: nn.Module,
    state: Mapping[str, Tensor],
    dtype: torch.dtype | None,
    source: Path | str,
    spelt: Callable[[str], str] = str,
) -> None:
    """Puts tensors in the place of a module's own, without a copy of those. The module may be on the meta device.

    Raises WeightsError that lists missing, unexpected and misshapen names, each as ``spelt`` has it.
    """
    own = module.state_dict()
    missing = [spelt(n) for n in own if n not in state]
    unexpected = [spelt(n) for n in state if n not in own]
    misshapen = [
        f"{spelt(n)} {tuple(state[n].shape)}≠{tuple(v.shape)}"
        for n, v in own.items()
        if n in state and state[n].shape != v.shape
    ]
    differences = [
        *([Message("missing {names}", names=_shown(missing))] if missing else ()),
        *([Message("unexpected {names}", names=_shown(unexpected))] if unexpected else ()),
        *([Message("misshapen {names}", names=_shown(misshapen))] if misshapen else ()),
    ]
    if differences:
        raise WeightsError(
            "{source} does not fit the recipe: {differences}", source=source, differences=Listed(differences, ";")
        )
    fitted = {n: cast_to(v, dtype) if dtype is not None and v.is_floating_point() else v for n, v in state.items()}
    module.load_state_dict(fitted, strict=True, assign=True)


def cast_to(value: Tensor, dtype: torch.dtype, channels_last: bool = False) -> Tensor:
    """A tensor as ``dtype``, which is itself where it is that already; with ``channels_last`` the weights of 2-D
    convolutions lie in that order. What was read of its file to make it is not in memory any more.
    """
    import torch

    order = torch.channels_last if channels_last and value.ndim == 4 else torch.preserve_format
    turned = value.to(dtype, memory_format=order)
    if turned is not value:
        release(value)
    return turned


def aligned(value: Tensor) -> Tensor:
    """A tensor that begins at a cache line, where torch puts tensors of its own: products round otherwise elsewhere.
    It is a copy where it must be.
    """
    if not value.data_ptr() % CACHE_LINE_BYTES:
        return value
    copy = value.clone()
    release(value)
    return copy


@contextlib.contextmanager
def unfilled() -> Generator[None]:
    """Modules built inside have their parameters on the meta device, to be given by ``assign``; buffers are real."""
    import torch
    from torch.nn.modules.module import register_module_parameter_registration_hook

    def on_meta(module: nn.Module, name: str, parameter: torch.nn.Parameter | None) -> torch.nn.Parameter | None:
        return None if parameter is None else torch.nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    from torch.overrides import TorchFunctionMode

    # By name: transformers puts functions of its own in the place of torch's.
    random = {"normal_", "uniform_", "kaiming_uniform_"}

    class Undrawn(TorchFunctionMode):
        """Random numbers for tensors that hold none are not drawn: torch would load its compiler to do so."""

        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            named = kwargs or {}
            tensor: Any = args[0] if args else named.get("tensor")
            undrawn = getattr(func, "__name__", "") in random and isinstance(tensor, torch.Tensor) and tensor.is_meta
            return tensor if undrawn else func(*args, **named)

    handle = register_module_parameter_registration_hook(cast(Any, on_meta))
    try:
        with Undrawn():
            yield
    finally:
        handle.remove()


def _shown(names: list[str]) -> str:
    """The number of names, and the first of them."""
    more = f" … (+{len(names) - NAMES_SHOWN})" if len(names) > NAMES_SHOWN else ""
    return f"{len(names)}: {', '.join(names[:NAMES_SHOWN])}{more}"
