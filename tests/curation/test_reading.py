"""Every kind of source gives its pairs in order, and a sentence of what it was taken for."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import tarfile
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import ipc, parquet

from bimo.core.errors import DataError
from bimo.curation.readers import reading, text_lines
from bimo.curation.readers.rows import Broken, Place, Row, Unusable
from bimo.data.shards import shard_name, write_index, write_shard


def photo(number: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12), (number * 20 % 256, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


def text64(number: int) -> str:
    return base64.b64encode(photo(number)).decode()


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def put(path: Path, members: Iterable[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def taken(source: Path) -> list[tuple[Any, ...]]:
    """(source, captions, picture's number by its bytes) of rows; (source, reason) of what is broken or unusable."""
    known = {photo(n, kind): n for n in range(12) for kind in ("PNG", "JPEG")}
    found: list[tuple[Any, ...]] = []
    rows = list(reading.rows(source))
    assert [row.number for row in rows] == list(range(len(rows)))
    for row in rows:
        if isinstance(row, Broken):
            found.append((row.source, row.reason))
            continue
        try:
            found.append((row.source, row.captions, known[reading.picture_bytes(source, row.picture)]))
        except Unusable as error:
            found.append((row.source, row.captions, error.reason))
    return found


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")


def test_pictures_with_texts_beside_them(tmp_path: Path) -> None:
    for number, name in enumerate(("猫.png", "b/a.jpg", "b/c.webp.png", "b/silent.png", "z.png")):
        write(tmp_path / name, photo(number))
    write(tmp_path / "猫.txt", "\ufeff一只猫\r\n\r\na cat\r\n")
    write(tmp_path / "b/a.json", '{"caption": "狗", "captions": ["狗", "a dog"], "score": 0.5, "NSFW": "UNLIKELY"}')
    write(tmp_path / "b/c.webp.txt", "一只鸟".encode("gbk"))
    write(tmp_path / "z.json", '["一", {"text": "二"}]')
    write(tmp_path / ".hidden.png", photo(9))
    write(tmp_path / "__MACOSX/z.png", photo(9))
    write(tmp_path / "notes.csv", "who,what\nme,that\n")
    assert taken(tmp_path) == [
        ("z.png", ("一", "二"), 4),
        ("猫.png", ("一只猫", "a cat"), 0),
        ("b/a.jpg", ("狗", "a dog"), 1),
        ("b/c.webp.png", ("一只鸟",), 2),
        ("b/silent.png", (), 3),
    ]
    row = list(reading.rows(tmp_path))[2]
    assert isinstance(row, Row)
    assert row.labels == {"folder": "b", "score": 0.5, "NSFW": "UNLIKELY"}
    assert row.picture == Place("b/a.jpg")
    assert reading.kind(tmp_path) == "5 pictures in folders; captions are in .txt or .json files of the same name"


ENCODINGS = ("utf-8", "utf-8-sig", "gb18030", "gbk", "utf-16", "utf-16-le", "utf-16-be")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_csv_in_every_encoding(encoding: str, newline: str, tmp_path: Path) -> None:
    write(tmp_path / "images/苹果.png", photo(1))
    lines = [
        "file_name,caption,score,base64",
        '苹果.png,"红的，圆的""苹果""",0.25,',
        f'苹果.png,"两行{newline}的说明",nan,',
        "",
        f'gone.png,"a, b",007,"{text64(2)}"',
    ]
    (tmp_path / "t.csv").write_bytes((newline.join(lines) + newline).encode(encoding))
    rows = [row for row in reading.rows(tmp_path) if isinstance(row, Row)]
    assert [row.captions for row in rows] == [('红的，圆的"苹果"',), (f"两行{newline}的说明",), ("a, b",)]
    assert [row.source for row in rows] == ["t.csv:2", "t.csv:3", "t.csv:6"]
    assert [dict(row.labels) for row in rows] == [{"score": 0.25}, {}, {"score": "007"}]
    assert reading.picture_bytes(tmp_path, rows[0].picture) == photo(1)
    settings = {"utf-8-sig": "utf-8", "gbk": "gb18030", "utf-16": "utf-16-le"}.get(encoding, encoding)
    assert reading.kind(tmp_path) == f"tables: 1 of them; CSV in {settings}"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030", "utf-16"])
def test_base64_in_tables_is_found_again(encoding: str, tmp_path: Path) -> None:
    lines = ["caption,image_base64,id"] + [f'"第{n}行\n图",{text64(n)},{n}' for n in range(4)]
    (tmp_path / "t.csv").write_bytes("\n".join(lines).encode(encoding))
    rows = [row for row in reading.rows(tmp_path) if isinstance(row, Row)]
    assert [reading.picture_bytes(tmp_path, row.picture) for row in reversed(rows)] == [photo(n) for n in (3, 2, 1, 0)]


def test_csv_lines_that_are_no_pairs(tmp_path: Path) -> None:
    write(tmp_path / "a.png", photo(1))
    good, cut = "a.png,好", "a.png,很好".encode()[:-1]
    lines = ["file,caption", good, "a.png", "a.png,b,c", 'a.png,"open', good, *[good] * 2000, ""]
    write(tmp_path / "t.csv", "\n".join(lines).encode() + cut + b"\n" + b"a.png,x\0y\n" + b',"no file"\n')
    found = taken(tmp_path)
    assert found[:5] == [
        ("t.csv:2", ("好",), 1),
        ("t.csv:3", "wrong number of columns"),
        ("t.csv:4", "wrong number of columns"),
        ("t.csv:5", "open quote"),
        ("t.csv:6", ("好",), 1),
    ]
    assert found[-3:] == [("t.csv:2007", "not text"), ("t.csv:2008", ("x\0y",), 1), ("t.csv:2009", "no picture")]
    assert len(found) == 2008


def test_quotes_as_csv_has_them() -> None:
    from bimo.curation.readers.tables import fields_of

    rng = np.random.default_rng(0)
    letters = np.array(list('ab",\n 中'))
    for _ in range(500):
        fields = ["".join(rng.choice(letters, rng.integers(0, 6))) for _ in range(3)]
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="").writerow(fields)
        assert fields_of(buffer.getvalue(), ",") == fields
    assert fields_of('a,"b', ",") is None
    assert fields_of('5" disk,"x"y', ",") == ['5" disk', '"x"y']


