"""How weights are kept in memory, what that takes, and the cheapest way that fits: arithmetic alone, before loading.

Costs are in the order of what one gives up: nothing (the recipe's own numbers), rounding of the decoder at the seams of
tiles, rounding to narrower numbers, time for moving parts, rounding to eight bits, time for moving every layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from bimo.core.errors import RequestError

if TYPE_CHECKING:
    from bimo.core.recipe import Recipe
    from bimo.diffusion.system import System

Offload = Literal["none", "parts", "groups", "disk"]
Quantise = Literal["none", "int8", "int4", "fp8", "nf4"]
OFFLOADS: tuple[Offload, ...] = ("none", "parts", "groups", "disk")
QUANTISES: tuple[Quantise, ...] = ("none", "int8", "int4", "fp8", "nf4")
#: Activations for each pixel while a picture is decoded, the peak of a drawing: about 4 maps of 256 channels at full
#: resolution, as in the last block of the autoencoders of Stable Diffusion.
NUMBERS_A_PIXEL = 4 * 256
#: Bytes of one number.
BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0}
#: Bytes of one quantised weight with its share of the scales.
QUANTISED_BYTES = {"int8": 1.02, "fp8": 1.02, "int4": 0.56, "nf4": 0.57}
#: The side of a tile in pixels, as diffusers' autoencoders have it for pictures of 512 pixels.
TILE = 512
UNITS = {"": 1e9, "b": 1.0, "k": 1e3, "kb": 1e3, "m": 1e6, "mb": 1e6, "g": 1e9, "gb": 1e9, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True)
class Weights:
    """How many numbers the weights of a recipe are: all text encoders', each level's denoiser's, all spaces', and all
    the rest, which is always kept in float32. ``grouped`` are those in memory at most where layers come by groups: all
    that lies between the blocks, and two layers. ``blocks`` are bytes of what GGUF has in blocks, whatever the numbers.
    """

    encoders: int
    denoisers: tuple[int, ...]
    spaces: int
    rest: int
    grouped: int = 0
    blocks: int = 0


@dataclass(frozen=True)
class Keeping:
    """How a system is kept: ``dtype`` of its text encoders and denoisers and ``space_dtype`` of its spaces.

    ``offload`` "parts" has each text encoder and denoiser in memory only while it works; "groups" each of their layers,
    with the next one on its way to the card while one works; "disk" so from files in a temporary folder. ``quantise``
    rounds the matrices of text encoders and denoisers; ``tiles`` decodes large pictures tile by tile.
    """

    dtype: str = "fp32"
    space_dtype: str = "fp32"
    offload: Offload = "none"
    quantise: Quantise = "none"
    tiles: bool = False

    @property
    def flags(self) -> str:
        """The same on the command line, "" for nothing."""
        said = [f"--dtype {self.dtype}"] * (self.dtype != "fp32") + [f"--offload {self.offload}"] * self.offloads
        said += [f"--quantise {self.quantise}"] * (self.quantise != "none") + ["--tiles"] * self.tiles
        return " ".join(said)

    @property
    def offloads(self) -> bool:
        """Whether not everything is in memory at once."""
        return self.offload != "none"


def weights_of(system: System) -> Weights:
    """The weights of a system, counted; that they are mapped from their files or hold nothing makes no difference."""
    counts = {name: p.numel() for name, p in system.named_parameters() if p.is_floating_point()}
    blocks = sum(p.nbytes for p in system.parameters() if not p.is_floating_point())

    def below(*prefixes: str) -> int:
        return sum(count for name, count in counts.items() if name.startswith(prefixes))

    encoders = below("text.")
    names = [level.name for level in system.recipe.levels]
    denoisers = tuple(below(f"{name}.denoiser.") for name in names)
    spaces = below(*(f"{name}.space." for name in names)) if names else 0
    rest = sum(counts.values()) - encoders - sum(denoisers) - spaces
    return Weights(encoders, denoisers, spaces, rest, _grouped(system), blocks)


def _grouped(system: System) -> int:
    from bimo.engine.compile import repeated_blocks

    between, layers = 0, [0]
    for worker in (*system.text, *(system.level(level.name).denoiser for level in system.recipe.levels)):
        within = {id(p): p.numel() for block in repeated_blocks(worker) for p in block.parameters()}
        between += sum(p.numel() for p in worker.parameters() if id(p) not in within)
        layers += within.values()
    # One layer works while the next is on its way.
    return between + 2 * max(layers)


def kept_bytes(weights: Weights, keeping: Keeping) -> int:
    """Bytes of the weights that are in memory at once."""
    each = BYTES[keeping.dtype] if keeping.quantise == "none" else QUANTISED_BYTES[keeping.quantise]
    denoisers = [each * count + weights.blocks for count in weights.denoisers]
    working: float = {
        "none": each * (weights.encoders + sum(weights.denoisers)) + weights.blocks,
        "parts": max([each * weights.encoders, *denoisers]),
        "groups": each * weights.grouped,
        "disk": each * weights.grouped,
    }[keeping.offload]
    return int(working + weights.spaces * BYTES[keeping.space_dtype] + weights.rest * BYTES["fp32"])


def drawing_bytes(size: tuple[int, int], keeping: Keeping) -> int:
    """Bytes that drawing one picture of (width, height) pixels takes beside the weights: those of its decoding."""
    width, height = size
    pixels = min(width, TILE) * min(height, TILE) if keeping.tiles else width * height
    # What was decoded so far, as float32.
    return int(pixels * NUMBERS_A_PIXEL * BYTES[keeping.space_dtype]) + (12 * width * height if keeping.tiles else 0)


def total_bytes(weights: Weights, size: tuple[int, int], keeping: Keeping) -> int:
    """Bytes in memory at the peak of a drawing."""
    return kept_bytes(weights, keeping) + drawing_bytes(size, keeping)


def candidates(
    recipe: Recipe, asked: Keeping, *, card: bool, has: tuple[str, ...], quantises: bool, fixed: bool = False
) -> Iterator[Keeping]:
    """Ways to keep a recipe, the cheapest first. What is asked for is kept: offload and the like are tried beside it,
    and narrower numbers unless they are ``fixed``. ``has`` are the numbers of the device; ``quantises`` says whether
    int8 is to be tried.
    """
    narrow = next((kind for kind in recipe.dtypes if kind in has and (card or kind == "bf16")), None)
    numbers = [asked]
    if narrow is not None and asked.dtype == "fp32" and not fixed:
        numbers.append(narrowed(recipe, asked, narrow))
    ways: tuple[tuple[Offload, Quantise], ...] = (
        *(("none", "none"), ("parts", "none")),
        *((("none", "int8"),) if quantises else ()),
        *((("groups", "none"),) if card else ()),
        ("disk", "none"),
    )
    for offload, quantise in ways:
        if asked.offloads and offload != asked.offload:
            continue
        if asked.quantise != "none" and quantise != "none":
            continue
        for kept in numbers:
            if quantise != "none" and kept.dtype == "fp32" and narrow is not None and len(numbers) > 1:
                continue
            for tiles in (False, True):
                if asked.tiles and not tiles:
                    continue
                chosen = quantise if asked.quantise == "none" else asked.quantise
                yield replace(kept, offload=offload, quantise=chosen, tiles=tiles)


def narrowed(recipe: Recipe, keeping: Keeping, dtype: str) -> Keeping:
    """The same in other numbers; its spaces in those, too, where all of them decode in them."""
    levels = [level for level in recipe.levels if not isinstance(level.space, str)]
    space = dtype if all(dtype in level.space_dtypes for level in levels) else "fp32"
    return replace(keeping, dtype=dtype, space_dtype=space)


def cheapest(weights: Weights, size: tuple[int, int], free: int, ways: Iterator[Keeping]) -> tuple[Keeping | None, int]:
    """The first of some ways that fits into ``free`` bytes, or None; and the least that any of them takes."""
    least = -1
    for keeping in ways:
        total = total_bytes(weights, size, keeping)
        if total <= free:
            return keeping, total
        least = total if least < 0 else min(least, total)
    return None, least


def bytes_of(text: str) -> int:
    """'8GB', '8', '800MB', '7.5 GiB' -> bytes; a number alone is of gigabytes. Raises RequestError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text, re.IGNORECASE)
    if found is None or found[2].lower() not in UNITS or not float(found[1]):
        raise RequestError("--memory is {text!r}; expected a size such as 8GB or 800MB", text=text)
    return int(float(found[1]) * UNITS[found[2].lower()])
