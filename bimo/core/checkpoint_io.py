"""Files of weights as data: .safetensors, or pickles read as weights alone; read, described and written."""

from __future__ import annotations

import contextlib
import json
import re
import zipfile
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bimo.core.errors import RecipeError, WeightsError
from bimo.core.files import write_whole
from bimo.core.messages import Message
from bimo.core.pages import release
from bimo.core.part import Part, loads
from bimo.core.quantization import INT8, KEY, SCALE, dequantized, is_quantized, quantized
from bimo.core.weight_formats import format_of, truncated, unreadable

if TYPE_CHECKING:
    import torch
    from torch import Tensor
from bimo.core.module_weights import CACHE_LINE_BYTES
from bimo.core.weights_pickle import tensors_in, unpickled, weights_table, without_objects

#: Bytes of a file that may be in memory beside what they were turned into.
HELD_BYTES = 256 << 20
#: Names of number formats in a .safetensors file.
NUMBERS = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


def read_hashes(path: Path) -> dict[str, str]:
    """The table of hashes beside some weights, {} where there is none."""
    if not path.is_file():
        return {}
    try:
        return {str(k): str(v) for k, v in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError, OSError):
        raise WeightsError("{path} is not a table of hashes", path=path) from None


def read_recipe(path: Path) -> Part:
    """The recipe in a folder. Raises WeightsError where there is none, RecipeError that names the file where it is
    wrong.
    """
    try:
        found = loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError("cannot read the recipe {path}: {error}", path=path, error=error) from None
    except RecipeError as error:
        raise RecipeError("{path}: {error}", path=path, error=error) from None
    if not isinstance(found, Part):
        raise RecipeError("{path} holds no recipe", path=path)
    return found


def read(path: Path, dtype: torch.dtype | None = None, keep: Callable[[str], bool] | None = None) -> dict[str, Tensor]:
    """The tensors of a file of safetensors, or of a pickle read as weights only, whatever its name ends in.

    They lie in the file until they are used: nothing is copied, but int8 is turned into float32. With ``dtype``
    floating ones are turned into that, a few at a time, so that the file and what it became are never in memory
    together. ``keep`` chooses by name. Raises WeightsError for a truncated file and for a pickle that holds anything
    but data: it would run code.
    """
    with _as_weights_error(path):
        names, tensor = _opened(path)
        found: dict[str, Tensor] = {}
        passed = 0
        for name in names if keep is None else filter(keep, names):
            value = tensor(name)
            if dtype is not None and value.is_floating_point() and value.dtype != dtype:
                read, value = value, value.to(dtype)
                passed += 0 if release(read) else read.nbytes
            found[name] = value
            if passed > HELD_BYTES:
                # Where pages cannot be given back one by one they leave memory with the mapping they belong to.
                names, tensor = _opened(path)
                passed = 0
    return found


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors in a file, read from its head or index alone. Raises WeightsError as ``read``."""
    with _as_weights_error(path):
        if format_of(path) == "safetensors":
            from safetensors import safe_open

            handle: Any = safe_open(path, framework="pt")
            names = _named(handle, path)
            return {name: tuple(handle.get_slice(name).get_shape()) for name in names}
        return {name: tuple(value.shape) for name, value in tensors_in(unpickled(path, "meta"), path).items()}


def surplus(path: Path) -> int:
    """How many entries a pickle holds beside its table of weights: optimizers, callbacks, counters."""
    with _as_weights_error(path):
        table: Any = {} if format_of(path) == "safetensors" else unpickled(path, "meta")
    return _count(table) - _count(weights_table(table)) if isinstance(table, dict) else 0


def contents(path: Path) -> Any:
    """Whatever a pickle holds, with tables for ParameterDicts, or the tensors of another file. Raises WeightsError as
    ``read``.
    """
    with _as_weights_error(path):
        if format_of(path) == "safetensors":
            names, tensor = _opened(path)
            return {name: tensor(name) for name in names}
        return without_objects(unpickled(path, "cpu"))


def unsound(path: Path) -> list[str]:
    """The names of a file's tensors with values that are no finite numbers. Raises WeightsError as ``read``."""
    with _as_weights_error(path):
        names, tensor = _opened(path)
        return [name for name in names if (v := tensor(name)).is_floating_point() and not bool(v.isfinite().all())]


def metadata(path: Path) -> dict[str, str]:
    """What a file of safetensors says of itself; {} for others. Raises WeightsError as ``read``."""
    with _as_weights_error(path):
        if format_of(path) != "safetensors":
            return {}
        from safetensors import safe_open

        return dict(cast(Any, safe_open(path, framework="pt")).metadata() or {})


