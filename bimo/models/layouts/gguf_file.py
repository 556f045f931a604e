"""GGUF files of denoisers, with weights quantised to two to eight bits, as for ComfyUI and stable-diffusion.cpp. Text
encoders (or one in another file: ``gguf_text``), autoencoder, tokenizers and scheduler come from a folder of the same
family.

The family follows from the names of the tensors. Matrices stay quantised and are dequantised when used, by the
functions of diffusers' GGUF quantiser; other quantised tensors are dequantised on loading.
"""

# gguf has no types, and diffusers' parameter of blocks is private to its quantiser.
# pyright: reportMissingTypeStubs=false, reportMissingImports=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
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
from bimo.models.stable_diffusion import ldm_names

Result = TypeVar("Result")

EXTRA = "gguf"
#: The metadata key of the architecture.
ARCHITECTURE_KEY = "general.architecture"
#: The prefix of tensor names in files of programs that store a whole model.
PREFIX = "model.diffusion_model."
#: The metadata key with the original shape of a tensor that ComfyUI's converter reshaped for its blocks.
SHAPE_KEY = "comfy.gguf.orig_shape."
#: Families by a tensor that no other has: title, and the recipe for the other components; "" if the names do not
#: determine it, None if there is none.
FAMILIES: Mapping[str, tuple[str, str | None]] = {
    "x_pad_token": ("Z-Image", "z-image"),
    "txt_norm.weight": ("Qwen-Image", "qwen-image"),
    "input_blocks.0.0.weight": ("Stable Diffusion", ""),
    "double_blocks.0.img_attn.qkv.weight": ("FLUX", None),
    "joint_blocks.0.x_block.attn.qkv.weight": ("Stable Diffusion 3", None),
    "token_embd.weight": ("a text encoder (--text-encoder)", None),
}
#: Recipes of a family by patterns in the file's name; the first match applies.
NAMED: Mapping[str, tuple[tuple[str, str], ...]] = {
    "z-image": (("turbo", "z-image-turbo"),),
    "qwen-image": (
        (r"edit.*2511", "qwen-image-edit-2511"),
        (r"edit.*2509|edit.?plus", "qwen-image-edit-2509"),
        (r"edit", "qwen-image-edit"),
        (r"2512", "qwen-image-2512"),
    ),
}
#: The tensor that only Qwen-Image-Layered has within its family.
LAYERED = "time_text_embed.addition_t_embedding.weight"
#: Z-Image's names in ComfyUI -> in diffusers' transformer.
Z_IMAGE = (
    (r"^(x_embedder|final_layer)\.", r"all_\1.2-1."),
    (r"\.attention\.out\.", ".attention.to_out.0."),
    (r"\.attention\.([qk])_norm\.", r".attention.norm_\1."),
)
#: An unused layer in Z-Image's files.
UNUSED = ("norm_final.weight",)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: ``shape`` is that after dequantisation; ``kind`` is GGML's type, ``data`` has bytes [rows,
    bytes of a row] if it is quantised.
    """

    shape: tuple[int, ...]
    kind: str
    data: Tensor

    @property
    def in_blocks(self) -> bool:
        """Whether it is quantised in blocks."""
        return self.data.dtype == torch.uint8

    def rows(self, part: int, parts: int) -> StoredTensor:
        """One of ``parts`` equal parts by rows, as for a fused q, k, v: blocks do not extend across rows."""
        count = self.shape[0] // parts
        return StoredTensor((count, *self.shape[1:]), self.kind, self.data.chunk(parts)[part])

    def dequantised(self, dtype: torch.dtype | None, of_blocks: torch.dtype = torch.float32) -> Tensor:
        """The dequantised tensor as ``dtype``; without ``dtype`` as stored, and quantised ones as ``of_blocks``."""
        if not self.in_blocks:
            value = self.data.reshape(self.shape)
            return value if dtype is None else value.to(dtype)
        import gguf

        kind = gguf.GGMLQuantizationType[self.kind]
        numbers = gguf.quants.dequantize(cast(Any, self.data.numpy()), kind)
        return torch.from_numpy(numbers).reshape(self.shape).to(dtype or of_blocks)


class GgufLinear(nn.Linear):
    """A linear layer with a quantised matrix, which is dequantised to the dtype of the input on each call."""

    def __init__(self, layer: nn.Linear, stored: StoredTensor) -> None:
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
    """A denoiser in a GGUF file. With ``keep`` matrices stay quantised; without, everything is dequantised, for merging
    adapters or conversion.
    """

    path: Path
    keep: bool = False

    @cached_property
    def tensors(self) -> dict[str, StoredTensor]:
        """The tensors by their names in the file, without the prefix of a whole model. Raises WeightsError."""
        tensors = read(self.path)
        below = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
        return {name: value for name, value in (below or tensors).items() if name not in UNUSED}

    @property
    def family(self) -> tuple[str, str | None]:
        """Its title and recipe as in FAMILIES. Raises WeightsError for an unknown family."""
        family = next((value for name, value in FAMILIES.items() if name in self.tensors), None)
        if family is None:
            raise WeightsError(
                "the names of the tensors in {path} are those of no family that is known; expected a denoiser as "
                "ComfyUI has it, of Z-Image, Qwen-Image or Stable Diffusion",
                path=self.path,
            )
        return family

    @property
    def recipe(self) -> str:
        """The recipe for the other components; if the family has several, the file's name decides. Raises WeightsError
        if it is not determined.
        """
        name, recipe = self.family
        if recipe is None:
            raise WeightsError(
                "{path} holds weights of {family}, which is not drawn here; expected Z-Image, Qwen-Image or Stable "
                "Diffusion",
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
        named = self.path.stem.casefold()
        return next((other for words, other in NAMED.get(recipe, ()) if re.search(words, named)), recipe)

    def fill(self, module: nn.Module, dtype: torch.dtype | None) -> None:
        """Fills a module of diffusers, built without weights, from the file. Raises WeightsError for another family, or
        with a list of missing, unexpected and misshapen tensors.
        """
        named = own_names(self.tensors)
        own = module.state_dict()
        if len(own.keys() & named.keys()) < len(own) // 2:
            raise WeightsError(
                "{path} holds weights of {family}, and this model's denoiser is a {network}; name a model of its "
                "family with -m",
                path=self.path,
                family=self.family[0],
                network=type(module).__name__,
            )
        fill(module, named, dtype, self.path, keep=self.keep)


def fill(
    module: nn.Module,
    named: Mapping[str, StoredTensor],
    dtype: torch.dtype | None,
    path: Path,
    *,
    keep: bool,
    dequantised: Collection[str] = (),
) -> None:
    """Fills a module, built without weights, with tensors under its own names. With ``keep`` the matrices of its blocks
    stay quantised, except for layers named in ``dequantised``. Raises WeightsError with a list of missing, unexpected
    and misshapen tensors.
    """
    own = module.state_dict()
    layers = {name: layer for name, layer in _layers(module).items() if name.split(".")[-2] not in dequantised}
    quantised = {n: v for n, v in named.items() if keep and n in layers and v.in_blocks and _worked_out(v.kind)}
    state = {name: torch.empty(value.shape, device="meta") for name, value in named.items()}
    # If everything is dequantised, float16 suffices: its rounding is smaller than the quantisation error.
    wide = torch.float32 if keep else torch.float16
    state |= {n: _fitted(v.dequantised(dtype, wide), own.get(n)) for n, v in named.items() if n not in quantised}
    module_weights.assign(module, state, dtype, path)
    for name, value in quantised.items():
        parent, _, last = name.removesuffix(".weight").rpartition(".")
        setattr(module.get_submodule(parent), last, GgufLinear(layers[name], value))


def _layers(module: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers in a network's lists of blocks, by the names of their matrices. Those outside are small, and
    some networks read their dtype from them.
    """
    lists = tuple(f"{path}." for path, inner in module.named_modules() if isinstance(inner, nn.ModuleList))
    linear = ((path, layer) for path, layer in module.named_modules() if isinstance(layer, nn.Linear))
    return {f"{path}.weight": layer for path, layer in linear if path.startswith(lists)}


