"""ControlNets and T2I-Adapters in single files, with diffusers' or their authors' names, identified by names and
shapes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bimo.core.errors import RecipeError, WeightsError
from bimo.core.part import Part
from bimo.models.adapters.controlnet import ControlNet, ControlPart, HunyuanControlNet, T2iAdapter
from bimo.models.adapters.transformer_controlnets import QwenControlNet, ZImageControlNet
from bimo.models.hunyuan_dit.denoiser import Hunyuan
from bimo.models.hunyuan_dit.layout import diffusers_state
from bimo.models.qwen_image.denoiser import QwenImage
from bimo.models.stable_diffusion import ldm_names
from bimo.models.stable_diffusion.unet import Unet
from bimo.models.z_image.denoiser import ZImage

Z_EMBEDDER = "control_all_x_embedder.2-1.weight"
#: Prefixes of a ControlNet's names: in the file of a whole model, and in trainers' files.
BEFORE = ("control_model.", "controlnet.", "module.", "model.")
#: Files that resemble one: a part of a name -> what it is.
OTHERS = {
    "lora_controlnet": "Control-LoRA",
    "task_embedding": "ControlNet-Union (ControlNet++)",
    "control_add_embedding.": "ControlNet-Union",
    "transformer_layes.": "the T2I-Adapter of styles",
    "motion_modules.": "SparseCtrl",
    "caption_projection.": "a ControlNet of SANA",
    "controlnet_x_embedder.": "a ControlNet of FLUX",
    "pos_embed_input.": "a ControlNet of Stable Diffusion 3",
}


@dataclass(frozen=True)
class Read:
    """An adapter's part, and its tensors under diffusers' names."""

    part: ControlPart
    state: Mapping[str, Tensor]


def read_control(state: Mapping[str, Tensor], within: Part, file: Path) -> Read:
    """The adapter in a file, for a denoiser. Raises WeightsError for a file without one, or for another model,
    RecipeError for an unsupported kind.
    """
    before = next((b for b in BEFORE if any(n.startswith(b) and _telling(n.removeprefix(b)) for n in state)), "")
    # The file of a whole model contains its own weights too.
    names = {n.removeprefix(before): v for n, v in state.items() if n.startswith(before)}
    if (of := _of_transformer(names, within, file)) is not None:
        return of
    for part, kind in OTHERS.items():
        if any(part in name for name in names):
            raise RecipeError("{file} is {kind}, which is not read", file=file, kind=kind)
    if "difference" in names:
        raise RecipeError(
            "{file} holds only differences from the model it was made with; use the file of the whole ControlNet",
            file=file,
        )
    if isinstance(within, Hunyuan) and any(n.startswith(("before_proj.", "controlnet_blocks.")) for n in names):
        own = names if "input_block.weight" in names else diffusers_state(names)
        return Read(HunyuanControlNet(hunyuan=within), own)
    if any(n.startswith(("input_hint_block.", "controlnet_cond_embedding.")) for n in names):
        return _controlnet(names, _unet(within, "ControlNet", file), file)
    if any(re.match(r"(adapter\.)?body\.\d+\.", n) for n in names):
        return _t2i(names, _unet(within, "T2I-Adapter", file), file)
    raise WeightsError(
        "{file} is no ControlNet and no T2I-Adapter: it has no controlnet_cond_embedding, "
        "input_hint_block or body, only {few}",
        file=file,
        few=_few(names),
    )


def _telling(name: str) -> bool:
    begins = (
        "input_hint_block.",
        "controlnet_cond_embedding.",
        "before_proj.",
        "controlnet_blocks.",
        "control_layers.",
    )
    return name.startswith(begins)


def _of_transformer(names: Mapping[str, Tensor], within: Part, file: Path) -> Read | None:
    """A ControlNet of Qwen-Image or Z-Image, None for anything else."""
    qwen, z_image = "controlnet_x_embedder.weight" in names and "txt_norm.weight" in names, Z_EMBEDDER in names
    if not qwen and not z_image:
        return None
    if not isinstance(within, QwenImage if qwen else ZImage):
        raise RecipeError(
            "{file} is a ControlNet of {kind}, which cannot stand beside a {name}",
            file=file,
            kind="Qwen-Image" if qwen else "Z-Image",
            name=type(within).__name__,
        )
    if isinstance(within, QwenImage):
        first = names["controlnet_x_embedder.weight"]
        _same_width(file, "controlnet_x_embedder", first.shape[0], within.heads * within.head)
        _same_width(file, "txt_norm", names["txt_norm.weight"].shape[0], within.text)
        layers = _count(names, r"transformer_blocks\.(\d+)\.")
        return Read(QwenControlNet(qwen=within, layers=layers, masked=first.shape[1] > 4 * within.channels), names)
    first = names[Z_EMBEDDER]
    _same_width(file, "control_all_x_embedder", first.shape[0], within.width)
    count = _count(names, r"control_layers\.(\d+)\.")
    # No file has their positions: evenly over the transformer's layers, as by the authors.
    places = tuple(range(0, within.layers, max(1, within.layers // count)))[:count]
    before = names.get("control_noise_refiner.0.before_proj.weight")
    more: dict[str, Any] = {}
    if first.shape[1] > 4 * within.channels:
        # Version 2.0 was published with zero-initialised refiners, in whose place its layers are used.
        own = before is not None and bool(before.any())
        more = {"refiner": "control_noise_refiner" if own else "control_layers"}
        more |= {"refiner_places": tuple(range(within.refiners))}
    part = ZImageControlNet(z_image=within, places=places, channels=first.shape[1] // 4, **more)
    unused = ("control_noise_refiner.",) if part.refiner == "control_layers" else ()
    return Read(part, {name: value for name, value in names.items() if not name.startswith(unused)})


def _count(names: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max((int(match[1]) for name in names if (match := re.match(pattern, name))), default=0)


def _same_width(file: Path, name: str, found: int, wanted: int) -> None:
    """Raises WeightsError if a ControlNet was trained for a transformer of another width."""
    if found != wanted:
        raise WeightsError(
            "{file} is a ControlNet that was trained for another model: {listed}",
            file=file,
            listed=f"{name} {found}≠{wanted}",
        )


def _few(names: Mapping[str, Tensor]) -> str:
    return ", ".join(list(names)[:3])


def _unet(within: Part, kind: str, file: Path) -> Unet:
    if isinstance(within, Unet):
        return within
    name = type(within).__name__
    raise RecipeError(
        "{file} is a {kind} for a UNet, which cannot stand beside a {name}", file=file, kind=kind, name=name
    )


def _controlnet(names: Mapping[str, Tensor], unet: Unet, file: Path) -> Read:
    own = names if "controlnet_cond_embedding.conv_in.weight" in names else _by_diffusers(names)
    _same_model(own, unet, file)
    try:
        first = own["controlnet_cond_embedding.conv_in.weight"]
        count = 1 + max(int(n.split(".")[2]) for n in own if n.startswith("controlnet_cond_embedding.blocks."))
        widths = [own[f"controlnet_cond_embedding.blocks.{i}.weight"].shape[0] for i in range(1, count, 2)]
    except (KeyError, ValueError) as error:
        raise WeightsError("{file} is incomplete: it has no {error}; get it again", file=file, error=error) from None
    part = ControlNet(unet=unet, picture=first.shape[1], embedding=(first.shape[0], *widths), pooled=_pooled(file))
    return Read(part, own)


def _pooled(file: Path) -> bool:
    """Whether a ControlNet has global average pooling, which tensors do not show: by the authors' .yaml next to it,
    else by the name of the one that they published.
    """
    settings = file.with_suffix(".yaml")
    if settings.is_file():
        return re.search(rb"global_average_pooling:\s*[Tt]rue", settings.read_bytes()) is not None
    return "shuffle" in file.stem


def _by_diffusers(names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' tensors with diffusers' names; unknown ones keep theirs."""
    shapes = {name: tuple(value.shape) for name, value in names.items()}
    table = dict(ldm_names.unet_names(ldm_names.Blocks.of(shapes)))
    convolutions = sorted({int(m[1]) for n in names if (m := re.match(r"input_hint_block\.(\d+)\.", n))})
    for index, number in enumerate(convolutions):
        place = "conv_in" if index == 0 else "conv_out" if index == len(convolutions) - 1 else f"blocks.{index - 1}"
        table[f"input_hint_block.{number}"] = f"controlnet_cond_embedding.{place}"
    for number in {int(m[1]) for n in names if (m := re.match(r"zero_convs\.(\d+)\.", n))}:
        table[f"zero_convs.{number}.0"] = f"controlnet_down_blocks.{number}"
    table["middle_block_out.0"] = "controlnet_mid_block"
    return {ldm_names.renamed(name, table) or name: value for name, value in names.items()}


