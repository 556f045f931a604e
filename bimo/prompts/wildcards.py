"""Dynamic prompts: ``__季节__`` becomes a random line of a list, ``{猫|狗}`` one of the alternatives, by the seed.

Lists come from ``wildcards.tsv`` and the user's text files, one entry per line; quoted text is left alone.
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
#: Maximal nesting of lists that refer to lists.
DEEPEST = 12
MAXIMUM_LIST_BYTES = 16 << 20


@cache
def bundled() -> Mapping[str, tuple[str, ...]]:
    """The package's own lists by their Chinese and English names."""
    text = resources.files("bimo.prompts").joinpath("wildcards.tsv").read_text("utf-8")
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    lists: dict[str, tuple[str, ...]] = {}
    for zh, en, words_zh, words_en in csv.reader(io.StringIO("\n".join(lines)), delimiter="\t"):
        lists[zh] = tuple(words_zh.split("|"))
        lists[en] = tuple(words_en.split("|"))
    return lists


def has_wildcards(prompt: str) -> bool:
    """Whether a prompt has wildcards or alternatives."""
    return next(iter(_places(prompt)), None) is not None


def _places(prompt: str) -> list[re.Match[str]]:
    quotes = quoted_spans(prompt)
    matches = [*_OPTIONS.finditer(prompt), *_LIST.finditer(prompt)]
    unquoted = [match for match in matches if not any(start <= match.start() < end for start, end in quotes)]
    return sorted(unquoted, key=lambda match: match.start())


class Wildcards:
    """The available lists: first those of a folder (NAME.txt, one entry per line, "#" starts a comment, subfolders are
    part of the name), then the package's own.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None and not folder.is_dir():
            raise RequestError("--wildcards: there is no folder {folder}", folder=folder)
        files = [] if folder is None else sorted(folder.rglob("*.txt"))
        self._files = {file.relative_to(folder or Path()).with_suffix("").as_posix(): file for file in files}
        self._read: dict[str, tuple[str, ...]] = {}

    def names(self) -> list[str]:
        """The names of all lists."""
        return [*self._files, *(name for name in bundled() if name not in self._files)]

    def words(self, name: str) -> tuple[str, ...]:
        """The entries of a list. Raises RequestError for an unknown or empty list."""
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
        """A prompt with all wildcards resolved, deterministically by the seed. Raises RequestError."""
        # A prefix decorrelates it from the noise of the picture, whose generator has the seed itself.
        rng = random.Random(f"wildcards {seed}")
        for _ in range(DEEPEST):
            places = _places(prompt)
            if not places:
                return prompt
            prompt = self._once(prompt, places, rng)
        names = [match["name"] for match in _places(prompt) if match.re is _LIST]
        loop = Message(": {names}", names=Listed(names)) if names else ""
        raise RequestError("lists that name each other have no end{loop}", loop=loop)

    def _once(self, prompt: str, places: Sequence[re.Match[str]], rng: random.Random) -> str:
        pieces: list[str] = []
        position = 0
        for match in places:
            if match.start() < position:
                continue
            pieces.append(prompt[position : match.start()])
            if match.re is _LIST:
                options: Sequence[str] = self.words(match["name"])
            else:
                options = re.split("[|｜]", match["inside"])
            pieces.append(options[rng.randrange(len(options))])
            position = match.end()
        return "".join((*pieces, prompt[position:]))