def test_json_lines(tmp_path: Path) -> None:
    write(tmp_path / "data/images/a.png", photo(1))
    lines = [
        '{"image": "a.png", "text": ["一", "two"], "score": 0.5, "big": 12345678901234567890, "nested": {"a": 1}}',
        "[1, 2]",
        '{"image": "a.png"',
        "",
        '{"image": "gone.png", "text": "没有"}',
        '{"text": "no picture"}',
        '{"image": "a.png", "text": "\\ud83d"}',
        f'{{"image": "{text64(3)}", "text": 7, "score": NaN}}',
        '{"image": "https://example.org/x.jpg", "TEXT": "远"}',
        "[" * 100_000,
        '{"image": null, "text": "x"}',
        f'{{"image": "data:image/png;base64,{text64(4)}", "caption": null, "zh": "  内嵌 "}}',
    ]
    write(tmp_path / "data/t.jsonl", "\ufeff" + "\n".join(lines))
    name = "data/t.jsonl"
    assert taken(tmp_path) == [
        (f"{name}:1", ("一", "two"), 1),
        (f"{name}:2", "not an object"),
        (f"{name}:3", "not json"),
        (f"{name}:5", ("没有",), "missing"),
        (f"{name}:6", "no picture"),
        (f"{name}:7", "not text"),
        (f"{name}:8", ("7",), 3),
        (f"{name}:9", ("远",), "not fetched"),
        (f"{name}:10", "not json"),
        (f"{name}:11", "no picture"),
        (f"{name}:12", ("内嵌",), 4),
    ]
    rows = [row for row in reading.rows(tmp_path) if isinstance(row, Row)]
    assert rows[0].labels == {"score": 0.5, "big": "12345678901234567890"}
    assert rows[2].labels == {}
    assert rows[3].picture == Place("https://example.org/x.jpg", form="url")
    assert reading.kind(tmp_path) == "tables: 1 of them; JSON lines in utf-8"


