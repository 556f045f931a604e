"""A tiny made-up package set: twelve kinds, four drawn styles, a few bytes of SVG each."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from bimo.xiaomo.artwork.packages import PACKAGES, Package
from bimo.xiaomo.artwork.sprites import SOURCES

EMOJI = {
    "😀": ("grinning face", "嘿嘿", 0, 0),
    "🐱": ("cat face", "猫脸", 3, 34),
    "🐈": ("cat", "猫", 3, 34),
    "🐕": ("dog", "狗", 3, 34),
    "🐶": ("dog face", "狗脸", 3, 34),
    "🍎": ("red apple", "红苹果", 4, 42),
    "🍌": ("banana", "香蕉", 4, 42),
    "🍜": ("steaming bowl", "面条", 4, 45),
    "🚗": ("automobile", "汽车", 5, 54),
    "🕶️": ("sunglasses", "墨镜", 7, 65),
    "👑": ("crown", "皇冠", 7, 65),
    "🕐": ("one o'clock", "一点", 5, 58),
}
STYLES = ("cartoon", "twemoji", "flat", "silhouette")


def hexcode(emoji: str) -> str:
    return "-".join(f"{ord(character):X}" for character in emoji)


def tgz(members: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in members.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def icons(style: str) -> dict[str, str]:
    bodies = {}
    for number, _emoji in enumerate(EMOJI):
        colour = f"hsl({number * 30 + len(style) * 7},70%,45%)"
        bodies[f"icon-{number}"] = {
            "body": f'<rect x="2" y="{4 + number % 3}" width="11" height="8" fill="{colour}"/>'
            f'<circle cx="5" cy="7" r="2" fill="#222"/>'
        }
    names = {hexcode(emoji).lower(): f"icon-{number}" for number, emoji in enumerate(EMOJI)}
    return {"icons.json": json.dumps({"icons": bodies, "width": 16, "height": 16}), "chars.json": json.dumps(names)}


def words() -> dict[str, str]:
    tables: dict[str, list[dict[str, object]]] = {"en": [], "zh": [], "zh-hant": []}
    for order, (emoji, (en, zh, group, subgroup)) in enumerate(EMOJI.items()):
        for language, label in (("en", en), ("zh", zh), ("zh-hant", zh)):
            entry = {"hexcode": hexcode(emoji), "emoji": emoji, "label": label, "tags": [f"tag {order % 2}"]}
            tables[language].append({**entry, "order": order, "group": group, "subgroup": subgroup})
    return {f"{language}/data.json": json.dumps(table) for language, table in tables.items()}


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Package, ...]]:
    """The folder of .tgz files and the table that pins them."""
    folder = tmp_path_factory.mktemp("packages")
    contents = {SOURCES[style].package: tgz(icons(style)) for style in STYLES}
    contents["emojibase-data"] = tgz(words())
    table = []
    for package in PACKAGES:
        if package.name in contents:
            data = contents[package.name]
            sha256 = hashlib.sha256(data).hexdigest()
            made = Package(package.name, "0.0.1", sha256, package.licence, package.attribution, package.use)
            (folder / made.filename).write_bytes(data)
            table.append(made)
    return folder, tuple(table)
