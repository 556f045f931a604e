"""Wildcards and alternatives: ``__季节__`` is a line of a list, ``{猫|狗}`` one of some words, chosen by the seed.

Lists are those in ``wildcards.tsv`` and text files of one's own, a line each; quoted text is left alone.
"""

from __future__ import annotations

import csv
import io
import random
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from bimo.core.errors import RequestError
from bimo.core.files import read_regular
from bimo.core.messages import Listed, Message
from bimo.core.part import meant
from bimo.prompts.quoted_text import quoted_spans

_LIST = re.compile(r"__(?P<name>[^_\s{}｛｝|｜][^{}｛｝|｜\n]*?)__")
_OPTIONS = re.compile(r"[{｛](?P<inside>[^{}｛｝]*[|｜][^{}｛｝]*)[}｝]")
#: A list may name lists, so many times.
DEEPEST = 12
MAXIMUM_LIST_BYTES = 16 << 20


@cache
def bundled() -> Mapping[str, tuple[str, ...]]:
    """The lists that come with the package, by their names in both languages."""
    text = resources.files("bimo.prompts").joinpath("wildcards.tsv").read_text("utf-8")
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    found: dict[str, tuple[str, ...]] = {}
    for zh, en, words_zh, words_en in csv.reader(io.StringIO("\n".join(lines)), delimiter="\t"):
        found[zh] = tuple(words_zh.split("|"))
        found[en] = tuple(words_en.split("|"))
    return found


def has_wildcards(prompt: str) -> bool:
    """Whether a prompt leaves anything to be chosen."""
    return next(iter(_places(prompt)), None) is not None


def _places(prompt: str) -> list[re.Match[str]]:
    quotes = quoted_spans(prompt)
    found = [*_OPTIONS.finditer(prompt), *_LIST.finditer(prompt)]
    outside = [one for one in found if not any(start <= one.start() < end for start, end in quotes)]
    return sorted(outside, key=lambda one: one.start())


class Wildcards:
    """The lists a prompt may name: those of a folder first, NAME.txt with a line each ("#" begins a remark; folders
    within it are a part of the name), then those that come with the package.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None and not folder.is_dir():
            raise RequestError("--wildcards: there is no folder {folder}", folder=folder)
        files = [] if folder is None else sorted(folder.rglob("*.txt"))
        self._files = {file.relative_to(folder or Path()).with_suffix("").as_posix(): file for file in files}
        self._read: dict[str, tuple[str, ...]] = {}

    def names(self) -> list[str]:
        """What lists there are."""
        return [*self._files, *(name for name in bundled() if name not in self._files)]

    def words(self, name: str) -> tuple[str, ...]:
        """The lines of a list. Raises RequestError for one that there is not, or that is empty."""
        if name not in self._read:
            self._read[name] = self._lines(name)
        return self._read[name]

    def _lines(self, name: str) -> tuple[str, ...]:
        if name not in self._files:
            if name in bundled():
                return bundled()[name]
            raise RequestError("there is no list __{name}__{near}", name=name, near=meant(name, self.names()))
        file = self._files[name]
        try:
            lines = read_regular(file, MAXIMUM_LIST_BYTES).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise RequestError("{file} is no UTF-8 text; save it as UTF-8", file=file) from None
        words = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
        if not words:
            raise RequestError("the list {file} is empty; write a line for each choice", file=file)
        return words

    def chosen(self, prompt: str, seed: int) -> str:
        """A prompt with all choices made; the same seed makes the same ones. Raises RequestError."""
        # Apart from the noise of the picture, whose generator has the seed itself.
        rng = random.Random(f"wildcards {seed}")
        for _ in range(DEEPEST):
            places = _places(prompt)
            if not places:
                return prompt
            prompt = self._once(prompt, places, rng)
        names = [one["name"] for one in _places(prompt) if one.re is _LIST]
        loop = Message(": {names}", names=Listed(names)) if names else ""
        raise RequestError("lists that name each other have no end{loop}", loop=loop)

    def _once(self, prompt: str, places: Sequence[re.Match[str]], rng: random.Random) -> str:
        pieces: list[str] = []
        at = 0
        for found in places:
            if found.start() < at:
                continue
            pieces.append(prompt[at : found.start()])
            if found.re is _LIST:
                options: Sequence[str] = self.words(found["name"])
            else:
                options = re.split("[|｜]", found["inside"])
            pieces.append(options[rng.randrange(len(options))])
            at = found.end()
        return "".join((*pieces, prompt[at:]))
