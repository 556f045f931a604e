"""Networks worked out by OpenVINO instead of torch: on a processor it is two to four times as fast, and as exact.

What is converted are the blocks of a denoiser and the decoder of an autoencoder, which is where the time goes; what
joins them stays diffusers' own code. So whatever works between blocks (ControlNets, a step cache) works all the same,
every family of transformers is converted by one rule, and no more than one block is in memory twice. Shapes are left
open: one conversion serves every size and any number of rows.

A converted block is kept in the user's cache folder, by the weights it was made of, and read from there the next time.
"""

# openvino and nncf leave parts of their interface untyped, and so does torch's tracing.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import importlib.metadata
import json
import mmap
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bimo.core.errors import RequestError
from bimo.core.files import write_whole
from bimo.core.pages import release
from bimo.core.part import dumps
from bimo.diffusion.system import System

Precision = Literal["f32", "bf16", "int8"]

#: Raised when a block would be converted otherwise than before.
FORMAT = 1


@dataclass(frozen=True)
class Store:
    """Where converted blocks are kept: a folder of one system's weights, or None for memory alone."""

    folder: Path | None

    @classmethod
    def of(cls, system: System, root: Path) -> Store:
        """That of a system's weights below the cache folder."""
        import openvino

        versions = [openvino.__version__, torch.__version__, importlib.metadata.version("diffusers"), str(FORMAT)]
        # The same weights may be read with other settings: another width of heads, another clock.
        told = [_weights_of(system, root), dumps(system.recipe), *versions]
        key = hashlib.sha256("\n".join(told).encode()).hexdigest()[:24]
        return cls(root / "openvino" / key)

    def found(self, name: str) -> tuple[Path, dict[str, Any]] | None:
        """A block's file and what is told beside it; None where it was not converted yet."""
        if self.folder is None or not (self.folder / f"{name}.json").is_file():
            return None
        told = json.loads((self.folder / f"{name}.json").read_text("utf-8"))
        return self.folder / f"{name}.xml", told

    def write(self, name: str, model: Any, told: Mapping[str, Any], half: bool) -> Path | None:
        """Keeps a block; the note is written last, so that what was interrupted is not found. Answers its file, None
        where nothing can be kept there.
        """
        import openvino

        if self.folder is None:
            return None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder) as made:
                openvino.save_model(model, str(Path(made) / f"{name}.xml"), compress_to_fp16=half)
                (Path(made) / f"{name}.json").write_text(json.dumps(told), "utf-8")
                for ending in ("bin", "xml", "json"):
                    os.replace(Path(made) / f"{name}.{ending}", self.folder / f"{name}.{ending}")
        except OSError:
            return None
        return self.folder / f"{name}.xml"

    def calibrated(self, name: str) -> bool:
        """Whether there is int8 of a block."""
        return self.folder is not None and any(self.folder.glob(f"{name}.*.int8.json"))


