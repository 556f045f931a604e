"""Nothing that was accepted is lost, doubled or half: what the store keeps over the end of its process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bimo.core.errors import RequestError
from bimo.core.lora_weight import LoraWeight
from bimo.core.messages import Both
from bimo.serve.job_store import JobStore
from bimo.serve.jobs import MOST_ATTEMPTS, Failure, Order, State
from bimo.serve.service import DrawingService
from bimo.serve.settings import Limits
from tests.support.checkout import ROOT

FAILED = Failure("x", Both("坏了", "broken"), 500)


def order(name: str, **fields: object) -> Order:
    return Order(name, "tiny", {"text": f"红苹果 {name}", "seed": 2**63 - 1}, **fields)  # type: ignore[arg-type]


def add(store: JobStore, job: str, place: int = 0) -> bool:
    found = store.add_picture(job, place, b"png", (8, 9), 2**63 - 1, 0.5, ["a"], {"recipe": "tiny"})
    return found is not None


def test_a_job_is_what_was_accepted(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    asked = order(
        "a",
        key="k",
        client="openai",
        loras=(("ink", LoraWeight(0.5)), ("oil", LoraWeight(1 / 3, 0.1, 2 / 3))),
        priority=1,
        previews=2,
        deadline=5.5,
    )
    store.accept(asked, {"image": b"1", "condition.control/../x": b"2"})
    found = JobStore(tmp_path).job("a")
    assert found is not None
    assert found.order == asked
    assert found.state is State.queued
    assert store.inputs("a") == {"image": b"1", "condition.control/../x": b"2"}
    assert sorted(file.name for file in (tmp_path / "inputs" / "a").iterdir()) == ["0", "1"]


def test_a_job_ends_once(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    store.accept(order("a"), {"image": b"1"})
    assert not add(store, "a")  # not begun
    store.begin("a")
    assert add(store, "a")
    assert not add(store, "a")
    assert store.end("a", State.done)
    assert not store.end("a", State.failed, FAILED)
    assert not add(store, "a", 1)
    found = store.job("a")
    assert found is not None
    assert (found.state, found.failure, len(found.pictures)) == (State.done, None, 1)
    assert found.pictures[0].seed == 2**63 - 1
    assert found.pictures[0].file.read_bytes() == b"png"
    assert not (tmp_path / "inputs" / "a").exists()
    assert len(list((tmp_path / "pictures").rglob("*.png"))) == 1


def test_the_same_request_again_is_the_same_job(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    assert store.accept(order("a"), {}, "once").id == "a"
    assert store.accept(order("b"), {}, "once").id == "a"
    assert store.accept(order("c", key="another"), {}, "once").id == "c"
    assert [job.id for job in store.jobs(key="local")] == ["a"]


def test_what_was_left_is_taken_up(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    for number, name in enumerate(("done", "begun", "waiting", "worn")):
        store.accept(order(name, created=float(number)), {})
    for name in ("done", "begun"):
        store.begin(name)
        add(store, name)
    store.end("done", State.done)
    for _ in range(MOST_ATTEMPTS):
        store.begin("worn")
    stray = tmp_path / "pictures" / "be" / ".x.part"
    stray.write_bytes(b"half")
    (tmp_path / "pictures" / "be" / "begun-1.png").write_bytes(b"no row")
    again = JobStore(tmp_path)
    left = again.recover()
    assert [job.id for job in left] == ["begun", "waiting"]
    assert [len(job.pictures) for job in left] == [1, 0]
    assert not stray.exists()
    assert len(list((tmp_path / "pictures").rglob("*"))) == 4  # two folders with a picture each
    worn = again.job("worn")
    assert worn is not None
    assert worn.failure is not None
    assert worn.failure.code == "server_ended"


def test_old_and_many_pictures_are_forgotten(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    for name in ("a", "b", "c"):
        store.accept(order(name), {})
        store.begin(name)
        add(store, name)
        store.end(name, State.done)
    store.accept(order("open"), {})
    assert store.retain(1000, 6) == 1
    assert {job.id for job in store.jobs()} == {"b", "c", "open"}
    assert store.retain(-1, 1 << 30) == 2
    assert [job.id for job in store.jobs()] == ["open"]
    assert not list((tmp_path / "pictures").rglob("*.png"))
    assert not store.forget("open")


def test_history_is_searched(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    for number, name in enumerate(("a", "b", "c")):
        store.accept(order(name, created=float(number), key="k" if number else "other"), {})
    assert [job.id for job in store.jobs("k")] == ["c", "b"]
    assert [job.id for job in store.jobs(text="苹果 B")] == ["b"]
    assert [job.id for job in store.jobs(before=2.0, most=1)] == ["b"]
    assert store.jobs(text="%") == []


@pytest.mark.slow
def test_a_killed_process_loses_nothing_it_accepted(tmp_path: Path) -> None:
    """Killed again and again while it accepts, begins and ends jobs: what it said was accepted is there and whole."""
    code = """
import sys, uuid
from pathlib import Path
from bimo.serve.job_store import JobStore
from bimo.serve.jobs import Order, State
store = JobStore(Path(sys.argv[1]))
for job in store.recover():
    store.begin(job.id)
    store.add_picture(job.id, 0, b"x" * 5000, (1, 1), 1, 0.0, [], {})
    store.end(job.id, State.done)
while True:
    order = Order(uuid.uuid4().hex, "m", {"text": "a"})
    store.accept(order, {"image": b"y" * 5000})
    print(order.id, flush=True)
    store.begin(order.id)
    store.add_picture(order.id, 0, b"x" * 5000, (1, 1), 1, 0.0, [], {})
    store.end(order.id, State.done)
"""
    accepted: set[str] = set()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for turn in range(4):
        command = [sys.executable, "-c", code, str(tmp_path)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            accepted.add(running.stdout.readline().strip())
            time.sleep(0.05 + 0.03 * turn)
            running.send_signal(signal.SIGKILL)
            accepted |= {line.strip() for line in running.stdout if len(line.strip()) == 32}
    store = JobStore(tmp_path)
    jobs = {job.id: job for job in store.recover()} | {job.id: job for job in store.jobs(most=100_000)}
    assert accepted <= jobs.keys()
    for job in jobs.values():
        assert len(job.pictures) <= 1
        assert all(len(each.file.read_bytes()) == 5000 for each in job.pictures)
        if job.state is State.done:
            assert len(job.pictures) == 1


def test_a_second_pass_is_bounded_though_its_model_is_not_loaded_and_no_size_is_asked(
    make_service: Callable[..., DrawingService],
) -> None:
    service = make_service(limits=Limits(side=512))
    service.pool.models["another"] = "xiaomo"  # by its recipe it draws 128 x 128
    order = service.order({"text": "猫", "hires": 8.0}, key="ann", client="test", model="another")
    with pytest.raises(RequestError) as caught:
        service.accept(order, {})
    assert "1024x1024 is too large" in caught.value.en
