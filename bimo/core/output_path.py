"""Where drawn pictures go: names made of prompts, files that are never overwritten unless they were named."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from bimo.core.errors import RequestError
from bimo.core.files import write_whole

SUFFIX = ".png"
NAME_BYTES = 255
#: Room in a name for what keeps it from another: -2, -3 ... and the suffix.
RESERVED_BYTES = len("-99999" + SUFFIX)
_NOT_IN_NAMES = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+')
#: What Windows takes for a device, whatever comes after a full stop: a picture of that name could not be copied there.
_DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"} | {
    f"{port}{number}" for port in ("COM", "LPT") for number in (*"0123456789", *"¹²³")
}


class OutputPath:
    """Where pictures go: a file or folder that was named, else a name made of the prompt. A text that ends with a slash
    is a folder, which is made when the first picture is written.

    Only a file that was named is ever replaced.
    """

    def __init__(self, output: Path | str | None, text: str) -> None:
        slashes = ("/", os.sep, os.altsep or "/")
        folder = isinstance(output, str) and output.endswith(slashes)
        output = None if output is None else Path(output)
        # os.path answers False where a name is too long to be looked for; pathlib raises.
        folder = output is not None and (folder or os.path.isdir(output))
        self.named = output is not None and not folder
        #: /dev/null, a pipe and the like, which are written to and never replaced.
        self.stream = output is not None and os.path.exists(output) and not (folder or os.path.isfile(output))
        if output is None or folder:
            output = (output or Path()) / (name_of(text, _longest_name(output or Path())) + SUFFIX)
        if output.suffix == "" and not self.stream:
            output = output.with_name(output.name + SUFFIX)
        self.first = output
        self.written = 0

    def check(self) -> None:
        """Raises RequestError where a file could not be written there: before anything is drawn."""
        path = self.first
        if self.stream:
            return
        if path.suffix.lower() != SUFFIX:
            raise RequestError(
                "only PNG is written, as it carries how to draw it again, not {suffix}; use {with_suffix}",
                suffix=path.suffix,
                with_suffix=path.with_suffix(SUFFIX),
            )
        try:
            folder = path.parent
            while not os.path.exists(folder) and folder != folder.parent:
                folder = folder.parent
            if "\0" in str(path):
                raise ValueError("embedded null byte")
            if len(os.fsencode(path.name)) > _longest_name(folder):
                raise OSError(36, os.strerror(36))
            handle, trial = tempfile.mkstemp(dir=folder, prefix=".", suffix=".part")
            os.close(handle)
            Path(trial).unlink()
        except (OSError, ValueError) as error:
            told = (error.strerror if isinstance(error, OSError) else "") or str(error)
            raise RequestError("cannot write to {path}: {told}", path=path, told=told) from None

    def write(self, content: bytes) -> Path:
        """Writes one more picture, whole or not at all, and answers where it lies."""
        self.written += 1
        if self.stream:
            with open(self.first, "wb") as stream:
                stream.write(content)
            return self.first
        if self.named and self.written == 1:
            return write_whole(self.first, content)
        return _write_new(self.first, content)


def name_of(text: str, longest: int = NAME_BYTES) -> str:
    """A file name, without suffix, of a prompt: Chinese stays, what no file system takes does not; cut by bytes."""
    clean = _NOT_IN_NAMES.sub(" ", unicodedata.normalize("NFC", text))
    encoding = sys.getfilesystemencoding()
    clean = clean.encode(encoding, "ignore").decode(encoding)  # what this machine has no name for
    clean = re.sub(r"\s+", " ", clean).strip(" .-~")
    cut = clean.encode()[: max(8, longest - RESERVED_BYTES)].decode(errors="ignore").rstrip(" .")
    # A cut in the middle of a joined character leaves its joiner behind.
    cut = cut.rstrip("\u200d\ufe0f") or "bimo"
    stem, dot, rest = cut.partition(".")
    return f"{stem}_{dot}{rest}" if stem.strip().upper() in _DEVICES else cut


def _write_new(first: Path, content: bytes) -> Path:
    """Writes beside what is there: name.png, name-2.png ... Making a link fails where a name is taken meanwhile."""
    first.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=first.parent, prefix=".", suffix=".part")
    os.close(handle)
    try:
        write_whole(Path(part), content)
        for path in _names(first):
            try:
                os.link(part, path)
            except FileExistsError:
                continue
            except OSError:  # a file system without links
                if path.exists():
                    continue
                os.replace(part, path)
            return path
    finally:
        Path(part).unlink(missing_ok=True)
    raise AssertionError("names never end")


def _names(first: Path) -> Iterator[Path]:
    yield first
    number = 2
    while True:
        yield first.with_name(f"{first.stem}-{number}{first.suffix}")
        number += 1


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):
        return NAME_BYTES
