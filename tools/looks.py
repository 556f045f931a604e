"""Writes which colours of a style stand where those of another do, ``bimo/xiaomo/artwork/looks.tsv``, from the
reference pictures.

    python tools/looks.py

Of every thing that is kept in both styles the two drawings are laid on each other, each in its canonical pose. A
colour's counterpart is the one of the style's commonest that most often lies in its place, of those that look like it.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bimo.xiaomo.artwork.drawings import Drawing
from bimo.xiaomo.artwork.looks import LOOKS, TABLE, Colour, colours_of, lab, palette, turns_white
from bimo.xiaomo.artwork.references import kept_drawings
from bimo.xiaomo.artwork.sprites import canonical

ARTWORK = Path(__file__).resolve().parent.parent / "bimo" / "xiaomo" / "artwork"
SIDE = 64
#: A pixel has a colour of its drawing if it is so near (the sum over channels) and so opaque; a colour counts in a
#: drawing with so many pixels.
NEAR, COVERED, PIXELS = 24, 230, 4
#: Colours in fewer things than this are left to what is likeliest.
THINGS = 6
#: How far apart (in Oklab) a colour and its counterpart are in lightness, and in hue and chroma, by which one knows the
#: thing; and what share of a thing speaks for the commonest colours of the style before any is laid on another.
LIGHTNESS, CHROMA, BEFORE = 0.1, 0.05, 0.05

#: The colours of a drawing and, of each pixel, [SIDE, SIDE], the number of its colour, or -1.
Painted = tuple[list[Colour], npt.NDArray[np.int64]]


def main() -> None:
    """Lays the drawings on each other and writes the table."""
    pairs = [(style, base) for style, look in LOOKS.items() if not look.dark for base in look.bases]
    painted = {style: _painted(kept_drawings(style)) for style in sorted({each for pair in pairs for each in pair})}
    lines: list[str] = []
    for style, base in pairs:
        found = _counterparts(painted[style], painted[base], palette(kept_drawings(style).values()))
        row = " ".join(f"{_hex(rgb)}:{_hex(other)}" for rgb, other in sorted(found.items()))
        lines.append(f"{style}\t{base}\t{row}\n")
        print(f"{style} from {base}: {len(found)}")
    (ARTWORK / TABLE).write_text("".join(lines), "utf-8")


def _painted(drawings: Mapping[str, Drawing]) -> dict[str, Painted]:
    found: dict[str, Painted] = {}
    for kind, drawing in drawings.items():
        sprite, colours = canonical(drawing.render(2 * SIDE), SIDE), colours_of(drawing)
        if sprite and colours:
            pixels = np.asarray(sprite, np.int64)
            apart = np.abs(pixels[..., None, :3] - np.array(colours)).sum(-1)
            there = (apart.min(-1) <= NEAR) & (pixels[..., 3] >= COVERED)
            found[kind] = colours, np.where(there, apart.argmin(-1), -1)
    return found


def _counterparts(
    style: Mapping[str, Painted], base: Mapping[str, Painted], common: Mapping[Colour, int]
) -> dict[Colour, Colour]:
    shares: dict[Colour, dict[Colour, float]] = defaultdict(lambda: defaultdict(float))
    things: dict[Colour, int] = defaultdict(int)
    for kind in sorted(style.keys() & base.keys()):
        (colours, numbers), (others, laid) = base[kind], style[kind]
        for number, rgb in enumerate(colours):
            under = laid[numbers == number]
            if len(under) >= PIXELS:
                things[rgb] += 1
                for other, count in zip(*np.unique(under[under >= 0], return_counts=True), strict=True):
                    shares[rgb][others[other]] += count / len(under)
    every, prior = list(common), np.array(list(common.values())) / sum(common.values())
    found: dict[Colour, Colour] = {}
    for rgb, number in things.items():
        if number >= THINGS:
            laid_there = np.array([shares[rgb][other] for other in every])
            place, places = lab(np.array([rgb]))[0], lab(np.array(every))
            apart = (places - place) / (LIGHTNESS, CHROMA, CHROMA)
            score = np.log(laid_there + BEFORE * number * prior) - (apart**2).sum(1) / 2
            found[rgb] = every[int(np.where(turns_white(place, places), -np.inf, score).argmax())]
    return found


def _hex(rgb: Colour) -> str:
    return "{:02x}{:02x}{:02x}".format(*rgb)


if __name__ == "__main__":
    main()
