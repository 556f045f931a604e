"""The exception tree: every message says what came, what was expected and what to do, in the reader's language."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from contextvars import ContextVar
from enum import Enum, StrEnum

CHINESE_LOCALES = ("zh",)


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
        value = os.environ.get(name, "")
        if value:
            return "zh" if value.lower().startswith(CHINESE_LOCALES) else "en"
    return "en"


def say(zh: str, en: str) -> str:
    """The one of two wordings that suits the user's locale."""
    return zh if language() == "zh" else en


class Wording(Enum):
    """What is said in two languages, one of a few: each value is (Chinese, English)."""

    @property
    def zh(self) -> str:
        """In Chinese."""
        return self.value[0]

    @property
    def en(self) -> str:
        """In English."""
        return self.value[1]


class BimoError(Exception):
    """A mistake that the user can mend; the command line prints it as one sentence, without a traceback.

    Both wordings are kept, because a server answers in the language of its client, not of its host.
    """

    exit_status = 1

    def __init__(self, zh: str, en: str) -> None:
        super().__init__(zh, en)
        self.zh = zh
        self.en = en

    def __str__(self) -> str:
        return say(self.zh, self.en)


class RequestError(BimoError):
    """What was asked for cannot be drawn: an empty prompt, a size, a number of steps."""

    exit_status = 2


class RecipeError(BimoError):
    """A recipe or a part that cannot be read: an unknown kind, an unknown field, a glob that matches nothing."""

    exit_status = 3


class WeightsError(BimoError):
    """Weights that are missing, damaged, misshapen or not data."""

    exit_status = 4


class DataError(BimoError):
    """Training or test data that cannot be read or does not add up."""

    exit_status = 5


class TrainingError(BimoError):
    """A run that cannot go on: a NaN loss, a changed recipe, a folder that holds another run."""

    exit_status = 6
