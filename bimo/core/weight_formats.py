"""What a file of weights is, by its first bytes: its name says nothing that can be relied on."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Literal

from bimo.core.errors import WeightsError
from bimo.core.messages import Both

Format = Literal["safetensors", "archive", "pickle"]
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
    (GGUF, ("GGUF 量化权重", "weights quantised as GGUF")),
    (b"\x89HDF", ("HDF5（Keras / TensorFlow 的权重）", "HDF5 (weights of Keras or TensorFlow)")),
    (b"\x89PNG", ("一张 PNG 图片", "a PNG picture")),
    (b"\xff\xd8\xff", ("一张 JPEG 图片", "a JPEG picture")),
    (b"GIF8", ("一张 GIF 图片", "a GIF picture")),
    (b"RIFF", ("一张 WebP 图片或一段音视频", "a WebP picture, or sound")),
    (b"%PDF", ("一份 PDF", "a PDF")),
)
PROTOCOLS = range(2, 6)
WANTED = (
    "请给 .safetensors，或完整的 .ckpt、.pt、.bin 文件",
    "name a .safetensors file, or a whole .ckpt, .pt or .bin",
)


def format_of(path: Path) -> Format:
    """What a file of weights is: safetensors, torch's archive, or a pickle of before that.

    Raises WeightsError for what is none of them, with a sentence of its own for each thing that it is instead.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise unread(path, "它是空文件（0 字节）；请重新下载", "it is empty (0 bytes); download it again")
    if head.startswith(POINTER):
        raise _pointer(path, head)
    # A text or a page can hold a brace there as well: they are known by what they begin with.
    if head[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{" and not _is_text(head[:LENGTH_BYTES]):
        length = int.from_bytes(head[:LENGTH_BYTES], "little")
        if length > size - LENGTH_BYTES:
            raise cut(path, f"文件头应有 {length:,} 字节", f"its head alone is {length:,} bytes")
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


def unread(path: Path, zh: str, en: str) -> WeightsError:
    """Told of a file that is not read, and why."""
    return WeightsError("cannot read the weights {path}: {near}", path=path, near=Both(zh, en))


def cut(path: Path, zh: str, en: str) -> WeightsError:
    """Told of a file that ends before its content does."""
    size = path.stat().st_size
    return unread(
        path,
        f"它不完整（{zh}，而它只有 {size:,} 字节）；请重新下载",
        f"it is cut off ({en}, and it has {size:,}); download it again",
    )


def _pointer(path: Path, head: bytes) -> WeightsError:
    found = re.search(rb"size (\d+)", head)
    zh, en = (f"（原文件有 {int(found[1]):,} 字节）", f" of {int(found[1]):,} bytes") if found else ("", "")
    return unread(
        path,
        f"它只是 git LFS 的指针，不是权重本身{zh}；请在那个仓库里运行 git lfs pull，或直接下载原文件",
        f"it is git LFS's pointer to the weights, not the file itself{en}; run git lfs pull in its repository, or "
        "download the file",
    )


def _archive(path: Path) -> Format:
    if not zipfile.is_zipfile(path):
        raise cut(path, "压缩包没有结尾", "the end of its archive is not there")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    last = {name.rpartition("/")[2] for name in names}
    if "data.pkl" in last and "constants.pkl" not in last:
        return "archive"
    if "data.pkl" in last:
        raise unread(
            path,
            "它是 TorchScript 程序，不只是权重；文件里的代码一律不运行，请向发布者要 .safetensors 文件",
            "it is a program of TorchScript, more than weights; code of a file is never run, so ask for a .safetensors "
            "file",
        )
    shown = ", ".join(names[:3])
    raise unread(
        path,
        f"它是 zip 压缩包（里面有 {shown}），不是权重；请先解压（unzip），再给出里面的文件",
        f"it is a zip archive ({shown}), not weights; unpack it first (unzip) and name what is in it",
    )


def _other(path: Path, head: bytes) -> WeightsError:
    for magic, kind, command in PACKED:
        if head.startswith(magic):
            return unread(
                path,
                f"它是 {kind} 压缩的；请先解压（{command}），再给出里面的文件",
                f"it is packed by {kind}; unpack it first ({command}) and name what is in it",
            )
    for magic, (zh, en) in OTHERS:
        if head.startswith(magic):
            return unread(path, f"它是{zh}；{WANTED[0]}", f"it is {en}; {WANTED[1]}")
    if head[257:262] == b"ustar":
        return unread(
            path,
            "它是 tar 包；请先解开（tar xf），再给出里面的文件",
            "it is a tar archive; unpack it first (tar xf) and name what is in it",
        )
    if not any(head):
        return unread(
            path,
            "它的开头全是零，没有下载完整；请重新下载",
            "it begins with zeros alone: the download did not come through, so download it again",
        )
    if not _is_text(head):
        return unread(path, f"它不是权重文件；{WANTED[0]}", f"it is not a file of weights; {WANTED[1]}")
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:1] == b"<":
        return unread(
            path,
            "它是网页（HTML），不是权重：多半是登录页，或介绍文件的那一页；请下载文件本身",
            "it is a web page (HTML), not weights: most often a login page, or the page about the file; download the "
            "file itself",
        )
    shown = start.splitlines()[0][:40].decode("utf-8", "replace") if start else ""
    return unread(
        path,
        f"它是文本（开头是 {shown!r}），不是权重；{WANTED[0]}",
        f"it is text (which begins with {shown!r}), not weights; {WANTED[1]}",
    )


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n\f" for byte in head)
