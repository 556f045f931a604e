"""Turns the garbage collector off where it only costs time in a short command.

Importing torch and loading a model creates half a million long-lived objects. By default the collector would traverse
them repeatedly while they are created, and again when the process exits.
"""

from __future__ import annotations

import gc


def begin() -> None:
    """Disables the collector until ``settled``. Only for processes that are bimo's own."""
    gc.disable()


def settled() -> None:
    """Freezes all objects that exist now, and enables the collector for new ones. Does nothing if the collector is
    enabled already, as in a program that calls a command as a function.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def end() -> None:
    """Freezes all objects, so that they are not traversed at exit."""
    gc.freeze()
