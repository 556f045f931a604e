"""Memory estimates for each combination of dtype, offload and quantisation, computed without loading any weights.

Combinations are tried in the order of what they cost: nothing, tiled decoding (seams), a half-precision dtype
(rounding), model offload (time), 8-bit weights (more rounding), layer-wise offload (more time).
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
Quantise = Literal["none", "int8", "int4", "fp8", "nf4", "llm-int8", "uint4"]
OFFLOADS: tuple[Offload, ...] = ("none", "parts", "groups", "disk")
QUANTISES: tuple[Quantise, ...] = ("none", "int8", "int4", "fp8", "nf4", "llm-int8", "uint4")
#: Activations per pixel while decoding, the peak of a drawing: about 4 feature maps of 256 channels at full
#: resolution, as in the last block of Stable Diffusion's autoencoder.
NUMBERS_A_PIXEL = 4 * 256
#: Bytes per element.
BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0}
#: Bytes per quantised weight, including its share of the scales.
QUANTISED_BYTES = {"int8": 1.02, "fp8": 1.02, "int4": 0.56, "nf4": 0.57, "llm-int8": 1.02, "uint4": 0.63}
#: Tile size in pixels of tiled decoding: that of diffusers' autoencoders for 512-pixel models.
TILE = 512
UNITS = {"": 1e9, "b": 1.0, "k": 1e3, "kb": 1e3, "m": 1e6, "mb": 1e6, "g": 1e9, "gb": 1e9, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True)
class Weights:
    """Parameter counts of a recipe: text encoders, each level's denoiser, spaces, and the rest, which always stays
    float32. ``grouped`` is the most that is on the device at once with group offloading: everything outside the
    repeated blocks, and two layers. ``blocks`` and ``encoder_blocks`` are the bytes of the denoisers' and the text
    encoders' GGUF-quantised weights, whatever the dtype.
    """

    encoders: int
    denoisers: tuple[int, ...]
    spaces: int
    rest: int
    grouped: int = 0
    blocks: int = 0
    encoder_blocks: int = 0


@dataclass(frozen=True)
class Keeping:
    """How weights are kept in memory: ``dtype`` of text encoders and denoisers, ``space_dtype`` of the spaces.

    ``offload`` "parts" keeps each text encoder and denoiser in memory only while it runs (model offload); "groups" does
    so for each layer and prefetches the next one; "disk" is "groups" from files in a temporary folder. ``quantise``
    applies to the linear layers of text encoders and denoisers; ``tiles`` decodes large pictures tile by tile.
    """

    dtype: str = "fp32"
    space_dtype: str = "fp32"
    offload: Offload = "none"
    quantise: Quantise = "none"
    tiles: bool = False

    @property
    def flags(self) -> str:
        """The equivalent command-line options, "" for the defaults."""
        flags = [f"--dtype {self.dtype}"] * (self.dtype != "fp32") + [f"--offload {self.offload}"] * self.offloads
        flags += [f"--quantise {self.quantise}"] * (self.quantise != "none") + ["--tiles"] * self.tiles
        return " ".join(flags)

    @property
    def offloads(self) -> bool:
        """Whether any offloading is used."""
        return self.offload != "none"


def weights_of(system: System) -> Weights:
    """Counts the weights of a system, which may be memory-mapped or on the meta device."""
    counts = {name: p.numel() for name, p in system.named_parameters() if p.is_floating_point()}
    in_blocks = {name: p.nbytes for name, p in system.named_parameters() if not p.is_floating_point()}
    encoder_blocks = sum(size for name, size in in_blocks.items() if name.startswith("text."))

    def below(*prefixes: str) -> int:
        return sum(count for name, count in counts.items() if name.startswith(prefixes))

    encoders = below("text.")
    names = [level.name for level in system.recipe.levels]
    denoisers = tuple(below(f"{name}.denoiser.") for name in names)
    spaces = below(*(f"{name}.space." for name in names)) if names else 0
    rest = sum(counts.values()) - encoders - sum(denoisers) - spaces
    blocks = sum(in_blocks.values()) - encoder_blocks
    return Weights(encoders, denoisers, spaces, rest, _grouped(system), blocks, encoder_blocks)


def _grouped(system: System) -> int:
    from bimo.engine.compile import repeated_blocks

    between, layers = 0, [0]
    for worker in (*system.text, *(system.level(level.name).denoiser for level in system.recipe.levels)):
        within = {id(p): p.numel() for block in repeated_blocks(worker) for p in block.parameters()}
        between += sum(p.numel() for p in worker.parameters() if id(p) not in within)
        layers += within.values()
    # One layer runs while the next is prefetched.
    return between + 2 * max(layers)


def resident_bytes(weights: Weights, keeping: Keeping) -> int:
    """The most bytes of weights that are in memory at once."""
    bytes_per_weight = BYTES[keeping.dtype] if keeping.quantise == "none" else QUANTISED_BYTES[keeping.quantise]
    denoisers = [bytes_per_weight * count + weights.blocks for count in weights.denoisers]
    encoders = bytes_per_weight * weights.encoders + weights.encoder_blocks
    weight_bytes: float = {
        "none": encoders + bytes_per_weight * sum(weights.denoisers) + weights.blocks,
        "parts": max([encoders, *denoisers]),
        "groups": bytes_per_weight * weights.grouped,
        "disk": bytes_per_weight * weights.grouped,
    }[keeping.offload]
    return int(weight_bytes + weights.spaces * BYTES[keeping.space_dtype] + weights.rest * BYTES["fp32"])


def drawing_bytes(size: tuple[int, int], keeping: Keeping) -> int:
    """Bytes of activations for one picture of (width, height) pixels; decoding needs the most."""
    width, height = size
    pixels = min(width, TILE) * min(height, TILE) if keeping.tiles else width * height
    # With tiles: plus the decoded picture, 3 channels of float32.
    return int(pixels * NUMBERS_A_PIXEL * BYTES[keeping.space_dtype]) + (12 * width * height if keeping.tiles else 0)


def total_bytes(weights: Weights, size: tuple[int, int], keeping: Keeping) -> int:
    """Bytes in memory at the peak of a drawing."""
    return resident_bytes(weights, keeping) + drawing_bytes(size, keeping)


def candidates(
    recipe: Recipe, requested: Keeping, *, card: bool, supported: tuple[str, ...], quantises: bool, fixed: bool = False
) -> Iterator[Keeping]:
    """Combinations for a recipe, in the order of their cost. Settings in ``requested`` are never dropped: only unset
    ones are varied, and the dtype unless ``fixed``. ``supported`` are the device's dtypes; ``quantises`` says whether
    int8 may be tried.
    """
    half = next((kind for kind in recipe.dtypes if kind in supported and (card or kind == "bf16")), None)
    numbers = [requested]
    if half is not None and requested.dtype == "fp32" and not fixed:
        numbers.append(narrowed(recipe, requested, half))
    combinations: tuple[tuple[Offload, Quantise], ...] = (
        *(("none", "none"), ("parts", "none")),
        *((("none", "int8"),) if quantises else ()),
        *((("groups", "none"),) if card else ()),
        ("disk", "none"),
    )
    for offload, quantise in combinations:
        if requested.offloads and offload != requested.offload:
            continue
        if requested.quantise != "none" and quantise != "none":
            continue
        for keeping in numbers:
            if quantise != "none" and keeping.dtype == "fp32" and half is not None and len(numbers) > 1:
                continue
            for tiles in (False, True):
                if requested.tiles and not tiles:
                    continue
                chosen = quantise if requested.quantise == "none" else requested.quantise
                yield replace(keeping, offload=offload, quantise=chosen, tiles=tiles)


def narrowed(recipe: Recipe, keeping: Keeping, dtype: str) -> Keeping:
    """The same in another dtype; the spaces change too if the recipe allows that dtype for all of them."""
    levels = [level for level in recipe.levels if not isinstance(level.space, str)]
    space = dtype if all(dtype in level.space_dtypes for level in levels) else "fp32"
    return replace(keeping, dtype=dtype, space_dtype=space)


def cheapest(weights: Weights, size: tuple[int, int], free: int, ways: Iterator[Keeping]) -> tuple[Keeping | None, int]:
    """The first combination that fits into ``free`` bytes and its size, or None and the smallest size of all."""
    least = -1
    for keeping in ways:
        total = total_bytes(weights, size, keeping)
        if total <= free:
            return keeping, total
        least = total if least < 0 else min(least, total)
    return None, least


def bytes_of(text: str) -> int:
    """Parses '8GB', '8', '800MB', '7.5 GiB' into bytes; a bare number is in gigabytes. Raises RequestError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text, re.IGNORECASE)
    if match is None or match[2].lower() not in UNITS or not float(match[1]):
        raise RequestError("--memory is {text!r}; expected a size such as 8GB or 800MB", text=text)
    return int(float(match[1]) * UNITS[match[2].lower()])