def test_tables_without_a_header(tmp_path: Path) -> None:
    write(tmp_path / "a.png", photo(3))
    write(tmp_path / "ofa.tsv", f'u1\t7\t一只, "猫, 在, 睡\tcat&&bed\t{text64(1)}\nu2\t8\ta dog\t\t{text64(2)}\n')
    write(tmp_path / "plain.tsv", "a.png\t苹果 红\t0.5\n")
    found = {row.source: row for row in reading.rows(tmp_path) if isinstance(row, Row)}
    assert found["ofa.tsv:1"].captions == ('一只, "猫, 在, 睡',)
    assert found["ofa.tsv:1"].labels == {"id": "u1", "column1": 7.0, "column3": "cat&&bed"}
    assert [one[2] for one in taken(tmp_path)] == [1, 2, 3]
    assert found["plain.tsv:1"].captions == ("苹果 红",)


def test_chinese_clip_keeps_texts_apart(tmp_path: Path) -> None:
    write(tmp_path / "train_imgs.tsv", "".join(f"{n}\t{text64(n)}\n" for n in (1, 2, 3)))
    texts = [{"text_id": 1, "text": "一", "image_ids": [1, 3]}, {"text_id": 2, "text": "壹", "image_ids": [1]}]
    write(tmp_path / "train_texts.jsonl", "\n".join(json.dumps(one) for one in texts) + '\n{"text": "x"}\n')
    assert taken(tmp_path) == [
        ("train_texts.jsonl:3", "no picture"),
        ("train_imgs.tsv:1", ("一", "壹"), 1),
        ("train_imgs.tsv:2", (), 2),
        ("train_imgs.tsv:3", ("一",), 3),
    ]


def test_parquet_of_hugging_face(tmp_path: Path) -> None:
    write(tmp_path / "far/away.png", photo(9))
    image = [{"bytes": photo(n), "path": f"{n}.png"} for n in range(7)]
    image[5] = {"bytes": None, "path": "far/away.png"}
    image[6] = {"bytes": None, "path": None}
    table = pa.table({"image": image, "text": [f"第{n}张" for n in range(7)], "score": [0.5, float("nan"), *range(5)]})
    parquet.write_table(table, tmp_path / "train.parquet", row_group_size=2)
    found = taken(tmp_path)
    assert [one[2] for one in found] == [0, 1, 2, 3, 4, 9, "empty"]
    assert found[0] == ("train.parquet:0", ("第0张",), 0)
    rows = [row for row in reading.rows(tmp_path) if isinstance(row, Row)]
    assert rows[0].picture == Place("train.parquet", 0, -1, "parquet", "image")
    assert [dict(row.labels) for row in rows[:3]] == [{"score": 0.5}, {}, {"score": 0.0}]
    assert [reading.picture_bytes(tmp_path, row.picture) for row in (rows[3], rows[0], rows[4])] == [
        photo(n) for n in (3, 0, 4)
    ]
    assert reading.kind(tmp_path) == "tables: 1 of them; parquet with pictures in column image"


