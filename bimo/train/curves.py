"""Learning curves of a run as one picture: a panel a stage, the smoothed loss over the samples seen."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bimo.core.types import write_whole
from bimo.train.record import LOG_FILE, chinese_font

PANEL = (420, 250)
MARGIN = (56, 30, 14, 30)
SMOOTHING = 0.97


def smoothed(values: Sequence[float]) -> list[float]:
    """Exponential means, each over as much of the past as there is."""
    means: list[float] = []
    total = weight = 0.0
    for value in values:
        total = SMOOTHING * total + (1 - SMOOTHING) * value
        weight = SMOOTHING * weight + (1 - SMOOTHING)
        means.append(total / weight)
    return means


def curves(run: Path, path: Path, columns: int = 3) -> Path:
    """Draws ``run/log.jsonl`` into a PNG at ``path``."""
    from PIL import Image, ImageDraw

    stages: dict[str, list[tuple[int, float]]] = {}
    for line in (run / LOG_FILE).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        stages.setdefault(row["stage"], []).append((row["samples"], row["loss"]))
    columns = min(columns, len(stages))
    rows = -(-len(stages) // columns)
    canvas = Image.new("RGB", (PANEL[0] * columns, PANEL[1] * rows), "white")
    pen, font = ImageDraw.Draw(canvas), chinese_font(13)
    for place, (name, points) in enumerate(stages.items()):
        left, top = place % columns * PANEL[0], place // columns * PANEL[1]
        _panel(pen, font, (left, top), name, points)
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG")
    return write_whole(path, buffer.getvalue())


def _panel(pen: Any, font: Any, corner: tuple[int, int], name: str, points: list[tuple[int, float]]) -> None:
    x0, y0 = corner[0] + MARGIN[0], corner[1] + MARGIN[1]
    x1, y1 = corner[0] + PANEL[0] - MARGIN[2], corner[1] + PANEL[1] - MARGIN[3]
    losses = smoothed([loss for _, loss in points])
    # The first steps of a stage fall so far that they would flatten all the rest.
    shown = losses[len(losses) // 50 :]
    low, high, last = min(shown), max(shown), max(1, points[-1][0])
    spread = max(high - low, 1e-9)
    pen.rectangle((x0, y0, x1, y1), outline=(200, 200, 200))
    for share in (0.0, 0.5, 1.0):
        y = y1 - share * (y1 - y0)
        pen.line((x0, y, x1, y), fill=(230, 230, 230))
        pen.text((corner[0] + 4, y - 8), f"{low + share * spread:.3f}", fill=(90, 90, 90), font=font)
    line = [
        (x0 + samples / last * (x1 - x0), y1 - min(1.0, (loss - low) / spread) * (y1 - y0))
        for (samples, _), loss in zip(points, losses, strict=True)
    ]
    pen.line(line, fill=(190, 40, 40), width=2)
    pen.text((x0, corner[1] + 8), f"{name}   {losses[-1]:.4f}", fill=(20, 20, 20), font=font)
    pen.text((x1 - 150, y1 + 8), f"{last:,} samples", fill=(90, 90, 90), font=font)
