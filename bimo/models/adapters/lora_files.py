"""LoRA files (arXiv:2106.09685) and their relatives: read as others wrote them, merged into a system, taken out again
bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from bimo.core import checkpoint_io
from bimo.core.errors import WeightsError
from bimo.core.hashing import digest
from bimo.core.messages import Both, Listed, Message
from bimo.diffusion.system import System
from bimo.models.adapters import lora_kinds
from bimo.models.adapters.lora_kinds import Change
from bimo.models.adapters.lora_names import LayerNames, Piece, layer_names
from bimo.models.adapters.lora_settings import Settings, Source, settings_in, sources

NAMES_SHOWN = 6
#: What follows the layer's name in a file -> what the tensor is.
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
    # DoRA's: of peft and diffusers, and of kohya-ss and its relatives.
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
#: Tensors of kinds that are not read, by a part of their names -> what that is.
_UNREAD = {
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
#: What names of layers tell of the network that they are of.
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


@dataclass(frozen=True)
class Delta:
    """What a file adds to the layer whose rows are those of ``pieces``, one after the other: parameters and shares of
    them.
    """

    pieces: tuple[Piece, ...]
    change: Change

    @property
    def paths(self) -> tuple[str, ...]:
        """The parameters it touches, each once."""
        return tuple(dict.fromkeys(piece.path for piece in self.pieces))

    def value(self, path: str, originals: Mapping[str, Tensor]) -> Tensor:
        """The addition to one of its parameters, in float32, where all of them are as in ``originals``."""
        own = originals[path]
        if self.pieces == (Piece(path),):
            return self.change(own.float())
        rows = [originals[p.path].float().chunk(p.parts)[p.part].to(own.device) for p in self.pieces]
        whole = self.change(torch.cat(rows)).split([len(each) for each in rows])
        total = torch.zeros_like(own, dtype=torch.float32)
        for piece, value in zip(self.pieces, whole, strict=True):
            if piece.path == path:
                total.chunk(piece.parts)[piece.part].copy_(value)
        return total


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


@dataclass
class Said:
    """What a file says of one layer, as it is read: tensors by what they are."""

    name: str
    roles: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


def read_lora(system: System, path: Path, level: str = "") -> Lora:
    """The LoRA in a .safetensors, a pickle of weights alone or a trainer's folder, fitted to the layers of a system.

    Of a layer that a file names twice, by the authors' name and by diffusers', diffusers' counts, as there. Raises
    WeightsError for a file that is truncated or would run code, for one that is of a kind that is not read, and where
    any of its tensors finds no layer or one of another shape.
    """
    names = layer_names(system, level)
    deltas: list[Delta] = []
    idle = True
    found = sources(path)
    for source in found:
        read, silent = _read(system, names, source)
        deltas += read
        idle = idle and silent
    if idle:
        raise WeightsError("{path} changes nothing: it is all zeros", path=path)
    return Lora(path.stem, digest(found[0].file) if len(found) == 1 else _digest(found), tuple(deltas))


def _digest(found: Sequence[Source]) -> str:
    import hashlib

    return hashlib.sha256("\n".join(digest(source.file) for source in found).encode()).hexdigest()


def _read(system: System, names: LayerNames, source: Source) -> tuple[list[Delta], bool]:
    """What a file adds, and whether that is nothing."""
    file = source.file
    state = checkpoint_io.read(file) | _numbers(file)
    finite(file, state)
    # With numbers of 8 bits torch can hardly calculate.
    state = {key: value.float() if _narrow(value) else value for key, value in state.items()}
    settings = settings_in(source)
    said, unknown = _sorted(file, state)
    if unknown:
        raise _unread(file, unknown)
    placed, strangers = _placed(system, names, said, source)
    if strangers:
        raise _strangers(file, strangers, len(said))
    # HunyuanDiT's reader divides by the root of the rank where its files say no alpha.
    dotted = any(".lora." in key and key.startswith("unet.blocks.") for key in state)
    deltas: list[Delta] = []
    misshapen: list[str] = []
    idle = True
    for one, pieces in _once(file, placed):
        own = None if "alpha" in one.roles else settings.get(one.name)
        try:
            made, silent = _deltas(system, file, one, pieces, own, dotted)
        except (ValueError, RuntimeError, IndexError):
            misshapen.append(_shapes(system, one, pieces))
            continue
        deltas += made
        idle = idle and silent
    if misshapen:
        raise WeightsError(
            "tensors of {file} have other shapes than this model's layers; it was trained for another model, "
            "of another size or version: {few}",
            file=file,
            few=few(misshapen),
        )
    return deltas, idle


def _numbers(file: Path) -> dict[str, Tensor]:
    """The strengths that a pickle has as numbers, not as tensors."""
    found = checkpoint_io.contents(file)
    tables = [found] if isinstance(found, dict) else []
    tables += [value for value in cast("dict[Any, Any]", found).values() if isinstance(value, dict)] if tables else []
    return {
        str(name): torch.tensor(float(value))
        for table in cast("list[dict[Any, Any]]", tables)
        for name, value in table.items()
        if isinstance(value, (int, float)) and str(name).endswith((".alpha", ".scalar"))
    }


def finite(file: Path, state: Mapping[str, Tensor]) -> None:
    """Raises WeightsError for tensors of an adapter that are no finite numbers."""
    broken = {
        key: int((~numbers.isfinite()).sum())
        for key, numbers in ((key, value.float() if _narrow(value) else value) for key, value in state.items())
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


def _narrow(value: Tensor) -> bool:
    """Whether a tensor is of floating-point numbers of 8 bits (float8_e4m3fn and its kin)."""
    return value.is_floating_point() and value.dtype.itemsize == 1


def _sorted(file: Path, state: Mapping[str, Tensor]) -> tuple[list[Said], list[str]]:
    """What is said of each layer, and the tensors that say nothing known. Raises WeightsError for two of one kind."""
    said: dict[str, Said] = {}
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
        one = said.setdefault(name, Said(name))
        if role in one.roles:
            raise WeightsError("{file} has two {role} for {name}", file=file, role=role, name=name)
        one.roles[role] = value
    # An alpha alone changes nothing.
    return [one for one in said.values() if one.roles.keys() != {"alpha"}], unknown


def _placed(
    system: System, names: LayerNames, said: Sequence[Said], source: Source
) -> tuple[list[tuple[Said, tuple[Piece, ...]]], list[str]]:
    """Each with the rows it is for, and the names for which there are none."""
    placed: list[tuple[Said, tuple[Piece, ...]]] = []
    strangers: list[str] = []
    for one in said:
        found = names.find(f"{source.component}.{one.name}" if source.component else one.name)
        if len(found) > 1:
            # A name that more than one text encoder has: whose shapes fit.
            found = [pieces for pieces in found if _fits(system, one, pieces)] or found
        if len(found) == 1:
            placed.append((one, found[0]))
        elif not found:
            strangers.append(one.name)
        else:
            listed = " / ".join(pieces[0].path for pieces in found)
            raise WeightsError(
                "{name} of {file} may be {listed}; put it into a folder called text_encoder or text_encoder_2",
                name=one.name,
                file=source.file,
                listed=listed,
            )
    return placed, strangers


def _fits(system: System, one: Said, pieces: tuple[Piece, ...]) -> bool:
    kind = lora_kinds.kind_of(one.roles)
    try:
        _check(system, pieces, lora_kinds.change(kind, one.roles, 1.0, {"inputs": False}))
    except (ValueError, RuntimeError, IndexError, KeyError):
        return False
    return True


def _once(file: Path, placed: Sequence[tuple[Said, tuple[Piece, ...]]]) -> list[tuple[Said, tuple[Piece, ...]]]:
    """Of what is said twice of a layer what diffusers' own name says. Raises WeightsError where both are that."""

    def is_own(one: Said, pieces: tuple[Piece, ...]) -> bool:
        last = pieces[0].path.partition(".model.")[2].replace(".", "_")
        name = one.name.replace(".", "_")
        # A processor's name leaves the number of an attention's last layer out.
        return len(pieces) == 1 and name.endswith((last, f"{last.removesuffix('_0')}_lora"))

    kept: list[tuple[Said, tuple[Piece, ...]]] = []
    taken: dict[Piece, tuple[str, bool]] = {}
    for one, pieces in sorted(placed, key=lambda each: not is_own(*each)):
        own, before = is_own(one, pieces), [taken[piece] for piece in pieces if piece in taken]
        if before and (own or not all(first for _, first in before)):
            raise WeightsError(
                "{file} has {before} and {name}: one layer", file=file, before=before[0][0], name=one.name
            )
        if not before:
            kept.append((one, pieces))
            taken |= dict.fromkeys(pieces, (one.name, own))
    return kept