def test_parquet_of_bytes_base64_and_addresses(tmp_path: Path) -> None:
    columns = {"jpg": [photo(1, "JPEG"), None], "caption": [["一", "1"], []], "embedding": [[0.5, 0.5]] * 2}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    parquet.write_table(pa.table({"img": [None, text64(2)], "zh": ["空", "二"]}), tmp_path / "b.parquet")
    parquet.write_table(pa.table({"URL": ["http://a/b"], "TEXT": ["远"], "similarity": [0.3]}), tmp_path / "c.parquet")
    parquet.write_table(pa.table({"who": ["me"]}), tmp_path / "d.parquet")
    assert taken(tmp_path) == [
        ("a.parquet:0", ("一", "1"), 1),
        ("a.parquet:1", (), "empty"),
        ("b.parquet:0", ("空",), "empty"),
        ("b.parquet:1", ("二",), 2),
        ("c.parquet:0", ("远",), "not fetched"),
        ("d.parquet", "no picture"),
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_arrow(stream: bool, tmp_path: Path) -> None:
    table = pa.table(
        {"image": [photo(n) for n in range(5)], "text_zh": [f"第{n}" for n in range(5)], "md5": list("abcde")}
    )
    with (ipc.new_stream if stream else ipc.new_file)(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    assert taken(tmp_path) == [(f"a.arrow:{n}", (f"第{n}",), n) for n in range(5)]


def test_an_index_of_index_kits(tmp_path: Path) -> None:
    for place, name in enumerate(("00000.arrow", "00001.arrow")):
        numbers = range(place * 4, place * 4 + 4)
        table = pa.table({"image": [photo(n) for n in numbers], "text_zh": [f"第{n}" for n in numbers]})
        with ipc.new_file(str(write(tmp_path / "arrows" / name, b"")), table.schema) as writer:
            writer.write_table(table)
    index = {
        "data_type": ["gold"],
        "arrow_files": ["arrows/00000.arrow", "/elsewhere/00001.arrow", "arrows/gone.arrow"],
        "cum_length": [4, 8, 10],
        "group_length": [2, 0, 2],
        "indices": [1, 3, 3, 9, 8],
    }
    write(tmp_path / "index.json", json.dumps(index))
    wanted = [
        ("arrows/00000.arrow:1", ("第1",), 1),
        ("arrows/00000.arrow:3", ("第3",), 3),
        ("arrows/00000.arrow:3", ("第3",), 3),
        ("gone.arrow", "missing"),
        ("gone.arrow:1", "missing"),
    ]
    assert taken(tmp_path) == taken(tmp_path / "index.json") == wanted
    assert reading.kind(tmp_path) == "an index of IndexKits, index.json: 5 rows of 3 Arrow tables"
    np.savez(tmp_path / "indices.npz", x=np.array([5]))
    (tmp_path / "arrows/00001.arrow").rename(tmp_path / "00001.arrow")
    write(tmp_path / "index.json", json.dumps(index | {"indices": [], "indices_file": "indices.npz"}))
    assert taken(tmp_path) == [("00001.arrow:1", ("第5",), 5)]
    write(tmp_path / "index.json", json.dumps(index | {"indices": [10]}))
    with pytest.raises(DataError, match="do not fit"):
        list(reading.rows(tmp_path))


def test_imagefolder_in_splits(tmp_path: Path) -> None:
    for split, number in (("train", 1), ("test", 2)):
        write(tmp_path / split / "a.png", photo(number))
        write(tmp_path / split / "metadata.jsonl", json.dumps({"file_name": "a.png", "text": split}))
    write(tmp_path / "val/b.png", photo(3))
    write(tmp_path / "val/metadata.csv", "file_name,additional_feature,text\nb.png,x,val\n../../beyond.png,y,out\n")
    write(tmp_path.parent / "beyond.png", photo(4))
    write(tmp_path / "other.csv", "file_name,text\ntrain/a.png,again\n")
    assert taken(tmp_path) == [
        ("test/metadata.jsonl:1", ("test",), 2),
        ("train/metadata.jsonl:1", ("train",), 1),
        ("val/metadata.csv:2", ("val",), 3),
        ("val/metadata.csv:3", ("out",), "outside the folder"),
    ]
    assert reading.kind(tmp_path) == "a Hugging Face imagefolder: 3 of them; JSON lines in utf-8"


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_webdataset(form: int, tmp_path: Path) -> None:
    members = [
        ("a/0.txt", "一\n壹".encode()),
        ("a/0.jpg", photo(0, "JPEG")),
        ("a/0.cls", b"7"),
        ("1.PNG", photo(1)),
        ("1.json", b'{"captions": ["\xe4\xba\x8c", "two"], "width": 16, "label": {"a": 1}}'),
        ("2.txt", b"alone"),
        ("._3.png", b"apple's"),
        ("3.png", photo(3)),
        ("3.seg.png", photo(9)),
        ("3.json", b"{"),
        ("4.png", photo(4)),
        ("4.png", photo(5)),
        ("4.txt", b"twin"),
        ("名" * 20 + ".png", photo(6)),
    ]
    put(tmp_path / "x-000.tar", members, form)
    assert taken(tmp_path) == [
        ("x-000.tar:a/0", ("一", "壹"), 0),
        ("x-000.tar:1", ("二", "two"), 1),
        ("x-000.tar:2", "no picture"),
        ("x-000.tar:3", "not json"),
        ("x-000.tar:4", (), 4),
        ("x-000.tar:4", ("twin",), 5),
        ("x-000.tar:" + "名" * 20, (), 6),
    ]
    first, second = list(reading.rows(tmp_path / "x-000.tar"))[:2]
    assert isinstance(first, Row)
    assert isinstance(second, Row)
    assert (first.labels, second.labels) == ({"cls": 7.0}, {"width": 16.0})
    assert reading.kind(tmp_path) == "1 tar files: webdataset"


def test_damaged_tars_are_read_on(tmp_path: Path) -> None:
    pairs = [(f"{n}.{kind}", data) for n in range(4) for kind, data in (("png", photo(n)), ("txt", b"t"))]
    whole = put(tmp_path / "whole.tar", pairs).read_bytes()
    header = whole.index(b"1.png")
    # A header destroyed, its picture lost with it; cut within a picture; cut between two; no end.
    write(tmp_path / "a.tar", whole[:header] + b"\xff" * 512 + whole[header + 512 :])
    write(tmp_path / "b.tar", whole[: whole.index(b"3.png") + 512 + 20])
    write(tmp_path / "c.tar", whole[: whole.index(b"3.png")])
    write(tmp_path / "d.tar", whole.rstrip(b"\0") + bytes(512))
    write(tmp_path / "e.tar", b"")
    write(tmp_path / "f.tar", b"no tar" * 999)
    write(tmp_path / "g.tar.gz", b"\x1f\x8b\x08" + bytes(100))
    write(tmp_path / "h.tar", whole + whole)
    (tmp_path / "whole.tar").unlink()
    found = taken(tmp_path)
    by_file = {name: [one[1:] for one in found if one[0].startswith(name)] for name in "abcdefgh"}
    every = [(("t",), n) for n in range(4)]
    damaged = ("damaged archive",)
    assert by_file["a"] == [every[0], damaged, ("no picture",), *every[2:]]
    assert by_file["b"] == [*every[:3], ((), "damaged archive"), damaged]
    assert by_file["c"] == [*every[:3], damaged]
    assert by_file["e"] == by_file["f"] == [damaged]
    assert by_file["g"] == [("compressed archive",)]
    assert by_file["h"] == every * 2


def test_what_img2dataset_wrote(tmp_path: Path) -> None:
    lines = {
        "url": ["u0", "u1", "u2", "u3"],
        "caption": ["零", "一", "二", None],
        "key": [f"00000000{n}" for n in range(4)],
        "status": ["success", "failed_to_download", "failed_to_resize", "success"],
        "error_message": [None, "HTTP Error 404: Not Found", "image decoding error", None],
        "width": [16, None, None, 16],
    }
    table = pa.table(lines)
    record = json.dumps({"caption": "零\n行", "url": "u0", "status": "success"}).encode()
    put(
        tmp_path / "tar/00000.tar",
        [("000000000.jpg", photo(0)), ("000000000.json", record), ("000000000.txt", "零\n行".encode())],
    )
    parquet.write_table(table, tmp_path / "tar/00000.parquet")
    failures = [
        ("00000.tar:000000001", "failed_to_download"),
        ("00000.tar:000000002", "failed_to_resize"),
        ("00000.tar:000000003", "missing"),
    ]
    assert taken(tmp_path / "tar") == [("00000.tar:000000000", ("零\n行",), 0), *failures]
    assert (
        next(r.detail for r in reading.rows(tmp_path / "tar") if isinstance(r, Broken)) == "HTTP Error 404: Not Found"
    )
    assert reading.kind(tmp_path / "tar").startswith("1 tar files, 1 of them with a parquet beside them: img2dataset")
    write(tmp_path / "files/00000/000000000.jpg", photo(0))
    write(tmp_path / "files/00000/000000000.txt", "零")
    write(tmp_path / "files/00000/000000000.json", record)
    parquet.write_table(table, tmp_path / "files/00000.parquet")
    assert taken(tmp_path / "files") == [
        ("00000.parquet:000000000", ("零",), 0),
        ("00000.parquet:000000001", "failed_to_download"),
        ("00000.parquet:000000002", "failed_to_resize"),
        ("00000.parquet:000000003", (), "missing"),
    ]


def test_shards_of_our_own(tmp_path: Path) -> None:
    record = {
        "captions": [{"text": "零", "lang": "zh"}, {"text": "nil", "lang": "en"}],
        "labels": {"score": 0.5},
        "source": "s",
    }
    shards = [write_shard(tmp_path / shard_name(n), [(f"{n:08d}", photo(n), record)], "s") for n in range(2)]
    write_index(tmp_path, shards)
    put(tmp_path / "other.tar", [("x.png", photo(7))])
    assert taken(tmp_path) == [(f"shard-0000{n}.tar:{n:08d}", ("零", "nil"), n) for n in range(2)]
    row = next(reading.rows(tmp_path))
    assert isinstance(row, Row)
    assert row.labels == {"score": 0.5, "source": "s"}
    assert reading.kind(tmp_path) == "bimo's own shards: index.json lists 2 shards"


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no"):
        reading.rows(tmp_path / "none")
    with pytest.raises(DataError, match=r"looked for tables .* tars and pictures \(.*\.jpg"):
        reading.rows(tmp_path)
    write(tmp_path / "a.csv", "who,what\n1,2\n")
    for source in (tmp_path, tmp_path / "a.csv"):
        with pytest.raises(DataError, match="nothing in"):
            reading.rows(source)


def test_tables_that_cannot_be_read_are_reported(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"image": [photo(1)], "text": ["x"]}), tmp_path / "a.parquet")
    write(tmp_path / "a.parquet", (tmp_path / "a.parquet").read_bytes()[:-9])
    assert taken(tmp_path) == [("a.parquet", "damaged table")]
    assert reading.kind(tmp_path) == "1 tables, none of which can be read"
    write(tmp_path / "b.png", photo(2))
    assert taken(tmp_path) == [("a.parquet", "damaged table"), ("b.png", (), 2)]


def test_state_follows_names_sizes_and_times(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", photo(1))
    states = [reading.state(tmp_path), reading.state(path)]
    assert states == [reading.state(tmp_path), reading.state(path)]
    os.utime(path, ns=(1, 1))
    states += [reading.state(tmp_path), reading.state(path)]
    write(tmp_path / "b" / "c.txt", "x")
    states.append(reading.state(tmp_path))
    (tmp_path / "b" / "c.txt").rename(tmp_path / "b" / "d.txt")
    states.append(reading.state(tmp_path))
    assert len(set(states)) == 6


@pytest.mark.slow
def test_memory_does_not_grow_with_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "SAMPLE_BYTES", 1 << 12)  # it is read once, whatever the length
    line = json.dumps({"image": "a.png", "text": "很长的说明" * 20}, ensure_ascii=False) + "\n"
    peaks = []
    for count in (100, 100, 4_000):
        write(tmp_path / "t.jsonl", line * count)
        tracemalloc.start()
        assert sum(1 for _ in reading.rows(tmp_path)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + (32 << 10)
