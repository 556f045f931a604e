"""Readers of published prompt suites from the user's files. Nothing is downloaded; unusable rows are counted.

The formats are those of the published files, of which no row is lost; ``unverified`` ones follow papers and other
readers, without a published file to check against.
"""

# Parsed JSON has no types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import ast
import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bimo.core.errors import DataError, RequestError
from bimo.core.files import read_regular
from bimo.core.messages import Message
from bimo.core.part import meant
from bimo.evaluation.suites.suite import Check, Prompt, Suite, own, without_duplicates

MAXIMUM_BYTES = 1 << 28
OWN = "chinese"
#: OneIG's category of prompts with text.
ONEIG_TEXT = "Text_Rendering"
Row = Mapping[str, Any]
_HAN = re.compile("[\u3400-\u9fff]")
#: An apostrophe within a word is no quote.
_IN_QUOTES = re.compile("(?<!\\w)['\"“](.+?)['\"”](?!\\w)")
_QUOTED = re.compile('[“「『"]([^”」』"]+)[”」』"]')

NO_TEXT, NO_WRITTEN = Message("no text"), Message("no text that is to be written")
NO_JSON, OTHER = Message("line is no JSON"), Message("row of another format")


class Unusable(Exception):
    """A row that is not a prompt; the reason's English text is a key of ``Suite.unusable``."""

    def __init__(self, reason: Message) -> None:
        super().__init__(reason.text)
        self.reason = reason


@dataclass(frozen=True)
class Format:
    """How a suite's file is parsed: ``rows`` splits it, ``prompts`` converts one row."""

    rows: Callable[[str], Iterator[Any]]
    prompts: Callable[[Any, int], Iterable[Prompt]]
    licence: str
    unverified: bool = False


def open_suite(name_or_path: str) -> Suite:
    """Opens ``chinese``, ``NAME:FILE`` for one of ``FORMATS``, or a file of prompts: text lines, or a table or JSON
    lines with a column ``prompt`` or ``text``. Raises RequestError for an unknown name, DataError for a file without
    prompts.
    """
    if name_or_path == OWN:
        return own()
    name, colon, file = name_or_path.partition(":")
    if not colon or len(name) == 1:  # C:\prompts.txt
        if name_or_path in FORMATS:
            raise RequestError(
                "the suite {name} is not in the package; give the file that you have, as {name}:FILE", name=name_or_path
            )
        if not Path(name_or_path).is_file():
            near = meant(name_or_path, [OWN, *FORMATS])
            raise RequestError(
                "there is no suite {suite!r}, and no such file of prompts{near}; all but chinese with a file of yours, "
                "as NAME:FILE",
                suite=name_or_path,
                near=near,
            )
        return read_suite(Path(name_or_path).name, Path(name_or_path), PLAIN)
    if name not in FORMATS:
        near = meant(name, FORMATS)
        raise RequestError("there is no suite {name!r}{near}", name=name, near=near)
    return read_suite(name, Path(file), FORMATS[name])


def read_suite(name: str, path: Path, form: Format) -> Suite:
    """The prompts of a file. Raises DataError if there are none, or if it is not UTF-8 text."""
    try:
        text = read_regular(path, MAXIMUM_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("{path} is no text in UTF-8; convert it", path=path) from None
    unusable: Counter[str] = Counter()
    prompts: list[Prompt] = []
    for number, row in enumerate(form.rows(text), 1):
        try:
            if isinstance(row, Unusable):
                raise row
            prompts += form.prompts(row, number)
        except Unusable as error:
            unusable[error.reason.text] += 1
        except (KeyError, TypeError, ValueError, SyntaxError, AttributeError, IndexError):
            unusable[OTHER.text] += 1
    unique = without_duplicates(prompts, unusable)
    return Suite(name, unique, form.licence, unusable, form.unverified)


def _json_lines(text: str) -> Iterator[Any]:
    for line in text.splitlines():
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError:
                yield Unusable(NO_JSON)


def _json(text: str) -> Iterator[Any]:
    """JSON lines, or a JSON array, or an object with one array in it."""
    try:
        whole = json.loads(text)
    except ValueError:
        yield from _json_lines(text)
        return
    if isinstance(whole, Mapping):
        arrays = [value for value in whole.values() if isinstance(value, list)]
        whole = arrays[0] if len(arrays) == 1 else [whole]
    yield from cast(list[Any], whole) if isinstance(whole, list) else [whole]


def _table(delimiter: str) -> Callable[[str], Iterator[Any]]:
    def rows(text: str) -> Iterator[Any]:
        reader = csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter, strict=False)
        yield from reader

    return rows


