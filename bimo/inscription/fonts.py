"""Fonts that have the glyphs: found on the system, in a folder, or named; chosen character by character by coverage.

Which characters a face has is read from its ``cmap`` (OpenType 1.9, "cmap: Character to Glyph Index Mapping Table"),
and its licence from the ``name`` table (ids 13 and 14): a font draws an empty box for what it lacks and says nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bimo.core.errors import RequestError
from bimo.core.hashing import digest
from bimo.core.messages import say

ENDINGS = frozenset((".ttf", ".otf", ".ttc", ".otc", ".woff", ".woff2"))
#: A font larger than this is no font that we open: the largest CJK collections have some 120 MB.
MAXIMUM_BYTES = 256 * 1024 * 1024
#: Families that are tried first, by how well they stand in a picture; what is found besides comes after them.
PREFERRED = (
    "LXGW WenKai",
    "Ma Shan Zheng",
    "Noto Serif CJK SC",
    "Source Han Serif SC",
    "Songti SC",
    "SimSun",
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "PingFang SC",
    "Microsoft YaHei",
    "WenQuanYi Zen Hei",
    "TW-Kai",
    "TW-Kai-Ext-B",
    "HanaMinA",
    "HanaMinB",
)
VARIABLE = "BIMO_FONTS"
#: What installs them, for the sentence that says a font is missing.
PACKAGES = "fonts-lxgw-wenkai, fonts-noto-cjk, fonts-cns11643-kai (rare characters)"
#: The bit of OS/2's ulUnicodeRange that says a face is made for CJK ideographs (OpenType 1.9, "OS/2").
_IDEOGRAPHS = 59


@dataclass(frozen=True)
class Face:
    """One face of a font file: ``index`` is its place in a collection, ``licence`` what its name table says."""

    path: Path
    index: int
    family: str
    style: str
    version: str
    licence: str
    chinese: bool

    def __str__(self) -> str:
        return f"{self.family} {self.style}".strip()

    def has(self, character: str) -> bool:
        """Whether the face has a glyph for the character."""
        return ord(character) in _characters(self.path, self.index)

    def sha256(self) -> str:
        """SHA-256 of the font file, by which a certificate names it."""
        return digest(self.path)


def faces_of(path: Path) -> tuple[Face, ...]:
    """Every face of a font file. Raises RequestError for a file that is no font."""
    from fontTools.ttLib import TTFont, TTLibError

    if not path.is_file():
        raise RequestError("there is no font file {path}", path=path)
    if path.stat().st_size > MAXIMUM_BYTES:
        raise RequestError("{path} is too large for a font: at most {most} MB", path=path, most=MAXIMUM_BYTES >> 20)
    faces: list[Face] = []
    try:
        for index in range(_number_of_faces(path)):
            # Opened here: of a file that is no font TTFont leaves its own handle open.
            with path.open("rb") as stream, TTFont(stream, fontNumber=index, lazy=True) as font:
                names = font["name"]
                faces.append(
                    Face(
                        path=path,
                        index=index,
                        family=_name(names, 16) or _name(names, 1) or path.stem,
                        style=_name(names, 17) or _name(names, 2),
                        version=_name(names, 5),
                        licence=_name(names, 13) or _name(names, 14) or say("not stated by the font"),
                        chinese="OS/2" in font and _IDEOGRAPHS in font["OS/2"].getUnicodeRanges(),
                    )
                )
    except (TTLibError, OSError, KeyError, ValueError, AssertionError, ImportError) as error:
        raise RequestError("{path} is no font that can be read: {error}", path=path, error=error) from None
    return tuple(faces)


def find_faces(family: str | None = None) -> tuple[Face, ...]:
    """The faces to set text with, best first; those of a family first where one is named, never a path: a request may
    come from elsewhere. Raises RequestError where none is found, and says what installs one.
    """
    faces = system_faces()
    if not faces:
        raise RequestError(
            "no font with Chinese characters is in {place}; install one ({packages}) or name a file with --font",
            place=", ".join(map(str, places())) or say("the folders of this system"),
            packages=PACKAGES,
        )
    if family is None:
        return faces
    family_key = family.casefold().replace(" ", "")
    named = [face for face in faces if family_key and family_key in str(face).casefold().replace(" ", "")]
    if not named:
        raise RequestError(
            "there is no font family {named}; found on this machine: {families}. --font of bimo draw "
            "takes a file or folder as well",
            named=family,
            families=", ".join(dict.fromkeys(face.family for face in faces)),
        )
    # What the family lacks is set in the others, and the certificate says so.
    return tuple(dict.fromkeys((*named, *faces)))


def add_place(place: Path) -> str:
    """Makes the fonts of a file or folder known to this process, and answers the family of the first that has Chinese.
    Raises RequestError where there is none.
    """
    faces = [face for face in (faces_of(place) if place.is_file() else _faces_in((place,))) if face.chinese]
    if not faces:
        raise RequestError("{place} holds no font with Chinese characters", place=place)
    os.environ[VARIABLE] = os.pathsep.join(filter(None, (str(place), os.environ.get(VARIABLE, ""))))
    system_faces.cache_clear()
    return str(faces[0])


@lru_cache(maxsize=1)
def system_faces() -> tuple[Face, ...]:
    """The system's faces that have Chinese, those of PREFERRED first."""
    faces = [face for face in _faces_in(places()) if face.chinese]
    rank = {family.casefold(): place for place, family in enumerate(PREFERRED)}
    regular = {"regular": 0, "medium": 1, "bold": 2}

    def order(face: Face) -> tuple[int, int, str, int]:
        family = rank.get(face.family.casefold(), len(rank))
        return family, regular.get(face.style.casefold(), 3), str(face.path), face.index

    return tuple(sorted(faces, key=order))


