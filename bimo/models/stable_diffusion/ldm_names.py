"""Names of tensors in single files of latent diffusion (arXiv:2112.10752), beside those of diffusers' modules.

The tables go both ways: a file is read by the one, written by the other. Where shapes differ as well (the 1 x 1
convolutions of the autoencoder's attention, the fused projections of OpenCLIP) the tensors are views, not copies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

UNET, VAE = "model.diffusion_model.", "first_stage_model."
Shapes = Mapping[str, tuple[int, ...]]

RESIDUAL = (
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
)
ENDS = (
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
    ("middle_block.1", "mid_block.attentions.0"),
)
VAE_ATTENTION = (("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0"))
VAE_POINTS = tuple(f"{side}.mid.attn_1.{kind}.weight" for side in ("encoder", "decoder") for kind in "qkv") + tuple(
    f"{side}.mid.attn_1.proj_out.weight" for side in ("encoder", "decoder")
)
OPEN_CLIP = (
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
    ("attn.out_proj", "self_attn.out_proj"),
)
OPEN_CLIP_ENDS = (
    ("token_embedding", "embeddings.token_embedding"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("ln_final", "final_layer_norm"),
)
PROJECTIONS = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class Blocks:
    """How a UNet's blocks are laid out: residual blocks a level, and the transformers of each level (0 for none)."""

    layers: int
    depths: tuple[int, ...]

    @classmethod
    def of(cls, shapes: Shapes) -> Blocks:
        """Read off the names of a UNet in LDM's layout, without their prefix."""
        numbers = {int(found[1]) for name in shapes if (found := re.match(r"input_blocks\.(\d+)\.", name))}
        halves = sorted(n for n in numbers if f"input_blocks.{n}.0.op.weight" in shapes)
        layers = halves[0] - 1 if halves else max(numbers)
        count = len(halves) + 1
        return cls(layers, tuple(depth(shapes, f"input_blocks.{1 + (layers + 1) * i}.1.") for i in range(count)))


def depth(shapes: Iterable[str], prefix: str) -> int:
    """How many transformer blocks there are below a prefix."""
    numbers = {m[1] for name in shapes if (m := re.match(re.escape(prefix) + r"transformer_blocks\.(\d+)\.", name))}
    return len(numbers)


def unet_names(blocks: Blocks) -> dict[str, str]:
    """Module name of LDM -> module name of UNet2DConditionModel."""
    pairs = list(ENDS)

    def residual(ldm: str, own: str) -> None:
        pairs.extend((f"{ldm}.{a}", f"{own}.{b}") for a, b in RESIDUAL)

    count = len(blocks.depths)
    for level in range(count):
        for layer in range(blocks.layers):
            at = 1 + (blocks.layers + 1) * level + layer
            residual(f"input_blocks.{at}.0", f"down_blocks.{level}.resnets.{layer}")
            pairs.append((f"input_blocks.{at}.1", f"down_blocks.{level}.attentions.{layer}"))
        at = (blocks.layers + 1) * (level + 1)
        pairs.append((f"input_blocks.{at}.0.op", f"down_blocks.{level}.downsamplers.0.conv"))
        for layer in range(blocks.layers + 1):
            at = (blocks.layers + 1) * level + layer
            residual(f"output_blocks.{at}.0", f"up_blocks.{level}.resnets.{layer}")
            if blocks.depths[count - 1 - level]:
                pairs.append((f"output_blocks.{at}.1", f"up_blocks.{level}.attentions.{layer}"))
        after = 2 if blocks.depths[count - 1 - level] else 1
        at = (blocks.layers + 1) * (level + 1) - 1
        pairs.append((f"output_blocks.{at}.{after}.conv", f"up_blocks.{level}.upsamplers.0.conv"))
    for ldm, own in ((0, 0), (2, 1)):
        residual(f"middle_block.{ldm}", f"mid_block.resnets.{own}")
    return dict(pairs)


def vae_names(count: int, layers: int) -> dict[str, str]:
    """Module name of LDM -> module name of AutoencoderKL, with ``count`` levels of ``layers`` residual blocks."""
    pairs = [("quant_conv", "quant_conv"), ("post_quant_conv", "post_quant_conv")]
    for side, kind, blocks in (("encoder", "down", layers), ("decoder", "up", layers + 1)):
        pairs += [(f"{side}.conv_in", f"{side}.conv_in"), (f"{side}.conv_out", f"{side}.conv_out")]
        pairs.append((f"{side}.norm_out", f"{side}.conv_norm_out"))
        residual = [(f"mid.block_{n + 1}", f"mid_block.resnets.{n}") for n in range(2)]
        for level in range(count):
            # LDM counts the decoder's levels from the finest.
            ldm = level if kind == "down" else count - 1 - level
            residual += [(f"{kind}.{ldm}.block.{n}", f"{kind}_blocks.{level}.resnets.{n}") for n in range(blocks)]
            sample = f"{kind}_blocks.{level}.{kind}samplers.0.conv"
            pairs.append((f"{side}.{kind}.{ldm}.{kind}sample.conv", f"{side}.{sample}"))
        for ldm, own in residual:
            pairs += [(f"{side}.{ldm}.{n}", f"{side}.{own}.{n}") for n in ("norm1", "conv1", "norm2", "conv2")]
            pairs.append((f"{side}.{ldm}.nin_shortcut", f"{side}.{own}.conv_shortcut"))
        pairs += [(f"{side}.mid.attn_1.{a}", f"{side}.mid_block.attentions.0.{b}") for a, b in VAE_ATTENTION]
    return dict(pairs)


