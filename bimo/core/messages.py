"""Sentences in the reader's language: English in the code, Chinese in the catalogue `locale/zh` (gettext).

A message keeps its English sentence and its values, so that it can be said in either language at any time: the
command line says it in the user's, a server in its client's.
"""

from __future__ import annotations

import contextlib
import gettext
import os
from collections.abc import Generator, Iterable
from contextvars import ContextVar
from enum import Enum, StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

DOMAIN = "bimo"
LOCALE = Path(__file__).with_name("locale")
#: What stands between things that are listed: of one sentence, of a choice, and between clauses.
BETWEEN = {
    "": {"zh": "、", "en": ", "},
    "or": {"zh": " 或 ", "en": " or "},
    ";": {"zh": "；", "en": "; "},
}


class Language(StrEnum):
    """What is spoken here."""

    zh = "zh"
    en = "en"


_spoken: ContextVar[str] = ContextVar("spoken", default="")


@contextlib.contextmanager
def speaking(language: str) -> Generator[None]:
    """What is said meanwhile in this thread is in ``language``: that of a server's client, not of its host."""
    before = _spoken.set(language)
    try:
        yield
    finally:
        _spoken.reset(before)


def language() -> str:
    """'zh' or 'en': as ``speaking``, by BIMO_LANGUAGE, or else the locale (LC_ALL, LC_MESSAGES, LANG)."""
    if spoken := _spoken.get():
        return spoken
    for name in ("BIMO_LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(name, ""):
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"


@cache
def catalogue() -> gettext.NullTranslations:
    """The Chinese catalogue. Raises OSError where the package is damaged."""
    return gettext.translation(DOMAIN, LOCALE, languages=["zh"])


@runtime_checkable
class Sayable(Protocol):
    """What is said in either language: a message, a wording of two, an error."""

    def said(self, language: str) -> str:
        """The sentence in "zh" or "en"."""
        ...


class Message:
    """A sentence with its values. ``{name}`` in ``text`` stands for a value, as `str.format` reads it; a value that is
    a message itself is said in the same language.
    """

    def __init__(self, text: str, /, **values: Any) -> None:
        self.text = text
        self.values = values

    def said(self, language: str) -> str:
        """The sentence in "zh" or "en"."""
        text = catalogue().gettext(self.text) if language == "zh" and self.text else self.text
        return text.format_map({name: in_language(value, language) for name, value in self.values.items()})

    @property
    def zh(self) -> str:
        """In Chinese."""
        return self.said("zh")

    @property
    def en(self) -> str:
        """In English."""
        return self.said("en")

    def __str__(self) -> str:
        return self.said(language())

    def __bool__(self) -> bool:
        return bool(self.text)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.text, self.values)


class Both(Message):
    """Data that come in two languages: titles and terms of recipes, reasons in reports, errors of other processes."""

    def __init__(self, zh: object, en: object) -> None:
        super().__init__(str(en))
        self._zh = zh
        self._en = en

    def said(self, language: str) -> str:
        """The one of the two wordings."""
        return str(in_language(self._zh if language == "zh" else self._en, language))

    def __bool__(self) -> bool:
        return bool(self._zh) or bool(self._en)

    def __reduce__(self) -> tuple[Any, ...]:
        return Both, (self._zh, self._en)


class Listed(Message):
    """Things one after another, with what BETWEEN has for ``between``: "a, b", "a or b" or "a; b"."""

    def __init__(self, things: Iterable[object], between: str = "") -> None:
        super().__init__("")
        self.things = list(things)
        self.between = between

    def said(self, language: str) -> str:
        """The things, with what stands between them in that language."""
        return BETWEEN[self.between][language].join(str(in_language(thing, language)) for thing in self.things)

    def __bool__(self) -> bool:
        return bool(self.things)

    def __reduce__(self) -> tuple[Any, ...]:
        return Listed, (self.things, self.between)


class Wording(Enum):
    """An enumeration whose values are messages."""

    @property
    def zh(self) -> str:
        """In Chinese."""
        return self.said("zh")

    @property
    def en(self) -> str:
        """In English."""
        return self.said("en")

    def said(self, language: str) -> str:
        """In "zh" or "en"."""
        return self.value.said(language)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickled by name: messages have no equality to be found again by."""
        return getattr, (type(self), self.name)


def in_language(value: Any, language: str) -> Any:
    """A value in "zh" or "en": messages, wordings and errors as they are said, anything else as it is."""
    return value.said(language) if isinstance(value, Sayable) else value


def say(text: str | Message, /, **values: Any) -> str:
    """A sentence in the user's language, with its values."""
    return str(text if isinstance(text, Message) else Message(text, **values))


def _again(text: str, values: dict[str, Any]) -> Message:
    return Message(text, **values)
