"""Server-sent events (the HTML standard, section 9.2): events as text, and a comment now and then to keep the line."""

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
    """Events as they come; whoever makes them is closed where the client is gone."""

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(pinged(events), headers=headers, media_type="text/event-stream")


async def pinged(events: AsyncGenerator[bytes], seconds: float = PING_SECONDS) -> AsyncGenerator[bytes]:
    """The events, and a comment after so many seconds without one."""
    following: asyncio.Future[bytes] | None = None
    try:
        while True:
            if following is None:
                following = asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({following}, timeout=seconds)
            if not done:
                yield b": still here\n\n"
                continue
            try:
                yield following.result()
            except StopAsyncIteration:
                return
            following = None
    finally:
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        await events.aclose()
