"""The names of layers in published LoRA files, and the layers of a system that they refer to.

Diffusers and peft write dots (`unet.down_blocks.0...to_q.lora_A.weight`, preceded by `base_model.model.` in peft's own
files), diffusers' first releases the attention processor (`...attn1.processor.to_q_lora.down.weight`), kohya-ss and
LyCORIS underscores (`lora_unet_down_blocks_0_...`), ComfyUI and its trainers `diffusion_model.`, some a dot for every
underscore. So names are compared with underscores only, after the prefix of the network is removed. The rest is
diffusers' name or the authors', whose fused projections are several layers of diffusers' one after the other. A layer
for which no publisher has a name, such as one of an earlier level, has its path in the system.
"""

# torch leaves parts of its interface untyped; what crosses it here is named where it is used.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from bimo.diffusion.denoiser import DenoiserWrapper, PublishedDenoiser
from bimo.diffusion.system import System
from bimo.models.adapters.lora_authors import (
    AUTHORS_REFINER,
    HUNYUAN,
    HUNYUAN_BLOCK,
    REFINER_BLOCK,
    STREAMS,
    tables,
)

Spelling = Literal["diffusers", "kohya", "comfyui"]
#: The authors' names of HunyuanDiT's fused layers -> the layers that share their rows.
FUSED = {"attn1.Wqkv": ("to_q", "to_k", "to_v"), "attn2.kv_proj": ("to_k", "to_v")}
#: Prefixes of the names of a denoiser's layers; several may follow each other in any order.
_BEFORE = (
    *("base_model_model_", "base_model_", "model_diffusion_model_", "diffusion_model_", "module_", "model_"),
    *("unet_", "transformer_", "dit_", "pipe_dit_", "lora_unet_", "lora_transformer_", "lora_dit_", "lora_prior_unet_"),
    *("oft_unet_", "oft_transformer_", "lycoris_"),
)
#: The prefix of a text encoder's layer, and the number of the text encoder, from 1.
_BEFORE_TEXT = re.compile(r"(?:(?:lora|oft|lycoris)_)?(?:text_encoder|te)(?:_?([1-9]))?_(.+)")
#: Prefixes of a text encoder's layers within the classes that trainers wrap.
_TEXT_ENCODERS_OWN = (
    "",
    "text_model_",
    "encoder_",
    "model_",
    "language_model_",
    "model_language_model_",
    "bert_",
    "roberta_",
)
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
    """Rows of a layer in a system: of the layer at ``path`` the ``part``-th of ``parts`` equal shares."""

    path: str
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class LayerNames:
    """The layers of a system by every name, with underscores, that a file may use: those of a denoiser, of each text
    encoder, and all of them by their paths.
    """

    denoiser: Mapping[str, tuple[Piece, ...]]
    encoders: tuple[Mapping[str, tuple[Piece, ...]], ...]
    own: Mapping[str, tuple[Piece, ...]]

    def find(self, name: str) -> list[tuple[Piece, ...]]:
        """The layers that a name can refer to: one, several if more than one text encoder has a layer of that name, or
        none.
        """
        if name in self.own:
            return [self.own[name]]
        return list(dict.fromkeys(self._find(name.replace(".", "_"))))

    def _find(self, name: str) -> Iterator[tuple[Piece, ...]]:
        if name in self.denoiser:
            yield self.denoiser[name]
            return
        if match := _BEFORE_TEXT.fullmatch(name):
            number, inner = int(match[1] or 1) - 1, re.sub(r"^base_model_(model_)?", "", match[2])
            if number < len(self.encoders) and inner in self.encoders[number]:
                yield self.encoders[number][inner]
                return
        for before in _BEFORE:
            if name.startswith(before):
                yield from self._find(name.removeprefix(before))
        # peft's files do not name the network.
        yield from (encoder[name] for encoder in self.encoders if name in encoder)


def pieces_by_name(model: nn.Module) -> dict[str, tuple[Piece, ...]]:
    """The layers of a published denoiser, with paths within it, by every name, with underscores, that files have."""
    return {name: tuple(replace(p, path=p.path[1:]) for p in pieces) for name, pieces in _of_denoiser(model, "")}


def root_of(system: System, level: str = "") -> str:
    """The path of a level's published denoiser ("image.denoiser.model"), by default the last level's."""
    path = f"{level or system.recipe.levels[-1].name}.denoiser"
    module = system.get_submodule(path)
    while isinstance(module, DenoiserWrapper):
        module, path = module.denoiser, f"{path}.denoiser"
    return f"{path}.model" if isinstance(module, PublishedDenoiser) else path


def layer_names(system: System, level: str = "") -> LayerNames:
    """The names that a file may use for the layers of a level's denoiser, by default the last level's, and of the text
    encoders.
    """
    root = root_of(system, level)
    denoiser = dict(_of_denoiser(system.get_submodule(root), root))
    encoders: list[dict[str, tuple[Piece, ...]]] = []
    for index, encoder in enumerate(system.text):
        at = f"text.{index}.model"
        # An encoder of words alone has no model.
        encoders.append(dict(_of_text_encoder(getattr(encoder, "model", nn.Identity()), at)))
        if "projection" in dict(encoder.named_children()):
            # It is nested within transformers' class for the text encoder.
            encoders[-1]["text_projection"] = (Piece(f"text.{index}.projection"),)
    return LayerNames(denoiser, tuple(encoders), {path: (Piece(path),) for path in _own_paths(system)})


