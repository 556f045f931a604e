"""The tensors of a LoRA file by layer, and the role of each by its name (kohya-ss, peft, diffusers, LyCORIS)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from bimo.core import checkpoint_io
from bimo.core.errors import WeightsError
from bimo.models.adapters.lora_refusals import few

#: Suffixes of layer names in a file -> the role of the tensor.
_ROLES = (
    (re.compile(r"(.+)\.lora_B(?:\.[^.]+)??\.bias"), "up_bias"),
    (re.compile(r"(.+)\.lora_A(?:\.[^.]+)??(?:\.weight)?"), "down"),
    (re.compile(r"(.+)\.lora_B(?:\.[^.]+)??(?:\.weight)?"), "up"),
    (re.compile(r"(.+)\.(?:lora_down|lora\.down|lora_linear_layer\.down)\.weight"), "down"),
    (re.compile(r"(.+)\.(?:lora_up|lora\.up|lora_linear_layer\.up)\.weight"), "up"),
    (re.compile(r"(.+_lora)\.down\.weight"), "down"),
    (re.compile(r"(.+_lora)\.up\.weight"), "up"),
    (re.compile(r"(.+)\.lora_mid\.weight"), "mid"),
    (re.compile(r"(.+)\.lora_embedding_A(?:\.[^.]+)?"), "embedding_down"),
    (re.compile(r"(.+)\.lora_embedding_B(?:\.[^.]+)?"), "embedding_up"),
    (re.compile(r"(.+)\.(alpha|scalar|diff|diff_b|rescale|oft_blocks)"), ""),
    # DoRA: of peft and diffusers, and of kohya-ss and related trainers.
    (re.compile(r"(.+)\.lora_magnitude_vector(?:\.[^.]+)??(?:\.weight)?"), "magnitude"),
    (re.compile(r"(.+)\.dora_scale"), "dora_scale"),
    (re.compile(r"(.+)\.(hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))(?:\.[^.]+)?"), ""),
    (re.compile(r"(.+)\.ia3_l(?:\.[^.]+)?"), "ia3_l"),
    (re.compile(r"(.+)\.on_input"), "ia3_on_input"),
    (re.compile(r"(.+)\.oft_R(?:\.[^.]+)??(?:\.weight)?"), "oft_R"),
    (re.compile(r"(.+)\.(boft_[Rs])(?:\.[^.]+)?"), ""),
    (re.compile(r"(.+)\.([ab][12])\.weight"), ""),
    (re.compile(r"(.+)\.w_norm"), "diff"),
    (re.compile(r"(.+)\.b_norm"), "diff_b"),
)


@dataclass
class LayerEntry:
    """The entry of one layer in a file: tensors by their roles."""

    name: str
    roles: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


def strengths(file: Path) -> dict[str, Tensor]:
    """Alphas that a pickle stores as numbers, not as tensors."""
    loaded = checkpoint_io.contents(file)
    whole = cast("dict[Any, Any]", loaded) if isinstance(loaded, dict) else {}
    tables = [whole, *(cast("dict[Any, Any]", value) for value in whole.values() if isinstance(value, dict))]
    return {
        str(name): torch.tensor(float(value))
        for table in tables
        for name, value in table.items()
        if isinstance(value, (int, float)) and str(name).endswith((".alpha", ".scalar"))
    }


def finite(file: Path, state: Mapping[str, Tensor]) -> None:
    """Raises WeightsError for tensors of an adapter that are not finite."""
    broken = {
        key: int((~numbers.isfinite()).sum())
        for key, numbers in ((key, value.float() if narrow(value) else value) for key, value in state.items())
        if numbers.is_floating_point() and not bool(numbers.isfinite().all())
    }
    if broken:
        listed = few([f"{key} ({count}/{state[key].numel()})" for key, count in broken.items()])
        raise WeightsError(
            "{file} has NaN or infinite numbers, with which only black is drawn; it broke while it was "
            "trained, use another file: {listed}",
            file=file,
            listed=listed,
        )


def narrow(value: Tensor) -> bool:
    """Whether a tensor has an 8-bit floating-point dtype (float8_e4m3fn and related)."""
    return value.is_floating_point() and value.dtype.itemsize == 1


def by_layer(file: Path, state: Mapping[str, Tensor]) -> tuple[list[LayerEntry], list[str]]:
    """The entries of all layers, and unknown tensors. Raises WeightsError for duplicate roles."""
    entries: dict[str, LayerEntry] = {}
    unknown: list[str] = []
    inputs = {key.removesuffix(".on_input") for key in state if key.endswith(".on_input")}
    for key, value in state.items():
        if key.endswith(".weight") and key.removesuffix(".weight") in inputs:
            name, role = key.removesuffix(".weight"), "ia3_weight"
        elif found := next(((m, what) for pattern, what in _ROLES if (m := pattern.fullmatch(key))), None):
            name, role = found[0][1], found[1] or found[0][2]
        else:
            unknown.append(key)
            continue
        entry = entries.setdefault(name, LayerEntry(name))
        if role in entry.roles:
            raise WeightsError("{file} has two {role} for {name}", file=file, role=role, name=name)
        entry.roles[role] = value
    # An alpha alone has no effect.
    return [entry for entry in entries.values() if entry.roles.keys() != {"alpha"}], unknown
