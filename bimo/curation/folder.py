"""Builds shards from a user's own pictures and captions, with the reader of `bimo curate`; everything unusable is
counted with its reason.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from bimo.core.errors import DataError
from bimo.core.files import write_whole
from bimo.core.messages import Both, Listed, Message, Wording, say
from bimo.curation.decoded_image import DecodedImage, alpha_of, decode_image, is_copyable, shard_bytes
from bimo.curation.phases import ingest
from bimo.curation.phases.store import save, unwritten
from bimo.curation.readers import listing, reading
from bimo.curation.readers.columns import Beside
from bimo.curation.readers.detect_format import SourceFormat, detect_format
from bimo.curation.readers.inventory import inventory
from bimo.curation.readers.rows import Broken, Place, Row, Unusable
from bimo.data.loader import ALPHA
from bimo.data.shards import SAMPLES_PER_SHARD, Sample, Shard, finished, shard_name, write_index, write_shard

REPORT = "report.json"
#: Version of the conversion from entries to samples; shards of another version are written again.
VERSION = 3
_HAN = re.compile(r"[\u3400-\u9fff]")


class Reason(Wording):
    """Why a picture cannot be used, where the reader's code needs more explanation."""

    CAPTION = Message("no caption")
    MISSING = Message("file not found")
    OUTSIDE = Message("outside the folder")
    DAMAGED = Message("cannot be decoded")
    SMALL = Message("too small")
    LARGE = Message("too large")
    FORMAT = Message("not a format that is read; convert it to JPEG or PNG")
    RANGE = Message("fractions whose range is unknown")
    ADDRESS = Message("an address; bimo curate fetches it")
    FILE = Message("no regular file")
    EMPTY = Message("empty")
    UNREADABLE = Message("may not be read")
    SEVERAL = Message("several pictures for one text")
    PACKED = Message("a compressed archive; unpack it to a plain .tar")
    PICTURE = Message("no picture")
    ROW = Message("the row cannot be read")
    MAP = Message("the mask beside it cannot be read, or has another shape than it")


#: The reader's codes that are reported as they are. Of pictures all others count as damaged, of rows as unreadable.
_REASONS = {
    "no caption": Reason.CAPTION,
    "missing": Reason.MISSING,
    "outside the folder": Reason.OUTSIDE,
    "too large": Reason.LARGE,
    "too many bytes": Reason.LARGE,
    "not a format that is read": Reason.FORMAT,
    "range unknown": Reason.RANGE,
    "not fetched": Reason.ADDRESS,
    "not a file": Reason.FILE,
    "empty": Reason.EMPTY,
    "unreadable": Reason.UNREADABLE,
    "several pictures": Reason.SEVERAL,
    "no picture": Reason.PICTURE,
    "compressed archive": Reason.PACKED,
}


@dataclass(frozen=True)
class Entry:
    """A picture that a source names, with its captions and labels; ``maps`` are files beside it, by what they are."""

    name: str
    place: Place
    captions: tuple[str, ...]
    labels: Mapping[str, Any]
    maps: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class FolderReport:
    """How a source was used: how many pictures are kept, and the others by name with their reasons.

    ``rows`` is the number of rows that were read. ``joined`` of them named the same picture as an earlier row, and
    added their captions to it: kept + joined + left = rows. ``files`` is the inventory of files; ``converted`` counts
    the kept pictures that were converted to sRGB, by their ICC profile; ``kind`` is the detected format.
    """

    kept: int
    left: tuple[tuple[str, Reason], ...]
    rows: int = 0
    joined: int = 0
    files: Mapping[str, Any] = field(default_factory=dict[str, Any])
    converted: Mapping[str, int] = field(default_factory=dict[str, int])
    kind: str = ""

    def reasons(self) -> dict[Reason, int]:
        """The number of unusable pictures and rows by reason."""
        return dict(Counter(reason for _, reason in self.left))


#: Gives captions to those entries of a source that have none.
Fill = Callable[[Path, Sequence[Entry]], Sequence[Entry]]


