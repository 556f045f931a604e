"""What hostile input gets: a reason on record, or a row like any other; never an end of the run, never a hang.

Every case lies beside one good pair, which must come through. The tables of docs/en/curation.md and
docs/zh/curation.md are made from this one.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import ipc, parquet

from bimo.curation.decoded_image import decode_image
from bimo.curation.readers import reading
from bimo.curation.readers.rows import Broken, Row, Unusable
from tests.support.checkout import ROOT

DOCS = ROOT / "docs"
KEPT = "kept"
GOOD = "好的一张"


def encoded(kind: str = "PNG", size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, further: bytes = b"", pixels: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = header + further + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(10 << 20))
    return buffer.getvalue()


Make = Callable[[Path], object]


@dataclass(frozen=True)
class Hostile:
    """A source with something wrong in it, and what each of its lines gets but for the good one, in order."""

    zh: str
    en: str
    gets: tuple[str, ...]
    make: Make


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def picture(data: bytes, name: str = "x.jpg", caption: bytes | None = b"x") -> Make:
    """A folder of two pictures."""

    def make(folder: Path) -> None:
        write(folder / name, data)
        if caption is not None:
            write((folder / name).with_suffix(".txt"), caption)
        good(folder)

    return make


def good(folder: Path) -> None:
    write(folder / "zz" / "good.png", encoded())
    write(folder / "zz" / "good.txt", GOOD)


def beside(make: Make) -> Make:
    """Something made in a folder with a good picture."""

    def both(folder: Path) -> None:
        good(folder)
        make(folder)

    return both


def lines(*bad: str | bytes) -> Make:
    """JSON lines."""

    def make(folder: Path) -> None:
        good(folder)
        last = json.dumps({"image": "zz/good.png", "text": GOOD}).encode()
        found = [line.encode() if isinstance(line, str) else line for line in bad]
        write(folder / "t.jsonl", b"\n".join([*found, last]) + b"\n")

    return make


def cells(*bad: str | bytes, encoding: str = "utf-8") -> Make:
    """CSV."""

    def make(folder: Path) -> None:
        good(folder)
        found = [line.encode(encoding) if isinstance(line, str) else line for line in bad]
        rows = ["file,caption\n".encode(encoding), *found, f"zz/good.png,{GOOD}\n".encode(encoding)]
        write(folder / "t.csv", b"".join(rows))

    return make


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, data


def packed(*members: tuple[tarfile.TarInfo, bytes], change: Callable[[bytes], bytes] = bytes) -> Make:
    """Two tars: a hostile one and a good one."""

    def make(folder: Path) -> None:
        for name, content in (("a", members), ("z", (member("g.png", encoded()), member("g.txt", GOOD.encode())))):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as archive:
                for info, data in content:
                    archive.addfile(info, io.BytesIO(data))
            write(folder / f"{name}.tar", change(buffer.getvalue()) if name == "a" else buffer.getvalue())

    return make


def tabled(
    table: pa.Table | bytes, cut: float = 1.0, name: str = "a.parquet", change: Callable[[bytes], bytes] = bytes
) -> Make:
    """Two tables of Parquet, or Arrow."""

    def make(folder: Path) -> None:
        if isinstance(table, bytes):
            write(folder / name, table)
        elif name.endswith("parquet"):
            parquet.write_table(table, folder / name)
        else:
            with ipc.new_file(str(folder / name), table.schema) as writer:
                writer.write_table(table)
        data = change((folder / name).read_bytes())
        write(folder / name, data[: int(len(data) * cut)])
        parquet.write_table(pa.table({"image": [encoded()], "text": [GOOD]}), folder / "z.parquet")

    return make


def link(target: str, name: str = "x.jpg") -> Make:
    return beside(lambda folder: os.symlink(target, folder / name))


def outside(folder: Path) -> Path:
    """A readable picture that lies out of the source."""
    write(folder.parent / "beyond" / "secret.png", encoded())
    return folder.parent / "beyond"


def with_caption(caption: str) -> Make:
    return picture(encoded(), "x.png", caption.encode())


def in_base64(data: bytes) -> str:
    return json.dumps({"image_base64": base64.b64encode(data).decode(), "text": "x"})


def astray(data: bytes) -> bytes:
    """The end of the first picture, which stands before its bytes behind a 0, far out of the file."""
    place = struct.pack("<ii", 0, len(encoded()))
    start = data.rindex(place, 0, data.index(b"\x89PNG"))
    return data[:start] + struct.pack("<ii", 0, 1 << 30) + data[start + len(place) :]


ONE = pa.table({"image": [encoded()], "text": ["x"]})

CASES = (
    Hostile(
        "PNG 头写着 30000×30000",
        "a PNG that claims 30,000 x 30,000 pixels",
        ("too large",),
        picture(png(30_000, 30_000)),
    ),
    Hostile(
        "PNG 头写着 20 亿×20 亿",
        "a PNG that claims 2e9 x 2e9 pixels",
        ("too large",),
        picture(png(2 * 10**9, 2 * 10**9)),
    ),
    Hostile(
        "GIF 头写着 65535×65535",
        "a GIF that claims 65,535 x 65,535 pixels",
        ("too large",),
        picture(b"GIF89a" + b"\xff" * 4 + encoded("GIF")[10:]),
    ),
    Hostile("真的 30000×8 像素", "a real picture of 30,000 x 8 pixels", (KEPT,), picture(encoded(size=(30_000, 8)))),
    Hostile(
        "像素解压后太多的 PNG",
        "a PNG with 1,000 times the pixels it claims",
        (KEPT,),
        picture(png(8, 8, b"", bytes(72_000))),
    ),
    Hostile(
        "带 64 MB 压缩文本块的 PNG",
        "a PNG with a text chunk that unpacks to 64 MB",
        ("damaged",),
        picture(png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(64 << 20))), bytes(72))),
    ),
    Hostile(
        "带 64 MB 色彩配置的 PNG",
        "a PNG with a colour profile that unpacks to 64 MB",
        ("damaged",),
        picture(png(8, 8, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(64 << 20))), bytes(72))),
    ),
    Hostile("改名为 .jpg 的 zip 炸弹", "a zip bomb named .jpg", ("not a picture",), picture(zipped())),
    Hostile(
        "改名为 .png 的 gzip",
        "a gzip bomb named .png",
        ("not a picture",),
        picture(gzip.compress(bytes(10 << 20)), "x.png"),
    ),
    Hostile("半张 JPEG", "half a JPEG", ("truncated",), picture(encoded("JPEG")[: len(encoded("JPEG")) // 2 + 200])),
    Hostile(
        "缺最后几个字节的 JPEG", "a JPEG without its last 20 bytes", ("truncated",), picture(encoded("JPEG")[:-20])
    ),
    Hostile("只有 JPEG 头", "a JPEG of four bytes", ("damaged",), picture(b"\xff\xd8\xff\xe0")),
    Hostile("只有一半的 PNG", "half a PNG", ("truncated",), picture(encoded()[: len(encoded()) // 2], "x.png")),
    Hostile(
        "只有一半的 WEBP",
        "half a WEBP",
        ("truncated",),
        picture(encoded("WEBP")[: len(encoded("WEBP")) // 2], "x.webp"),
    ),
    Hostile(
        "只有一半的 GIF", "half a GIF", ("truncated",), picture(encoded("GIF")[: len(encoded("GIF")) // 2], "x.gif")
    ),
    Hostile("零字节图片", "a picture of 0 bytes", ("empty",), picture(b"")),
    Hostile(
        "改名为 .jpg 的网页", "a web page named .jpg", ("not a picture",), picture(b"<html><title>404</title></html>")
    ),
    Hostile("改名为 .jpg 的 PNG", "a PNG named .jpg", (KEPT,), picture(encoded())),
    Hostile(
        "改名为 .png 的 SVG",
        "an SVG named .png",
        ("not a picture",),
        picture(b'<svg xmlns="http://www.w3.org/2000/svg"/>', "x.png"),
    ),
    Hostile(
        "改名为 .png 的 PostScript",
        "PostScript named .png",
        ("not a picture",),
        picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "x.png"),
    ),
    Hostile(
        "指向文件夹外图片的链接",
        "a link to a picture out of the folder",
        ("outside the folder",),
        beside(lambda f: os.symlink(outside(f) / "secret.png", f / "x.png")),
    ),
    Hostile(
        "指向外面文件夹的链接",
        "a link to a folder out of the folder",
        ("outside the folder",),
        beside(lambda f: os.symlink(outside(f), f / "x")),
    ),
    Hostile(
        "说明是指向外面的链接",
        "captions that are a link out of the folder",
        ("outside the folder",),
        beside(lambda f: (write(f / "x.png", encoded()), os.symlink("/etc/hostname", f / "x.txt"))),
    ),
    Hostile("指向自己的链接", "a link to itself", ("unreadable",), link("x.jpg")),
    Hostile("指向不存在文件的链接", "a link to nothing", ("missing",), link("gone.jpg")),
    Hostile("指向上级文件夹的链接", "a link to the folder it is in", (), link(".", "loop")),
    Hostile(
        "名为 x.jpg 的文件夹", "a folder named x.jpg, with a picture in it", (KEPT,), picture(encoded(), "x.jpg/y.png")
    ),
    Hostile("名为 x.jpg 的管道", "a pipe named x.jpg", ("not a file",), beside(lambda f: os.mkfifo(f / "x.jpg"))),
    Hostile(
        "说明是管道",
        "captions that are a pipe",
        ("not a file",),
        beside(lambda f: (write(f / "x.png", encoded()), os.mkfifo(f / "x.txt"))),
    ),
    Hostile(
        "名为表、索引和 tar 的管道",
        "pipes named like tables, an index and a tar",
        ("not a file",) * 4,
        beside(lambda f: [os.mkfifo(f / name) for name in ("a.csv", "a.tar", "b.parquet", "index.json")]),
    ),
    Hostile(
        "指向外面的表和 tar 的链接",
        "links to a table and a tar out of the folder",
        ("outside the folder",) * 2,
        beside(lambda f: [os.symlink(outside(f) / "secret.png", f / name) for name in ("metadata.csv", "a.tar")]),
    ),
    Hostile(
        "没有权限的图片",
        "a picture that may not be read",
        ("unreadable",),
        beside(lambda f: (write(f / "x.png", encoded()), os.chmod(f / "x.png", 0))),
    ),
    Hostile(
        "不是 UTF-8 的文件名",
        "a file name that is not UTF-8",
        (KEPT,),
        beside(lambda f: (f / os.fsdecode("中文".encode("gbk")[:3] + b".png")).write_bytes(encoded())),
    ),
    Hostile(
        "表情和扩展 B 区汉字的文件名",
        "a file name of emoji and rare characters",
        (KEPT,),
        picture(encoded(), "👩‍👩‍👧𠮷.png"),
    ),
    Hostile(
        "只有大小写不同的文件名",
        "names that differ in case alone",
        (KEPT, KEPT),
        beside(lambda f: [write(f / n, encoded()) for n in ("A.png", "a.png")]),
    ),
    Hostile("一百层文件夹", "a hundred folders deep", (KEPT,), picture(encoded(), "d/" * 100 + "x.png")),
    Hostile("10 MB 的说明", "a caption of 10 MB", ("caption too long",), with_caption("很长的说明" * 700_000)),
    Hostile(
        "含控制符和方向符的说明",
        "control characters and bidi marks in a caption",
        (KEPT,),
        with_caption("猫\x00\x07\x1b[31m\u202eexe.gpj\u2066"),
    ),
    Hostile(
        "不是文字的说明",
        "captions that are no text",
        ("not text",),
        picture(encoded(), caption=b"\xff\xfe\xff" + bytes(range(128, 256))),
    ),
    Hostile(
        "嵌套一万层的 JSON 说明",
        "a JSON of 10,000 lists in each other beside a picture",
        ("not json",),
        beside(lambda f: (write(f / "x.png", encoded()), write(f / "x.json", "[" * 10_000))),
    ),
    Hostile("jsonl 里只有一个列表", "a list for a line of JSON", ("not an object",), lines('["zz/good.png", "x"]')),
    Hostile("jsonl 里半行", "half a line of JSON", ("not json",), lines('{"image": "zz/good.png", "text": "x')),
    Hostile(
        "jsonl 里的 NaN",
        "NaN and Infinity in a column of numbers",
        (KEPT,),
        lines('{"image": "zz/good.png", "text": "x", "score": NaN, "n": -Infinity}'),
    ),
    Hostile(
        "jsonl 里半个字符",
        "half a character in JSON",
        ("not text",),
        lines('{"image": "zz/good.png", "text": "\\ud800"}'),
    ),
    Hostile(
        "jsonl 里不是 UTF-8 的一行",
        "a line of JSON that is not UTF-8",
        ("not text",),
        lines(b'{"image": "zz/good.png", "text": "\xff\xff"}'),
    ),
    Hostile(
        "重复的键",
        "one key twice in a line; the second counts",
        (KEPT,),
        lines('{"image": "gone", "image": "zz/good.png", "text": "x"}'),
    ),
    Hostile(
        "路径里有 ../",
        "a path with ../",
        ("outside the folder",),
        lines('{"image": "../../../../../../etc/passwd", "text": "x"}'),
    ),
    Hostile("绝对路径", "an absolute path", ("outside the folder",), lines('{"image": "/etc/passwd", "text": "x"}')),
    Hostile("file:// 地址", "an address of file://", ("missing",), lines('{"url": "file:///etc/passwd", "text": "x"}')),
    Hostile(
        "路径里有零字节",
        "a zero byte in a path",
        ("missing",),
        lines('{"image": "zz/good.png\\u0000.jpg", "text": "x"}'),
    ),
    Hostile(
        "很长的路径",
        "a path of 100,000 letters",
        ("unreadable",),
        lines(json.dumps({"image": "x" * 100_000 + ".png", "text": "x"})),
    ),
    Hostile("坏的 base64", "base64 that is none", ("not base64",), lines('{"image_base64": "!!!", "text": "x"}')),
    Hostile("base64 里是网页", "base64 of a web page", ("not a picture",), lines(in_base64(b"<html>" * 20))),
    Hostile(
        "csv 列数不对",
        "too few and too many columns",
        ("wrong number of columns",) * 2,
        cells("zz/good.png\n", "zz/good.png,a,b\n"),
    ),
    Hostile("csv 引号没有关", "a quote that is never closed", ("open quote",), cells('zz/good.png,"x\n')),
    Hostile(
        "csv 里不是 UTF-8 的一行",
        "a line of CSV that is not UTF-8",
        (KEPT, "not text"),
        cells("zz/good.png,这一行是好的\n", b"zz/good.png,\xff\xff\n"),
    ),
    Hostile(
        "没有标记的 UTF-16 csv", "CSV in UTF-16 without a mark", (KEPT,), cells("zz/good.png,x\n", encoding="utf-16-le")
    ),
    Hostile("csv 里的零字节", "a zero byte in CSV", (KEPT,), cells("zz/good.png,x\0y\n")),
    Hostile(
        "没有图片列的 parquet",
        "a parquet without a column of pictures",
        ("no picture",),
        tabled(pa.table({"who": [1]})),
    ),
    Hostile(
        "图片列是数字的 parquet",
        "a parquet whose pictures are numbers",
        ("no picture",),
        tabled(pa.table({"image": [1.5], "text": ["x"]})),
    ),
    Hostile("截断的 parquet", "half a parquet", ("damaged table",), tabled(ONE, 0.5)),
    Hostile("名为 .parquet 的文本", "text named .parquet", ("no picture",), tabled(b"hello\nworld\n")),
    Hostile(
        "空值与 NaN 的 parquet",
        "nulls and NaN in a parquet",
        ("empty", KEPT),
        tabled(pa.table({"image": [None, encoded()], "text": [None, "x"], "s": [float("nan"), None]})),
    ),
    Hostile("截断的 Arrow", "half an Arrow file", ("damaged table",), tabled(ONE, 0.5, "a.arrow")),
    Hostile(
        "位置乱写的 Arrow",
        "an Arrow file whose places point anywhere",
        ("damaged table",),
        tabled(ONE, name="a.arrow", change=astray),
    ),
    Hostile(
        "parquet 里一格不是 UTF-8",
        "one cell of a parquet that is not UTF-8",
        (KEPT, "not text"),
        tabled(pa.table({"image": [encoded()] * 2, "text": pa.array([b"x", b"\xff\xff"]).view(pa.string())})),
    ),
    Hostile(
        "名字带 ../ 的 tar",
        "names with ../ in a tar, which is never unpacked",
        (KEPT,),
        packed(member("../../x.png", encoded())),
    ),
    Hostile(
        "tar 里的链接",
        "a link in a tar",
        ("not a file",),
        packed(member("x.png", kind=tarfile.SYMTYPE, link="/etc/passwd")),
    ),
    Hostile(
        "tar 里的硬链接",
        "a hard link in a tar",
        ("not a file",),
        packed(member("x.png", kind=tarfile.LNKTYPE, link="/etc/passwd")),
    ),
    Hostile("tar 里的设备", "a device in a tar", ("not a file",), packed(member("x.png", kind=tarfile.CHRTYPE))),
    Hostile(
        "tar 里同名的两个",
        "two of one name in a tar",
        (KEPT, KEPT),
        packed(member("x.png", encoded()), member("x.png", encoded())),
    ),
    Hostile("tar 里只有说明", "a caption without a picture in a tar", ("no picture",), packed(member("x.txt", b"x"))),
    Hostile(
        "在图片中间截断的 tar",
        "a tar cut within a picture",
        ("damaged archive", "damaged archive"),
        packed(member("x.png", encoded()), change=lambda data: data[:600]),
    ),
    Hostile("零字节的 tar", "a tar of 0 bytes", ("damaged archive",), packed(change=lambda _: b"")),
    Hostile(
        "gzip 压缩的 tar",
        "a tar packed with gzip",
        ("compressed archive",),
        packed(change=lambda data: gzip.compress(bytes(10 << 20))),
    ),
    Hostile(
        "tar 头写着 1 TB",
        "a tar whose member claims 1 TB",
        ("too many bytes", "damaged archive"),
        packed(member("x.png", encoded()), change=lambda data: huge(data)),
    ),
)


def huge(data: bytes) -> bytes:
    """The size of the first member, as GNU writes those above 8 GB."""
    info = tarfile.TarInfo.frombuf(data[:512], "utf-8", "strict")
    info.size = 1 << 40
    return info.tobuf(tarfile.GNU_FORMAT) + data[512:]


def outcomes(source: Path) -> list[str]:
    """What every line of a source gets, but for the one good one."""
    found: list[str] = []
    were_good = 0
    for row in reading.rows(source):
        if isinstance(row, Broken):
            found.append(row.reason)
            continue
        try:
            decode_image(reading.picture_bytes(source, row.picture))
        except Unusable as error:
            found.append(error.reason)
        else:
            were_good += row.captions == (GOOD,)
            found += [KEPT] if row.captions != (GOOD,) else []
    assert were_good == 1
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.en)
def test_every_hostile_file_has_its_listed_outcome(case: Hostile, tmp_path: Path) -> None:
    if case.en == "a picture that may not be read" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    source = tmp_path / "source"
    source.mkdir()
    case.make(source)
    assert outcomes(source) == list(case.gets)
    assert reading.state(source) == reading.state(source)


def test_controls_and_marks_reach_the_rules_as_they_are(tmp_path: Path) -> None:
    with_caption("猫\x07\u202e狗")(tmp_path)
    first = next(reading.rows(tmp_path))
    assert isinstance(first, Row)
    assert first.captions == ("猫\x07\u202e狗",)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_has_this_table(language: str) -> None:
    assert len(CASES) >= 40
    assert len({case.en for case in CASES}) == len({case.zh for case in CASES}) == len(CASES)
    rows = [f"| {getattr(case, language)} | {', '.join(case.gets) or 'not followed'} |" for case in CASES]
    text = (DOCS / language / "curation.md").read_text("utf-8")
    missing = [row for row in rows if row not in text.splitlines()]
    assert not missing, "\n".join(rows)