def vae_levels(shapes: Shapes) -> tuple[int, int]:
    """(levels, residual blocks a level) of an autoencoder in LDM's layout, without their prefix."""
    blocks = {(int(m[1]), int(m[2])) for n in shapes if (m := re.match(r"encoder\.down\.(\d+)\.block\.(\d+)\.", n))}
    return max(level for level, _ in blocks) + 1, max(block for _, block in blocks) + 1


def open_clip_names(layers: int) -> dict[str, str]:
    """Module name of OpenCLIP -> module name of CLIPTextModel; the fused projections are not modules of it."""
    blocks = [
        (f"transformer.resblocks.{n}.{a}", f"encoder.layers.{n}.{b}") for n in range(layers) for a, b in OPEN_CLIP
    ]
    return dict((*OPEN_CLIP_ENDS, *blocks))


def inverse(names: Mapping[str, str]) -> dict[str, str]:
    """The table the other way."""
    return {own: ldm for ldm, own in names.items()}


def renamed(name: str, names: Mapping[str, str]) -> str | None:
    """A tensor's name after its module's; None where no module of the table has it."""
    module, rest = name, ""
    while module not in names:
        module, dot, last = module.rpartition(".")
        if not dot:
            return None
        rest = f".{last}{rest}"
    return names[module] + rest


def vae_to_own(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The autoencoder's tensors with attention as linear layers, [C, C, 1, 1] -> [C, C]."""
    return {name: vae_tensor(name, value) for name, value in state.items()}


def vae_tensor(name: str, value: Tensor) -> Tensor:
    """As ``vae_to_own``, for one tensor by its LDM name."""
    return value[:, :, 0, 0] if name in VAE_POINTS and value.ndim == 4 else value


def vae_to_ldm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The autoencoder's tensors, LDM's names, with attention as convolutions, [C, C] -> [C, C, 1, 1]."""
    return {name: v[:, :, None, None] if name in VAE_POINTS and v.ndim == 2 else v for name, v in state.items()}


def open_clip_to_own(state: Mapping[str, Tensor], layers: int, projection: bool) -> dict[str, Tensor]:
    """OpenCLIP's tensors under the names of CLIPTextModel(WithProjection), as many layers as there are to be.

    in_proj [3 D, D] is q, k and v; text_projection [D, P] is the transpose of a linear layer's [P, D].
    """
    names = open_clip_names(layers)
    state_of_now: dict[str, Tensor] = {}
    for name, value in state.items():
        block = re.match(r"transformer\.resblocks\.(\d+)\.", name)
        if name in ("logit_scale", "attn_mask") or (block and int(block[1]) >= layers):
            continue
        fused = re.fullmatch(r"transformer\.resblocks\.\d+\.attn\.in_proj_(weight|bias)", name)
        if block and fused:
            for kind, piece in zip(PROJECTIONS, value.chunk(3), strict=True):
                state_of_now[f"encoder.layers.{block[1]}.self_attn.{kind}.{fused[1]}"] = piece
        elif name == "text_projection":
            if projection:
                state_of_now["text_projection.weight"] = value.T.contiguous()
        else:
            state_of_now[renamed(name, names) or name] = value
    return state_of_now


def open_clip_text(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """A text encoder's tensors, OpenCLIP's names, under those of our module, with as many layers as there are: surplus
    ones are reported, not left out.
    """
    found = (re.match(r"transformer\.resblocks\.(\d+)\.", name) for name in state)
    layers = 1 + max((int(match[1]) for match in found if match), default=-1)
    for name, value in open_clip_to_own(state, layers, True).items():
        yield "projection.weight" if name == "text_projection.weight" else f"model.{name}", value


def open_clip_source(name: str, layers: int) -> str:
    """OpenCLIP's name of a CLIPTextModel's tensor; one of a fused projection has that of the whole."""
    fused = re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.[qkv]_proj\.(weight|bias)", name)
    if fused:
        return f"transformer.resblocks.{fused[1]}.attn.in_proj_{fused[2]}"
    if name == "projection.weight":
        return "text_projection"
    own = renamed(name.removeprefix("model."), inverse(open_clip_names(layers))) or name
    return own.removesuffix(".weight") if own == "positional_embedding.weight" else own


def open_clip_to_ldm(state: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """A CLIPTextModel(WithProjection)'s tensors under OpenCLIP's names."""
    names = inverse(open_clip_names(layers))
    renamed_state: dict[str, Tensor] = {}
    for name, value in state.items():
        if own := renamed(name, names):
            renamed_state[own] = value
    for layer in range(layers):
        for kind in ("weight", "bias"):
            pieces = [state[f"encoder.layers.{layer}.self_attn.{projection}.{kind}"] for projection in PROJECTIONS]
            renamed_state[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(pieces)
    if "text_projection.weight" in state:
        renamed_state["text_projection"] = state["text_projection.weight"].T.contiguous()
    return renamed_state