def own_names(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors under the names of diffusers' network, from any of the naming schemes of files."""
    if "input_blocks.0.0.weight" in tensors:
        shapes = {name: value.shape for name, value in tensors.items()}
        names = ldm_names.unet_names(ldm_names.Blocks.of(shapes))
        return {ldm_names.renamed(name, names) or name: value for name, value in tensors.items()}
    if "x_pad_token" not in tensors:
        return dict(tensors)
    renamed: dict[str, StoredTensor] = {}
    for name, value in tensors.items():
        for pattern, by in Z_IMAGE:
            name = re.sub(pattern, by, name)
        if name.endswith(".attention.qkv.weight"):
            stem = name.removesuffix("qkv.weight")
            renamed |= {f"{stem}to_{part}.weight": value.rows(place, 3) for place, part in enumerate("qkv")}
        else:
            renamed[name] = value
    return renamed


def _fitted(value: Tensor, own: Tensor | None) -> Tensor:
    """A tensor in the shape of the module's own if they differ only in dimensions of size one: a projection may be a
    1x1 convolution.
    """
    same = own is not None and _squeezed(own.shape) == _squeezed(value.shape)
    return value.reshape(own.shape) if own is not None and same else value


def _squeezed(shape: torch.Size) -> list[int]:
    return [side for side in shape if side != 1]


def _worked_out(kind: str) -> bool:
    """Whether diffusers dequantises a type on every device."""
    import gguf
    from diffusers.quantizers.gguf.utils import SUPPORTED_GGUF_QUANT_TYPES

    return gguf.GGMLQuantizationType[kind] in SUPPORTED_GGUF_QUANT_TYPES


def read(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file, memory-mapped. Raises WeightsError for a damaged file, RequestError
    without the library.
    """
    return _opened(path, lambda reader: {str(each.name): _stored(each, reader) for each in reader.tensors})


def architecture(path: Path) -> str:
    """The architecture in a file's metadata, with llama.cpp's name ("qwen3"); "" without it. Raises as ``read``."""

    def read_field(reader: Any) -> str:
        field = reader.get_field(ARCHITECTURE_KEY)
        return "" if field is None else str(field.contents())

    return _opened(path, read_field)


def _opened(path: Path, look: Callable[[Any], Result]) -> Result:
    if find_spec("gguf") is None:
        raise RequestError("{path} is a file of GGUF; to read it run {command}", path=path, command=installing(EXTRA))
    from gguf import GGUFReader

    try:
        # Copy-on-write, so that torch can wrap the memory; the file is never changed.
        return look(GGUFReader(path, "c"))
    # The library raises numpy's and struct's errors if a file is truncated.
    except (ValueError, KeyError, IndexError, OSError, TypeError, OverflowError) as error:
        told = f"{type(error).__name__}: {error}"
        raise unreadable(
            path,
            Message("it is GGUF, but cut off or damaged ({told}); download it again", told=told),
        ) from None


def _stored(tensor: Any, reader: Any) -> StoredTensor:
    shape = tuple(int(side) for side in reversed(tensor.shape.tolist()))
    kind = str(tensor.tensor_type.name)
    data = torch.from_numpy(tensor.data)
    if kind == "BF16":
        data = data.view(torch.bfloat16)
    field = reader.get_field(f"{SHAPE_KEY}{tensor.name}")
    if field is not None:
        shape = tuple(int(side) for side in field.contents())
    return StoredTensor(shape, kind, data)
