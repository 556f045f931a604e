"""How published LoRA files spell the layers they change, and which layers of a system those are.

Diffusers and peft write dots (`unet.down_blocks.0...to_q.lora_A.weight`), diffusers' first releases the attention
processor (`...attn1.processor.to_q_lora.down.weight`), kohya-ss underscores (`lora_unet_down_blocks_0_...`), for
Stable Diffusion XL over the names of the authors' UNet; HunyuanDiT's files keep the authors' fused projections. A layer
that none of them has a name for, of an earlier level, is spelt by its own place in the system.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from bimo.diffusion.system import System

#: The authors' names of HunyuanDiT's fused layers -> the layers their rows are split over.
FUSED = {"attn1.Wqkv": ("to_q", "to_k", "to_v"), "attn2.kv_proj": ("to_k", "to_v")}
_PROCESSOR = re.compile(r"(.*attn\d)\.to_(q|k|v|out)(?:\.0)?")
_TEXT_PROCESSOR = re.compile(r"(.*self_attn)\.(q|k|v|out)_proj")
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)")
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "conv_norm_out": "out.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


@dataclass(frozen=True)
class Piece:
    """A layer of a system that a spelled name stands for: its path, and which share of the rows is its own."""

    path: str
    share: int = 0
    shares: int = 1


def root_of(system: System, level: str = "") -> str:
    """The path of a level's published denoiser ("image.denoiser.model"), the last level's where none is named."""
    path = f"{level or system.recipe.levels[-1].name}.denoiser"
    module = system.get_submodule(path)
    while not hasattr(module, "model"):
        # A wrapper holds the denoiser it adds to under this name.
        module, path = module.get_submodule("denoiser"), f"{path}.denoiser"
    return f"{path}.model"


def spellings(system: System, level: str = "") -> dict[str, tuple[Piece, ...]]:
    """Every name, without what follows the layer, that a LoRA file may use for a layer of the system."""
    root = root_of(system, level)
    found: dict[str, tuple[Piece, ...]] = {}
    layers = dict(_layers(system.get_submodule(root)))
    names = {name: (name,) for name in layers} | _hunyuan(layers)
    per_block, attending = _layers_per_block(layers), _attending(layers)
    for name, targets in names.items():
        pieces = tuple(Piece(f"{root}.{target}", i, len(targets)) for i, target in enumerate(targets))
        for spelled in _of_denoiser(name, per_block, attending):
            found.setdefault(spelled, pieces)
    for index, _ in enumerate(system.towers):
        tower = f"text.{index}.model"
        for name in _layers(system.get_submodule(tower)) if hasattr(system.text[index], "model") else ():
            for spelled in _of_tower(name, index):
                found.setdefault(spelled, (Piece(f"{tower}.{name}"),))
    named = {piece.path for pieces in found.values() for piece in pieces}
    for path in own_paths(system):
        if path not in named:
            found.setdefault(path, (Piece(path),))
    return found


def own_paths(system: System) -> list[str]:
    """The layers of all denoisers by their places in the system: how those are spelt that no publisher has a name for,
    of earlier levels and around a published denoiser.
    """
    at = [f"{level.name}.denoiser" for level in system.recipe.levels]
    return [f"{path}.{name}" for path in at for name in _layers(system.get_submodule(path))]


def _layers(module: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in module.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}


def _of_denoiser(name: str, per_block: int, attending: frozenset[int]) -> Iterator[str]:
    for prefix in ("unet.", "transformer.", "base_model.model.", ""):
        yield prefix + name
        if found := _PROCESSOR.fullmatch(name):
            yield f"{prefix}{found[1]}.processor.to_{found[2]}_lora"
    under = name.replace(".", "_")
    yield f"lora_unet_{under}"
    yield f"lora_transformer_{under}"
    # HunyuanDiT's own reader writes every underscore as a dot.
    yield f"unet.{name.replace('_', '.')}"
    authors = ldm_name(name, per_block, attending)
    if authors:
        yield f"lora_unet_{authors.replace('.', '_')}"
        yield f"diffusion_model.{authors}"


def _of_tower(name: str, index: int) -> Iterator[str]:
    number = "" if index == 0 else f"_{index + 1}"
    for inner in (name, f"text_model.{name}"):
        under = inner.replace(".", "_")
        yield f"text_encoder{number}.{inner}"
        if found := _TEXT_PROCESSOR.fullmatch(inner):
            yield f"text_encoder{number}.{found[1]}.to_{found[2]}_lora"
        yield f"lora_te{index + 1}_{under}"
        if index == 0:
            yield f"lora_te_{under}"


def _layers_per_block(layers: Mapping[str, object]) -> int:
    found = [re.match(r"down_blocks\.0\.resnets\.(\d+)\.", name) for name in layers]
    return max((int(m[1]) + 1 for m in found if m), default=0)


def _attending(layers: Mapping[str, object]) -> frozenset[int]:
    return frozenset(int(m[1]) for name in layers if (m := re.match(r"up_blocks\.(\d+)\.attentions\.", name)))


def ldm_name(name: str, per_block: int, attending: frozenset[int]) -> str:
    """The name that the authors' latent diffusion code gives a layer of diffusers' UNet, "" for what it has not.

    ``per_block`` is the number of residual layers of a block on the way down; there is one more on the way up.
    ``attending`` are the blocks on the way up that attend to words: what enlarges x comes after that.
    """
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    if name.startswith("mid_block."):
        kind, number, rest = name.split(".", 3)[1:]
        at = f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}"
        return f"{at}.{_RESNET.get(rest, rest)}"
    found = _BLOCK.fullmatch(name)
    if not found:
        return ""
    way, block, kind, number, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    length = per_block + 1
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * length}.0.op" if rest == "conv" else ""
    at = 1 + block * length + number if way == "down" else block * length + number
    side = "input_blocks" if way == "down" else "output_blocks"
    if kind == "upsamplers":
        return f"output_blocks.{block * length + per_block}.{2 if block in attending else 1}.{rest}"
    return f"{side}.{at}.{0 if kind == 'resnets' else 1}.{_RESNET.get(rest, rest) if kind == 'resnets' else rest}"


def _hunyuan(layers: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
    """HunyuanDiT's own layer names -> those of diffusers' class; {} for any other denoiser."""
    named: dict[str, tuple[str, ...]] = {}
    if "blocks.0.attn1.to_q" not in layers:
        return named
    blocks = sorted({name.split(".")[1] for name in layers if name.startswith("blocks.")}, key=int)
    for block in blocks:
        at = f"blocks.{block}"
        for fused, parts in FUSED.items():
            attention = fused.split(".")[0]
            named[f"{at}.{fused}"] = tuple(f"{at}.{attention}.{part}" for part in parts)
        named[f"{at}.attn2.q_proj"] = (f"{at}.attn2.to_q",)
        for attention in ("attn1", "attn2"):
            named[f"{at}.{attention}.out_proj"] = (f"{at}.{attention}.to_out.0",)
        named[f"{at}.mlp.fc1"] = (f"{at}.ff.net.0.proj",)
        named[f"{at}.mlp.fc2"] = (f"{at}.ff.net.2",)
        named[f"{at}.default_modulation.1"] = (f"{at}.norm1.linear",)
    return named
