"""One reader: `bimo data folder`, `bimo curate` and training see the same rows in whatever a source is, with the same
captions and the same bytes, and every file below it is in the account.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from bimo.core.errors import DataError
from bimo.curation.executors.processes import ProcessExecutor
from bimo.curation.folder import build_folder
from bimo.curation.phases.run import curate
from bimo.curation.readers import reading
from bimo.curation.steps import Curation, Tools
from bimo.data import shards
from bimo.data.loader import Pictures

#: By its number each picture is of one colour, so that its captions can be told to be its own.
Rows = dict[int, tuple[str, ...]]


def photo(number: int, kind: str = "PNG", size: tuple[int, int] = (24, 16)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (number * 16, 255 - number * 16, 0)).save(buffer, kind, quality=95)
    return buffer.getvalue()


def number_of(data: bytes) -> int:
    colour = Image.open(io.BytesIO(data)).convert("RGB").getpixel((3, 3))
    assert isinstance(colour, tuple)
    return round(colour[0] / 16)


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def pack(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def photos(folder: Path, numbers: Iterable[int]) -> None:
    for number in numbers:
        put(folder / f"{number}.png", photo(number))


@dataclass(frozen=True)
class Source:
    """A source, the pictures in it that can be used with their captions, how many rows cannot, and what of its files
    is read as what.
    """

    name: str
    make: Callable[[Path], None]
    rows: Rows
    lost: int = 0
    files: Mapping[str, int] | None = None
    not_read: int = 0


def endings(source: Path) -> None:
    """Nine names for pictures, each with its captions; of two formats that nobody reads here; what is no picture."""
    for number, (name, kind) in enumerate(
        {
            "a.jfif": "JPEG",
            "b.jpe": "JPEG",
            "c.avif": "AVIF",
            "d": "PNG",
            "e.JPG": "JPEG",
            "f.png": "JPEG",  # a lie
            "g.image": "WEBP",
        }.items()
    ):
        put(source / name, photo(number, kind))
        put(source / f"{name.partition('.')[0]}.txt", f"第 {number}")
    put(source / "h.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    put(source / "i.jxl", b"\xff\x0a" + bytes(99))
    put(source / "mif.heif", b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf" + bytes(99))
    for name in ("h.txt", "i.txt", "mif.txt"):
        put(source / name, "苹果手机拍的")
    put(source / ".DS_Store", b"\0\0\0\1Bud1")
    put(source / ".git/config", "[core]")
    put(source / "__MACOSX/._a.jfif", b"\0\5\x16\7")
    put(source / "README.md", "BM is what it begins with not")
    put(source / "lonely.txt", "没有图")
    put(source / "raw.NEF", b"II*\0" + bytes(99))


def composed(source: Path) -> None:
    """Names as a Mac writes them beside captions as Windows does, endings in capitals."""
    apart, whole = (unicodedata.normalize(form, "Café 北京が") for form in ("NFD", "NFC"))
    put(source / f"{apart}.JPG", photo(1, "JPEG"))
    put(source / f"{whole}.txt", "一")
    put(source / "b.png", photo(2))
    put(source / "b.TXT", "二")
    put(source / "c.png", photo(3))
    put(source / "c.JSON", '{"caption": "三"}')


def composed_table(source: Path) -> None:
    apart, whole = (unicodedata.normalize(form, "Café") for form in ("NFD", "NFC"))
    put(source / apart / f"{apart}.JPG", photo(1, "JPEG"))
    put(source / "b.PNG", photo(2))
    put(source / "t.csv", f"file_name,text\n{whole}/{whole}.jpg,一\nb.png,二\n")


def own_folder(source: Path) -> None:
    """The faulty order: the first row is at the top alone, the others in both."""
    for name, number in (("a", 1), ("b", 9), ("c", 9)):
        put(source / f"{name}.png", photo(number))
    for name, number in (("b", 2), ("c", 3), ("d", 4)):
        put(source / "train" / f"{name}.{'PNG' if name == 'd' else 'png'}", photo(number))
    put(source / "d.png", photo(9))
    put(source / "train/metadata.csv", "file_name,text\na.png,一\nb.png,二\nc.png,三\nd.png,四\n")


def pandas_tsv(source: Path) -> None:
    photos(source, range(1, 5))
    with (source / "t.tsv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(("file_name", "caption", "score"))
        for number, text in enumerate(('第一\n行，还有"引号"', '"', "一 tab\there", "平常"), 1):
            writer.writerow((f"{number}.png", text, number))


def last_column(source: Path) -> None:
    """The caption that goes on stands last, where its first line looks whole."""
    photos(source, range(1, 4))
    put(source / "t.tsv", 'file_name\tcaption\n1.png\t"第一行\n第二行"\n2.png\t好\n3.png\t"一\n\n三"\n')


def letters_in_tsv(source: Path) -> None:
    """A tool that knows no quotes wrote these: a quote is a letter."""
    photos(source, range(1, 4))
    put(source / "t.tsv", 'file_name\tcaption\n1.png\t"猫 在睡\n2.png\t狗\n3.png\t5" 的"屏\n')


def old_mac(source: Path) -> None:
    photos(source, range(1, 4))
    put(source / "t.csv", 'file_name,caption\r1.png,一\r2.png,"两\r行"\r3.png,三\r')


def excel_for_mac(source: Path) -> None:
    """Rows end with CR, lines within a cell with LF, and the columns are in Chinese."""
    photos(source, range(1, 4))
    put(source / "t.csv", '文件名,说明\r1.png,"两\n行"\r2.png,"三\n\n行"\r3.png,三\r'.encode("gb18030"))


def windows_tsv(source: Path) -> None:
    photos(source, range(1, 4))
    put(source / "t.tsv", '\ufefffile_name\ttext\r\n1.png\t"一\r\n二"\r\n2.png\t"""好"""\r\n3.png\t三\r\n')


def old_mac_utf16(source: Path) -> None:
    photos(source, range(1, 4))
    put(source / "t.csv", "file_name,caption\r1.png,一\r2.png,二\r3.png,਍\r".encode("utf-16"))


def old_mac_lines(source: Path) -> None:
    photos(source, range(1, 3))
    put(source / "t.jsonl", '{"image": "1.png", "text": "一"}\r{"image": "2.png", "text": "二"}\r')


#: Letters that a text may hold and that str.splitlines takes for ends of lines.
SEPARATORS = "a\u2028b\u2029c\x0bd\x0ce\x1cf\x85g"


def separators(source: Path) -> None:
    photos(source, range(1, 4))
    put(source / "t.jsonl", "".join(json.dumps({"image": f"{n}.png", "text": SEPARATORS}, ensure_ascii=False) + "\n"
                                    for n in range(1, 4)))  # fmt: skip


def separators_beside(source: Path) -> None:
    photos(source, (1,))
    put(source / "1.txt", f"{SEPARATORS}\rzwei\r\ntrois\nvier")


def data_juicer(source: Path) -> None:
    photos(source / "images", range(1, 6))
    rows = [
        {"images": ["1.png"], "text": "<__dj__image> 一只猫 <|__dj__eoc|>"},
        {"images": ["images/2.png", "3.png"], "text": "<__dj__image> 二 <|__dj__eoc|> <__dj__image> 三 <|__dj__eoc|>"},
        {"images": ["4.png", "5.png"], "text": "<__dj__image><__dj__image> 一起"},
        {"images": [], "text": "没有图"},
    ]
    put(source / "demo.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))


def llava(source: Path) -> None:
    photos(source / "images", range(1, 4))
    turns = [{"from": "human", "value": "<image>\n说说这张图"}, {"from": "gpt", "value": "一只猫"}]
    more = [*turns, {"from": "human", "value": "什么颜色？"}, {"from": "gpt", "value": "白"}]
    rows = [
        {"id": "0", "conversations": turns},
        {"id": "1", "image": "1.png", "conversations": turns},
        {"id": "2", "image": "2.png", "conversations": more},
        {"id": "3", "images": ["3.png"], "messages": [{"role": "user", "content": "?"},
                                                      {"role": "assistant", "content": "三"}]},
    ]  # fmt: skip
    put(source / "train.json", json.dumps(rows, ensure_ascii=False, indent=1))


def kohya(source: Path) -> None:
    photos(source, range(1, 5))
    rows = {
        "1.png": {"caption": "一", "tags": "cat, white"},
        "2": {"tags": "dog"},
        "/train/imgs/3.png": {"caption": "三", "train_resolution": [512, 512]},
        "C:\\train\\4": {"caption": "四"},
    }
    put(source / "meta_lat.json", json.dumps(rows, ensure_ascii=False))


def coco(source: Path) -> None:
    photos(source, range(1, 3))
    found = {
        "images": [{"id": 7, "file_name": "1.png"}, {"id": 8, "file_name": "2.png"}],
        "annotations": [{"image_id": i, "id": n, "caption": f"第{n}"} for n, i in enumerate((7, 8, 7))],
    }
    put(source / "captions.json", json.dumps(found, ensure_ascii=False))


def coco_as_published(source: Path) -> None:
    """Captions in a folder of their own, pictures in one a split, of which the captions say nothing."""
    photos(source / "train2017", range(1, 3))
    photos(source / "val2017", (3,))
    for split, numbers in (("train", (1, 2)), ("val", (3,))):
        found = {
            "images": [{"id": number, "file_name": f"{number}.png"} for number in numbers],
            "annotations": [{"image_id": number, "caption": f"第{number}"} for number in numbers],
        }
        put(source / f"annotations/captions_{split}2017.json", json.dumps(found, ensure_ascii=False))


def kohya_of_another_machine(source: Path) -> None:
    """Names that are alike but for their folders; one may be of two pictures and is of none."""
    for path, number in (("5_cat/a.PNG", 1), ("5_dog/a.png", 2), ("a.png", 3), ("x/b.png", 9), ("y/b.png", 9)):
        put(source / path, photo(number))
    rows = {"D:\\train\\5_cat\\a": "一", "/x/5_dog/a.png": "二", "/other/a": "三", "/z/b.png": "四"}
    rows = {name: {"caption": text} for name, text in rows.items()}
    put(source / "meta_cap.json", json.dumps(rows, ensure_ascii=False))


def pandas_json(source: Path) -> None:
    """A table as pandas writes it by its columns, which is what `to_json` does unasked, and by its index."""
    photos(source, range(1, 5))
    columns = {"file_name": {"0": "1.png", "1": "2.png"}, "text": {"0": "一", "1": "二"}}
    put(source / "columns.json", json.dumps(columns, ensure_ascii=False))
    index = {"0": {"file_name": "3.png", "text": "三"}, "1": {"file_name": "4.png", "text": "四"}}
    put(source / "index.json", json.dumps(index, ensure_ascii=False))


def listed_in_parquet(source: Path) -> None:
    rows = {
        "images": [[{"bytes": photo(1), "path": None}], [{"bytes": photo(2), "path": None}] * 2],
        "messages": [[{"role": "user", "content": "?"}, {"role": "assistant", "content": "一"}]] * 2,
    }
    source.mkdir(exist_ok=True)
    parquet.write_table(pa.table(rows), source / "t.parquet")


def files_of_parquet(source: Path) -> None:
    """As `datasets` writes pictures that are not embedded: the table's own folder comes first here as well."""
    put(source / "a.png", photo(9))
    put(source / "data" / "a.png", photo(1))
    rows = {"image": [{"bytes": None, "path": "a.png"}], "text": ["一"]}
    parquet.write_table(pa.table(rows), source / "data" / "t.parquet")


