"""Writes the reference pictures of single things, ``bimo/xiaomo/artwork/references.zip``, from the pinned packages.

    python tools/references.py THINGS [--packages FOLDER]

THINGS is a folder for packages and sprites, as of `bimo data artwork THINGS --edition 2`. The same packages give the
same bytes with the same version of Pillow.
"""

import argparse
import io
import zipfile
from pathlib import Path

from PIL import Image

from bimo.prompts.emoji import bare
from bimo.xiaomo.artwork.compositions import compositions, idioms
from bimo.xiaomo.artwork.editions import SECOND
from bimo.xiaomo.artwork.held_out import hexcode
from bimo.xiaomo.artwork.packages import obtain, package_named
from bimo.xiaomo.artwork.places import ACCESSORIES, ANIMAL_FACES, PLAIN_FACES
from bimo.xiaomo.artwork.references import ARCHIVE, DRAWN, NAME
from bimo.xiaomo.artwork.sprites import SOURCES, SpriteStore, draw_sprites, read_kinds
from bimo.xiaomo.captions.noun_phrases import kinds

FILE = Path(__file__).resolve().parent.parent / "bimo" / "xiaomo" / "artwork" / ARCHIVE
#: The long side in pixels: things of a picture of 256 pixels are seldom larger.
SIDE, QUALITY = 176, 45
LICENCES = "LICENSES.md"


def main() -> None:
    """Draws the sprites that are missing, and writes the archive."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("things", type=Path)
    parser.add_argument("--packages", type=Path)
    asked = parser.parse_args()
    paths = obtain(SECOND.packages, asked.things / ".packages", asked.packages)
    draw_sprites(paths, SECOND.packages, read_kinds(paths), asked.things / ".sprites", print, SECOND.side)
    store = SpriteStore(asked.things / ".sprites")
    wanted = sorted({*kinds().values(), *map(hexcode, _besides())})
    credits = [package_named(SOURCES[style].package, SECOND.packages) for style in DRAWN.values()]
    with zipfile.ZipFile(FILE, "w", zipfile.ZIP_STORED) as archive:
        table = [
            f"| {each.use} | {each.name} {each.version} | {each.licence} | {each.attribution} |" for each in credits
        ]
        text = "\n".join(["| | package | licence | attribution |", "|---|---|---|---|", *table]) + "\n"
        archive.writestr(zipfile.ZipInfo(LICENCES), text)
        for style in DRAWN.values():
            for kind in sorted(set(wanted) & store.kinds(style)):
                name = zipfile.ZipInfo(NAME.format(style=style, kind=kind))
                archive.writestr(name, _webp(store.sprite(kind, style).image))
    print(f"{FILE}: {FILE.stat().st_size / 1e6:.1f} MB")


def _besides() -> list[str]:
    """The emoji of what is composed, which no word need name."""
    composed = [emoji for one in compositions().values() for emoji in one.things]
    told = [emoji for one in idioms().values() for emoji, _ in one.things]
    return [*map(bare, composed), *map(bare, told), *ACCESSORIES, *ANIMAL_FACES, *PLAIN_FACES]


def _webp(sprite: Image.Image) -> bytes:
    content = sprite.crop(sprite.getchannel("A").getbbox())
    content.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    content.save(written, "WEBP", quality=QUALITY, alpha_quality=60, method=6)
    return written.getvalue()


if __name__ == "__main__":
    main()
