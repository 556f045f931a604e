"""A report of `bimo eval` as its folder has it, with pictures of one colour."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bimo.evaluation.protocol import VERSION

PROMPTS = ("红苹果", "绿苹果")


def report(folder: Path, models: Mapping[str, str], prompts: Sequence[str] = PROMPTS, seeds: int = 1) -> Path:
    """Writes each model's pictures, of its colour, with its name in the file."""
    records = {}
    for model, colour in models.items():
        pictures = folder / model / "pictures"
        pictures.mkdir(parents=True)
        note = PngInfo()
        note.add_text("parameters", f"Model: {model}")
        rows = []
        for place, text in enumerate(prompts):
            for seed in range(seeds):
                name = f"{place}-{seed}.png"
                image = Image.new("RGB", (24, 16), colour)
                image.putpixel((0, 0), (place, seed, 0))  # no two files are the same
                image.save(pictures / name, pnginfo=note)
                rows.append({"key": f"{place:04d}", "seed": seed + 5, "file": name, "text": text})
        records[model] = {"pictures": rows}
    data = {"kind": "suite", "version": VERSION, "models": records}
    (folder / "report.json").write_text(json.dumps(data), encoding="utf-8")
    return folder
