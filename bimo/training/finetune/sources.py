"""The sources of training pictures: all that curation reads, several with a weight each, and kohya's folders.

A source is a folder of pictures, a table, tars, or a folder of shards; "PATH*3" has each of its pictures three times in
an epoch. Folders named as kohya-ss' scripts have them, "10_cat", are sources of their own: each picture ten times,
under the words of the folder where it has no caption.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bimo.core.errors import DataError
from bimo.core.messages import Listed, in_language, language, say
from bimo.curation.folder import FolderReport, build_folder
from bimo.curation.readers.inventory import inventory_lines
from bimo.data import shards
from bimo.training.finetune.captions import Captions

#: A folder of kohya's layout: at most three digits, so that a year is none.
_REPEATED = re.compile(r"(\d{1,3})_(.+)")
NAMED = 6


@dataclass(frozen=True)
class Source:
    """A path of pictures, how often each is repeated in an epoch, and the caption of those without one."""

    path: Path
    repeats: int = 1
    word: str = ""


@dataclass(frozen=True)
class Prepared:
    """Folders of shards, how often the rows of each are repeated in an epoch, and the report on each source, None for
    one that was shards already.
    """

    folders: tuple[Path, ...]
    repeats: tuple[int, ...]
    reports: tuple[FolderReport | None, ...]


def sources(texts: Sequence[str]) -> list[Source]:
    """["PATH", "PATH*3"] as sources. Raises DataError for what is not there, a weight that is no whole number, and
    folders of which some are in kohya's layout and some are not.
    """
    return [source for text in texts for source in _unfolded(_named(text))]


def _named(text: str) -> Source:
    path, star, times = text.rpartition("*")
    if Path(text).exists() or not star:
        return _existing(Source(Path(text)))
    if not re.fullmatch(r"[1-9]\d{0,5}", times):
        raise DataError(
            "{text!r}: after * stands how often each picture is seen in an epoch, a whole number from 1 on, as in "
            "photos*3",
            text=text,
        )
    return _existing(Source(Path(path), int(times)))


def _existing(source: Source) -> Source:
    if not source.path.exists():
        raise DataError("there is no folder {source}", source=source.path)
    return source


def _unfolded(source: Source) -> Iterator[Source]:
    """A source, or those in it that are named as kohya-ss has it; as `photos/*` of a shell has them, too."""
    if not source.path.is_dir():
        yield source
        return
    with os.scandir(source.path) as scan:
        entries = sorted((e for e in scan if not e.name.startswith(".")), key=lambda entry: entry.name)
    folders = {entry.name: _REPEATED.fullmatch(entry.name) for entry in entries if entry.is_dir()}
    named = {name: match for name, match in folders.items() if match}
    if not named:
        own = None if is_shards(source.path) else _REPEATED.fullmatch(source.path.resolve().name)
        yield source if own is None else _repeated(source.path, source.repeats, own)
        return
    others = [name for name in folders if name not in named]
    if others:
        raise DataError(
            "{path} has folders with repeats ({listed}) beside others without ({others}): give each name as 10_cat, or "
            "name the folders one by one",
            path=source.path,
            listed=Listed(list(named)[:NAMED]),
            others=Listed(others[:NAMED]),
        )
    for name, match in named.items():
        yield _repeated(source.path / name, source.repeats, match)


def _repeated(path: Path, times: int, match: re.Match[str]) -> Source:
    return Source(path, times * max(1, int(match[1])), match[2].replace("_", " ").strip())


def is_shards(path: Path) -> bool:
    """Whether a folder is data already, as `bimo curate` and `bimo data` write it."""
    return (path / shards.INDEX).is_file()


def prepared(
    given_sources: Sequence[Source], home: Path, captions: Captions, say_so: Callable[[str], object] = print
) -> Prepared:
    """Sources as shards: those that are none are written into folders below ``home``, where a second call finds them.

    What cannot be used is said, by number and name. Raises DataError as ``build_folder`` and ``Captions.fill``.
    """
    folders: list[Path] = []
    reports: list[FolderReport | None] = []
    for number, source in enumerate(given_sources, 1):
        if source.repeats > 1:
            say_so(say("{path}: each picture {times} times in an epoch", path=source.path, times=source.repeats))
        if is_shards(source.path):
            folders.append(source.path)
            reports.append(None)
            continue
        folder = home / str(number)
        own = replace(captions, folder_word=source.word)  # counts the origins of all sources together
        report = build_folder(source.path, folder, fill=own.fill)
        for line in account(report):
            say_so(line)
        folders.append(folder)
        reports.append(report)
    return Prepared(tuple(folders), tuple(source.repeats for source in given_sources), tuple(reports))


def as_data(texts: Sequence[str], out: Path) -> Prepared:
    """The sources of `bimo train`: folders of shards as they are, anything else written as shards below ``out``. Raises
    DataError as ``prepared``, and for pictures that several processes would write at once.
    """
    given_sources = sources(texts)
    raw = next((source.path for source in given_sources if not is_shards(source.path)), None)
    if raw is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise DataError(
            "{raw} is no data yet, and several processes are at work: write it first by bimo data folder {raw} DATA",
            raw=raw,
        )
    return prepared(given_sources, out / "data", Captions())


def account(report: FolderReport) -> Iterator[str]:
    """The report on a source in lines: the pictures that are used, those that are not and why, files not read."""
    whole = report.kept + len(report.left)
    if not report.left:
        yield say("{kept} pictures, all usable", kept=report.kept)
    else:
        named = [f"{name} ({in_language(reason, language())})" for name, reason in report.left[:NAMED]]
        named += ["..."] * (len(report.left) > NAMED)
        yield say(
            "{left} of {whole} pictures cannot be used and are left out: {named}",
            left=len(report.left),
            whole=whole,
            named=", ".join(named),
        )
    if report.files["not_read"]:
        yield from inventory_lines(report.files)
