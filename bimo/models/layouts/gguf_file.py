"""GGUF files: a denoiser alone with its matrices in blocks of two to eight bits, as ComfyUI and stable-diffusion.cpp
have them. Text encoders (or one in another file: ``gguf_text``), autoencoder, tokenizers and scheduler are those of a
folder of the same family.

Which family a file is of stands in the names of its tensors. Matrices stay in their blocks and are worked out as they
are used, by the same functions as in diffusers' GGUF quantiser; whatever else is quantised is worked out once.
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

Found = TypeVar("Found")

EXTRA = "gguf"
#: Where a file says what it is a model of.
ARCHITECTURE_KEY = "general.architecture"
#: What the names begin with where a program wrote the whole of its own model.
PREFIX = "model.diffusion_model."
#: Where ComfyUI's converter keeps the shape of a tensor that had to be cut into blocks otherwise.
SHAPE_KEY = "comfy.gguf.orig_shape."
#: Families by a tensor that no other has: what they are called, and the recipe whose other parts they go with; "" where
#: names do not tell it, None where there is none.
FAMILIES: Mapping[str, tuple[str, str | None]] = {
    "x_pad_token": ("Z-Image", "z-image"),
    "txt_norm.weight": ("Qwen-Image", "qwen-image"),
    "input_blocks.0.0.weight": ("Stable Diffusion", ""),
    "double_blocks.0.img_attn.qkv.weight": ("FLUX", None),
    "joint_blocks.0.x_block.attn.qkv.weight": ("Stable Diffusion 3", None),
    "token_embd.weight": ("a text encoder (--text-encoder)", None),
}
#: Recipes of one family's tensors by what the names of their files have, the first that is found.
NAMED: Mapping[str, tuple[tuple[str, str], ...]] = {
    "z-image": (("turbo", "z-image-turbo"),),
    "qwen-image": (
        (r"edit.*2511", "qwen-image-edit-2511"),
        (r"edit.*2509|edit.?plus", "qwen-image-edit-2509"),
        (r"edit", "qwen-image-edit"),
        (r"2512", "qwen-image-2512"),
    ),
}
#: The tensor by which Qwen-Image-Layered is told from the others of its family.
LAYERED = "time_text_embed.addition_t_embedding.weight"
#: Z-Image's names in ComfyUI and those of diffusers' transformer.
Z_IMAGE = (
    (r"^(x_embedder|final_layer)\.", r"all_\1.2-1."),
    (r"\.attention\.out\.", ".attention.to_out.0."),
    (r"\.attention\.([qk])_norm\.", r".attention.norm_\1."),
)
#: In Z-Image's files and of no use to it: a layer that its forward leaves out.
UNUSED = ("norm_final.weight",)


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in a file: ``shape`` when worked out; ``kind`` is GGML's name of its numbers, ``data`` bytes
    [rows, bytes of a row] where those are blocks.
    """

    shape: tuple[int, ...]
    kind: str
    data: Tensor

    @property
    def in_blocks(self) -> bool:
        """Whether its numbers share scales by blocks."""
        return self.data.dtype == torch.uint8

    def rows(self, part: int, parts: int) -> Stored:
        """One of equal parts by rows, as a fused q, k, v is cut: blocks never reach across rows."""
        count = self.shape[0] // parts
        return Stored((count, *self.shape[1:]), self.kind, self.data.chunk(parts)[part])

    def whole(self, dtype: torch.dtype | None, of_blocks: torch.dtype = torch.float32) -> Tensor:
        """The numbers as ``dtype``; without it as they are, and those of blocks as ``of_blocks``."""
        if not self.in_blocks:
            value = self.data.reshape(self.shape)
            return value if dtype is None else value.to(dtype)
        import gguf

        kind = gguf.GGMLQuantizationType[self.kind]
        numbers = gguf.quants.dequantize(cast(Any, self.data.numpy()), kind)
        return torch.from_numpy(numbers).reshape(self.shape).to(dtype or of_blocks)