def _same_model(own: Mapping[str, Tensor], unet: Unet, file: Path) -> None:
    """Raises WeightsError if a file is for a model with other widths of text or blocks."""
    settings = unet.settings()
    words = next((v.shape[1] for n, v in own.items() if n.endswith("attn2.to_k.weight")), None)
    conv_in = own.get("conv_in.weight")
    pairs = [("cross_attention_dim", words, settings["cross_attention_dim"])]
    pairs.append(("block_out_channels[0]", None if conv_in is None else conv_in.shape[0], unet.block_channels[0]))
    pooled = own.get("add_embedding.linear_1.weight")
    wanted = settings["projection_class_embeddings_input_dim"] if unet.ids[0] else None
    pairs.append(("projection_class_embeddings_input_dim", None if pooled is None else pooled.shape[1], wanted))
    wrong = [f"{name} {found}≠{wanted}" for name, found, wanted in pairs if found is not None and found != wanted]
    if wrong:
        listed = "; ".join(wrong)
        raise WeightsError(
            "{file} is a ControlNet that was trained for another model: {listed}", file=file, listed=listed
        )


def _t2i(names: Mapping[str, Tensor], unet: Unet, file: Path) -> Read:
    """A T2I-Adapter: light ones have no first convolution, those of Stable Diffusion XL unshuffle 16 x 16 pixels."""
    bare = {name.removeprefix("adapter."): value for name, value in names.items()}
    light = "conv_in.weight" not in bare
    try:
        places = bare["body.0.in_conv.weight" if light else "conv_in.weight"].shape[1]
        large = not light and places in (16 * 16, 3 * 16 * 16)
        count = 1 + max(int(n.split(".")[1]) for n in bare if n.startswith("body."))
        if any(".resnets." in name for name in bare):
            own, blocks = bare, 1 + max(int(n.split(".")[3]) for n in bare if n.startswith("body.0.resnets."))
        elif light:
            own = {re.sub(r"^(body\.\d+)\.body\.", r"\1.resnets.", name): value for name, value in bare.items()}
            blocks = 1 + max(int(n.split(".")[3]) for n in bare if n.startswith("body.0.body."))
        else:
            own, blocks, count = _grouped(bare, count, len(unet.block_channels) + large)
        # The last layer of a block: a convolution in light ones, else the residual layers keep the width.
        ends = "out_conv.weight" if light else "resnets.0.block1.weight"
        widths = tuple(own[f"body.{i}.{ends}"].shape[0] for i in range(count - light))  # its last one repeats the width
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(
            "{file} is incomplete, the sizes of a T2I-Adapter cannot be told: {error}; get it again",
            file=file,
            error=error,
        ) from None
    side = 16 if large else 8
    kind = "light_adapter" if light else "full_adapter_xl" if large else "full_adapter"
    picture = places // side**2
    if picture * side**2 != places or picture not in (1, 3):
        raise WeightsError(
            "the first layer of {file} reads {places} numbers; expected 64, 192, 256 or 768, of 8x8 or 16x16 "
            "pixels in grey or colour",
            file=file,
            places=places,
        )
    state = {f"adapter.{name}": value for name, value in own.items()}
    part = T2iAdapter(picture=picture, widths=widths, blocks=blocks, factor=side, kind=kind)
    check_widths(part, unet, file)
    return Read(part, state)


