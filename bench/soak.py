"""A soak of `bimo serve`: so many requests, of which some are cancelled, some dropped, some watched to their picture,
while the server is killed again and again; then each is asked for, and must have ended once.

    python bench/soak.py --requests 10000                  # prints a summary as JSON
    python bench/soak.py --requests 10000 --folder SOAK    # interrupted (Ctrl-C) it sums up; the same line goes on

A request is known by its number, which decides its steps and its fate, and by an Idempotency-Key: a client that lost
its server asks again with the same, so that a job done twice would be seen. What was accepted stands in a file. The
kills fall into the first half of the requests: the second is one life, whose memory says whether any leaks.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

ACCEPTED = "accepted.jsonl"
SERVED = "served"
#: The shares of requests that are cancelled, whose client leaves as it is drawn, and whose client fetches the picture.
CANCELLED, DROPPED, FETCHED = 0.1, 0.1, 0.1
STEPS = (1, 6)
#: Steps of requests that are not to end by themselves.
LONG = (60, 100)
SIZE = (64, 64)
PNG_END = b"IEND\xaeB`\x82"
#: Seconds between two looks at the server's memory.
LOOK = 1.0
SERVER = """
import sys, asyncio, socket, uvicorn
from pathlib import Path
from bimo.serve.run import make_service
from bimo.serve.app import create_app
from bimo.serve.settings import ServeSettings
app = create_app(make_service(ServeSettings((sys.argv[1],), Path(sys.argv[2]), workers=int(sys.argv[3]))))
listening = socket.create_server(("127.0.0.1", 0))
print("PORT", listening.getsockname()[1], flush=True)
server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=5))
asyncio.run(server.serve([listening]))
"""


class Soak:
    """The clients, the server that is killed under them, and what they remember."""

    def __init__(self, model: str, folder: Path, requests: int, clients: int, kills: int, workers: int) -> None:
        self.model, self.folder, self.requests, self.workers = model, folder, requests, workers
        self.clients, self.kills = clients, kills
        folder.mkdir(parents=True, exist_ok=True)
        self.accepted = self._accepted()
        self.ended = threading.Event()
        self.address = ""
        self.killed = 0
        self.fetched = Counter[bool]()
        #: Resident bytes of each life of the server, as time went.
        self.memory: list[list[int]] = []
        self._lock = threading.Lock()
        self._numbers = iter([n for n in range(requests) if n not in self.accepted])

    def run(self) -> None:
        """Until every request is accepted, or Ctrl-C; the server is then left to end what it has."""
        threads = [threading.Thread(target=self._client) for _ in range(self.clients)]
        begun = len(self.accepted)
        marks = [begun + (self.requests - begun) * (n + 1) // (2 * self.kills) for n in range(self.kills)]
        running = self._server()
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                time.sleep(LOOK)
                with suppress(OSError):
                    self.memory[-1].append(resident(running.pid))
                if marks and len(self.accepted) >= marks[0]:
                    marks.pop(0)
                    running.kill()
                    running.communicate()
                    self.killed += 1
                    running = self._server()
        except KeyboardInterrupt:
            print("interrupted; what was accepted is awaited, Ctrl-C again leaves it", file=sys.stderr)
        finally:
            self.ended.set()
            for thread in threads:
                thread.join()
            with suppress(KeyboardInterrupt):
                self._await(running)
            running.send_signal(signal.SIGTERM)
            running.communicate()

    def summary(self) -> dict[str, Any]:
        """What became of every accepted request, by the server's own store."""
        store = sqlite3.connect(self.folder / SERVED / "bimo.sqlite3")
        rows = dict(store.execute("select id, state from jobs"))
        files = Counter(job for (job,) in store.execute("select job from pictures"))
        names = [name for (name,) in store.execute("select file from pictures")]
        store.close()
        whole = sum(_is_whole(self.folder / SERVED / "pictures" / name) for name in names)
        states = Counter(rows.get(job, "lost") for job in self.accepted.values())
        done = [job for job in self.accepted.values() if rows.get(job) == "done"]
        lives = [life for life in self.memory if len(life) > 10]
        return {
            "asked": self.requests,
            "accepted": len(self.accepted),
            "states": dict(states),
            "lost": states["lost"],
            "doubled": len(self.accepted) - len(set(self.accepted.values())),
            "jobs that nobody asked for": len(set(rows) - set(self.accepted.values())),
            "done without its picture, or with two": sum(files[job] != 1 for job in done),
            "pictures that are not whole": len(names) - whole,
            "pictures fetched by those who watched, whole and not": [self.fetched[True], self.fetched[False]],
            "kills": self.killed,
            "resident MB, median of each tenth of each life": [
                [
                    round(statistics.median(life[len(life) * n // 10 : len(life) * (n + 1) // 10]) / 1e6)
                    for n in range(10)
                ]
                for life in lives
            ],
        }

    def _accepted(self) -> dict[int, str]:
        file = self.folder / ACCEPTED
        lines = file.read_text().splitlines() if file.is_file() else []
        found = (json.loads(line) for line in lines if line.endswith("}"))
        return {int(row["number"]): str(row["job"]) for row in found}

    def _server(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SERVER, self.model, str(self.folder / SERVED), str(self.workers)]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert running.stdout is not None
        found = re.search(r"PORT (\d+)", running.stdout.readline())
        assert found is not None, "the server did not begin"
        self.memory.append([])
        self.address = f"http://127.0.0.1:{found[1]}"
        return running

    def _client(self) -> None:
        import httpx

        with httpx.Client(timeout=60) as http:
            while not self.ended.is_set():
                with self._lock:
                    number = next(self._numbers, None)
                job = None if number is None else self._submitted(http, number)
                if number is None or job is None:
                    return
                with self._lock, (self.folder / ACCEPTED).open("a") as file:
                    self.accepted[number] = job
                    file.write(json.dumps({"number": number, "job": job}) + "\n")
                self._meddle(http, number, job)

    def _submitted(self, http: Any, number: int) -> str | None:
        """The job of a request, asked until a server took it; None where the soak ended before."""
        import httpx

        meddled = _fate(number) < CANCELLED + DROPPED
        steps = random.Random(number).randint(*(LONG if meddled else STEPS))
        body = {"text": "红苹果", "steps": steps, "size": SIZE, "seed": number}
        while not self.ended.is_set():
            try:
                headers = {"Idempotency-Key": f"soak-{number}"}
                answer = http.post(f"{self.address}/v1/jobs", json=body, headers=headers)
            except httpx.HTTPError:
                time.sleep(0.2)  # killed; another server begins
                continue
            if answer.status_code in (429, 503):
                time.sleep(0.2)
                continue
            answer.raise_for_status()
            return str(answer.json()["id"])
        return None

    def _meddle(self, http: Any, number: int, job: str) -> None:
        """Cancels some jobs, lets the connections of others drop as they are drawn, watches others to their picture."""
        import httpx

        chance = _fate(number)
        with suppress(httpx.HTTPError):
            if chance < CANCELLED:
                http.post(f"{self.address}/v1/jobs/{job}/cancel")
            elif chance < CANCELLED + DROPPED:
                path = f"{self.address}/v1/jobs/{job}/events?leaving_cancels=true"
                with http.stream("GET", path) as stream:
                    next(stream.iter_bytes(1), b"")
            elif chance < CANCELLED + DROPPED + FETCHED:
                with http.stream("GET", f"{self.address}/v1/jobs/{job}/events") as stream:
                    for _ in stream.iter_bytes():
                        pass
                pictures = http.get(f"{self.address}/v1/jobs/{job}").json()["pictures"]
                if pictures:  # none where the server was stopped meanwhile
                    content = http.get(self.address + pictures[0]["url"]).content
                    with self._lock:
                        self.fetched[content.endswith(PNG_END)] += 1

    def _await(self, running: subprocess.Popen[str]) -> None:
        """Waits until the server has nothing left to draw."""
        import httpx

        while running.poll() is None:
            text = httpx.get(f"{self.address}/metrics", timeout=60).text
            if re.search(r"^bimo_jobs_open 0", text, re.MULTILINE):
                return
            time.sleep(0.5)


def _fate(number: int) -> float:
    return random.Random(f"fate {number}").random()


def _is_whole(file: Path) -> bool:
    return file.is_file() and file.read_bytes().endswith(PNG_END)


def resident(process: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Soaks and prints JSON; the status is 1 where anything was lost, doubled or broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("-m", "--model", default="xiaomo")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where it goes on if it is interrupted; else a temporary one")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        soak = Soak(
            asked.model, asked.folder or Path(temporary), asked.requests, asked.clients, asked.kills, asked.workers
        )
        soak.run()
        found = soak.summary()
    print(json.dumps(found, ensure_ascii=False, indent=1))
    wrong = (
        "lost",
        "doubled",
        "jobs that nobody asked for",
        "done without its picture, or with two",
        "pictures that are not whole",
    )
    sys.exit(any(found[name] for name in wrong) or bool(soak.fetched[False]))


if __name__ == "__main__":
    main()
