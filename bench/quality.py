"""Quality of approximations: seconds against the difference from exact drawing, and the judge: `bimo bench --quality`.

Each setting draws the same prompts with the same seeds, one picture at a time, in turns. The distance is that of the
pictures drawn with nothing left out by the same engine, as the mean of their decibels (peak signal to noise; a picture
that is the same counts as 100). With a folder of the bundled model's data that holds a judge, told is also the share of
pictures in which the judge sees the kind that was asked for. Of random weights the distance alone means something.

    python bench/quality.py [-m xiaomo] [--prompts 12] [--steps N] [--size N] [--data DATA] [--out quality]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

PROMPTS = (
    "红苹果",
    "一只猫",
    "火箭",
    "a dragon",
    "汽车",
    "a house",
    "三个草莓",
    "小狗",
    "雨伞",
    "a tree",
    "月亮",
    "a fish",
)
SAME = 100.0
#: Approximations: for every system, and for UNets like Stable Diffusion's only.
ANY: tuple[dict[str, Any], ...] = (
    {},
    {"step_cache": "easy:0.02"},
    {"step_cache": "easy:0.05"},
    {"step_cache": "easy:0.1"},
    {"step_cache": "easy:0.2"},
    {"step_cache": "easy:0.3"},
    {"guidance_interval": (0.0, 0.5)},
    {"guidance_interval": (0.2, 0.8)},
    {"guidance_every": 2},
    {"guidance_every": 3},
    {"guidance_every": 4},
    {"guidance_every": 2, "step_cache": "easy:0.05"},
)
UNET: tuple[dict[str, Any], ...] = (
    {"step_cache": "deep:2"},
    {"step_cache": "deep:3"},
    {"step_cache": "deep:5"},
    {"token_merging": 0.25},
    {"token_merging": 0.5},
)
PLOT, MARGIN = (960, 560), (70, 30, 290, 60)


def name_of(setting: dict[str, Any]) -> str:
    """The label of a setting."""

    def told(value: Any) -> str:
        return "-".join(f"{part:g}" for part in value) if isinstance(value, tuple) else f"{value}"

    return ", ".join(f"{name.replace('_', ' ')} {told(value)}" for name, value in setting.items()) or "everything"


def decibels(one: Any, other: Any) -> float:
    """The peak signal to noise ratio of two images, at most that of the same one twice."""
    import numpy

    apart = numpy.asarray(one).astype(float) - numpy.asarray(other).astype(float)
    error = math.sqrt((apart**2).mean())
    return SAME if error == 0 else min(SAME, 20 * math.log10(255 / error))


def asked(data: Path | None, count: int) -> tuple[list[str], list[str], Any]:
    """Prompts, the kind that each asks for, and the judge, or None where there is no data."""
    if data is None:
        return [PROMPTS[place % len(PROMPTS)] for place in range(count)], [], None
    from bimo.xiaomo.evaluation.judge import judge_for
    from bimo.xiaomo.evaluation.prompts import word_of
    from bimo.xiaomo.evaluation.truth import read_artwork

    artwork = read_artwork(data)
    judge = judge_for(artwork, lambda *told: None)
    kinds = artwork.kinds[:: max(1, len(artwork.kinds) // count)][:count]
    return [word_of(kind, place % 2 == 0) for place, kind in enumerate(kinds)], [kind.hexcode for kind in kinds], judge


def seen(judge: Any, images: list[Any], kinds: list[str]) -> float:
    """The share of images in which the judge's likeliest kind is the one asked for."""
    import numpy

    found = judge.see(numpy.stack([numpy.asarray(image.convert("RGB").resize((64, 64))) for image in images]))
    return statistics.mean(judge.kinds[row[0]] == kind for row, kind in zip(found.kinds, kinds, strict=True))