def check_widths(part: T2iAdapter, unet: Unet, file: Path) -> None:
    """Raises WeightsError for a T2I-Adapter whose blocks have other widths than the UNet's. A light one has a last one
    of the same width again; one after the UNet's (for Stable Diffusion XL) is for its middle block.
    """
    widths = part.widths + (part.widths[-1:] if part.kind == "light_adapter" else ())
    if widths not in (unet.block_channels, unet.block_channels + unet.block_channels[-1:]):
        raise WeightsError(
            "{file} is a T2I-Adapter that was trained for another model: its blocks are {given} wide, this "
            "model's {block_channels}",
            file=file,
            given=widths,
            block_channels=unet.block_channels,
        )


def _grouped(bare: Mapping[str, Tensor], count: int, levels: int) -> tuple[dict[str, Tensor], int, int]:
    """The authors' flat list of residual layers, grouped by level; where widths change the first of a level has a
    convolution.
    """
    blocks = math.ceil(count / levels)
    own: dict[str, Tensor] = {}
    for name, value in bare.items():
        match = re.fullmatch(r"body\.(\d+)\.(.+)", name)
        if not match:
            own[name] = value
            continue
        level, layer = divmod(int(match[1]), blocks)
        inner = match[2] if match[2].startswith("in_conv.") else f"resnets.{layer}.{match[2]}"
        own[f"body.{level}.{inner}"] = value
    return own, blocks, levels
