"""Where each character stands: lines in five ways of writing, fitted to a box; and where a picture has calm room.

Horizontal text runs left to right, vertical text top to bottom with its lines from right to left, as in books and on
scrolls. Couplets (对联) are two vertical lines, the first on the right edge. A seal is read in columns from the right.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from bimo.core.errors import RequestError

if TYPE_CHECKING:
    from PIL import Image

#: Pixels a character: fewer cannot be told apart by eye or reader; more than so many is a poster's headline.
SMALLEST_CELL = 28
#: More characters than this are a page, not an inscription.
MOST_CHARACTERS = 600
#: A cell's share that the glyph fills; the rest is the space between characters.
GLYPH_SHARE = 0.9
#: The space between lines, in cells.
LEADING = 0.25
#: The share of a picture's shorter side that is left free along its edges.
MARGIN = 0.04
#: Lines stay whole where that makes the characters no smaller than this share of what breaking them would.
UNBROKEN = 0.6
#: Ground is calm where light changes less than this share of what it does in the whole picture.
CALM = 0.3
#: Characters that close a clause: a line of verse breaks after them and does not show them in vertical writing.
BREAKS = frozenset("，。！？；：、,.!?;:\n")
#: Marks that a vertical line writes in their upright forms (Unicode, "Vertical Forms" and "CJK Compatibility Forms").
VERTICAL_FORMS = str.maketrans("「」『』（）《》〈〉【】—…", "﹁﹂﹃﹄︵︶︽︾︿﹀︻︼︱︙")


class Writing(StrEnum):
    """The way the characters run."""

    HORIZONTAL = "horizontal"
    VERTICAL = "vertical"
    COUPLET = "couplet"
    SEAL = "seal"


@dataclass(frozen=True)
class Cell:
    """One character and the square it stands in: left, top and side, in pixels."""

    character: str
    left: int
    top: int
    side: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom), as Pillow takes it."""
        return self.left, self.top, self.left + self.side, self.top + self.side


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: int
    top: int
    width: int
    height: int


def characters_of(text: str) -> str:
    """The characters that are to be set, in NFC; spaces and line ends are where they stand, not characters."""
    return "".join(character for character in unicodedata.normalize("NFC", text) if not character.isspace())


def check_text(text: str) -> str:
    """The text in NFC. Raises RequestError for text that is empty, of controls, surrogates or emoji."""
    text = unicodedata.normalize("NFC", text).strip()
    if not characters_of(text):
        raise RequestError("the text to inscribe is empty; write the characters, for instance --inscribe 福")
    if (count := len(characters_of(text))) > MOST_CHARACTERS:
        raise RequestError(
            "the text to inscribe has {count} characters; at most {most} are inscribed",
            count=count,
            most=MOST_CHARACTERS,
        )
    for place, character in enumerate(text):
        kind = unicodedata.category(character)
        if kind in ("Cs", "Cc", "Cf", "Co", "Cn") and character != "\n":
            raise RequestError(
                "character {place} of the text to inscribe is U+{code:04X}, which no font writes; leave it out",
                place=place + 1,
                code=ord(character),
            )
    return text