def build_folder(source: Path, out: Path, side: int = 1, fill: Fill | None = None) -> FolderReport:
    """Writes the pictures of a source as shards, an index and report.json; ``side`` is the least of a usable one, and
    ``fill`` may write captions where there are none.

    A source is anything that `bimo curate` reads: pictures with caption files, tables of every kind, tars, shards. Rows
    that name one picture become one sample with all their captions. A shard that was already written from the same
    files is not written again. Raises DataError for a source that cannot be read or has no usable picture, and leaves
    no files behind then.
    """
    from rich.console import Console
    from rich.progress import track

    if not source.exists():
        raise DataError("there is no folder {source}", source=source)
    what = detect_format(source)
    ingest.check_output_outside(source, out)
    new_folders = [path for path in (out, *out.parents) if not path.exists()]
    entries, broken, joined = _read(source, what)
    left, converted = list(broken), Counter[str]()
    written: list[Shard] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        firsts = range(0, len(entries), SAMPLES_PER_SHARD)
        # Standard output is for the result, so the progress bar goes to standard error.
        bar = track(firsts, description=say("writing data"), console=Console(stderr=True))
        for number, first in enumerate(bar):
            some: Sequence[Entry] = entries[first : first + SAMPLES_PER_SHARD]
            some = some if fill is None else fill(source, some)
            shard, dropped, profiles = _shard(source, out / shard_name(number), some, first, side)
            written.append(shard)
            left += dropped
            converted.update(profiles)
        kept = sum(shard.count for shard in written)
        maps = {file for entry in entries for file in entry.maps.values()}
        files = inventory(source, what, (entry.place.path for entry in entries), maps).plain()
        if not kept:
            raise _nothing(source, left, files)
        rows = [{"file": name, "reason": reason.name.lower(), "en": reason.en} for name, reason in left]
        report = {
            "read_from": str(source.resolve()),
            "kind": what.description.en,
            "rows": len(entries) + joined + len(broken),
        }
        report |= {"kept": kept, "joined": joined, "left": rows, "files": files, "converted": dict(converted)}
        save(out / REPORT, json.dumps(report, ensure_ascii=False, indent=1).encode("utf-8", "backslashreplace"))
        write_index(out, written)
    except BaseException as error:
        if new_folders and not any(shard.count for shard in written):
            # A failed first run leaves no folder behind that the next run would refuse.
            shutil.rmtree(out, ignore_errors=True)
            for path in new_folders[1:]:
                path.rmdir()
        if isinstance(error, OSError):
            path = Path(str(error.filename or out))
            raise unwritten(error, path) from None
        raise
    total = len(entries) + joined + len(broken)
    return FolderReport(kept, tuple(left), total, joined, files, dict(converted), say(what.description))


def _nothing(source: Path, left: Sequence[tuple[str, Reason]], files: Mapping[str, Any]) -> DataError:
    """The error for a source without a usable picture: the files that were not read, and an example of each reason."""
    first = {reason: _place_of(source, name) for name, reason in reversed(left)}
    why = Counter(reason for _, reason in left)
    reasons: list[tuple[object, int, str]] = [(reason, count, first[reason]) for reason, count in why.items()]
    reasons += [(Both(row["zh"], row["reason"]), row["count"], row["examples"][0]) for row in files["not_read"]]
    sentences = [
        Message("{reason} {count} ({example})", reason=reason, count=count, example=example)
        for reason, count, example in reasons
    ]
    return DataError(
        "{source} holds not one usable picture: {value}",
        source=source,
        value=Listed(sentences if why else [Message("no pictures"), *sentences]),
    )


def _place_of(source: Path, name: str) -> str:
    """The location of a row or a picture for a message: "line 3 of photos/metadata.jsonl"."""
    file, _, number = name.rpartition(":")
    root = reading.root(source)
    if file and number.isdigit() and (root / file).is_file():
        return say("line {number} of {root}", number=number, root=root / file)
    return name


def _read(source: Path, what: SourceFormat) -> tuple[list[Entry], list[tuple[str, Reason]], int]:
    """(entries, unusable rows with their reasons, number of rows joined to an earlier one) of a source."""
    entries: dict[Place, Entry] = {}
    broken: list[tuple[str, Reason]] = []
    joined = 0
    for row in what.read(count()):
        if isinstance(row, Broken):
            broken.append((row.source, _REASONS.get(row.reason, Reason.ROW)))
            continue
        known_as = entries.get(row.picture)
        if known_as is None:
            maps = _maps(source, row.picture)
            entries[row.picture] = Entry(_name(row), row.picture, row.captions, row.labels, maps)
        else:
            joined += 1
            captions = tuple(dict.fromkeys((*known_as.captions, *row.captions)))
            entries[row.picture] = replace(known_as, captions=captions)
    return list(entries.values()), broken, joined


def _name(row: Row) -> str:
    """The name of a picture for messages: its file, or the row that it is stored in."""
    place = row.picture
    return place.path if place.form == "url" or (place.form == "bytes" and place.size < 0) else row.source


