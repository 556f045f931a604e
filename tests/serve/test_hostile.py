"""What hostile requests get: a sentence and 4xx each, no traceback, no file touched, and the server goes on."""

import base64
import io
import json
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.serve.conftest import listening

DRAW, JOBS, EDITS, VARY, T2I, I2I, TASKS = (
    "/v1/images/generations",
    "/v1/jobs",
    "/v1/images/edits",
    "/v1/images/variations",
    "/sdapi/v1/txt2img",
    "/sdapi/v1/img2img",
    "/api/v1/services/aigc/text2image/image-synthesis",
)


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def png(width: int = 8, height: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def whole(width: int, height: int) -> bytes:
    """A PNG of one colour, which is small however many pixels it has."""
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(b"\0" * (3 * width + 1)) for _ in range(height)) + rows.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def text_bomb(kind: bytes) -> bytes:
    """A PNG with a text, or a profile, that is unpacked to ten million characters."""
    packed = zlib.compress(b"A" * 10_000_000, 9)
    begins = {b"zTXt": b"Comment\0\0", b"iTXt": b"parameters\0\1\0\0\0", b"iCCP": b"icc\0\0"}[kind]
    at = png().index(b"IDAT") - 4
    return png()[:at] + chunk(kind, begins + packed) + png()[at:]


def bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes that says it is huge."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def job(**fields: Any) -> tuple[str, str, Any]:
    return "POST", JOBS, {"text": "猫"} | fields


def openai(**fields: Any) -> tuple[str, str, Any]:
    return "POST", DRAW, {"prompt": "猫"} | fields


def a1111(**fields: Any) -> tuple[str, str, Any]:
    return "POST", T2I, {"prompt": "猫"} | fields


def dashscope(prompt: str = "猫", **parameters: Any) -> tuple[str, str, Any]:
    return "POST", TASKS, {"input": {"prompt": prompt}, "parameters": parameters}


def i2i(**fields: Any) -> tuple[str, str, Any]:
    return "POST", I2I, {"prompt": "猫", "init_images": [b64(png(64, 64))], "width": 64, "height": 64} | fields


def unit(**fields: Any) -> dict[str, Any]:
    return {"alwayson_scripts": {"controlnet": {"args": [{"image": b64(png()), **fields}]}}}


def nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for _ in range(depth):
        inner = {"a": inner}
    return inner


