"""Memory of tensors that lie in a file: what was read of the file is given back while the tensor stays.

A file that is mapped takes memory as it is read, page by page, and keeps it until the whole mapping goes. Weights that
are turned into other numbers would so be in memory twice.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

#: Linux's table of this process's pages: 8 bytes each. Bits say that a page is in memory, in swap, and still that of
#: its file; one that was written to is the process's own.
PAGEMAP = "/proc/self/pagemap"
PRESENT, SWAPPED, OF_FILE = 1 << 63, 1 << 62, 1 << 61


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
