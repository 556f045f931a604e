"""Inference by OpenVINO instead of torch: two to four times as fast on a CPU, at the same precision.

The repeated blocks of a denoiser and of text encoders and the decoder of an autoencoder are converted, which is where
the time goes; the code around them stays diffusers' and transformers'. Whatever works between blocks (ControlNets, a
step cache, CLIP's skipped layers) therefore still works, one rule converts every family of transformers, and only one
block at a time is in memory twice. Shapes are dynamic: one conversion serves every size, length and batch.

Text encoders are of too many makes for all to be converted: one whose blocks OpenVINO cannot convert, or answers
wrongly, is left to torch, with a warning.

Converted blocks are cached on disk, keyed by a hash of the weights.
"""

# openvino and nncf leave parts of their interface untyped, and so does torch's tracing.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false

from __future__ import annotations

import gc
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bimo.core.errors import RequestError
from bimo.core.messages import say
from bimo.core.pages import release, trim
from bimo.diffusion.system import System
from bimo.engine.compile import repeated_blocks
from bimo.engine.openvino_cache import ConversionCache
from bimo.engine.openvino_convert import compressed, converted, quantised_model
from bimo.engine.openvino_infer import CompiledBlock, of_pictures

#: "int8" quantises weights and activations and has to be calibrated, "int8-weights" quantises weights alone.
Precision = Literal["f32", "bf16", "int8", "int8-weights"]
#: What text encoders are converted to beside a denoiser. A calibration on one prompt would not hold for others.
OF_TEXT: dict[Precision, Precision] = {"f32": "f32", "bf16": "bf16", "int8": "int8-weights"}
#: The end of an autoencoder's decoder's name. With int8 it stays in bf16: it runs once a picture, is calibrated on a
#: single latent of fewer steps, and its errors are the picture's (docs/en/speed.md has what each loses).
DECODER = ".decoder"
#: Where a text encoder has the tower that reads pictures.
VISION = "visual."
#: The largest error of a converted block of a text encoder against torch's float32, relative to the norm of its output.
LARGEST_ERROR: dict[Precision, float] = {"f32": 1e-3, "bf16": 5e-2, "int8-weights": 5e-2}


class _ConversionError(Exception):
    """Why a block cannot be converted, or what is wrong with what it was converted to."""


class _Traced(nn.Module):
    """Wraps a block's ``forward`` as a function of tensors only, for tracing; complex tensors come as real pairs."""

    def __init__(self, block: nn.Module, forward: Callable[..., Any], leaves: Sequence[Any], spec: Any) -> None:
        super().__init__()
        self.block = block
        self.wrapped_forward = forward
        self.leaves = leaves
        self.spec = spec
        #: The structure of the output, as JSON: blocks of T5 answer None beside tensors.
        self.note: dict[str, Any] = {}

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Takes the tensors in the order of the flattened arguments; returns the flattened output."""
        inputs = iter(tensors)
        leaves = [
            (torch.view_as_complex(next(inputs)) if leaf.is_complex() else next(inputs))
            if isinstance(leaf, Tensor)
            else leaf
            for leaf in self.leaves
        ]
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        results, spec = pytree.tree_flatten(self.wrapped_forward(*args, **kwargs))
        self.note = {
            "answered": pytree.treespec_dumps(spec),
            "tensors": [place for place, value in enumerate(results) if value is not None],
        }
        return tuple(value for value in results if value is not None)


def _as_openvino_input(leaf: Tensor) -> Tensor:
    """A tensor as OpenVINO takes it: complex numbers as real pairs, and floating dtypes but bfloat16 as float32."""
    if leaf.is_complex():
        leaf = torch.view_as_real(leaf)
    return leaf.float() if leaf.is_floating_point() and leaf.dtype != torch.bfloat16 else leaf


def _exact(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Inputs in float32, to trace with, to compare and to calibrate on."""
    return [(tensor.float() if tensor.is_floating_point() else tensor).contiguous() for tensor in tensors]


