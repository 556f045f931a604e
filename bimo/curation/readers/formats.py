"""Extensions and magic bytes of picture formats: a format is detected by its first bytes, never by a name."""

from __future__ import annotations

import os
import unicodedata

#: Extensions of pictures, whether they can be read or not.
PICTURE_FILES = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jpx"),
}
#: Formats that are recognised and not read: what to do is the same for each of them.
CONVERTED = ("HEIC", "JPEG XL", "JPEG 2000", "PSD", "camera raw")
#: Raw files of cameras, which begin as TIFF and contain a small preview beside the sensor data.
RAW_FILES = {".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".sr2", ".orf", ".rw2", ".pef", ".srw", ".raf", ".3fr"}
STARTS = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "PSD",
}
#: Bytes that ``format_of`` needs.
BEGINNING = 64


def format_of(start: bytes) -> str:
    """The format of a picture by its first bytes, by Pillow's name where Pillow reads it; empty for other files."""
    if start[:4] == b"RIFF":
        return "WEBP" if start[8:12] == b"WEBP" else ""
    if start[:2] == b"BM":  # letters as well: four bytes are always 0
        return "BMP" if start[6:10] == b"\0\0\0\0" else ""
    if start[4:8] == b"ftyp":
        # The brands of an ISO file: what it is, then what it may be read as.
        brands = {start[8:12], *(start[place : place + 4] for place in range(16, min(len(start), start[3]), 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}:
            return "HEIC"
        return "camera raw" if start[8:12] == b"crx " else ""
    return next((name for magic, name in STARTS.items() if start.startswith(magic)), "")


def is_picture(name: str) -> bool:
    """Whether a file has the extension of a picture."""
    return os.path.splitext(name)[1].lower() in PICTURE_FILES


def comparable(name: str) -> str:
    """A name in the form that names are compared in: Unicode NFC, its extension without case."""
    stem, ending = os.path.splitext(name)
    name = stem + ending.lower()
    return name if name.isascii() else unicodedata.normalize("NFC", name)
