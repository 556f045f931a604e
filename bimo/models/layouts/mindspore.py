"""Reads MindSpore checkpoints without MindSpore, and renames their tensors to torch's names.

A checkpoint is a protocol buffer (mindspore/ccsrc/utils/checkpoint.proto): Checkpoint { repeated Value value = 1 },
Value { string tag = 1; TensorProto tensor = 2 }, TensorProto { repeated int64 dims = 1; string tensor_type = 2; bytes
tensor_content = 3 }. A tensor that is too long for one message is split into several with the same tag, in order. Files
with a checksum end in "crc_num" and ten digits.
"""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bimo.core.errors import WeightsError

#: MindSpore's dtype names, without "mindspore." and in lower case.
NUMBERS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
VARINT, WIDE, LENGTH, NARROW = 0, 1, 2, 5
VARINT_BYTES = 10
CHECKSUM = b"crc_num"
#: Renaming rules to torch's names, applied one after the other.
NAMES = (
    (r"\.gamma$", ".weight"),
    (r"\.beta$", ".bias"),
    # WuKong's text encoder, with OpenCLIP's names.
    (r"^cond_stage_model\.transformer\.embedding_table$", "cond_stage_model.model.token_embedding.weight"),
    (r"\.token_embedding\.embedding_table$", ".token_embedding.weight"),
    (r"^cond_stage_model\.transformer\.transformer_layer\.", "cond_stage_model.model.transformer."),
    (r"^cond_stage_model\.transformer\.(positional_embedding|ln_final)", r"cond_stage_model.model.\1"),
    (r"\.resblocks\.(\d+)\.attn\.attn\.", r".resblocks.\1.attn."),
    (r"\.attn\.in_proj\.(weight|bias)$", r".attn.in_proj_\1"),
    (r"\.resblocks\.(\d+)\.(c_fc|c_proj)\.", r".resblocks.\1.mlp.\2."),
    # Its UNet: each convolution is wrapped in a cell.
    (r"\.(in_layers|out_layers)_norm\.", r".\1.0."),
    (r"\.in_layers_conv\.conv\.", ".in_layers.2."),
    (r"\.out_layers_conv\.conv\.", ".out_layers.3."),
    (r"^(model\.diffusion_model\..*\.(?:skip_connection|op|conv))\.conv\.", r"\1."),
    (r"^(model\.diffusion_model\.(?:input_blocks\.0\.0|out\.2))\.conv\.", r"\1."),
    # Its autoencoder: convolutions are wrapped too.
    (r"^(first_stage_model\..*)\.conv\.conv\.", r"\1.conv."),
)


