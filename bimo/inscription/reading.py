"""OCR of characters in a picture: PP-OCR by rapidocr, whose models are in its wheel (Apache-2.0).

The boxes of the characters are known, so they are cropped and joined into a horizontal line: text reads alike whether
it runs across, down or along a seal. OCR misreads some correct characters and knows some 18,000 of them, so the clean
glyphs are read as well, and only a difference between the two counts against the picture.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

#: Pixels a character is scaled to before it is read: the recogniser works on lines 48 high.
HEIGHT = 48
#: Characters read at once: longer lines are squeezed by the recogniser.
TOGETHER = 8
#: White between characters, as a share of HEIGHT.
BETWEEN = 0.12


@cache
def _recogniser() -> Any:
    """One session a process; raises ModuleNotFoundError where the extra ``inscription`` is not installed."""
    from rapidocr import RapidOCR

    return RapidOCR(params={"Global.log_level": "critical", "Global.use_det": False, "Global.use_cls": False})


def version() -> str:
    """Name and version of the reader, as a certificate states it; the version stands for its weights."""
    from importlib.metadata import version as of

    return f"rapidocr {of('rapidocr')}"


def read(crops: Sequence[np.ndarray]) -> list[str]:
    """The character read in each crop [S, S] (0 ink, 255 paper), "" where none is."""
    answers: list[str] = []
    for first in range(0, len(crops), TOGETHER):
        part = crops[first : first + TOGETHER]
        answers += _aligned(_line(part), len(part), part)
    return answers


def _aligned(line: str, count: int, crops: Sequence[np.ndarray]) -> list[str]:
    """A line read in one go, as characters; each alone where their number does not tell which is which."""
    if len(line) == count:
        return list(line)
    if count == 1:
        return [line[:1]]
    return [_line([crop])[:1] for crop in crops]


def _line(crops: Sequence[np.ndarray]) -> str:
    from PIL import Image

    gap = round(HEIGHT * BETWEEN)
    strip = np.full((HEIGHT, len(crops) * (HEIGHT + gap) + gap), 255, np.uint8)
    for place, crop in enumerate(crops):
        left = gap + place * (HEIGHT + gap)
        cell = Image.fromarray(crop.astype(np.uint8)).resize((HEIGHT, HEIGHT), Image.Resampling.LANCZOS)
        strip[:, left : left + HEIGHT] = np.asarray(cell)
    answer = _recogniser()(np.repeat(strip[..., None], 3, -1), use_det=False, use_cls=False, use_rec=True)
    return "".join((answer.txts or ("",))[0].split())


def alike(one: str, other: str) -> bool:
    """Whether two characters are one to a reader: in form NFKC, and full width as half width."""
    return unicodedata.normalize("NFKC", one) == unicodedata.normalize("NFKC", other)


def find(picture: np.ndarray, text: str) -> list[tuple[int, int, int, int]] | None:
    """(left, top, right, bottom) of each character of ``text`` where a picture [H, W, 3] already shows it, or None.

    For text that a model has drawn itself. The line that is most like the text is taken, if half of it is there.
    """
    answer = _finder()(picture[..., ::-1], return_word_box=True, return_single_char_box=True)
    best, where = 0.5, None
    for line_read in answer.word_results or ():
        # Where nothing was found there is one line that is no list of words: ("", 1.0, None).
        words = [word for word in line_read if isinstance(word, (tuple, list)) and word[0]]
        line = "".join(str(word[0]) for word in words)
        share = difflib.SequenceMatcher(None, line, text).ratio()
        if share > best and len(words) == len(text):
            best = share
            where = [_bounds(word[2]) for word in words]
    return where


@cache
def _finder() -> Any:
    from rapidocr import RapidOCR

    return RapidOCR(params={"Global.log_level": "critical", "Global.use_cls": False})


def _bounds(corners: Sequence[Sequence[float]]) -> tuple[int, int, int, int]:
    points = np.asarray(corners, np.float32)
    left, top = np.floor(points.min(0)).astype(int)
    right, bottom = np.ceil(points.max(0)).astype(int)
    return int(left), int(top), int(right), int(bottom)
