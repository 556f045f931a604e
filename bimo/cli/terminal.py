"""What is printed: characters a terminal lacks, JSON that stays JSON, tables as wide as the terminal."""

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
#: What takes what a stream cannot show.
SHOWN = "bimo.shown"


def print_json(value: Any, indent: int | None = None) -> None:
    """Prints a value as JSON, which is UTF-8: in a stream of another encoding all but ASCII is escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        readable = codecs.lookup(sys.stdout.encoding or "").name == "utf-8"
        text.encode()  # a name that is no text is not UTF-8 either
    except (LookupError, UnicodeEncodeError):
        readable = False
    if not readable:
        text = json.dumps(value, indent=indent)
    print(text)


def console() -> Console:
    """Standard output; wide where it is not a terminal, so that nothing is cut for whoever reads it."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE, highlight=False)


def plain_table(title: str, heads: str, right: str = "") -> Table:
    """A table without lines; ``heads`` and those of its columns that stand at the ``right``, with blanks between."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=title or None, title_justify="left")
    for head in heads.split():
        table.add_column(head, overflow="fold", justify="right" if head in right.split() else "left")
    return table


def open_streams() -> None:
    """A terminal that cannot show a character gets its number, and what reads our output the bytes of a file's name:
    no picture is lost to a print. A stream that was closed leads nowhere.
    """
    codecs.register_error(SHOWN, _shown)
    for name, errors in (("stdout", SHOWN), ("stderr", "backslashreplace")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        with contextlib.suppress(AttributeError):
            getattr(sys, name).reconfigure(errors=errors)


def _shown(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError) and "\udc80" <= (half := error.object[error.start]) <= "\udcff":
        return bytes([ord(half) - 0xDC00]), error.start + 1  # a byte of a name that is no text
    return codecs.backslashreplace_errors(error)
