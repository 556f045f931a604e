"""What frozen text towers say, worked out once and kept on disk: found by the text itself, never by its place.

Where it is worth while every text goes through a tower by itself, kept or not: the rounding of a batched product
depends on what else is in the batch, so only then are losses the same to the bit with the cache and without it.
"""

# torch leaves parts of its interface untyped; what crosses it here is named where it is kept.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import say
from bimo.core.fingerprint import bytes_of, digest_tensors, late_table
from bimo.core.part import dumps
from bimo.core.types import Encoding
from bimo.diffusion.keeping import turned_encoding
from bimo.diffusion.system import System, Tower
from bimo.train.devices import home_of, on

#: The share of the free disk that encodings may take; where they would take more, nothing is kept.
SHARE_OF_FREE_DISK = 0.5
#: How often a text must be asked for, on the average, to be kept. By itself it takes longer than in a batch (2.3 times
#: on a processor), and a stage may see but a few of all captions.
WORTH = 2.5
#: How many texts tell beforehand how much room all will take.
SAMPLE = 32
SHAPE_FILE = "shape.json"
KINDS = {str(kind): kind for kind in (torch.float32, torch.float16, torch.bfloat16)}

#: What of each tower: the texts of the rows, one list a tower -> encodings.
Encode = Callable[[Sequence[Sequence[str]]], tuple[Encoding, ...]]


def are_frozen(system: System) -> bool:
    """Whether there are towers and nothing in them learns, an adapter's weights included."""
    return bool(len(system.text)) and not any(p.requires_grad for p in system.text.parameters())


def encoded(system: System, texts: Sequence[Sequence[str]]) -> tuple[Encoding, ...]:
    """The texts of each tower through it, as one batch: what towers that learn are asked."""
    return tuple(turned_encoding(_asked(tower, rows), torch.float32) for tower, rows in _pairs(system, texts))


def encoded_alone(system: System, texts: Sequence[Sequence[str]]) -> tuple[Encoding, ...]:
    """The texts of each tower through it one by one, then padded as one batch."""
    made: list[Encoding] = []
    for tower, rows in _pairs(system, texts):
        each = {text: said_of(tower, text) for text in dict.fromkeys(rows)}
        made.append(gathered([each[text] for text in rows]))
    return tuple(made)


def said_of(tower: Tower, text: str) -> Encoding:
    """What a tower says of one text, 1 row, without a gradient, dropout or narrower numbers."""
    module = cast(nn.Module, tower)
    modes = {part: part.training for part in module.modules() if part.training}
    module.eval()
    with torch.no_grad(), torch.autocast(home_of(module).type, enabled=False):
        said = _here(_asked(tower, [text]))
    for part, mode in modes.items():
        part.training = mode
    return said


def gathered(rows: Sequence[Encoding]) -> Encoding:
    """Encodings of one text each as a batch, float32: padded on the right to the longest, and then masked."""
    lengths = [row.tokens.shape[1] for row in rows]
    longest, width = max(lengths), rows[0].tokens.shape[2]
    tokens = torch.zeros(len(rows), longest, width)
    masked = min(lengths) != longest or any(row.mask is not None for row in rows)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool) if masked else None
    for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        tokens[place, :length] = row.tokens[0]
        if mask is not None:
            mask[place, :length] = True if row.mask is None else row.mask[0]
    pooled = [row.pooled for row in rows if row.pooled is not None]
    return Encoding(tokens, mask, torch.cat(pooled).float() if pooled else None)


def apart_is_together(system: System, texts: Sequence[str]) -> bool:
    """Whether a text by itself has the tokens that it has beside the others: not where a longer neighbour changes what
    a denoiser sees of padding, nor where an empty text is no token at all.
    """
    for tower in system.towers:
        if not all(tower.budget(text).used for text in texts):
            return False
        alone = [said_of(tower, text) for text in texts]
        lengths = [row.tokens.shape[1] for row in alone]
        ends = [lengths.index(min(lengths)), lengths.index(max(lengths))]
        with torch.no_grad():
            together = _here(_asked(tower, [texts[end] for end in ends]))
        found = gathered([alone[end] for end in ends])
        if found.tokens.shape != together.tokens.shape or (found.mask is None) != (together.mask is None):
            return False
        if found.mask is not None and not torch.equal(found.mask, cast(Tensor, together.mask)):
            return False
    return True