def published(system: System, spelling: Spelling) -> dict[str, str]:
    """The path of a layer -> its name in a written file: diffusers' `unet.…` (a transformer's `transformer.…`),
    kohya-ss' `lora_unet_…`, with the authors' names of the UNet if there are two text encoders, or `diffusion_model.…`
    of ComfyUI and its trainers. The last two have the same names for text encoders.
    """
    root = root_of(system)
    layers = _layers(system.get_submodule(root))
    unet, two = is_unet(system), len(system.text_encoders) > 1
    per_block, attending = _layers_per_block(layers), _attending(layers)
    named = {path: path for path in _own_paths(system)} if spelling == "diffusers" else {}
    for name in layers:
        if spelling == "diffusers":
            named[f"{root}.{name}"] = f"{'unet' if unet else 'transformer'}.{name}"
            continue
        if spelling == "comfyui":
            named[f"{root}.{name}"] = f"diffusion_model.{name}"
            continue
        authors = ldm_name(name, per_block, attending) if unet and two else ""
        named[f"{root}.{name}"] = f"lora_unet_{(authors or name).replace('.', '_')}"
    for index, encoder in enumerate(system.text):
        number = "" if index == 0 else f"_{index + 1}"
        before = f"text_encoder{number}." if spelling == "diffusers" else f"lora_te{index + 1 if two else ''}_"
        for name in _layers(getattr(encoder, "model", nn.Identity())):
            inner = f"text_model.{name}"
            named[f"text.{index}.model.{name}"] = before + (
                inner if spelling == "diffusers" else inner.replace(".", "_")
            )
        if "projection" in dict(encoder.named_children()):
            named[f"text.{index}.projection"] = f"{before}text_projection"
    return named


def is_unet(system: System) -> bool:
    """Whether the last level's denoiser is diffusers' UNet."""
    return any(name.startswith("down_blocks.") for name, _ in system.get_submodule(root_of(system)).named_modules())


def _own_paths(system: System) -> list[str]:
    """The layers of all denoisers by their paths in the system: the names of those for which no publisher has a name,
    in earlier levels and around a published denoiser.
    """
    at = [f"{level.name}.denoiser" for level in system.recipe.levels]
    return [f"{path}.{name}" for path in at for name in _layers(system.get_submodule(path))]


def _layers(module: nn.Module) -> dict[str, nn.Module]:
    """The layers with a weight, except trainable LoRAs."""
    named = ((n, m) for n, m in module.named_modules() if "weight" in dict(m.named_parameters(recurse=False)))
    return {name: m for name, m in named if ".lora." not in name}


def _of_denoiser(model: nn.Module, root: str) -> Iterator[tuple[str, tuple[Piece, ...]]]:
    layers = _layers(model)
    per_block, attending = _layers_per_block(layers), _attending(layers)
    # diffusers' own names come last, so they win over equal names of the authors.
    for name, pieces in _fused(layers):
        yield name.replace(".", "_"), tuple(Piece(f"{root}.{p.path}", p.part, p.parts) for p in pieces)
    for name in layers:
        piece = (Piece(f"{root}.{name}"),)
        authors = [ldm_name(name, per_block, attending), *_renamed(name, layers)]
        yield from ((other.replace(".", "_"), piece) for other in authors if other)
    for name in layers:
        piece = (Piece(f"{root}.{name}"),)
        if match := _PROCESSOR.fullmatch(name):
            yield f"{match[1]}.processor.to_{match[2]}_lora".replace(".", "_"), piece
        yield name.replace(".", "_"), piece


def _of_text_encoder(model: nn.Module, at: str) -> Iterator[tuple[str, tuple[Piece, ...]]]:
    for name in _layers(model):
        piece = (Piece(f"{at}.{name}"),)
        for before in _TEXT_ENCODERS_OWN:
            yield before + name.replace(".", "_"), piece
            if match := _TEXT_PROCESSOR.fullmatch(name):
                yield f"{before}{match[1].replace('.', '_')}_to_{match[2]}_lora", piece


def _renamed(name: str, layers: Mapping[str, object]) -> Iterator[str]:
    """The names that a transformer's layer has in its authors' code if it is one layer there too."""
    if "blocks.0.attn2.to_k" in layers:
        block = re.fullmatch(r"(blocks\.\d+)\.(.+)", name)
        own = {v: k for k, v in HUNYUAN_BLOCK.items()}
        if block and block[2] in own:
            yield f"{block[1]}.{own[block[2]]}"
        if name in HUNYUAN:
            yield HUNYUAN[name]
        if found := re.fullmatch(r"time_extra_emb\.pooler\.(.+)", name):
            yield f"pooler.{found[1]}"
        return
    for table in tables(layers):
        found = next((pattern for pattern in table if re.fullmatch(pattern, name)), None)
        if found is not None:
            yield re.sub(found, table[found], name)