class ConvertedBlock:
    """Replaces a block's ``forward``. The block is converted, or read from the cache, at its first call, as tracing
    needs example inputs; its torch weights are released then.
    """

    def __init__(
        self,
        name: str,
        block: nn.Module,
        precision: Precision,
        cache: ConversionCache,
        fall_back: Callable[[str, torch.dtype | None], None] | None = None,
    ) -> None:
        self.name = name
        self.block = block
        self.precision: Precision = precision
        self.cache = cache
        #: Called with what is wrong and the dtype of the inputs when the block cannot be converted, to restore it and
        #: others. With it the answer of a new conversion is compared with torch's. Without it the error is raised.
        self.fall_back = fall_back
        #: Recorded inputs by conversion key while int8 is being calibrated, else None.
        self.samples: dict[str, list[list[Any]]] | None = None
        if isinstance(block.forward, ConvertedBlock):
            block.forward.restore()  # converted by another engine
        self._own: Callable[..., Any] = block.forward
        self._lock = threading.Lock()
        self._compiled: dict[str, CompiledBlock] = {}
        self._pictures = of_pictures(block)
        self._weights = {key: p.data for key, p in block.named_parameters()}
        self._empty()
        block.forward = self  # type: ignore[method-assign]

    def restore(self, dtype: torch.dtype | None = None) -> None:
        """Gives the block its own ``forward`` and weights back, these as they were or in ``dtype``."""
        self._compiled.clear()
        self._fill(dtype)
        self.block.forward = self._own  # type: ignore[method-assign]

    def _empty(self) -> None:
        for parameter in self.block.parameters():
            parameter.data = torch.empty(0)

    def _fill(self, dtype: torch.dtype | None = None) -> None:
        for key, parameter in self.block.named_parameters():
            parameter.data = self._weights[key] if dtype is None else self._weights[key].to(dtype)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        tensors = [_as_openvino_input(leaf) for leaf in leaves if isinstance(leaf, Tensor)]
        dtype = next((leaf.dtype for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()), None)
        with self._lock:
            key = self._key(leaves, spec)
            if key not in self._compiled:
                try:
                    self._compiled[key] = self._load_or_convert(key, leaves, spec, tensors, dtype)
                except _ConversionError as error:
                    if self.fall_back is None:
                        raise RequestError(
                            "OpenVINO cannot work out {name} ({error}); draw with --engine torch or --engine "
                            "torch-bf16",
                            name=self.name,
                            error=error,
                        ) from error
                    self.fall_back(str(error), dtype)
                    return self._own(*args, **kwargs)
            if self.samples is not None:
                self.samples.setdefault(key, []).append([tensor.clone().numpy() for tensor in _exact(tensors)])
            compiled = self._compiled[key]
            results = compiled(tensors)
        spec = pytree.treespec_loads(compiled.note["answered"])
        leaves_out: list[Any] = [None] * spec.num_leaves
        for place, value in zip(compiled.note["tensors"], results, strict=True):
            leaves_out[place] = value
        return pytree.tree_unflatten(leaves_out, spec)

    def rest(self) -> None:
        """Frees the memory that is kept for the next call."""
        with self._lock:
            for compiled in self._compiled.values():
                compiled.rest()

    def quantise(self) -> None:
        """Quantises to int8 with the recorded inputs: weights per channel, activations by their observed ranges (NNCF's
        post-training quantisation).
        """
        for key, samples in (self.samples or {}).items():
            before = self._compiled.pop(key)
            quantised = quantised_model(before.model, samples)
            path = self.cache.write(self._file(key), quantised, before.note, half=True)
            given = [torch.empty(0, dtype=torch.bfloat16 if half else torch.float32) for half in before.halves]
            self._compiled[key] = self._compile(quantised if path is None else path, before.note, given, before.answer)
        self.samples = None

    @staticmethod
    def _key(leaves: Sequence[Any], spec: Any) -> str:
        """The key of a conversion: the structure of the arguments and the ranks and dtypes of tensors, not sizes or
        values.
        """
        kinds = [(leaf.ndim, str(leaf.dtype)) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves]
        return hashlib.sha256(f"{spec} {kinds}".encode()).hexdigest()[:12]

    def _file(self, key: str, kind: str = "") -> str:
        # bf16 inference is stored as f16: half the size of f32, and more precise than bf16 in the range of weights.
        return f"{self.name}.{key}.{kind or ('f16' if self.precision == 'bf16' else self.precision)}"

    def _load_or_convert(
        self, key: str, leaves: Sequence[Any], spec: Any, tensors: Sequence[Tensor], dtype: torch.dtype | None
    ) -> CompiledBlock:
        names = [self._file(key)] + [self._file(key, "f16")] * (self.precision == "int8")
        stored = next((each for name in names if (each := self.cache.find(name)) is not None), None)
        if stored is not None:
            return self._compile(*stored, tensors, dtype)
        model, note, expected = self._convert(leaves, spec, _exact(tensors))
        if self.precision == "int8-weights":
            model = compressed(model)
        if self.fall_back is not None:
            self._check(self._compile(model, note, tensors, dtype)(tensors), expected)
        path = self.cache.write(names[-1], model, note, half=self.precision != "f32")
        return self._compile(model if path is None else path, note, tensors, dtype)

    def _check(self, outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
        pairs = zip(outputs, expected, strict=True)
        error = max(float((one.float() - other).norm() / other.norm().clamp_min(1e-12)) for one, other in pairs)
        # A comparison with NaN is false.
        if not error <= LARGEST_ERROR[self.precision]:
            raise _ConversionError(say("its answer is {error:.0e} off", error=error))

    def _convert(
        self, leaves: Sequence[Any], spec: Any, tensors: Sequence[Tensor]
    ) -> tuple[Any, dict[str, Any], tuple[Tensor, ...]]:
        """The block as an OpenVINO model, its note, and torch's outputs in float32 where they are to be compared.
        Raises _ConversionError.
        """
        self._fill(torch.float32)
        traced = _Traced(self.block, self._own, leaves, spec).eval()
        try:
            with torch.no_grad():
                model = converted(traced, tensors)
                expected = () if self.fall_back is None else traced(*tensors)
        except Exception as error:  # unsupported networks raise exceptions of many types, OpenVINO's and torch's
            raise _ConversionError((str(error).strip().splitlines() or [type(error).__name__])[0]) from error
        finally:
            self._empty()
            for weight in self._weights.values():
                release(weight)
        return model, traced.note, expected

    def _compile(
        self, model: Any, note: Mapping[str, Any], given: Sequence[Tensor], dtype: torch.dtype | None
    ) -> CompiledBlock:
        return CompiledBlock(model, note, self.precision, given, dtype, pictures=self._pictures)


def blocks(system: System, *, outer: bool = True) -> dict[str, nn.Module]:
    """The modules to convert, by name: the repeated blocks of diffusers' networks in each denoiser, with those at a
    UNet's full resolution if ``outer``, and the decoder of each autoencoder.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.modeling_utils import ModelMixin

    by_name: dict[str, nn.Module] = {}
    networks: list[str] = []
    for level in system.recipe.levels:
        built = system.level(level.name)
        for path, module in built.denoiser.named_modules(prefix=f"{level.name}.denoiser"):
            # ModelMixins nest: a UNet's attention layers are some, too.
            if isinstance(module, ModelMixin) and not any(path.startswith(f"{above}.") for above in networks):
                networks.append(path)
                by_name |= {f"{path}.{name}": block for name, block in repeated(module, outer=outer)}
        for path, module in built.named_modules(prefix=level.name):
            if isinstance(module, AutoencoderKL):
                by_name[path + DECODER] = module.decoder
    return by_name


def text_blocks(system: System) -> dict[str, list[tuple[str, nn.Module]]]:
    """The repeated blocks of each text encoder with their names. Towers that read pictures are left out: their code
    branches by the sizes of the pictures, which tracing would fix.
    """
    found: dict[str, list[tuple[str, nn.Module]]] = {}
    for index, encoder in enumerate(system.text):
        ids = {id(block) for block in repeated_blocks(encoder)}
        named = ((path, module) for path, module in encoder.named_modules() if not path.startswith(VISION))
        rows = [(f"text.{index}.{path}", module) for path, module in named if id(module) in ids]
        if rows:
            found[f"text.{index}"] = rows
    return found


def repeated(network: nn.Module, *, outer: bool = True) -> Iterator[tuple[str, nn.Module]]:
    """The repeated blocks of a network, and a UNet's middle block. A UNet's first and last block, left out without
    ``outer``, are split into layers, as DeepCache works between these.
    """
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    for name, child in network.named_children():
        if name == "mid_block":
            yield name, child
        if not isinstance(child, nn.ModuleList):
            continue
        for place, block in enumerate(child):
            outermost = isinstance(network, UNet2DConditionModel) and (
                (name == "down_blocks" and place == 0) or (name == "up_blocks" and place == len(child) - 1)
            )
            if not outermost:
                yield f"{name}.{place}", block
            if not outermost or not outer:
                continue
            for inner, layers in block.named_children():
                for number, layer in enumerate(cast(nn.ModuleList, layers)):
                    yield f"{name}.{place}.{inner}.{number}", layer


def torch_has_amx() -> bool:
    """Whether torch multiplies bfloat16 by AMX. At a UNet's full resolution, of many places and few channels, that
    takes less time than 8 bits by OpenVINO, which has to round and reorder each layer's input.
    """
    return torch.cpu._is_amx_tile_supported()  # pyright: ignore[reportPrivateUsage]


class OpenVino:
    """Converts the blocks of a system in place; ``restore`` undoes it."""

    def __init__(self, system: System, precision: Precision, root: Path | None) -> None:
        by_name = blocks(system, outer=precision != "int8" or not torch_has_amx())
        if not by_name:
            raise RequestError(
                "{name} has no network of diffusers, which --engine openvino converts; leave --engine out",
                name=system.recipe.name,
            )
        self.precision: Precision = precision
        self.cache = ConversionCache(None) if root is None else ConversionCache.of(system, root)
        self.converted = [
            ConvertedBlock(
                name, block, "bf16" if precision == "int8" and name.endswith(DECODER) else precision, self.cache
            )
            for name, block in by_name.items()
        ]
        #: Text encoders that were left to torch, as sentences.
        self.warnings: list[str] = []
        self.texts = {
            name: [
                ConvertedBlock(path, block, OF_TEXT[precision], self.cache, partial(self._left_to_torch, name))
                for path, block in rows
            ]
            for name, rows in text_blocks(system).items()
        }

        self._hooks = [
            hook
            for block in self.converted
            if block.name.endswith(DECODER)
            for hook in (
                block.block.register_forward_pre_hook(self._before_decoding),
                block.block.register_forward_hook(partial(self._after_decoding, block)),
            )
        ]

    def _after_decoding(self, decoder: ConvertedBlock, *_: object) -> None:
        decoder.rest()
        trim()

    def _before_decoding(self, *_: object) -> None:
        """A drawing's other blocks are done, or wait for longer than it takes to make their memory anew."""
        for block in itertools.chain(self.converted, *self.texts.values()):
            block.rest()
        trim()

    def _left_to_torch(self, name: str, error: str, dtype: torch.dtype | None) -> None:
        for block in self.texts[name]:
            block.restore(dtype)
        self.warnings.append(
            say("OpenVINO cannot work out the text encoder {name} ({error}), so torch does", name=name, error=error)
        )

    def restore(self) -> None:
        """Gives all blocks their torch weights back."""
        for hook in self._hooks:
            hook.remove()
        for block in itertools.chain(self.converted, *self.texts.values()):
            block.restore()

    def calibrate(self, draw: Callable[[], object]) -> None:
        """For int8: unless its blocks are in the cache, records the inputs of one drawing and quantises with them."""
        quantised = [block for block in self.converted if block.precision == "int8"]
        if all(self.cache.calibrated(block.name) for block in quantised):
            return
        for block in quantised:
            block.samples = {}
        draw()
        for block in quantised:
            block.quantise()
        gc.collect()
