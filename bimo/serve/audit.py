"""The audit log of a server: a line for each request, and for each job that the page submits."""

from __future__ import annotations

import json
import logging
import logging.handlers
import time
from pathlib import Path
from typing import Any

from bimo.serve.job_store import JobStore

FILE = "audit.log"
FILE_BYTES = 10 << 20


class Audit:
    """Writes JSON lines: when, which key, from where, what, how it ended; the prompt only if the owner wants it."""

    def __init__(self, folder: Path, store: JobStore, prompts: bool = False) -> None:
        self.store, self.prompts = store, prompts
        self._handler = logging.handlers.RotatingFileHandler(
            folder / FILE, maxBytes=FILE_BYTES, backupCount=5, encoding="utf-8"
        )
        self._handler.setFormatter(logging.Formatter("%(message)s"))
        self._log = logging.Logger("bimo.audit", logging.INFO)
        self._log.addHandler(self._handler)

    def write(
        self,
        *,
        key: str | None,
        address: str | None,
        method: str,
        path: str,
        status: int,
        seconds: float = 0.0,
        job: str | None = None,
    ) -> None:
        """Writes a line; ``address`` is the client's, ``seconds`` until its answer was complete."""
        line: dict[str, Any] = {
            "time": round(time.time(), 3),
            "key": key,
            "from": address,
            "method": method,
            "path": path,
            "status": status,
            "seconds": round(seconds, 3),
        }
        if job is not None:
            line["job"] = job
            stored = self.store.job(job) if self.prompts else None
            if stored is not None:
                line["prompt"] = stored.order.values.get("text")
        self._log.info(json.dumps(line, ensure_ascii=True))

    def close(self) -> None:
        """Closes the file."""
        self._handler.close()
