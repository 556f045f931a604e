"""Filters by the text in pictures, as rapidocr reads it: the area it covers, and watermarks.

PP-OCR's models are in the package's wheel (Apache-2.0). A picture is read with its longer side at 512 pixels, so that
all take the same time; letters less than about 8 pixels high are missed then. A detected box counts only where its text
could be read: round dishes and plates are detected as an "O", a 福 or a 中 as large as the picture.
"""

# rapidocr has no types; what crosses it here is named where it is kept.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bimo.curation.filters.image_rules import above, copy_of
from bimo.curation.filters.segmentation import is_han
from bimo.curation.steps import ModelStep, Pair, Scores, Tools, Verdict
from bimo.prompts.normalise import normal

if TYPE_CHECKING:
    from PIL import Image

#: Least confidence of a text that counts, from 0 to 1. On photos of dishes most false ones are below 0.65.
SURE = 0.8
#: The longer side, in pixels, at which text is detected, and that of the drawing by which its area is counted.
READ_SIDE = 512
AREA_SIDE = 256
#: Size of the cache of readings, so that two consecutive steps read a picture of a batch once.
HELD = 1024

#: Names of stock agencies and image hosts, URLs, and contact details of who published a picture.
_SITE = re.compile(
    "视觉中国|图虫|千图|包图|昵图|摄图|汇图|全景网?|花瓣|我图网|千库|站酷|堆糖|海洛创意|素材|水印|版权所有|盗图必究|禁止转载|样张|仅供预览|"
    r"shutterstock|istock|alamy|dreamstime|123rf|getty|depositphotos|adobestock|bigstock|pngtree|freepik|nipic|58pic|"
    r"vcg\.|photophoto|ooopic|sucai|watermark|sample image|(?:^|\W)(?:©|\(c\)|copyright)\W|"
    r"www\s?\.|https?:|\.(?:com|cn|net|org)(?![a-z])"
)
_CONTACT = re.compile(
    r"公众号|微信号?\s?:|微博|小红书|抖音号?|快手号?|qq\s?[::]?\s?\d{5,}|扫码|(?:^|\s)@\s?[\w一-鿿]{2,}|(?<!\d)1[3-9]\d{9}(?!\d)|"
    r"(?:电话|热线|tel)\W{0,3}\d{3}"
)
#: Weight of each sign of a watermark; they combine as 1 - (1 - a)(1 - b)...
SITE, CONTACT, REPEATED, TILTED = 0.9, 0.7, 0.7, 0.5
#: Least repetitions and least characters of a text that is a pattern over the picture.
REPEATED_TIMES, REPEATED_LENGTH = 3, 2
#: Degrees from the horizontal, (least, most), at which long text counts as laid across the picture.
TILT = (15.0, 75.0)


@dataclass(frozen=True)
class Reading:
    """The text in a picture: corners of each box [N, 4, 2] as shares of width and height, the N texts, and the
    picture's size (width, height).
    """

    boxes: np.ndarray
    texts: tuple[str, ...]
    size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class TextArea(ModelStep):
    """Keeps pictures of which text covers at most the share ``below``: posters, screenshots and slides are dropped.

    After the text filters of HunyuanDiT and Qwen-Image, whose thresholds are not published. A picture that
    ``Watermark`` has just read is not read again.
    """

    says: ClassVar[tuple[str, str]] = ("文字太多", "too much text")
    score: ClassVar[str] = "text_area"

    below: float = 0.2

    def measuring(self, tools: Tools) -> str:
        """See ``ModelStep``."""
        return f"TextArea/1 {_version()}"

    def open(self, tools: Tools) -> Callable[[Sequence[Pair]], list[Scores]]:
        """Measures ``text_area``, the share of the picture inside the boxes of text, from 0 to 1."""
        _reader()
        return lambda pairs: [{"text_area": area(read(pair.picture))} for pair in pairs]

    def judge(self, scores: Scores) -> Verdict | None:
        """A drop above ``below``."""
        return above(scores[self.score], self.below)


@dataclass(frozen=True, kw_only=True)
class Watermark(ModelStep):
    """Keeps pictures whose watermark score is at most ``below``.

    The score is neither a trained detector's nor a probability; it combines four rules over the text that is read: the
    name of a stock site or a URL (0.9), a telephone number, QQ or account (0.7), one text three times or more (0.7),
    long tilted text (0.5). Text too faint to be read is not found, and neither are logos. For a trained detector see
    ``classifiers.Classified``.
    """

    says: ClassVar[tuple[str, str]] = ("像有水印", "seems to bear a watermark")
    score: ClassVar[str] = "watermark"

    below: float = 0.6

    def measuring(self, tools: Tools) -> str:
        """See ``ModelStep``."""
        return f"Watermark/1 {_version()}"

    def open(self, tools: Tools) -> Callable[[Sequence[Pair]], list[Scores]]:
        """Measures ``watermark`` from 0 to 1, and gives the text that was read, its first 200 characters."""
        _reader()

        def measured(pairs: Sequence[Pair]) -> list[Scores]:
            readings = [read(pair.picture) for pair in pairs]
            return [{"watermark": signs(r), "text_read": " ".join(r.texts)[:200]} for r in readings]

        return measured

    def judge(self, scores: Scores) -> Verdict | None:
        """A drop above ``below``."""
        return above(scores[self.score], self.below)


