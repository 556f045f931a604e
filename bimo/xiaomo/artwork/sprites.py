"""Kinds (what can be drawn) and sprites (one kind in one drawn style), from the pinned packages.

A sprite is RGBA, 128 x 128 pixels, in the second edition 256 x 256, cropped to its content and centred so that the long
side is 0.84 of the canvas: the canonical pose. Sprites are cached in uncompressed zips of PNG files.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bimo.core.errors import DataError
from bimo.xiaomo.artwork.drawings import Drawing
from bimo.xiaomo.artwork.packages import Package, package_named, read_member, read_members

SIDE = 128
FILL = 0.84
GROUPS = {
    0: "smileys",
    1: "people",
    3: "animals-nature",
    4: "food-drink",
    5: "travel-places",
    6: "activities",
    7: "objects",
}
FAMILY = 30
VARIANT_MARKS = ("2640", "2642", "27A1")
CLOCK_FACES = range(0x1F550, 0x1F568)


@dataclass(frozen=True)
class Source:
    """The source of a drawn style: the package and its format (iconify, webp or font).

    `names` is the package that maps characters to icon names, for a set whose own map is empty.
    """

    package: str
    reader: str
    names: str = ""


SOURCES: Mapping[str, Source] = {
    "3d": Source("@lobehub/fluent-emoji-3d", "webp"),
    "cartoon": Source("@iconify-json/noto", "iconify"),
    "twemoji": Source("@iconify-json/twemoji", "iconify"),
    "flat": Source("@iconify-json/fluent-emoji-flat", "iconify"),
    "silhouette": Source("@iconify-json/fluent-emoji-high-contrast", "iconify"),
    "line": Source("@expo-google-fonts/noto-emoji", "font"),
    "retro": Source("@iconify-json/noto-v1", "iconify", names="@iconify-json/noto"),
    "vector": Source("@iconify-json/emojione", "iconify", names="@iconify-json/noto"),
    "minimal": Source("@iconify-json/fxemoji", "iconify", names="@iconify-json/noto"),
    "outlined": Source("@iconify-json/streamline-emojis", "iconify", names="@iconify-json/noto"),
}
FONT_MEMBER = "400Regular/NotoEmoji_400Regular.ttf"


@dataclass(frozen=True)
class Kind:
    """One kind of object. Names are CLDR's; `zh_words` and `en_words` are all its words, best first.

    `aliases_zh` and `aliases_en` are the hand-written ones among them; `styles` the available drawn styles.
    """

    hexcode: str
    emoji: str
    group: str
    subgroup: int
    zh: str
    zh_hant: str
    en: str
    keywords_zh: tuple[str, ...] = ()
    keywords_en: tuple[str, ...] = ()
    aliases_zh: tuple[str, ...] = ()
    aliases_en: tuple[str, ...] = ()
    zh_words: tuple[str, ...] = ()
    en_words: tuple[str, ...] = ()
    classifier: str = ""
    styles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sprite:
    """One kind in one drawn style; `image` is RGBA, canonical pose."""

    kind: str
    style: str
    image: Image.Image


def bare(hexcode: str) -> str:
    """A hexcode in lower case without variation selectors: the form that all packages can be converted to."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def is_base_kind(entry: Mapping[str, object]) -> bool:
    """Whether an emojibase entry is a kind: no skin tone, gendered variant, flag, symbol or clock face."""
    parts = str(entry["hexcode"]).split("-")
    if entry.get("group") not in GROUPS or any(mark in parts for mark in VARIANT_MARKS):
        return False
    if parts[0] in ("1F468", "1F469") and len(parts) > 1:
        return False
    if int(parts[0], 16) in CLOCK_FACES:
        return False
    return entry.get("subgroup") != FAMILY or parts == ["1F46A"]