def _tab_lines(text: str) -> Iterator[Any]:
    for line in text.splitlines():
        if line.strip():
            yield line.split("\t") if "\t" in line else line.split(maxsplit=1)


def _words(value: Any) -> str:
    text = " ".join(str(value).split()) if isinstance(value, str) else ""
    if not text:
        raise Unusable(NO_TEXT)
    return text


def _language(text: str) -> str:
    """By what is not quoted: an English prompt may want Chinese in the picture."""
    around = _QUOTED.sub("", text)
    return "zh" if _HAN.search(around if re.search(r"\w", around) else text) else "en"


def _captions(group: str) -> Callable[[Any, int], Iterator[Prompt]]:
    """Lines of image id, tab, caption: COCO_val2014_000000217153#0."""

    def prompts(row: Any, number: int) -> Iterator[Prompt]:
        key, text = row
        yield Prompt(key, group, "zh", _words(text), image=key.partition("#")[0])

    return prompts


def _aic_icc(row: Row, number: int) -> Iterator[Prompt]:
    captions = row["caption"]
    yield Prompt(str(row["image_id"]), "aic-icc", "zh", _words(captions[0]), image=str(row["image_id"]))


def _muge(row: Row, number: int) -> Iterator[Prompt]:
    items = row.get("item_ids") or [""]
    yield Prompt(str(row["query_id"]), "muge", "zh", _words(row["query_text"]), image=str(items[0]))


def _unigenbench(row: Row, number: int) -> Iterator[Prompt]:
    dimensions = json.loads(row["sub_dims_zh"])
    points: list[str] = dimensions["考点"]
    descriptions: list[str] = dimensions.get("考点对应描述") or []
    if len(descriptions) != len(points):  # the descriptions do not correspond to the points
        descriptions = []
    checks = tuple(Check(f"“{phrase}”", "") for phrase in descriptions)
    group = points[0].partition("-")[0]
    yield Prompt(str(row["index"]), group, "zh", _words(row["prompt_zh"]), checks)


def _longtext(row: Row, number: int) -> Iterator[Prompt]:
    text = _words(row["prompt"])
    yield Prompt(f"{number:03d}", str(row["category"]), _language(text), text, written=tuple(row["text"]))


def _oneig(row: Row, number: int) -> Iterator[Prompt]:
    """Rows of OneIG-Bench-ZH.csv, where the texts are what is quoted (7 of 200 are not), or of text_content_zh.csv,
    which has the texts.
    """
    text = _words(row.get("prompt_cn") or row.get("prompt_en"))
    category, written = row.get("category") or ONEIG_TEXT, row.get("text_content")
    if written is not None:
        texts = tuple(str(part) for part in ast.literal_eval(written))
    else:
        texts = tuple(_QUOTED.findall(text)) if category == ONEIG_TEXT else ()
    yield Prompt(f"{category}-{row['id']}", category, _language(text), text, written=texts)


def _wegenbench(row: Row, number: int) -> Iterator[Prompt]:
    written = row.get("text") or []
    written = [written] if isinstance(written, str) else written
    group = str(row.get("type") or row.get("scene") or row.get("category") or "all")
    text, key = _words(row["prompt"]), str(row["id"]).removesuffix(".png")  # ids of its general part are files
    yield Prompt(key, group, _language(text), text, written=tuple(str(part) for part in written))


def _parti(row: Row, number: int) -> Iterator[Prompt]:
    yield Prompt(f"{number:04d}", str(row["Category"]), "en", _words(row["Prompt"]), source=str(row["Challenge"]))


def _geneval(row: Row, number: int) -> Iterator[Prompt]:
    checks = tuple(_geneval_check(thing, True) for thing in row["include"])
    checks += tuple(_geneval_check(thing, False) for thing in row.get("exclude", ()))
    yield Prompt(f"{number:04d}", str(row["tag"]), "en", _words(row["prompt"]), checks)


