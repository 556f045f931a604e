"""A table of compared pictures becomes pairs; ties, repeats and all that is of no use are counted by their reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bimo.core.errors import DataError
from bimo.core.picture import Picture
from bimo.core.request import Request
from bimo.curation.feedback import RowOutcome, build_feedback
from bimo.data.loader import Pictures
from bimo.data.shards import read
from bimo.training.objectives.preferences import DiffusionDPO


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures a.png to e.png, one that is none, one outside."""
    made = tmp_path / "judged"
    made.mkdir()
    for number, name in enumerate("abcde"):
        Image.new("RGB", (32, 24), (40 * number, 0, 200)).save(made / f"{name}.png")
    (made / "broken.png").write_bytes(b"\x89PNG not at all")
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    return made


def written(folder: Path, rows: Sequence[dict[str, Any]], kind: str) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    path = folder / f"table.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    elif kind == "parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    else:
        mark, encoding = {"csv": (",", "utf-8-sig"), "tsv": ("\t", "gb18030")}[kind]
        lines = [names, *([str(row.get(name) or "") for name in names] for row in rows)]
        path.write_text("\n".join(map(mark.join, lines)) + "\n", encoding)
    return path


ROWS = [
    {"请求": "一只红苹果", "胜者": "a.png", "负者": "b.png", "标注者": "甲"},
    {"请求": "小桥流水人家", "胜者": "d.png", "负者": "c.png", "标注者": "甲"},
]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_winners_and_losers_of_every_kind_of_table(kind: str, folder: Path, tmp_path: Path) -> None:
    report = build_feedback(written(folder, ROWS, kind), tmp_path / "data")
    assert (report.pairs, report.ties, report.outcomes) == (2, 0, {RowOutcome.KEPT: 2})
    pictures = Pictures(tmp_path / "data")
    made = DiffusionDPO().pictures(None, pictures, tmp_path)  # type: ignore[arg-type]
    named = {key: row["source"] for key, _, row in read(tmp_path / "data")}
    groups = [tuple(named[pictures.keys[row]] for row in group) for group in made.groups]
    assert groups == [("a.png", "b.png"), ("d.png", "c.png")]
    assert [made.captions[group[0]] for group in made.groups] == [("一只红苹果",), ("小桥流水人家",)]
    image = next(image for _, image, row in read(tmp_path / "data") if row["source"] == "a.png")
    assert image == (folder / "a.png").read_bytes()


def test_the_majority_of_several_judges(folder: Path, tmp_path: Path) -> None:
    def row(judge: str, choice: str, a: str = "a.png", b: str = "b.png", prompt: str = "一只猫") -> dict[str, str]:
        return {"prompt": prompt, "a": a, "b": b, "choice": choice, "judge": judge}

    rows = [
        row("1", "b"),
        row("2", "左", a="b.png", b="a.png"),  # the same two the other way round: for b.png again
        row("3", "a.png"),
        row("3", "a"),  # the same judge once more
        row("4", "平"),
        row("1", "a", prompt="一只狗"),  # another request, another pair
        row("1", "a", "c.png", "d.png"),
        row("2", "b", "c.png", "d.png"),  # even
        row("1", "tie", "d.png", "e.png"),
        row("1", "1", "a.png", "e.png"),  # nobody knows whether 1 is the first or the second of 0 and 1
    ]
    report = build_feedback(written(folder, rows, "csv"), tmp_path / "data")
    assert (report.pairs, report.ties) == (2, 2)
    assert report.outcomes == {RowOutcome.KEPT: 8, RowOutcome.AGAIN: 1, RowOutcome.CHOICE: 1}
    found = {(row["captions"][0]["text"], row["source"]): row["labels"] for _, _, row in read(tmp_path / "data")}
    assert found["一只猫", "b.png"] == {"pair": "00000000", "score": 0.5, "votes": 2, "judges": 4}
    assert found["一只猫", "a.png"] == {"pair": "00000000", "score": 0.25, "votes": 1, "judges": 4}
    assert found["一只狗", "a.png"]["score"] == 1.0
    told = json.loads((tmp_path / "data" / "report.json").read_text("utf-8"))
    assert told == {"pairs": 2, "ties": 2, "rows": {"kept": 8, "again": 1, "choice": 1}}


def test_what_is_of_no_use_is_counted(folder: Path, tmp_path: Path) -> None:
    rows = [
        {"request": "猫", "winner": "a.png", "loser": "b.png"},
        {"request": "猫", "winner": "a.png", "loser": "nowhere.png"},
        {"request": "猫", "winner": "broken.png", "loser": "b.png"},
        {"request": "猫", "winner": "../outside.png", "loser": "b.png"},
        {"request": "猫", "winner": "a.png", "loser": "a.png"},
        {"request": "", "winner": "c.png", "loser": "b.png"},
        {"request": "猫", "winner": "", "loser": "b.png"},
    ]
    table = written(folder, rows, "jsonl")
    table.write_text(table.read_text("utf-8") + "\n{half\n[1]\n", "utf-8")
    report = build_feedback(table, tmp_path / "data")
    assert report.pairs == 1
    one = (RowOutcome.DAMAGED, RowOutcome.OUTSIDE, RowOutcome.SAME, RowOutcome.REQUEST, RowOutcome.KEPT)
    assert report.outcomes == {**dict.fromkeys(one, 1), RowOutcome.MISSING: 2, RowOutcome.ROW: 2}


def test_the_request_is_in_the_record_of_what_bimo_drew(folder: Path, tmp_path: Path) -> None:
    for name, text in (("x", "一座山"), ("y", "一座山"), ("z", "一条河")):
        Picture(Image.new("RGB", (8, 8)), Request(text=text), "r", "").save(folder / f"{name}.png")
    rows = [{"winner": "x.png", "loser": "y.png"}, {"winner": "x.png", "loser": "z.png"}]
    report = build_feedback(written(folder, rows, "csv"), tmp_path / "data")
    assert report.outcomes == {RowOutcome.KEPT: 1, RowOutcome.REQUEST: 1}
    assert {row["captions"][0]["text"] for _, _, row in read(tmp_path / "data")} == {"一座山"}


def test_tables_that_compare_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="winner and loser"):
        build_feedback(written(folder, [{"file": "a.png", "text": "猫"}], "csv"), tmp_path / "data")
    ties = [{"request": "猫", "a": "a.png", "b": "b.png", "choice": "平"}]
    with pytest.raises(DataError, match="ties 1"):
        build_feedback(written(folder, ties, "csv"), tmp_path / "data")
    with pytest.raises(DataError, match="no file"):
        build_feedback(folder / "none.csv", tmp_path / "data")
