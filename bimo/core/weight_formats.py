"""What a file of weights is, by its first bytes: its name says nothing that can be relied on."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Literal

from bimo.core.errors import WeightsError
from bimo.core.messages import Message

Format = Literal["safetensors", "archive", "pickle"]
#: What the names of files of weights end in.
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
#: Bytes of the beginning that are looked at; a tar archive names itself at 257.
HEAD_BYTES = 512
#: What stands in front of a .safetensors file: the length of its head, which begins with a brace.
LENGTH_BYTES = 8
POINTER = b"version https://git-lfs.github.com/spec/"
#: The first bytes of files that are packed: what they are, and how they are unpacked.
PACKED = (
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"\xfd7zXZ\x00", "xz", "unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"7z\xbc\xaf\x27\x1c", "7z", "7z x"),
    (b"Rar!", "rar", "unrar x"),
)
#: What a file of GGUF begins with.
GGUF = b"GGUF"
#: The first bytes of other files that people hand over.
OTHERS = (
    (GGUF, Message("weights quantised as GGUF")),
    (b"\x89HDF", Message("HDF5 (weights of Keras or TensorFlow)")),
    (b"\x89PNG", Message("a PNG picture")),
    (b"\xff\xd8\xff", Message("a JPEG picture")),
    (b"GIF8", Message("a GIF picture")),
    (b"RIFF", Message("a WebP picture, or sound")),
    (b"%PDF", Message("a PDF")),
)
PROTOCOLS = range(2, 6)
EXPECTED = Message("name a .safetensors or .gguf file, or a whole .ckpt, .pt or .bin")


def format_of(path: Path) -> Format:
    """What a file of weights is: safetensors, torch's archive, or a pickle of before that.

    Raises WeightsError for what is none of them, with a sentence of its own for each thing that it is instead.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise unreadable(path, Message("it is empty (0 bytes); download it again"))
    if head.startswith(POINTER):
        raise _pointer(path, head)
    # A text or a page can hold a brace there as well: they are known by what they begin with.
    if head[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{" and not _is_text(head[:LENGTH_BYTES]):
        length = int.from_bytes(head[:LENGTH_BYTES], "little")
        if length > size - LENGTH_BYTES:
            raise truncated(path, Message("its head alone is {length:,} bytes", length=length))
        return "safetensors"
    if head.startswith(b"PK"):
        return _archive(path)
    if len(head) > 1 and head[0] == 0x80 and head[1] in PROTOCOLS:
        return "pickle"
    raise _other(path, head)


def is_gguf(path: Path) -> bool:
    """Whether a file is one of GGUF, whatever its name ends in."""
    with path.open("rb") as file:
        return file.read(len(GGUF)) == GGUF


def is_pointer(path: Path) -> bool:
    """Whether a file only stands for the one that git LFS would have put there."""
    with path.open("rb") as file:
        return file.read(len(POINTER)) == POINTER


def unreadable(path: Path, reason: Message | str) -> WeightsError:
    """The error for a file of weights that cannot be read, and why."""
    return WeightsError("cannot read the weights {path}: {reason}", path=path, reason=reason)


def truncated(path: Path, sign: Message) -> WeightsError:
    """The error for a file that ends before its content does; ``sign`` says what shows it."""
    size = path.stat().st_size
    return unreadable(
        path, Message("it is cut off ({sign}, and it has {size:,}); download it again", sign=sign, size=size)
    )


def _pointer(path: Path, head: bytes) -> WeightsError:
    found = re.search(rb"size (\d+)", head)
    size = Message(" of {size:,} bytes", size=int(found[1])) if found else ""
    return unreadable(
        path,
        Message(
            "it is git LFS's pointer to the weights, not the file itself{size}; run git lfs pull in its repository, "
            "or download the file",
            size=size,
        ),
    )


def _archive(path: Path) -> Format:
    if not zipfile.is_zipfile(path):
        raise truncated(path, Message("the end of its archive is not there"))
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    last = {name.rpartition("/")[2] for name in names}
    if "data.pkl" in last and "constants.pkl" not in last:
        return "archive"
    if "data.pkl" in last:
        raise unreadable(
            path,
            Message(
                "it is a program of TorchScript, more than weights; code of a file is never run, so ask for a "
                ".safetensors file"
            ),
        )
    shown = ", ".join(names[:3])
    raise unreadable(
        path,
        Message(
            "it is a zip archive ({shown}), not weights; unpack it first (unzip) and name what is in it", shown=shown
        ),
    )


def _other(path: Path, head: bytes) -> WeightsError:
    for magic, kind, command in PACKED:
        if head.startswith(magic):
            return unreadable(
                path,
                Message(
                    "it is packed by {kind}; unpack it first ({command}) and name what is in it",
                    kind=kind,
                    command=command,
                ),
            )
    for magic, kind in OTHERS:
        if head.startswith(magic):
            return unreadable(path, Message("it is {kind}; {expected}", kind=kind, expected=EXPECTED))
    if head[257:262] == b"ustar":
        return unreadable(
            path,
            Message("it is a tar archive; unpack it first (tar xf) and name what is in it"),
        )
    if not any(head):
        return unreadable(
            path,
            Message("it begins with zeros alone: the download did not come through, so download it again"),
        )
    if not _is_text(head):
        return unreadable(path, Message("it is not a file of weights; {expected}", expected=EXPECTED))
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:1] == b"<":
        return unreadable(
            path,
            Message(
                "it is a web page (HTML), not weights: most often a login page, or the page about the file; download "
                "the file itself"
            ),
        )
    shown = start.splitlines()[0][:40].decode("utf-8", "replace") if start else ""
    return unreadable(
        path,
        Message("it is text (which begins with {shown!r}), not weights; {expected}", shown=shown, expected=EXPECTED),
    )


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n\f" for byte in head)


def refuse_absent(path: Path, text: str) -> None:
    """Raises WeightsError for a model's name, as it was written, that can only be a path and is none."""
    if path.exists():
        return
    if path.suffix.lower() in SUFFIXES:
        raise WeightsError("there is no file {path}", path=text)
    if path.is_absolute() or text.startswith((".", "~")):
        raise WeightsError("there is no folder {text}", text=text)