def _deltas(
    system: System, file: Path, one: Said, pieces: tuple[Piece, ...], settings: Settings | None, dotted: bool
) -> tuple[list[Delta], bool]:
    """What is added to a layer's weight and to its bias, and whether that is nothing."""
    roles = one.roles
    kind = lora_kinds.kind_of(roles)
    made: list[Delta] = []
    silent = True
    if kind:
        lacking = lora_kinds.missing(kind, roles)
        if lacking:
            listed = ", ".join(lacking)
            raise WeightsError(
                "{file} is incomplete: {name} lacks its {listed}; get the file again",
                file=file,
                name=one.name,
                listed=listed,
            )
        scale = _scale(file, one, kind, settings, dotted)
        told = dict(settings.fields) if settings else {}
        told["inputs"] = settings.on_inputs(one.name) if settings else None
        change = lora_kinds.change(kind, roles, scale, told)
        silent = any(not bool(factor.any()) for factor in lora_kinds.factors(kind, roles)) or scale == 0
        if "magnitude" in roles or "dora_scale" in roles:
            length = roles["magnitude"] if "magnitude" in roles else roles["dora_scale"]
            change = lora_kinds.decomposed(change, length, _columns(system, roles, pieces))
            silent = False
        _check(system, pieces, change)
        made.append(Delta(tuple(Piece(f"{p.path}.weight", p.part, p.parts) for p in pieces), change))
        biased = lora_kinds.added(roles["up_bias"], scale) if "up_bias" in roles else None
        if "ia3_l" in roles and not lora_kinds.inputs_scaled(roles["ia3_l"], _shape(system, pieces), told["inputs"]):
            biased = lora_kinds.bias_scaled(roles["ia3_l"])
            pieces = tuple(p for p in pieces if _parameter(system, f"{p.path}.bias") is not None)
            biased = biased if pieces else None
    elif roles.keys() - {"diff_b", "alpha"}:
        listed = ", ".join(sorted(roles))
        raise WeightsError(
            "{name} of {file} has {listed}, which do not make up one adapter (LoRA, LoHa, LoKr, OFT ...)",
            name=one.name,
            file=file,
            listed=listed,
        )
    else:
        biased = None
    if "diff_b" in roles:
        biased = lora_kinds.added(roles["diff_b"], 1.0)
        silent = silent and not bool(roles["diff_b"].any())
    if biased is not None:
        rows = tuple(Piece(f"{p.path}.bias", p.part, p.parts) for p in pieces)
        without = [row.path for row in rows if _parameter(system, row.path) is None]
        if without:
            raise WeightsError(
                "{file} changes the bias of {name}, which has none in this model", file=file, name=one.name
            )
        _check(system, rows, biased, "")
        made.append(Delta(rows, biased))
    return made, silent


