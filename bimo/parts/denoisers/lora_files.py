"""LoRA files (arXiv:2106.09685): read as others wrote them, merged into a system, taken out again bit for bit.

A layer's weight W [out, in] becomes W + scale * up @ down, with up [out, r], down [r, in], scale = weight * alpha / r.
A DoRA (arXiv:2402.09353, equation 5) has each row of the sum stretched to a length of its own, ``magnitude`` [out].
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from bimo.core import weights
from bimo.core.errors import WeightsError
from bimo.core.fingerprint import digest
from bimo.diffusion.system import System
from bimo.parts.denoisers.lora_names import Piece, spellings

METADATA_KEY = "lora_adapter_metadata"
NAMES_SHOWN = 6
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
#: What follows the layer's name in a file -> what the tensor is.
_ROLES = (
    (re.compile(r"(.+)\.lora_A(?:\.default)?\.weight"), "down"),
    (re.compile(r"(.+)\.lora_B(?:\.default)?\.weight"), "up"),
    (re.compile(r"(.+)\.(?:lora_down|lora\.down|lora_linear_layer\.down)\.weight"), "down"),
    (re.compile(r"(.+)\.(?:lora_up|lora\.up|lora_linear_layer\.up)\.weight"), "up"),
    (re.compile(r"(.+_lora)\.down\.weight"), "down"),
    (re.compile(r"(.+_lora)\.up\.weight"), "up"),
    (re.compile(r"(.+)\.alpha"), "alpha"),
    # DoRA's: of peft and diffusers, and of kohya-ss and its kin.
    (re.compile(r"(.+)\.lora_magnitude_vector(?:\.default)?(?:\.weight)?"), "magnitude"),
    (re.compile(r"(.+)\.dora_scale"), "scale"),
)


@dataclass
class Half:
    """What a file says of one layer, as it is read."""

    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None
    magnitude: Tensor | None = None


@dataclass(frozen=True)
class Delta:
    """up [out, r] @ down [r, in ...] times ``scale``, for the weight at ``path``; with a ``magnitude`` [out] that is
    the length of each row of the sum.
    """

    path: str
    up: Tensor
    down: Tensor
    scale: float
    magnitude: Tensor | None = None

    def value(self, weight: Tensor) -> Tensor:
        """The addition to a weight, in float32 and its shape."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1) * self.scale
        if self.magnitude is not None:
            own = weight.float().flatten(1)
            whole = own + product.to(own)
            product = stretched(whole, self.magnitude.float().to(own)) - own
        return product.reshape(weight.shape)


def stretched(weight: Tensor, magnitude: Tensor) -> Tensor:
    """The rows of a weight [out, in] at the lengths ``magnitude`` [out]."""
    lengths = weight.norm(dim=1).clamp(min=torch.finfo(weight.dtype).tiny)  # a row of zeros stays one
    return weight * (magnitude / lengths)[:, None]


@dataclass(frozen=True)
class Lora:
    """A LoRA file as it fits a system."""

    name: str
    digest: str
    deltas: tuple[Delta, ...]


@dataclass
class Merged:
    """The LoRAs in a system, in the order they were merged, each with its weight.

    ``originals`` are the weights they touch as they were: what is taken out leaves them bit for bit.
    """

    base: Callable[[], str] = str
    active: list[tuple[Lora, float]] = field(default_factory=list[tuple[Lora, float]])
    originals: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