def lines_of(text: str, writing: Writing) -> list[str]:
    """The lines as the text itself has them: by its line ends, and for verse and couplets by its clauses."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if writing is Writing.COUPLET and len(lines) == 1:
        clauses = _clauses(lines[0])
        if len(clauses) != 2 and len(characters_of(lines[0])) % 2 == 0 and len(clauses) == 1:
            half = len(lines[0]) // 2
            clauses = [lines[0][:half], lines[0][half:]]
        lines = clauses
    elif writing is Writing.VERTICAL and len(lines) == 1 and len(clauses := _clauses(lines[0])) > 1:
        lines = clauses
    if writing is Writing.COUPLET and len(lines) != 2:
        raise RequestError(
            "a couplet has two lines, and {text!r} has {count}; write them with a comma or a line end between",
            text=text,
            count=len(lines),
        )
    return ["".join(line.split()) if writing is not Writing.HORIZONTAL else line for line in lines]


def _clauses(line: str) -> list[str]:
    clauses, clause = [], ""
    for character in line:
        if character in BREAKS:
            clauses.append(clause)
            clause = ""
        else:
            clause += character
    return [clause.strip() for clause in (*clauses, clause) if clause.strip()]


def fit(text: str, box: Box, writing: Writing, largest: int | None = None) -> tuple[Cell, ...]:
    """The cells of a text in a box, as large as it takes them.

    Raises RequestError where they would be smaller than SMALLEST_CELL, and says how many fit.
    """
    lines = lines_of(text, writing)
    if writing is Writing.COUPLET:
        return _couplet(lines, box, largest)
    if writing is Writing.SEAL:
        return _seal("".join(lines), box, largest)
    across, along = (box.height, box.width) if writing is Writing.HORIZONTAL else (box.width, box.height)
    most = min(along, across) if largest is None else min(along, across, largest)
    if sum(map(len, lines)) > (along // SMALLEST_CELL) * (across // SMALLEST_CELL):
        raise _too_long(text, box)
    whole = min(most, along // max(map(len, lines)), int(across / (len(lines) + LEADING * (len(lines) - 1))))
    for side in range(most, SMALLEST_CELL - 1, -1):
        if whole >= max(SMALLEST_CELL, UNBROKEN * side):
            return _placed(lines, box, writing, whole)
        broken = [part for line in lines for part in _broken(line, along // side)]
        if round(side * (len(broken) + LEADING * (len(broken) - 1))) <= across:
            return _placed(broken, box, writing, side)
    raise _too_long(text, box)


def _broken(line: str, most: int) -> list[str]:
    """A line in parts of at most ``most`` cells, of lengths as even as can be; no part begins with a closing mark."""
    if len(line) <= most:
        return [line]
    if most < 2:
        return list(line)
    count = math.ceil(len(line) / most)
    length = math.ceil(len(line) / count)
    parts: list[str] = []
    while line:
        cut = length
        while 1 < cut < len(line) and line[cut] in BREAKS and cut < most:
            cut += 1
        parts.append(line[:cut])
        line = line[cut:].lstrip()
    return parts


def _placed(lines: Sequence[str], box: Box, writing: Writing, side: int) -> tuple[Cell, ...]:
    step = side * (1 + LEADING)
    thickness = round(side + step * (len(lines) - 1))
    longest = max(map(len, lines)) * side
    cells: list[Cell] = []
    for row, line in enumerate(lines):
        for place, character in enumerate(line):
            if character.isspace():
                continue
            if writing is Writing.HORIZONTAL:
                left = box.left + (box.width - longest) // 2 + place * side
                top = box.top + (box.height - thickness) // 2 + round(row * step)
            else:
                left = box.left + (box.width + thickness) // 2 - side - round(row * step)
                top = box.top + (box.height - longest) // 2 + place * side
                character = character.translate(VERTICAL_FORMS)
            cells.append(Cell(character, left, top, side))
    return tuple(cells)


def _couplet(lines: Sequence[str], box: Box, largest: int | None) -> tuple[Cell, ...]:
    longest = max(map(len, lines))
    side = min(box.height // longest, box.width // 3, largest or box.height)
    if side < SMALLEST_CELL:
        raise _too_long("".join(lines), box)
    top = box.top + (box.height - longest * side) // 2
    lefts = (box.left + box.width - side, box.left)
    return tuple(
        Cell(character.translate(VERTICAL_FORMS), left, top + place * side, side)
        for left, line in zip(lefts, lines, strict=True)
        for place, character in enumerate(line)
    )


def _seal(text: str, box: Box, largest: int | None) -> tuple[Cell, ...]:
    columns = math.ceil(math.sqrt(len(text)))
    rows = math.ceil(len(text) / columns)
    side = min(box.width // columns, box.height // rows, largest or box.height)
    if side < SMALLEST_CELL:
        raise _too_long(text, box)
    right = box.left + (box.width + columns * side) // 2
    top = box.top + (box.height - rows * side) // 2
    return tuple(
        Cell(character, right - (place // rows + 1) * side, top + place % rows * side, side)
        for place, character in enumerate(text)
    )


def _too_long(text: str, box: Box) -> RequestError:
    fits = (box.width // SMALLEST_CELL) * int(box.height // (SMALLEST_CELL * (1 + LEADING)))
    return RequestError(
        "{count} characters do not fit into {width}x{height} pixels, where some {fits} of {side} pixels do; "
        "shorten the text, draw larger (--size) or give it more room (--inscribe-box)",
        count=len(characters_of(text)),
        width=box.width,
        height=box.height,
        fits=fits,
        side=SMALLEST_CELL,
    )


def needed_side(text: str, writing: Writing) -> int:
    """The side in pixels of the smallest square picture that has room for the text at twice SMALLEST_CELL or so."""
    count = len(characters_of(text))
    cell = SMALLEST_CELL * 2 if count <= 40 else round(SMALLEST_CELL * 1.4)
    if writing in (Writing.VERTICAL, Writing.COUPLET):
        longest = max(map(len, lines_of(text, writing)))
        return math.ceil(min(longest, count) * cell / (1 - 2 * MARGIN))
    return math.ceil(math.sqrt(count * (1 + LEADING)) * cell / (1 - 2 * MARGIN) / math.sqrt(0.6))


def inside(size: tuple[int, int]) -> Box:
    """A picture's area without its margin."""
    margin = round(min(size) * MARGIN)
    return Box(margin, margin, size[0] - 2 * margin, size[1] - 2 * margin)


