"""Finds pictures that must not be flipped: those with text, and those whose captions mention sides or people."""

# numpy's arrays are typed in part.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bimo.core.files import write_whole
from bimo.core.messages import say
from bimo.data.loader import Pictures
from bimo.training.logging import counted

#: Mentions of text, of sides, and of people, whose faces are not symmetric.
SPOKEN = re.compile(
    '[「」《》“”"]|文字|字样|写着|写有|书法|招牌|海报|标志|左|右|人|脸|肖像|她|他|女|男|孩'
    r"|\b(?:text|letters?|sign|logo|poster|words?|left|right|faces?|portraits?|people|person|wom[ae]n|m[ae]n|girls?|boys?"
    r"|child(?:ren)?)\b",
    re.IGNORECASE,
)
#: The least share of a picture that text must cover to count.
AREA = 0.002


def unvaried(pictures: Pictures, out: Path) -> npt.NDArray[np.bool_]:
    """[N] bool: the pictures that are not varied. Cached in ``out``/cache by the data's digest, and reported."""
    path = out / "cache" / f"unvaried-{pictures.digest[:24]}.npy"
    if path.is_file():
        return np.load(path)
    reads = find_spec("rapidocr") is not None
    title = say("looking for text, sides and people")
    flags = np.zeros(len(pictures), np.bool_)
    for row in counted(range(len(pictures)), title):
        if all(pictures.sizes[row]):
            flags[row] = bool(SPOKEN.search(" ".join(pictures.captions[row]))) or (reads and _has_text(pictures, row))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, _bytes(flags))
    where = say("in captions and pictures") if reads else say("in captions alone, as rapidocr is not installed")
    print(
        say(
            "{count} of {whole} pictures are not varied: text, sides or people were found {where}",
            count=int(flags.sum()),
            whole=len(pictures),
            where=where,
        )
    )
    return flags


def _has_text(pictures: Pictures, row: int) -> bool:
    from bimo.curation.filters.ocr import area, read

    return area(read(pictures.picture(row))) > AREA


def _bytes(values: npt.NDArray[np.bool_]) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()
