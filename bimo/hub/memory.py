"""Estimates before drawing whether a model and a picture fit into memory, so that no process is killed half-way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from bimo.core.errors import RequestError
from bimo.core.messages import Listed, Message, say
from bimo.core.recipe import Recipe
from bimo.engine.memory import (
    BYTES,
    NUMBERS_A_PIXEL,
    TILE,
    Keeping,
    Weights,
    candidates,
    drawing_bytes,
    narrowed,
    resident_bytes,
    total_bytes,
    weights_of,
)
from bimo.hub import registry

if TYPE_CHECKING:
    import torch

    from bimo.engine.engine import Engine

#: Resident bytes of torch, diffusers and transformers once a model is built, measured with torch 2.13 (CPU) on Linux.
#: They are reported, but not counted against the free memory: when that is read they are loaded already.
LIBRARIES = 550_000_000
#: Models that need less are not reported.
WORTH_SAYING = 1_000_000_000
#: How many fitting combinations an error suggests.
OFFERED = 4


def weighed(recipe: Recipe) -> Weights:
    """Counts a recipe's weights without allocating them."""
    from bimo.hub.model_info import unfilled

    return weights_of(unfilled(recipe))


def surely_small(folder: Path) -> bool:
    """Whether a model's files are so small that it needs no report in any dtype."""
    files = (f for f in folder.rglob("*") if f.suffix.lower() in (".safetensors", ".bin", ".ckpt", ".pt"))
    return 2 * sum(file.stat().st_size for file in files) < WORTH_SAYING // 2


def plan_by_name(name: str, size: tuple[int, int] | None, device: str, requested: Keeping) -> str:
    """As ``plan``, for a model by its name or folder; "" if its recipe is not known without fetching files. The dtype
    of ``requested`` may be "auto".
    """

    def planned(recipe: Recipe) -> str:
        from bimo.engine.devices import devices_of, dtype_for

        targets = devices_of(device)
        keeping = narrowed(recipe, requested, dtype_for(recipe, targets[0], requested.dtype))
        free = [each for target in targets if (each := free_on(target)) is not None]
        return plan(recipe, size, keeping, sum(free) if free else None, card=targets[0].type != "cpu")

    model_folder = registry.bundled(name) or Path(name).expanduser()
    if model_folder.is_dir():
        return "" if surely_small(model_folder) else planned(registry.recipe(model_folder))
    recipe = next((r for r in registry.recipes().values() if name in (r.name, r.weights.repo)), None)
    if recipe is None:
        return ""
    model_folder = registry.local_folder(recipe)
    return "" if model_folder is not None and surely_small(model_folder) else planned(recipe)


def plan(
    recipe: Recipe,
    size: tuple[int, int] | None,
    keeping: Keeping | None = None,
    free: int | None = None,
    *,
    card: bool = False,
) -> str:
    """A sentence about the memory that drawing takes, "" if it is little. ``free`` is by default what the machine has.
    Raises RequestError with combinations that would fit if this one does not.
    """
    weights, keeping = weighed(recipe), Keeping() if keeping is None else keeping
    size = size or recipe.request.size
    free = available() if free is None else free
    weight_bytes, activation_bytes = resident_bytes(weights, keeping), drawing_bytes(size, keeping)
    if free is not None and weight_bytes + activation_bytes > free:
        raise _too_large(recipe, weights, size, keeping, free, card)
    if weight_bytes + activation_bytes < WORTH_SAYING:
        return ""
    libraries = 0 if card else LIBRARIES
    return say(
        "{name} takes about {giga} GB of memory: {giga_2} for weights, {giga_3} to draw, {giga_4} for libraries",
        name=recipe.name,
        giga=_giga(weight_bytes + activation_bytes + libraries),
        giga_2=_giga(weight_bytes),
        giga_3=_giga(activation_bytes),
        giga_4=_giga(libraries),
    )


def _too_large(
    recipe: Recipe, weights: Weights, size: tuple[int, int], requested: Keeping, free: int, card: bool
) -> RequestError:
    combinations = [
        combination
        for combination in candidates(recipe, requested, card=card, supported=tuple(BYTES), quantises=False)
        if not combination.tiles or max(size) > TILE
    ]
    fitting = [
        (combination, total)
        for combination in combinations
        if (total := total_bytes(weights, size, combination)) <= free
    ]
    suggestions = [f"{combination.flags} ({_giga(total)} GB)" for combination, total in fitting[:OFFERED]]
    pixels = max(0, free - resident_bytes(weights, requested)) / (NUMBERS_A_PIXEL * BYTES[requested.space_dtype])
    side = int(pixels) ** 0.5 // 64 * 64
    if side >= 64:
        suggestions.append(f"--size {int(side)}")
    small = min(combinations, key=lambda combination: total_bytes(weights, (64, 64), combination))
    least, flags = _giga(total_bytes(weights, (64, 64), small)), f"{small.flags} --size 64"
    if suggestions:
        advice = Message("what fits: {suggestions}", suggestions=Listed(suggestions))
    else:
        advice = Message("the least is {giga} GB ({flags})", giga=least, flags=flags)
    width, height = size
    return RequestError(
        "drawing {width}x{height} with {name} takes about {giga} GB of memory and {giga_2} GB are free; {advice}",
        width=width,
        height=height,
        name=recipe.name,
        giga=_giga(total_bytes(weights, size, requested)),
        giga_2=_giga(free),
        advice=advice,
    )


def available() -> int | None:
    """Bytes this process may still allocate: the least of the limits of system, cgroup and shell (ulimit)."""
    limits = [limit for limit in (_of_system(), _of_container(), _of_shell()) if limit is not None]
    return min(limits, default=None)


def free_on(device: torch.device) -> int | None:
    """Free bytes for drawing on a device: a card's memory, or what this process may still allocate."""
    from bimo.engine.devices import cards

    return available() if device.type == "cpu" else next(card.free for card in cards() if card.device == device)


def check(
    size: tuple[int, int], dtype: str = "fp32", device: str = "cpu", free: int | None = None, *, tiles: bool = False
) -> None:
    """Raises RequestError if a picture of this size does not fit into ``free`` bytes, by default what the device has.
    The device is looked up, which imports torch, only if the process itself has too little memory.
    """
    dtype = "fp32" if dtype == "auto" else dtype
    if device == "cpu" or free is not None:
        _check(size, dtype, available() if free is None else free, tiles)
        return
    try:
        _check(size, dtype, available(), tiles)
    except RequestError:
        from bimo.engine.devices import devices_of

        _check(size, dtype, free_on(devices_of(device)[0]), tiles)


def check_engine(engine: Engine, size: tuple[int, int]) -> None:
    """As ``check``, for a loaded engine."""
    _check(size, engine.space_dtype, free_on(engine.device), engine.keeping.tiles)


def _check(size: tuple[int, int], dtype: str, free: int | None, tiles: bool = False) -> None:
    needed = drawing_bytes(size, Keeping(space_dtype="fp32" if dtype == "fp16" else dtype, tiles=tiles))
    if free is None or needed <= free:
        return
    side = int((free / (NUMBERS_A_PIXEL * BYTES[dtype])) ** 0.5) // 64 * 64
    width, height = size
    raise RequestError(
        "drawing {width}x{height} takes about {giga} GB of memory and {giga_2} GB are free; ask for "
        "less, for instance --size {value}",
        width=width,
        height=height,
        giga=_giga(needed),
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
