"""The gate before the page: names that are not ours, files and long bodies are refused, and who leaves is told of."""

import asyncio
import json
from typing import Any

import pytest

from bimo.serve.gate import MAXIMUM_BODY, Gate, served, spoken


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
    method: str, path: str, pieces: list[bytes], headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any], list[str]]:
    """(status, answer, what was told) of a request whose body comes in pieces; the app behind the gate echoes it."""
    heard: list[str] = []
    sent: list[dict[str, Any]] = []
    waiting = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    waiting += [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        told = {"type": message["type"], "length": len(message.get("body", b""))}
        await send({"type": "http.response.body", "body": json.dumps(told).encode()})

    gate = Gate(
        app, own=(), form=("/draw", 2), came=lambda s: heard.append(f"+{s}"), left=lambda s: heard.append(f"-{s}")
    )
    named = {"host": "127.0.0.1:1", "accept-language": "en"} | (headers or {})
    scope = {"type": "http", "method": method, "path": path}
    scope["headers"] = [(k.encode(), v.encode()) for k, v in named.items()]
    asyncio.run(gate(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"]), heard


def test_what_is_ours_goes_through() -> None:
    assert asked("GET", "/", []) == (200, {"type": "http.request", "length": 0}, [])
    assert asked("POST", "/gradio_api/queue/join", [b"ab", b"c"])[1]["length"] == 3
    assert asked("POST", "/gradio_api/call/draw", [b'{"data": [1, ', b"2]}"])[0] == 200


@pytest.mark.parametrize(
    ("status", "method", "path", "pieces", "headers"),
    [
        (421, "GET", "/", [], {"host": "evil.com"}),
        (421, "POST", "/gradio_api/call/draw", [], {"host": "evil.com"}),
        (404, "POST", "/gradio_api/upload", [], {}),
        (404, "POST", "/gradio_api/upload/", [], {}),
        (413, "POST", "/gradio_api/queue/join", [b""], {"content-length": str(MAXIMUM_BODY + 1)}),
        (413, "POST", "/gradio_api/queue/join", [b""], {"content-length": "many"}),
        (413, "POST", "/gradio_api/queue/join", [b"x" * MAXIMUM_BODY, b"x"], {}),
        (413, "POST", "/gradio_api/queue/join", [b"x" * MAXIMUM_BODY, b"x"], {"content-length": "5"}),
        (422, "POST", "/gradio_api/call/draw", [b'{"data": [1]}'], {}),
        (422, "POST", "/gradio_api/call/draw", [b'{"data": null}'], {}),
        (422, "POST", "/gradio_api/call/draw", [b"\xff"], {}),
        (422, "POST", "/gradio_api/call/draw", [b"[" * 100_000], {}),
    ],
)
def test_what_is_refused_gets_a_sentence(
    status: int, method: str, path: str, pieces: list[bytes], headers: dict[str, str]
) -> None:
    got, answer, _ = asked(method, path, pieces, headers)
    assert got == status
    assert answer["error"].isascii()
    assert not asked(method, path, pieces, headers | {"accept-language": "zh"})[1]["error"].isascii()


def test_who_leaves_is_told_of() -> None:
    _, answer, heard = asked("GET", "/gradio_api/heartbeat/abc", [])
    assert answer["type"] == "http.disconnect"
    assert heard == ["+abc", "-abc", "-abc"]
