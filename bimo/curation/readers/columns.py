"""Names of the columns of picture tables, and the conversion of one line of such a table to a row."""

from __future__ import annotations

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from bimo.curation.readers import folders
from bimo.curation.readers.formats import PICTURE_FILES, comparable, is_picture
from bimo.curation.readers.rows import Broken, Place, Row, Unusable

#: Folders beside a table that may hold its pictures.
PLACES = ("", "images")
#: Columns by what they hold, in small letters; those of published sets: LAION and Wukong (url, TEXT), HunyuanDiT's
#: IndexKits (text_zh), OFA and Chinese-CLIP (base64), Hugging Face (image).
ADDRESSES = ("url", "image_url", "img_url", "picture_url", "image_link")
CODED = ("image_base64", "base64", "img_base64", "image_b64", "img_b64")
FILES = (
    *("file_name", "name", "dir", "file", "image", "path"),
    *("filename", "file_path", "filepath", "image_path", "img_path", "img", "picture", "jpg", "png"),
    *("image_name", "image_file", "图片", "图片名", "文件", "文件名", "路径"),
)
TEXTS = (
    *("text", "caption", "captions", "description"),
    *("caption_zh", "text_zh", "zh", "chinese", "caption_en", "text_en", "en", "english"),
    *("title", "alt", "alt_text", "prompt", "intro", "recaption", "comment", "sentence", "sentences"),
    *("说明", "描述", "标题", "文本", "文字", "中文", "英文"),
)
PICTURES = (*FILES, *ADDRESSES, *CODED)
#: Ambiguous names: such a column holds pictures only if its values look like pictures.
WEAK = ("name", "dir", "file", "path", "文件", "文件名", "路径")
PICTURE_NAME = re.compile(rf"\.(?:{'|'.join(sorted(ending[1:] for ending in PICTURE_FILES))})$", re.IGNORECASE)
ADDRESS = re.compile(r"https?://", re.IGNORECASE)
#: What the base64 of a picture begins with: PNG, JPEG, RIFF (WEBP), GIF, BMP, TIFF of both byte orders, AVIF and HEIC.
BASE64_START = re.compile(
    r"(?:data:image/[\w.+-]+;base64,)?(?:iVBOR|/9j/|UklGR|R0lGOD|Qk[0-3]|SUkqA|TU0AK|AAAA\wGZ0eX)"
)
MAXIMUM_CAPTION = 100_000  # characters; the longest that models write are some thousands
MAXIMUM_LABEL = 256  # characters of a text that is a label
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,14})(?:\.\d+)?(?:[eE][-+]?\d{1,3})?")
_NOTHING = {"", "nan", "null", "none", "inf", "-inf"}


#: The encoding of a picture within a line, by its column.
Inline = Callable[[str], Place]


def row_of(number: int, source: str, values: Mapping[Any, Any], inline: Inline | None, beside: Beside) -> Row | Broken:
    """The row of one line of a table."""
    column = picture_column(values)
    if column is None:
        return Broken(number, source, "no picture", f"columns: {', '.join(map(str, values))}"[:200])
    try:
        place = _place(column, values[column], inline, beside)
        captions, labels = captions_and_labels({name: value for name, value in values.items() if name != column})
    except Unusable as error:
        return Broken(number, source, error.reason, error.detail)
    return Row(number, source, place, captions, labels)


def picture_column(values: Mapping[Any, Any]) -> str | None:
    """The column of the picture: by a value that is a picture, a URL or a picture's name, else by its name; None where
    there is none.
    """
    named = {str(name).lower(): str(name) for name, value in values.items() if isinstance(value, str) and value.strip()}
    candidates = [named[name] for name in PICTURES if name in named]
    for column in candidates:
        if looks_like_picture(values[column]):
            return column
    return candidates[0] if candidates else None


def is_of_pictures(values: Mapping[Any, Any]) -> bool:
    """Whether a line has a picture column by its name, or an ambiguous one whose value looks like a picture."""
    names = {str(name).lower() for name in values}
    if names & {*PICTURES} - {*WEAK}:
        return True
    column = picture_column(values) if names & {*WEAK} else None
    return column is not None and looks_like_picture(str(values[column]))


