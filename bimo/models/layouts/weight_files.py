"""Which files of a component's folder hold its weights: whole or in shards, as they are or a variant (fp16, bf16 ...).

Names alone say so, so that it is known before anything is fetched; torch is not needed.
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

#: What the libraries call a component's weights, safetensors before pickles.
STEMS = ("model", "diffusion_pytorch_model", "pytorch_model")
ENDINGS = ("safetensors", "bin")
#: Variants in the order in which they are taken where there is no plain file, the most digits first; "" stands for
#: those of other names. What a trainer kept beside its average draws worse and comes last.
VARIANTS = ("fp32", "ema", "fp16", "bf16", "", "non_ema")
#: As diffusers and transformers write them: "model.fp16.safetensors", "model.fp16-00001-of-00002.safetensors", and of
#: before that "model-00001-of-00002.fp16.safetensors".
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
class Stored:
    """A component's weights as they are stored once: the names of the files, those of its shards that are not there,
    and that of its index, "" without one.
    """

    stem: str
    ending: str
    variant: str
    files: tuple[str, ...]
    missing: tuple[str, ...] = ()
    index: str = ""

    @property
    def order(self) -> tuple[int, ...]:
        """Sorts what is taken first: what is plain, safetensors, whole in one file."""
        rank = VARIANTS.index(self.variant if self.variant in VARIANTS else "")
        return bool(self.variant), ENDINGS.index(self.ending), rank, STEMS.index(self.stem), len(self.files)


def stored(names: Iterable[str]) -> list[Stored]:
    """Every way in which the files of a folder hold its weights, what is taken first at the beginning."""
    wholes: list[Stored] = []
    shards: dict[tuple[str, str, str, int], dict[int, str]] = {}
    indices: dict[tuple[str, str, str], str] = {}
    for name in sorted(names):
        if found := _INDEX.fullmatch(name):
            indices[_key(found)] = name
        elif found := _FILE.fullmatch(name):
            if found["part"] is None:
                wholes.append(Stored(*_key(found), (name,)))
            else:
                shards.setdefault((*_key(found), int(found["parts"])), {})[int(found["part"])] = name
    made = [*wholes]
    for (stem, ending, variant, count), parts in shards.items():
        absent = tuple(str(number) for number in range(1, count + 1) if number not in parts)
        files = tuple(parts[number] for number in sorted(parts))
        index = indices.get((stem, ending, variant), "")
        made.append(Stored(stem, ending, variant, files, absent, index))
    named = {(one.stem, one.ending, one.variant) for one in made if one.index}
    # An index may call its files what it likes.
    made += [Stored(*key, (), index=index) for key, index in indices.items() if key not in named]
    return sorted(made, key=lambda one: (bool(one.missing), one.order))


def complete(names: Iterable[str]) -> Stored | None:
    """The weights that are taken of a folder with files of these names, None where none are all there."""
    return next((one for one in stored(names) if one.files and not one.missing), None)


def needed(names: Sequence[str]) -> list[str]:
    """Those of the names of a folder's files without the weights that say again what others do. Where none are all
    there, everything is left: whoever reads it says what is missing.
    """
    every = stored(names)
    taken = complete(names)
    if taken is None:
        return list(names)
    more = {name for one in every for name in (*one.files, one.index)} - {*taken.files, taken.index}
    return [name for name in names if name not in more]


def files_of(folder: Path) -> list[Path]:
    """The files with a component's weights: one, or its shards; a variant where the plain ones are not all there.

    Raises WeightsError for none.
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
        return pointers  # reading them says what they are
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
    """The variant that is taken of a component's folder, "" for the plain weights, or none at all."""
    try:
        taken = files_of(folder)[0].name
    except WeightsError:
        return ""
    match = _FILE.fullmatch(taken)
    return _key(match)[2] if match else ""


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []


def _key(found: re.Match[str]) -> tuple[str, str, str]:
    variant = found["variant"] or found["late"] or ""
    return found["stem"].lower(), found["ending"].lower(), variant.lower()


def _files(folder: Path, one: Stored, names: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The files of one way, and the names of those that are not there."""
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
