"""GGUF files of denoisers, quantised to 2 to 8 bits, as ComfyUI and stable-diffusion.cpp write them. Text encoders (or
one in another file: ``gguf_text``), autoencoder, tokenizers and scheduler come from a folder of the same family.

The family is detected by the names of the tensors. Matrices of linear layers stay quantised and are dequantised in each
call, by the functions of diffusers' GGUF quantiser; other quantised tensors are dequantised when they are loaded.
"""

# gguf has no types, and diffusers' GGUFParameter is private to its quantiser.
# pyright: reportMissingTypeStubs=false, reportMissingImports=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from bimo.core import module_weights
from bimo.core.errors import RequestError, WeightsError
from bimo.core.installing import installing
from bimo.core.messages import Message
from bimo.core.weight_formats import unreadable
from bimo.models.adapters.lora_names import pieces_by_name
from bimo.models.stable_diffusion import ldm_names

Value = TypeVar("Value")

EXTRA = "gguf"
#: The metadata field with the architecture.
ARCHITECTURE_KEY = "general.architecture"
#: The prefix of a denoiser's tensors in a file of a whole model.
PREFIX = "model.diffusion_model."
#: The metadata fields in which ComfyUI's converter stores the shape of a tensor that it had to reshape into blocks.
SHAPE_KEY = "comfy.gguf.orig_shape."
#: A tensor of what Tencent draws with, pictures or films.
HUNYUAN = "txt_in.input_embedder.weight"
#: A tensor that only this family has -> the family's name, and the recipe with the other components: "" if the names of
#: tensors do not determine it, None if it is not supported.
FAMILIES: Mapping[str, tuple[str, str | None]] = {
    "siglip_pad_token": ("Z-Image-Omni", "z-image-omni"),
    "x_pad_token": ("Z-Image", "z-image"),
    "txt_norm.weight": ("Qwen-Image", "qwen-image"),
    "txt_in.text_norm.weight": ("Qwen-Image-2.1", "qwen-image-2.1"),
    "byt5_in.fc1.weight": ("HunyuanImage-2.1", "hunyuan-image-2.1"),
    HUNYUAN: ("HunyuanImage-2.1 refiner / HunyuanVideo", ""),
    "input_blocks.0.0.weight": ("Stable Diffusion", ""),
    "double_blocks.0.img_attn.qkv.weight": ("FLUX", None),
    "joint_blocks.0.x_block.attn.qkv.weight": ("Stable Diffusion 3", None),
    "token_embd.weight": ("a text encoder (--text-encoder)", None),
}
#: Recipes of a family whose tensors have the same names, by the first pattern that matches the name of the file.
NAMED: Mapping[str, tuple[tuple[str, str], ...]] = {
    "z-image": (("turbo", "z-image-turbo"),),
    "qwen-image": (
        (r"edit.*2511", "qwen-image-edit-2511"),
        (r"edit.*2509|edit.?plus", "qwen-image-edit-2509"),
        (r"edit", "qwen-image-edit"),
        (r"2512", "qwen-image-2512"),
    ),
    "hunyuan-image-2.1": (("distill", "hunyuan-image-2.1-distilled"),),
}
#: The tensor that of its family only Qwen-Image-Layered has.
LAYERED = "time_text_embed.addition_t_embedding.weight"
#: Layers that their authors name otherwise than diffusers' network does: Z-Image's, Qwen-Image-2.1's, Hunyuan's.
AUTHORS = frozenset({"x_pad_token", "transformer_blocks.0.img_mlp.gate_up.weight", HUNYUAN})
#: A layer in Z-Image's files that its forward pass does not use.
UNUSED = ("norm_final.weight",)


@dataclass(frozen=True)
class GgufTensor:
    """A stored tensor: ``shape`` is that of its values, ``kind`` its GGML type; ``data`` are bytes [rows, bytes per
    row] if it is quantised.
    """

    shape: tuple[int, ...]
    kind: str
    data: Tensor

    @property
    def is_quantized(self) -> bool:
        """Whether it consists of blocks with a common scale."""
        return self.data.dtype == torch.uint8

    def split(self, heights: Sequence[int]) -> list[GgufTensor]:
        """Parts by rows, as a fused q, k, v is cut: blocks never reach across rows."""
        if len(heights) == 1:
            return [self]
        parts = cast("tuple[Tensor, ...]", self.data.split(list(heights)))
        return [
            GgufTensor((count, *self.shape[1:]), self.kind, data) for count, data in zip(heights, parts, strict=True)
        ]

    @staticmethod
    def joined(parts: Sequence[GgufTensor]) -> GgufTensor:
        """Parts of one tensor, one after the other by rows."""
        if len(parts) == 1:
            return parts[0]
        rows = sum(part.shape[0] for part in parts)
        return GgufTensor((rows, *parts[0].shape[1:]), parts[0].kind, torch.cat([part.data for part in parts]))

    def dequantized(self, dtype: torch.dtype | None, default: torch.dtype = torch.float32) -> Tensor:
        """The values as ``dtype``; None means the stored dtype, or ``default`` for quantised values."""
        if not self.is_quantized:
            value = self.data.reshape(self.shape)
            return value if dtype is None else value.to(dtype)
        import gguf

        kind = gguf.GGMLQuantizationType[self.kind]
        numbers = gguf.quants.dequantize(cast(Any, self.data.numpy()), kind)
        return torch.from_numpy(numbers).reshape(self.shape).to(dtype or default)


