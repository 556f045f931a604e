"""ASGI middleware before the server: checks hosts, origins, keys and body sizes, and notices closed pages."""

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
#: Paths of the interfaces for programs; everything else is the page, which has a login of its own.
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
#: Paths that accept pictures.
WITH_PICTURES = re.compile(
    r"/gradio_api/queue/join|/page/finetunings$|/v1/images/(edits|variations)|/v1/jobs|/sdapi/v1/(txt2img|img2img|png-info|extra-.*|interrogate)"
)
_PORTS = {"http": 80, "https": 443}

HOST = Message("this machine does not go by that name; use 127.0.0.1, or the address of --host, or name it by --name")
ORIGIN = Message("another site's page asked for this; only pages of this server, and programs, may")
UPLOAD = Message("this page takes no files")
NO_KEY = Message("this server wants a key: Authorization: Bearer KEY, or Basic with the key as the password")
WRONG_KEY = Message("no such key; it may have been revoked (bimo keys list)")
TWO_HOSTS = Message("the request names its host more than once")
TWO_LENGTHS = Message("the request says its length twice, as Content-Length and as Transfer-Encoding")
UNENDED = Message("the rest of the request did not come in time; send it again, in one go")
CROWDED = Message("too many large requests are being read; ask again in a moment")


def spoken(accepted: str | None) -> str:
    """The supported language that an Accept-Language header prefers; without one, that of this process."""
    preferences: list[tuple[float, str]] = []
    for part in (accepted or "").split(","):
        name, _, quality = part.strip().partition(";q=")
        code = name.strip().lower().partition("-")[0]
        try:
            weight = float(quality) if quality else 1.0
        except ValueError:
            weight = 0.0
        if code in tuple(Language) and weight > 0:
            preferences.append((-weight, code))
    return min(preferences, key=lambda pair: pair[0])[1] if preferences else language()


def served(host: str, own: tuple[str, ...]) -> bool:
    """Whether a Host header names this machine, by an IP address or one of its ``own`` names. Other names that resolve
    to it may be an attack (DNS rebinding).
    """
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::\d+)?", host.strip().lower())
    if match is None:
        return False
    name = match[1].strip("[]").rstrip(".")
    if name == "localhost" or name in own:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def same_site(origin: str | None, host: str) -> bool:
    """Whether the Origin of a request is this server; programs send none."""
    if origin is None:
        return True
    try:
        parts = urlsplit(origin)
        port = parts.port or _PORTS.get(parts.scheme)
        name, _, port_text = host.rpartition(":") if re.search(r":\d+$", host) else (host, "", "")
        return (parts.hostname or "") == name.strip("[]").lower() and port == int(
            port_text or _PORTS.get(parts.scheme, 0)
        )
    except ValueError:
        return False


def token_of(authorization: str | None) -> str | None:
    """The token of an Authorization header: after Bearer, or the password of Basic."""
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
    """ASGI middleware that refuses foreign hosts and origins, callers without a key, and too long bodies before reading
    them. Without ``keys`` everybody is admitted, for a server of this machine only. ``on_page_closed`` is called with
    the session of a closed page.
    """

    def __init__(
        self,
        app: Any,
        own: tuple[str, ...] = (),
        *,
        keys: KeyStore | None = None,
        limits: Limits | None = None,
        on_page_closed: Callable[[str], object] = lambda session: None,
    ) -> None:
        self.app, self.own, self.keys, self.limits = app, own, keys, limits or Limits()
        self.on_page_closed = on_page_closed
        self._reading = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path = str(scope["path"])
        try:
            self._host(scope, headers, path)
            scope.setdefault("state", {})["caller"] = self._caller(scope, headers, path)
            most = self._most(path)
            if "content-length" in headers and "transfer-encoding" in headers:
                raise ApiError(400, TWO_LENGTHS)  # a proxy may use the other one (RFC 9112, section 6.3)
            length = headers.get("content-length", "0")
            if not (length.isascii() and length.isdecimal()) or int(length) > most:
                raise _too_long(most)
        except ApiError as error:
            await _refuse(scope, receive, send, headers, error)
            return
        if session := _HEARTBEAT.search(path.rstrip("/")):
            await self._heartbeat(session[1], scope, receive, send)
        elif scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            await self._whole(scope, receive, send, headers, most)
        else:
            await self.app(scope, receive, send)

    def _host(self, scope: Any, headers: dict[str, str], path: str) -> None:
        if sum(name.lower() == b"host" for name, _ in scope["headers"]) > 1:
            raise ApiError(400, TWO_HOSTS)  # a proxy, or what makes addresses, may go by the other one
        host = headers.get("host", "")
        if not served(host, self.own):
            raise ApiError(421, HOST)
        if not same_site(headers.get("origin"), host):
            raise ApiError(403, ORIGIN)
        if path.rstrip("/").endswith("/upload"):
            raise ApiError(404, UPLOAD)

    def _caller(self, scope: Any, headers: dict[str, str], path: str) -> Caller | None:
        """The caller of an interface; None for the page, which has its own login. Raises ApiError."""
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

    async def _heartbeat(self, session: str, scope: Any, receive: Any, send: Any) -> None:
        """Passes on a page's heartbeat and watches for its disconnection, which the application would only notice when
        it next sends. A heartbeat that the application refuses is not that of the page.
        """
        closed = asyncio.Event()
        is_page = False

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            if is_page:
                self.on_page_closed(session)
            closed.set()

        async def waited() -> Any:
            await closed.wait()
            return {"type": "http.disconnect"}

        async def send_and_note(message: Any) -> None:
            nonlocal is_page
            is_page = is_page or (message["type"] == "http.response.start" and message["status"] == 200)
            await send(message)

        watching = asyncio.create_task(watch())
        try:
            await self.app(scope, waited, send_and_note)
        finally:
            watching.cancel()
            if is_page:
                self.on_page_closed(session)

    async def _whole(self, scope: Any, receive: Any, send: Any, headers: dict[str, str], most: int) -> None:
        """Passes on a request after reading and counting its body, as the Content-Length header may be wrong. Who stops
        sending, or never ends, does not keep a connection.
        """
        body = bytearray()
        counted = 0
        clock = asyncio.get_running_loop().time
        until = clock() + self.limits.body_seconds
        try:
            more = True
            while more:
                try:
                    async with asyncio.timeout(min(self.limits.stalled_seconds, until - clock())):
                        message = await receive()
                except TimeoutError:
                    await _refuse(scope, receive, send, headers, ApiError(408, UNENDED))
                    return
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
            messages = [{"type": "http.request", "body": bytes(body), "more_body": False}]
            # The body is soon stored on disk, while the client may wait for long: it no longer counts.
            self._reading, counted = self._reading - counted, 0

            async def replayed() -> Any:
                return messages.pop() if messages else await receive()

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
