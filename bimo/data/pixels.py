"""Decoded pixels of rows: threads decode ahead of the step, and a bounded part is cached on disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from bimo.core.messages import say

#: The most bytes, and the most of the free disk, for cached pixels: further rows are decoded each time.
CACHE_BYTES = 2 << 30
SHARE_OF_FREE_DISK = 0.25
#: Decoding threads; more than the CPU cores only wait for each other.
THREADS = max(1, min(4, os.cpu_count() or 1))
Pixels = npt.NDArray[np.uint8]


class PixelReader:
    """Pixels of rows by their numbers, in the requested order whichever thread is first.

    ``decode`` returns those of a row, with shape (H, W, 3) as by ``shape_of``. At most the rows of one ``prefetch`` are
    pending. The cache is an unnamed file in ``folder``, which vanishes with the process.
    """

    def __init__(
        self, count: int, decode: Callable[[int], Pixels], shape_of: Callable[[int], tuple[int, int, int]], folder: Path
    ) -> None:
        self._decode, self._shape_of, self._folder = decode, shape_of, folder
        self._file: BinaryIO | None = None
        self._waiting: dict[int, Future[Pixels]] = {}
        self._pool: ThreadPoolExecutor | None = None
        # The offset of a row's pixels in the file, -1 for one that is not in it.
        self._offsets = np.full(count, -1, np.int64)
        self._end = self._room = 0
        self._opened = False

    def prefetch(self, rows: Sequence[int]) -> None:
        """Starts decoding the rows of the next batch; pending rows of another one are dropped."""
        wanted = dict.fromkeys(row for row in rows if self._offsets[row] < 0)
        for row in [row for row in self._waiting if row not in wanted]:
            self._waiting.pop(row).cancel()
        if wanted and self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="decode")
        for row in wanted:
            if row not in self._waiting:
                self._waiting[row] = cast(ThreadPoolExecutor, self._pool).submit(self._decode, row)

    def read(self, rows: Sequence[int], keep: bool = True) -> Pixels:
        """[B, H, W, 3] of rows of one size, cached if there is room and ``keep`` is set."""
        self.prefetch(rows)
        pixels = np.empty((len(rows), *self._shape_of(rows[0])), np.uint8)
        decoded: set[int] = set()
        for place, row in enumerate(rows):
            if self._offsets[row] >= 0:
                self._load(row, pixels[place])
            elif row in decoded:  # the same row twice in a batch
                pixels[place] = pixels[list(rows).index(row)]
            else:
                pixels[place] = self._waiting.pop(row).result()
                decoded.add(row)
                if keep:
                    self._keep(row, pixels[place])
        return pixels

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()

    def _load(self, row: int, pixels: Pixels) -> None:
        file = cast(BinaryIO, self._file)
        file.seek(int(self._offsets[row]))
        pixels.reshape(-1)[:] = np.frombuffer(file.read(pixels.nbytes), np.uint8)

    def _keep(self, row: int, pixels: Pixels) -> None:
        if not self._opened:
            self._open()
        if self._file is None or self._end + pixels.nbytes > self._room:
            return
        try:
            self._file.seek(self._end)
            written = self._file.write(pixels.tobytes())
        except OSError:
            written = 0
        if written < pixels.nbytes:
            self._room = self._end  # the disk is full: the file stays as it is
            return
        self._offsets[row] = self._end
        self._end += pixels.nbytes

    def _open(self) -> None:
        """Opens the file, if the folder is writable."""
        self._opened = True
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = cast(BinaryIO, tempfile.TemporaryFile(dir=self._folder, buffering=0))  # noqa: SIM115
            self._room = int(min(CACHE_BYTES, shutil.disk_usage(self._folder).free * SHARE_OF_FREE_DISK))
        except OSError as error:
            print(
                say(
                    "decoded pixels cannot be kept in {folder} ({strerror}): every picture is decoded each time; name "
                    "a folder that may be written in by --cache",
                    folder=self._folder,
                    strerror=error.strerror,
                )
            )
