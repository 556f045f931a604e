"""The table of emoji names from Unicode's CLDR: `bimo/prompts/emoji.tsv`, whose licence is next to it.

Its sources are two npm packages: cldr-annotations-full and cldr-annotations-derived-full (Unicode-3.0).
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bimo.prompts.emoji import COLUMNS, bare, is_emoji

#: "cat face" is named "cat"; the faces of the moon are not the moon.
FACE, FACES_OF_THEIR_OWN = " face", "moon"


def table(packages: Sequence[Path]) -> str:
    """The table's text from packages as `npm pack` writes them; later packages override earlier ones.

    A face with an animal's name gets the animal's name. Skin tones are left out: they are not objects.
    """
    zh, en = (_named(packages, language) for language in ("zh", "en"))
    whole = {name: emoji for emoji, name in en.items()}
    rows: dict[str, tuple[str, str]] = {}
    for emoji, name in en.items():
        animal = whole.get(name.removesuffix(FACE)) if name.endswith(FACE) and FACES_OF_THEIR_OWN not in name else None
        called = animal or emoji
        if called in zh and is_emoji(emoji):
            rows[emoji] = (zh[called], en[called])
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((emoji, *names) for emoji, names in sorted(rows.items()))
    return text.getvalue()


def _named(packages: Sequence[Path], language: str) -> dict[str, str]:
    names: dict[str, str] = {}
    for package in packages:
        with tarfile.open(package) as archive:
            inside = next(n for n in archive.getnames() if n.endswith(f"/{language}/annotations.json"))
            member = archive.extractfile(inside)
            assert member is not None
            data: dict[str, Any] = json.load(member)
        for emoji, row in next(iter(data.values()))["annotations"].items():
            if emoji == bare(emoji) and "tts" in row:
                names.setdefault(emoji, row["tts"][0].replace(": ", " "))
    return names
