"""Weights as data: read safely, matched by name with every missing and unexpected one reported."""

from __future__ import annotations

import contextlib
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bimo.core.errors import RecipeError, WeightsError
from bimo.core.files import write_whole
from bimo.core.messages import Both
from bimo.core.pages import release
from bimo.core.part import Part, loads
from bimo.core.quantization import INT8, KEY, SCALE, dequantized, is_quantized, quantized
from bimo.core.weight_formats import cut, format_of, unread

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

NAMES_SHOWN = 6
#: Where torch puts tensors of its own: at multiples of this.
CACHE_LINE_BYTES = 64
#: Tables of weights in the checkpoints of trainers.
TABLES = ("state_dict", "module", "model_state_dict", "ema")
#: Bytes of a file that may be in memory beside what they were turned into.
HELD_BYTES = 256 << 20
#: What trainers leave in a checkpoint beside the weights. Read as objects that do nothing.
TRAINERS = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "torch.nn.modules.container.ParameterDict",
)
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
    with _told(path):
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
    with _told(path):
        if format_of(path) == "safetensors":
            from safetensors import safe_open

            handle: Any = safe_open(path, framework="pt")
            names = _named(handle, path)
            return {name: tuple(handle.get_slice(name).get_shape()) for name in names}
        return {name: tuple(value.shape) for name, value in _state(_unpickled(path, "meta"), path).items()}


def surplus(path: Path) -> int:
    """How many entries a pickle holds beside its table of weights: optimizers, callbacks, counters."""
    with _told(path):
        table: Any = {} if format_of(path) == "safetensors" else _unpickled(path, "meta")
    return _count(table) - _count(_table(table)) if isinstance(table, dict) else 0


def contents(path: Path) -> Any:
    """Whatever a pickle holds, with tables for ParameterDicts, or the tensors of another file. Raises WeightsError as
    ``read``.
    """
    with _told(path):
        if format_of(path) == "safetensors":
            names, tensor = _opened(path)
            return {name: tensor(name) for name in names}
        return _plain(_unpickled(path, "cpu"))


def unsound(path: Path) -> list[str]:
    """The names of a file's tensors with values that are no finite numbers. Raises WeightsError as ``read``."""
    with _told(path):
        names, tensor = _opened(path)
        return [name for name in names if (v := tensor(name)).is_floating_point() and not bool(v.isfinite().all())]


def metadata(path: Path) -> dict[str, str]:
    """What a file of safetensors says of itself; {} for others. Raises WeightsError as ``read``."""
    with _told(path):
        if format_of(path) != "safetensors":
            return {}
        from safetensors import safe_open

        return dict(cast(Any, safe_open(path, framework="pt")).metadata() or {})


class Bookkeeping:
    """What stands in for the objects of a trainer that a checkpoint names beside its weights; it does nothing."""

    def __init__(self, *told: object) -> None:
        self.told = told

    def __setstate__(self, state: object) -> None:
        self.told = (state,)

    def __hash__(self) -> int:
        return 0


def _plain(value: Any) -> Any:
    """The same with tables in the place of the objects that held parameters."""
    if isinstance(value, Bookkeeping):
        state = value.told[0] if value.told else None
        parameters = cast("dict[str, Any]", state).get("_parameters") if isinstance(state, dict) else None
        return value if parameters is None else dict(parameters)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in cast("dict[Any, Any]", value).items()}
    return value


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
    state = _state(_unpickled(path, "cpu"), path)
    return list(state), state.__getitem__


def _named(handle: Any, path: Path) -> list[str]:
    """The names in an open file of safetensors, without those of the scales of what is int8 in it."""
    names: list[str] = list(handle.keys())
    if not is_quantized(handle.metadata() or {}, path):
        return names
    there = frozenset(names)
    return [name for name in names if not (name.endswith(SCALE) and name.removesuffix(SCALE) in there)]


def _unpickled(path: Path, device: str) -> Any:
    """What a pickle holds. Of torch's archives the tensors stay in the file until they are used."""
    import torch

    archive = format_of(path) == "archive"
    if archive:
        _stored(path)
    with warnings.catch_warnings(), torch.serialization.safe_globals([(Bookkeeping, name) for name in TRAINERS]):
        # torch warns of unusual pickles before it refuses them; the refusal below says it better.
        warnings.simplefilter("ignore")
        if path.suffix == ".safetensors":
            # By that ending torch would take it for one, so it is not given the name.
            with path.open("rb") as file:
                return torch.load(file, map_location=device, weights_only=True)
        return torch.load(path, map_location=device, weights_only=True, mmap=archive)


