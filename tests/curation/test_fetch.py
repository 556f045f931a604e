"""Pictures are fetched in order, with limits, never from inside the house, and a killed run loses none of them."""

from __future__ import annotations

import io
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from bimo.core.errors import DataError
from bimo.curation.readers import fetch as fetching
from bimo.curation.readers.fetch import Limits, fetch, forbids_training, is_public
from bimo.curation.readers.reading import picture_bytes
from bimo.curation.readers.rows import Broken, Place, Row
from tests.support.checkout import ROOT

pytestmark = pytest.mark.network


def photo(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), (number % 256, 9, 9)).save(buffer, "PNG")
    return buffer.getvalue()


class Site:
    """A site that counts what it is asked for; /n.png is picture n, the rest misbehaves by name."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.agents: set[str] = set()
        self.most = self.now = 0
        self.lock = threading.Lock()
        self.gate = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                with site.lock:
                    site.asked[self.path] += 1
                    site.now += 1
                    site.most = max(site.most, site.now)
                    site.agents.add(self.headers["User-Agent"])
                try:
                    site.answer(self, self.path.strip("/"))
                except OSError:
                    pass  # the client has gone
                finally:
                    with site.lock:
                        site.now -= 1

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, to: BaseHTTPRequestHandler, name: str) -> None:
        status, headers, body = 200, {"Content-Type": "image/png"}, b""
        if name.endswith(".png") and name[:-4].isdigit():
            body = photo(int(name[:-4]))
        elif name == "html":
            headers, body = {"Content-Type": "image/png"}, b"<html>not here any more</html>"
        elif name == "empty":
            body = b""
        elif name.startswith("status"):
            status = int(name[6:])
        elif name == "again":
            status, body = (503, b"") if self.asked["/again"] < 3 else (200, photo(7))
            headers["Retry-After"] = "5"
        elif name == "loop":
            status, headers = 302, {"Location": "/loop"}
        elif name == "moved":
            status, headers = 301, {"Location": "1.png"}
        elif name == "inside":
            status, headers = 302, {"Location": f"http://localhost:{self.server.server_port}/1.png"}
        elif name == "file":
            status, headers = 302, {"Location": "file:///etc/passwd"}
        elif name == "noai":
            headers["X-Robots-Tag"], body = "noai", photo(1)
        elif name == "huge":
            headers["Content-Length"] = str(1 << 40)
        elif name == "endless":
            headers["Connection"], body = "close", photo(1) + bytes(1 << 20)
        elif name == "silent":
            self.gate.wait(20)
        elif name == "gate":
            self.gate.wait(20)
            body = photo(8)
        elif name == "cut":
            headers["Content-Length"], body = "1000", photo(1)
        to.send_response(status)
        for key, value in headers.items():
            to.send_header(key, value)
        if "Content-Length" not in headers and "Connection" not in headers:
            to.send_header("Content-Length", str(len(body)))
        to.end_headers()
        to.wfile.write(body)


@pytest.fixture
def site() -> Iterator[Site]:
    found = Site()
    yield found
    found.gate.set()
    found.server.shutdown()
    found.server.server_close()


LIMITS = Limits(workers=4, hosts=frozenset({"127.0.0.1"}), seconds=10, bytes=1 << 18)


def asked(site: Site, *names: str) -> list[Row | Broken]:
    urls = [name if "://" in name else f"{site.url}/{name}" for name in names]
    return [Row(n, f"t:{n}", Place(url, form="url"), (f"第{n}",), {"score": n}) for n, url in enumerate(urls)]


def told(rows: list[Row | Broken], folder: Path) -> list[bytes | str]:
    """A picture's bytes, or why there is none."""
    return [row.reason if isinstance(row, Broken) else picture_bytes(folder, row.picture) for row in rows]


def no_wait(_: float) -> None:
    pass


