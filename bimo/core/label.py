"""The label that China's law asks of generated pictures: GB 45438-2025 and the Measures for Labelling, in force since
2025-09-01.

Implicit (GB 45438-2025, section 5): in the file's metadata a field ``AIGC`` whose value is JSON with who made it.
TC260's practice guide writes it for pictures as XMP, a property ``AIGC`` of its own namespace.
Explicit (section 4): text that has "AI" or 人工智能 and 生成 or 合成 at an edge or corner, not lower than 5 % of the
shortest side. The strokes of "AI生成" are drawn here, so that no font is needed and the label can be found again.
"""

from __future__ import annotations

import html
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bimo.core.errors import RequestError

if TYPE_CHECKING:
    from PIL import Image

NAMESPACE = "http://www.tc260.org.cn/ns/AIGC/1.0/"
#: Under what Pillow keeps the XMP of a PNG, which is also the name of its chunk.
PNG_CHUNK = "XML:com.adobe.xmp"
FIELDS = ("Label", "ContentProducer", "ProduceID", "ReservedCode1", "ContentPropagator", "PropagateID", "ReservedCode2")
#: The height of the explicit label, of the shorter side: the law's 5 %, and the rounding of pixels.
SHARE = 0.06
LEAST_PIXELS = 12
#: How much the place of the label is like the label itself where it is found: a correlation.
ALIKE = 0.7
#: Strokes of the four characters on a square of 100, each a line through points; 生 and 成 by their order of strokes.
_STROKES: tuple[tuple[tuple[tuple[int, int], ...], ...], ...] = (
    (((8, 92), (50, 8), (92, 92)), ((24, 62), (76, 62))),
    (((50, 8), (50, 92)), ((26, 8), (74, 8)), ((26, 92), (74, 92))),
    (
        ((30, 8), (22, 30), (8, 46)),
        ((22, 28), (84, 28)),
        ((18, 58), (82, 58)),
        ((50, 6), (50, 92)),
        ((6, 92), (94, 92)),
    ),
    (
        ((20, 26), (88, 26)),
        ((20, 26), (18, 66), (6, 94)),
        ((20, 48), (46, 48), (44, 78), (34, 74)),
        ((54, 6), (60, 44), (74, 78), (92, 92), (94, 72)),
        ((86, 44), (72, 68), (50, 92)),
        ((70, 8), (82, 18)),
    ),
)
_WIDTHS = (0.8, 0.55, 1.0, 1.0)


@dataclass(frozen=True)
class Label:
    """Who made a picture: ``producer`` is the name or code of the provider. ``kind`` "1" is made by AI, "2" possibly,
    "3" suspected.
    """

    producer: str
    kind: str = "1"

    def __post_init__(self) -> None:
        if not self.producer.strip() or len(self.producer) > 200 or not self.producer.isprintable():
            raise RequestError("the producer of a label is {producer!r}; write a name", producer=self.producer)

    def fields(self, produce_id: str) -> dict[str, str]:
        """What the metadata say, by the standard's names."""
        own = {"Label": self.kind, "ContentProducer": self.producer, "ProduceID": produce_id}
        return dict.fromkeys(FIELDS, "") | own

    def xmp(self, produce_id: str) -> str:
        """The XMP packet of a picture."""
        value = html.escape(json.dumps(self.fields(produce_id), ensure_ascii=False), quote=False)
        return (
            '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
            '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
            f'xmlns:TC260="{NAMESPACE}"><TC260:AIGC>{value}</TC260:AIGC></rdf:Description></rdf:RDF></x:xmpmeta>'
            '<?xpacket end="w"?>'
        )


def label_of(law: str | None, producer: str | None) -> Label | None:
    """The label of ``--label CN --producer NAME``, None where neither is given. Raises RequestError for one of them
    alone, and for a law that is not known.
    """
    if law is None and producer is None:
        return None
    if law is None or producer is None:
        raise RequestError("a label needs both: --label CN --producer NAME")
    if law.upper() != "CN":
        raise RequestError("there is no label {law!r}; there is CN, that of GB 45438-2025", law=law)
    return Label(producer)


