"""Explains why a LoRA file does not fit: an unsupported kind, or layers of another family's network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bimo.core.errors import WeightsError
from bimo.core.messages import Message

NAMES_SHOWN = 6
#: Tensors of unsupported kinds, by a part of their names -> the kind.
UNREAD = {
    "lora_E": "AdaLoRA",
    "vera_": "VeRA",
    "hra_u": "HRA",
    "bundle_emb": "textual inversion beside a LoRA (bundle_emb)",
    "fourierft_": "FourierFT",
    "bone_": "Bone",
    "miss_": "MiSS",
    "bm.weight": "GLoRA of convolutions (bm)",
    "lora_controlnet": "Control-LoRA",
    "_custom_diffusion": "Custom Diffusion",
}
#: The network that names of layers indicate.
_FAMILIES = (
    (re.compile(r"double_blocks|single_blocks|single_transformer_blocks"), "FLUX"),
    (re.compile(r"joint_blocks|context_block"), "Stable Diffusion 3"),
    (re.compile(r"noise_refiner|context_refiner"), "Z-Image / Lumina-Image"),
    (re.compile(r"down_blocks|up_blocks|input_blocks|output_blocks|mid_block|middle_block"), "Stable Diffusion (UNet)"),
    (re.compile(r"transformer_blocks.\d+.(attn.add_|img_m|txt_m)"), "Qwen-Image"),
    (re.compile(r"(^|[._])blocks.\d+.(attn[12]|mlp|default_modulation)"), "HunyuanDiT"),
    (re.compile(r"blocks.\d+.(self_attn|cross_attn|ffn)"), "Wan"),
    (re.compile(r"transformer_blocks"), "a diffusion transformer"),
)


def few(names: Sequence[str]) -> str:
    """The number of names, and the first of them."""
    more = f" … (+{len(names) - NAMES_SHOWN})" if len(names) > NAMES_SHOWN else ""
    return f"{len(names)}: {', '.join(names[:NAMES_SHOWN])}{more}"


def unread(file: Path, unknown: Sequence[str]) -> WeightsError:
    """The kind of unsupported tensors."""
    for part, kind in UNREAD.items():
        those = [key for key in unknown if part in key]
        if those:
            return WeightsError(
                "{file} has {kind}, a kind of adapter that is not read: {few}", file=file, kind=kind, few=few(those)
            )
    return WeightsError(
        "{file} has tensors that belong to no known kind of adapter (LoRA, LoHa, LoKr, OFT ...): {few}",
        file=file,
        few=few(unknown),
    )


def not_of_this_model(file: Path, strangers: Sequence[str], count: int) -> WeightsError:
    """What unknown layers reveal about the file."""
    kind = next((kind for pattern, kind in _FAMILIES if any(pattern.search(n) for n in strangers)), "")
    if len(strangers) < count:
        return WeightsError(
            "of the {count} layers that {file} names this model lacks {few}; use a file that was trained for "
            "this model",
            count=count,
            file=file,
            few=few(strangers),
        )
    like = Message(" (they look like those of {kind})", kind=kind) if kind else ""
    return WeightsError(
        "{file} is a LoRA for another family: this model has none of the {count} layers that it "
        "names{like}: {few}; use a file that was trained for this model",
        file=file,
        count=count,
        like=like,
        few=few(strangers),
    )
