"""Reads LoRA files (arXiv:2106.09685) and related kinds from all common trainers, and matches them to a system's
layers.
"""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bimo.core import checkpoint_io
from bimo.core.errors import WeightsError
from bimo.core.hashing import digest
from bimo.diffusion.system import System
from bimo.models.adapters import lora_kinds
from bimo.models.adapters.lora_captions import captions_of
from bimo.models.adapters.lora_kinds import Change
from bimo.models.adapters.lora_names import LayerNames, Piece, layer_names
from bimo.models.adapters.lora_refusals import few, not_of_this_model, unread
from bimo.models.adapters.lora_settings import Settings, Source, settings_in, sources
from bimo.models.adapters.lora_tensors import LayerEntry, by_layer, finite, narrow, strengths


@dataclass(frozen=True)
class Delta:
    """The change of a layer by a file, whose rows are those of ``pieces``, one after the other: parameters and parts of
    them.
    """

    pieces: tuple[Piece, ...]
    change: Change

    @property
    def paths(self) -> tuple[str, ...]:
        """The parameters it changes, each once."""
        return tuple(dict.fromkeys(piece.path for piece in self.pieces))

    def value(self, path: str, originals: Mapping[str, Tensor]) -> Tensor:
        """The change of one of its parameters, in float32, relative to ``originals``."""
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
    """A LoRA file matched to a system."""

    name: str
    digest: str
    deltas: tuple[Delta, ...]
    #: The captions that it was trained on, if the file contains them.
    captions: tuple[str, ...] = ()
    #: The tensors of the file, which the changes are computed from.
    tensors: tuple[Tensor, ...] = ()


def read_lora(system: System, path: Path, level: str = "") -> Lora:
    """The LoRA in a .safetensors, a weights-only pickle or a trainer's folder, matched to the layers of a system.

    If a file names a layer twice, by the authors' name and by diffusers', diffusers' counts, as in diffusers. Raises
    WeightsError for a file that is truncated or contains code, for an unsupported kind, and for tensors without a layer
    or with another shape.
    """
    names = layer_names(system, level)
    deltas: list[Delta] = []
    tensors: list[Tensor] = []
    idle = True
    files = sources(path)
    for source in files:
        read, kept, silent = _read(system, names, source)
        deltas += read
        tensors += kept
        idle = idle and silent
    if idle:
        raise WeightsError("{path} changes nothing: it is all zeros", path=path)
    captions = tuple(dict.fromkeys(caption for source in files for caption in captions_of(source.file)))
    content = digest(files[0].file) if len(files) == 1 else _digest(files)
    return Lora(path.stem, content, tuple(deltas), captions, tuple(tensors))


def _digest(files: Sequence[Source]) -> str:
    import hashlib

    return hashlib.sha256("\n".join(digest(source.file) for source in files).encode()).hexdigest()


def _read(system: System, names: LayerNames, source: Source) -> tuple[list[Delta], list[Tensor], bool]:
    """The changes by a file, its tensors, and whether all are zero."""
    file = source.file
    state = checkpoint_io.read(file) | strengths(file)
    finite(file, state)
    # torch supports few operations on 8-bit floats.
    state = {key: value.float() if narrow(value) else value for key, value in state.items()}
    settings = settings_in(source)
    entries, unknown = by_layer(file, state)
    if unknown:
        raise unread(file, unknown)
    placed, strangers = _placed(system, names, entries, source)
    if strangers:
        raise not_of_this_model(file, strangers, len(entries))
    # HunyuanDiT's loader divides by the root of the rank if its files have no alpha.
    dotted = any(".lora." in key and key.startswith("unet.blocks.") for key in state)
    deltas: list[Delta] = []
    misshapen: list[str] = []
    idle = True
    for entry, pieces in _once(file, placed):
        own = None if "alpha" in entry.roles else settings.get(entry.name)
        try:
            layer_deltas, silent = _deltas(system, file, entry, pieces, own, dotted)
        except (ValueError, RuntimeError, IndexError):
            misshapen.append(_shapes(system, entry, pieces))
            continue
        deltas += layer_deltas
        idle = idle and silent
    if misshapen:
        raise WeightsError(
            "tensors of {file} have other shapes than this model's layers; it was trained for another model, "
            "of another size or version: {few}",
            file=file,
            few=few(misshapen),
        )
    return deltas, list(state.values()), idle