class GgufLinear(nn.Linear):
    """A linear layer whose matrix stays in blocks; it is worked out in the numbers of its input as it is called."""

    def __init__(self, layer: nn.Linear, stored: Stored) -> None:
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
    """A denoiser in a file of GGUF. ``keep`` has matrices stay in their blocks; without, everything is worked out, for
    whoever adds to weights or converts them.
    """

    path: Path
    keep: bool = False

    @cached_property
    def tensors(self) -> dict[str, Stored]:
        """The tensors by their names in the file, without what a whole model's begin with. Raises WeightsError."""
        found = read(self.path)
        below = {name.removeprefix(PREFIX): value for name, value in found.items() if name.startswith(PREFIX)}
        return {name: value for name, value in (below or found).items() if name not in UNUSED}

    @property
    def family(self) -> tuple[str, str | None]:
        """What it is called, and its recipe as FAMILIES has it. Raises WeightsError for none that is known."""
        found = next((value for name, value in FAMILIES.items() if name in self.tensors), None)
        if found is None:
            raise WeightsError(
                "the names of the tensors in {path} are those of no family that is known; expected a denoiser as "
                "ComfyUI has it, of Z-Image, Qwen-Image or Stable Diffusion",
                path=self.path,
            )
        return found

    @property
    def recipe(self) -> str:
        """The recipe whose other parts it goes with; of a family's several the file's name says which. Raises
        WeightsError where that is not told.
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
        """Gives a module of diffusers, built without weights, those of the file. Raises WeightsError for another
        family's, and that lists what is missing, unexpected or misshapen.
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
    named: Mapping[str, Stored],
    dtype: torch.dtype | None,
    path: Path,
    *,
    keep: bool,
    whole: Collection[str] = (),
) -> None:
    """Gives a module, built without weights, tensors under its own names. With ``keep`` the matrices of its blocks stay
    as they lie in the file, but for layers called as one of ``whole``. Raises WeightsError that lists what is missing,
    unexpected or misshapen.
    """
    own = module.state_dict()
    layers = {name: layer for name, layer in _layers(module).items() if name.split(".")[-2] not in whole}
    kept = {n: v for n, v in named.items() if keep and n in layers and v.in_blocks and _worked_out(v.kind)}
    state = {name: torch.empty(value.shape, device="meta") for name, value in named.items()}
    # Where all is worked out, half of float32 is taken: it moves the numbers by less than their rounding did.
    wide = torch.float32 if keep else torch.float16
    state |= {n: _fitted(v.whole(dtype, wide), own.get(n)) for n, v in named.items() if n not in kept}
    module_weights.assign(module, state, dtype, path)
    for name, value in kept.items():
        parent, _, last = name.removesuffix(".weight").rpartition(".")
        setattr(module.get_submodule(parent), last, GgufLinear(layers[name], value))


def _layers(module: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of a network's lists of blocks, by the names of their matrices. What lies between is little,
    and some networks look there for the numbers that they work in.
    """
    lists = tuple(f"{path}." for path, inner in module.named_modules() if isinstance(inner, nn.ModuleList))
    linear = ((path, layer) for path, layer in module.named_modules() if isinstance(layer, nn.Linear))
    return {f"{path}.weight": layer for path, layer in linear if path.startswith(lists)}


def own_names(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Tensors under the names of diffusers' network, whichever of its namings a file has."""
    if "input_blocks.0.0.weight" in tensors:
        shapes = {name: value.shape for name, value in tensors.items()}
        names = ldm_names.unet_names(ldm_names.Blocks.of(shapes))
        return {ldm_names.renamed(name, names) or name: value for name, value in tensors.items()}
    if "x_pad_token" not in tensors:
        return dict(tensors)
    found: dict[str, Stored] = {}
    for name, value in tensors.items():
        for pattern, by in Z_IMAGE:
            name = re.sub(pattern, by, name)
        if name.endswith(".attention.qkv.weight"):
            stem = name.removesuffix("qkv.weight")
            found |= {f"{stem}to_{part}.weight": value.rows(place, 3) for place, part in enumerate("qkv")}
        else:
            found[name] = value
    return found


def _fitted(value: Tensor, own: Tensor | None) -> Tensor:
    """A tensor in the shape of the module's own where they differ by sides of one: a projection may be a convolution of
    1x1.
    """
    same = own is not None and _squeezed(own.shape) == _squeezed(value.shape)
    return value.reshape(own.shape) if own is not None and same else value


def _squeezed(shape: torch.Size) -> list[int]:
    return [side for side in shape if side != 1]


def _worked_out(kind: str) -> bool:
    """Whether diffusers works blocks of a kind out on every device."""
    import gguf
    from diffusers.quantizers.gguf.utils import SUPPORTED_GGUF_QUANT_TYPES

    return gguf.GGMLQuantizationType[kind] in SUPPORTED_GGUF_QUANT_TYPES


def read(path: Path) -> dict[str, Stored]:
    """The tensors of a file, mapped. Raises WeightsError for a damaged one, RequestError without the library."""
    return _opened(path, lambda reader: {str(each.name): _stored(each, reader) for each in reader.tensors})


def architecture(path: Path) -> str:
    """What a file says that it is a model of, as llama.cpp names it ("qwen3"); "" where it says nothing. Raises as
    ``read``.
    """

    def told(reader: Any) -> str:
        field = reader.get_field(ARCHITECTURE_KEY)
        return "" if field is None else str(field.contents())

    return _opened(path, told)


def _opened(path: Path, look: Callable[[Any], Found]) -> Found:
    if find_spec("gguf") is None:
        raise RequestError("{path} is a file of GGUF; to read it run {command}", path=path, command=installing(EXTRA))
    from gguf import GGUFReader

    try:
        # Mapped so that torch may look at it as its own; nothing is written.
        return look(GGUFReader(path, "c"))
    # The library raises whatever numpy and struct do where a file ends before its content.
    except (ValueError, KeyError, IndexError, OSError, TypeError, OverflowError) as error:
        told = f"{type(error).__name__}: {error}"
        raise unreadable(
            path,
            Message("it is GGUF, but cut off or damaged ({told}); download it again", told=told),
        ) from None


def _stored(tensor: Any, reader: Any) -> Stored:
    shape = tuple(int(side) for side in reversed(tensor.shape.tolist()))
    kind = str(tensor.tensor_type.name)
    data = torch.from_numpy(tensor.data)
    if kind == "BF16":
        data = data.view(torch.bfloat16)
    field = reader.get_field(f"{SHAPE_KEY}{tensor.name}")
    if field is not None:
        shape = tuple(int(side) for side in field.contents())
    return Stored(shape, kind, data)
