"""A data folder of six kinds, drawn with Pillow, for the tests of the evaluation."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from bimo.data.shards import write_index, write_shard
from bimo.xiaomo.artwork.canvas import Labels
from bimo.xiaomo.artwork.compose import on_colour, recolour
from bimo.xiaomo.artwork.held_out import held_out_list, hexcode
from bimo.xiaomo.artwork.lexicon import COLOURS, DRAWN
from bimo.xiaomo.artwork.sprites import Kind, sprite_name

THINGS = {
    "🍎": ("苹果", "apple", "food-drink", 42, (220, 30, 30)),
    "🐈": ("猫", "cat", "animals-nature", 30, (240, 160, 40)),
    "🐕": ("狗", "dog", "animals-nature", 30, (150, 90, 50)),
    "⭐": ("星星", "star", "travel-places", 56, (250, 200, 20)),
    "🌙": ("月亮", "moon", "travel-places", 56, (240, 220, 90)),
    "🏠": ("房子", "house", "travel-places", 52, (60, 90, 220)),
}


def sprite(number: int, style: int, colour: tuple[int, int, int]) -> Image.Image:
    """RGBA 128 x 128: a polygon of ``number + 3`` corners with a band that tells the style."""
    image = Image.new("RGBA", (128, 128))
    pen = ImageDraw.Draw(image)
    pen.regular_polygon((64, 64, 50), number + 3, fill=(*colour, 255))
    pen.rectangle((50, 50 + style * 4, 78, 54 + style * 4), fill=(20, 20, 20, 255))
    return image


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def build(folder: Path) -> Path:
    """Writes kinds, sprites, words, held-out lists and one shard; gives the folder."""
    kinds = [
        Kind(
            hexcode(emoji), emoji, group, subgroup, zh, zh, en, aliases_zh=(zh,), aliases_en=(en,), zh_words=(zh,),
            en_words=(en,), classifier="个", styles=DRAWN,
        )
        for emoji, (zh, en, group, subgroup, _) in THINGS.items()
    ]  # fmt: skip
    (folder / ".sprites").mkdir(parents=True)
    images: dict[tuple[str, str], Image.Image] = {}
    for style_number, style in enumerate(DRAWN):
        with zipfile.ZipFile(folder / ".sprites" / f"{style}.zip", "w") as archive:
            for number, (kind, thing) in enumerate(zip(kinds, THINGS.values(), strict=True)):
                images[kind.hexcode, style] = sprite(number, style_number, thing[4])
                archive.writestr(sprite_name(kind.hexcode, style), png(images[kind.hexcode, style]))
    (folder / "kinds.json").write_text(json.dumps([asdict(kind) for kind in kinds], ensure_ascii=False))
    withheld = dict(held_out_list(kinds))
    withheld["styles"] = withheld["styles"] or [[kinds[0].hexcode, "line"], [kinds[1].hexcode, "ink"]]
    (folder / "held_out.json").write_text(json.dumps(withheld))
    (folder / "words.txt").write_text("\n".join(word for thing in THINGS.values() for word in thing[:2]))
    samples = []
    for number, kind in enumerate(kinds):
        rest = on_colour(images[kind.hexcode, "3d"])
        blue = on_colour(recolour(images[kind.hexcode, "3d"], COLOURS["blue"]))
        for type_, image, labels in (
            ("single", rest, Labels("single", kind.hexcode, "3d")),
            ("recolour", blue, Labels("recolour", kind.hexcode, "3d", colour="blue")),
        ):
            record = {"captions": [{"text": kind.zh, "lang": "zh"}], "labels": labels.as_dict(), "pose": []}
            samples.append((f"{type_[0]}{number:04d}", png(image), record))
    write_index(folder, [write_shard(folder / "shard-00000.tar", samples, "test")])
    return folder


@pytest.fixture
def build_artwork() -> Callable[[Path], Path]:
    """Builds the data folder at a place."""
    return build


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder, one for the tests of a file."""
    return build(tmp_path_factory.mktemp("artwork") / "data")