def _columns(system: System, roles: Mapping[str, Tensor], pieces: tuple[Piece, ...]) -> bool:
    """Whether the lengths of a DoRA are those of columns: LyCORIS' first kind, [1, in] instead of [out, 1]."""
    length = roles.get("dora_scale")
    if length is None or length.ndim < 2 or "magnitude" in roles:
        return False
    return length.shape[0] == 1 and (length.shape[1] != 1 or _shape(system, pieces)[0] != 1)


def _scale(file: Path, one: Said, kind: str, settings: Settings | None, dotted: bool) -> float:
    """How strong it is: alpha / rank, times the scalar that LyCORIS may learn."""
    roles = one.roles
    rank = lora_kinds.rank_of(kind, roles)
    scalar = float(roles["scalar"]) if "scalar" in roles else 1.0
    if settings is not None:
        return scalar * settings.scale(one.name, rank)
    if kind.endswith("of peft") or not rank:
        return scalar
    if "alpha" in roles:
        return scalar * float(roles["alpha"]) / rank
    if one.name.startswith("base_model.model."):
        raise WeightsError(
            "{file} was written by peft, which keeps how strong it is (lora_alpha) in adapter_config.json; "
            "put that file beside it",
            file=file,
        )
    return scalar * (rank**-0.5 if dotted else 1.0)


def _check(system: System, pieces: tuple[Piece, ...], change: Change, ending: str = ".weight") -> None:
    """Raises ValueError or RuntimeError where a change has another shape than what it is for; nothing is computed."""
    rows: list[Tensor] = []
    for piece in pieces:
        whole = system.get_parameter(f"{piece.path}{ending}")
        rows.append(torch.empty(whole.shape, device="meta").chunk(piece.parts)[piece.part])
    change(torch.cat(rows))