class GgufLinear(nn.Linear):
    """A linear layer with a quantised matrix, which is dequantised to the dtype of the input in each call."""

    def __init__(self, layer: nn.Linear, stored: GgufTensor) -> None:
        nn.Module.__init__(self)
        from diffusers.quantizers.gguf.utils import GGUFParameter
        from gguf import GGMLQuantizationType

        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight = cast(Any, GGUFParameter)(stored.data, quant_type=GGMLQuantizationType[stored.kind])
        self.bias = layer.bias

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

        matrix = cast(Tensor, cast(Any, dequantize_gguf_tensor)(self.weight))
        return nn.functional.linear(input, matrix.to(input.dtype), self.bias)


@dataclass(frozen=True)
class GgufDenoiser:
    """A denoiser in a GGUF file. ``keep`` leaves matrices quantised; otherwise everything is dequantised, for adapters
    and conversion.
    """

    path: Path
    keep: bool = False

    @cached_property
    def tensors(self) -> dict[str, GgufTensor]:
        """The denoiser's tensors by their names in the file, without PREFIX. Raises WeightsError."""
        tensors = read(self.path)
        prefixed = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
        return {name: value for name, value in (prefixed or tensors).items() if name not in UNUSED}

    @property
    def family(self) -> tuple[str, str | None]:
        """The family's name and recipe, as in FAMILIES. Raises WeightsError for an unknown family."""
        family = next((value for name, value in FAMILIES.items() if name in self.tensors), None)
        if family is None:
            raise WeightsError(
                "the names of the tensors in {path} are those of no family that is known; expected a denoiser as "
                "ComfyUI has it, of Z-Image, Qwen-Image, HunyuanImage or Stable Diffusion",
                path=self.path,
            )
        return family

    @property
    def recipe(self) -> str:
        """The recipe with the other components; if a family has several, the file's name decides. Raises WeightsError
        if it cannot be determined.
        """
        name, recipe = self.family
        if recipe is None:
            raise WeightsError(
                "{path} holds weights of {family}, which is not drawn here; expected Z-Image, Qwen-Image, HunyuanImage "
                "or Stable Diffusion",
                path=self.path,
                family=name,
            )
        if not recipe:
            raise WeightsError(
                "{path} is the denoiser of {family} alone, and does not tell whose text encoders and autoencoder go "
                "with it; name that model: -m MODEL --denoiser {path}",
                path=self.path,
                family=name,
            )
        if LAYERED in self.tensors:
            return "qwen-image-layered"
        stem = self.path.stem.casefold()
        return next((variant for pattern, variant in NAMED.get(recipe, ()) if re.search(pattern, stem)), recipe)

    def fill(self, module: nn.Module, dtype: torch.dtype | None) -> None:
        """Loads the file into a module of diffusers that was built without weights. Raises WeightsError for a file of
        another family, or that lists missing, unexpected and misshapen tensors.
        """
        tensors = diffusers_names(self.tensors, module)
        expected = module.state_dict().keys()
        if len(expected & tensors.keys()) < len(expected) // 2:
            raise WeightsError(
                "{path} holds weights of {family}, and this model's denoiser is a {network}; name a model of its "
                "family with -m",
                path=self.path,
                family=self.family[0],
                network=type(module).__name__,
            )
        fill(module, tensors, dtype, self.path, keep=self.keep)


def fill(
    module: nn.Module,
    tensors: Mapping[str, GgufTensor],
    dtype: torch.dtype | None,
    path: Path,
    *,
    keep: bool,
    dequantize: Collection[str] = (),
) -> None:
    """Loads tensors under the module's own names into a module that was built without weights. With ``keep`` the
    matrices of linear layers in its blocks stay quantised, except for layers whose last name is in ``dequantize``.
    Raises WeightsError that lists missing, unexpected and misshapen tensors.
    """
    expected = module.state_dict()
    layers = {name: layer for name, layer in _layers(module).items() if name.split(".")[-2] not in dequantize}
    quantized = {n: v for n, v in tensors.items() if keep and n in layers and v.is_quantized and _supported(v.kind)}
    state = {name: torch.empty(value.shape, device="meta") for name, value in tensors.items()}
    # float16 halves the memory of a fully dequantised model; its error is smaller than that of the quantisation.
    default = torch.float32 if keep else torch.float16
    state |= {
        n: _reshaped(v.dequantized(dtype, default), expected.get(n)) for n, v in tensors.items() if n not in quantized
    }
    module_weights.assign(module, state, dtype, path)
    for name, value in quantized.items():
        parent, _, last = name.removesuffix(".weight").rpartition(".")
        setattr(module.get_submodule(parent), last, GgufLinear(layers[name], value))


