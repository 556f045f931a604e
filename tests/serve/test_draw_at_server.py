"""`bimo draw --server`: the pictures of a running server as if they were drawn here, without torch; every way in which
a server is not there, refuses, stops or is none gets a sentence, and what is written is whole.
"""

import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from bimo.cli import at_server, job_client, main
from bimo.cli.at_server import SERVED
from bimo.cli.commands import command_line
from bimo.cli.job_client import ADDRESS_VARIABLE, KEY_VARIABLE, JobServer
from bimo.core.errors import RequestError
from bimo.core.lora_weight import LoraWeight
from bimo.core.messages import Message
from bimo.core.picture import read_metadata
from bimo.core.request import Request
from bimo.engine.engine import Engine
from bimo.serve.app import create_app
from bimo.serve.jobs import Failure, State
from bimo.serve.keys import KeyStore, Scope
from bimo.serve.service import DrawingService
from tests.serve.conftest import listening
from tests.serve.test_layers import layered
from tests.serve.test_scheduler import lora_file
from tests.support.checkout import ROOT

__all__ = ["layered"]
pytestmark = pytest.mark.network
Make = Callable[..., DrawingService]
Drawn = tuple[int, str, str]
#: The least answer to a job that is one.
JOB = {"object": "job", "id": "abc", "state": "running", "notes": [], "pictures": [], "error": None}
PICTURE = {"place": 0, "seed": 1, "seconds": 0.1, "warnings": [], "flagged": None, "layers": []}


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")
    for name in (ADDRESS_VARIABLE, KEY_VARIABLE, "BIMO_MODEL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")


@pytest.fixture
def draw(capsys: pytest.CaptureFixture[str]) -> Callable[..., Drawn]:
    """Draws; answers status, output and what was said."""

    def run(*words: str) -> Drawn:
        capsys.readouterr()
        status = main.run(["draw", *words])
        out, said = capsys.readouterr()
        return status, out, said

    return run


@pytest.fixture
def serving(make_service: Make) -> Callable[..., Any]:
    """The address of a service of the toy system."""

    @contextmanager
    def serve(keys: KeyStore | None = None, **settings: Any) -> Iterator[tuple[str, DrawingService]]:
        service = make_service(**settings)
        with listening(create_app(service, keys=keys)) as address:
            yield address, service

    return serve


def pixels(file: str | Path) -> bytes:
    with Image.open(file) as image:
        return image.tobytes()


