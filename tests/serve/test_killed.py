"""A server that is killed under load and begun again: every accepted job ends once, and no half file is served."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from bimo.serve.job_store import JobStore
from bimo.serve.jobs import State
from tests.support.checkout import ROOT
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.network]
#: Serves the interfaces of a model without the page, which takes seconds to import.
SERVER = """
import sys, asyncio, socket, uvicorn
from pathlib import Path
from bimo.serve.app import create_app
from bimo.serve.job_store import JobStore
from bimo.serve.pool import EngineKey, EnginePool
from bimo.serve.service import DrawingService
from bimo.serve.settings import ServeSettings
import bimo
pool = EnginePool(lambda name: bimo.load(name), {"tiny": sys.argv[1]})
pool.load_now(EngineKey("tiny"))
folder = Path(sys.argv[2])
app = create_app(DrawingService(ServeSettings(("tiny",), folder), pool, JobStore(folder)))
listening = socket.create_server(("127.0.0.1", 0))
print("PORT", listening.getsockname()[1], flush=True)
server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=5))
asyncio.run(server.serve([listening]))
"""


@contextmanager
def begun(model: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, which a test that fails leaves no more than one that passes."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SERVER, str(model), str(folder)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            found = re.search(r"PORT (\d+)", running.stdout.readline())
            assert found is not None, running.communicate()[1]
            yield running, f"http://127.0.0.1:{found[1]}"
        finally:
            running.kill()


def load(address: str, accepted: list[str], enough: threading.Event) -> None:
    """Submits jobs, cancels some, drops connections, until the server is gone."""
    with httpx.Client(base_url=address, timeout=20) as client:
        for number in range(1000):
            if enough.is_set():
                return
            try:
                body = {"text": "红苹果", "steps": 1 + number % 5, "seed": number, "size": [64, 64]}
                name = client.post("/v1/jobs", json=body).json()["id"]
                accepted.append(name)
                if number % 7 == 3:
                    client.post(f"/v1/jobs/{name}/cancel")
                if number % 5 == 1:
                    with client.stream("GET", f"/v1/jobs/{name}/events?leaving_cancels=true") as stream:
                        next(stream.iter_bytes(1))
            except (httpx.HTTPError, KeyError):
                return


def test_no_job_is_lost_or_doubled(tiny_folder: Path, tmp_path: Path) -> None:
    folder, accepted = tmp_path / "serve", list[str]()
    for _ in range(2):
        with begun(tiny_folder, folder) as (running, address):
            enough = threading.Event()
            clients = [threading.Thread(target=load, args=(address, accepted, enough)) for _ in range(3)]
            for client in clients:
                client.start()
            before = len(accepted)
            until(lambda before=before: len(accepted) > before + 12)
            running.send_signal(signal.SIGKILL)
            running.communicate()
            enough.set()
            for client in clients:
                client.join()
    with begun(tiny_folder, folder) as (running, address):
        with httpx.Client(base_url=address, timeout=60) as client:

            def left() -> int:
                answer: Any = client.get("/metrics").text
                return int(float(re.search(r"^bimo_jobs_open (\S+)", answer, re.MULTILINE)[1]))  # type: ignore[index]

            until(lambda: left() == 0, 300)
            for name in accepted:
                job = client.get(f"/v1/jobs/{name}").json()
                assert job["state"] in ("done", "failed", "cancelled"), job
                if job["state"] == "done":
                    assert len(job["pictures"]) == 1
                    with Image.open(io.BytesIO(client.get(job["pictures"][0]["url"]).content)) as image:
                        image.load()
                else:
                    assert job["error"]["message"]
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=30)
    store = JobStore(folder)
    counts = store.counts()
    assert len(set(accepted)) == len(accepted)
    assert counts[State.done] > 0
    assert not counts.get(State.running)
    assert not list(folder.rglob("*.part"))


def test_sigterm_draws_what_is_begun_and_keeps_what_waits(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "serve"
    with begun(tiny_folder, folder) as (running, address):
        with httpx.Client(base_url=address, timeout=20) as client:

            def state(name: str) -> str:
                return client.get(f"/v1/jobs/{name}").json()["state"]

            body = {"text": "猫", "steps": 150, "seed": 1}
            names = [client.post("/v1/jobs", json=body).json()["id"] for _ in range(12)]
            until(lambda: any(state(name) != "queued" for name in names))
            running.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        running.communicate(timeout=60)
        assert time.monotonic() - begin < 60
    store = JobStore(folder)
    states = [job.state for name in names if (job := store.job(name)) is not None]
    assert len(states) == len(names)
    assert State.failed not in states
    store.close()
    with begun(tiny_folder, folder) as (running, address):
        with httpx.Client(base_url=address, timeout=20) as client:
            until(lambda: all(client.get(f"/v1/jobs/{name}").json()["state"] == "done" for name in names), 120)
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=60)