def marked(image: Image.Image) -> Image.Image:
    """The picture with "AI生成" in its lower right corner, white on dark; elsewhere as transparent as it was."""
    clear = image.has_transparency_data
    made = image.convert("RGBA" if clear else "RGB")
    plate, (left, top) = _plate(image.size)
    made.paste((20, 20, 20), (left, top, left + plate.width, top + plate.height))
    made.paste((255, 255, 255), (left, top), plate)
    return made


def is_marked(image: Image.Image) -> bool:
    """Whether the corner of a picture has the label, also after it was saved as JPEG."""
    import numpy as np

    if min(image.size) < 2 * LEAST_PIXELS:
        return False
    plate, (left, top) = _plate(image.size)
    place = image.convert("L").crop((left, top, left + plate.width, top + plate.height))
    expected, found = np.asarray(plate, float).ravel(), np.asarray(place, float).ravel()
    if not found.std() or not expected.std():
        return False
    return float(np.corrcoef(expected, found)[0, 1]) > ALIKE


def _plate(size: tuple[int, int]) -> tuple[Image.Image, tuple[int, int]]:
    """The label in white on black for a picture of (width, height), and where it lies."""
    from PIL import Image, ImageDraw

    side = max(LEAST_PIXELS, math.ceil(min(size) * SHARE))
    scale, gap = 4, 0.16
    widths = [side * width for width in _WIDTHS]
    total = math.ceil(sum(widths) + side * gap * (len(widths) + 1))
    height = math.ceil(side * (1 + 2 * gap))
    canvas = Image.new("L", (total * scale, height * scale))
    pen = ImageDraw.Draw(canvas)
    at = side * gap
    for strokes, width in zip(_STROKES, widths, strict=True):
        for line in strokes:
            points = [((at + x / 100 * width) * scale, (side * gap + y / 100 * side) * scale) for x, y in line]
            pen.line(points, fill=255, width=max(scale, round(side * scale * 0.1)), joint="curve")
        at += width + side * gap
    plate = canvas.resize((min(total, size[0]), min(height, size[1])), Image.Resampling.LANCZOS)
    return plate, (size[0] - plate.width, size[1] - plate.height)


def read_label(image: Image.Image) -> dict[str, str] | None:
    """The implicit label of an opened picture, None where it has none. What is said is not to be trusted: it may have
    been written by anybody.
    """
    packet: Any = image.info.get("xmp") or image.info.get(PNG_CHUNK)
    text = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else packet
    if not isinstance(text, str) or NAMESPACE not in text or len(text) > 1 << 20:
        return None
    # Searched and not parsed: a packet may define entities that unpack to gigabytes.
    prefix = re.search(rf'xmlns:(\w+)\s*=\s*["\']{re.escape(NAMESPACE)}["\']', text)
    name = "TC260" if prefix is None else prefix[1]
    found = re.search(rf"<{name}:AIGC[^>]*>(.*?)</{name}:AIGC>", text, re.DOTALL) or re.search(
        rf"\b{name}:AIGC\s*=\s*(?:\"([^\"]*)\"|'([^']*)')", text
    )
    if found is None:
        return None
    try:
        value = json.loads(html.unescape(next(group for group in found.groups() if group is not None)))
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, Mapping):
        return None
    return {str(key): str(each) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def labelled(content: bytes, label: Label, produce_id: str, *, visible: bool = True) -> bytes:
    """A PNG, JPEG or WebP file with both labels, or with the implicit one alone; texts of a PNG stay. Raises
    RequestError for another format.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    with Image.open(io.BytesIO(content)) as image:
        kind = image.format or ""
        if kind not in ("PNG", "JPEG", "WEBP"):
            raise RequestError("{kind} carries no label; write PNG, JPEG or WebP", kind=kind)
        made = marked(image) if visible else image.copy()
        buffer = io.BytesIO()
        if kind == "PNG":
            info = PngInfo()
            for name, text in image.info.items():
                if isinstance(text, str) and name not in (PNG_CHUNK, "xmp"):
                    info.add_itxt(str(name), text)
            info.add_itxt(PNG_CHUNK, label.xmp(produce_id))
            made.save(buffer, "PNG", pnginfo=info)
        else:
            settings: dict[str, Any] = {"quality": 95} if visible else {}
            made.save(buffer, kind, xmp=label.xmp(produce_id).encode(), **settings)
        return buffer.getvalue()
