"""The files with a component's weights: whole or sharded, plain or a variant (fp16, bf16 ...).

They are chosen by name only, so before anything is downloaded; torch is not needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bimo.core.errors import WeightsError
from bimo.core.messages import Listed
from bimo.core.weight_formats import is_pointer

#: The libraries' names for a component's weights; safetensors are preferred to pickles.
STEMS = ("model", "diffusion_pytorch_model", "pytorch_model")
ENDINGS = ("safetensors", "bin")
#: Variants by preference if there is no plain file, the most precise first; "" is for unknown names. Weights before EMA
#: draw worse and come last.
VARIANTS = ("fp32", "ema", "fp16", "bf16", "", "non_ema")
#: As diffusers and transformers write them: "model.fp16.safetensors", "model.fp16-00001-of-00002.safetensors", and
#: formerly "model-00001-of-00002.fp16.safetensors".
_FILE = re.compile(
    rf"(?P<stem>{'|'.join(STEMS)})(?:\.(?P<variant>\w+))?(?:-(?P<part>\d+)-of-(?P<parts>\d+))?(?:\.(?P<late>\w+))?"
    rf"\.(?P<ending>{'|'.join(ENDINGS)})",
    re.IGNORECASE,
)
_INDEX = re.compile(
    rf"(?P<stem>{'|'.join(STEMS)})(?:\.(?P<variant>\w+))?\.(?P<ending>{'|'.join(ENDINGS)})\.index(?:\.(?P<late>\w+))?\.json",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class WeightCopy:
    """One copy of a component's weights: the names of its files, its missing shards, and its index, "" without one."""

    stem: str
    ending: str
    variant: str
    files: tuple[str, ...]
    missing: tuple[str, ...] = ()
    index: str = ""

    @property
    def order(self) -> tuple[int, ...]:
        """The sort key of preference: plain, safetensors, a single file."""
        rank = VARIANTS.index(self.variant if self.variant in VARIANTS else "")
        return bool(self.variant), ENDINGS.index(self.ending), rank, STEMS.index(self.stem), len(self.files)


def stored(names: Iterable[str]) -> list[WeightCopy]:
    """Every copy of the weights among a folder's files, in order of preference."""
    wholes: list[WeightCopy] = []
    shards: dict[tuple[str, str, str, int], dict[int, str]] = {}
    indices: dict[tuple[str, str, str], str] = {}
    for name in sorted(names):
        if match := _INDEX.fullmatch(name):
            indices[_key(match)] = name
        elif match := _FILE.fullmatch(name):
            if match["part"] is None:
                wholes.append(WeightCopy(*_key(match), (name,)))
            else:
                shards.setdefault((*_key(match), int(match["parts"])), {})[int(match["part"])] = name
    copies = [*wholes]
    for (stem, ending, variant, count), parts in shards.items():
        absent = tuple(str(number) for number in range(1, count + 1) if number not in parts)
        files = tuple(parts[number] for number in sorted(parts))
        index = indices.get((stem, ending, variant), "")
        copies.append(WeightCopy(stem, ending, variant, files, absent, index))
    named = {(one.stem, one.ending, one.variant) for one in copies if one.index}
    # An index may name its files arbitrarily.
    copies += [WeightCopy(*key, (), index=index) for key, index in indices.items() if key not in named]
    return sorted(copies, key=lambda one: (bool(one.missing), one.order))


def complete(names: Iterable[str]) -> WeightCopy | None:
    """The preferred complete copy among a folder's files, None if there is none."""
    return next((one for one in stored(names) if one.files and not one.missing), None)


def needed(names: Sequence[str]) -> list[str]:
    """The names of a folder's files without redundant copies of the weights. If no copy is complete, all are kept: the
    reader will report what is missing.
    """
    every = stored(names)
    chosen = complete(names)
    if chosen is None:
        return list(names)
    more = {name for one in every for name in (*one.files, one.index)} - {*chosen.files, chosen.index}
    return [name for name in names if name not in more]


def files_of(folder: Path) -> list[Path]:
    """The files with a component's weights: one, or its shards; a variant if the plain ones are incomplete.

    Raises WeightsError if there are none.
    """
    names = _names(folder)
    broken: list[tuple[str, Sequence[str]]] = []
    pointers: list[Path] = []
    for one in stored(names):
        files, absent = _files(folder, one, names)
        if absent or not files:
            broken.append((one.index or one.files[0], absent))
        elif any(map(is_pointer, files)):
            pointers = pointers or files
        else:
            return files
    if pointers:
        return pointers  # reading them raises the error about Git LFS pointers
    if broken:
        raise _broken(folder, *broken[0])
    wanted = " / ".join(f"{stem}.safetensors" for stem in STEMS[:2])
    raise WeightsError(
        "no weights in {folder}: expected {wanted} (or .bin, or a variant such as .fp16.safetensors), found {names}",
        folder=folder,
        wanted=wanted,
        names=sorted(names),
    )


def variant_of(folder: Path) -> str:
    """The chosen variant of a component's folder, "" for plain weights, or if there are none."""
    try:
        name = files_of(folder)[0].name
    except WeightsError:
        return ""
    match = _FILE.fullmatch(name)
    return _key(match)[2] if match else ""


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []


def _key(match: re.Match[str]) -> tuple[str, str, str]:
    variant = match["variant"] or match["late"] or ""
    return match["stem"].lower(), match["ending"].lower(), variant.lower()


def _files(folder: Path, one: WeightCopy, names: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The files of one copy, and the names of missing ones."""
    if not one.index:
        return [folder / name for name in one.files], [f"{one.files[0]} ({part})" for part in one.missing]
    table = _table(folder / one.index)
    # A name in an index must not lead out of its folder.
    listed = sorted({Path(str(value)).name for value in table.values()})
    return [folder / name for name in listed], [name for name in listed if name not in names]


def _table(index: Path) -> dict[str, Any]:
    try:
        table = json.loads(index.read_bytes()).get("weight_map")
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError("cannot read {index}: {error}", index=index, error=error) from None
    return cast("dict[str, Any]", table) if isinstance(table, dict) else {}


def _broken(folder: Path, name: str, absent: Sequence[str]) -> WeightsError:
    return WeightsError(
        "files that {folder} lists are missing: {missing}; download the folder whole",
        folder=folder / name,
        missing=Listed(absent),
    )