def test_in_order_each_once(site: Site, tmp_path: Path) -> None:
    names = [f"{n}.png" for n in range(40)] + ["3.png", "3.png"]
    rows = asked(site, *names)
    local, broken = Row(42, "t:42", Place("a.png"), ()), Broken(43, "t:43", "not json")
    found = list(fetch([*rows, local, broken], tmp_path, LIMITS))
    assert told(found[:42], tmp_path) == [photo(n) for n in (*range(40), 3, 3)]
    assert found[42:] == [local, broken]
    assert [row.number for row in found] == list(range(44))
    first = found[0]
    assert isinstance(first, Row)
    assert (first.captions, first.labels, first.source) == (("第0",), {"score": 0}, "t:0")
    assert first.picture == Place("fetched-00000.bin", 0, len(photo(0)))
    assert site.asked["/3.png"] == 1
    assert site.most <= LIMITS.per_host
    assert site.agents == {"bimo/0.1"}
    again = list(fetch(rows, tmp_path, LIMITS))
    assert again == found[:42]
    assert sum(site.asked.values()) == 40


@pytest.mark.parametrize(
    ("name", "reason", "times"),
    [
        ("status404", "http 404", 1),
        ("status403", "http 403", 1),
        ("status500", "http 500", 3),
        ("status429", "http 429", 3),
        ("html", "not a picture", 1),
        ("empty", "empty", 1),
        ("loop", "too many redirects", 6),
        ("noai", "opted out", 1),
        ("huge", "too many bytes", 1),
        ("endless", "too many bytes", 1),
        ("cut", "no answer", 3),
        ("inside", "address not allowed", 1),
        ("file", "address not allowed", 1),
    ],
)
def test_failures_are_reported_by_their_kind(name: str, reason: str, times: int, site: Site, tmp_path: Path) -> None:
    found = list(fetch(asked(site, "1.png", name, "2.png"), tmp_path, LIMITS, no_wait))
    assert told(found, tmp_path) == [photo(1), reason, photo(2)]
    assert site.asked[f"/{name}"] == times
    assert told(list(fetch(asked(site, name), tmp_path, LIMITS, no_wait)), tmp_path) == [reason]
    assert site.asked[f"/{name}"] == 2 * times


def test_a_passing_failure_is_waited_for(site: Site, tmp_path: Path) -> None:
    waited: list[float] = []
    found = list(fetch(asked(site, "again"), tmp_path, LIMITS, waited.append))
    assert told(found, tmp_path) == [photo(7)]
    assert waited == [5.0, 5.0]
    list(fetch(asked(site, "status500"), tmp_path, LIMITS, waited.append))
    assert waited[2:] == [1.0, 2.0]


def test_a_redirect_is_followed(site: Site, tmp_path: Path) -> None:
    assert told(list(fetch(asked(site, "moved"), tmp_path, LIMITS)), tmp_path) == [photo(1)]


def test_no_answer_in_time(site: Site, tmp_path: Path) -> None:
    limits = Limits(workers=2, tries=2, seconds=0.2, hosts=LIMITS.hosts)
    assert told(list(fetch(asked(site, "silent"), tmp_path, limits, no_wait)), tmp_path) == ["too slow"]
    assert site.asked["/silent"] == 2


def test_a_refused_connection_is_reported(site: Site, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/a.png"
        assert told(list(fetch(asked(site, url), tmp_path, LIMITS, no_wait)), tmp_path) == ["no answer"]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:80/a.png",
        "http://127.1/a.png",
        "http://2130706433/a.png",
        "http://0x7f000001/a.png",
        "http://localhost/a.png",
        "http://[::1]/a.png",
        "http://[::ffff:127.0.0.1]/a.png",
        "http://10.0.0.1/a.png",
        "http://192.168.1.1/a.png",
        "http://169.254.169.254/latest/meta-data",
        "http://0.0.0.0/a.png",
        "http://user:word@127.0.0.1/a.png",
        "ftp://127.0.0.1/a.png",
        "file:///etc/passwd",
        "gopher://a/b",
        "http://",
        "http://a:99999/",
    ],
)
def test_private_addresses_are_not_fetched(url: str, site: Site, tmp_path: Path) -> None:
    found = list(fetch(asked(site, url), tmp_path, Limits(workers=1), no_wait))
    assert told(found, tmp_path) == ["address not allowed"]


