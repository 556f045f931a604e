"""Whether the glyph reward decreases with corruption: idioms unchanged, and with increasing corruption.

Idioms of four characters are written in a font, in a line and in a column, then spoilt: one to three of the characters
are others, the picture is blurred, strokes are drawn across it. Told are the mean accuracy of each, and in how many of
100 idioms the whole one is worth more than the spoilt one (equal ones count half).

    python bench/glyphs.py --idioms FILE [--font FILE] [--count 60]

FILE of idioms: one a line, what follows a tab or comma is left out.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from bimo.data.sheets import chinese_font
from bimo.training.objectives.online_rewards import pixels_of
from bimo.training.objectives.rewards import GlyphReward, Judges, Shown

SIZE, GAP, MARGIN = 48, 8, 30
Spoilt = Callable[[str, random.Random], "tuple[str, Callable[[Image.Image], Image.Image]]"]


def written(text: str, font: ImageFont.FreeTypeFont, upright: bool) -> Image.Image:
    """Renders a text black on white, in a row or a column."""
    long, short = 2 * MARGIN + (SIZE + GAP) * len(text), 2 * MARGIN + SIZE + GAP
    made = Image.new("RGB", (short, long) if upright else (long, short), "white")
    pen = ImageDraw.Draw(made)
    for place, character in enumerate(text):
        along = MARGIN + (SIZE + GAP) * place
        pen.text((MARGIN, along) if upright else (along, MARGIN), character, font=font, fill="black")
    return made


def others(count: int, pool: Sequence[str]) -> Spoilt:
    """Replaces some characters by others of the pool."""

    def spoil(text: str, dice: random.Random) -> tuple[str, Callable[[Image.Image], Image.Image]]:
        letters = list(text)
        for place in dice.sample(range(len(text)), count):
            letters[place] = dice.choice([one for one in pool if one not in text])
        return "".join(letters), lambda image: image

    return spoil


def blurred(radius: float) -> Spoilt:
    """Gaussian blur of a radius in pixels."""
    return lambda text, dice: (text, lambda image: image.filter(ImageFilter.GaussianBlur(radius)))


def struck(strokes: int) -> Spoilt:
    """Draws lines across the picture."""

    def spoil(text: str, dice: random.Random) -> tuple[str, Callable[[Image.Image], Image.Image]]:
        def across(image: Image.Image) -> Image.Image:
            made = image.copy()
            pen = ImageDraw.Draw(made)
            for _ in range(strokes):
                ends = [(dice.randrange(image.width), dice.randrange(image.height)) for _ in range(2)]
                pen.line((*ends[0], *ends[1]), "black", 4)
            return made

        return text, across

    return spoil


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idioms", type=Path, required=True)
    parser.add_argument("--font", type=Path)
    parser.add_argument("--count", type=int, default=60)
    given = parser.parse_args()
    font = ImageFont.truetype(str(given.font), SIZE) if given.font else chinese_font(SIZE)
    assert isinstance(font, ImageFont.FreeTypeFont), "no Chinese font here: name one with --font"
    lines = given.idioms.read_text("utf-8").splitlines()
    every = [line.replace("\t", ",").split(",")[0].strip() for line in lines]
    idioms = random.Random(0).sample([one for one in every if len(one) == 4 and one.isalpha()], given.count)
    pool = sorted({character for one in idioms for character in one})
    ways: dict[str, Spoilt] = {"as it is": blurred(0)}
    ways |= {f"{count} of 4 others": others(count, pool) for count in (1, 2, 3)}
    ways |= {f"blur {radius}": blurred(radius) for radius in (2, 4, 6, 8)}
    ways |= {f"{strokes} strokes": struck(strokes) for strokes in (4, 8, 16)}
    judges = Judges()
    began, read = time.perf_counter(), 0
    for upright in (False, True):
        accuracies: dict[str, list[float]] = {}
        for name, way in ways.items():
            dice = random.Random(1)
            for idiom in idioms:
                text, after = way(idiom, dice)
                image = after(written(text, font, upright))
                shown = Shown(pixels_of(image)[None], [f"墙上写着「{idiom}」"])
                accuracies.setdefault(name, []).append(float(judges.scores(GlyphReward(), shown)["score"]))
                read += 1
        whole = accuracies["as it is"]
        for name, found in accuracies.items():
            better = [float(a > b) + 0.5 * (a == b) for a, b in zip(whole, found, strict=True)]
            settings = {"column": upright, "spoilt": name, "accuracy": round(statistics.fmean(found), 3)}
            print(json.dumps(settings | {"whole one worth more": round(100 * statistics.fmean(better), 1)}))
    print(json.dumps({"condition_images": read, "seconds a picture": round((time.perf_counter() - began) / read, 3)}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