def read_kinds(paths: Mapping[str, Path]) -> list[Kind]:
    """All kinds in emojibase's order, before words and styles are assigned. `paths`: package name -> .tgz."""
    archive = paths["emojibase-data"]
    tables = {
        language: {entry["hexcode"]: entry for entry in json.loads(read_member(archive, f"{language}/data.json"))}
        for language in ("en", "zh", "zh-hant")
    }
    annotations = {language: _annotations(paths, language) for language in ("zh", "en")}
    entries = sorted(filter(is_base_kind, tables["en"].values()), key=lambda entry: entry["order"])
    kinds: list[Kind] = []
    for entry in entries:
        hexcode, character = entry["hexcode"], entry["emoji"].replace("\ufe0f", "")
        zh, hant = tables["zh"].get(hexcode, {}), tables["zh-hant"].get(hexcode, {})
        words = {
            language: tuple(dict.fromkeys([*found.get(character, ()), *own.get("tags", ())]))
            for language, found, own in (("zh", annotations["zh"], zh), ("en", annotations["en"], entry))
        }
        kinds.append(
            Kind(
                hexcode=bare(hexcode),
                emoji=entry["emoji"],
                group=GROUPS[entry["group"]],
                subgroup=entry["subgroup"],
                zh=zh.get("label", entry["label"]),
                zh_hant=hant.get("label", zh.get("label", entry["label"])),
                en=entry["label"],
                keywords_zh=words["zh"],
                keywords_en=words["en"],
            )
        )
    return kinds


def _annotations(paths: Mapping[str, Path], language: str) -> dict[str, tuple[str, ...]]:
    """Character without variation selector -> CLDR keywords in that language; none for absent packages."""
    found: dict[str, tuple[str, ...]] = {}
    for package, folder in (
        ("cldr-annotations-full", "annotations"),
        ("cldr-annotations-derived-full", "annotationsDerived"),
    ):
        if package in paths:
            table = json.loads(read_member(paths[package], f"{folder}/{language}/annotations.json"))
            for character, entry in table[folder]["annotations"].items():
                found[character.replace("\ufe0f", "")] = tuple(entry.get("default", ()))
    return found


def canonical(image: Image.Image, side: int = SIDE) -> Image.Image | None:
    """RGBA of any size -> RGBA [side x side], cropped to content and centred; None if it is empty."""
    image = image.convert("RGBA")
    box = image.getchannel("A").point([0] * 9 + [255] * 247).getbbox()
    if box is None:
        return None
    content = image.crop(box).convert("RGBa")
    scale = side * FILL / max(content.size)
    size = (max(1, round(content.width * scale)), max(1, round(content.height * scale)))
    content = content.resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(content, ((side - size[0]) // 2, (side - size[1]) // 2))
    return canvas


def draw_style(
    style: str, paths: Mapping[str, Path], kinds: Iterable[Kind], side: int = SIDE
) -> dict[str, Image.Image]:
    """Hexcode -> canonical sprite, for the kinds in the style's package. `paths`: package name -> .tgz."""
    source, kinds = SOURCES[style], list(kinds)
    path = paths[source.package]
    if source.reader == "iconify":
        drawn = _from_iconify(path, paths.get(source.names, path), kinds, side)
    elif source.reader == "webp":
        drawn = _from_webp(path, kinds, side)
    else:
        drawn = _from_font(path, kinds, side)
    return {hexcode: image for hexcode, image in drawn.items() if image is not None}


def read_icons(path: Path, names_path: Path, kinds: Iterable[Kind]) -> dict[str, Drawing]:
    """Hexcode -> drawing, for the kinds in an Iconify package. ``names_path``: the package with the characters."""
    icons, characters = json.loads(read_member(path, "icons.json")), json.loads(read_member(names_path, "chars.json"))
    names = {bare(code): name for code, name in characters.items()}
    found: dict[str, Drawing] = {}
    for kind in kinds:
        name = names.get(kind.hexcode, "")
        # One set has names without hyphens.
        icon = icons["icons"].get(name) or icons["icons"].get(name.replace("-", ""))
        if icon is not None:
            width = icon.get("width", icons.get("width", 16))
            height = icon.get("height", icons.get("height", 16))
            box = (icon.get("left", 0), icon.get("top", 0), width, height)
            found[kind.hexcode] = Drawing(box, icon["body"].replace("currentColor", "#000"))
    return found


def _from_iconify(path: Path, names_path: Path, kinds: list[Kind], side: int) -> dict[str, Image.Image | None]:
    icons = read_icons(path, names_path, kinds)
    return {hexcode: canonical(drawing.render(side * 2), side) for hexcode, drawing in icons.items()}


def _from_webp(path: Path, kinds: list[Kind], side: int) -> dict[str, Image.Image | None]:
    wanted = {kind.hexcode for kind in kinds}

    def code(name: str) -> str:
        return bare(Path(name).stem)

    members = read_members(path, lambda name: name.endswith(".webp") and code(name) in wanted)
    return {code(name): canonical(Image.open(io.BytesIO(data)), side) for name, data in members.items()}


def _from_font(path: Path, kinds: list[Kind], side: int) -> dict[str, Image.Image | None]:
    font = ImageFont.truetype(io.BytesIO(read_member(path, FONT_MEMBER)), side * 2)
    blank = _glyph(font, "\U0010fffd", side).tobytes()
    drawn: dict[str, Image.Image | None] = {}
    for kind in kinds:
        character = kind.emoji.replace("\ufe0f", "")
        if len(character) == 1:  # a joined sequence needs a shaping engine; single glyphs of the font do not
            image = _glyph(font, character, side)
            drawn[kind.hexcode] = canonical(image, side) if image.tobytes() != blank else None
    return drawn


def _glyph(font: ImageFont.FreeTypeFont, character: str, side: int) -> Image.Image:
    image = Image.new("RGBA", (side * 4, side * 4))
    ImageDraw.Draw(image).text((side, side), character, font=font, fill=(0, 0, 0, 255))
    return image


def sprite_name(kind: str, style: str) -> str:
    """The file name of a sprite in the cache."""
    return f"{style}/{kind}.png"


def draw_sprites(
    paths: Mapping[str, Path],
    table: Iterable[Package],
    kinds: list[Kind],
    cache: Path,
    progress: Callable[[str], None] | None = None,
    side: int = SIDE,
) -> list[Kind]:
    """Draws every sprite into one zip per style under `cache` (kept if it is from the same package and kinds).

    Returns the kinds with at least one sprite, with `styles` filled in.
    """
    table = tuple(table)
    present = {style: source for style, source in SOURCES.items() if source.package in {p.name for p in table}}
    styles: dict[str, list[str]] = {kind.hexcode: [] for kind in kinds}
    for style, source in present.items():
        size = "" if side == SIDE else f"{side} "
        names = " ".join(kind.hexcode for kind in kinds)
        stamp = f"3 {size}{package_named(source.package, table).sha256} {names}"
        path = cache / f"{style}.zip"
        if not _stamped(path, stamp):
            cache.mkdir(parents=True, exist_ok=True)
            drawn = draw_style(style, paths, kinds, side)
            partial = path.with_suffix(".partial")
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
                for hexcode in sorted(drawn):
                    buffer = io.BytesIO()
                    drawn[hexcode].save(buffer, "PNG", compress_level=3)
                    archive.writestr(sprite_name(hexcode, style), buffer.getvalue())
                archive.comment = b""
                archive.writestr("stamp", stamp)
            partial.replace(path)
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".png")]
        for name in names:
            styles[Path(name).stem].append(style)
        if progress is not None:
            progress(f"{style}: {len(names)} sprites")
    return [replace(kind, styles=tuple(styles[kind.hexcode])) for kind in kinds if styles[kind.hexcode]]


