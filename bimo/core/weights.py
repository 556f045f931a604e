"""Weights as data: read safely, checked by hash, matched by name with every missing and unexpected one reported."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bimo.core.errors import WeightsError
from bimo.core.part import Part, loads
from bimo.core.types import write_whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CHUNK_BYTES = 1 << 20
NAMES_SHOWN = 6


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises WeightsError where it cannot be read."""
    total = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                total.update(chunk)
    except OSError as error:
        raise WeightsError(f"读不了 {path}：{error.strerror}", f"cannot read {path}: {error.strerror}") from None
    return total.hexdigest()


def verify(path: Path, expected: str) -> None:
    """Raises WeightsError where a file is not the one that was written."""
    found = digest(path)
    if found != expected:
        raise WeightsError(
            f"{path} 已损坏：SHA-256 是 {found}，应为 {expected}；请重新取得这个文件",
            f"{path} is damaged: its SHA-256 is {found}, expected {expected}; get the file again",
        )


def read_hashes(path: Path) -> dict[str, str]:
    """The table of hashes beside some weights, {} where there is none."""
    if not path.is_file():
        return {}
    try:
        return {str(k): str(v) for k, v in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError, OSError):
        raise WeightsError(f"{path} 不是哈希表", f"{path} is not a table of hashes") from None


def read_recipe(path: Path) -> Part:
    """The recipe in a folder. Raises WeightsError where there is none, RecipeError where it is wrong."""
    try:
        return loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"读不了配方 {path}：{error}", f"cannot read the recipe {path}: {error}") from None


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a pickle (.bin, .ckpt, .pt) read as weights only.

    Raises WeightsError for a truncated file and for a pickle that holds anything but data: it would run code.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            # torch warns of unusual pickles before it refuses them; the refusal below says it better.
            warnings.simplefilter("ignore")
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except pickle.UnpicklingError as error:
        told = str(error).splitlines()[0]
        raise WeightsError(
            f"拒绝读取 {path}：它不只是权重，打开会执行代码（{told}）；请向发布者要 .safetensors 文件",
            f"refused to read {path}: it is more than weights and would run code ({told}); ask for a .safetensors file",
        ) from None
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(f"读不了权重 {path}：{error}", f"cannot read the weights {path}: {error}") from None
    table = cast("dict[str, Any]", loaded) if isinstance(loaded, dict) else {}
    state: Any = table.get("state_dict", table)
    if not state or not isinstance(state, dict):
        raise WeightsError(f"{path} 里没有权重表", f"{path} holds no table of weights")
    return {str(k): v for k, v in cast("dict[str, Any]", state).items() if isinstance(v, torch.Tensor)}


def write(path: Path, state: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """Writes tensors whole or not at all; floating ones as ``dtype`` where one is given."""
    from safetensors.torch import save

    tensors = {
        name: (value.to(dtype) if dtype is not None and value.is_floating_point() else value).contiguous()
        for name, value in state.items()
    }
    write_whole(path, save(tensors))


def renamed(state: Mapping[str, Tensor], rename: Callable[[str], str | None]) -> dict[str, Tensor]:
    """Tensors under our names; a name for which ``rename`` answers None is one the publisher keeps for itself."""
    pairs = ((rename(name), value) for name, value in state.items())
    return {name: value for name, value in pairs if name is not None}


def assign(module: nn.Module, state: Mapping[str, Tensor], dtype: torch.dtype | None, source: Path) -> None:
    """Puts tensors in the place of a module's own, without a copy of those. The module may be on the meta device.

    Raises WeightsError that lists missing, unexpected and misshapen names.
    """
    own = module.state_dict()
    missing = [n for n in own if n not in state]
    unexpected = [n for n in state if n not in own]
    misshapen = [
        f"{n} {tuple(state[n].shape)}≠{tuple(v.shape)}"
        for n, v in own.items()
        if n in state and state[n].shape != v.shape
    ]
    found = (("缺少", "missing", missing), ("多出", "unexpected", unexpected), ("形状不对", "misshapen", misshapen))
    if any(names for *_, names in found):
        zh = "；".join(_listed(title, names) for title, _, names in found if names)
        en = "; ".join(_listed(title, names) for _, title, names in found if names)
        raise WeightsError(f"{source} 与配方不符：{zh}", f"{source} does not fit the recipe: {en}")
    fitted = {n: v.to(dtype) if dtype is not None and v.is_floating_point() else v for n, v in state.items()}
    module.load_state_dict(fitted, strict=True, assign=True)


@contextlib.contextmanager
def unfilled() -> Generator[None]:
    """Modules built inside have their parameters on the meta device, to be given by ``assign``; buffers are real."""
    import torch
    from torch.nn.modules.module import register_module_parameter_registration_hook

    def on_meta(module: nn.Module, name: str, parameter: torch.nn.Parameter | None) -> torch.nn.Parameter | None:
        return None if parameter is None else torch.nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    from torch.nn import init
    from torch.overrides import TorchFunctionMode

    random = {torch.Tensor.normal_, torch.Tensor.uniform_, init.normal_, init.uniform_, init.kaiming_uniform_}

    class Undrawn(TorchFunctionMode):
        """Random numbers for tensors that hold none are not drawn: torch would load its compiler to do so."""

        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            named = kwargs or {}
            tensor = args[0] if args else named.get("tensor")
            return tensor if func in random and tensor.is_meta else func(*args, **named)

    handle = register_module_parameter_registration_hook(cast(Any, on_meta))
    try:
        with Undrawn():
            yield
    finally:
        handle.remove()


def _listed(title: str, names: list[str]) -> str:
    more = f" … (+{len(names) - NAMES_SHOWN})" if len(names) > NAMES_SHOWN else ""
    return f"{title} {len(names)}: {', '.join(names[:NAMES_SHOWN])}{more}"