def frozen_words(system: System, texts: Iterable[str], asked: int, out: Path, writes: bool = True) -> Encode:
    """How the frozen towers of a system are asked: from ``out``/cache where all of ``texts`` are there, or find room.

    What is kept is named after the texts and the towers (weights, settings, tokenizers). Nothing is kept where too few
    are ``asked`` for in the whole stage, where a tower's answer depends on the neighbours in a batch, or where the disk
    is too small, which is said. The first two are known from recipe and data, so that a run that goes on does the same.
    A process that ``writes`` nothing takes what another kept.
    """
    every = sorted({*texts, ""})
    if asked < WORTH * len(every):
        return lambda rows: encoded(system, rows)
    name = hashlib.sha256()
    for index, tower in enumerate(system.towers):
        words = sorted((out / f"words.{index}").glob("*"))
        name.update(dumps(system.recipe.text[index]).encode())
        name.update(digest_tensors(cast(nn.Module, tower).state_dict()).encode())
        name.update(late_table(out, words)().encode())
    for text in every:
        name.update(hashlib.sha256(text.encode()).digest())
    folder = out / "cache" / f"words-{name.hexdigest()[:24]}"
    if not (folder / SHAPE_FILE).is_file():
        step = max(1, len(every) // SAMPLE)
        by_length = sorted(every, key=lambda text: (len(text), text))
        sample = [*by_length[::step], by_length[-1]]
        if not apart_is_together(system, sample):
            print(
                say(
                    "有文本塔单独读一句和成批读时不一样，所以不缓存，每步照旧编码",
                    "a tower reads a text by itself otherwise than in a batch; nothing is cached, each step encodes",
                )
            )
            return lambda rows: encoded(system, rows)
        if not writes or not _fits(system, sample, len(every), out) or not _keep(system, every, folder):
            return lambda rows: encoded_alone(system, rows)
    kept = [Said.read(folder, index) for index in range(len(system.text))]
    rows = {text: row for row, text in enumerate(every)}
    return lambda wanted: tuple(said.of([rows[t] for t in some]) for said, some in zip(kept, wanted, strict=True))


@dataclass(frozen=True)
class Said:
    """What one tower says of all texts, mapped from disk: ``tokens`` [sum of L, D], ``masks`` [sum of L] and ``pooled``
    [N, P] where it has them; those of row i begin at ``starts``[i], [N + 1].
    """

    starts: list[int]
    tokens: Tensor
    masks: Tensor | None
    pooled: Tensor | None

    @classmethod
    def read(cls, folder: Path, index: int) -> Said:
        """Maps the files of a tower."""
        shape: dict[str, Any] = json.loads((folder / SHAPE_FILE).read_text(encoding="utf-8"))[index]
        kind, count = KINDS[shape["kind"]], shape["count"]
        starts = _mapped(folder / f"starts.{index}", (count + 1,), torch.int64).tolist()
        tokens = _mapped(folder / f"tokens.{index}", (starts[-1], shape["width"]), kind)
        masks = _mapped(folder / f"masks.{index}", (starts[-1],), torch.bool) if shape["masked"] else None
        pooled = _mapped(folder / f"pooled.{index}", (count, shape["pooled"]), kind) if shape["pooled"] else None
        return cls(starts, tokens, masks, pooled)

    def of(self, rows: Sequence[int]) -> Encoding:
        """The encodings of some rows as one batch."""
        some: list[Encoding] = []
        for row in rows:
            here = slice(self.starts[row], self.starts[row + 1])
            mask = None if self.masks is None else self.masks[here][None]
            pooled = None if self.pooled is None else self.pooled[row : row + 1]
            some.append(Encoding(self.tokens[here][None], mask, pooled))
        return gathered(some)


def _asked(tower: Tower, texts: Sequence[str]) -> Encoding:
    with on(home_of(cast(nn.Module, tower))):
        return tower.encode(texts)


def _here(said: Encoding) -> Encoding:
    """An encoding on the processor, where it is kept."""
    mask, pooled = (None if value is None else value.cpu() for value in (said.mask, said.pooled))
    return Encoding(said.tokens.cpu(), mask, pooled)


def _pairs(system: System, texts: Sequence[Sequence[str]]) -> Iterable[tuple[Tower, Sequence[str]]]:
    return zip(system.towers, texts, strict=True)


def _fits(system: System, sample: Sequence[str], count: int, out: Path) -> bool:
    """Whether the encodings of so many texts find room, by those of a sample."""
    taken = 0
    for text in sample:
        for tower in system.towers:
            said = said_of(tower, text)
            taken += sum(t.nbytes for t in (said.tokens, said.mask, said.pooled) if t is not None)
    wanted = taken / len(sample) * count
    free = shutil.disk_usage(out).free
    if wanted <= free * SHARE_OF_FREE_DISK:
        return True
    print(
        say(
            f"文本编码要占约 {wanted / 2**30:.1f} GiB，超过空闲磁盘 {free / 2**30:.1f} GiB 的 "
            f"{SHARE_OF_FREE_DISK:.0%}，所以不缓存，每步照旧编码",
            f"the encodings of all texts would take {wanted / 2**30:.1f} GiB, more than {SHARE_OF_FREE_DISK:.0%} of "
            f"the {free / 2**30:.1f} GiB that are free; nothing is cached, each step encodes",
        )
    )
    return False


def _keep(system: System, texts: Sequence[str], folder: Path) -> bool:
    """Writes what all towers say of texts, whole or not at all; False where the disk is full all the same."""
    for old in folder.parent.glob("words-*"):
        shutil.rmtree(old)  # of towers or texts that are no more, or half written
    part = folder.with_suffix(".part")
    part.mkdir(parents=True)
    try:
        shapes = [_write(tower, texts, part, index) for index, tower in enumerate(system.towers)]
        (part / SHAPE_FILE).write_text(json.dumps(shapes), encoding="utf-8")
    except OSError as error:
        shutil.rmtree(part)
        print(
            say(
                f"写不下文本编码（{error.strerror}），所以不缓存，每步照旧编码",
                f"the encodings cannot be written ({error.strerror}); nothing is cached, each step encodes",
            )
        )
        return False
    part.replace(folder)
    return True


def _write(tower: Tower, texts: Sequence[str], folder: Path, index: int) -> dict[str, Any]:
    from rich.progress import track

    starts = [0]
    shape: dict[str, Any] = {}
    title = say(f"编码文本，第 {index + 1} 个塔", f"encoding texts, tower {index + 1}")
    names = ("tokens", "masks", "pooled")
    tokens, masks, pooled = ((folder / f"{name}.{index}").open("wb") for name in names)
    with tokens, masks, pooled:
        for text in track(texts, description=title):
            said = said_of(tower, text)
            starts.append(starts[-1] + said.tokens.shape[1])
            width = 0 if said.pooled is None else said.pooled.shape[1]
            kind = str(said.tokens.dtype)
            shape = {"kind": kind, "width": said.tokens.shape[2], "masked": said.mask is not None, "pooled": width}
            _append(tokens, said.tokens)
            _append(masks, said.mask)
            _append(pooled, None if said.pooled is None else said.pooled.to(said.tokens.dtype))
    (folder / f"starts.{index}").write_bytes(bytes_of(torch.tensor(starts)))
    return shape | {"count": len(texts)}


def _append(file: BinaryIO, value: Tensor | None) -> None:
    if value is not None:
        file.write(bytes_of(value))


def _mapped(path: Path, shape: tuple[int, ...], kind: torch.dtype) -> Tensor:
    count = 1
    for side in shape:
        count *= side
    return torch.from_file(str(path), shared=False, size=count, dtype=kind).view(shape)
