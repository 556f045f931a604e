"""Worker processes that end with the process that started them."""

from __future__ import annotations

import os
import threading
from multiprocessing import connection, parent_process


def end_with_parent() -> None:
    """Ends this process when its parent ends, also when that is killed: a worker of an old run must neither write files
    while a new run does nor hold a model in memory for ever.
    """
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_wait, args=(parent.sentinel,), daemon=True).start()


def _wait(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
