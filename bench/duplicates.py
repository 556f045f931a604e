"""Recall on edited copies of real photos, and false positives among different photos.

Three ways on the same pictures in one run: equality of pHash, as data-juicer 1.6 and Daft 0.7 do it; pHash within 10
bits; and the step of this package, `Duplicates`. Each edit is put beside all originals, so that a copy counts as found
only where it is given to its own original. Unlike pairs are those among the originals that a way takes for copies; they
are printed, for a person to look at: some photos of a folder are copies indeed. With imagehash installed, equality is
of its hash, else of ours, which differs from that by less than a bit on average.

    python bench/duplicates.py FOLDER_OF_PHOTOS
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from bimo.core.errors import DataError
from bimo.curation.decoded_image import decode_image
from bimo.curation.dedup.duplicates import Duplicates


class Rows:
    """A table in memory with the interface of curation's tables."""

    def __init__(self, measured: Sequence[dict[str, Any]]) -> None:
        self.columns = {name: np.array([row[name] for row in measured]) for name in measured[0]}
        self.columns["sha256"] = np.array([hashlib.sha256(str(n).encode()).hexdigest() for n in range(len(measured))])
        self.numbers = np.arange(len(measured))

    def column(self, name: str) -> np.ndarray:
        if name not in self.columns:
            raise DataError("no {name}", name=name)
        return self.columns[name]

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        yield from np.array_split(self.column(name), 3)

    def captions(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        return iter(())


def saved(image: Image.Image, quality: int = 90) -> bytes:
    """The picture as a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def crop(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """Crops fractions of the sides."""
    width, height = image.size
    return image.crop(
        (round(left * width), round(top * height), round(width * (1 - right)), round(height * (1 - bottom)))
    )


def marked(image: Image.Image) -> Image.Image:
    """Draws a white box over a third of the lower edge."""
    width, height = image.size
    made = image.copy()
    ImageDraw.Draw(made).rectangle((0.62 * width, 0.86 * height, 0.97 * width, 0.96 * height), fill="white")
    return made


EDITS: dict[str, Callable[[Image.Image], bytes]] = {
    "resize 60 %, quality 60": lambda i: saved(i.resize((i.width * 6 // 10, i.height * 6 // 10)), 60),
    "brightness x1.15": lambda i: saved(ImageEnhance.Brightness(i).enhance(1.15)),
    "3 % cut off each side": lambda i: saved(crop(i, 0.03, 0.03, 0.03, 0.03)),
    "white watermark box": lambda i: saved(marked(i)),
    "8 % cut off each side": lambda i: saved(crop(i, 0.08, 0.08, 0.08, 0.08)),
    "12 % cut off each side": lambda i: saved(crop(i, 0.12, 0.12, 0.12, 0.12)),
    "8 % cut off the bottom": lambda i: saved(crop(i, 0, 0, 0, 0.08)),
    "8 % cut off two sides": lambda i: saved(crop(i, 0.08, 0.08, 0, 0)),
}


def near(hashes: np.ndarray, bits: int) -> list[tuple[int, int]]:
    """Pairs (first, second) of pHashes [N] that differ in at most so many bits."""
    unsigned = hashes.astype(np.uint64)
    rows = np.argwhere(np.bitwise_count(unsigned[:, None] ^ unsigned[None]) <= bits)
    return [(int(a), int(b)) for a, b in rows if a < b]


def found(rows: Rows) -> list[tuple[int, int]]:
    """(kept, dropped) pairs by the curation step."""
    changes = [change for change in Duplicates().select(rows) if change.verdict is not None]
    return sorted((int((change.labels or {})["copy_of"]), change.number) for change in changes)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    paths = sorted(parser.parse_args().folder.glob("*.jpg"))
    if not paths:
        sys.exit("no .jpg in that folder")
    try:
        import imagehash
    except ImportError:
        imagehash = None
    step = Duplicates()
    seconds: list[float] = []

    def measured(files: Sequence[bytes]) -> tuple[list[dict[str, Any]], np.ndarray]:
        rows: list[dict[str, Any]] = []
        for data in files:
            seen = decode_image(data)
            start = time.perf_counter()
            rows.append(dict(step.measure(seen)))
            seconds.append(time.perf_counter() - start)
            rows[-1] |= {"width": seen.size[0], "height": seen.size[1]}
        if imagehash is None:
            return rows, np.array([row["phash"] for row in rows])
        opened = (Image.open(io.BytesIO(data)).convert("RGB") for data in files)
        return rows, np.array([int(str(imagehash.phash(image)), 16) for image in opened], np.uint64)

    files = [path.read_bytes() for path in paths]
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in files]
    own, hashes = measured(files)
    count = len(images)
    ways: dict[str, Callable[[Sequence[dict[str, Any]], np.ndarray], list[tuple[int, int]]]] = {
        "equal pHash": lambda _, hashes: near(hashes, 0),
        "within 10 bits": lambda _, hashes: near(hashes, 10),
        "Duplicates": lambda rows, _: found(Rows(rows)),
    }
    print(
        f"{count} photos, {count * (count - 1) // 2:,} pairs; pHash of {'imagehash' if imagehash else 'this package'}"
    )
    print(f"{'edit':26}" + "".join(f"{name:>18}" for name in ways))
    for name, edit in EDITS.items():
        rows, edited = measured([edit(image) for image in images])
        line = f"{name:26}"
        for way in ways.values():
            # The edit of a photo that is a copy itself may be assigned to the original.
            pairs = way([*own, *rows], np.concatenate([hashes, edited]))
            stands = {a: a for a in range(2 * count)} | {b: a for a, b in reversed(pairs) if b < count}
            hit = {b for a, b in pairs if b >= count and stands[a] == stands[b - count]}
            line += f"{100 * len(hit) / count:17.1f}%"
        print(line)
    print(f"{'pairs of originals':26}" + "".join(f"{len(way(own, hashes)):>18}" for way in ways.values()))
    for name, way in ways.items():
        summary = ", ".join(f"{paths[a].name} {paths[b].name}" for a, b in way(own, hashes))
        print(f"  {name}: {summary}")
    print(f"measure: median {1000 * float(np.median(seconds)):.2f} ms a picture")


if __name__ == "__main__":
    main()
