"""Writes the reference pictures of single things, ``bimo/xiaomo/artwork/references.zip``, and their names, from the
pinned packages.

    python tools/references.py CACHE [--packages FOLDER]

CACHE is a folder for packages. Left out are pairs of a kind and a style that are held out of training, and the line
drawings, which are glyphs of a font: those are redrawn from others. The same packages give the same bytes with the same
version of Pillow.
"""

import argparse
import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from PIL import Image

from bimo.xiaomo.artwork.drawings import Drawing, written
from bimo.xiaomo.artwork.editions import SECOND
from bimo.xiaomo.artwork.held_out import held_out
from bimo.xiaomo.artwork.lexicon import DEFAULT_STYLE
from bimo.xiaomo.artwork.packages import obtain, package_named
from bimo.xiaomo.artwork.references import ARCHIVE, NAME, TABLE
from bimo.xiaomo.artwork.sprites import SOURCES, draw_style, read_icons, read_kinds
from bimo.xiaomo.artwork.words_table import assign_words, names_of

ARTWORK = Path(__file__).resolve().parent.parent / "bimo" / "xiaomo" / "artwork"
#: The long side in pixels and the quality of a common kind, as things of a picture of 256 pixels are seldom larger, and
#: of one that has a name alone.
COMMON, OTHER = (176, 45), (112, 35)
LICENCES, NAMES = "LICENSES.md", "names.tsv"


def main() -> None:
    """Reads the packages and writes the archive and the names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--packages", type=Path)
    asked = parser.parse_args()
    paths = obtain(SECOND.packages, asked.cache, asked.packages)
    every = read_kinds(paths)
    icons = {style: source for style, source in SOURCES.items() if source.reader == "iconify"}
    drawings = {
        style: read_icons(paths[source.package], paths[source.names or source.package], every)
        for style, source in icons.items()
    }
    sprites = {style: draw_style(style, paths, every, SECOND.side) for style in SOURCES if style not in icons}
    solid = sprites[DEFAULT_STYLE]
    there: Mapping[str, Mapping[str, object]] = {**sprites, **drawings}
    styled = [replace(kind, styles=tuple(s for s, found in there.items() if kind.hexcode in found)) for kind in every]
    kinds = assign_words([kind for kind in styled if kind.styles])
    with zipfile.ZipFile(ARTWORK / ARCHIVE, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(LICENCES), _licences())
        for kind in sorted(kinds, key=lambda kind: kind.hexcode):
            if kind.hexcode in solid and not held_out(kind, DEFAULT_STYLE):
                content = _webp(solid[kind.hexcode], *(COMMON if kind.aliases_zh else OTHER))
                archive.writestr(zipfile.ZipInfo(NAME.format(kind=kind.hexcode)), content)
        for style, found in drawings.items():
            kept = {
                kind.hexcode: _rounded(found[kind.hexcode])
                for kind in kinds
                if kind.hexcode in found and not held_out(kind, style)
            }
            table = zipfile.ZipInfo(TABLE.format(style=style))
            archive.writestr(table, written(kept), zipfile.ZIP_LZMA)
            print(f"{style}: {len(kept)}, {archive.getinfo(table.filename).compress_size / 1e3:.0f} kB")
    print(f"{ARCHIVE}: {(ARTWORK / ARCHIVE).stat().st_size / 1e6:.1f} MB")
    (ARTWORK / NAMES).write_text(names_of(kinds), "utf-8")


_PATH = re.compile(r' d="([^"]*)"')
_SEGMENT = re.compile(r"([a-zA-Z])([^a-zA-Z]*)")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)")


def _rounded(icon: Drawing) -> Drawing:
    """A drawing whose coordinates have no more digits than are seen; arcs, whose flags may touch, stay as they are."""
    digits = 2 if icon.box[2] <= 64 else 1 if icon.box[2] <= 128 else 0

    def path(found: re.Match[str]) -> str:
        if re.search(r"\de-", found[1]):
            return found[0]
        segments = (c + (rest if c in "aA" else _numbers(rest, digits)) for c, rest in _SEGMENT.findall(found[1]))
        return f' d="{"".join(segments)}"'

    return replace(icon, body=_PATH.sub(path, icon.body))


def _numbers(text: str, digits: int) -> str:
    numbers = (f"{float(number):.{digits}f}" for number in _NUMBER.findall(text))
    short = (number.rstrip("0").rstrip(".") if "." in number else number for number in numbers)
    return " ".join(re.sub(r"^(-?)0(?=\.)|^-(?=0$)", r"\1", number) for number in short).replace(" -", "-")


def _licences() -> str:
    kept = [source for source in SOURCES.values() if source.reader != "font"]
    credits = [package_named(source.package, SECOND.packages) for source in kept]
    rows = [f"| {each.use} | {each.name} {each.version} | {each.licence} | {each.attribution} |" for each in credits]
    return "\n".join(["| | package | licence | attribution |", "|---|---|---|---|", *rows]) + "\n"


def _webp(sprite: Image.Image, side: int, quality: int) -> bytes:
    content = sprite.crop(sprite.getchannel("A").getbbox())
    content.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    content.save(stream, "WEBP", quality=quality, alpha_quality=60, method=6)
    return stream.getvalue()


if __name__ == "__main__":
    main()
