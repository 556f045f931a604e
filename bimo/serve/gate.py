"""The gate before the page's server: whom it answers, how much it takes, and who has left."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
from collections.abc import Callable
from typing import Any, cast

from bimo.core.messages import Language, language

#: A request's body, in bytes: a form of the page is two thousand characters and eight numbers.
MAXIMUM_BODY = 1 << 17
_HEARTBEAT = re.compile(r"/heartbeat/([\w-]+)$")

REFUSED = {
    "host": (
        "这个地址不是这台机器的；请用 127.0.0.1 或 --host 给出的地址",
        "this machine does not go by that name; use 127.0.0.1, or the address of --host",
    ),
    "upload": ("这个网页不收文件", "this page takes no files"),
    "form": ('应是 {"data": [{} 个值]}', 'expected {"data": [{} values]}'),
    "body": (f"请求超过 {MAXIMUM_BODY} 字节", f"the request is longer than {MAXIMUM_BODY} bytes"),
}


def spoken(accepted: str | None) -> str:
    """The one of our languages that an Accept-Language header likes best; without one, that of this process."""
    liked: list[tuple[float, str]] = []
    for part in (accepted or "").split(","):
        name, _, quality = part.strip().partition(";q=")
        code = name.strip().lower().partition("-")[0]
        try:
            weight = float(quality) if quality else 1.0
        except ValueError:
            weight = 0.0
        if code in tuple(Language) and weight > 0:
            liked.append((-weight, code))
    return min(liked, key=lambda pair: pair[0])[1] if liked else language()


def served(host: str, own: tuple[str, ...]) -> bool:
    """Whether a Host header names this machine: by an address or by ``own`` names. A page of another name that leads
    here was made by somebody else (DNS rebinding).
    """
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::\d+)?", host.strip().lower())
    if found is None:
        return False
    name = found[1].strip("[]").rstrip(".")
    if name == "localhost" or name in own:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Gate:
    """Stands before an ASGI application: refuses foreign hosts, files and long bodies, and tells who comes and goes.

    ``form`` is what the path of the drawing ends in, and how many values it takes.
    """

    def __init__(
        self,
        app: Any,
        own: tuple[str, ...],
        form: tuple[str, int],
        came: Callable[[str], object],
        left: Callable[[str], object],
    ) -> None:
        self.app, self.own, self.form, self.came, self.left = app, own, form, came, left

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Hands a request on, or answers that it is refused."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path = str(scope["path"]).rstrip("/")
        length = headers.get("content-length", "0")
        if not served(headers.get("host", ""), self.own):
            await _refuse(scope, send, headers, 421, "host")
        elif path.endswith("/upload"):
            await _refuse(scope, send, headers, 404, "upload")
        elif not length.isdecimal() or int(length) > MAXIMUM_BODY:
            await _refuse(scope, send, headers, 413, "body")
        elif session := _HEARTBEAT.search(path):
            await self._stayed(session[1], scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "POST":
            await self._whole(scope, receive, send, headers)
        else:
            await self.app(scope, receive, send)

    async def _stayed(self, session: str, scope: Any, receive: Any, send: Any) -> None:
        """Hands on a page's heartbeat and tells when the page is closed: the server itself would learn of it only when
        it next sends.
        """
        closed = asyncio.Event()

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left(session)
            closed.set()

        async def waited() -> Any:
            await closed.wait()
            return {"type": "http.disconnect"}

        self.came(session)
        watching = asyncio.create_task(watch())
        try:
            await self.app(scope, waited, send)
        finally:
            watching.cancel()
            self.left(session)

    async def _whole(self, scope: Any, receive: Any, send: Any, headers: dict[str, str]) -> None:
        """Hands on a request with its body read and counted first: a header need not tell the truth."""
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MAXIMUM_BODY:
                await _refuse(scope, send, headers, 413, "body")
                return
        if str(scope["path"]).rstrip("/").endswith(self.form[0]) and not _filled(body, self.form[1]):
            await _refuse(scope, send, headers, 422, "form", str(self.form[1]))
            return
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> Any:
            return waiting.pop() if waiting else await receive()

        await self.app(scope, replayed, send)


def _filled(body: bytes, count: int) -> bool:
    """Whether a body is {"data": [as many values as the form has]}."""
    try:
        values: Any = json.loads(body)["data"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return False
    return isinstance(values, list) and len(cast("list[Any]", values)) == count


async def _refuse(scope: Any, send: Any, headers: dict[str, str], status: int, why: str, what: str = "") -> None:
    zh, en = REFUSED[why]
    said = (zh if spoken(headers.get("accept-language")) == "zh" else en).replace("{}", what)
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return
    body = json.dumps({"error": said}, ensure_ascii=False).encode()
    kind = [(b"content-type", b"application/json; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": kind})
    await send({"type": "http.response.body", "body": body})