def looks_like_picture(value: str) -> bool:
    """Whether a value is a URL, the name of a picture, or base64 of one."""
    value = value if len(value) > 4096 else value.strip()
    return bool(ADDRESS.match(value) or PICTURE_NAME.search(value) or _coded(value))


def _coded(value: str) -> bool:
    return len(value) > 60 and BASE64_START.match(value) is not None


def _place(column: str, value: str, inline: Inline | None, beside: Beside) -> Place:
    value = value if len(value) > 1 << 16 else value.strip()
    if _coded(value) or (column.lower() in CODED and inline is not None):
        if inline is None:
            raise Unusable("no picture", f"{column} holds base64 where it cannot be found again")
        return inline(column)
    if ADDRESS.match(value):
        return Place(value, form="url")
    return Place(beside.find(value))


def captions_and_labels(values: Mapping[Any, Any]) -> tuple[tuple[str, ...], dict[str, float | str]]:
    """The captions and labels of a line. Raises Unusable "caption too long", "not text"."""
    small = {str(name).lower(): name for name in values}
    texts = [small[name] for name in TEXTS if name in small]
    captions = tuple(dict.fromkeys(text for name in texts for text in _texts(values[name])))
    for text in captions:
        if len(text) > MAXIMUM_CAPTION:
            raise Unusable("caption too long", f"{len(text)} characters; at most {MAXIMUM_CAPTION}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Unusable("not text", f"{error.reason} at character {error.start} of the caption") from None
    labels: dict[str, float | str] = {}
    for name, value in values.items():
        if str(name).lower() == "labels" and isinstance(value, Mapping):
            labels |= captions_and_labels(cast("Mapping[Any, Any]", value))[1]
        elif name in texts or not isinstance(name, str) or name.lower() in CODED or not _whole(name):
            continue
        elif (label := _label(value)) is not None:
            labels[name] = label
    return captions, labels


def _texts(value: Any) -> Iterator[str]:
    """The captions in a value: a text, a list of texts, a list of {"text": ...}, {"zh": ..., "en": ...}."""
    if isinstance(value, str):
        if value.strip():
            yield value.strip()
    elif isinstance(value, list):
        for one in cast("list[Any]", value):
            yield from _texts(one)
    elif isinstance(value, Mapping):
        inside = {str(name).lower(): one for name, one in cast("Mapping[Any, Any]", value).items()}
        for name in (*TEXTS, "raw"):
            yield from _texts(inside.get(name))
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        yield str(value)


def _label(value: Any) -> float | str | None:
    """A number or a short text; None for other values and for NaN."""
    if isinstance(value, str):
        value = value.strip()
        if len(value) > MAXIMUM_LABEL or value.lower() in _NOTHING or not _whole(value):
            return None
        return float(value) if _NUMBER.fullmatch(value) else value
    if isinstance(value, int) and abs(value) > 1 << 53:
        return str(value) if value.bit_length() < 800 else None
    if isinstance(value, (int, float)):
        return float(value) if math.isfinite(value) else None
    return None


def _whole(text: str) -> bool:
    """Whether a text can be encoded: lone surrogates, which JSON can contain, cannot."""
    return not any("\ud800" <= c <= "\udfff" for c in text) if not text.isascii() else True


def decoded(data: bytes) -> str:
    """A short text of unknown encoding: UTF-8, UTF-16 by its mark, else GB18030. Raises Unusable "not text"."""
    marked = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    encodings = ("utf-16",) if marked else ("utf-8-sig", "gb18030")
    for encoding in encodings:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise Unusable("not text", f"not {', '.join(encodings)}: {data[:12].hex(' ')}")


def captions_of(data: bytes) -> tuple[str, ...]:
    """The captions of a text file, one a line. Raises Unusable "not text", "caption too long"."""
    return captions_and_labels({"captions": lines_of(decoded(data))})[0]


def lines_of(text: str) -> list[str]:
    """The lines of a text, split at \n, \r\n and \r only; U+2028 and the like are characters of a caption."""
    return re.split(r"\r\n|\r|\n", text)


def record_of(data: bytes) -> Mapping[Any, Any]:
    """The contents of a JSON file beside a picture. Raises Unusable "not json"."""
    try:
        record = json.loads(decoded(data))
    except (ValueError, RecursionError) as error:
        raise Unusable("not json", str(error)[:200]) from None
    if isinstance(record, Mapping):
        return cast("Mapping[Any, Any]", record)
    return {"captions": record}


def _last_in_common(parts: Sequence[str], path: str) -> int:
    """The number of last path components that are equal, the very last with or without its extension."""
    others = comparable(path).split("/")
    count = 1
    while count < min(len(parts), len(others)) and parts[-count - 1] == others[-count - 1]:
        count += 1
    return count


class Beside:
    """Finds the pictures that a table names: beside it, then at the top of the source, directly or in ``images``.

    With ``loose``, as for metadata of kohya and COCO, a path may be from another machine, or lack its folders or its
    extension: then it is the picture below the source with the most last path components in common.
    """

    def __init__(self, root: Path, folder: Path, loose: bool = False) -> None:
        self.loose = loose
        inside = "" if folder == root else folder.relative_to(root).as_posix()
        self.root = str(root)
        self.prefixes = list(dict.fromkeys(os.path.join(base, place) for base in (inside, "") for place in PLACES))

    def find(self, name: str) -> str:
        """The path of a picture relative to the source; where none is there, the first that was looked for.

        The table's own folder comes first for every row. A name that no file has letter by letter is that of the file
        with the same letters in another form of Unicode, or an ending in capitals. Raises Unusable "missing" for what
        is no name.
        """
        path = self._beside(name)
        return (self._elsewhere(name) or path) if self.loose and not self._exists(path) else path

    def _elsewhere(self, name: str) -> str | None:
        """The picture with the most last path components in common with a name; of several the one in the usual
        folders, and none where it is ambiguous.
        """
        parts = comparable(name.replace("\\", "/")).split("/")
        alike = [(_last_in_common(parts, path), path) for path in self._pictures.get(parts[-1], ())]
        most = max((count for count, _ in alike), default=0)
        best = [path for count, path in alike if count == most]
        near = [path for prefix in self.prefixes for path in best if os.path.dirname(path) == prefix.rstrip("/")]
        return (near or (best if len(best) == 1 else [None]))[0]

    @cached_property
    def _pictures(self) -> Mapping[str, list[str]]:
        """The pictures below the source by their last names, with their endings and without."""
        paths = defaultdict[str, list[str]](list)
        for listing in folders.walk(Path(self.root)):
            for name in (entry.name for entry in listing.files if is_picture(entry.name)):
                whole = comparable(name)
                for key in (whole, os.path.splitext(whole)[0]):
                    paths[key].append(os.path.join(listing.path, name))
        return paths

    def _exists(self, path: str) -> bool:
        return not os.path.isabs(path) and os.path.lexists(os.path.join(self.root, path))

    def _beside(self, name: str) -> str:
        if os.path.isabs(name):
            start = self.root.rstrip(os.sep) + os.sep
            return name[len(start) :] if name.startswith(start) else name
        for form in dict.fromkeys((name, name.replace("\\", "/"))):
            for prefix in self.prefixes:
                path = os.path.join(prefix, form)
                path_on_disk = self._if_exists(path) or folders.resolved(self.root, path)
                if path_on_disk is not None:
                    # Two spellings of one path are one picture.
                    plain = ".." in path_on_disk.split("/") or not ("./" in path_on_disk or "//" in path_on_disk)
                    return path_on_disk if plain else os.path.normpath(path_on_disk)
        return os.path.join(self.prefixes[0], name)

    def _if_exists(self, path: str) -> str | None:
        try:
            os.lstat(os.path.join(self.root, path))
        except ValueError:  # the name has a zero byte or a lone surrogate
            raise Unusable("missing", f"no file can be called {path[:80]!r}") from None
        except OSError:
            return None
        return path
