"""The gate before the server: whom it answers, who is asking, how much it takes, and who has left."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from bimo.core.messages import Language, Message, language
from bimo.serve.keys import LOCAL, Caller, KeyStore, Scope
from bimo.serve.problems import ApiError, answer
from bimo.serve.settings import Limits

_HEARTBEAT = re.compile(r"/heartbeat/([\w-]+)$")
#: Where programs ask; everything else is the page, with a login of its own.
INTERFACES = (
    "/v1/",
    "/sdapi/",
    "/internal/",
    "/api/v1/",
    "/controlnet/",
    "/metrics",
    "/docs",
    "/redoc",
    "/openapi.json",
)
#: What takes pictures: interfaces, and the page's form.
WITH_PICTURES = re.compile(
    r"/gradio_api/queue/join|/v1/images/(edits|variations)|/v1/jobs|/sdapi/v1/(txt2img|img2img|png-info|extra-.*|interrogate)"
)
_PORTS = {"http": 80, "https": 443}

HOST = Message("this machine does not go by that name; use 127.0.0.1, or the address of --host, or name it by --name")
ORIGIN = Message("another site's page asked for this; only pages of this server, and programs, may")
UPLOAD = Message("this page takes no files")
NO_KEY = Message("this server wants a key: Authorization: Bearer KEY, or Basic with the key as the password")
WRONG_KEY = Message("no such key; it may have been revoked (bimo keys list)")
CROWDED = Message("too many large requests are being read; ask again in a moment")


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


def same_site(origin: str | None, host: str) -> bool:
    """Whether a page that asks came from here: programs send no Origin."""
    if origin is None:
        return True
    try:
        parts = urlsplit(origin)
        port = parts.port or _PORTS.get(parts.scheme)
        name, _, own = host.rpartition(":") if re.search(r":\d+$", host) else (host, "", "")
        return (parts.hostname or "") == name.strip("[]").lower() and port == int(own or _PORTS.get(parts.scheme, 0))
    except ValueError:
        return False


def token_of(authorization: str | None) -> str | None:
    """The key of an Authorization header: after Bearer, or the password of Basic."""
    kind, _, value = (authorization or "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError, ValueError):
            return ""
    return None


class Gate:
    """Stands before an ASGI application: refuses foreign hosts, foreign pages, callers without a key, and long bodies
    before they are read. ``keys`` None lets everybody in, for a server of this machine alone; ``left`` is told the
    session of a page that was closed.
    """

    def __init__(
        self,
        app: Any,
        own: tuple[str, ...] = (),
        *,
        keys: KeyStore | None = None,
        limits: Limits | None = None,
        left: Callable[[str], object] = lambda session: None,
    ) -> None:
        self.app, self.own, self.keys, self.limits = app, own, keys, limits or Limits()
        self.left = left
        self._reading = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Hands a request on, or answers that it is refused."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path = str(scope["path"])
        try:
            self._host(headers, path)
            scope.setdefault("state", {})["caller"] = self._caller(scope, headers, path)
            most = self._most(path)
            length = headers.get("content-length", "0")
            if not (length.isascii() and length.isdecimal()) or int(length) > most:
                raise _too_long(most)
        except ApiError as error:
            await _refuse(scope, receive, send, headers, error)
            return
        if session := _HEARTBEAT.search(path.rstrip("/")):
            await self._stayed(session[1], scope, receive, send)
        elif scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            await self._whole(scope, receive, send, headers, most)
        else:
            await self.app(scope, receive, send)

    def _host(self, headers: dict[str, str], path: str) -> None:
        host = headers.get("host", "")
        if not served(host, self.own):
            raise ApiError(421, HOST)
        if not same_site(headers.get("origin"), host):
            raise ApiError(403, ORIGIN)
        if path.rstrip("/").endswith("/upload"):
            raise ApiError(404, UPLOAD)

    def _caller(self, scope: Any, headers: dict[str, str], path: str) -> Caller | None:
        """Who asks an interface; of the page its own login says. Raises ApiError."""
        if self.keys is None:
            return LOCAL
        if not path.startswith(INTERFACES):
            return None
        token = token_of(headers.get("authorization"))
        if token is None:
            raise ApiError(401, NO_KEY)
        caller = self.keys.caller(token)
        if caller is None:
            raise ApiError(401, WRONG_KEY)
        if path.startswith("/metrics") and not caller.may(Scope.metrics):
            raise ApiError(403, _unscoped(Scope.metrics))
        if not path.startswith("/metrics") and not caller.may(Scope.draw):
            raise ApiError(403, _unscoped(Scope.draw))
        if scope.get("method") == "POST" and (seconds := self.keys.wait(caller.name)):
            message = Message("this key asks too often; ask again in {seconds} seconds", seconds=seconds)
            raise ApiError(429, message, code="rate_limit_exceeded", seconds=seconds)
        return caller

    def _most(self, path: str) -> int:
        return self.limits.picture_bytes if WITH_PICTURES.match(path) else self.limits.form_bytes

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

        watching = asyncio.create_task(watch())
        try:
            await self.app(scope, waited, send)
        finally:
            watching.cancel()
            self.left(session)

    async def _whole(self, scope: Any, receive: Any, send: Any, headers: dict[str, str], most: int) -> None:
        """Hands on a request with its body read and counted first: a header need not tell the truth."""
        body = bytearray()
        counted = 0
        try:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                piece = message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) + len(piece) > most:
                    await _refuse(scope, receive, send, headers, _too_long(most))
                    return
                if self._reading + len(piece) > self.limits.bodies_bytes:
                    await _refuse(scope, receive, send, headers, ApiError(503, CROWDED, seconds=2))
                    return
                body += piece
                counted, self._reading = counted + len(piece), self._reading + len(piece)
            waiting = [{"type": "http.request", "body": bytes(body), "more_body": False}]
            # What is read is stored on disk soon, while its client may wait for long.
            self._reading, counted = self._reading - counted, 0

            async def replayed() -> Any:
                return waiting.pop() if waiting else await receive()

            await self.app(scope, replayed, send)
        finally:
            self._reading -= counted


def _unscoped(scope: Scope) -> Message:
    return Message("this key does not open that: it lacks the scope {scope}", scope=scope)


def _too_long(most: int) -> ApiError:
    return ApiError(413, Message("the request is longer than {most} bytes", most=most))


async def _refuse(scope: Any, receive: Any, send: Any, headers: dict[str, str], error: ApiError) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return
    response = answer(str(scope["path"]), error, spoken(headers.get("accept-language")))
    response.headers["connection"] = "close"
    await response(scope, receive, send)