def measured(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Draws with every setting; returns the rows."""
    from bimo.diffusion.system import ShortcutDenoiser
    from bimo.hub.loading import load

    engine = load(model, engine=options.engine)
    last = engine.system.level(engine.recipe.levels[-1].name)
    unet = isinstance(last.denoiser, ShortcutDenoiser)
    settings = ANY + (
        tuple(s for s in UNET if not (engine.processor.converts and "token_merging" in s)) if unet else ()
    )
    words, kinds, judge = asked(options.data, options.prompts)
    request: dict[str, Any] = {} if options.steps is None else {"steps": options.steps}
    request |= {} if options.size is None else {"size": (options.size, options.size)}
    images: list[list[Any]] = [[] for _ in settings]
    seconds: list[list[tuple[float, float]]] = [[] for _ in settings]
    engine.draw({"text": words[0], "seed": 0, **request})  # warm-up
    for seed, text in enumerate(words):
        order = range(len(settings)) if seed % 2 == 0 else range(len(settings) - 1, -1, -1)
        for place in order:
            start = time.perf_counter(), time.process_time()
            images[place].append(engine.draw({"text": text, "seed": seed, **request, **settings[place]})[0].image)
            seconds[place].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    rows: list[dict[str, Any]] = []
    for setting, drawn, took in zip(settings, images, seconds, strict=True):
        wall, busy = (statistics.median(kind) for kind in zip(*took, strict=True))
        row = {"setting": name_of(setting), "request": setting, "seconds": wall, "processor_seconds": busy}
        row["decibels"] = statistics.mean(decibels(*pair) for pair in zip(drawn, images[0], strict=True))
        if judge is not None:
            row["right"] = seen(judge, drawn, kinds)
        rows.append(row)
    filled = engine.prepare({"text": words[0], "seed": 0, **request}).request
    told = {"steps": filled.steps, "size": filled.size, "guidance": filled.guidance, "prompts": len(words)}
    return {
        "model": engine.recipe.name,
        "engine": options.engine,
        "weights": engine.system.weights_hash,
        **told,
        "rows": rows,
    }


def plot(report: dict[str, Any], file: Path) -> None:
    """The curve as a PNG: processor seconds to the right, decibels upwards, each setting a dot with its number."""
    from PIL import Image, ImageDraw

    left, top, right, bottom = MARGIN
    image = Image.new("RGB", PLOT, "white")
    draw = ImageDraw.Draw(image)
    rows = report["rows"]
    most = max(row["processor_seconds"] for row in rows) * 1.05
    inner = (PLOT[0] - left - right, PLOT[1] - top - bottom)

    def place(row: dict[str, Any]) -> tuple[float, float]:
        level = min(row["decibels"], 60.0) / 60
        return left + inner[0] * row["processor_seconds"] / most, top + inner[1] * (1 - level)

    draw.rectangle((left, top, left + inner[0], top + inner[1]), outline="black")
    for step in range(0, 61, 10):
        height = top + inner[1] * (1 - step / 60)
        draw.line((left, height, left + inner[0], height), fill="#dddddd")
        draw.text((left - 34, height - 6), f"{step} dB", fill="black")
    for part in range(6):
        x = left + inner[0] * part / 5
        draw.text((x - 10, top + inner[1] + 8), f"{most * part / 5:.3g} s", fill="black")
    for number, row in enumerate(rows):
        x, y = place(row)
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill="#a02020" if row["request"] else "black")
        draw.text((x + 6, y + (2 if number % 2 else -14)), str(number), fill="black")
        draw.text((left + inner[0] + 12, top + 16 * number), f"{number}  {row['setting']}", fill="black")
    title = f"{report['model']}: {report['steps']} steps, {report['size'][0]}x{report['size'][1]}, {report['engine']}"
    draw.text((left, 8), f"{title}; processor seconds a picture against decibels from the whole drawing", fill="black")
    image.save(file)


def bench(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints a table, writes OUT.json and OUT.png."""
    report = measured(model, options)
    whole = report["rows"][0]
    for row in report["rows"]:
        judged = f", judge {row['right']:.0%}" if "right" in row else ""
        print(
            f"{row['setting']:45} {row['seconds']:8.3f} s {row['processor_seconds']:8.3f} s of processor "
            f"({whole['processor_seconds'] / row['processor_seconds']:.2f}x), {row['decibels']:.1f} dB{judged}"
        )
    options.out.with_suffix(".json").write_text(json.dumps(report, ensure_ascii=False, indent=1), "utf-8")
    plot(report, options.out.with_suffix(".png"))
    return report


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-m", "--model", default="xiaomo")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--size", type=int, help="pixels a side")
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--data", type=Path, help="the bundled model's data, with its judge")
    parser.add_argument("--out", type=Path, default=Path("quality"), help="the files to write, without their endings")
    return parser.parse_args(words)


if __name__ == "__main__":
    given = options_of()
    bench(given.model, given)