def half_of_a_parquet(source: Path) -> None:
    """One picture in the table, though a file has its name, and one in a file."""
    photos(source, range(1, 4))
    rows = [{"bytes": photo(4), "path": "1.png"}, {"bytes": None, "path": "2.png"}]
    parquet.write_table(pa.table({"image": rows, "text": ["四", "二"]}), source / "t.parquet")


def names_in_parquet(source: Path) -> None:
    photos(source, range(1, 3))
    parquet.write_table(pa.table({"images": [["1.png"], ["2.png"]], "text": ["一", "二"]}), source / "t.parquet")


def several_captions(source: Path) -> None:
    """Five rows a photo, not beside each other."""
    photos(source, range(1, 5))
    prefix = ("", "./", "", "./", "")
    lines = [f"{prefix[row]}{n}.png,{'一二三四五'[row]}{n}\n" for row in range(5) for n in range(1, 5)]
    put(source / "t.csv", "file,caption\n" + "".join(lines))


def unsorted_tar(source: Path) -> None:
    """As `tar cf x.tar *.jpg *.txt` packs."""
    source.mkdir(exist_ok=True)
    pictures = [(f"{n}.jpg", photo(n, "JPEG")) for n in range(1, 6)]
    pack(source / "x.tar", [*pictures, *((f"{n}.txt", f"第{n}".encode()) for n in (5, 3, 1, 2, 4))])