def _placed(
    system: System, names: LayerNames, entries: Sequence[LayerEntry], source: Source
) -> tuple[list[tuple[LayerEntry, tuple[Piece, ...]]], list[str]]:
    """Each entry with the rows it is for, and the names without a layer."""
    placed: list[tuple[LayerEntry, tuple[Piece, ...]]] = []
    strangers: list[str] = []
    for entry in entries:
        candidates = names.find(f"{source.component}.{entry.name}" if source.component else entry.name)
        if len(candidates) > 1:
            # A name that several text encoders have: the one with matching shapes.
            candidates = [pieces for pieces in candidates if _fits(system, entry, pieces)] or candidates
        if len(candidates) == 1:
            placed.append((entry, candidates[0]))
        elif not candidates:
            strangers.append(entry.name)
        else:
            listed = " / ".join(pieces[0].path for pieces in candidates)
            raise WeightsError(
                "{name} of {file} may be {listed}; put it into a folder called text_encoder or text_encoder_2",
                name=entry.name,
                file=source.file,
                listed=listed,
            )
    return placed, strangers


def _fits(system: System, entry: LayerEntry, pieces: tuple[Piece, ...]) -> bool:
    kind = lora_kinds.kind_of(entry.roles)
    try:
        _check(system, pieces, lora_kinds.change(kind, entry.roles, 1.0, {"inputs": False}))
    except (ValueError, RuntimeError, IndexError, KeyError):
        return False
    return True


def _once(
    file: Path, placed: Sequence[tuple[LayerEntry, tuple[Piece, ...]]]
) -> list[tuple[LayerEntry, tuple[Piece, ...]]]:
    """For a layer named twice, the entry with diffusers' own name. Raises WeightsError if both are."""

    def is_own(entry: LayerEntry, pieces: tuple[Piece, ...]) -> bool:
        last = pieces[0].path.partition(".model.")[2].replace(".", "_")
        name = entry.name.replace(".", "_")
        # Attention processors' names omit the index of the output layer.
        return len(pieces) == 1 and name.endswith((last, f"{last.removesuffix('_0')}_lora"))

    chosen: list[tuple[LayerEntry, tuple[Piece, ...]]] = []
    first_use: dict[Piece, tuple[str, bool]] = {}
    for entry, pieces in sorted(placed, key=lambda each: not is_own(*each)):
        own, before = is_own(entry, pieces), [first_use[piece] for piece in pieces if piece in first_use]
        if before and (own or not all(first for _, first in before)):
            raise WeightsError(
                "{file} has {before} and {name}: one layer", file=file, before=before[0][0], name=entry.name
            )
        if not before:
            chosen.append((entry, pieces))
            first_use |= dict.fromkeys(pieces, (entry.name, own))
    return chosen