def _shard(
    source: Path, path: Path, entries: Sequence[Entry], first: int, side: int
) -> tuple[Shard, list[tuple[str, Reason]], list[str]]:
    stamp = hashlib.sha256(f"{VERSION} {side}".encode())
    for entry in entries:
        state = (entry.name, entry.place, entry.captions, sorted(entry.labels.items()), _state(source, entry.place))
        stamp.update(repr(state).encode("utf-8", "backslashreplace"))
        for file in entry.maps.values():
            stamp.update(repr((file, _state(source, Place(file)))).encode("utf-8", "backslashreplace"))
    report = path.with_suffix(".left.json")
    shard = finished(path, stamp.hexdigest())
    if shard is not None and report.is_file():
        table = json.loads(report.read_text(encoding="utf-8"))
        return shard, [(name, Reason[reason]) for name, reason in table["left"]], table["converted"]
    left: list[tuple[str, Reason]] = []
    converted: list[str] = []
    samples = list(_samples(source, path.parent / "maps", entries, first, side, left, converted))
    listed = {"left": [[name, reason.name] for name, reason in left], "converted": converted}
    save(report, json.dumps(listed, ensure_ascii=False).encode("utf-8", "backslashreplace"))
    return write_shard(path, samples, stamp.hexdigest()), left, converted


def _samples(
    source: Path,
    maps: Path,
    entries: Sequence[Entry],
    first: int,
    side: int,
    left: list[tuple[str, Reason]],
    converted: list[str],
) -> Iterator[Sample]:
    """The samples of some entries; unusable ones are added to ``left``, ICC profiles of the others to ``converted``.
    Alpha channels, and maps that lie beside pictures, are written into folders of ``maps``.
    """
    for number, entry in enumerate(entries, first):
        # The picture is checked before its captions, as in curation, so that both report the same reason.
        result = _usable(source, entry.place, side)
        if not isinstance(result, Reason) and not entry.captions:
            result = Reason.CAPTION
        if isinstance(result, Reason):
            left.append((entry.name, result))
            continue
        data, decoded = result
        key = f"{number:08d}"
        if not _keep_maps(source, entry, decoded.size, maps, key):
            left.append((entry.name, Reason.MAP))
            continue
        converted += [decoded.converted] if decoded.converted else []
        captions = [{"text": text, "lang": "zh" if _HAN.search(text) else "en"} for text in entry.captions]
        name = entry.name.encode("utf-8", "backslashreplace").decode()
        _keep_alpha(source, entry.place, decoded, maps / ALPHA / f"{key}.png")
        yield key, data, {"captions": captions, "labels": entry.labels, "source": name}


def _maps(source: Path, place: Place) -> dict[str, str]:
    """The maps beside a picture that is a file of its own."""
    whole = place.form == "bytes" and place.size < 0
    return listing.maps_beside(reading.root(source), place.path) if whole else {}


def _keep_maps(source: Path, entry: Entry, size: tuple[int, int], maps: Path, key: str) -> bool:
    """Writes the maps beside a picture of a size (width, height) into their folders of ``maps``; False for one that
    cannot be read, or whose sides have another ratio: it would be cut otherwise than the picture.
    """
    for name in listing.MAPS:
        path = maps / name / f"{key}.png"
        path.unlink(missing_ok=True)  # of another picture, where the source has changed
        if name not in entry.maps:
            continue
        try:
            content = shard_bytes(reading.picture_bytes(source, Place(entry.maps[name])))
            width, height = decode_image(content).size
        except Unusable:
            return False
        if abs(width * size[1] - height * size[0]) > max(width, height, *size):
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    return True


def _keep_alpha(source: Path, place: Place, decoded: DecodedImage, path: Path) -> None:
    """Writes the alpha channel of a transparent picture, whose shard has it on white."""
    path.unlink(missing_ok=True)  # of another picture, where the source has changed
    if decoded.transparent:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, alpha_of(reading.picture_bytes(source, place)))


def usable(source: Path, name: str, side: int = 1) -> bytes | Reason:
    """The bytes of a picture for a shard: its own where they are upright RGB, else re-encoded on white; or why it is
    unusable.
    """
    result = _usable(source, Place(Beside(source, source).find(name)), side)
    return result if isinstance(result, Reason) else result[0]


def _usable(source: Path, place: Place, side: int) -> tuple[bytes, DecodedImage] | Reason:
    try:
        data = reading.picture_bytes(source, place)
        decoded = decode_image(data)
        if min(decoded.size) < side:
            return Reason.SMALL
        return (data if is_copyable(decoded) else shard_bytes(data)), decoded
    except Unusable as error:
        return _REASONS.get(error.reason, Reason.DAMAGED)


def located(source: Path, name: str) -> Path | None:
    """The path of a picture that a table names, beside the table or below images; None where it is not there."""
    path = source / Beside(source, source).find(name)
    return path if path.is_file() else None


def _state(source: Path, place: Place) -> tuple[int, int]:
    try:
        about = (reading.root(source) / place.path).stat()
    except (OSError, ValueError):
        return (0, 0)
    return about.st_size, about.st_mtime_ns
