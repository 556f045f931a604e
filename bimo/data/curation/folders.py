"""Folders as a source: walked in order with little in memory, and files read only where they are ones, inside it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from bimo.data.curation.rows import Unusable

#: Names that systems leave behind.
LEFT_BEHIND = {"__MACOSX", "Thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Listing:
    """One folder: ``path`` relative to the source, its files by name in order, and why it could not be listed."""

    path: str
    files: tuple[os.DirEntry[str], ...] = ()
    error: Unusable | None = None
    names: frozenset[str] = field(default=frozenset())


def walk(root: Path) -> Iterator[Listing]:
    """Every folder below the source and itself, each before those inside it, by name; one folder is held at a time.

    Hidden names are left out. A link to a folder is not followed: one that stays inside is read where it lies, and of
    one that leads out the listing is an error.
    """
    waiting = [""]
    while waiting:
        path = waiting.pop()
        try:
            with os.scandir(os.path.join(root, path)) as found:
                entries = sorted((e for e in found if not is_hidden(e.name)), key=lambda entry: entry.name)
        except OSError as error:
            yield Listing(path, error=Unusable("unreadable", error.strerror or str(error)))
            continue
        files, folders = list[os.DirEntry[str]](), list[str]()
        for entry in entries:
            if not _is_folder(entry):
                files.append(entry)
            elif entry.is_symlink():
                try:
                    inside(root, os.path.join(path, entry.name))
                except Unusable as error:
                    yield Listing(os.path.join(path, entry.name), error=error)
            else:
                folders.append(os.path.join(path, entry.name))
        yield Listing(path, tuple(files), names=frozenset(entry.name for entry in files))
        waiting += reversed(folders)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def is_hidden(name: str) -> bool:
    """Whether a name is one that systems leave behind."""
    return name.startswith(".") or name in LEFT_BEHIND


@lru_cache(maxsize=16)
def _real(root: str) -> str:
    return os.path.realpath(root)


def inside(root: Path, path: str) -> str:
    """The full path of a file of a source. Raises Unusable "outside the folder", also for what a link leads to."""
    start = _real(str(root))
    try:
        full = os.path.realpath(os.path.join(start, path))
    except ValueError:  # a zero byte
        raise Unusable("missing", f"no file can be called {path[:80]!r}") from None
    if full != start and not full.startswith(start.rstrip(os.sep) + os.sep):
        raise Unusable("outside the folder", path[:200])
    return full


def is_open(root: Path, path: str) -> bool:
    """Whether something of a source is a file, and inside it."""
    try:
        return os.path.isfile(inside(root, path))
    except Unusable:
        return False


def content(root: Path, path: str, maximum: int, offset: int = 0, size: int = -1) -> bytes:
    """The bytes of a file of a source, or a part of them; pipes and devices are never opened.

    Raises Unusable "outside the folder", "missing", "not a file", "unreadable", "empty", "too many bytes", "cut off".
    """
    full = inside(root, path)
    try:
        if not stat.S_ISREG(os.stat(full).st_mode):
            raise Unusable("not a file", path[:200])
        # Not to wait, should it have become a pipe since.
        file = os.open(full, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise Unusable("missing", path[:200]) from None
    except (OSError, ValueError) as error:
        raise Unusable("unreadable", str(error)[:200]) from None
    try:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            raise Unusable("not a file", path[:200])
        wanted = about.st_size - offset if size < 0 else size
        if wanted > maximum:
            raise Unusable("too many bytes", f"{wanted}; at most {maximum}")
        if wanted <= 0:
            raise Unusable("empty")
        if about.st_size < offset + wanted:
            raise Unusable("cut off", f"{path[:200]} ends at {about.st_size}, before {offset + wanted}")
        pieces = list[bytes]()
        while wanted > 0 and (piece := os.pread(file, wanted, offset)):
            pieces.append(piece)
            wanted, offset = wanted - len(piece), offset + len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    except OSError as error:
        raise Unusable("unreadable", str(error)[:200]) from None
    finally:
        os.close(file)
