"""The exception tree: every message says what came, what was expected and what to do, in the reader's language."""

from __future__ import annotations

from typing import Any

from bimo.core.messages import Message


class BimoError(Exception):
    """A mistake that the user can mend; the command line prints it as one sentence, without a traceback.

    It keeps its message and values, because a server answers in the language of its client, not of its host.
    """

    exit_status = 1

    def __init__(self, message: str | Message, /, **values: Any) -> None:
        self.message = message if isinstance(message, Message) else Message(message, **values)
        super().__init__(self.message)

    def said(self, language: str) -> str:
        """The sentence in "zh" or "en"."""
        return self.message.said(language)

    @property
    def zh(self) -> str:
        """In Chinese."""
        return self.message.zh

    @property
    def en(self) -> str:
        """In English."""
        return self.message.en

    def __str__(self) -> str:
        return str(self.message)


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