#: (method, path, JSON or raw body) -> the status it gets.
REQUESTS: list[tuple[tuple[str, str, Any], set[int]]] = [
    # Bodies that are no JSON, or not what is expected.
    (("POST", JOBS, b""), {422}),
    (("POST", JOBS, b"{"), {400, 422}),
    (("POST", JOBS, b"[]"), {422}),
    (("POST", JOBS, b"null"), {422}),
    (("POST", JOBS, b'"text"'), {422}),
    (("POST", JOBS, b"\xff\xfe\x00"), {400, 422}),
    (("POST", JOBS, b"[" * 100_000), {400, 422}),
    (("POST", JOBS, b'{"text":' * 20_000), {400, 422}),
    (("POST", JOBS, b"x" * 100), {400, 422}),
    (("POST", JOBS, b'{"text": "a", "seed": NaN}'), {400, 422}),
    (("POST", JOBS, b'{"text": "a", "guidance": Infinity}'), {400, 422}),
    (("POST", JOBS, b'{"text": "a", "seed": ' + b"9" * 5000 + b"}"), {400, 422}),
    (("POST", JOBS, b'{"text": "a", "text": ""}'), {400}),
    (("POST", DRAW, b"x" * (1 << 18)), {413}),
    # Texts.
    (job(text=None), {422}),
    (job(text=5), {422}),
    (job(text=["a"]), {422}),
    (job(text={"a": 1}), {422}),
    (job(text=""), {400}),
    (job(text=" \n\t"), {400}),
    (job(text="\ud800"), {400}),
    (job(text="猫" * 5000), {400}),
    (job(negative="\udfff"), {400}),
    (job(negative="a" * 5000), {400}),
    # Numbers.
    (job(steps=0), {400}),
    (job(steps=-1), {400}),
    (job(steps=10**9), {400}),
    (job(steps="many"), {422}),
    (job(steps=1.5), {422}),
    (job(steps=[]), {422}),
    (job(count=0), {400}),
    (job(count=10**6), {400}),
    (job(seed=-1), {400}),
    (job(seed=2**63), {400}),
    (job(seed="abc"), {422}),
    (job(guidance=-1), {400}),
    (job(guidance=1e308), {400}),
    (job(eta=2), {400}),
    (job(clip_skip=10**9), {400}),
    (job(size=[0, 0]), {400}),
    (job(size=[-128, 128]), {400}),
    (job(size=[10**9, 10**9]), {400}),
    (job(size=[128]), {422}),
    (job(size="128x128"), {422}),
    (job(seconds=-5), {422}),
    (job(priority=99), {422}),
    (job(previews=99), {422}),
    (job(strength=0.5), {400}),
    # Names that are looked for.
    (job(model="/etc/passwd"), {400}),
    (job(model="../../../root"), {400}),
    (job(model="http://169.254.169.254/"), {400}),
    (job(model="owner/name"), {400}),
    (job(loras=[{"name": "../x", "weight": 1}]), {400}),
    (job(loras=[{"name": "a"}] * 100), {400}),
    (job(sampler="__class__"), {400}),
    (job(style="; rm -rf /"), {400}),
    (job(condition_images={"../../x": b64(png())}), {400}),
    (job(conditions={"x": [1e999]}), {400, 422}),
    (job(strange=1), {422}),
    # Pictures.
    (job(image=""), {400}),
    (job(image="%%%"), {400}),
    (job(image="http://127.0.0.1:1/a.png"), {400}),
    (job(image="file:///etc/passwd"), {400}),
    (job(image="data:text/html;base64," + b64(b"<script>")), {400}),
    (job(image=b64(b"GIF89a")), {400}),
    (job(image=b64(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")), {400}),
    (job(image=b64(b'<svg xmlns="http://www.w3.org/2000/svg"/>')), {400}),
    (job(image=b64(bomb(60000, 60000))), {400}),
    (job(image=b64(bomb(2**31 - 1, 2**31 - 1))), {400}),
    (job(image=b64(bomb(0, 5))), {400}),
    (job(image=b64(png()[:40])), {400}),
    (job(image=b64(bomb(100, 100))), {400}),
    (job(mask=b64(png())), {400}),
    # OpenAI's and A1111's.
    (openai(n=0), {400}),
    (openai(n=-5), {400}),
    (openai(size="1e9x1e9"), {400}),
    (openai(size="99999x99999"), {400}),
    (openai(response_format="file:///etc/passwd"), {400}),
    (openai(stream="perhaps"), {400}),
    (("POST", EDITS, b""), {415}),
    (("POST", EDITS, {"prompt": "a"}), {415}),
    (("POST", DRAW, []), {400}),
    (a1111(n_iter=10**6), {400, 422}),
    (a1111(width=-64, height=64), {400}),
    (a1111(styles="x"), {422}),
    (a1111(alwayson_scripts={"controlnet": {"args": [{"image": "http://x"}]}}), {400}),
    (a1111(override_settings={"sd_model_checkpoint": "../x"}), {400}),
    (("POST", I2I, {"prompt": "猫"}), {404}),
    (("POST", I2I, {"prompt": "猫", "init_images": ["/etc/passwd"]}), {400}),
    (("POST", "/sdapi/v1/png-info", {"image": "x" * 99}), {400}),
    (("POST", "/sdapi/v1/extra-single-image", {"image": b64(png()), "upscaling_resize": 1e9}), {422}),
    (("POST", "/sdapi/v1/options", {"sd_model_checkpoint": "/etc/passwd"}), {400}),
    # What is looked for in long texts, or done with numbers, before a request is checked as a whole.
    (a1111(infotext='a: "' + "\\\\" * 9000 + "\n" + "a " * 20000), {400}),
    (a1111(prompt="(<lora:" * 3000), {400}),
    (a1111(prompt="猫<lora:ink:" + "9" * 400 + ">"), {400}),
    (a1111(override_settings=nested(200)), {422}),
    (a1111(alwayson_scripts=nested(200)), {422}),
    (a1111(alwayson_scripts={"controlnet": {"args": [[[]]]}}), {400}),
    (a1111(alwayson_scripts={"controlnet": {"args": "x"}}), {400}),
    (a1111(**unit(weight=10**400)), {400}),
    (a1111(**unit(weight=True, image=b64(png(64, 64)[:60]))), {400}),
    (a1111(seed=2**100), {400}),
    (a1111(subseed=2**70, subseed_strength=0.5), {400}),
    (a1111(enable_hr=True, denoising_strength=7), {400}),
    (i2i(width=-64, resize_mode=1), {400}),
    (i2i(width=10**6, height=10**6, resize_mode=2), {400}),
    (i2i(denoising_strength=5), {400}),
    (openai(size="٦٤x٦٤"), {400}),
    (openai(loras={"ink": "0.8@0.9-0.1"}), {400}),
    (openai(loras={"ink": 1e308}), {400}),
    (openai(loras={"ink": 10**400}), {400}),
    (openai(loras=[1]), {400}),
    (openai(user="\ud800", n=0), {400}),
    (job(guidance=10**400), {400, 422}),
    (job(loras=[{"name": "ink", "first": 0.5, "last": 0.5}]), {400}),
    # Fields said twice, and what little text makes much of.
    (("POST", JOBS, b'{"text": "a", "steps": 1, "steps": 1000000000}'), {400}),
    (("POST", JOBS, b'\xef\xbb\xbf{"text": "a", "steps": 0}'), {400, 422}),
    (("POST", JOBS, b'{"text": "a", "loras": ' + b"[" * 5000 + b"]" * 5000 + b"}"), {400, 422}),
    (("POST", DRAW, b'{"prompt": "a", "n": 1, "n": -1}'), {400}),
    (job(regions=[{"text": "x", "box": [0, 0, 1, 1]}] * 2000), {400}),
    (job(conditions={"x" * 100_000: [1.0]}), {400}),
    (job(conditions={f"x{number}": [1.0] for number in range(1000)}), {400}),
    (job(condition_images={"x" * 5000: b64(png())}), {400}),
    (job(condition_images={f"control-{number}": b64(png()) for number in range(500)}), {400}),
    (job(hires=2, hires_steps=1000), {400}),
    (job(hires=4, size=[2048, 2048]), {400}),
    (job(hires=1e9), {400}),
    (job(tile_size=64, tile_overlap=63, size=[2048, 2048], steps=2), {400}),
    (job(outpaint=[2040, 2040, 2040, 2040], image=b64(png(64, 64))), {400}),
    (job(feather=10**9, outpaint=[8, 8, 8, 8], image=b64(png(64, 64))), {400}),
    (a1111(enable_hr=True, hr_scale=4, width=2048, height=2048), {400}),
    (openai(model="x" * 100_000), {404}),
    (dashscope(n=10**6), {422}),
    # Pictures that are cut off, or unpack to much more than they are.
    (i2i(init_images=[b64(png(64, 64)[:60])]), {400}),
    (i2i(init_images=[5]), {422}),
    (i2i(init_images=[None]), {422}),
    (i2i(mask=b64(png(64, 64)[:60])), {400}),
    (i2i(init_images=[b64(whole(5000, 5000))]), {400}),
    (("POST", "/sdapi/v1/extra-single-image", {"image": b64(png(64, 64)[:60])}), {400}),
    (("POST", "/sdapi/v1/extra-single-image", {"image": b64(whole(2000, 2000)), "upscaling_resize": 8}), {400}),
    (("POST", "/sdapi/v1/png-info", {"image": b64(text_bomb(b"zTXt"))}), {400}),
    (("POST", "/sdapi/v1/png-info", {"image": b64(text_bomb(b"iTXt"))}), {400}),
    (("POST", "/sdapi/v1/png-info", {"image": b64(text_bomb(b"iCCP"))}), {400}),
    (job(image=b64(whole(4000, 4000)[:5000])), {400}),
    (job(region_map=b64(png(64, 64)[:60]), regions=[{"text": "a", "colour": "#ff0000"}]), {400, 422}),
    # DashScope's.
    (dashscope(scale=10**400), {400, 422}),
    (dashscope(seed=10**400), {400, 422}),
    (dashscope(size="-64*64"), {400}),
    (dashscope(size="0*0"), {400}),
    (dashscope(prompt="\ud800"), {400}),
    (dashscope(style="\udfff"), {400}),
    (dashscope(n=True, steps=-1), {400}),
    (("POST", TASKS, b'{"input": {"prompt": "a"}, "parameters": {"scale": NaN}}'), {400, 422}),
    (("POST", TASKS, {"input": "a"}), {422}),
    (("GET", "/api/v1/tasks/..%2f..%2fkeys", None), {404}),
    (("POST", "/api/v1/tasks/%00/cancel", None), {404}),
    # Paths.
    (("HEAD", JOBS, None), {405}),
    (("OPTIONS", DRAW, None), {405}),
    (("HEAD", "/v1/nothing", None), {404}),
    (("GET", "/v1/jobs/%00", None), {404}),
    (("GET", "/v1/jobs/%ff%fe/events", None), {404}),
    (("GET", "/v1/jobs?before=1e400", None), {422}),
    (("GET", "/files/x/0.png?until=" + "9" * 5000 + "&signature=a", None), {403, 422}),
    (("GET", "/files/x/%d9%a1.png?until=9999999999&signature=a", None), {403}),
    (("GET", "/v1/jobs/..%2f..%2fetc%2fpasswd", None), {404}),
    (("GET", "/v1/jobs/x/pictures/..%2f0", None), {404, 422}),
    (("GET", "/v1/jobs/x/pictures/99999999999999999999", None), {404, 422}),
    (("GET", "/files/../../etc/passwd?until=1&signature=x", None), {403, 404, 422}),
    (("GET", "/files/x/0.png?until=9999999999&signature=" + "0" * 64, None), {403}),
    (("GET", "/files/x/0.png?until=9999999999&signature=é", None), {403}),
    (("GET", "/v1/jobs?limit=1000000", None), {422}),
    (("GET", "/v1/jobs?before=nan", None), {422}),
    (("GET", "/v1/jobs?state=x", None), {422}),
    (("GET", "/v1/recipes/..%2f..%2fsetup.py", None), {404}),
    (("TRACE", JOBS, None), {405}),
    (("DELETE", "/v1/jobs/' or 1=1 --", None), {404}),
]


def test_there_are_eighty_and_more() -> None:
    assert len(REQUESTS) >= 80


def application(folder: Path, engine: Any) -> Any:
    """A server of the toy system."""
    from bimo.serve.app import create_app, unknown_paths
    from bimo.serve.job_store import JobStore
    from bimo.serve.pool import EngineKey, EnginePool
    from bimo.serve.service import DrawingService
    from bimo.serve.settings import ServeSettings

    pool = EnginePool(lambda name: engine, {"tiny": "tiny"})
    pool.put(EngineKey("tiny"), engine)
    app = create_app(DrawingService(ServeSettings(("tiny",), folder), pool, JobStore(folder)))
    unknown_paths(app)
    return app


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_engine: Any) -> Any:
    """One server for all of them: what one did must not matter to the next."""
    folder = tmp_path_factory.mktemp("serve")
    app = application(folder, tiny_engine)
    headers = {"accept-language": "en"}
    with TestClient(app, base_url="http://127.0.0.1", headers=headers, raise_server_exceptions=False) as client:
        yield client, folder


@pytest.mark.parametrize(
    ("asked", "statuses"), REQUESTS, ids=[f"{n}-{one[0][1]}-{str(one[0][2])[:40]!a}" for n, one in enumerate(REQUESTS)]
)
def test_a_hostile_request_gets_a_sentence(
    server: tuple[TestClient, Path], asked: tuple[str, str, Any], statuses: set[int]
) -> None:
    client, folder = server
    method, path, body = asked
    files = sorted(str(file) for file in folder.rglob("*"))
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    headers = {"content-type": "application/json", "x-dashscope-async": "enable"}
    check(client.request(method, path, content=content, headers=headers), client, folder, files, statuses)


def check(answer: Any, client: TestClient, folder: Path, files: list[str], statuses: set[int]) -> None:
    """A sentence, no traceback, no file, and the server goes on."""
    assert answer.status_code in statuses, answer.text
    assert "Traceback" not in answer.text
    assert str(folder) not in answer.text
    if answer.status_code >= 400:
        if answer.request.method != "HEAD":
            found = answer.json()
            sentence = found["error"]["message"] if isinstance(found.get("error"), dict) else found.get("detail")
            sentence = sentence or found.get("message") or found.get("error")
            assert isinstance(sentence, str)
            assert len(sentence) <= 2000
            assert found.get("code") != "InternalError"
        assert sorted(str(file) for file in folder.rglob("*")) == files
    assert client.get("/healthz").status_code == 200


def part(name: str, content: bytes, file: str = "") -> bytes:
    named = f'form-data; name="{name}"' + (f'; filename="{file}"' if file else "")
    return b"--XX\r\nContent-Disposition: " + named.encode() + b"\r\n\r\n" + content + b"\r\n"


PROMPT, IMAGE, END = part("prompt", b"a"), part("image", png(64, 64), "a.png"), b"--XX--\r\n"
#: Bodies of forms, their content types, and the status that each gets.
FORMS: list[tuple[bytes, str, set[int]]] = [
    (PROMPT + END, "boundary=XX", {400}),
    (PROMPT + part("image", b"abc") + END, "boundary=XX", {400}),
    (PROMPT + part("image", b"", "a.png") + END, "boundary=XX", {400}),
    (PROMPT + IMAGE[:-20], "boundary=XX", {400}),
    (PROMPT + PROMPT + IMAGE + END, "boundary=XX", {400}),
    (PROMPT + IMAGE + part("mask", png(64, 64), "m.png") * 2 + END, "boundary=XX", {400}),
    (PROMPT + IMAGE + part("mask", png(32, 64), "m.png") + END, "boundary=XX", {400}),
    (PROMPT + part("image", png(64, 64)[:60], "a.png") + END, "boundary=XX", {400}),
    (PROMPT + part("image", b"<svg/>", "../../../etc/passwd") + END, "boundary=XX", {400}),
    (PROMPT + part("image", text_bomb(b"iTXt"), "a.png") + END, "boundary=XX", {400}),
    (PROMPT + part("strange", png(), "a.png") + IMAGE + END, "boundary=XX", {400}),
    (PROMPT + part("loras", b'{"ink": NaN}') + IMAGE + END, "boundary=XX", {400}),
    (PROMPT + part("loras", b"[" * 5000) + IMAGE + END, "boundary=XX", {400}),
    (b"".join(part(f"f{number}", b"a") for number in range(70)) + END, "boundary=XX", {400}),
    (PROMPT + IMAGE * 20 + END, "boundary=XX", {400}),
    (b"".join(part(f"f{number}", b"a", "a.png") for number in range(1000)) + END, "boundary=XX", {400}),
    (b"--XX\r\n" + b"X-A: b\r\n" * 5000 + PROMPT.partition(b"\r\n")[2] + IMAGE + END, "boundary=XX", {400}),
    (PROMPT + IMAGE + END, "boundary=" + "X" * 5000, {400}),
    (part("prompt", b"a" * (2 << 20)) + IMAGE + END, "boundary=XX", {400}),
    (b"--XX\r\n\r\nabc\r\n" + END, "boundary=XX", {400}),
    (PROMPT + IMAGE + END, "", {400}),
    (PROMPT + IMAGE + END, "boundary=", {400}),
]


# Starlette leaves the file of a part that never ended to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("path", [EDITS, VARY])
@pytest.mark.parametrize(("body", "boundary", "statuses"), FORMS, ids=range(len(FORMS)))
def test_a_hostile_form_gets_a_sentence(
    server: tuple[TestClient, Path], path: str, body: bytes, boundary: str, statuses: set[int]
) -> None:
    client, folder = server
    files = sorted(str(file) for file in folder.rglob("*"))
    if path == VARY:
        body = body.replace(PROMPT, part("strength", b"9"))  # a variation without a record, and out of bounds
    headers = {"content-type": f"multipart/form-data; {boundary}"}
    check(client.post(path, content=body, headers=headers), client, folder, files, statuses)


#: Requests as they come over the wire: bytes that no client would send, and what they get.
WIRE: list[tuple[bytes, set[int]]] = [
    (b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
    (b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", {400}),
    (b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", {400, 411, 501}),
    (b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}", {400}),
    (b"Content-Length: +2\r\n\r\n{}", {400, 413}),
    (b"Content-Length: -2\r\n\r\n{}", {400, 413}),
    (b"Content-Length : 2\r\n\r\n{}", {400}),
    (b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n", {400, 422}),
    (b"Host: example.com\r\nContent-Length: 2\r\n\r\n{}", {400, 421}),
    (b"X: a\0b\r\nContent-Length: 2\r\n\r\n{}", {400}),
    (b"X: " + b"a" * 200_000 + b"\r\nContent-Length: 2\r\n\r\n{}", {400, 422, 431}),
    (b"Idempotency-Key: " + b"k" * 5000 + b'\r\nContent-Length: 13\r\n\r\n{"text": "a"}', {400}),
    (b"Host: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}", {400}),
    (b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n", {400, 403, 404, 422}),
    (b"X-\xe7\x8c\xab: a\r\nContent-Length: 2\r\n\r\n{}", {400}),
    (b"Accept-Language: \xe7\x8c\xab;q=nan\r\nContent-Length: 2\r\n\r\n{}", {422}),
    (b"Expect: 200-ok\r\nContent-Length: 1\r\n\r\n{", {400, 417, 422}),
]


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory, tiny_engine: Any) -> Iterator[int]:
    """The port of such a server behind a socket."""
    with listening(application(tmp_path_factory.mktemp("wire"), tiny_engine)) as address:
        yield int(address.rpartition(":")[2])


@pytest.mark.parametrize(("sent", "statuses"), WIRE, ids=range(len(WIRE)))
def test_what_no_client_sends_is_refused(wire: int, sent: bytes, statuses: set[int]) -> None:
    with socket.create_connection(("127.0.0.1", wire), timeout=30) as connection:
        head = b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
        connection.sendall(head + sent)
        answer = connection.recv(65536).decode("utf-8", "replace")
    assert int(answer.split(" ")[1]) in statuses, answer
    assert "Traceback" not in answer


#: Host headers that name nobody, or another machine in the guise of this one.
HOSTS = ("evil@127.0.0.1", "2130706433", "0x7f.1", "127.0.0.1:99a", "127.0.0.1.evil.com", "[::1", "localhost#evil")


@pytest.mark.parametrize("host", HOSTS)
def test_hosts_in_disguise(server: tuple[TestClient, Path], host: str) -> None:
    client, _ = server
    assert client.get("/v1/jobs", headers={"host": host}).status_code == 421


def test_a_picture_is_whole_whatever_part_is_asked_for(make_service: Any) -> None:
    """Neither thousands of ranges nor ones that overlap are put together; events begin anew for who comes again."""
    from bimo.serve.app import create_app

    with TestClient(create_app(make_service()), base_url="http://127.0.0.1") as client:
        name = client.post("/v1/jobs", json={"text": "猫", "steps": 1, "size": [64, 64]}).json()["id"]
        for last in ("0", "9" * 5000, "-1"):
            events = client.get(f"/v1/jobs/{name}/events", headers={"last-event-id": last}).text
            assert events.startswith("event: state")
            assert events.count("event: ended") == 1
        whole = client.get(f"/v1/jobs/{name}/pictures/0").content
        for ranges in ("0-,0-", ",".join("0-" for _ in range(5000)), "-1", "9" * 50 + "-"):
            answer = client.get(f"/v1/jobs/{name}/pictures/0", headers={"range": f"bytes={ranges}"})
            assert (answer.status_code, answer.content) == (200, whole)


def test_other_peoples_jobs_are_nobodys(make_service: Any, tmp_path: Path) -> None:
    from bimo.serve.app import create_app
    from bimo.serve.gate import Gate
    from bimo.serve.keys import KeyStore

    service, keys = make_service(), KeyStore(tmp_path / "serve")
    tokens = [keys.add(name, per_minute=600) for name in ("ann", "bob")]
    app = create_app(service, gate=lambda inner: Gate(inner, keys=keys))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        ann, bob = ({"authorization": f"Bearer {token}"} for token in tokens)
        name = client.post("/v1/jobs", json={"text": "猫", "steps": 100}, headers=ann).json()["id"]
        assert client.post("/v1/jobs", json={"text": "猫"}).status_code == 401
        for method, path in (
            ("GET", f"/v1/jobs/{name}"),
            ("POST", f"/v1/jobs/{name}/cancel"),
            ("DELETE", f"/v1/jobs/{name}"),
            ("GET", f"/v1/jobs/{name}/events"),
            ("GET", f"/v1/jobs/{name}/pictures/0"),
            ("POST", f"/api/v1/tasks/{name}/cancel"),
        ):
            assert client.request(method, path, headers=bob).status_code == 404, path
        assert client.get(f"/api/v1/tasks/{name}", headers=bob).json()["output"]["task_status"] == "UNKNOWN"
        assert client.get("/api/v1/tasks?api_key_id=ann", headers=bob).json()["data"] == []
        assert client.get("/v1/jobs", headers=bob).json()["data"] == []
        client.post("/sdapi/v1/interrupt", headers=bob)
        assert client.get(f"/v1/jobs/{name}", headers=ann).json()["state"] in ("queued", "running")
        assert client.delete(f"/v1/jobs/{name}", headers=ann).status_code == 204