def test_public_addresses_are_fetched() -> None:
    assert [is_public(one) for one in ("1.1.1.1", "2606:4700::1111", "64:ff9b::101:101")] == [True] * 3
    inside = ("100.64.0.1", "224.0.0.1", "fe80::1", "fc00::1", "2002:7f00:1::", "64:ff9b::a00:1", "::ffff:10.0.0.1")
    assert [is_public(one) for one in inside] == [False] * 7


def test_pages_that_opt_out_of_training_are_respected() -> None:
    for tag in ("noai", "noindex, NoImageAI", "bimo: noai", "otherbot: noindex, bimo: noimageai"):
        assert forbids_training([tag])
    for tag in ("noindex", "otherbot: noai", "unavailable_after: 1 Jan 2030, all", ""):
        assert not forbids_training([tag])
    assert forbids_training(["unavailable_after: 1 Jan 2030", "noai"])


def test_another_run_is_reported(site: Site, tmp_path: Path) -> None:
    first = fetch(asked(site, "1.png", "2.png"), tmp_path, LIMITS)
    next(first)
    with pytest.raises(DataError, match="another run"):
        next(fetch(asked(site, "3.png"), tmp_path, LIMITS))
    first.close()
    assert len(list(fetch(asked(site, "3.png"), tmp_path, LIMITS))) == 1


def test_segments(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "SEGMENT_BYTES", 150)
    monkeypatch.setattr(fetching, "HELD_BYTES", 10)
    found = list(fetch(asked(site, *(f"{n}.png" for n in range(5))), tmp_path, LIMITS))
    assert told(found, tmp_path) == [photo(n) for n in range(5)]
    assert len(list(tmp_path.glob("fetched-*.bin"))) == 3


def test_missing_bytes_are_requested_again(site: Site, tmp_path: Path) -> None:
    rows = asked(site, "1.png", "2.png", "3.png")
    list(fetch(rows, tmp_path, LIMITS))
    os.truncate(tmp_path / "fetched-00000.bin", len(photo(1)) + 5)
    assert told(list(fetch(rows, tmp_path, LIMITS)), tmp_path) == [photo(n) for n in (1, 2, 3)]
    assert [site.asked[f"/{n}.png"] for n in (1, 2, 3)] == [1, 2, 2]


KILLED = """
import sys
from pathlib import Path
from bimo.curation.readers.fetch import Limits, fetch
from bimo.curation.readers.rows import Place, Row
url, folder = sys.argv[1:]
names = [f"{n}.png" for n in range(6)] + ["gate"] + [f"{n}.png" for n in range(9, 12)]
rows = [Row(n, "", Place(f"{url}/{name}", form="url"), ()) for n, name in enumerate(names)]
for row in fetch(rows, Path(folder), Limits(workers=2, hosts=frozenset({"127.0.0.1"}))):
    print(row.number, flush=True)
"""


def test_a_killed_run_resumes(site: Site, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, site.url, str(tmp_path / "killed")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert [int(process.stdout.readline()) for _ in range(6)] == list(range(6))
        process.send_signal(signal.SIGKILL)
    with (tmp_path / "killed/fetched-00000.bin").open("ab") as file:
        file.write(b"written, not named")
    site.gate.set()
    site.asked.clear()
    names = [f"{n}.png" for n in range(6)] + ["gate"] + [f"{n}.png" for n in range(9, 12)]
    rows = asked(site, *names)
    found = list(fetch(rows, tmp_path / "killed", LIMITS))
    assert told(found, tmp_path / "killed") == [photo(n) for n in (*range(6), 8, 9, 10, 11)]
    assert not any(site.asked[f"/{n}.png"] for n in range(6))
    assert list(fetch(rows, tmp_path / "whole", LIMITS)) == found
    files = [tmp_path / name / "fetched-00000.bin" for name in ("killed", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()
    with sqlite3.connect(tmp_path / "killed" / fetching.INDEX) as database:
        assert database.execute("SELECT count(*) FROM pictures").fetchone() == (10,)
    database.close()