def dotted_tar(source: Path) -> None:
    source.mkdir(exist_ok=True)
    pairs = [(f"2024.{n:02}.jpg", photo(n, "JPEG")) for n in range(1, 4)]
    texts = [(f"2024.{n:02}.txt", f"第{n}".encode()) for n in range(1, 4)]
    kinds = [
        ("v1.5.image.png", photo(4)),
        ("v1.5.txt", "四".encode()),
        ("7.image.png", photo(5)),
        ("7.txt", "五".encode()),
    ]
    pack(source / "x.tar", [*(one for pair in zip(pairs, texts, strict=True) for one in pair), *kinds])
    pack(source / "y.tar", [*((name.replace("2024", "2025"), data) for name, data in (*pairs[1:2], *texts[1:2]))])


def odd_tar(source: Path) -> None:
    """No endings, capitals, letters composed otherwise, a format that is not read."""
    source.mkdir(exist_ok=True)
    apart, whole = (unicodedata.normalize(form, "é") for form in ("NFD", "NFC"))
    members = [("1", photo(1, "JPEG")), ("1.txt", b"one"), ("2.JPE", photo(2, "JPEG")), ("2.TXT", b"two")]
    members += [(f"{apart}.avif", photo(3, "AVIF")), (f"{whole}.txt", b"three"), ("4.jxl", b"\xff\x0a" + bytes(9))]
    pack(source / "x.tar", [*members, ("4.txt", b"four")])


