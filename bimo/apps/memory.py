"""Whether a picture fits into memory: an estimate before drawing, so that nothing is killed half-way."""

from __future__ import annotations

import os
from pathlib import Path

from bimo.core.errors import RequestError

#: Bytes of activations for each pixel while a picture is decoded, the peak of a drawing: about 4 maps of 256
#: channels in float32 at full resolution, as in the last block of the autoencoders of Stable Diffusion.
BYTES_A_PIXEL = 4 * 256 * 4


def needed(size: tuple[int, int]) -> int:
    """Bytes that drawing one picture of (width, height) pixels takes beside the weights: ``W * H * BYTES_A_PIXEL``."""
    width, height = size
    return width * height * BYTES_A_PIXEL


def available() -> int | None:
    """Bytes this process may still take: the least of what the system, the container and the shell allow."""
    limits = [limit for limit in (_of_system(), _of_container(), _of_shell()) if limit is not None]
    return min(limits, default=None)


def check(size: tuple[int, int], free: int | None = None) -> None:
    """Raises RequestError where a picture of this size would not fit into ``free`` bytes, or what is available."""
    free = available() if free is None else free
    want = needed(size)
    if free is None or want <= free:
        return
    side = int((free / BYTES_A_PIXEL) ** 0.5) // 64 * 64
    width, height = size
    raise RequestError(
        f"画 {width}×{height} 约需 {_giga(want)} GB 内存，现在只有 {_giga(free)} GB；"
        f"请改小，例如 --size {max(side, 64)}",
        f"drawing {width}x{height} takes about {_giga(want)} GB of memory and {_giga(free)} GB are free; "
        f"ask for less, for instance --size {max(side, 64)}",
    )


def _giga(count: int) -> str:
    return f"{count / 1e9:.1f}"


def _of_system() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _of_container() -> int | None:
    group = Path("/sys/fs/cgroup")
    try:
        return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return None


def _of_shell() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        used = 0
    return max(0, limit - used)
