"""Folders as a source: walked in order with little memory; only regular files inside the source are read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from bimo.curation.readers.formats import BEGINNING, comparable, format_of
from bimo.curation.readers.rows import Unusable

#: Names of files that operating systems create.
LEFT_BEHIND = {"__MACOSX", "Thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Listing:
    """One folder: ``path`` relative to the source, its files sorted by name, and why it could not be listed."""

    path: str
    files: tuple[os.DirEntry[str], ...] = ()
    error: Unusable | None = None
    names: frozenset[str] = field(default=frozenset())
    by_comparable: Mapping[str, str] = field(default_factory=dict[str, str])

    def find(self, name: str) -> str | None:
        """The file with a name, also in another Unicode form or with its extension in capitals."""
        return name if name in self.names else self.by_comparable.get(comparable(name))


def walk(root: Path, hidden: bool = False) -> Iterator[Listing]:
    """Every folder below the source and itself, each before those inside it, by name; one folder is held at a time.

    Hidden names are left out unless ``hidden``. A link to a folder is not followed: one that stays inside is read where
    it lies, and of one that leads out the listing is an error.
    """
    waiting = [""]
    while waiting:
        path = waiting.pop()
        try:
            with os.scandir(os.path.join(root, path)) as scan:
                entries = sorted((e for e in scan if hidden or not is_hidden(e.name)), key=lambda entry: entry.name)
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
        names = frozenset(entry.name for entry in files)
        yield Listing(path, tuple(files), None, names, _compared(names))
        waiting += reversed(folders)


def _compared(names: Iterable[str]) -> dict[str, str]:
    """Names by their comparable form; of several with the same form the one that is written so, else the first."""
    by_form: dict[str, str] = {}
    for name in sorted(names):
        alike = comparable(name)
        if alike == name:
            by_form[alike] = name
        else:
            by_form.setdefault(alike, name)
    return by_form


@lru_cache(maxsize=16)
def _names_in(folder: str, changed: int) -> dict[str, str]:
    try:
        return _compared(os.listdir(folder))
    except OSError:
        return {}


def resolved(root: str, path: str) -> str | None:
    """A path below a root with each name as it is written on disk; None where there is none.

    Raises ValueError for an impossible file name.
    """
    path_so_far = ""
    for part in path.split("/"):
        inner = os.path.join(path_so_far, part)
        if part and not os.path.lexists(os.path.join(root, inner)):
            here = os.path.join(root, path_so_far)
            try:
                changed = os.stat(here).st_mtime_ns
            except OSError:
                return None
            own = _names_in(here, changed).get(comparable(part))
            if own is None:
                return None
            inner = os.path.join(path_so_far, own)
        path_so_far = inner
    return path_so_far if os.path.lexists(os.path.join(root, path_so_far)) else None


def format_in(root: Path, path: str) -> str:
    """The format of a file of a source by its first bytes, empty for what is no picture or cannot be read."""
    try:
        return format_of(content(root, path, BEGINNING, 0, BEGINNING))
    except Unusable as error:
        if error.reason != "cut off":
            return ""
    try:
        return format_of(content(root, path, BEGINNING))
    except Unusable:
        return ""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circular link
        return False


def is_hidden(name: str) -> bool:
    """Whether a name is hidden or one that operating systems create."""
    return name.startswith(".") or name in LEFT_BEHIND


@lru_cache(maxsize=16)
def _real(root: str) -> str:
    return os.path.realpath(root)


def inside(root: Path, path: str) -> str:
    """The full path of a file of a source. Raises Unusable "outside the folder", also for what a link leads to."""
    # Relative paths depend on the working directory.
    start = _real(os.path.abspath(root))
    try:
        full = os.path.realpath(os.path.join(start, path))
    except ValueError:  # a zero byte
        raise Unusable("missing", f"no file can be called {path[:80]!r}") from None
    if full != start and not full.startswith(start.rstrip(os.sep) + os.sep):
        raise Unusable("outside the folder", path[:200])
    return full


def is_open(root: Path, path: str) -> bool:
    """Whether a path is a regular file inside the source."""
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
        # Not blocking, should it have become a pipe since.
        file = os.open(full, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise Unusable("missing", path[:200]) from None
    except (OSError, ValueError) as error:
        raise Unusable("unreadable", str(error)[:200]) from None
    try:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            raise Unusable("not a file", path[:200])
        remaining = about.st_size - offset if size < 0 else size
        if remaining > maximum:
            raise Unusable("too many bytes", f"{remaining}; at most {maximum}")
        if remaining <= 0:
            raise Unusable("empty")
        if about.st_size < offset + remaining:
            raise Unusable("cut off", f"{path[:200]} ends at {about.st_size}, before {offset + remaining}")
        pieces = list[bytes]()
        while remaining > 0 and (piece := os.pread(file, remaining, offset)):
            pieces.append(piece)
            remaining, offset = remaining - len(piece), offset + len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    except OSError as error:
        raise Unusable("unreadable", str(error)[:200]) from None
    finally:
        os.close(file)