def called_otherwise(source: Path) -> None:
    """Forms told by what they hold: JSON lines called .json, a list called .jsonl, a tar without an ending."""
    photos(source, range(1, 7))
    put(source / "lines.json", '{"image": "1.png", "text": "一"}\n{"image": "2.png", "text": "二"}\n')
    put(source / "list.jsonl", json.dumps([{"image": "3.png", "text": "三"}], indent=1))
    put(source / "names.json", json.dumps({"4.png": "四", "5.png": ["五", "伍"]}))
    put(source / "captions.txt", "6.png\t六\n")
    put(source / "notes.txt", "写给自己的")
    put(source / "settings.json", '{"a": {"b": 1}}')


def tar_without_an_ending(source: Path) -> None:
    source.mkdir(exist_ok=True)
    pack(source / "shard", [("1.png", photo(1)), ("1.txt", "一".encode())])
    pack(source / "X.TAR", [("2.png", photo(2)), ("2.txt", "二".encode())])


def dots_in_files(source: Path) -> None:
    for number, name in enumerate(("2024.00.jpg", "2024.01.JPG", "v1.5", "x.jpg.png"), 1):
        put(source / name, photo(number, "JPEG" if name.lower().endswith("jpg") else "PNG"))
    for name, text in (("2024.00", "一"), ("2024.01", "二"), ("v1.5", "三"), ("x.jpg.png", "四")):
        put(source / f"{name}.txt", text)


