"""A row of a source: its picture's location, its captions, and where it was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

#: How a picture is stored at a ``Place``.
Form = Literal["bytes", "base64", "parquet", "arrow", "url"]


@dataclass(frozen=True)
class Place:
    """Where a picture's bytes are.

    ``path`` is relative to the source; ``size`` -1 means the rest of the file. A "parquet" or "arrow" picture is the
    ``column`` of the row number ``offset``; a "url" is fetched and then lies elsewhere.
    """

    path: str
    offset: int = 0
    size: int = -1
    form: Form = "bytes"
    column: str = ""


@dataclass(frozen=True)
class Row:
    """One pair of a source. ``number`` counts every line read, broken ones too, and is the row's name from here on.

    ``source`` is for people: "metadata.jsonl:17". ``labels`` are the further columns: numbers and short texts.
    """

    number: int
    source: str
    picture: Place
    captions: tuple[str, ...]
    labels: Mapping[str, float | str] = field(default_factory=dict[str, "float | str"])


@dataclass(frozen=True)
class Broken:
    """A line that is no pair: ``reason`` is a short code such as "not json", ``detail`` what the reader found."""

    number: int
    source: str
    reason: str
    detail: str = ""


class Unusable(Exception):
    """A picture that cannot be read or decoded; ``reason`` is a short code such as "truncated", counted."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