def places() -> tuple[Path, ...]:
    """Where this system keeps fonts; BIMO_FONTS names more files and folders, separated as in PATH."""
    own = [Path(place) for place in os.environ.get(VARIABLE, "").split(os.pathsep) if place]
    home = Path.home()
    if sys.platform == "darwin":
        system = [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    elif sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA", home))
        system = [local / "Microsoft/Windows/Fonts", Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts"]
    else:
        shared = Path(os.environ.get("XDG_DATA_HOME", home / ".local/share"))
        system = [shared / "fonts", home / ".fonts", Path("/usr/local/share/fonts"), Path("/usr/share/fonts")]
    return tuple(place for place in (*own, *system) if place.exists())


def faces_for(text: str, faces: Sequence[Face]) -> dict[str, Face]:
    """Character -> the first of the faces that has it. Raises RequestError that names those that none has."""
    # The weights of a family have the same characters, and reading those of one CJK face takes a tenth of a second.
    faces = list({face.family: face for face in reversed(faces)}.values())[::-1]
    chosen: dict[str, Face] = {}
    missing: list[str] = []
    for character in dict.fromkeys(text):
        face = next((face for face in faces if face.has(character)), None)
        if face is None:
            missing.append(character)
        else:
            chosen[character] = face
    if missing:
        raise RequestError(
            "no font here has {missing}; install one that has ({packages}) or name its file with --font. "
            "Looked in: {faces}",
            missing=", ".join(f"{character} (U+{ord(character):04X})" for character in missing),
            packages=PACKAGES,
            faces=", ".join(face.family for face in faces),
        )
    return chosen


def _faces_in(places: Iterable[Path]) -> tuple[Face, ...]:
    """The faces of all readable font files; a damaged one among hundreds of a system's is passed over."""
    faces: list[Face] = []
    for place in places:
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.suffix.lower() in ENDINGS and path.is_file():
                try:
                    faces += faces_of(path)
                except RequestError:
                    continue
    return tuple(faces)


def _number_of_faces(path: Path) -> int:
    with path.open("rb") as stream:
        head = stream.read(12)
    return int.from_bytes(head[8:12], "big") if head[:4] == b"ttcf" else 1


def _name(names: Any, which: int) -> str:
    return str(names.getDebugName(which) or "").strip()


@lru_cache(maxsize=64)
def _characters(path: Path, index: int) -> frozenset[int]:
    from fontTools.ttLib import TTFont

    with TTFont(path, fontNumber=index, lazy=True) as font:
        return frozenset(font.getBestCmap() or ())