def _deltas(
    system: System, file: Path, entry: LayerEntry, pieces: tuple[Piece, ...], settings: Settings | None, dotted: bool
) -> tuple[list[Delta], bool]:
    """The changes of a layer's weight and bias, and whether they are zero."""
    roles = entry.roles
    kind = lora_kinds.kind_of(roles)
    deltas: list[Delta] = []
    silent = True
    if kind:
        lacking = lora_kinds.missing(kind, roles)
        if lacking:
            listed = ", ".join(lacking)
            raise WeightsError(
                "{file} is incomplete: {name} lacks its {listed}; get the file again",
                file=file,
                name=entry.name,
                listed=listed,
            )
        scale = _scale(file, entry, kind, settings, dotted)
        options = dict(settings.fields) if settings else {}
        options["inputs"] = settings.on_inputs(entry.name) if settings else None
        change = lora_kinds.change(kind, roles, scale, options)
        silent = any(not bool(factor.any()) for factor in lora_kinds.factors(kind, roles)) or scale == 0
        if "magnitude" in roles or "dora_scale" in roles:
            length = roles["magnitude"] if "magnitude" in roles else roles["dora_scale"]
            change = lora_kinds.decomposed(change, length, _columns(system, roles, pieces))
            silent = False
        _check(system, pieces, change)
        deltas.append(Delta(tuple(Piece(f"{p.path}.weight", p.part, p.parts) for p in pieces), change))
        biased = lora_kinds.added(roles["up_bias"], scale) if "up_bias" in roles else None
        if "ia3_l" in roles and not lora_kinds.inputs_scaled(roles["ia3_l"], _shape(system, pieces), options["inputs"]):
            biased = lora_kinds.bias_scaled(roles["ia3_l"])
            pieces = tuple(p for p in pieces if _parameter(system, f"{p.path}.bias") is not None)
            biased = biased if pieces else None
    elif roles.keys() - {"diff_b", "alpha"}:
        listed = ", ".join(sorted(roles))
        raise WeightsError(
            "{name} of {file} has {listed}, which do not make up one adapter (LoRA, LoHa, LoKr, OFT ...)",
            name=entry.name,
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
                "{file} changes the bias of {name}, which has none in this model", file=file, name=entry.name
            )
        _check(system, rows, biased, "")
        deltas.append(Delta(rows, biased))
    return deltas, silent


def _columns(system: System, roles: Mapping[str, Tensor], pieces: tuple[Piece, ...]) -> bool:
    """Whether the magnitudes of a DoRA are those of columns: LyCORIS' first version, [1, in] instead of [out, 1]."""
    length = roles.get("dora_scale")
    if length is None or length.ndim < 2 or "magnitude" in roles:
        return False
    return length.shape[0] == 1 and (length.shape[1] != 1 or _shape(system, pieces)[0] != 1)


def _scale(file: Path, entry: LayerEntry, kind: str, settings: Settings | None, dotted: bool) -> float:
    """The scale: alpha / rank, times the scalar that LyCORIS may train."""
    roles = entry.roles
    rank = lora_kinds.rank_of(kind, roles)
    scalar = float(roles["scalar"]) if "scalar" in roles else 1.0
    if settings is not None:
        return scalar * settings.scale(entry.name, rank)
    if kind.endswith("of peft") or not rank:
        return scalar
    if "alpha" in roles:
        return scalar * float(roles["alpha"]) / rank
    if entry.name.startswith("base_model.model."):
        raise WeightsError(
            "{file} was written by peft, which keeps how strong it is (lora_alpha) in adapter_config.json; "
            "put that file beside it",
            file=file,
        )
    return scalar * (rank**-0.5 if dotted else 1.0)


def _check(system: System, pieces: tuple[Piece, ...], change: Change, ending: str = ".weight") -> None:
    """Raises ValueError or RuntimeError if a change has another shape than its weight; nothing is computed."""
    rows: list[Tensor] = []
    for piece in pieces:
        whole = torch.empty(_whole_shape(system, f"{piece.path}{ending}"), device="meta")
        rows.append(whole.chunk(piece.parts)[piece.part])
    change(torch.cat(rows))


def _shape(system: System, pieces: tuple[Piece, ...]) -> tuple[int, ...]:
    shapes = [_whole_shape(system, f"{p.path}.weight") for p in pieces]
    return (sum(s[0] // p.parts for s, p in zip(shapes, pieces, strict=True)), *shapes[0][1:])


def _whole_shape(system: System, path: str) -> torch.Size:
    # Not by the layer's attribute, which would unpack a packed layer (engine.packing).
    if (parameter := _parameter(system, path)) is None:
        raise AttributeError(path)
    return parameter.shape


def _parameter(system: System, path: str) -> Tensor | None:
    above, _, name = path.rpartition(".")
    return dict(system.get_submodule(above).named_parameters(recurse=False)).get(name)


def _shapes(system: System, entry: LayerEntry, pieces: tuple[Piece, ...]) -> str:
    known = {"alpha", "scalar", "ia3_on_input"}
    shapes = " ".join(f"{name} {tuple(value.shape)}" for name, value in entry.roles.items() if name not in known)
    return f"{entry.name} {shapes} ≠ {_shape(system, pieces)}"
