"""The gate before the page: names that are not ours, files and long bodies are refused, and who leaves is told of."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bimo.core.errors import RequestError
from bimo.serve.gate import Gate, same_site, served, spoken
from bimo.serve.keys import KeyStore, Scope
from bimo.serve.settings import Limits

MAXIMUM_BODY = Limits().form_bytes


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-US,en;q=0.9,zh;q=0.8", "en"),
        ("fr, zh-TW;q=0.3, en;q=0.4", "en"),
        ("ZH", "zh"),
        ("en;q=0, zh;q=0.1", "zh"),
        ("en;q=x, zh;q=0.1", "zh"),
        ("fr", "zh"),
        ("", "zh"),
        (None, "zh"),
    ],
)
def test_the_browser_chooses_the_language(header: str | None, language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "zh")
    assert spoken(header) == language


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "192.168.1.5:80", "studio.lan:7860"],
)
def test_our_own_names(host: str) -> None:
    assert served(host, ("studio.lan",))


@pytest.mark.parametrize(
    "host", ["", "evil.com", "127.0.0.1.evil.com:7860", "localhost.evil.com", "a:b:c", "evil.com:7860"]
)
def test_names_of_others(host: str) -> None:
    assert not served(host, ("studio.lan",))


def asked(
    method: str,
    path: str,
    pieces: list[bytes],
    headers: dict[str, str] | None = None,
    keys: KeyStore | None = None,
    limits: Limits | None = None,
    more: Callable[[], Awaitable[dict[str, Any]]] | None = None,
) -> tuple[int, dict[str, Any], list[str]]:
    """(status, answer, what was told) of a request whose body comes in pieces, and then from ``more``; the app behind
    the gate echoes it.
    """
    heard: list[str] = []
    sent: list[dict[str, Any]] = []
    waiting = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    waiting += [{"type": "http.request", "body": b"", "more_body": False}] if more is None else []

    async def receive() -> dict[str, Any]:
        if not waiting and more is not None:
            return await more()
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        settings = {"type": message["type"], "length": len(message.get("body", b""))}
        await send({"type": "http.response.body", "body": json.dumps(settings).encode()})

    gate = Gate(app, keys=keys, limits=limits, on_page_closed=lambda session: heard.append(session))
    named = {"host": "127.0.0.1:1", "accept-language": "en"} | (headers or {})
    scope = {"type": "http", "method": method, "path": path}
    scope["headers"] = [(k.encode(), v.encode()) for k, v in named.items()]
    asyncio.run(gate(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"]), heard


def test_a_body_that_does_not_end_is_let_go() -> None:
    async def nothing() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def little() -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b" ", "more_body": True}

    for more, limits in ((nothing, Limits(stalled_seconds=0.01)), (little, Limits(body_seconds=0.0))):
        status, answer, _ = asked("POST", "/v1/jobs", [b'{"text":'], limits=limits, more=more)
        assert (status, "in time" in str(answer)) == (408, True)


def test_what_is_ours_goes_through() -> None:
    assert asked("GET", "/", []) == (200, {"type": "http.request", "length": 0}, [])
    assert asked("POST", "/gradio_api/queue/join", [b"ab", b"c"])[1]["length"] == 3


@pytest.mark.parametrize(
    ("status", "method", "path", "pieces", "headers"),
    [
        (421, "GET", "/", [], {"host": "evil.com"}),
        (421, "POST", "/gradio_api/call/draw", [], {"host": "evil.com"}),
        (403, "POST", "/v1/jobs", [], {"origin": "https://evil.com"}),
        (403, "POST", "/v1/jobs", [], {"origin": "null"}),
        (403, "POST", "/v1/jobs", [], {"origin": "http://127.0.0.1:3000"}),
        (404, "POST", "/gradio_api/upload", [], {}),
        (404, "POST", "/gradio_api/upload/", [], {}),
        (413, "POST", "/gradio_api/cancel", [b""], {"content-length": str(MAXIMUM_BODY + 1)}),
        (413, "POST", "/gradio_api/cancel", [b""], {"content-length": "many"}),
        (413, "POST", "/gradio_api/cancel", [b"x" * MAXIMUM_BODY, b"x"], {}),
        (413, "POST", "/gradio_api/cancel", [b"x" * MAXIMUM_BODY, b"x"], {"content-length": "5"}),
    ],
)
def test_what_is_refused_gets_a_sentence(
    status: int, method: str, path: str, pieces: list[bytes], headers: dict[str, str]
) -> None:
    got, answer, _ = asked(method, path, pieces, headers)
    assert got == status
    assert str(answer["error"]).isascii()
    assert not str(asked(method, path, pieces, headers | {"accept-language": "zh"})[1]["error"]).isascii()


def test_who_leaves_is_told_of() -> None:
    _, answer, heard = asked("GET", "/gradio_api/heartbeat/abc", [])
    assert answer["type"] == "http.disconnect"
    assert heard == ["abc"]


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        (None, "a", True),
        ("http://127.0.0.1:7860", "127.0.0.1:7860", True),
        ("https://draw.example.com", "draw.example.com", True),
        ("http://[::1]:80", "[::1]", True),
        ("http://localhost:3000", "localhost:7860", False),
        ("https://evil.com", "127.0.0.1:7860", False),
        ("null", "127.0.0.1:7860", False),
        ("http://a:x", "a", False),
    ],
)
def test_pages_of_other_sites(origin: str | None, host: str, same: bool) -> None:
    assert same_site(origin, host) is same


def test_pictures_may_be_longer_where_pictures_go() -> None:
    long = [b"x" * (MAXIMUM_BODY + 1)]
    for path in ("/v1/jobs", "/v1/images/edits", "/sdapi/v1/img2img"):
        assert asked("POST", path, long)[0] == 200
    for path in ("/v1/images/generations", "/sdapi/v1/options", "/v1"):
        assert asked("POST", path, long)[0] == 413
    assert asked("POST", "/v1/jobs", [b"x" * 30, b"y"], limits=Limits(picture_bytes=30))[0] == 413
    assert asked("POST", "/v1/jobs", [b"x" * 30, b"y"], limits=Limits(bodies_bytes=30))[0] == 503


def test_keys_open_what_they_are_for(tmp_path: Path) -> None:
    keys = KeyStore(tmp_path)
    tokens = {scope: keys.add(scope.value, (scope,), 600) for scope in Scope}

    def status(path: str, token: str | None) -> int:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return asked("GET", path, [], headers, keys)[0]

    assert status("/v1/jobs", None) == 401
    assert status("/v1/jobs", "bimo-nothing") == 401
    assert [status("/v1/jobs", token) for token in tokens.values()] == [200, 403, 200]
    assert [status("/metrics", token) for token in tokens.values()] == [403, 200, 200]
    assert status("/healthz", None) == status("/", None) == 200
    basic = base64.b64encode(f"anybody:{tokens[Scope.draw]}".encode()).decode()
    assert asked("GET", "/sdapi/v1/options", [], {"authorization": f"Basic {basic}"}, keys)[0] == 200
    for broken in ("Basic !", "Basic " + base64.b64encode(b"\xff").decode(), "Bearer", "Digest x", "Bearer \udcff"):
        header = {"authorization": broken.encode("utf-8", "surrogateescape").decode("latin-1")}
        assert asked("GET", "/v1/jobs", [], header, keys)[0] == 401
    keys.revoke("draw")
    assert status("/v1/jobs", tokens[Scope.draw]) == 401
    assert not any(token in (tmp_path / "bimo.sqlite3").read_bytes().decode("latin-1") for token in tokens.values())


def test_one_key_opens_two_servers(tmp_path: Path) -> None:
    here, there = KeyStore(tmp_path / "here"), KeyStore(tmp_path / "there")
    token = here.add("ann")
    assert there.caller(token) is None
    assert there.add("ann", token=token) == token
    caller = there.caller(token)
    assert caller is not None
    assert caller.name == "ann"


def test_a_key_has_a_rate(tmp_path: Path) -> None:
    now = [0.0]
    keys = KeyStore(tmp_path, clock=lambda: now[0])
    keys.add("a", per_minute=6)
    assert [keys.wait("a") for _ in range(8)] == [0] * 6 + [10, 10]
    now[0] = 10.0
    assert [keys.wait("a") for _ in range(2)] == [0, 10]
    with pytest.raises(RequestError, match="already"):
        keys.add("a")
    for wrong in ("", "bimo-short", "x" * 48):
        with pytest.raises(RequestError, match="no token"):
            keys.add("b", token=wrong)
    with pytest.raises(RequestError, match="there is a"):
        keys.revoke("b")
    assert [key.name for key in keys.listed()] == ["a"]