def strays(source: Path) -> None:
    """What lies about beside photos and looks a little like tables of pictures: none of it takes their place."""
    photos(source, (1, 2))
    put(source / "1.txt", "一")
    put(source / "2.txt", "二")
    put(source / "people.csv", "name,age\nBob,3\n")
    put(source / "files.jsonl", '{"path": "/usr/bin/python", "size": 3}\n')
    put(source / "config.json", '{"name": "my photos", "path": "photos"}')
    put(source / "list.json", '[{"name": "Bob"}]')
    put(source / "README.txt", "https://example.org/photos, see there\n")
    put(source / "licence.txt", "1.png, 2.png and others are mine")
    put(source / "backup.tar.gz", b"\x1f\x8b\x08" + bytes(99))


def bare_table(source: Path) -> None:
    """A table that is none of pictures lies beside them; captions are beside the pictures."""
    photos(source, (1, 2))
    put(source / "1.txt", "一")
    put(source / "2.txt", "二")
    put(source / "who.csv", "who,what\nme,that\n")


SOURCES = (
    Source("endings", endings, {n: (f"第 {n}",) for n in range(7)}, 3, {"pictures": 10, "captions": 10}, 6),
    Source("letters composed otherwise", composed, {1: ("一",), 2: ("二",), 3: ("三",)}, 0, None, 0),
    Source("composed otherwise in a table", composed_table, {1: ("一",), 2: ("二",)}),
    Source("a table's own folder", own_folder, {n: ("一二三四"[n - 1],) for n in range(1, 5)}, 0, None, 3),
    Source("TSV of pandas", pandas_tsv, {1: ('第一\n行，还有"引号"',), 2: ('"',), 3: ("一 tab\there",), 4: ("平常",)}),
    Source("TSV, the caption last", last_column, {1: ("第一行\n第二行",), 2: ("好",), 3: ("一\n\n三",)}),
    Source("TSV without quotes", letters_in_tsv, {1: ('"猫 在睡',), 2: ("狗",), 3: ('5" 的"屏',)}),
    Source("CR alone", old_mac, {1: ("一",), 2: ("两\r行",), 3: ("三",)}),
    Source("Excel for Mac", excel_for_mac, {1: ("两\n行",), 2: ("三\n\n行",), 3: ("三",)}),
    Source("TSV of Windows", windows_tsv, {1: ("一\r\n二",), 2: ('"好"',), 3: ("三",)}),
    Source("CR alone in UTF-16", old_mac_utf16, {1: ("一",), 2: ("二",), 3: ("਍",)}),
    Source("CR alone in JSON lines", old_mac_lines, {1: ("一",), 2: ("二",)}),
    Source("separators in JSON lines", separators, dict.fromkeys(range(1, 4), (SEPARATORS,))),
    Source("separators beside a picture", separators_beside, {1: (SEPARATORS, "zwei", "trois", "vier")}),
    Source("data-juicer", data_juicer, {1: ("一只猫",), 2: ("二",), 3: ("三",)}, 2, None, 2),
    Source("LLaVA", llava, {1: ("一只猫",), 2: ("一只猫",), 3: ("三",)}, 1),
    Source("kohya", kohya, {1: ("一", "cat, white"), 2: ("dog",), 3: ("三",), 4: ("四",)}),
    Source("COCO", coco, {1: ("第0", "第2"), 2: ("第1",)}),
    Source("COCO as published", coco_as_published, {n: (f"第{n}",) for n in range(1, 4)}),
    Source("kohya elsewhere", kohya_of_another_machine, {1: ("一",), 2: ("二",), 3: ("三",)}, 1, not_read=2),
    Source("JSON of pandas", pandas_json, {n: ("一二三四"[n - 1],) for n in range(1, 5)}),
    Source("lists in parquet", listed_in_parquet, {1: ("一",)}, 1),
    Source("files of a parquet", files_of_parquet, {1: ("一",)}, not_read=1),
    Source("half of a parquet", half_of_a_parquet, {2: ("二",), 4: ("四",)}, not_read=2),
    Source("lists of names in parquet", names_in_parquet, {1: ("一",), 2: ("二",)}),
    Source("several captions", several_captions, {n: tuple(f"{c}{n}" for c in "一二三四五") for n in range(1, 5)}),
    Source("an unsorted tar", unsorted_tar, {n: (f"第{n}",) for n in range(1, 6)}),
    Source("dots in names", dotted_tar, {1: ("第1",), 2: ("第2",), 3: ("第3",), 4: ("四",), 5: ("五",)}),
    Source("odd names in a tar", odd_tar, {1: ("one",), 2: ("two",), 3: ("three",)}, 1),
    Source(
        "called otherwise",
        called_otherwise,
        {1: ("一",), 2: ("二",), 3: ("三",), 4: ("四",), 5: ("五", "伍"), 6: ("六",)},
        not_read=2,
    ),
    Source("tars by their bytes", tar_without_an_ending, {1: ("一",), 2: ("二",)}),
    Source("dots in names of files", dots_in_files, {1: ("一",), 2: ("二",), 3: ("三",), 4: ("四",)}),
    Source("strays", strays, {1: ("一",), 2: ("二",)}, 1, not_read=6),
    Source("a table of something else", bare_table, {1: ("一",), 2: ("二",)}, 0, None, 1),
)


