"""Records of training tools as lines of a table: lists of pictures with a text of placeholder tokens (data-juicer),
conversations (LLaVA, ShareGPT), objects by paths (kohya), captions of COCO.
"""

# Parsed JSON has no types; what is kept of it is named where it is kept.
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, cast

from bimo.curation.readers import tables
from bimo.curation.readers.columns import PICTURE_NAME, looks_like_picture, picture_column
from bimo.curation.readers.rows import Unusable
from bimo.curation.readers.text_lines import SAMPLE_BYTES, encoding_of, newline_of

#: Extensions of files that may hold records.
ENDINGS = {".json", ".jsonl", ".ndjson"}
#: Names of fields with a list of pictures.
LISTS = ("images", "image")
#: Turns of a conversation, (field of the speaker, field of the text), in both conventions, and the speakers whose first
#: turn is the caption.
TURNS = {"conversations": ("from", "value"), "messages": ("role", "content"), "conversation": ("from", "value")}
ANSWERS = ("gpt", "assistant", "model", "bot", "chatgpt")
#: Tokens of data-juicer's texts for a picture and for the end of what belongs to it, and LLaVA's for a picture.
PICTURE_TOKENS = re.compile(r"<__dj__image>|<image>")
OTHER_TOKENS = re.compile(r"<__dj__(?:video|audio)>|<\|__dj__eoc\|>")
CHUNK_ENDS = re.compile(r"<\|__dj__eoc\|>")
MAXIMUM_ELEMENT = 64 << 20  # characters of one element of a list
MAXIMUM_OBJECT_BYTES = 1 << 30
_BY_NAME = re.compile(r'\{\s*"(?:[^"\\]|\\.)*"\s*:\s*[\[{"]')
_BLANK = re.compile(r"[\s,]*")


def has_picture(values: Mapping[Any, Any]) -> bool:
    """Whether a record names a picture, or has a list of them: a .json may be of anything."""
    lists = (cast("list[Any]", values[name]) for name in LISTS if isinstance(values.get(name), list))
    if any(_named(one) for record in lists for one in record[:1]):
        return True
    column = picture_column(values)
    return column is not None and looks_like_picture(str(values[column]))


