"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable


def until(found: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits until something is so; fails where it never is."""
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it never came to be so"
        time.sleep(0.01)