class _Traced(nn.Module):
    """A block as a function of tensors alone; complex numbers as pairs."""

    def __init__(self, block: nn.Module, forward: Callable[..., Any], leaves: Sequence[Any], spec: Any) -> None:
        super().__init__()
        self.block = block
        self.called = forward
        self.leaves = leaves
        self.spec = spec
        self.answered: str = ""

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Tensors in the order of the leaves -> the tensors of the answer."""
        given = iter(tensors)
        leaves = [
            (torch.view_as_complex(next(given)) if leaf.is_complex() else next(given))
            if isinstance(leaf, Tensor)
            else leaf
            for leaf in self.leaves
        ]
        args, named = pytree.tree_unflatten(leaves, self.spec)
        answer, spec = pytree.tree_flatten(self.called(*args, **named))
        self.answered = pytree.treespec_dumps(spec)
        return tuple(answer)


def _bordered(leaf: Tensor) -> Tensor:
    """A tensor as OpenVINO takes it: float32 for whatever kind of float, pairs for complex numbers."""
    if leaf.is_complex():
        leaf = torch.view_as_real(leaf)
    return (leaf.float() if leaf.is_floating_point() else leaf).contiguous()


def _weights_of(system: System, root: Path) -> str:
    """The SHA-256 of a system's weights. It takes seconds where they are gigabytes, so it is kept by the names, sizes
    and dates of the files: whatever is written to a file changes those.
    """
    try:
        states = [(file.resolve(), file.stat()) for file in system.files]
    except OSError:
        states = []
    if not states:
        return system.weights_hash
    told = "\n".join(f"{path} {state.st_size} {state.st_mtime_ns} {state.st_ino}" for path, state in states)
    note = root / "openvino" / f"weights-{hashlib.sha256(told.encode()).hexdigest()[:24]}"
    try:
        return note.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        found = system.weights_hash
    with contextlib.suppress(OSError):  # worked out again the next time
        note.parent.mkdir(parents=True, exist_ok=True)
        write_whole(note, found.encode("ascii"))
    return found


@dataclass
class _Compiled:
    request: Any
    answered: Any
    model: Any
    #: Whether the pages of its file were given back: once it has worked, OpenVINO has its own copy of the weights.
    rested: bool = False


class ConvertedBlock:
    """One block: stands in for its ``forward``. It is converted, or read, when it is first called, as what it is called
    with says what there is to convert; its weights leave memory then.
    """

    def __init__(self, name: str, block: nn.Module, precision: Precision, store: Store) -> None:
        self.name = name
        self.block = block
        self.precision: Precision = precision
        self.store = store
        #: What it was called with, by the key of its conversion, while int8 is being calibrated.
        self.samples: dict[str, list[list[Any]]] | None = None
        if isinstance(block.forward, ConvertedBlock):
            block.forward.restore()  # it was another engine's
        self._own: Callable[..., Any] = block.forward
        self._lock = threading.Lock()
        self._compiled: dict[str, _Compiled] = {}
        self._weights = {key: p.data for key, p in block.named_parameters()}
        self._empty()
        block.forward = self  # type: ignore[method-assign]

    def restore(self) -> None:
        """The block as it was."""
        self._compiled.clear()
        self._fill()
        self.block.forward = self._own  # type: ignore[method-assign]

    def _empty(self) -> None:
        for parameter in self.block.parameters():
            parameter.data = torch.empty(0)

    def _fill(self, dtype: torch.dtype | None = None) -> None:
        for key, parameter in self.block.named_parameters():
            parameter.data = self._weights[key] if dtype is None else self._weights[key].to(dtype)

    def __call__(self, *args: Any, **named: Any) -> Any:
        leaves, spec = pytree.tree_flatten((args, named))
        tensors = [_bordered(leaf) for leaf in leaves if isinstance(leaf, Tensor)]
        kind = next((leaf.dtype for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()), None)
        with self._lock:
            key = self._key(leaves, spec)
            if key not in self._compiled:
                self._compiled[key] = self._ready(key, leaves, spec, tensors)
            if self.samples is not None:
                self.samples.setdefault(key, []).append([tensor.clone().numpy() for tensor in tensors])
            made = self._compiled[key]
            made.request.infer([tensor.numpy() for tensor in tensors], share_inputs=True)
            count = len(made.request.model_outputs)
            outputs = [torch.from_numpy(made.request.get_output_tensor(place).data.copy()) for place in range(count)]
            if not made.rested:
                made.rested = True
                _release(made.model)
        answers = [value.to(kind) if kind is not None and value.is_floating_point() else value for value in outputs]
        return pytree.tree_unflatten(answers, made.answered)

    def quantise(self) -> None:
        """Makes int8 of what was recorded: weights channel by channel, what flows by the ranges that were seen (NNCF's
        post-training quantisation).
        """
        nncf = _nncf()
        for key, samples in (self.samples or {}).items():
            before = self._compiled.pop(key)
            model: Any = before.model
            with contextlib.redirect_stdout(sys.stderr):  # its progress is not what a command answers
                quantised = nncf.quantize(
                    model,
                    nncf.Dataset(samples),
                    subset_size=len(samples),
                    model_type=nncf.ModelType.TRANSFORMER,
                    fast_bias_correction=True,
                )
            told = {"answered": pytree.treespec_dumps(before.answered)}
            path = self.store.write(self._file(key), quantised, told, half=True)
            self._compiled[key] = self._compile(quantised if path is None else path, told)
        self.samples = None

    @staticmethod
    def _key(leaves: Sequence[Any], spec: Any) -> str:
        """What a call must have in common to be served by one conversion: all but values, and lengths of axes."""
        kinds = [(leaf.ndim, leaf.is_complex()) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves]
        return hashlib.sha256(f"{spec} {kinds}".encode()).hexdigest()[:12]

    def _file(self, key: str, kind: str = "") -> str:
        # f16 is finer than bf16 where weights lie, and half of f32: what is worked out in bf16 is kept so.
        return f"{self.name}.{key}.{kind or {'f32': 'f32', 'bf16': 'f16', 'int8': 'int8'}[self.precision]}"

    def _ready(self, key: str, leaves: Sequence[Any], spec: Any, tensors: Sequence[Tensor]) -> _Compiled:
        names = [self._file(key)] + [self._file(key, "f16")] * (self.precision == "int8")
        found = next((each for name in names if (each := self.store.found(name)) is not None), None)
        if found is not None:
            return self._compile(*found)
        model, told = self._converted(leaves, spec, tensors)
        path = self.store.write(names[-1], model, told, half=self.precision != "f32")
        return self._compile(model if path is None else path, told)

    def _converted(self, leaves: Sequence[Any], spec: Any, tensors: Sequence[Tensor]) -> tuple[Any, dict[str, Any]]:
        """The block as OpenVINO's model, and what is told beside it. Raises RequestError where it cannot be."""
        self._fill(torch.float32)
        traced = _Traced(self.block, self._own, leaves, spec).eval()
        try:
            with torch.no_grad():
                model = converted(traced, tensors)
        except Exception as error:  # a network that it does not know raises all sorts, of its own and of torch
            raise RequestError(
                "OpenVINO cannot work out {name} ({error}); draw with --engine torch or --engine torch-bf16",
                name=self.name,
                error=(str(error).strip().splitlines() or [type(error).__name__])[0],
            ) from error
        finally:
            self._empty()
        return model, {"answered": traced.answered}

    def _compile(self, model: Any, told: Mapping[str, Any]) -> _Compiled:
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": "f32" if self.precision == "f32" else "bf16",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
        }
        core = openvino.Core()
        read: Any = core.read_model(str(model)) if isinstance(model, Path) else model
        request = core.compile_model(read, "CPU", settings).create_infer_request()
        return _Compiled(request, pytree.treespec_loads(told["answered"]), read)