def _geneval_check(thing: Row, seen: bool) -> Check:
    """GenEval's class, count and colour as a phrase; for an excluded class the count is the least that is wrong."""
    count, colour = int(thing.get("count", 1)), str(thing.get("color", ""))
    amount = f"at least {count}" if not seen else f"exactly {count}"
    place = f", {thing['position'][0]} object {thing['position'][1] + 1}" if "position" in thing else ""
    return Check("", " ".join(filter(None, (amount, colour, str(thing["class"])))) + place, seen)


def _geneval2(row: Row, number: int) -> Iterator[Prompt]:
    checks = tuple(
        Check("", question, question=question, answer=answer.lower()) for question, answer in row["vqa_list"]
    )
    yield Prompt(f"{number:03d}", f"{row['atom_count']} atoms", "en", _words(row["prompt"]), checks)


def _cvtg(row: Row, number: int) -> Iterator[Prompt]:
    """Rows of ``data_list``: index, prompt, and in the files with annotations carrier_list and sentence_list. The texts
    are what the prompt has in single quotes.
    """
    text = _words(row["prompt"])
    written = tuple(_IN_QUOTES.findall(text))
    if not written:
        raise Unusable(NO_WRITTEN)
    yield Prompt(str(row.get("index", number)), f"{len(written)} regions", "en", text, written=written)


def _qwen_image_bench(row: Row, number: int) -> Iterator[Prompt]:
    key = str(row.get("id", number))
    group = str(row.get("category") or row.get("dimension") or "all")
    any_text = False
    for name in ("prompt_zh", "prompt_en", "prompt"):
        if isinstance(row.get(name), str) and row[name].strip():
            any_text, text = True, _words(row[name])
            language = _language(text)
            yield Prompt(key if language == "zh" else f"{key}.en", group, language, text, pair=key)
    if not any_text:
        raise Unusable(NO_TEXT)


def _plain_rows(text: str) -> Iterator[Any]:
    first = text.lstrip()[:1]
    if first in "{[":
        yield from _json(text)
        return
    head = text.splitlines()[0].split("\t") if text.strip() else []
    if len(head) > 1 or {"prompt", "text", "提示词"} & {cell.strip() for cell in text.partition("\n")[0].split(",")}:
        yield from _table("\t" if len(head) > 1 else ",")(text)
        return
    yield from ({"prompt": line} for line in text.splitlines() if line.strip() and not line.startswith("#"))


def _plain(row: Row, number: int) -> Iterator[Prompt]:
    text = _words(next((row[name] for name in ("prompt", "text", "提示词") if row.get(name)), None))
    written = row.get("written") or ()
    written = tuple(written.split(" / ")) if isinstance(written, str) else tuple(written)
    group, key = str(row.get("group") or "all"), str(row.get("key") or f"{number:04d}")
    yield Prompt(key, group, _language(text), text, written=written, image=str(row.get("image") or ""))


PLAIN = Format(_plain_rows, _plain, "")
FORMATS: dict[str, Format] = {
    "coco-cn": Format(_tab_lines, _captions("coco-cn"), "MIT (sentences)"),
    "aic-icc": Format(_json, _aic_icc, "research, by registration", unverified=True),
    "flickr30k-cna": Format(_tab_lines, _captions("flickr30k-cna"), "research", unverified=True),
    "muge": Format(_json_lines, _muge, "research, by registration", unverified=True),
    "unigenbench-zh": Format(_table(","), _unigenbench, "CC-BY-4.0, Tencent"),
    "longtext-zh": Format(_json_lines, _longtext, "Apache-2.0"),
    "oneig-zh": Format(_table(","), _oneig, "CC-BY-NC-4.0"),
    "wegenbench": Format(_json_lines, _wegenbench, "CC-BY-NC-4.0"),
    "parti": Format(_table("\t"), _parti, "Apache-2.0"),
    "geneval": Format(_json_lines, _geneval, "MIT"),
    "geneval2": Format(_json_lines, _geneval2, "CC-BY-NC"),
    "cvtg-2k": Format(_json, _cvtg, "Apache-2.0", unverified=True),
    "qwen-image-bench": Format(_json, _qwen_image_bench, "Apache-2.0", unverified=True),
}