def _fused(layers: Mapping[str, nn.Module]) -> Iterator[tuple[str, tuple[Piece, ...]]]:
    """Fused layers of the authors' code that are several in diffusers' classes, or have their rows in another order."""
    streams, hunyuan = STREAMS in tables(layers), "blocks.0.attn2.to_k" in layers
    for name in layers:
        if match := re.fullmatch(r"((?:layers|\w+_refiner)\.\d+)\.(attention|attn)\.to_q", name):
            yield f"{match[1]}.attention.qkv", _beside(f"{match[1]}.{match[2]}", "to_q", "to_k", "to_v")
        if hunyuan and (match := re.fullmatch(r"(blocks\.\d+)\.attn1\.to_q", name)):
            for fused, parts in FUSED.items():
                yield f"{match[1]}.{fused}", _beside(f"{match[1]}.{fused.split('.')[0]}", *parts)
        if streams and (match := re.fullmatch(r"transformer_blocks\.(\d+)\.attn\.add_q_proj", name)):
            at = f"transformer_blocks.{match[1]}.attn"
            yield f"double_blocks.{match[1]}.img_attn.qkv", _beside(at, "to_q", "to_k", "to_v")
            yield f"double_blocks.{match[1]}.txt_attn.qkv", _beside(at, "add_q_proj", "add_k_proj", "add_v_proj")
        if match := re.fullmatch(r"single_transformer_blocks\.(\d+)\.proj_mlp", name):
            at = f"single_transformer_blocks.{match[1]}"
            yield f"single_blocks.{match[1]}.linear1", (*_beside(f"{at}.attn", "to_q", "to_k", "to_v"), Piece(name))
        if streams and (match := re.fullmatch(r"transformer_blocks\.(\d+)\.(ff|ff_context)\.net\.0\.proj", name)):
            # A gated one: the value, then the gate (Ovis-Image's).
            stream = f"double_blocks.{match[1]}.{'img' if match[2] == 'ff' else 'txt'}_mlp"
            yield f"{stream}.up_proj", (Piece(name, 0, 2),)
            yield f"{stream}.gate_proj", (Piece(name, 1, 2),)
            yield f"{stream}.down_proj", (Piece(name.removesuffix("0.proj") + "2"),)
        if match := re.fullmatch(r"(transformer_blocks\.\d+\.img_mlp)\.gate_layer", name):
            # Qwen-Image-2.1's in ComfyUI.
            yield f"{match[1]}.gate_up", _beside(match[1], "gate_layer", "proj")
        if match := re.fullmatch(rf"{REFINER_BLOCK}\.attn\.to_q", name):
            at = f"context_embedder.token_refiner.refiner_blocks.{match[1]}.attn"
            yield f"{match.expand(AUTHORS_REFINER)}.self_attn_qkv", _beside(at, "to_q", "to_k", "to_v")
    if streams or hunyuan:
        # The authors' have shift then scale, diffusers' scale then shift.
        yield "final_layer.adaLN_modulation.1", (Piece("norm_out.linear", 1, 2), Piece("norm_out.linear", 0, 2))


def _beside(at: str, *names: str) -> tuple[Piece, ...]:
    return tuple(Piece(f"{at}.{name}") for name in names)


def _layers_per_block(layers: Mapping[str, object]) -> int:
    matches = [re.match(r"down_blocks\.0\.resnets\.(\d+)\.", name) for name in layers]
    return max((int(m[1]) + 1 for m in matches if m), default=0)


def _attending(layers: Mapping[str, object]) -> frozenset[int]:
    return frozenset(int(m[1]) for name in layers if (m := re.match(r"up_blocks\.(\d+)\.attentions\.", name)))


def ldm_name(name: str, per_block: int, attending: frozenset[int]) -> str:
    """The name of a layer of diffusers' UNet in the authors' latent diffusion code, "" if it has none.

    ``per_block`` is the number of residual layers of a down block; up blocks have one more. ``attending`` are the up
    blocks with cross-attention, which precedes their upsampler.
    """
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    if name.startswith("mid_block."):
        kind, number, rest = name.split(".", 3)[1:]
        at = f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}"
        return f"{at}.{_RESNET.get(rest, rest)}"
    match = _BLOCK.fullmatch(name)
    if not match:
        return ""
    way, block, kind, number, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    length = per_block + 1
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * length}.0.op" if rest == "conv" else ""
    at = 1 + block * length + number if way == "down" else block * length + number
    side = "input_blocks" if way == "down" else "output_blocks"
    if kind == "upsamplers":
        return f"output_blocks.{block * length + per_block}.{2 if block in attending else 1}.{rest}"
    return f"{side}.{at}.{0 if kind == 'resnets' else 1}.{_RESNET.get(rest, rest) if kind == 'resnets' else rest}"
