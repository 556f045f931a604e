"""Configs and conversions of the components of a single file in LDM's layout, by the shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from torch import Tensor

from bimo.models.layouts.detection import Detection
from bimo.models.stable_diffusion import ldm_names
from bimo.models.stable_diffusion.ldm_names import Shapes

Convert = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
#: Fields of a UNet's config -> the tensor, below its prefix, that tells them; the same for an autoencoder.
UNET_KEYS = {
    "in_channels": "input_blocks.0.0.weight",
    "out_channels": "out.2.weight",
    "cross_attention_dim": "middle_block.1.transformer_blocks.0.attn2.to_k.weight",
    "projection_class_embeddings_input_dim": "label_emb.0.0.weight",
}
VAE_KEYS = {"latent_channels": "post_quant_conv.weight"}
HEAD = 64  # the width of a head of every published text encoder here, and of UNets with linear projections
#: Vocabularies that are no byte pairs: rows of CLIP's table.
WORD_PIECES = (21128, 105879)


@dataclass(frozen=True)
class Component:
    """A component of a folder: the prefix of its tensors in the file, its config, and how its tensors are turned.

    ``source`` is the name in the file, below the prefix, of what a tensor is called once turned; ``keys`` are the
    tensors by whose shapes fields of the config are told. ``pad`` is what a text of byte pairs is padded with: CLIP's
    end mark or, as OpenCLIP does, the id 0, whatever a tokenizer beside the file says.
    """

    prefix: str
    library: str
    kind: str
    config: Mapping[str, Any]
    convert: Convert = dict
    source: Callable[[str], str] = str
    keys: Mapping[str, str] = field(default_factory=dict[str, str])
    pad: Literal["", "end", "zero"] = ""


def below(names: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    """The names below a prefix, without it."""
    return {name.removeprefix(prefix): shape for name, shape in names.items() if name.startswith(prefix)}


def mapped(names: Mapping[str, str]) -> Convert:
    """Renames by a table; a name that is not in it stays, and is reported as unexpected."""
    return lambda state: {ldm_names.renamed(name, names) or name: value for name, value in state.items()}


def sourced(names: Mapping[str, str]) -> Callable[[str], str]:
    """The table of ``mapped`` the other way; a name that is not in it stays."""
    back = ldm_names.inverse(names)
    return lambda name: ldm_names.renamed(name, back) or name


def vae_convert(shapes: Shapes) -> Convert:
    """What turns an autoencoder's tensors, without their prefix, into AutoencoderKL's."""
    names = mapped(ldm_names.vae_names(*ldm_names.vae_levels(shapes)))
    return lambda state: names(ldm_names.vae_to_own(state))


def unet_config(shapes: Shapes, blocks: ldm_names.Blocks) -> dict[str, Any]:
    """The config of a UNet2DConditionModel. SD1 has 8 heads a block, all with linear projections 64 wide ones."""
    starts = [1 + (blocks.layers + 1) * level for level in range(len(blocks.depths))]
    channels = [shapes[f"input_blocks.{at}.0.out_layers.3.weight"][0] for at in starts]
    linear = len(shapes["middle_block.1.proj_in.weight"]) == 2
    config: dict[str, Any] = {
        "sample_size": 64,
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": blocks.layers,
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in blocks.depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(blocks.depths)],
        "cross_attention_dim": shapes["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
        "attention_head_dim": [width // HEAD for width in channels] if linear else 8,
        "use_linear_projection": linear,
    }
    depths = [*(depth or 1 for depth in blocks.depths[:-1]), ldm_names.depth(shapes, "middle_block.1.")]
    if any(depth != 1 for depth in depths):
        config["transformer_layers_per_block"] = depths
    if "label_emb.0.0.weight" in shapes:
        config |= {"sample_size": 128, "addition_embed_type": "text_time", "addition_time_embed_dim": 256}
        config["projection_class_embeddings_input_dim"] = shapes["label_emb.0.0.weight"][1]
    return config


def vae_config(shapes: Shapes, kind: str) -> dict[str, Any]:
    """The config of an AutoencoderKL; its scaling is SDXL's or else SD1's."""
    count, layers = ldm_names.vae_levels(shapes)
    return {
        "block_out_channels": [shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(count)],
        "down_block_types": ["DownEncoderBlock2D"] * count,
        "up_block_types": ["UpDecoderBlock2D"] * count,
        "layers_per_block": layers,
        "latent_channels": shapes["post_quant_conv.weight"][0],
        "scaling_factor": 0.13025 if kind == "xl" else 0.18215,
    }


def _count(shapes: Shapes, pattern: str) -> int:
    return len({found[1] for name in shapes if (found := re.match(pattern, name))})


def _bert(names: Shapes, found: Detection) -> dict[str, Component]:
    prefix = "cond_stage_model.transformer."
    return {"text_encoder": Component(prefix, "transformers", "BertModel", _roberta_config(below(names, prefix)))}


def _roberta(names: Shapes, found: Detection) -> dict[str, Component]:
    prefix = "cond_stage_model."
    shapes = below(names, prefix)
    config = _roberta_config(below(names, f"{prefix}roberta."))
    project, _ = shapes["transformation.weight"]
    config |= {"project_dim": project, "layer_norm_eps": 1e-5, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    config |= {"model_type": "xlm-roberta", "use_attention_mask": True, "learn_encoder": False, "pooler_fn": "cls"}
    # m18 reads the last layer but one through a norm; dropping those weights would draw something else.
    config["has_pre_transformation"] = found.system == "altdiffusion-m18" or "pre_LN.weight" in shapes
    kind = "RobertaSeriesModelWithTransformation"
    return {"text_encoder": Component(prefix, "alt_diffusion", kind, config)}


def _roberta_config(shapes: Shapes) -> dict[str, Any]:
    rows, width = shapes["embeddings.word_embeddings.weight"]
    return {
        "model_type": "bert",
        "vocab_size": rows,
        "hidden_size": width,
        "num_hidden_layers": _count(shapes, r"encoder\.layer\.(\d+)\."),
        "num_attention_heads": max(1, width // HEAD),
        "intermediate_size": shapes["encoder.layer.0.intermediate.dense.weight"][0],
        "max_position_embeddings": shapes["embeddings.position_embeddings.weight"][0],
        "type_vocab_size": shapes["embeddings.token_type_embeddings.weight"][0],
    }


def _clip(names: Shapes, found: Detection, prefix: str = "cond_stage_model.transformer.") -> dict[str, Component]:
    shapes = below(names, f"{prefix}text_model.")
    rows, width = shapes["embeddings.token_embedding.weight"]
    config = _clip_config(rows, width, shapes["embeddings.position_embedding.weight"][0])
    config |= {"num_hidden_layers": _count(shapes, r"encoder\.layers\.(\d+)\.")}
    config |= {"intermediate_size": shapes["encoder.layers.0.mlp.fc1.weight"][0], "hidden_act": "quick_gelu"}
    found_one = Component(prefix, "transformers", "CLIPTextModel", config, source="text_model.{}".format, pad="end")
    return {"text_encoder": found_one}


def _open_clip(names: Shapes, found: Detection, prefix: str = "cond_stage_model.model.") -> dict[str, Component]:
    shapes = below(names, prefix)
    rows, width = shapes["token_embedding.weight"]
    projection = "text_projection" in shapes and prefix.startswith("conditioner.")
    config = _clip_config(rows, width, shapes["positional_embedding"][0])
    layers = _count(shapes, r"transformer\.resblocks\.(\d+)\.")
    # SD2 reads the last layer but one: in its folders the last is not there.
    layers -= "text_projection" in shapes and not projection
    config |= {"num_hidden_layers": layers, "hidden_act": "quick_gelu" if found.system == "wukong-huahua" else "gelu"}
    config["intermediate_size"] = shapes["transformer.resblocks.0.mlp.c_fc.weight"][0]
    # What MindSpore's LayerNorm adds to the variance where nothing else is said.
    config["layer_norm_eps"] = 1e-7 if found.system == "wukong-huahua" else 1e-5
    if projection:
        config["projection_dim"] = shapes["text_projection"][1]
    kind = "CLIPTextModelWithProjection" if projection else "CLIPTextModel"

    def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return ldm_names.open_clip_to_own(state, layers, projection)

    source = partial(ldm_names.open_clip_source, layers=layers)
    # OpenCLIP pads with 0; WuKong's text encoder has its shape, and pads as its own tokenizer says.
    pad = "" if found.system == "wukong-huahua" else "zero"
    return {"text_encoder": Component(prefix, "transformers", kind, config, convert, source, pad=pad)}


def _clip_config(rows: int, width: int, positions: int) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_attention_heads": max(1, width // HEAD), "vocab_size": rows}
    marks = {"bos_token_id": 101, "eos_token_id": 102, "pad_token_id": 0} if rows in WORD_PIECES else {}
    return {"model_type": "clip_text_model", "max_position_embeddings": positions, **sizes, **marks}


def _xl(names: Shapes, found: Detection) -> dict[str, Component]:
    first = _clip(names, found, "conditioner.embedders.0.transformer.")["text_encoder"]
    second = _open_clip(names, found, "conditioner.embedders.1.model.")["text_encoder"]
    return {"text_encoder": first, "text_encoder_2": second}


#: The text encoders by the layout of a file's words: names and what was found -> components.
TEXT_ENCODERS: dict[str, Callable[[Shapes, Detection], dict[str, Component]]] = {
    "bert": _bert,
    "roberta": _roberta,
    "clip": _clip,
    "openclip": _open_clip,
    "xl": _xl,
}