@dataclass(frozen=True)
class Entry:
    """A tensor's shape, dtype, and the positions of its bytes."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    spans: tuple[tuple[int, int], ...]


def is_checkpoint(path: Path) -> bool:
    """Whether a file begins like a MindSpore checkpoint: a message with a tag of printable characters."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(512)
        field, wire, _, at = _field(head, 0, 1 << 62)
        inner, kind, length, at = _field(head, at, 1 << 62)
    except (OSError, WeightsError):
        return False
    tag = head[at : at + length]
    return (field, wire, inner, kind) == (1, LENGTH, 1, LENGTH) and tag.isascii() and tag.decode().isprintable()


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Torch's name -> shape of every tensor; only the messages' headers are read. Raises WeightsError."""
    return {torch_name(name): entry.shape for name, entry in _entries(path).items()}


def read(path: Path, dtype: torch.dtype | None = None, keep: Callable[[str], bool] | None = None) -> dict[str, Tensor]:
    """The tensors under torch's names, converted one at a time; floating-point ones as ``dtype``.

    ``keep`` selects by torch's name. Raises WeightsError for a file that is truncated or inconsistent.
    """
    state: dict[str, Tensor] = {}
    entries = _entries(path)
    with path.open("rb") as file:
        for name, entry in entries.items():
            own = torch_name(name)
            if keep is not None and not keep(own):
                continue
            content = bytearray()
            for start, length in entry.spans:
                file.seek(start)
                content += file.read(length)
            value = torch.frombuffer(content, dtype=entry.dtype).reshape(entry.shape)
            state[own] = value.to(dtype) if dtype is not None and value.is_floating_point() else value
    return state


def torch_name(name: str) -> str:
    """Torch's name of a tensor of MindSpore's."""
    for pattern, own in NAMES:
        name = re.sub(pattern, own, name)
    return name


def _entries(path: Path) -> dict[str, Entry]:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _index(data, path)
    except (OSError, ValueError) as error:
        raise WeightsError("cannot read the weights {path}: {error}", path=path, error=error) from None


def _index(data: mmap.mmap, path: Path) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    end = len(data)
    if (tail := data.rfind(CHECKSUM, max(0, end - 32))) >= 0:
        end = tail
    for field, wire, length, at in _fields(data, 0, end):
        if (field, wire) == (1, LENGTH):
            _value(data, at, at + length, path, entries)
    for name, entry in entries.items():
        size = sum(length for _, length in entry.spans)
        if size != math.prod(entry.shape) * entry.dtype.itemsize:
            raise _damaged(f"{path}: {name} {entry.shape} {entry.dtype}, {size} bytes")
    if not entries:
        raise WeightsError("{path} holds no table of weights", path=path)
    return entries


def _value(data: mmap.mmap, start: int, end: int, path: Path, entries: dict[str, Entry]) -> None:
    tag = ""
    for field, wire, length, at in _fields(data, start, end):
        if (field, wire) == (1, LENGTH):
            tag = data[at : at + length].decode("utf-8")
        elif (field, wire) == (2, LENGTH):
            entry = _tensor(data, at, at + length, path, tag)
            if tag in entries:
                if (entry.shape, entry.dtype) != (entries[tag].shape, entries[tag].dtype):
                    raise _damaged(f"{path}: {tag}")
                entry = Entry(entry.shape, entry.dtype, entries[tag].spans + entry.spans)
            entries[tag] = entry
        elif field == 3:
            raise WeightsError("{tag} of {path} is a MapTensor: unsupported", tag=tag, path=path)


def _tensor(data: mmap.mmap, start: int, end: int, path: Path, tag: str) -> Entry:
    dims: list[int] = []
    kind, spans = "", ()
    for field, wire, length, at in _fields(data, start, end):
        if (field, wire) == (1, VARINT):
            dims.append(length)
        elif (field, wire) == (1, LENGTH):
            place, stop = at, at + length
            while place < stop:
                dim, place = _varint(data, place, stop)
                dims.append(dim)
        elif (field, wire) == (2, LENGTH):
            kind = data[at : at + length].decode("utf-8")
        elif (field, wire) == (3, LENGTH):
            spans = ((at, length),)
    dtype = NUMBERS.get(kind.lower().removeprefix("mindspore.").rstrip("_"))
    if dtype is None:
        raise WeightsError("{tag} of {path} is in the format {kind!r}: unsupported", tag=tag, path=path, kind=kind)
    # A scalar is stored with the one dimension 0.
    shape = () if dims == [0] and spans and spans[0][1] == dtype.itemsize else tuple(dims)
    return Entry(shape, dtype, spans)


def _fields(data: mmap.mmap | bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, wire type, length or value, start of the content) of the fields of a message."""
    while at < end:
        field, wire, length, at = _field(data, at, end)
        yield field, wire, length, at
        at += 0 if wire == VARINT else length


def _field(data: mmap.mmap | bytes, at: int, end: int) -> tuple[int, int, int, int]:
    key, at = _varint(data, at, min(end, len(data)))
    field, wire = key >> 3, key & 7
    if wire == VARINT:
        value, at = _varint(data, at, min(end, len(data)))
        return field, wire, value, at
    if wire == LENGTH:
        length, at = _varint(data, at, min(end, len(data)))
    elif wire in (WIDE, NARROW):
        length = 8 if wire == WIDE else 4
    else:
        raise _damaged(f"wire {wire}")
    if at + length > end or not field:
        raise _damaged(f"{at} + {length} > {end}")
    return field, wire, length, at


def _varint(data: mmap.mmap | bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for place in range(VARINT_BYTES):
        if at + place >= end:
            break
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise _damaged(f"varint at {at}")


def _damaged(what: str) -> WeightsError:
    return WeightsError("this checkpoint of MindSpore is damaged or not whole ({what}); download it again", what=what)
