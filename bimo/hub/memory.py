"""Whether a model and a picture fit into memory: an estimate before drawing, so that nothing is killed half-way."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bimo.core.errors import RequestError
from bimo.core.messages import Both, say
from bimo.core.recipe import Recipe
from bimo.hub import registry

if TYPE_CHECKING:
    import torch

    from bimo.engine.engine import Engine

#: Activations for each pixel while a picture is decoded, the peak of a drawing: about 4 maps of 256 channels at full
#: resolution, as in the last block of the autoencoders of Stable Diffusion.
NUMBERS_A_PIXEL = 4 * 256
#: Bytes of one weight of a text encoder or denoiser by how it is kept.
BYTES_A_WEIGHT = {"fp32": 4, "bf16": 2, "fp16": 2}
#: Bytes of one number in a space, which decodes.
BYTES_IN_SPACES = {"fp32": 4, "bf16": 2, "fp16": 4}
#: What torch, diffusers and transformers take once they are imported and a model is built: resident, as measured with
#: torch 2.13 for processors on Linux. It is said, but not counted against what is free: they are there when that is
#: read.
LIBRARIES = 550_000_000
#: Nothing is said of a model that takes less than this.
WORTH_SAYING = 1_000_000_000


def needed(size: tuple[int, int], dtype: str = "fp32") -> int:
    """Bytes that drawing one picture of (width, height) pixels takes beside the weights, kept as ``dtype``."""
    width, height = size
    return width * height * _bytes_a_pixel(dtype)


def _bytes_a_pixel(dtype: str) -> int:
    return NUMBERS_A_PIXEL * BYTES_IN_SPACES[dtype]


@dataclass(frozen=True)
class Weighed:
    """How many numbers the weights of a recipe are: all text encoders', each level's denoiser's, all spaces', and all
    the rest, which is always kept in float32.
    """

    encoders: int
    denoisers: tuple[int, ...]
    spaces: int
    rest: int

    def bytes(self, dtype: str, offload: bool) -> int:
        """What is in memory at once. Offloaded, it is the text encoders, then one denoiser after another."""
        pieces = (self.encoders, *self.denoisers)
        always = self.spaces * BYTES_IN_SPACES[dtype] + self.rest * BYTES_A_WEIGHT["fp32"]
        return (max(pieces) if offload else sum(pieces)) * BYTES_A_WEIGHT[dtype] + always


def weighed(recipe: Recipe) -> Weighed:
    """A recipe's weights, counted without making any."""
    from bimo.hub.model_info import parameters, unfilled

    counts = parameters(unfilled(recipe))

    def below(*prefixes: str) -> int:
        return sum(count for name, count in counts.items() if name.startswith(prefixes))

    encoders = below("text.")
    denoisers = tuple(below(f"{level.name}.denoiser.") for level in recipe.levels)
    spaces = below(*(f"{level.name}.space." for level in recipe.levels))
    return Weighed(encoders, denoisers, spaces, sum(counts.values()) - encoders - sum(denoisers) - spaces)


def surely_small(folder: Path) -> bool:
    """Whether the files of a model are so few bytes that nothing need be said, in whatever way they are kept."""
    files = (f for f in folder.rglob("*") if f.suffix.lower() in (".safetensors", ".bin", ".ckpt", ".pt"))
    return 2 * sum(file.stat().st_size for file in files) < WORTH_SAYING // 2


def said(name: str, size: tuple[int, int] | None, device: str, dtype: str, offload: bool) -> str:
    """As ``plan`` for a model by its name or folder; "" where only files that are not here can tell what it is."""

    def planned(recipe: Recipe) -> str:
        from bimo.engine.devices import device_of, dtype_for

        place = device_of(device)
        return plan(recipe, size, dtype_for(recipe, place, dtype), offload, free_on(place))

    path = registry.bundled(name) or Path(name).expanduser()
    if path.is_dir():
        return "" if surely_small(path) else planned(registry.recipe(path))
    recipe = next((r for r in registry.recipes().values() if name in (r.name, r.weights.repo)), None)
    if recipe is None:
        return ""
    folder = registry.found(recipe)
    return "" if folder is not None and surely_small(folder) else planned(recipe)