def calm_cells(picture: Image.Image, text: str, writing: Writing, occupied: Sequence[Cell] = ()) -> tuple[Cell, ...]:
    """The cells of a text where the picture is calmest: least change of light below them, a little for the edges, and
    not where other text stands (``occupied``).

    The largest characters are taken whose ground is calm; where none is, the calmest ground that there is.
    """
    whole = inside(picture.size)
    if writing is Writing.COUPLET:
        return fit(text, whole, writing, largest=max(SMALLEST_CELL, picture.height // 8))
    light = np.asarray(picture.convert("L"), np.float32) / 255
    busy = np.hypot(ndimage.sobel(light, 0), ndimage.sobel(light, 1))
    for cell in occupied:
        left, top, right, bottom = cell.box
        busy[max(0, top) : bottom, max(0, left) : right] = 8.0
    summed = np.zeros((busy.shape[0] + 1, busy.shape[1] + 1))
    summed[1:, 1:] = busy.cumsum(0).cumsum(1)
    calm = CALM * busy_scale(summed)
    trials: list[tuple[float, tuple[Cell, ...]]] = []
    for largest in _sizes(text, picture.size):
        for share in (0.25, 0.4, 0.6, 1.0):
            for box in _shapes(whole, share, writing):
                try:
                    cells = fit(text, box, writing, largest)
                except RequestError:
                    continue
                place, below = _calmest(cells, whole, summed)
                trials.append((below, _moved(cells, place)))
                if below <= calm:
                    return trials[-1][1]
    if not trials:
        return fit(text, whole, writing)
    return min(trials, key=lambda trial: trial[0])[1]


def _sizes(text: str, size: tuple[int, int]) -> Iterator[int]:
    """Sides of a character to try, largest first: a word is a headline, a poem is not."""
    count = len(characters_of(text))
    side = min(size) / (2.5 if count == 1 else 4 if count <= 4 else 7)
    while side > SMALLEST_CELL:
        yield round(side)
        side *= 0.8
    yield SMALLEST_CELL


def _shapes(whole: Box, share: float, writing: Writing) -> tuple[Box, ...]:
    """Boxes of that share of the area in which the text is first tried: along its own direction, then squarer."""
    across = Box(whole.left, whole.top, whole.width, round(whole.height * share))
    along = Box(whole.left, whole.top, round(whole.width * share), whole.height)
    side = math.sqrt(share)
    square = Box(whole.left, whole.top, round(whole.width * side), round(whole.height * side))
    if writing is Writing.HORIZONTAL:
        return across, square
    return (along, square) if writing is Writing.VERTICAL else (square,)


def _calmest(cells: Sequence[Cell], whole: Box, summed: np.ndarray) -> tuple[tuple[int, int], float]:
    """(left, top) of the place for these cells with the least busyness below, and the mean of it there."""
    left, top, right, bottom = bounds(cells)
    width, height = right - left, bottom - top
    lefts = range(whole.left, max(whole.left, whole.left + whole.width - width) + 1, 4)
    tops = range(whole.top, max(whole.top, whole.top + whole.height - height) + 1, 4)
    x, y = np.asarray(lefts), np.asarray(tops)[:, None]
    # A little of the ground around the text counts: strokes at its edge would touch what stands there.
    by = max(2, cells[0].side // 8)
    low, high = np.maximum(y - by, 0), np.minimum(y + height + by, summed.shape[0] - 1)
    near, far = np.maximum(x - by, 0), np.minimum(x + width + by, summed.shape[1] - 1)
    below = (summed[high, far] - summed[low, far] - summed[high, near] + summed[low, near]) / (width * height)
    # Of places alike the upper right one: where an inscription stands in a Chinese painting.
    pull = (y - whole.top) / max(1, whole.height) + (whole.left + whole.width - x) / whole.width
    best = np.unravel_index(int(np.argmin(below + 0.02 * pull * busy_scale(summed))), below.shape)
    return (int(lefts[int(best[1])]), int(tops[int(best[0])])), float(below[best])


def busy_scale(summed: np.ndarray) -> float:
    """The mean change of light of the whole picture, so that the pull to a corner weighs the same in any."""
    return float(summed[-1, -1]) / max(1, (summed.shape[0] - 1) * (summed.shape[1] - 1))


def bounds(cells: Sequence[Cell]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) around the cells."""
    return (
        min(cell.left for cell in cells),
        min(cell.top for cell in cells),
        max(cell.left + cell.side for cell in cells),
        max(cell.top + cell.side for cell in cells),
    )


def _moved(cells: Sequence[Cell], to: tuple[int, int]) -> tuple[Cell, ...]:
    left, top, _, _ = bounds(cells)
    return tuple(Cell(cell.character, cell.left - left + to[0], cell.top - top + to[1], cell.side) for cell in cells)
