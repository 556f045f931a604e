"""Output to the terminal: JSON, tables, and characters that the terminal's encoding lacks."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDE = 200
#: The name of the error handler for characters that a stream cannot encode.
SHOWN = "bimo.shown"


def print_json(value: Any, indent: int | None = None) -> None:
    """Prints a value as JSON; if the stream is not UTF-8, all but ASCII is escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        readable = codecs.lookup(sys.stdout.encoding or "").name == "utf-8"
        text.encode()  # raises for file names that are not valid UTF-8 (surrogates)
    except (LookupError, UnicodeEncodeError):
        readable = False
    if not readable:
        text = json.dumps(value, indent=indent)
    print(text)


def console() -> Console:
    """A rich console on standard output; wide if that is not a terminal, so that nothing is cut off."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE, highlight=False)


def plain_table(title: str, heads: str, right: str = "") -> Table:
    """A table without lines. ``heads`` are the column headings, ``right`` those that are aligned right, both separated
    by spaces.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=title or None, title_justify="left")
    for head in heads.split():
        table.add_column(head, overflow="fold", justify="right" if head in right.split() else "left")
    return table


def open_streams() -> None:
    """Makes the standard streams robust: characters that cannot be encoded are escaped, undecodable bytes of file names
    are written back as they were, and closed streams are replaced by the null device.
    """
    codecs.register_error(SHOWN, _shown)
    for name, errors in (("stdout", SHOWN), ("stderr", "backslashreplace")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        with contextlib.suppress(AttributeError):
            getattr(sys, name).reconfigure(errors=errors)


def _shown(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError) and "\udc80" <= (half := error.object[error.start]) <= "\udcff":
        return bytes([ord(half) - 0xDC00]), error.start + 1  # an undecodable byte of a file name
    return codecs.backslashreplace_errors(error)
