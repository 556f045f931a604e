"""Python's garbage collector, out of the way of a short command.

Importing torch and reading a model makes half a million objects that all stay. Left alone, the collector looks through
them again and again as they come, and once more, to free each, as the process ends.
"""

from __future__ import annotations

import gc


def begin() -> None:
    """Nothing is collected from here on until ``settled``. For a process of one's own alone."""
    gc.disable()


def settled() -> None:
    """What there is now stays until the end; from here on what becomes garbage is collected. Does nothing where the
    collector works already: in a program that calls a command as a function.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def end() -> None:
    """What is there is not looked through as the process ends: the system takes its memory at once."""
    gc.freeze()