def curated(source: Path, out: Path) -> dict[str, Any]:
    return curate(source, out, Curation(name="none"), tools=Tools(lambda name: pytest.fail(name)))


def samples(folder: Path) -> list[tuple[str, tuple[str, ...]]]:
    """(SHA-256 of the picture, captions) of every sample, in any order: names of samples are each writer's own."""
    found = [
        (hashlib.sha256(data).hexdigest(), tuple(caption["text"] for caption in row["captions"]))
        for _, data, row in shards.read(folder)
    ]
    return sorted(found)


@pytest.mark.parametrize("case", SOURCES, ids=lambda case: case.name)
def test_all_readers_give_the_same_rows(case: Source, tmp_path: Path) -> None:
    source = tmp_path / "source"
    case.make(source)
    report = build_folder(source, tmp_path / "folder")
    account = curated(source, tmp_path / "curated")
    numbers = account["numbers"]
    # The rows, by what is in them.
    found = {
        number_of(data): tuple(c["text"] for c in row["captions"]) for _, data, row in shards.read(tmp_path / "folder")
    }
    wanted = dict(case.rows)
    if case.name == "dots in names":  # the second of them lies in both tars
        assert report.kept == 6
    else:
        assert report.kept == len(wanted)
    assert found == wanted
    assert samples(tmp_path / "folder") == samples(tmp_path / "curated")
    # The accounts, to the row.
    assert (report.kept, len(report.left), report.joined) == (
        numbers["kept"],
        numbers["failed"],
        numbers["dropped"],
    )
    assert report.rows == numbers["rows_in"] == report.kept + len(report.left) + report.joined
    assert len(report.left) == case.lost
    assert report.rows == sum(1 for _ in reading.rows(source))
    # Training reads either, and nothing else.
    learnt, other = Pictures(tmp_path / "folder"), Pictures(tmp_path / "curated")
    assert len(learnt) == report.kept
    assert sorted(zip(learnt.contents, learnt.captions, strict=True)) == sorted(
        zip(other.contents, other.captions, strict=True)
    )
    # Every file is in the account.
    files = dict(account["files"])
    files.pop("read_as")
    assert files == report.files
    there = sum(1 for path in source.rglob("*") if path.is_file())
    left = sum(row["count"] for row in files["not_read"])
    assert files["total"] == there == sum(files["read"].values()) + left
    assert left == case.not_read
    if case.files is not None:
        assert files["read"] == case.files


