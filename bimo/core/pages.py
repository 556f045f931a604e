"""Pages of memory: what was read of a file is given back while its tensor stays, and what is freed between the layers
of a network is kept for the next.

A file that is mapped takes memory as it is read, page by page, and keeps it until the whole mapping goes. Weights that
are turned into other numbers would so be in memory twice.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

#: Linux's table of this process's pages: 8 bytes each. Bits say that a page is in memory, in swap, and still that of
#: its file; one that was written to is the process's own.
PAGEMAP = "/proc/self/pagemap"
PRESENT, SWAPPED, OF_FILE = 1 << 63, 1 << 62, 1 << 61
#: glibc's parameters of malloc (mallopt(3)) and their defaults: how much that is free at the heap's end is kept, and
#: how many blocks may be mapped by themselves, which are given back to the system as they are freed.
TRIM_THRESHOLD, MMAP_MAX = -1, -4
DEFAULTS = {TRIM_THRESHOLD: 128 * 1024, MMAP_MAX: 65536}
KEEPING = {TRIM_THRESHOLD: 2**31 - 1, MMAP_MAX: 0}

_counting = threading.Lock()
_wishes = {"keeping": 0, "returning": 0}


def release(tensor: Tensor) -> int:
    """Gives the pages of a tensor back to the system and answers how many bytes they were; when it is used again they
    are read from its file. Where the tensor lies in no file, was written to, or the system does not say, nothing is
    done and 0 is answered: what it holds never changes.
    """
    if sys.platform != "linux" or tensor.device.type != "cpu" or not tensor.nbytes or not tensor.is_contiguous():
        return 0
    first = tensor.data_ptr() // mmap.PAGESIZE
    count = -(-(tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE) - first
    if not _of_file(first, count):
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    start, length = ctypes.c_void_p(first * mmap.PAGESIZE), ctypes.c_size_t(count * mmap.PAGESIZE)
    return 0 if libc.madvise(start, length, mmap.MADV_DONTNEED) else count * mmap.PAGESIZE


def trim() -> None:
    """Gives the system back what the C library keeps of freed memory, where it can (glibc)."""
    if sys.platform == "linux" and (trimmed := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trimmed(0)


@contextmanager
def freed_kept() -> Generator[None]:
    """Within it the C library keeps what is freed for the next tensor of the size, where it can (glibc); at the end it
    is given back to the system. A step of a UNet frees and takes gigabytes, and each page that the system gives anew it
    clears first: a twentieth of the time.
    """
    with _counted(keeping=1):
        yield


@contextmanager
def freed_returned() -> Generator[None]:
    """Within ``freed_kept`` what is freed is given back nevertheless: for tensors that are few, large and of many
    sizes, as a decoder's, which find no place among what is kept.
    """
    with _counted(returning=1):
        yield


@contextmanager
def _counted(keeping: int = 0, returning: int = 0) -> Generator[None]:
    _count(keeping, returning)
    try:
        yield
    finally:
        _count(-keeping, -returning)


def _count(keeping: int, returning: int) -> None:
    """Counts who wants freed memory kept and returned, and tells the C library if that changes what it is to do."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    with _counting:
        before = _kept()
        _wishes["keeping"] += keeping
        _wishes["returning"] += returning
        if mallopt is None or before == _kept():
            return
        for parameter, value in (KEEPING if _kept() else DEFAULTS).items():
            mallopt(parameter, value)
        if not _kept():
            trim()


def _kept() -> bool:
    return _wishes["keeping"] > 0 and not _wishes["returning"]


def _of_file(first: int, count: int) -> bool:
    """Whether all pages that are in memory are still those of a file."""
    import numpy

    try:
        with open(PAGEMAP, "rb", buffering=0) as table:
            entries = numpy.frombuffer(os.pread(table.fileno(), 8 * count, 8 * first), numpy.uint64)
    except OSError:
        return False
    held = entries & numpy.uint64(PRESENT | SWAPPED) != 0
    return len(entries) == count and bool((entries[held] & numpy.uint64(OF_FILE) != 0).all())