def test_pictures_are_those_that_are_drawn_here(
    serving: Any, draw: Any, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("红苹果", "--seed", "1", "--steps", "2", "-n", "2")
    with serving(batch=1) as (address, _):
        assert draw(*words, "--server", address) == (0, "红苹果.png\n红苹果-2.png\n", "")
        status, out, _ = draw(*words, "--server", address.removeprefix("http://") + "/", "--json", "-o", "there.png")
        monkeypatch.setenv(ADDRESS_VARIABLE, address)
        assert draw("红苹果", "--steps", "2", "--seed", "2", "-o", "new/") == (0, "new/红苹果.png\n", "")
        monkeypatch.delenv(ADDRESS_VARIABLE)
    here = draw(*words, "-m", str(tiny_folder), "--json", "--parameters", "-o", "here.png")
    there, own = json.loads(out), json.loads(here[1])
    assert (status, there.keys()) == (0, own.keys())
    for name in ("seeds", "recipe", "weights", "request", "warnings"):
        assert there[name] == own[name]
    assert Path("there.png").read_bytes() == Path("红苹果.png").read_bytes()
    for one, other in (("there.png", "here.png"), ("there-2.png", "here-2.png"), ("new/红苹果.png", "here-2.png")):
        assert pixels(one) == pixels(other)
        assert read_metadata(one) == read_metadata(other)


def test_neither_torch_nor_numpy_is_read(serving: Any, tmp_path: Path) -> None:
    code = "import sys; from bimo.cli.main import run; status = run(sys.argv[1:]); print(*sys.modules)"
    keys = KeyStore(tmp_path)
    token = keys.add("ann", [Scope.draw])
    environment = os.environ | {KEY_VARIABLE: token, "PYTHONPATH": str(ROOT)}
    with serving(keys=keys) as (address, _):
        command = (sys.executable, "-c", code, "draw", "红苹果", "--steps", "1", "--server", address)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    path, seen = done.stdout.splitlines()
    assert path == "红苹果.png", done.stderr
    assert Path(path).is_file()
    assert "bimo.cli.at_server" in seen.split()
    heavy = {"torch", "numpy", "PIL", "diffusers", "transformers", "tokenizers", "safetensors", "fastapi", "httpx"}
    assert not heavy & set(seen.split())


def test_a_key_comes_from_the_environment(
    serving: Any, draw: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = KeyStore(tmp_path)
    words = ("红苹果", "--steps", "1", "--server")
    with serving(keys=keys) as (address, _):
        status, out, said = draw(*words, address)
        assert (status, out) == (2, "")
        assert "wants a key" in said
        assert KEY_VARIABLE in said
        monkeypatch.setenv(KEY_VARIABLE, "bimo-wrong")
        assert "no such key" in draw(*words, address)[2]
        monkeypatch.setenv(KEY_VARIABLE, keys.add("ann", [Scope.metrics]))
        assert "lacks the scope draw" in draw(*words, address)[2]
        monkeypatch.setenv(KEY_VARIABLE, keys.add("bob", [Scope.draw]) + "\n")
        assert draw(*words, address)[0] == 0
        monkeypatch.setenv(KEY_VARIABLE, "a\r\nX-Other: b")
        assert "no key has" in draw(*words, address)[2]
        monkeypatch.setenv("BIMO_LANGUAGE", "zh")
        monkeypatch.setenv(KEY_VARIABLE, "bimo-wrong")
        assert "没有这个密钥" in draw(*words, address)[2]


def test_words_are_worked_out_here(serving: Any, draw: Any) -> None:
    Path("list.txt").write_text("一只猫\n{红|红}苹果\n", encoding="utf-8")
    common = ("--steps", "1", "--seed", "3")
    with serving() as (address, service):
        assert draw("--prompts", "list.txt", *common, "--server", address)[:2] == (0, "一只猫.png\n红苹果.png\n")
        assert draw("红苹果", "--x", "steps=1,2", "--y", "红=红,绿", "--server", address)[:2] == (0, "红苹果-2.png\n")
        with Image.open("红苹果-2.png") as sheet:
            assert len(json.loads(sheet.info["bimo-sheet"])["pictures"]) == 4
        assert draw("--poem", "床前明月光", *common, "--anyway", "--server", address)[0] == 0
        assert draw("犀", "--anyway", *common, "--server", address)[0] == 0
        asked = [job.order.values for job in service.store.jobs()]
    assert asked[0]["drawn_text"] == "犀"
    assert asked[1]["original_text"] == "床前明月光"
    assert [one["steps"] for one in asked[2:6]] == [2, 1, 2, 1]


def test_every_field_of_a_request_is_sent(photo_engine: Engine, serving: Any, draw: Any) -> None:
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save("photo.jpg")
    Image.linear_gradient("L").resize((64, 64)).save("mask.png")
    settings = {
        "size": (64, 64),
        "steps": 4,
        "guidance": 4.0,
        "negative": "山",
        "seed": 5,
        "strength": 0.8,
        "guidance_interval": (0.0, 0.5),
        "guidance_every": 2,
        "step_cache": "deep:2",
        "token_merging": 0.5,
        "inscribe": (),
    }
    words = [
        *("红苹果", "--size", "64", "--steps", "4", "--guidance", "4", "--negative", "山", "--seed", "5"),
        *("--strength", "0.8", "--guidance-interval", "0:0.5", "--guidance-every", "2", "--step-cache", "deep:2"),
        *("--token-merging", "0.5", "--no-inscribe", "--image", "photo.jpg"),
    ]
    pictures = {"image": Path("photo.jpg").read_bytes()}
    with serving(engine=photo_engine, batch=1) as (address, _):
        assert draw(*words, "--mask", "mask.png", "--server", address, "-o", "a.png")[0] == 0
        assert draw(*words, "--outpaint", "left=50%", "--size", "96x64", "--server", address, "-o", "b.png")[0] == 0
        assert draw("苹果", "--region", "0,0,0.5,1=猫", "--steps", "1", "--server", address)[0] == 0
    masked = photo_engine.draw({"text": "红苹果", **settings, **pictures, "mask": Path("mask.png").read_bytes()})
    around = photo_engine.draw({"text": "红苹果", **settings, **pictures, "size": (96, 64), "outpaint": (32, 0, 0, 0)})
    assert pixels("a.png") == masked[0].image.tobytes()
    assert pixels("b.png") == around[0].image.tobytes()
    assert read_metadata("a.png")["request"] == json.loads(json.dumps(masked[0].metadata()["request"]))


def test_adapters_are_names_of_the_server(serving: Any, draw: Any, tiny_engine: Engine, tmp_path: Path) -> None:
    file = lora_file(tiny_engine, tmp_path, "ink")
    words = ("红苹果", "--seed", "1", "--steps", "4")
    with serving(lora_files={"ink": file}, batch=1) as (address, _):
        assert draw(*words, "--lora", "ink:0.8@0.2-0.6", "--server", address, "-o", "a.png")[0] == 0
        assert draw("红苹果<lora:ink:0.8>", *words[1:], "--server", address, "-o", "b.png")[0] == 0
        assert "there is no LoRA 'oil'" in draw(*words, "--lora", "oil", "--server", address)[2]
        assert "PICTURE=NAME" in draw(*words, "--control", "lines", "--server", address)[2]
        Image.new("RGB", (8, 8)).save("p.png")
        control = ("--control", "p.png=lines:0.6@0-0.5")
        assert "there is no ControlNet 'lines'" in draw(*words, *control, "--server", address)[2]
    for name, weight in (("a.png", LoraWeight(0.8, 0.2, 0.6)), ("b.png", LoraWeight(0.8))):
        expected = tiny_engine.with_adapters([(file, weight)]).draw("红苹果", seed=1, steps=4)
        assert pixels(name) == expected[0].image.tobytes()


def test_a_network_of_the_server_has_its_picture_weight_and_steps() -> None:
    from bimo.cli.inputs import content_of, images
    from bimo.cli.networks import Networks

    Image.new("RGB", (8, 8)).save("p=q.png")
    networks = Networks.of(("p=q.png=lines:0.6@0-0.5", "p=q.png=edges"), (), None, served=True)
    fields = images((), None, (), networks, content_of)
    drawing = at_server.ServerDrawing(JobServer("http://127.0.0.1"), "m", (), networks, fields)
    body = drawing.body(Request(text="猫", **fields))
    assert body["controlnets"] == ["lines", "edges"]
    assert body["conditions"] == {"control": [0.6, 0.0, 0.5]}
    assert set(body["condition_images"]) == {"control", "control-2"}
    assert body["model"] == "m"


@pytest.mark.slow
def test_layers_are_files_beside_the_picture(serving: Any, draw: Any, layered: Engine) -> None:
    Image.new("RGB", (64, 64), "red").save("red.png")
    words = ("红", "--image", "red.png", "--size", "64", "--steps", "2", "--seed", "1", "--condition", "layers=2")
    with serving(engine=layered, batch=1) as (address, _):
        status, out, _ = draw(*words, "--server", address, "-o", "a.png")
    assert (status, out) == (0, "a.png\na.layer-1.png\na.layer-2.png\n")
    with Image.open("red.png") as image:
        request = {"text": "红", "image": image, "size": (64, 64), "steps": 2, "seed": 1, "conditions": {"layers": [2]}}
        expected = layered.draw(request)[0]
    assert [pixels(f"a.layer-{n}.png") for n in (1, 2)] == [layer.tobytes() for layer in expected.layers]


@pytest.mark.parametrize(
    "words",
    [
        *("--fast lcm.safetensors", "--device cpu", "--dtype fp16", "--memory 8GB", "--engine torch", "--best clip"),
        *("--tiny-decoder taesd", "--embedding a.pt", "--ip-adapter a.bin=b.png", "--explain", "--again a.png"),
        *("--resume", "--label CN", "--compile", "--lora-folder loras"),
    ],
)
def test_what_is_for_this_machine_is_refused_by_name(draw: Any, words: str) -> None:
    status, out, said = draw("红苹果", *words.split(), "--server", "http://127.0.0.1:9")
    assert (status, out) == (2, "")
    assert f"for this machine alone there is {words.split()[0]};" in said
    assert ADDRESS_VARIABLE in said


def test_no_name_of_an_option_is_stale(draw: Any) -> None:
    command: Any = typer.main.get_command(command_line("draw"))
    parameters = {parameter.name for parameter in command.commands["draw"].params}
    assert parameters >= SERVED
    Path("font.ttf").write_bytes(b"")
    assert "file of this machine" in draw("福", "--font", "font.ttf", "--server", "http://127.0.0.1:9")[2]


def test_an_interrupted_command_cancels_its_job(serving: Any, draw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def impatient() -> Generator[Callable[..., None]]:
        def show(place: int, count: int, step: int, steps: int) -> None:
            if step > 2:
                raise KeyboardInterrupt

        yield show

    monkeypatch.setattr(at_server, "progress_bar", impatient)
    with serving() as (address, service):
        assert draw("红苹果", "--steps", "150", "-n", "2", "--server", address)[0] == main.INTERRUPTED
        (job,) = service.store.jobs()
        assert service.wait_here(job.id).state is State.cancelled
    assert list(Path().iterdir()) == []


def test_a_picture_that_cannot_be_written_ends_the_job(serving: Any, draw: Any) -> None:
    Path("file").write_text("")
    with serving() as (address, service):
        status, _, said = draw("红苹果", "--steps", "2", "--server", address, "-o", "file/a.png")
        assert (status, service.store.jobs()) == (2, [])
        assert "cannot write to" in said


def test_pictures_that_are_kept_back_are_said(serving: Any, draw: Any) -> None:
    failure = Failure("flagged", Message("not decent"), 400)
    words = ("红苹果", "--steps", "1", "--seed", "1", "-n", "2", "--server")
    with serving(inspect=lambda picture: failure if picture.index == 0 else None) as (address, _):
        status, out, said = draw(*words, address)
    assert (status, out, said) == (0, "红苹果.png\n", "Note: not decent\n")
    assert read_metadata("红苹果.png")["request"]["seed"] == 2


def test_no_picture_at_all_is_an_error(make_service: Make, draw: Any) -> None:
    failure = Failure("flagged", Message("not decent"), 400)
    with listening(create_app(make_service(inspect=lambda picture: failure))) as address:
        status, out, said = draw("红苹果", "--steps", "1", "--server", address)
    assert (status, out) == (2, "")
    assert "shows no picture of it: not decent" in said


def test_the_server_s_own_sentence_is_shown(serving: Any, draw: Any) -> None:
    with serving() as (address, _):
        for words, says in (
            (("红苹果", "-m", "other"), "there is no model 'other' here"),
            (("红苹果", "--steps", "500"), "this server allows at most 150"),
            (("红苹果", "--step-cache", "deep:3"), "UNet"),
        ):
            status, _, said = draw(*words, "--server", address)
            assert status == 2
            assert f"the server refuses: {said.partition('refuses: ')[2]}" in said
            assert says in said


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that ended is not told for long that nobody waits any more."""
    monkeypatch.setattr(job_client, "LEAVE_SECONDS", 0.1)


@contextmanager
def answering(*answers: bytes, path: str = "") -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives an answer a connection, whatever is asked; and what was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for answer in answers:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    asked.append(request(connection))
                    try:
                        connection.sendall(answer)
                    except OSError:
                        return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}{path}", asked
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def request(connection: socket.socket) -> bytes:
    """A whole request."""
    connection.settimeout(10)
    read = b""
    while b"\r\n\r\n" not in read:
        read += connection.recv(65536)
        if read.startswith(b"\x16"):  # a greeting of TLS
            return read
    length = re.search(rb"content-length: (\d+)", read.lower())
    head = read.index(b"\r\n\r\n") + 4
    while length and len(read) - head < int(length[1]):
        read += connection.recv(65536)
    return read


def http(body: bytes | dict[str, Any], status: str = "200 OK", length: int | None = None, *headers: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + content


def told(*events: tuple[str, Any]) -> bytes:
    lines = [f"event: {name}\ndata: {json.dumps(data)}\n\n".encode() for name, data in events]
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + b": still here\n\n" + b"".join(lines)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


ENDED = JOB | {"state": "done", "pictures": [PICTURE]}
FAULTS: dict[str, tuple[Sequence[bytes], str]] = {
    "a page": ([http(b"<html>\x1b[31mhello</html>")], r"does not answer as bimo serve does \(<html> \[31mhello"),
    "another program": ([b"SSH-2.0-OpenSSH_9.2\r\n"], "does not answer as bimo serve does"),
    "other JSON": ([http({"id": "abc"})], "does not answer as bimo serve does"),
    "an id that is a path": ([http(JOB | {"id": "../../admin"})], "does not answer as bimo serve does"),
    "not found": ([http(b"nothing", "404 Not Found")], r"\(404 Not Found\)"),
    "a proxy without its server": ([http(b"<html>", "502 Bad Gateway")], r"\(502 Bad Gateway\)"),
    "a sentence": ([http({"error": {"message": "no \x1b[31m room"}}, "503 Busy")], r"refuses: no  \[31m room"),
    "nothing": ([b""], "stopped in the middle"),
    "half an answer": ([http(JOB, length=5000)], "stopped in the middle"),
    "no events": ([http(JOB), b""], "stopped in the middle"),
    "events that end": (
        [http(JOB), told(("state", JOB), ("step", {"place": 0, "done": 1, "steps": 9}))],
        "its events end",
    ),
    "events of another kind": ([http(JOB), told(("step", {"place": "x"}))], "does not answer as bimo serve does"),
    "a failure": (
        [http(JOB), told(("ended", JOB | {"state": "failed", "error": {"message": "out of memory"}}))],
        "could not draw it: out of memory",
    ),
    "half a picture": ([http(JOB), told(("ended", ENDED)), http(png()[:40], length=90)], "stopped in the middle"),
    "a picture that ends early": ([http(JOB), told(("ended", ENDED)), http(png()[:-12])], "its picture ends early"),
    "no picture": ([http(JOB), told(("ended", ENDED)), http(b"GIF89a")], r"\(no PNG\)"),
}


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("name", FAULTS)
def test_a_server_that_fails_gets_a_sentence(draw: Any, name: str) -> None:
    answers, says = FAULTS[name]
    with answering(*answers) as (address, asked):
        status, out, said = draw("红苹果", "--server", address)
    assert (status, out) == (2, "")
    assert re.search(says, said), said
    assert said.count("\n") == 1
    assert "\x1b[31mhello" not in said
    assert len(asked) >= len(answers)
    assert list(Path().iterdir()) == []


@pytest.mark.usefixtures("hasty")
def test_what_came_before_the_fault_stays(draw: Any) -> None:
    answers = (http(JOB), told(("picture", {}), ("picture", {})), http(ENDED), http(png()), http(JOB, "500 No"))
    with answering(*answers) as (address, _):
        status, out, _ = draw("红苹果", "-n", "2", "--server", address)
    assert (status, out) == (2, "红苹果.png\n")
    assert Path("红苹果.png").read_bytes() == png()
    assert len(list(Path().iterdir())) == 1


def test_a_damaged_picture_is_no_part_of_a_report(draw: Any) -> None:
    damaged = bytearray(png())
    damaged[damaged.index(b"IDAT") + 6] ^= 255
    with answering(http(JOB), told(("ended", ENDED)), http(bytes(damaged))) as (address, _):
        status, out, said = draw("红苹果", "--json", "--server", address)
    assert (status, out) == (2, "")
    assert "cannot read the picture of the server" in said


@pytest.mark.usefixtures("hasty")
def test_an_answer_without_end_is_not_read(draw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_client, "MAXIMUM_PICTURE_BYTES", 1000)
    monkeypatch.setattr(job_client, "MOST_ANSWER", 1000)
    with answering(http(JOB), told(("ended", ENDED)), http(png() + b"x" * 1000)) as (address, _):
        assert "more than 1000 bytes" in draw("红苹果", "--server", address)[2]
    with answering(http(JOB | {"notes": ["x" * 1000]})) as (address, _):
        assert "more than" in draw("红苹果", "--server", address)[2]
    with answering(http(JOB), told(("state", "x" * 2000))) as (address, _):
        assert "an endless line" in draw("红苹果", "--server", address)[2]


def test_a_server_that_says_nothing_is_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = JobServer(f"127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(RequestError, match="said nothing for"), server._answer("GET", "/", seconds=0.2):
            pass


def test_a_key_is_sent_nowhere_else(draw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "bimo-secret")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with answering(http(JOB)) as (other, others):
        moved = http(b"", "307 Moved", None, f"Location: {other}/v1/jobs")
        with answering(moved, path="/bimo/") as (address, asked):
            status, _, said = draw("红苹果", "--server", address)
        assert (status, others) == (2, [])
        assert f"sends on to {other}/v1/jobs" in said
    assert asked[0].startswith(b"POST /bimo/v1/jobs HTTP/1.1\r\n")
    assert b"Authorization: Bearer bimo-secret\r\n" in asked[0]
    assert "bimo-secret" not in said


@pytest.mark.parametrize(
    "address", ["ftp://a", "http://", "http://a:b@c", "http://a b", "http://a:99999", "http://a?x", "a\nb", "猫"]
)
def test_an_address_that_is_none(draw: Any, address: str) -> None:
    status, _, said = draw("红苹果", "--server", address)
    assert status == 2
    assert "expected the address that bimo serve shows" in said
    assert "a:b" not in said


def test_no_server_there_and_none_of_tls(draw: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    assert "there is no server at" in draw("红苹果", "--server", f"http://127.0.0.1:{free}")[2]
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as (address, _):
        status, _, said = draw("红苹果", "--server", address.replace("http:", "https:"))
    assert status == 2
    assert "cannot be asked by TLS" in said