@pytest.mark.parametrize("make", [several_captions, unsorted_tar, data_juicer, endings], ids=lambda make: make.__name__)
def test_the_same_bytes_with_any_number_of_workers(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "source")
    products: list[dict[str, str]] = []
    for workers in (None, ProcessExecutor(2, ()), None):
        out = tmp_path / f"out-{len(products)}"
        tools = Tools(lambda name: pytest.fail(name))
        curate(tmp_path / "source", out, Curation(name="none"), tools=tools, workers=workers)
        files = [*out.glob("*.tar"), *out.glob("table/*"), out / "selection.parquet", out / "index.json"]
        products.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files})
    assert products[0] == products[1] == products[2]


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    endings(tmp_path / "source")
    report = build_folder(tmp_path / "source", tmp_path / "data")
    assert {name: reason.en for name, reason in report.left} == dict.fromkeys(
        ("h.heic", "i.jxl", "mif.heif"), "not a format that is read; convert it to JPEG or PNG"
    )
    named = {row["reason"]: row["examples"] for row in report.files["not_read"]}
    assert named == {
        "hidden, or left behind by a system": [".DS_Store", ".git/config", "__MACOSX/._a.jfif"],
        "no picture, no captions and no table": ["README.md"],
        "captions without a picture of their name": ["lonely.txt"],
        "raw files of a camera; convert them to JPEG or PNG": ["raw.NEF"],
    }
    bare_table(tmp_path / "bare")
    report = build_folder(tmp_path / "bare", tmp_path / "other")
    assert [row["examples"] for row in report.files["not_read"]] == [["who.csv: who, what"]]


def test_rows_of_one_picture_keep_every_caption_through_duplicates(tmp_path: Path) -> None:
    """Copies are of files; rows that name one picture are no copies of it."""
    from bimo.curation.dedup.duplicates import Duplicates

    source = tmp_path / "source"
    several_captions(source)
    for number in range(1, 5):
        noise = Image.effect_noise((64, 64), 40 * number).convert("RGB")
        noise.save(source / f"{number}.png")
    report = curate(
        source, tmp_path / "out", Curation(name="d", steps=(Duplicates(),)), tools=Tools(lambda name: pytest.fail(name))
    )
    captions = [caption for _, _, row in shards.read(tmp_path / "out") for caption in row["captions"]]
    assert len(captions) == 20
    numbers = report["numbers"]
    assert (numbers["rows_in"], numbers["kept"], numbers["dropped"]) == (20, 4, 16)
    rule = report["rules"][-1]
    assert (rule["rule"], rule["dropped"], rule["en"]) == (
        "OnePicture",
        16,
        "captions joined to the first row of the same picture",
    )
    again = curate(
        source, tmp_path / "out", Curation(name="d", steps=(Duplicates(),)), tools=Tools(lambda name: pytest.fail(name))
    )
    assert again["numbers"]["pictures_opened"] == 0
    assert again["rules"] == report["rules"]


@pytest.mark.parametrize("content", ["file_name,caption\n", "file_name,caption\r\n\r\n"])
def test_an_empty_source_is_an_error_that_leaves_nothing(content: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    put(source / "t.csv", content)
    for run in (curated, build_folder):
        with pytest.raises(DataError, match=r"is empty: .*not one row|holds not one usable picture"):
            run(source, tmp_path / "a" / "out")
        assert not (tmp_path / "a").exists()


def test_a_wrong_source_does_not_stand_in_the_way_of_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "wrong").mkdir()
    photos(tmp_path / "right", (1,))
    put(tmp_path / "right/1.txt", "一")
    for run, out in ((curated, tmp_path / "curated"), (build_folder, tmp_path / "folder")):
        for wrong in (tmp_path / "wrong", tmp_path / "nowhere"):
            with pytest.raises(DataError):
                run(wrong, out)
            assert not out.exists()
        run(tmp_path / "right", out)
        assert len(Pictures(out)) == 1


def test_data_is_not_written_into_its_own_source(tmp_path: Path) -> None:
    photos(tmp_path, (1,))
    put(tmp_path / "1.txt", "一")
    for out in (tmp_path, tmp_path / "data"):
        with pytest.raises(DataError, match=r"are one|lies in"):
            build_folder(tmp_path, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.png", "1.txt"]


def test_a_table_alone_and_addresses(tmp_path: Path) -> None:
    photos(tmp_path / "source", (1, 2))
    table = put(tmp_path / "source/t.csv", "file,caption\n1.png,一\nhttps://example.org/2.png,二\n")
    report = build_folder(table, tmp_path / "data")
    assert (report.kept, [reason.name for _, reason in report.left]) == (1, ["ADDRESS"])
    assert report.files["read"] == {"tables": 1}