def _stamped(path: Path, stamp: str) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read("stamp").decode() == stamp
    except (OSError, KeyError, zipfile.BadZipFile):
        return False


class SpriteStore:
    """Reads sprites from the cache of `draw_sprites`; holds the last few thousand in memory."""

    def __init__(self, cache: Path) -> None:
        self._archives = {path.stem: zipfile.ZipFile(path) for path in sorted(cache.glob("*.zip"))}
        self._load = lru_cache(maxsize=3000)(self._read)

    def kinds(self, style: str) -> set[str]:
        """The kinds (hexcodes) that there is a sprite of in a style."""
        return {Path(name).stem for name in self._archives[style].namelist() if name.endswith(".png")}

    def _read(self, kind: str, style: str) -> Image.Image:
        try:
            data = self._archives[style].read(sprite_name(kind, style))
        except KeyError as error:
            raise DataError(
                "There is no sprite of {kind} in style {style}; draw the sprite cache again.", kind=kind, style=style
            ) from error
        image = Image.open(io.BytesIO(data))
        image.load()
        return image

    def sprite(self, kind: str, style: str) -> Sprite:
        """The sprite of a kind (hexcode) in a drawn style. Raises DataError if there is none."""
        return Sprite(kind, style, self._load(kind, style))


def content_box(image: Image.Image) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the content of an RGBA image, as fractions of the canvas."""
    alpha = np.asarray(image.getchannel("A")) > 8
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    height, width = alpha.shape
    if not rows.size:
        return 0.0, 0.0, 1.0, 1.0
    return (
        float(columns[0] / width),
        float(rows[0] / height),
        float((columns[-1] + 1) / width),
        float((rows[-1] + 1) / height),
    )