def _opened(path: Path) -> tuple[list[str], Callable[[str], Tensor]]:
    """The names in a file, and what gives the tensor of a name, mapped from it."""
    if format_of(path) == "safetensors":
        from safetensors import safe_open

        handle: Any = safe_open(path, framework="pt")
        names, every = _named(handle, path), frozenset(handle.keys())

        def tensor(name: str) -> Tensor:
            value = handle.get_tensor(name)
            apart = len(names) < len(every) and name + SCALE in every
            return dequantized(value, handle.get_tensor(name + SCALE)) if apart else value

        return names, tensor
    state = tensors_in(unpickled(path, "cpu"), path)
    return list(state), state.__getitem__


def _named(handle: Any, path: Path) -> list[str]:
    """The names in an open file of safetensors, without those of the scales of what is int8 in it."""
    names: list[str] = list(handle.keys())
    if not is_quantized(handle.metadata() or {}, path):
        return names
    there = frozenset(names)
    return [name for name in names if not (name.endswith(SCALE) and name.removesuffix(SCALE) in there)]


def _count(value: Any) -> int:
    """The entries of a table, at any depth."""
    if isinstance(value, dict):
        return sum(_count(v) for v in cast("dict[str, Any]", value).values())
    return 1


@contextlib.contextmanager
def _as_weights_error(path: Path) -> Generator[None]:
    """Whatever a library says of a file that it cannot read, as WeightsError."""
    import pickle

    from safetensors import SafetensorError

    try:
        yield
    except pickle.UnpicklingError as error:
        # Of torch's many lines only what it met: the others say how to read the file all the same.
        found = re.search(r"GLOBAL (\S+)", str(error))
        if "truncated" in str(error):
            raise truncated(path, Message("its data break off")) from None
        if found is None:
            raise unreadable(
                path,
                Message(
                    "it is a pickle, but not a file of weights; name a .safetensors, or a whole .bin, .ckpt or .pt"
                ),
            ) from None
        raise WeightsError(
            "refused to read {path}: it is more than weights and would run code ({found}); ask for a .safetensors file",
            path=path,
            found=found[1],
        ) from None
    except EOFError:
        raise truncated(path, Message("its data break off")) from None
    except SafetensorError as error:
        if "not fully covered" in str(error):
            raise truncated(path, Message("its head tells of another size")) from None
        raise unreadable(path, Message("its head is wrong ({error}); download it again", error=error)) from None
    except (OSError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise unreadable(path, str(error)) from None


def write(
    path: Path, state: Mapping[str, Tensor], dtype: torch.dtype | None = None, about: Mapping[str, str] | None = None
) -> None:
    """Writes tensors as .safetensors, whole or not at all; floating ones as ``dtype`` where one is given. As int8 the
    larger matrices have a scale for each row, as ``quantization`` has it, and the rest stays as it is.

    One tensor at a time is in memory beside those given. ``about`` is what the file says of itself.
    """
    import torch

    if dtype == torch.int8:
        state, dtype, about = quantized(state), None, {KEY: INT8, **(about or {})}

    def kind(value: Tensor) -> torch.dtype:
        return dtype if dtype is not None and value.is_floating_point() else value.dtype

    head: dict[str, Any] = {"__metadata__": {"format": "pt", **(about or {})}}
    at = 0

    def order(name: str) -> tuple[int, bool, str]:
        """Wide numbers first, as safetensors itself has it, so that each begins at a multiple of its own size; of one
        width those first that leave the next at a cache line, so that nearly all can be used where they lie.
        """
        width = kind(state[name]).itemsize
        return -width, bool(state[name].numel() * width % CACHE_LINE_BYTES), name

    names = sorted(state, key=order)
    for name in names:
        size = state[name].numel() * kind(state[name]).itemsize
        head[name] = {"dtype": NUMBERS[str(kind(state[name])).removeprefix("torch.")]}
        head[name] |= {"shape": list(state[name].shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    # The first tensor begins at a cache line too.
    text += b" " * (-(8 + len(text)) % CACHE_LINE_BYTES)

    def pieces() -> Generator[bytes | memoryview]:
        yield len(text).to_bytes(8, "little") + text
        for name in names:
            value = state[name].detach().to("cpu", kind(state[name])).contiguous()
            if value.numel():
                yield memoryview(cast(Any, value.reshape(-1).view(torch.uint8).numpy()))

    write_whole(path, pieces())


def renamed(state: Mapping[str, Tensor], rename: Callable[[str], str | None]) -> dict[str, Tensor]:
    """Tensors under our names; a name for which ``rename`` answers None is one the publisher keeps for itself."""
    pairs = ((rename(name), value) for name, value in state.items())
    return {name: value for name, value in pairs if name is not None}