def converted(module: nn.Module, tensors: Sequence[Tensor]) -> Any:
    """A module as OpenVINO's model, traced as called with some tensors; shapes stay open.

    By the parts that ``openvino.convert_model`` consists of: that one sends word to its maker of being used.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    frontend: Any = FrontEndManager().load_by_framework("pytorch")
    example = tuple(tensor.clone() for tensor in tensors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every branch that looks at a shape, and of its own age
        decoder = TorchScriptPythonDecoder(module, example_input=example)  # which the frontend does not keep alive
    return frontend.convert(frontend.load(decoder))


def _nncf() -> Any:
    """The library, which when it is imported so sends no word of being used."""
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"
    try:
        return importlib.import_module("nncf")
    finally:
        if before is None:
            del os.environ["NNCF_CI"]
        else:
            os.environ["NNCF_CI"] = before


def _release(model: Any) -> None:
    """Gives back the pages of the file that a model's weights were read from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of memory that it may not write to, which it does not
        for node in model.get_ops():
            if node.get_type_name() == "Constant" and (data := node.data).nbytes >= mmap.PAGESIZE:
                release(torch.from_numpy(data))


def blocks(system: System) -> dict[str, nn.Module]:
    """What is converted of a system, by name: of each denoiser made of diffusers' networks the blocks that are
    repeated, and the decoder of each autoencoder.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.modeling_utils import ModelMixin

    found: dict[str, nn.Module] = {}
    networks: list[str] = []
    for level in system.recipe.levels:
        built = system.level(level.name)
        for path, module in built.denoiser.named_modules(prefix=f"{level.name}.denoiser"):
            # A network may be made of networks: a UNet's layers of attention are some.
            if isinstance(module, ModelMixin) and not any(path.startswith(f"{outer}.") for outer in networks):
                networks.append(path)
                found |= {f"{path}.{name}": block for name, block in repeated(module)}
        for path, module in built.named_modules(prefix=level.name):
            if isinstance(module, AutoencoderKL):
                found[f"{path}.decoder"] = module.decoder
    return found


def repeated(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The repeated blocks of a network, and the middle one of a UNet. A UNet's first and last block are taken layer by
    layer, as DeepCache goes between their layers.
    """
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    for name, child in network.named_children():
        if name == "mid_block":
            yield name, child
        if not isinstance(child, nn.ModuleList):
            continue
        for place, block in enumerate(child):
            outer = isinstance(network, UNet2DConditionModel) and (
                (name == "down_blocks" and place == 0) or (name == "up_blocks" and place == len(child) - 1)
            )
            if not outer:
                yield f"{name}.{place}", block
                continue
            for inner, layers in block.named_children():
                for number, layer in enumerate(cast(nn.ModuleList, layers)):
                    yield f"{name}.{place}.{inner}.{number}", layer


class OpenVino:
    """A system's blocks, converted."""

    def __init__(self, system: System, precision: Precision, root: Path | None) -> None:
        found = blocks(system)
        if not found:
            raise RequestError(
                "{name} has no network of diffusers, which --engine openvino converts; leave --engine out",
                name=system.recipe.name,
            )
        self.precision: Precision = precision
        self.store = Store(None) if root is None else Store.of(system, root)
        self.converted = [ConvertedBlock(name, block, precision, self.store) for name, block in found.items()]

    def restore(self) -> None:
        """The system as it was."""
        for block in self.converted:
            block.restore()

    def calibrate(self, draw: Callable[[], object]) -> None:
        """For int8: has a picture drawn where a block was not calibrated yet, and quantises by what went through."""
        if self.precision != "int8" or all(self.store.calibrated(block.name) for block in self.converted):
            return
        for block in self.converted:
            block.samples = {}
        draw()
        for block in self.converted:
            block.quantise()
        gc.collect()