def read_lora(system: System, path: Path, level: str = "") -> Lora:
    """The LoRA in a .safetensors, a pickle of weights alone or a folder of peft, fitted to the layers of a system.

    Raises WeightsError for a file that is truncated or would run code, and where any of its tensors finds no layer or
    one of another shape: a LoRA of another family.
    """
    file, alphas = _file(path)
    state = weights.read(file)
    alphas |= _metadata(file)
    names = spellings(system, level)
    halves: dict[str, Half] = {}
    unknown: list[str] = []
    for key, value in state.items():
        role = next(((m[1], what) for pattern, what in _ROLES if (m := pattern.fullmatch(key))), None)
        if role is None or role[0] not in names:
            unknown.append(key)
            continue
        half = halves.setdefault(role[0], Half())
        if role[1] == "alpha":
            half.alpha = float(value)
        elif role[1] == "scale":
            if value.shape[:1].numel() != value.numel():  # a length for each column: an early kind of DoRA
                unknown.append(key)
            half.magnitude = value
        else:
            setattr(half, role[1], value)
    if unknown or not halves:
        raise _stranger(path, f"没有对应的层 {few(unknown)}", f"no layer for {few(unknown)}")
    deltas: list[Delta] = []
    misshapen: list[str] = []
    dotted = any(".lora." in key and key.startswith("unet.blocks.") for key in state)
    for base, half in halves.items():
        if half.down is None or half.up is None:
            raise WeightsError(
                f"{path} 不完整：{base} 缺 {'down' if half.down is None else 'up'}；请重新取得这个文件",
                f"{path} is incomplete: {base} lacks its {'down' if half.down is None else 'up'}; get the file again",
            )
        rank = half.down.shape[0]
        alpha = half.alpha if half.alpha is not None else _alpha(base, alphas)
        # HunyuanDiT's reader divides by the root of the rank where its files say no alpha.
        scale = (rank**-0.5 if dotted else 1.0) if alpha is None else alpha / rank
        misshapen += _put(system, base, names[base], half, scale, deltas)
    if misshapen:
        raise _stranger(path, f"形状不对 {few(misshapen)}", f"misshapen {few(misshapen)}")
    if not any(bool(delta.up.any()) and bool(delta.down.any()) for delta in deltas):
        raise WeightsError(f"{path} 什么也不改变：全是零", f"{path} changes nothing: it is all zeros")
    return Lora(path.stem, digest(file), tuple(deltas))


def adapt(system: System, path: Path | str, weight: float = 1.0, level: str = "") -> Lora:
    """Merges a LoRA file into a system at a weight; more than one may be in it. ``unadapt`` takes it out again.

    The weight is the share of the way from the system's own weights to those the file makes of them: of a DoRA too.
    Merging the same file again sets its weight. Raises WeightsError as ``read_lora``.
    """
    lora = read_lora(system, Path(path), level)
    merged = _merged(system)
    kept = [(known, w) for known, w in merged.active if known.digest != lora.digest]
    _refresh(system, merged, [*kept, (lora, weight)])
    return lora


def unadapt(system: System, name: str = "") -> None:
    """Takes a LoRA out by its file's stem, or all of them: weights are bit for bit what they were without it."""
    merged = _merged(system)
    names = [lora.name for lora, _ in merged.active]
    if name and name not in names:
        zh, en = f"里面有 {'、'.join(names) or '空'}", f"there is {', '.join(names) or 'none'}"
        raise WeightsError(f"系统里没有叫 {name!r} 的 LoRA；{zh}", f"the system has no LoRA called {name!r}; {en}")
    _refresh(system, merged, [(lora, w) for lora, w in merged.active if name and lora.name != name])


def adapters(system: System) -> list[tuple[str, float]]:
    """Name and weight of each LoRA in a system."""
    return [(lora.name, weight) for lora, weight in _merged(system).active]


def _merged(system: System) -> Merged:
    found = getattr(system, "merged_loras", None)
    if found is None:
        found = Merged(base=system.hashed)
        object.__setattr__(system, "merged_loras", found)
    return cast(Merged, found)


def _refresh(system: System, merged: Merged, active: list[tuple[Lora, float]]) -> None:
    import hashlib

    with torch.no_grad():
        for path in {delta.path for lora, _ in active for delta in lora.deltas}:
            if path not in merged.originals:
                merged.originals[path] = system.get_parameter(path).detach().clone()
        for path, original in merged.originals.items():
            total = original
            every = [(d, w) for lora, w in active if w for d in lora.deltas if d.path == path]
            if every:
                total = original.float()
                for delta, weight in every:
                    total = total + weight * delta.value(original).to(total.device)
            system.get_parameter(path).copy_(total)
    merged.active = active
    if not active:
        merged.originals.clear()
    base, told = merged.base, [f"{lora.digest} {weight:g}" for lora, weight in active]

    def drawn_with() -> str:
        return hashlib.sha256("\n".join([base(), *told]).encode()).hexdigest()

    # A picture's record tells the weights it was drawn with.
    system.weights_hash = drawn_with if active else base


