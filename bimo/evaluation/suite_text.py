"""Measures of text in one model's pictures of a suite, next to the OCR reader's own error on the same texts in clean
print.

The reader's error is subtracted as a difference of errors, (1 - m) - (1 - c) = c - m for the score m of a picture and c
of the print: the part of the error that is not the reader's. It is paired by prompt, so that its interval is that of
the difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from bimo.core.messages import Message
from bimo.evaluation.intervals import RESAMPLES, Interval
from bimo.evaluation.metrics.glyphs import Glyphs, glyphs, oneig
from bimo.evaluation.progress import OnProgress
from bimo.evaluation.result_cache import ResultCache
from bimo.evaluation.suite_measures import MeasuredPicture, Number

#: Pictures with a smaller side are not read.
LEGIBLE = 64
CONTROL_SIDE = 512
#: The most characters in a line of the control.
LINE = 14
PRINT, LESS = ", clean print", ", error less the reader's"
NOTE = Message(
    "OneIG's text score is lenient for short texts: one missing character still gives 0.98. OCR is by PP-OCR; "
    "“OCR of clean print” is its result on the same text printed on white. “error minus that of OCR” is the error"
    " of the picture minus that of clean print, prompt by prompt: 0 is as good as print. OCR corrects wrong "
    "strokes, so that text that is read right need not be written right"
)


class Reader:
    """OCR of pictures, cached by their hash, and of the same texts in clean print as a control."""

    def __init__(self, folder: Path) -> None:
        # Imported here, so that a missing extra is reported before the first picture.
        from bimo.curation.filters import ocr

        self._ocr = ocr
        self.identity = _reader_version()
        self.cache = ResultCache(folder / "readings.jsonl")

    def read(self, image: Image.Image, sha256: str) -> tuple[str, ...]:
        """The lines of text in a picture."""
        key = f"{self.identity} {sha256}"
        if key not in self.cache.values:
            self.cache.store(key, list(self._ocr.read(image, single=True).texts) if min(image.size) >= LEGIBLE else [])
        return tuple(self.cache.values[key])

    def control(self, written: Sequence[str]) -> Glyphs:
        """The scores of the text printed black on white: the error of OCR itself."""
        image = printed(written)
        return glyphs(written, self.read(image, hashlib.sha256(image.tobytes()).hexdigest()))


def _reader_version() -> str:
    from importlib.metadata import version

    return f"rapidocr {version('rapidocr')}"


def printed(written: Sequence[str]) -> Image.Image:
    """Renders text segments black on white, one below the other, with long ones wrapped."""
    lines = [part[at : at + LINE] for part in written for at in range(0, len(part), LINE)]
    size = max(16, min(64, CONTROL_SIDE // (max(map(len, lines)) + 1), CONTROL_SIDE // (2 * len(lines))))
    image = Image.new("RGB", (CONTROL_SIDE, CONTROL_SIDE), "white")
    draw, font = ImageDraw.Draw(image), _font(size)
    for number, line in enumerate(lines):
        draw.text((size // 2, (2 * number + 1) * CONTROL_SIDE // (2 * len(lines)) - size // 2), line, "black", font)
    return image


@cache
def _font(size: int) -> Any:
    from bimo.data.sheets import chinese_font

    return chinese_font(size)


def measure_text(
    pictures: Sequence[MeasuredPicture], reader: Reader, on_progress: OnProgress, title: str
) -> Mapping[str, Glyphs]:
    """Sets the measures of text in pictures, those of the clean-print control, and the difference of their errors.
    Returns the control's scores by the prompt's key.
    """
    with_text = [picture for picture in pictures if picture.prompt.written]
    controls: dict[str, Glyphs] = {}
    for number, picture in enumerate(with_text, 1):
        written = picture.prompt.written
        picture.read = reader.read(picture.image(), picture.drawing.sha256)
        if picture.prompt.key not in controls:
            controls[picture.prompt.key] = reader.control(written)
        scores, control = glyphs(written, picture.read), controls[picture.prompt.key]
        picture.values |= {
            "text characters": scores.characters,
            "text similarity": scores.similarity,
            "text sentences": scores.sentences,
            "text f1": scores.f1,
            "text whole": scores.exact,
        }
        pairs = {
            "text characters": (scores.characters, control.characters),
            "text similarity": (scores.similarity, control.similarity),
            "text whole": (float(scores.exact), float(control.exact)),
        }
        # A sentence that the print splits over two lines does not count as an error of the reader.
        if max(map(len, written)) <= LINE:
            pairs["text sentences"] = scores.sentences, control.sentences
        picture.values |= {f"{name}{PRINT}": clean for name, (_, clean) in pairs.items()}
        picture.values |= {f"{name}{LESS}": clean - score for name, (score, clean) in pairs.items()}
        on_progress(title, number, len(with_text))
    return controls


def oneig_numbers(
    pictures: Sequence[MeasuredPicture], controls: Mapping[str, Glyphs], language: str
) -> tuple[Number, ...]:
    """OneIG's text score of the pictures and of clean print, and the difference of their errors, each with a bootstrap
    interval over prompts; none without text.
    """
    by_prompt: dict[str, list[Glyphs]] = {}
    for picture in pictures:
        if picture.prompt.written and picture.prompt.language == language:
            by_prompt.setdefault(picture.prompt.key, []).append(glyphs(picture.prompt.written, picture.read))
    if not by_prompt:
        return ()
    families = list(by_prompt.values())
    # A prompt counts in the print as often as it has pictures.
    prints = [[controls[key]] * len(scores) for key, scores in by_prompt.items()]

    def scores(rows: Sequence[int]) -> tuple[float, float, float]:
        drawn = oneig([one for row in rows for one in families[row]], language)
        clean = oneig([one for row in rows for one in prints[row]], language)
        return drawn, clean, clean - drawn

    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(families), (RESAMPLES // 4, len(families)))
    resampled = np.array([scores(row.tolist()) for row in picks])
    low, high = np.quantile(resampled, (0.025, 0.975), axis=0)
    values = scores(range(len(families)))
    return tuple(
        Number(f"text OneIG{part}", "", language, "mean", Interval(value, float(least), float(most), len(families)))
        for part, value, least, most in zip(("", PRINT, LESS), values, low, high, strict=True)
    )


def measure_strokes(pictures: Sequence[MeasuredPicture], on_progress: OnProgress, title: str) -> None:
    """Sets ``text strokes``: the fraction of requested characters whose strokes are all right, by `bimo.inscription`.
    Handwriting that resembles no installed font counts as wrong, so it is a lower bound.
    """
    from bimo.inscription import drawn
    from bimo.inscription.fonts import find_faces
    from bimo.inscription.layout import characters_of

    faces = find_faces()
    with_text = [picture for picture in pictures if picture.prompt.written]
    for number, picture in enumerate(with_text, 1):
        image = picture.image()
        texts = [characters_of(part) for part in picture.prompt.written]
        correct = 0
        if min(image.size) >= LEGIBLE and picture.read:
            pixels = np.asarray(image)
            for cells in (drawn.find_text(pixels, text) for text in texts):
                correct += sum(drawn.judged(pixels.astype(np.float32), cell, faces).right for cell in cells or ())
        picture.values["text strokes"] = correct / max(1, sum(map(len, texts)))
        on_progress(title, number, len(with_text))