def _layers(module: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers within a network's lists of blocks, by the names of their matrices. Layers outside of them are
    few, and some networks take their dtype from those.
    """
    lists = tuple(f"{path}." for path, inner in module.named_modules() if isinstance(inner, nn.ModuleList))
    linear = ((path, layer) for path, layer in module.named_modules() if isinstance(layer, nn.Linear))
    return {f"{path}.weight": layer for path, layer in linear if path.startswith(lists)}


def diffusers_names(tensors: Mapping[str, GgufTensor], module: nn.Module) -> dict[str, GgufTensor]:
    """The tensors under the names of diffusers' network, from those of LDM, ComfyUI or diffusers."""
    if "input_blocks.0.0.weight" in tensors:
        shapes = {name: value.shape for name, value in tensors.items()}
        names = ldm_names.unet_names(ldm_names.Blocks.of(shapes))
        return {ldm_names.renamed(name, names) or name: value for name, value in tensors.items()}
    if not AUTHORS.isdisjoint(tensors):
        return _by_layers(tensors, module)
    return dict(tensors)


def _by_layers(tensors: Mapping[str, GgufTensor], module: nn.Module) -> dict[str, GgufTensor]:
    """Tensors of layers as their authors name them, of which one may be several of the network's: the names are those
    that files of LoRA have.
    """
    layers, own = pieces_by_name(module), module.state_dict()
    found: dict[str, GgufTensor] = {}
    parts: dict[str, dict[int, GgufTensor]] = {}
    for name, value in tensors.items():
        layer, _, end = name.rpartition(".")
        pieces = layers.get(layer.replace(".", "_"), ())
        paths = [f"{piece.path}.{end}" for piece in pieces]
        if not paths or any(path not in own for path in paths):
            found[name] = value
            continue
        heights = [own[path].shape[0] // piece.parts for path, piece in zip(paths, pieces, strict=True)]
        if sum(heights) != value.shape[0]:
            # Told with its shape, among what does not fit.
            found[paths[0]] = value
            continue
        for path, piece, rows in zip(paths, pieces, value.split(heights), strict=True):
            parts.setdefault(path, {})[piece.part] = rows
    return found | {path: GgufTensor.joined([rows[part] for part in sorted(rows)]) for path, rows in parts.items()}


def _reshaped(value: Tensor, expected: Tensor | None) -> Tensor:
    """A tensor in the shape that the module expects if they differ only by sides of 1: a projection may be stored as a
    1x1 convolution.
    """
    same = expected is not None and _squeezed(expected.shape) == _squeezed(value.shape)
    return value.reshape(expected.shape) if expected is not None and same else value


def _squeezed(shape: torch.Size) -> list[int]:
    return [side for side in shape if side != 1]


def _supported(kind: str) -> bool:
    """Whether diffusers can dequantise a GGML type on every device."""
    import gguf
    from diffusers.quantizers.gguf.utils import SUPPORTED_GGUF_QUANT_TYPES

    return gguf.GGMLQuantizationType[kind] in SUPPORTED_GGUF_QUANT_TYPES


def read(path: Path) -> dict[str, GgufTensor]:
    """The tensors of a file, memory-mapped. Raises WeightsError for a damaged file, RequestError if gguf is not
    installed.
    """
    return _opened(path, lambda reader: {str(each.name): _stored(each, reader) for each in reader.tensors})


def architecture(path: Path) -> str:
    """The architecture in a file's metadata, as llama.cpp names it ("qwen3"); "" if there is none. Raises as
    ``read``.
    """

    def value(reader: Any) -> str:
        field = reader.get_field(ARCHITECTURE_KEY)
        return "" if field is None else str(field.contents())

    return _opened(path, value)


def _opened(path: Path, extract: Callable[[Any], Value]) -> Value:
    if find_spec("gguf") is None:
        raise RequestError("{path} is a file of GGUF; to read it run {command}", path=path, command=installing(EXTRA))
    from gguf import GGUFReader

    try:
        # Mapped copy-on-write, as torch wants writable memory; nothing is written to the file.
        return extract(GGUFReader(path, "c"))
    # For a truncated file the library raises whatever numpy and struct raise.
    except (ValueError, KeyError, IndexError, OSError, TypeError, OverflowError) as error:
        told = f"{type(error).__name__}: {error}"
        raise unreadable(
            path,
            Message("it is GGUF, but cut off or damaged ({told}); download it again", told=told),
        ) from None


def _stored(tensor: Any, reader: Any) -> GgufTensor:
    shape = tuple(int(side) for side in reversed(tensor.shape.tolist()))
    kind = str(tensor.tensor_type.name)
    data = torch.from_numpy(tensor.data)
    if kind == "BF16":
        data = data.view(torch.bfloat16)
    field = reader.get_field(f"{SHAPE_KEY}{tensor.name}")
    if field is not None:
        shape = tuple(int(side) for side in field.contents())
    return GgufTensor(shape, kind, data)