def _put(
    system: System, base: str, pieces: Sequence[Piece], half: Half, scale: float, deltas: list[Delta]
) -> list[str]:
    """Adds the deltas of one layer; answers what does not fit."""
    up, down = cast(Tensor, half.up), cast(Tensor, half.down)
    lengths = half.magnitude
    if lengths is not None and lengths.numel() != len(up):
        return [f"{base} {tuple(lengths.shape)}≠({len(up)},)"]
    even = up.shape[0] % pieces[0].shares == 0
    shares = up.chunk(pieces[0].shares) if even else ()
    stretches = lengths.flatten().chunk(pieces[0].shares) if even and lengths is not None else ()
    for piece in pieces:
        weight = system.get_parameter(f"{piece.path}.weight")
        part = shares[piece.share] if shares else up
        fits = part.shape[0] == weight.shape[0] and part.flatten(1).shape[1] == down.shape[0]
        if not fits or down[0].numel() != weight[0].numel():
            return [f"{base} {tuple(up.shape)}x{tuple(down.shape)}≠{tuple(weight.shape)}"]
        deltas.append(Delta(f"{piece.path}.weight", part, down, scale, stretches[piece.share] if stretches else None))
    return []


def _file(path: Path) -> tuple[Path, dict[str, float]]:
    """The file with the tensors, and peft's alpha by pattern where a folder gives one."""
    if not path.is_dir():
        if not path.is_file():
            raise WeightsError(f"没有文件 {path}", f"there is no file {path}")
        return path, {}
    found = next((path / name for name in PEFT_WEIGHTS if (path / name).is_file()), None)
    if found is None:
        raise WeightsError(
            f"{path} 里没有 LoRA：应有 {' 或 '.join(PEFT_WEIGHTS)}",
            f"no LoRA in {path}: expected {' or '.join(PEFT_WEIGHTS)}",
        )
    try:
        config = json.loads((path / PEFT_CONFIG).read_text(encoding="utf-8"))
        settings = cast("dict[str, Any]", config)
        unsupported = [n for n in ("use_rslora", "alpha_pattern", "modules_to_save") if settings.get(n)]
        alpha = float(settings["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"读不了 {path / PEFT_CONFIG}：{error!r}；其中的 lora_alpha 决定 LoRA 的强度",
            f"cannot read {path / PEFT_CONFIG}: {error!r}; its lora_alpha says how strong the LoRA is",
        ) from None
    if unsupported:
        what = ", ".join(unsupported)
        raise WeightsError(f"{path / PEFT_CONFIG} 的 {what} 不支持", f"{what} of {path / PEFT_CONFIG}: not supported")
    return found, {"": alpha}


def _metadata(file: Path) -> dict[str, float]:
    """alpha by component ("unet.", "text_encoder.") as diffusers puts it into a .safetensors, {} for none."""
    if file.suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        text = (opened.metadata() or {}).get(METADATA_KEY)
    if not text:
        return {}
    table = cast("dict[str, Any]", json.loads(text))
    for name, value in table.items():
        if value and name.rsplit(".", 1)[-1] in {"use_rslora", "alpha_pattern"}:
            raise WeightsError(f"{file} 的 {name} 不支持", f"{name} of {file}: not supported")
    ending = "lora_alpha"
    return {name.removesuffix(ending): float(value) for name, value in table.items() if name.endswith(ending)}


def _alpha(base: str, alphas: Mapping[str, float]) -> float | None:
    fitting = [prefix for prefix in alphas if base.startswith(prefix)]
    return alphas[max(fitting, key=len)] if fitting else None


def few(names: Sequence[str]) -> str:
    """How many names there are, and the first of them."""
    more = f" … (+{len(names) - NAMES_SHOWN})" if len(names) > NAMES_SHOWN else ""
    return f"{len(names)}: {', '.join(names[:NAMES_SHOWN])}{more}"


def _stranger(path: Path, zh: str, en: str) -> WeightsError:
    return WeightsError(
        f"{path} 是别的模型的 LoRA（或不是 LoRA）：{zh}；请用为这个模型训练的文件",
        f"{path} is a LoRA for another family (or none at all): {en}; use a file that was trained for this model",
    )