def plan(
    recipe: Recipe, size: tuple[int, int] | None, dtype: str = "fp32", offload: bool = False, free: int | None = None
) -> str:
    """The sentence that says what drawing with a model takes, "" where it is little. ``free`` is what is available
    unless given. Raises RequestError where it does not fit: it names what would.
    """
    weights = weighed(recipe)
    size = size or recipe.request.size
    free = available() if free is None else free
    kept, drawn = weights.bytes(dtype, offload), needed(size, dtype)
    if free is not None and kept + drawn > free:
        raise _too_large(recipe, weights, size, (dtype, offload), free)
    if kept + drawn < WORTH_SAYING:
        return ""
    return say(
        "{name} takes about {giga} GB of memory: {giga_2} for weights, {giga_3} to draw, {giga_4} for libraries",
        name=recipe.name,
        giga=_giga(kept + drawn + LIBRARIES),
        giga_2=_giga(kept),
        giga_3=_giga(drawn),
        giga_4=_giga(LIBRARIES),
    )


def _too_large(
    recipe: Recipe, weights: Weighed, size: tuple[int, int], asked: tuple[str, bool], free: int
) -> RequestError:

    def together(dtype: str, offload: bool) -> int:
        return weights.bytes(dtype, offload) + needed(size, dtype)

    total = together(*asked)
    others = [(dtype, offload) for offload in (False, True) for dtype in ("fp32", "bf16") if (dtype, offload) != asked]
    # What was asked for to save memory is kept in what is offered.
    others = [o for o in others if o[1] >= asked[1] and BYTES_A_WEIGHT[o[0]] <= BYTES_A_WEIGHT[asked[0]]]
    fits = [f"{_flags(*o)} ({_giga(together(*o))} GB)" for o in others if together(*o) <= free]
    side = int(max(0, free - weights.bytes(*asked)) / _bytes_a_pixel(asked[0])) ** 0.5 // 64 * 64
    if side >= 64:
        fits.append(f"--size {int(side)}")
    least, flags = _giga(weights.bytes("bf16", True) + needed((64, 64), "bf16")), "--dtype bf16 --offload --size 64"
    zh = f"放得下的：{'、'.join(fits)}" if fits else f"最省也要 {least} GB（{flags}）"
    en = f"what fits: {', '.join(fits)}" if fits else f"the least is {least} GB ({flags})"
    width, height = size
    return RequestError(
        "drawing {width}x{height} with {name} takes about {giga} GB of memory and {giga_2} GB are free; {near}",
        width=width,
        height=height,
        name=recipe.name,
        giga=_giga(total),
        giga_2=_giga(free),
        near=Both(zh, en),
    )


def _flags(dtype: str, offload: bool) -> str:
    return " ".join([f"--dtype {dtype}"] * (dtype != "fp32") + ["--offload"] * offload)


def available() -> int | None:
    """Bytes this process may still take: the least of what the system, the container and the shell allow."""
    limits = [limit for limit in (_of_system(), _of_container(), _of_shell()) if limit is not None]
    return min(limits, default=None)


def free_on(device: torch.device) -> int | None:
    """Bytes that a device still has for a drawing: a card's own, or those of this process."""
    from bimo.engine.devices import cards

    return available() if device.type == "cpu" else next(card.free for card in cards() if card.device == device)


def check(size: tuple[int, int], dtype: str = "fp32", device: str = "cpu", free: int | None = None) -> None:
    """Raises RequestError where a picture of this size would not fit into ``free`` bytes, or what a device has free.
    Whether there is a card is asked only where this process has too little.
    """
    dtype = "fp32" if dtype == "auto" else dtype
    if device == "cpu" or free is not None:
        _check(size, dtype, available() if free is None else free)
        return
    try:
        _check(size, dtype, available())
    except RequestError:
        from bimo.engine.devices import device_of

        _check(size, dtype, free_on(device_of(device)))


def check_engine(engine: Engine, size: tuple[int, int]) -> None:
    """As ``check`` for an engine whose weights are in memory."""
    _check(size, engine.space_dtype, free_on(engine.device))


def _check(size: tuple[int, int], dtype: str, free: int | None) -> None:
    want = needed(size, dtype)
    if free is None or want <= free:
        return
    side = int((free / _bytes_a_pixel(dtype)) ** 0.5) // 64 * 64
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