def _shape(system: System, pieces: tuple[Piece, ...]) -> tuple[int, ...]:
    shapes = [system.get_parameter(f"{p.path}.weight").shape for p in pieces]
    return (sum(s[0] // p.parts for s, p in zip(shapes, pieces, strict=True)), *shapes[0][1:])


def _parameter(system: System, path: str) -> Tensor | None:
    above, _, name = path.rpartition(".")
    return dict(system.get_submodule(above).named_parameters(recurse=False)).get(name)


def _shapes(system: System, one: Said, pieces: tuple[Piece, ...]) -> str:
    known = {"alpha", "scalar", "ia3_on_input"}
    came = " ".join(f"{name} {tuple(value.shape)}" for name, value in one.roles.items() if name not in known)
    return f"{one.name} {came} ≠ {_shape(system, pieces)}"


def few(names: Sequence[str]) -> str:
    """How many names there are, and the first of them."""
    more = f" … (+{len(names) - NAMES_SHOWN})" if len(names) > NAMES_SHOWN else ""
    return f"{len(names)}: {', '.join(names[:NAMES_SHOWN])}{more}"


def _unread(file: Path, unknown: Sequence[str]) -> WeightsError:
    """What tensors are of which nothing is known."""
    for part, kind in _UNREAD.items():
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


def _strangers(file: Path, strangers: Sequence[str], count: int) -> WeightsError:
    """What layers that a model does not have tell of the file."""
    kind = next((kind for pattern, kind in _FAMILIES if any(pattern.search(n) for n in strangers)), "")
    if len(strangers) < count:
        return WeightsError(
            "of the {count} layers that {file} names this model lacks {few}; use a file that was trained for "
            "this model",
            count=count,
            file=file,
            few=few(strangers),
        )
    like_zh, like_en = (f"（像是 {kind} 的）", f" (they look like those of {kind})") if kind else ("", "")
    return WeightsError(
        "{file} is a LoRA for another family: this model has none of the {count} layers that it "
        "names{like}: {few}; use a file that was trained for this model",
        file=file,
        count=count,
        like=Both(like_zh, like_en),
        few=few(strangers),
    )


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


def touched(system: System, path: Path | str, level: str = "") -> set[str]:
    """The parameters that a LoRA file changes. Raises WeightsError as ``read_lora``."""
    return {name for delta in read_lora(system, Path(path), level).deltas for name in delta.paths}


def unadapt(system: System, name: str = "") -> None:
    """Takes a LoRA out by its file's stem, or all of them: weights are bit for bit what they were without it."""
    merged = _merged(system)
    names = [lora.name for lora, _ in merged.active]
    if name and name not in names:
        near = Message("there is {names}", names=Listed(names) if names else Both("空", "none"))
        raise WeightsError("the system has no LoRA called {name!r}; {near}", name=name, near=near)
    _refresh(system, merged, [(lora, w) for lora, w in merged.active if name and lora.name != name])


def adapters(system: System) -> list[tuple[str, float]]:
    """Name and weight of each LoRA in a system."""
    return [(lora.name, weight) for lora, weight in _merged(system).active]


def _merged(system: System) -> Merged:
    if system.merged_loras is None:
        system.merged_loras = Merged(base=system.hashed)
    return cast(Merged, system.merged_loras)


def _refresh(system: System, merged: Merged, active: list[tuple[Lora, float]]) -> None:
    import hashlib

    with torch.no_grad():
        every = [(delta, weight) for lora, weight in active if weight for delta in lora.deltas]
        touching: dict[str, list[tuple[Delta, float]]] = {}
        for path in {path for lora, _ in active for delta in lora.deltas for path in delta.paths}:
            if path not in merged.originals:
                merged.originals[path] = system.get_parameter(path).detach().clone()
        for delta, weight in every:
            for path in delta.paths:
                touching.setdefault(path, []).append((delta, weight))
        for path, original in merged.originals.items():
            total = original
            if path in touching:
                total = original.float()
                for delta, weight in touching[path]:
                    total = total + weight * delta.value(path, merged.originals)
            system.get_parameter(path).copy_(total)
    merged.active = active
    if not active:
        merged.originals.clear()
    base, told = merged.base, [f"{lora.digest} {weight:g}" for lora, weight in active]

    def drawn_with() -> str:
        return hashlib.sha256("\n".join([base(), *told]).encode()).hexdigest()

    # A picture's record tells the weights it was drawn with.
    system.weights_hash = drawn_with if active else base