def area(reading: Reading) -> float:
    """The share of a picture inside its boxes of text; overlaps count once."""
    from PIL import Image, ImageDraw

    canvas = Image.new("1", (AREA_SIDE, AREA_SIDE))
    pen = ImageDraw.Draw(canvas)
    for box in reading.boxes:
        # Corners lie between pixels; the last pixel inside is half a pixel before.
        pen.polygon([tuple(corner) for corner in (box * AREA_SIDE - 0.5).tolist()], fill=1)
    return round(float(np.asarray(canvas).mean()), 6)


def signs(reading: Reading) -> float:
    """The watermark score of a picture by its text, from 0 to 1."""
    texts = [normal(text) for text in reading.texts]
    rest = 1.0
    if any(map(_SITE.search, texts)):
        rest *= 1 - SITE
    if any(map(_CONTACT.search, texts)):
        rest *= 1 - CONTACT
    often = Counter(text for text in texts if len(text) >= REPEATED_LENGTH and not text.isdigit())
    if max(often.values(), default=0) >= REPEATED_TIMES:
        rest *= 1 - REPEATED
    if any(_tilted(box * reading.size) for box in reading.boxes):
        rest *= 1 - TILTED
    return round(1 - rest, 6)


def _tilted(box: np.ndarray) -> bool:
    """Whether a box [4, 2], in pixels, is long tilted text."""
    sides = np.roll(box, -1, axis=0)[:2] - box[:2]
    lengths = np.hypot(sides[:, 0], sides[:, 1])
    long = sides[int(lengths.argmax())]
    if lengths.max() < 3 * max(lengths.min(), 1.0):
        return False
    angle = abs(np.degrees(np.arctan2(long[1], long[0])))
    return TILT[0] <= min(angle, 180 - angle) <= TILT[1]


def accuracy(text: str, reading: Reading) -> float | None:
    """The share of the wanted characters that are read: 1 - min(ED, n) / n, with the edit distance ED to the text that
    is read and n wanted characters; None where none is wanted.

    Width, case and script are folded (`bimo.prompts.normalise`); only letters, digits and Chinese characters count.
    Lines are ordered from top to bottom or, as columns in old books, from right to left, whichever is nearer.
    """
    expected = _letters(text)
    if not expected:
        return None
    middles = reading.boxes.mean(axis=1) if len(reading.texts) else np.zeros((0, 2))
    columns = [reading.texts[place] for place in np.argsort(-middles[:, 0], kind="stable")]
    distance = min(edit_distance(expected, _letters("".join(lines))) for lines in (reading.texts, columns))
    return 1 - min(distance, len(expected)) / len(expected)


def _letters(text: str) -> str:
    return "".join(character for character in normal(text) if character.isalnum())


def edit_distance(first: str, second: str) -> int:
    """The Levenshtein distance of two texts: insertions, deletions and substitutions."""
    row = list(range(len(second) + 1))
    for place, character in enumerate(first, 1):
        before, row[0] = row[0], place
        for at, other in enumerate(second, 1):
            before, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, before + (character != other))
    return row[-1]


def read(picture: Image.Image, sure: float = SURE, single: bool = False) -> Reading:
    """The texts in a picture that are read with a confidence of at least ``sure``. Of single characters only Chinese
    ones count, or all with ``single``.
    """
    copy = copy_of(picture, READ_SIDE, "RGB") if max(picture.size) > READ_SIDE else picture
    pixels = np.asarray(copy)
    key = blake2b(pixels.tobytes(), digest_size=16, key=repr((copy.size, sure, single)).encode()).digest()
    cached = _held.get(key)
    if cached is not None:
        _held.move_to_end(key)
        return cached
    # The library takes BGR arrays, as OpenCV does.
    result: Any = _reader()(np.ascontiguousarray(pixels[:, :, ::-1]), use_det=True, use_cls=False, use_rec=True)
    rows = (
        []
        if result.boxes is None or result.txts is None
        else zip(result.boxes, result.txts, result.scores, strict=True)
    )
    certain = [
        (box, str(text)) for box, text, score in rows if score >= sure and (single or len(text) > 1 or is_han(text))
    ]
    boxes = np.asarray([box for box, _ in certain], np.float64).reshape(-1, 4, 2)
    reading = Reading(boxes / copy.size, tuple(text for _, text in certain), copy.size)
    _held[key] = reading
    if len(_held) > HELD:
        _held.popitem(last=False)
    return reading


#: The last readings of this process, by picture.
_held: OrderedDict[bytes, Reading] = OrderedDict()


@cache
def _reader() -> Any:
    """One session a process, on one thread, since there are as many processes as cores."""
    from rapidocr import RapidOCR

    threads = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
    size = {"Det.limit_type": "max", "Det.limit_side_len": READ_SIDE}
    return RapidOCR(params={"Global.log_level": "critical", "Global.use_cls": False, **size, **threads})


def _version() -> str:
    """The package version stands for the weights, which are in its wheel."""
    from importlib.metadata import version

    return f"rapidocr {version('rapidocr')} {READ_SIDE}"
