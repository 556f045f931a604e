"""Several processes behind one server: the same pictures, and of a process that is killed every job ends once."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bimo.core.errors import RequestError
from bimo.core.messages import Message
from bimo.core.picture import Picture
from bimo.engine.engine import Engine
from bimo.hub.options import LoadOptions
from bimo.serve.dispatcher import Began, Dispatcher, Drew, Ended, Handed, Lost, OnWorkerEvent, Stepped, Workers
from bimo.serve.executor import CANCELLED
from bimo.serve.jobs import MOST_ATTEMPTS, Failure, State
from bimo.serve.run import make_service
from bimo.serve.service import DrawingService
from bimo.serve.settings import ServeSettings
from bimo.serve.workers import ROOM, ProcessWorkers, seats
from tests.support.waiting import until


class Scripted(Workers):
    """Workers whom a test plays; each takes so many jobs."""

    def __init__(self, room: int = 1) -> None:
        self.room = room
        self.given: list[Handed] = []
        self.cancelled: list[tuple[str, Failure]] = []
        self.skipped: list[tuple[str, Failure | None]] = []
        self.tell: OnWorkerEvent = lambda job, told: None
        self.free: Callable[[], None] = lambda: None

    def start(self, tell: OnWorkerEvent, free: Callable[[], None]) -> None:
        self.tell, self.free = tell, free

    def give(self, job: Handed) -> bool:
        if self.room < 1:
            return False
        self.room -= 1
        self.given.append(job)
        return True

    def cancel(self, job: str, failure: Failure) -> None:
        self.cancelled.append((job, failure))

    def skip(self, job: str, failure: Failure | None) -> None:
        self.skipped.append((job, failure))

    def stop(self, seconds: float) -> None:
        pass

    def end(self, job: str, failure: Failure | None = None) -> None:
        self.room += 1
        self.tell(job, Ended(failure))
        self.free()

    def die(self, job: str) -> None:
        self.room += 1
        self.tell(job, Lost())


@pytest.fixture
def played(make_service: Callable[..., DrawingService]) -> tuple[DrawingService, Scripted]:
    workers = Scripted()
    service = make_service(executor=lambda pool, source, listener, settings: Dispatcher(workers, source, listener))
    service.start()
    return service, workers


def submit(service: DrawingService, **values: Any) -> str:
    options = {name: values.pop(name) for name in ("key", "priority", "seconds") if name in values}
    order = service.order(
        {"text": "猫", "steps": 2, "seed": 1} | values, **({"key": "ann", "client": "test"} | options)
    )
    return service.accept(order, {}).id


def given(workers: Scripted, count: int) -> Handed:
    until(lambda: len(workers.given) == count)
    return workers.given[-1]


def drawn(engine: Engine, **values: Any) -> list[Picture]:
    return engine.draw({"text": "猫", "steps": 2, "seed": 1} | values)


def test_what_a_lost_job_has_is_kept_and_the_rest_is_drawn_elsewhere(
    played: tuple[DrawingService, Scripted], tiny_engine: Engine
) -> None:
    service, workers = played
    job = submit(service, count=2)
    first, second = drawn(tiny_engine, count=2)
    assert given(workers, 1).done == frozenset()
    for told in (Began(), Stepped(0, 1, 2), Drew(first), Stepped(1, 1, 2)):
        workers.tell(job, told)
    assert service.executor.progress()[job] == (1, 4)
    workers.die(job)
    again = given(workers, 2)
    assert (again.order.id, again.done) == (job, frozenset({0}))
    for told in (Began(), Drew(second)):
        workers.tell(job, told)
    workers.end(job)
    ended = service.wait_here(job)
    assert (ended.state, len(ended.pictures), ended.attempts) == (State.done, 2, 2)
    assert service.outcomes == Counter({("test", "done"): 1})


def test_a_job_that_ends_every_worker_fails(played: tuple[DrawingService, Scripted]) -> None:
    service, workers = played
    job = submit(service)
    for count in range(1, MOST_ATTEMPTS + 1):
        given(workers, count)
        workers.tell(job, Began())
        workers.die(job)
    ended = service.wait_here(job)
    assert ended.failure is not None
    assert ended.failure.code == "server_ended"
    assert len(workers.given) == MOST_ATTEMPTS


def test_a_cancelled_job_ends_wherever_it_is(played: tuple[DrawingService, Scripted]) -> None:
    service, workers = played
    out, waiting = submit(service), None
    given(workers, 1)
    waiting = submit(service)
    service.cancel(waiting)
    assert service.wait_here(waiting).state is State.cancelled
    other = submit(service)
    service.interrupt(other)
    assert service.wait_here(other).state is State.cancelled
    service.skip(out)
    service.interrupt(out)
    assert workers.skipped == [(out, None), (out, CANCELLED)]
    service.cancel(out)
    assert workers.cancelled == [(out, CANCELLED)]
    workers.die(out)  # before it heard of it
    assert service.wait_here(out).state is State.cancelled
    assert len(workers.given) == 1


def test_who_had_least_is_next_and_who_is_late_ends(played: tuple[DrawingService, Scripted]) -> None:
    service, workers = played
    first = submit(service, steps=50)
    given(workers, 1)
    others = [submit(service, steps=50) for _ in range(2)]
    bob = submit(service, key="bob")
    urgent = submit(service, priority=1)
    late = submit(service, seconds=0.05)
    ended = service.wait_here(late)
    assert ended.failure is not None
    assert ended.failure.code == "deadline"
    order = [first]
    for count in range(2, 6):
        workers.end(order[-1], Failure("x", Message("stopped")))
        order.append(given(workers, count).order.id)
    assert order == [first, urgent, bob, *others]


def test_seats() -> None:
    cores = len(os.sched_getaffinity(0))
    one, *_ = seats(1, "auto")
    assert len(one.cores) == cores
    two = seats(2, "cpu")
    assert {seat.device for seat in two} == {"cpu"}
    if cores > 1:
        assert not set(two[0].cores) & set(two[1].cores)
    assert [seat.device for seat in seats(2, "cuda:3")] == ["cuda:3", "cuda:3"]


@pytest.fixture
def served(tiny_folder: Path, tmp_path: Path) -> Iterator[DrawingService]:
    """A service whose jobs two processes draw."""
    settings = ServeSettings(
        (str(tiny_folder),), tmp_path / "serve", load_options=LoadOptions(device="cpu"), workers=2, batch=1
    )
    service = make_service(settings)
    service.start()
    yield service
    if service.ready:
        service.stop()


@pytest.mark.slow
def test_a_process_that_is_killed_loses_and_doubles_nothing(served: DrawingService, tiny_engine: Engine) -> None:
    executor: Any = served.executor
    workers: ProcessWorkers = executor.workers
    until(lambda: len(workers.processes()) == 2, 240)
    steps = [12 + number % 3 for number in range(10)]
    jobs = [submit(served, steps=steps[number], count=2, seed=number) for number in range(10)]
    until(lambda: len({w for w in workers.workers if w.jobs}) == 2)
    before = workers.processes()

    def in_the_middle() -> bool:
        """Whether the first worker has drawn some of a job, and not most of it."""
        progress = executor.progress()
        own = [progress[job] for job in set(workers.workers[0].jobs) if job in progress]
        return any(total // 2 < left < total for left, total in own)

    until(in_the_middle)
    os.kill(before[0], signal.SIGKILL)
    ended = [served.wait_here(job) for job in jobs]
    assert [job.state for job in ended] == [State.done] * 10
    assert served.outcomes == Counter({("test", "done"): 10})
    for number, job in enumerate(ended):
        assert [picture.place for picture in job.pictures] == [0, 1]
        expected = drawn(tiny_engine, steps=steps[number], count=2, seed=number)
        for stored, picture in zip(sorted(job.pictures, key=lambda p: p.place), expected, strict=True):
            with Image.open(stored.file) as image:
                difference = np.abs(
                    np.asarray(image.convert("RGB"), int) - np.asarray(picture.image.convert("RGB"), int)
                )
            assert difference.max() <= 1
    assert any(job.attempts == 2 for job in ended)
    assert all(job.attempts <= 2 for job in ended)
    until(lambda: len(workers.processes()) == 2, 240)
    assert set(workers.processes()) - set(before)
    # A row is counted when its worker reports; of the killed one, what it had not reported yet is lost.
    assert executor.busy["rows"] >= sum(steps) * 2 - ROOM * 2 * max(steps)
    # The server looks at requests itself, whoever draws them.
    with pytest.raises(RequestError, match="nonesuch"):
        submit(served, sampler="nonesuch")
    pids = workers.processes()
    served.stop()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