def _stored(path: Path) -> None:
    """Raises WeightsError for an archive that unpacks to more than it is: torch never compresses its own."""
    with zipfile.ZipFile(path) as archive:
        packed = [e.filename for e in archive.infolist() if e.compress_type != zipfile.ZIP_STORED]
        size = sum(entry.file_size for entry in archive.infolist())
    if packed or size > path.stat().st_size:
        raise WeightsError(
            "refused to read {path}: {count} entries are compressed and unpack to {size:,} bytes; torch does "
            "not write weights like that",
            path=path,
            count=len(packed),
            size=size,
        )


def _table(loaded: Any) -> Any:
    table = cast("dict[str, Any]", loaded) if isinstance(loaded, dict) else {}
    for name in TABLES:
        if isinstance(table.get(name), dict):
            return table[name]
    return table


def _below(name: str, table: dict[object, Any]) -> list[tuple[str, Any]]:
    return [(f"{name}.{key}", value) for key, value in table.items()]


def _state(loaded: Any, path: Path) -> dict[str, Tensor]:
    import torch

    table = cast("dict[object, Any]", _table(loaded))
    state = {str(k): v for k, v in table.items() if isinstance(v, torch.Tensor)}
    if not state:
        # Tables of several modules, as IP-Adapter's files have them.
        inner = ((k, v) for k, t in table.items() if isinstance(t, dict) for k, v in _below(str(k), cast(Any, t)))
        state = {k: v for k, v in inner if isinstance(v, torch.Tensor)}
    if not state:
        raise WeightsError("{path} holds no table of weights", path=path)
    return state


def _count(value: Any) -> int:
    """The entries of a table, at any depth."""
    if isinstance(value, dict):
        return sum(_count(v) for v in cast("dict[str, Any]", value).values())
    return 1


@contextlib.contextmanager
def _told(path: Path) -> Generator[None]:
    """Whatever a library says of a file that it cannot read, as WeightsError."""
    import pickle

    from safetensors import SafetensorError

    try:
        yield
    except pickle.UnpicklingError as error:
        # Of torch's many lines only what it met: the others say how to read the file all the same.
        found = re.search(r"GLOBAL (\S+)", str(error))
        if "truncated" in str(error):
            raise cut(path, "数据没有写完", "its data break off") from None
        if found is None:
            raise unread(
                path,
                "它是 pickle，但不是权重；请给 .safetensors，或完整的 .bin、.ckpt、.pt",
                "it is a pickle, but not a file of weights; name a .safetensors, or a whole .bin, .ckpt or .pt",
            ) from None
        raise WeightsError(
            "refused to read {path}: it is more than weights and would run code ({found}); ask for a .safetensors file",
            path=path,
            found=found[1],
        ) from None
    except EOFError:
        raise cut(path, "数据没有写完", "its data break off") from None
    except SafetensorError as error:
        if "not fully covered" in str(error):
            raise cut(path, "文件头说的大小与它不合", "its head tells of another size") from None
        raise unread(
            path, f"它的文件头有错（{error}）；请重新下载", f"its head is wrong ({error}); download it again"
        ) from None
    except (OSError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise unread(path, str(error), str(error)) from None


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
    found = (("缺少", "missing", missing), ("多出", "unexpected", unexpected), ("形状不对", "misshapen", misshapen))
    if any(names for *_, names in found):
        zh = "；".join(_listed(title, names) for title, _, names in found if names)
        en = "; ".join(_listed(title, names) for _, title, names in found if names)
        raise WeightsError("{source} does not fit the recipe: {near}", source=source, near=Both(zh, en))
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


def _listed(title: str, names: list[str]) -> str:
    more = f" … (+{len(names) - NAMES_SHOWN})" if len(names) > NAMES_SHOWN else ""
    return f"{title} {len(names)}: {', '.join(names[:NAMES_SHOWN])}{more}"
