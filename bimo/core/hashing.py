"""SHA-256 of weights: of files at once, late (when it is first asked for) or beside other work; of tensors."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from bimo.core.errors import WeightsError
from bimo.core.files import cache_folder, write_whole

if TYPE_CHECKING:
    from torch import Tensor

#: Read at a time. Large, because a thread that hashes waits for the interpreter between two of them.
CHUNK_BYTES = 4 << 20
#: A digest, in hexadecimal.
DIGEST = re.compile("[0-9a-f]{64}")
#: The digest of a file of at least so many bytes is kept in the cache folder: hashing it takes longer than a moment.
LARGE = 256 << 20


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises WeightsError where it cannot be read."""
    return LateDigest(path, remembers=False)()


def verify(path: Path, expected: str) -> None:
    """Raises WeightsError where a file is not the one that was written."""
    found = digest(path)
    if found != expected:
        raise WeightsError(
            "{path} is damaged: its SHA-256 is {found}, expected {expected}; get the file again",
            path=path,
            found=found,
            expected=expected,
        )


@contextlib.contextmanager
def verifying(folder: Path, hashes: Mapping[str, str]) -> Generator[None]:
    """Files are verified, name -> SHA-256, while what stands inside is done; on leaving they have been.

    Raises WeightsError as ``verify``, also in the place of what was raised inside: damage is the cause of that.
    """
    with ThreadPoolExecutor(1, "verify") as beside:
        checks = [beside.submit(verify, folder / name, expected) for name, expected in hashes.items()]
        try:
            yield
        finally:
            for check in checks:
                check.result()


class LateDigest:
    """The SHA-256 of a file, worked out when this is first called; if it ``remembers``, that of a large file is kept in
    the cache folder by its path, size, time of change and inode.

    The file is held open until then, so that it is the one that was read, though another takes its name meanwhile.
    Raises WeightsError where it cannot be opened, and when called where it was written to since.
    """

    def __init__(self, path: Path, *, remembers: bool = True) -> None:
        self.path = path
        self.remembers = remembers
        self._lock = threading.Lock()
        self._found = ""
        with self._told():
            self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._close = weakref.finalize(self, os.close, self._file)
        self._mark = self._now()

    def __call__(self) -> str:
        with self._lock:
            if not self._found:
                self._found = self._remembered() if self.remembers and self._mark[0] >= LARGE else self._hashed()
                self._close()
        return self._found

    def __deepcopy__(self, memo: object) -> LateDigest:
        return self

    def _now(self) -> tuple[int, int]:
        """What changes when the file is written to."""
        state = os.fstat(self._file)
        return state.st_size, state.st_mtime_ns

    def _remembered(self) -> str:
        """The digest from the cache folder, put there where it is not."""
        identity = f"{self.path.resolve()} {os.fstat(self._file).st_ino} {self._now()}"
        kept = cache_folder() / "digests" / hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if DIGEST.fullmatch(found := kept.read_text("ascii")) and self._now() == self._mark:
                return found
        found = self._hashed()
        with contextlib.suppress(OSError):  # without a cache it is worked out again next time
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_whole(kept, found.encode("ascii"))
        return found

    def _hashed(self) -> str:
        total = hashlib.sha256()
        with self._told(), os.fdopen(os.dup(self._file), "rb", buffering=0) as file:
            file.seek(0)
            buffer = memoryview(bytearray(max(1, min(CHUNK_BYTES, self._mark[0]))))
            while count := file.readinto(buffer):
                total.update(buffer[:count])
        if self._now() != self._mark:
            raise WeightsError(
                "{path} was written to after it was loaded; which weights draw cannot be told; load it again",
                path=self.path,
            )
        return total.hexdigest()

    @contextlib.contextmanager
    def _told(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            path = self.path
            raise WeightsError("cannot read {path}: {strerror}", path=path, strerror=error.strerror) from None


def late_table(root: Path, files: Iterable[Path], beside: Mapping[str, Path] | None = None) -> Callable[[], str]:
    """The SHA-256 over the names below ``root`` and the hashes of files, worked out when it is called. What lies in a
    folder ``beside`` it is named as if that folder were within, by its key.
    """

    def named(file: Path) -> str:
        for name, folder in (beside or {}).items():
            if file.is_relative_to(folder):
                return f"{name}/{file.relative_to(folder).as_posix()}"
        return file.relative_to(root).as_posix()

    every = {named(file): LateDigest(file) for file in files}

    return lambda: digest_of_table({name: late() for name, late in every.items()})


def digest_of_table(hashes: Mapping[str, str]) -> str:
    """The SHA-256 over names and their hashes, in whatever order."""
    lines = sorted(f"{name} {one}\n" for name, one in hashes.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def digest_tensors(state: Mapping[str, Tensor]) -> str:
    """The SHA-256 of the names and values of tensors, in hexadecimal, whatever their order, kind and device."""
    total = hashlib.sha256()
    for name, value in sorted(state.items()):
        total.update(name.encode())
        total.update(bytes_of(value))
    return total.hexdigest()


def bytes_of(value: Tensor) -> memoryview:
    """The bytes of a tensor, of whatever kind its numbers are."""
    import torch

    return value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data
