"""Captions for pictures that have none: by a vision-language model, from names of files and folders, a class word."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from bimo.core.errors import DataError
from bimo.core.files import write_whole
from bimo.core.messages import Listed, say
from bimo.curation.captioning.endpoint import Endpoint
from bimo.curation.captioning.model_folder import ModelFolder
from bimo.curation.captioning.rewriting import Recaption
from bimo.curation.decoded_image import decode_image
from bimo.curation.folder import Entry
from bimo.curation.readers import reading
from bimo.curation.readers.rows import Unusable
from bimo.curation.steps import Pair, Scorer, Tools
from bimo.training.logging import counted

if TYPE_CHECKING:
    from PIL import Image

#: Pictures that a model captions before the cache is saved.
BATCH = 8
MOST_SHOWN = 3
#: Names of files and folders by cameras, phones, browsers and people that do not describe the picture.
_NAMELESS = frozenset(
    re.split(
        r"\s+",
        "img image images pic pics picture pictures photo photos dsc dscn dscf dcim pxl mvimg gopr dji vid burst scan "
        "screenshot screen shot capture snapshot untitled unnamed download downloads file files frame output sample "
        "tmp samples temp test train data dataset default new copy edit edited final small large crop cropped resized "
        "wx camera mmexport 微信图片 微信截图 图片 照片 图像 截图 屏幕截图 屏幕快照 未命名 无标题 下载 副本 相机 原图 "
        "新建文件夹 数据",
    )
)
_WORD = re.compile(r"[\u3400-\u9fff]+|[^\W\d_\u3400-\u9fff]+")
_HASH = re.compile(r"[0-9a-f]{8,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
#: Endings of pictures before the last one: of a half-finished download, or of a picture that was saved as another kind.
_ENDING = re.compile(r"(\.(jpe?g|png|webp|gif|bmp|tiff?|avif|heic))+$", re.IGNORECASE)
_NUMBERED = re.compile(r"[\s_.\-]*[(\[（]?\d+[)\]）]?$")


def _no_scorer(name: str) -> Scorer:
    raise AssertionError(f"writing captions scores nothing by {name}")


TOOLS = Tools(_no_scorer)
Origin = Literal["captions beside", "model", "file name", "folder name", "class word"]


def caption_in_name(name: str) -> str:
    """The caption in the name of a file or folder, "" where the name does not describe the picture: "red_apple-03" is
    "red apple"; "IMG_2041", "微信图片_20240501", a hash and "0007" are "".
    """
    name = _ENDING.sub("", name)
    if _HASH.fullmatch(name):
        return ""
    text = " ".join(_NUMBERED.sub("", name).replace("_", " ").replace("-", " ").split())
    words: list[str] = [word.lower() for word in _WORD.findall(text)]
    if not [word for word in words if word not in _NAMELESS]:
        return ""
    letters = sum(len(word) if word.isascii() else 2 * len(word) for word in words)
    return text if letters > 1 else ""


@dataclass
class Captions:
    """Fills in missing captions of a source's pictures. Existing captions are unchanged; others are written by the
    vision-language model ``by``, else taken from the name of the file, else of its folder, else ``word``.
    ``folder_word`` is what a folder in kohya's layout is said to show ("10_cat"): it comes before the names of the
    files.

    ``cache`` is a file of the captions that the model wrote, by the content of the pictures, for resumed runs.
    ``origins`` counts the captions by where they came from.
    """

    word: str = ""
    by: Endpoint | ModelFolder | None = None
    language: Literal["zh", "en"] = "zh"
    cache: Path | None = None
    origins: Counter[Origin] = field(default_factory=Counter["Origin"])
    folder_word: str = ""

    def fill(self, source: Path, entries: Sequence[Entry]) -> list[Entry]:
        """The entries with captions. Raises DataError where some have none and none can be found."""
        written = self._by_model(source, [entry for entry in entries if not entry.captions])
        filled = [self._filled(entry, written.get(entry.name, "")) for entry in entries]
        without = [entry.name for entry in filled if not entry.captions]
        if without:
            raise DataError(
                "{count} of {whole} pictures in {source} have no caption, and their names say nothing ({listed}): say "
                "what they show with --class WORD, have a model write it (--captioner), or put a .txt beside each",
                count=len(without),
                whole=len(entries),
                source=source,
                listed=Listed(without[:MOST_SHOWN]),
            )
        return filled

    def account(self, name: str) -> Iterator[str]:
        """Where the captions came from, in lines; with a ``name`` that all pictures are called, none are learnt."""
        if name:
            beside = self.origins["captions beside"]
            line = say("captions of {count} pictures are not learnt: each is called {name!r}", count=beside, name=name)
            yield from [line] * (beside > 0)
            return
        names = {"file name": say("their files' names"), "folder name": say("their folders' names")}
        names |= {"class word": say("the class word"), "model": say("the captioner")}
        for origin, count in self.origins.items():
            if origin in names:
                yield say("captions of {count} pictures are {origin}", count=count, origin=names[origin])

    def _filled(self, entry: Entry, written: str) -> Entry:
        # A row of a table or an archive has no file name of its own.
        path = PurePosixPath(entry.name if entry.place.form == "bytes" and entry.place.size < 0 else "")
        choices: tuple[tuple[Origin, str], ...] = (
            ("captions beside", "".join(entry.captions[:1])),
            ("model", written),
            ("folder name", caption_in_name(self.folder_word)),
            ("file name", caption_in_name(path.stem)),
            ("folder name", caption_in_name(path.parent.name)),
            ("class word", self.word),
            ("folder name", self.folder_word),
        )
        for origin, text in choices:
            if text:
                self.origins[origin] += 1
                return entry if entry.captions else replace(entry, captions=(text,))
        return entry

    def _by_model(self, source: Path, entries: Sequence[Entry]) -> dict[str, str]:
        """The model's captions by the names of the entries; empty without a model, "" where it refused."""
        if self.by is None or not entries:
            return {}
        step = Recaption(by=self.by, language=self.language)
        settings, known = step.measuring(TOOLS), self._known()
        keys = {entry.name: _key(source, entry, settings) for entry in entries}
        todo = [entry for entry in entries if keys[entry.name] and keys[entry.name] not in known]
        if todo:
            write = step.write(TOOLS)
            for first in counted(range(0, len(todo), BATCH), say("writing captions")):
                some = list(_opened(source, todo[first : first + BATCH]))
                answers = write([Pair(number, picture, ()) for number, (_, picture) in enumerate(some)])
                for (entry, _), answer in zip(some, answers, strict=True):
                    known[keys[entry.name]] = answer[0] if isinstance(answer, tuple) and answer else ""
                self._keep(known)
        return {name: known.get(key, "") for name, key in keys.items()}

    def _known(self) -> dict[str, str]:
        if self.cache is None or not self.cache.is_file():
            return {}
        return json.loads(self.cache.read_text(encoding="utf-8"))

    def _keep(self, known: dict[str, str]) -> None:
        if self.cache is not None:
            write_whole(self.cache, json.dumps(known, ensure_ascii=False, indent=1).encode())


def _key(source: Path, entry: Entry, settings: str) -> str:
    """The cache key of a caption: a hash of the model's settings and the picture; "" for one that cannot be read."""
    with suppress(Unusable):
        return hashlib.sha256(settings.encode() + reading.picture_bytes(source, entry.place)).hexdigest()[:32]
    return ""


def _opened(source: Path, entries: Sequence[Entry]) -> Iterator[tuple[Entry, Image.Image]]:
    """The pictures that can be decoded; the others are counted where the data is written."""
    for entry in entries:
        with suppress(Unusable):
            yield entry, decode_image(reading.picture_bytes(source, entry.place)).image
