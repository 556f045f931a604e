"""Examples for the report: rows by number, rows that were dropped or changed, and their pictures as small JPEGs.

All of it comes from the table and from the source. Captions are not trusted: invisible characters are spelt out, and no
caption is ever HTML.
"""

# pyarrow has no types; what crosses it here is named where it is kept.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import base64
import html
import io
import json
import unicodedata
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bimo.core.messages import Message
from bimo.curation.phases.ingest import read_ingested
from bimo.curation.phases.measure import Pictures
from bimo.curation.phases.row_state import DROPPED, FAILED
from bimo.curation.phases.store import Work, load_table
from bimo.curation.readers.rows import Unusable

#: Characters of a caption that are shown.
LONGEST = 160
#: The longer side of a small picture in pixels, its quality as a JPEG, and how many a page has at most.
SIDE, QUALITY, MOST_PICTURES = 144, 72, 240
#: Rows from the beginning that are searched for examples, and the number of examples of each kind.
SCANNED, EACH = 20_000, 6
UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
COLUMNS = (
    *("number", "source", "state", "step", "reason", "detail", "value", "threshold", "trail", "captions_before"),
    *("captions", "labels", "path", "offset", "size", "form", "column", "fetched"),
)
#: Changes of captions that examples are shown of.
CHANGES = ("caption dropped", "caption mended", "captions changed", "captions written")


def visible(text: Any, longest: int = LONGEST) -> str:
    """Text as HTML with nothing hidden: no markup; control, bidirectional and zero-width characters by their code
    point.
    """
    whole = str(text)
    cut = whole[:longest]
    escaped = "".join(f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) in UNSEEN else c for c in cut)
    more = f"… <small>({len(whole):,})</small>" if len(whole) > longest else ""
    return f"<bdi>{html.escape(escaped)}{more}</bdi>"


def _without(reason: Message) -> str:
    """The place of a picture that is not shown, with the reason in both languages."""
    return f'<span class="none">{visible(reason.zh)} {visible(reason.en)}</span>'


@dataclass
class Examples:
    """The rows that a page shows. ``scanned`` is the number of rows that were searched for them."""

    pictures: Pictures
    out: Path
    firsts: Sequence[int]
    by_number: dict[int, dict[str, Any]] = field(default_factory=dict[int, "dict[str, Any]"])
    dropped: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    failed: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    changed: dict[tuple[int, str], list[int]] = field(default_factory=lambda: defaultdict(list))
    scanned: int = 0
    shown: int = 0

    def row(self, number: int) -> Mapping[str, Any] | None:
        """A row that was requested by ``find`` or ``scan``."""
        return self.by_number.get(number)

    def find(self, numbers: Iterable[int]) -> None:
        """Reads some rows, every unit once."""
        units: dict[int, set[int]] = defaultdict(set)
        for number in set(numbers) - self.by_number.keys():
            units[bisect_right(self.firsts, number) - 1].add(number)
        for unit, wanted in sorted(units.items()):
            for row in self._unit(unit):
                if row["number"] in wanted:
                    self.by_number[row["number"]] = row

    def scan(self) -> None:
        """Searches for rows that were dropped, failed or changed, and for the rows that duplicates were dropped for."""
        for unit in range(len(self.firsts)):
            if self.scanned >= SCANNED:
                break
            for row in self._unit(unit):
                self.scanned += 1
                if self._take_example(row):
                    self.by_number[row["number"]] = row
        originals = {copied(row) for row in self.by_number.values()}
        self.find(number for number in originals if number is not None)

    def _take_example(self, row: Mapping[str, Any]) -> bool:
        number, lists = row["number"], list[list[int]]()
        if row["state"] == DROPPED:
            lists.append(self.dropped[row["step"]])
        elif row["state"] == FAILED:
            lists.append(self.failed[row["reason"]])
        befell = {(what["step"], what["what"]) for what in json.loads(row["trail"]) if what["what"] in CHANGES}
        lists += [self.changed[what] for what in sorted(befell)]
        short = [numbers for numbers in lists if len(numbers) < EACH]
        for numbers in short:
            numbers.append(number)
        return bool(short)

    def _unit(self, unit: int) -> list[dict[str, Any]]:
        return load_table(self.out / "table" / f"{unit:06d}.parquet", COLUMNS).to_pylist()

    def picture(self, row: Mapping[str, Any]) -> str:
        """A row's picture as an embedded HTML image, or why there is none."""
        if self.shown >= MOST_PICTURES:
            return _without(Message("at most {count} pictures a page", count=MOST_PICTURES))
        from bimo.curation import decoded_image

        try:
            image = decoded_image.decode_image(self.pictures.bytes_of(row)).image
            image.thumbnail((SIDE, SIDE))
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=QUALITY)
        except Unusable as error:
            reason = error.reason
        # A picture that cannot be read must not prevent the page.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        else:
            self.shown += 1
            data = base64.b64encode(buffer.getvalue()).decode()
            return f'<img alt="{row["number"]}" src="data:image/jpeg;base64,{data}">'
        return _without(Message("the picture can no longer be read: {reason}", reason=reason))


def examples(out: Path, source: Path) -> Examples:
    """The examples of a run in ``out``, none read yet. Raises DataError where no source was ingested."""
    work = Work(out / "work")
    return Examples(Pictures(source, work), out, read_ingested(work).firsts)


def copied(row: Mapping[str, Any]) -> int | None:
    """The number of the row that a dropped row is a duplicate of."""
    if row["state"] != DROPPED:
        return None
    original = json.loads(row["labels"]).get("copy_of")
    return int(original) if isinstance(original, (int, float)) else None
