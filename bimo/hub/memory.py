"""Whether a model and a picture fit into memory: an estimate before drawing, so that nothing is killed half-way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from bimo.core.errors import RequestError
from bimo.core.messages import Both, say
from bimo.core.recipe import Recipe
from bimo.engine.memory import (
    BYTES,
    NUMBERS_A_PIXEL,
    TILE,
    Keeping,
    Weights,
    candidates,
    drawing_bytes,
    kept_bytes,
    narrowed,
    total_bytes,
    weights_of,
)
from bimo.hub import registry

if TYPE_CHECKING:
    import torch

    from bimo.engine.engine import Engine

#: What torch, diffusers and transformers take once they are imported and a model is built: resident, as measured with
#: torch 2.13 for processors on Linux. It is said, but not counted against what is free: they are there when that is
#: read.
LIBRARIES = 550_000_000
#: Nothing is said of a model that takes less than this.
WORTH_SAYING = 1_000_000_000
#: How many ways that fit are named.
OFFERED = 4


def weighed(recipe: Recipe) -> Weights:
    """A recipe's weights, counted without making any."""
    from bimo.hub.model_info import unfilled

    return weights_of(unfilled(recipe))


def surely_small(folder: Path) -> bool:
    """Whether the files of a model are so few bytes that nothing need be said, in whatever way they are kept."""
    files = (f for f in folder.rglob("*") if f.suffix.lower() in (".safetensors", ".bin", ".ckpt", ".pt"))
    return 2 * sum(file.stat().st_size for file in files) < WORTH_SAYING // 2


def said(name: str, size: tuple[int, int] | None, device: str, asked: Keeping) -> str:
    """As ``plan`` for a model by its name or folder; "" where only files that are not here can tell what it is.
    ``asked`` may be of dtype "auto".
    """

    def planned(recipe: Recipe) -> str:
        from bimo.engine.devices import device_of, dtype_for

        place = device_of(device)
        keeping = narrowed(recipe, asked, dtype_for(recipe, place, asked.dtype))
        return plan(recipe, size, keeping, free_on(place), card=place.type != "cpu")

    path = registry.bundled(name) or Path(name).expanduser()
    if path.is_dir():
        return "" if surely_small(path) else planned(registry.recipe(path))
    recipe = next((r for r in registry.recipes().values() if name in (r.name, r.weights.repo)), None)
    if recipe is None:
        return ""
    folder = registry.found(recipe)
    return "" if folder is not None and surely_small(folder) else planned(recipe)


def plan(
    recipe: Recipe,
    size: tuple[int, int] | None,
    keeping: Keeping | None = None,
    free: int | None = None,
    *,
    card: bool = False,
) -> str:
    """The sentence that says what drawing with a model takes, "" where it is little. ``free`` is what is available
    unless given. Raises RequestError where it does not fit: it names what would.
    """
    weights, keeping = weighed(recipe), Keeping() if keeping is None else keeping
    size = size or recipe.request.size
    free = available() if free is None else free
    kept, drawn = kept_bytes(weights, keeping), drawing_bytes(size, keeping)
    if free is not None and kept + drawn > free:
        raise _too_large(recipe, weights, size, keeping, free, card)
    if kept + drawn < WORTH_SAYING:
        return ""
    libraries = 0 if card else LIBRARIES
    return say(
        "{name} takes about {giga} GB of memory: {giga_2} for weights, {giga_3} to draw, {giga_4} for libraries",
        name=recipe.name,
        giga=_giga(kept + drawn + libraries),
        giga_2=_giga(kept),
        giga_3=_giga(drawn),
        giga_4=_giga(libraries),
    )


def _too_large(
    recipe: Recipe, weights: Weights, size: tuple[int, int], asked: Keeping, free: int, card: bool
) -> RequestError:
    ways = [
        way
        for way in candidates(recipe, asked, card=card, has=tuple(BYTES), quantises=False)
        if not way.tiles or max(size) > TILE
    ]
    fits = [(way, total) for way in ways if (total := total_bytes(weights, size, way)) <= free]
    offered = [f"{way.flags} ({_giga(total)} GB)" for way, total in fits[:OFFERED]]
    pixels = max(0, free - kept_bytes(weights, asked)) / (NUMBERS_A_PIXEL * BYTES[asked.space_dtype])
    side = int(pixels) ** 0.5 // 64 * 64
    if side >= 64:
        offered.append(f"--size {int(side)}")
    small = min(ways, key=lambda way: total_bytes(weights, (64, 64), way))
    least, flags = _giga(total_bytes(weights, (64, 64), small)), f"{small.flags} --size 64"
    zh = f"放得下的：{'、'.join(offered)}" if offered else f"最省也要 {least} GB（{flags}）"
    en = f"what fits: {', '.join(offered)}" if offered else f"the least is {least} GB ({flags})"
    width, height = size
    return RequestError(
        "drawing {width}x{height} with {name} takes about {giga} GB of memory and {giga_2} GB are free; {near}",
        width=width,
        height=height,
        name=recipe.name,
        giga=_giga(total_bytes(weights, size, asked)),
        giga_2=_giga(free),
        near=Both(zh, en),
    )


def available() -> int | None:
    """Bytes this process may still take: the least of what the system, the container and the shell allow."""
    limits = [limit for limit in (_of_system(), _of_container(), _of_shell()) if limit is not None]
    return min(limits, default=None)


def free_on(device: torch.device) -> int | None:
    """Bytes that a device still has for a drawing: a card's own, or those of this process."""
    from bimo.engine.devices import cards

    return available() if device.type == "cpu" else next(card.free for card in cards() if card.device == device)


def check(
    size: tuple[int, int], dtype: str = "fp32", device: str = "cpu", free: int | None = None, *, tiles: bool = False
) -> None:
    """Raises RequestError where a picture of this size would not fit into ``free`` bytes, or what a device has free.
    Whether there is a card is asked only where this process has too little.
    """
    dtype = "fp32" if dtype == "auto" else dtype
    if device == "cpu" or free is not None:
        _check(size, dtype, available() if free is None else free, tiles)
        return
    try:
        _check(size, dtype, available(), tiles)
    except RequestError:
        from bimo.engine.devices import device_of

        _check(size, dtype, free_on(device_of(device)), tiles)


def check_engine(engine: Engine, size: tuple[int, int]) -> None:
    """As ``check`` for an engine whose weights are in memory."""
    _check(size, engine.space_dtype, free_on(engine.device), engine.keeping.tiles)


def _check(size: tuple[int, int], dtype: str, free: int | None, tiles: bool = False) -> None:
    want = drawing_bytes(size, Keeping(space_dtype="fp32" if dtype == "fp16" else dtype, tiles=tiles))
    if free is None or want <= free:
        return
    side = int((free / (NUMBERS_A_PIXEL * BYTES[dtype])) ** 0.5) // 64 * 64
    width, height = size
    raise RequestError(
        "drawing {width}x{height} takes about {giga} GB of memory and {giga_2} GB are free; ask for "
        "less, for instance --size {value}",
        width=width,
        height=height,
        giga=_giga(want),
        giga_2=_giga(free),
        value=max(side, 64),
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
