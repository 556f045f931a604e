"""Builds preference data from tables of pairwise comparisons."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bimo.core.errors import DataError, RequestError
from bimo.core.files import write_whole
from bimo.core.messages import Listed, Message, Wording
from bimo.core.picture import read_metadata
from bimo.curation import folder
from bimo.curation.filters.dictionary import has_han
from bimo.curation.readers.rows import Unusable
from bimo.curation.texts import rows_of
from bimo.data.shards import SAMPLES_PER_SHARD, Sample, Shard, finished, shard_name, write_index, write_shard

REQUEST = ("request", "prompt", "text", "caption", "请求", "提示词", "文本", "说明", "描述", "要求")
WINNER = ("winner", "better", "chosen", "preferred", "win", "胜", "胜者", "胜出", "更好", "较好", "好")
LOSER = ("loser", "worse", "rejected", "lose", "负", "负者", "败", "败者", "更差", "较差", "差")
FIRST = ("a", "image_a", "picture_a", "image_1", "left", "first", "图a", "图片a", "左", "左图", "甲", "图一")
SECOND = ("b", "image_b", "picture_b", "image_2", "right", "second", "图b", "图片b", "右", "右图", "乙", "图二")
CHOICE = ("choice", "preference", "verdict", "result", "选择", "结果", "判断", "评判", *WINNER)
JUDGE = ("judge", "annotator", "rater", "user", "标注者", "标注员", "评委", "评审", "评判者", "用户")
TIE = {
    "tie",
    "equal",
    "same",
    "draw",
    "both",
    "neither",
    "平",
    "平局",
    "平手",
    "一样",
    "一样好",
    "差不多",
    "都好",
    "都不好",
    "难分",
}
REPORT = "report.json"


class RowOutcome(Wording):
    """How a row of comparisons was counted, or why it is unusable."""

    KEPT = Message("counted")
    ROW = Message("row cannot be read")
    REQUEST = Message("no request")
    CHOICE = Message("choice not understood")
    SAME = Message("one picture twice")
    AGAIN = Message("judged again by the same")
    MISSING = Message("picture not found")
    OUTSIDE = Message("picture outside the folder")
    DAMAGED = Message("picture cannot be decoded")
    LARGE = Message("picture too large")


_OUTCOMES = {
    folder.Reason.MISSING: RowOutcome.MISSING,
    folder.Reason.OUTSIDE: RowOutcome.OUTSIDE,
    folder.Reason.LARGE: RowOutcome.LARGE,
}


@dataclass(frozen=True)
class FeedbackReport:
    """How a table was used: ``pairs`` to learn from, ``ties``, and the number of rows of each outcome."""

    pairs: int
    ties: int
    outcomes: Mapping[RowOutcome, int]


@dataclass
class Comparison:
    """Two pictures of one request, and the judges who voted for each: [first, second]; ties are votes for neither."""

    request: str
    names: tuple[str, str]
    votes: list[int] = field(default_factory=lambda: [0, 0])
    ties: int = 0
    judges: set[str] = field(default_factory=set[str])

    @property
    def better(self) -> int | None:
        """The picture with the majority of votes; None where there is none."""
        return None if self.votes[0] == self.votes[1] else int(self.votes[1] > self.votes[0])


def build_feedback(table: Path, out: Path) -> FeedbackReport:
    """Writes the comparisons of a table as shards that `bimo.training.objectives.preferences.DiffusionDPO` learns
    from, an index, report.json.

    A row names two pictures beside the table, winner and loser, or a and b with a choice (a, b, tie, or one of the
    names), and the request they were drawn by; without one it is taken from the record in a PNG that bimo drew. Where
    several judges compared the same two the majority counts; a judge counts once, ties and even votes teach nothing
    and are counted. Columns may be called as in ``REQUEST``, ``WINNER`` and so on. Of a pair each picture is a row with
    the labels ``pair``, ``score`` (its share of the votes) and ``votes``.

    Raises DataError for a table without such columns, or without one pair to learn from.
    """
    outcomes: Counter[RowOutcome] = Counter()
    comparisons: dict[tuple[str, frozenset[str]], Comparison] = {}
    pictures: dict[str, bytes | folder.Reason] = {}
    for number, row in rows_of(table):
        outcomes[_count_vote(row, number, table, comparisons, pictures)] += 1
    decided = [one for one in comparisons.values() if one.better is not None]
    ties = len(comparisons) - len(decided)
    if not decided:
        counts = [Message("{outcome} {count}", outcome=outcome, count=count) for outcome, count in outcomes.items()]
        raise DataError(
            "{table} holds not one pair with a winner: {counts}, ties {ties}",
            table=table,
            counts=Listed(counts or [Message("no rows")]),
            ties=ties,
        )
    out.mkdir(parents=True, exist_ok=True)
    report = {
        "pairs": len(decided),
        "ties": ties,
        "rows": {outcome.name.lower(): count for outcome, count in outcomes.items()},
    }
    write_whole(out / REPORT, json.dumps(report, ensure_ascii=False, indent=1).encode())
    size = SAMPLES_PER_SHARD // 2
    made: list[Shard] = []
    for first in range(0, len(decided), size):
        rows = [
            sample for n, one in enumerate(decided[first : first + size], first) for sample in _samples(n, one, table)
        ]
        stamp = hashlib.sha256()
        for key, image, row in rows:
            stamp.update(key.encode() + image + json.dumps(row, ensure_ascii=False).encode())
        path = out / shard_name(len(made))
        made.append(finished(path, stamp.hexdigest()) or write_shard(path, rows, stamp.hexdigest()))
    write_index(out, made)
    return FeedbackReport(len(decided), ties, dict(outcomes))


def _count_vote(
    row: Mapping[str, Any] | Unusable,
    number: int,
    table: Path,
    comparisons: dict[tuple[str, frozenset[str]], Comparison],
    pictures: dict[str, bytes | folder.Reason],
) -> RowOutcome:
    """Counts the vote of a row; returns its outcome."""
    if isinstance(row, Unusable):
        return RowOutcome.ROW
    values = {str(name).strip().lower(): value for name, value in row.items()}
    names, choice = _compared(values, table)
    if not all(names) or choice is None:
        return RowOutcome.CHOICE if all(names) else RowOutcome.MISSING
    if names[0] == names[1]:
        return RowOutcome.SAME
    for name in names:
        if name not in pictures:
            usable = folder.usable(table.parent, name)
            # The bytes are read again when they are written, since a table may name more pictures than memory holds.
            pictures[name] = usable if isinstance(usable, folder.Reason) else b""
        reason = pictures[name]
        if isinstance(reason, folder.Reason):
            return _OUTCOMES.get(reason, RowOutcome.DAMAGED)
    request = _text(values, REQUEST) or _drawn_by(table.parent, names)
    if not request:
        return RowOutcome.REQUEST
    one = comparisons.setdefault((request, frozenset(names)), Comparison(request, names))
    judge = _text(values, JUDGE) or f"row {number}"
    if judge in one.judges:
        return RowOutcome.AGAIN
    one.judges.add(judge)
    if choice == "tie":
        one.ties += 1
    else:
        one.votes[one.names.index(names[0] if choice == "first" else names[1])] += 1
    return RowOutcome.KEPT


def _compared(values: Mapping[str, Any], table: Path) -> tuple[tuple[str, str], str | None]:
    """(names of the two pictures, "first", "second" or "tie"; None for a choice that is not recognised).

    Raises DataError for a table without the columns of a comparison.
    """
    first, second = (next((name for name in every if name in values), None) for every in (FIRST, SECOND))
    if first is not None and second is not None:
        names = (_text(values, (first,)), _text(values, (second,)))
        choice = _text(values, CHOICE)
        word = choice.lower()
        if word in TIE:
            return names, "tie"
        if word in (first, *FIRST) or (choice == names[0] and choice):
            return names, "first"
        return names, "second" if word in (second, *SECOND) or (choice == names[1] and choice) else None
    if any(name in values for name in WINNER) and any(name in values for name in LOSER):
        return (_text(values, WINNER), _text(values, LOSER)), "first"
    raise DataError(
        "{table} needs columns of winner and loser ({winner}; {loser}), or a, b and choice; it has {values}",
        table=table,
        winner=", ".join(WINNER[:3]),
        loser=", ".join(LOSER[:3]),
        values=", ".join(values),
    )


def _text(values: Mapping[str, Any], names: Iterable[str]) -> str:
    """The first non-empty value of some columns, "" where there is none."""
    texts = (str(values[name]).strip() for name in names if values.get(name) is not None)
    return next(filter(None, texts), "")


def _drawn_by(source: Path, names: Iterable[str]) -> str:
    """The request in the metadata of both PNGs; "" where they differ or have none."""
    requests: set[str] = set()
    for name in names:
        path = folder.located(source, name)
        try:
            requests.add("" if path is None else str(read_metadata(path)["request"].get("text") or ""))
        except RequestError:
            return ""
    return requests.pop() if len(requests) == 1 else ""


def _samples(number: int, one: Comparison, table: Path) -> list[Sample]:
    """Both pictures of a pair, the better first."""
    better = one.better or 0
    captions = [{"text": one.request, "lang": "zh" if has_han(one.request) else "en"}]
    total = sum(one.votes) + one.ties
    made: list[Sample] = []
    for place, side in enumerate((better, 1 - better)):
        image = folder.usable(table.parent, one.names[side])
        if isinstance(image, folder.Reason):  # the file was deleted in the meantime
            raise DataError("{names} has changed: {image}", names=one.names[side], image=image)
        labels = {"pair": f"{number:08d}", "score": one.votes[side] / total, "votes": one.votes[side], "judges": total}
        row = {"captions": captions, "labels": labels, "source": one.names[side]}
        made.append((f"{number:08d}-{'ab'[place]}", image, row))
    return made