def described(values: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A record with the first answer of its conversation as its caption, where it holds one."""
    name = next((name for name in TURNS if isinstance(values.get(name), list)), None)
    if name is None:
        return values
    who, what = TURNS[name]
    answer: Any = ""
    for turn in cast("list[Any]", values[name]):
        if isinstance(turn, Mapping):
            one = cast("Mapping[Any, Any]", turn)
            if str(one.get(who, one.get("role", one.get("from", "")))).lower() in ANSWERS:
                answer = one.get(what, one.get("content", one.get("value")))
                break
    if isinstance(answer, list):  # parts of several kinds, of which texts count
        parts = cast("list[Any]", answer)
        answer = "\n".join(str(cast(Any, p).get("text", "")) for p in parts if isinstance(p, Mapping))
    rest = {key: value for key, value in values.items() if key != name}
    text = _without_tokens(answer) if isinstance(answer, str) else ""
    return {**rest, "captions": [text] if text else []}


def unfolded(values: Mapping[Any, Any]) -> list[Mapping[Any, Any] | Unusable]:
    """A record as one for each picture that it lists; most list none and stay as they are.

    Of several pictures each has its part of the text where the text says which; else the record is unusable.
    """
    values = described(values)
    name = next((name for name in LISTS if isinstance(values.get(name), list)), None)
    if name is None:
        return [values]
    pictures = [_named(one) for one in cast("list[Any]", values[name])]
    rest = {key: value for key, value in values.items() if key != name}
    text = rest.get("text")
    if not pictures or not all(pictures):
        return [Unusable("no picture", f"{name} lists {'no names of pictures' if pictures else 'none'}")]
    if isinstance(text, str):
        rest["text"] = _without_tokens(text)
    if len(pictures) == 1:
        return [{"image": pictures[0], **rest}]
    chunks = [chunk for chunk in CHUNK_ENDS.split(text) if chunk.strip()] if isinstance(text, str) else []
    if len(chunks) != len(pictures) or any(len(PICTURE_TOKENS.findall(chunk)) != 1 for chunk in chunks):
        return [Unusable("several pictures", f"{len(pictures)} in {name}, and nothing says which text is of which")]
    return [
        {"image": picture, **rest, "text": _without_tokens(chunk)}
        for picture, chunk in zip(pictures, chunks, strict=True)
    ]


def _named(value: Any) -> str:
    """The name of a picture in a list, "" where there is none."""
    if isinstance(value, Mapping):
        record = cast("Mapping[Any, Any]", value)
        value = next((record[name] for name in ("path", "file_name", "image", "url") if record.get(name)), "")
    return value if isinstance(value, str) else ""


def _without_tokens(text: str) -> str:
    return OTHER_TOKENS.sub("", PICTURE_TOKENS.sub("", text)).strip()


def is_records(path: Path) -> bool:
    """Whether a file is a list of records with pictures, or an object of them, or called .json and of JSON lines: what
    is called JSON lines and is that, is a table like any other.
    """
    return bool(_kind(path))


def _kind(path: Path) -> str:
    """ "list", "object", "lines", or "" for what holds no records."""
    encoding = encoding_of(path)
    with path.open(encoding=encoding, errors="replace") as file:
        start = file.read(4096).lstrip("\ufeff \t\r\n")
    if start.startswith("["):
        some = islice(_array(path, encoding), tables.SAMPLED_LINES)
        return "list" if any(isinstance(one, Mapping) and has_picture(one) for _, one in some) else ""
    if not start.startswith("{") or path.suffix.lower() != ".json":
        return ""
    first = next(tables.read(path, _lines_of(path, encoding)), None)
    record = None if first is None or isinstance(first.values, Unusable) else first.values
    if record is not None and has_picture(record) and not isinstance(record.get("annotations"), list):
        return "lines"
    match = _BY_NAME.match(start) and path.stat().st_size <= MAXIMUM_OBJECT_BYTES
    return "object" if match and next(_object(path, encoding), None) is not None else ""


def _lines_of(path: Path, encoding: str) -> tables.Dialect:
    return tables.Dialect(encoding, newline=newline_of(path, encoding))


def elements(path: Path) -> Iterator[tuple[str, Mapping[Any, Any] | Unusable]]:
    """(number or name, values by column) of every record of a file that ``is_records``; a list is streamed."""
    encoding, kind = encoding_of(path), _kind(path)
    if kind == "lines":
        yield from ((str(line.number), line.values) for line in tables.read(path, _lines_of(path, encoding)))
    else:
        yield from _array(path, encoding) if kind == "list" else _object(path, encoding)


def _array(path: Path, encoding: str) -> Iterator[tuple[str, Mapping[Any, Any] | Unusable]]:
    decoder, number, at = json.JSONDecoder(), 0, 0
    with path.open(encoding=encoding, errors="surrogateescape" if encoding == "utf-8" else "replace") as file:
        text = file.read(SAMPLE_BYTES).lstrip("\ufeff \t\r\n")[1:]
        while True:
            at = cast("re.Match[str]", _BLANK.match(text, at)).end()
            value: Any = None
            problem = "ends within its list"
            if at < len(text):
                if text[at] == "]":
                    return
                try:
                    value, at = decoder.raw_decode(text, at)
                    number += 1
                    yield str(number), value if isinstance(value, Mapping) else _no_object(value)
                    continue
                except (ValueError, RecursionError) as error:
                    problem = str(error)[:200]
            # A value that ends at the end of the buffer may continue after it.
            more = file.read(max(SAMPLE_BYTES, len(text) - at)) if len(text) - at < MAXIMUM_ELEMENT else ""
            if not more:
                yield str(number + 1), Unusable("not json", f"from element {number + 1} on: {problem}")
                return
            text, at = text[at:] + more, 0


def _no_object(value: Any) -> Unusable:
    return Unusable("not an object", f"{type(value).__name__} where columns by name are expected")


def _object(path: Path, encoding: str) -> Iterator[tuple[str, Mapping[Any, Any] | Unusable]]:
    """The records of an object: none where it is of another kind."""
    try:
        value = json.loads(path.read_text("utf-8-sig" if encoding == "utf-8" else encoding).lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return
    if not isinstance(value, Mapping):
        return
    values = cast("Mapping[str, Any]", value)
    if isinstance(values.get("images"), list) and isinstance(values.get("annotations"), list):
        yield from _coco(values)
    elif all(isinstance(one, Mapping) for one in values.values()):
        by_path = cast("Mapping[str, Mapping[str, Any]]", values)
        if any(map(has_picture, by_path.values())):  # as pandas writes a table by its index
            yield from by_path.items()
        elif any({"caption", "tags"} & set(one) for one in by_path.values()):
            yield from _by_path(by_path)
        elif has_picture(columns := {name: next(iter(one.values()), None) for name, one in by_path.items()}):
            rows = dict.fromkeys(row for one in by_path.values() for row in one)  # as pandas writes one by its columns
            yield from ((row, {name: by_path[name].get(row) for name in columns}) for row in rows)
    elif all(isinstance(one, (str, list)) for one in values.values()) and any(map(PICTURE_NAME.search, values)):
        yield from ((name, {"file_name": name, "captions": captions}) for name, captions in values.items())


def _coco(values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[Any, Any] | Unusable]]:
    captions: dict[Any, list[str]] = {}
    for one in values["annotations"]:
        if isinstance(one, Mapping) and isinstance(cast("Mapping[str, Any]", one).get("caption"), str):
            captions.setdefault(one["image_id"], []).append(one["caption"])
    if not captions:
        return
    for number, one in enumerate(values["images"], 1):
        if isinstance(one, Mapping) and "file_name" in one:
            image = cast("Mapping[str, Any]", one)
            yield str(number), {"file_name": image["file_name"], "captions": captions.get(image.get("id"), [])}
        else:
            yield str(number), Unusable("no picture", "no file_name")


def _by_path(values: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """kohya's: a caption and tags by the path of the picture, with its ending or without."""
    for name, one in values.items():
        parts = [one.get("caption"), one.get("tags")]
        texts = [", ".join(map(str, cast("list[Any]", text))) if isinstance(text, list) else text for text in parts]
        rest = {key: value for key, value in one.items() if key not in ("caption", "tags")}
        yield name, {"file_name": name, "captions": [text for text in texts if isinstance(text, str)], **rest}
