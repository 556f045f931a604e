"""Server-sent events (HTML standard, section 9.2), with comments in between that keep the connection open."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from starlette.responses import StreamingResponse

#: Proxies close connections that are silent for a minute.
PING_SECONDS = 15.0


def event(name: str, data: Any) -> bytes:
    """One event."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")
    return b"event: " + name.encode() + b"\ndata: " + text + b"\n\n"


class EventStream(StreamingResponse):
    """Streams events; their generator is closed when the client disconnects."""

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(pinged(events), headers=headers, media_type="text/event-stream")


async def pinged(events: AsyncGenerator[bytes], seconds: float = PING_SECONDS) -> AsyncGenerator[bytes]:
    """The events, with a comment after every ``seconds`` without one."""
    next_event: asyncio.Future[bytes] | None = None
    try:
        while True:
            if next_event is None:
                next_event = asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({next_event}, timeout=seconds)
            if not done:
                yield b": still here\n\n"
                continue
            try:
                yield next_event.result()
            except StopAsyncIteration:
                return
            next_event = None
    finally:
        if next_event is not None:
            next_event.cancel()
            await asyncio.gather(next_event, return_exceptions=True)
        await events.aclose()
