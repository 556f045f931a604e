"""Serving measured: many clients with mixed requests, by three ways of serving in one run.

    python bench/serving.py --requests 32 --rounds 3    # medians, p99, pictures and processor seconds, overhead

A soak with cancels, dropped connections and kills is `bench/soak.py`.

The ways: ours (`bimo.serve.scheduler`); one request at a time in order of arrival; batching of equal requests alone
(same size, steps, guidance and sampler), as request-level batching is. Each is given the same arrivals at the same
times, in turns within a round: nobody waits for an answer before he asks again, or else the way that answers sooner
would be asked more in the same time. They come ``--load`` times as fast as one at a time could be served, which is
measured first: on a machine that keeps up there is nothing to be fair about. What else the machine does falls on all
three, so that the ratios of a round are to be read, not its seconds.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHORT_STEPS = (8, 10, 12)
LONG_STEPS = (30, 40, 50)
#: The share of requests that are short.
SHORT_SHARE = 0.7
SIZES = ((64, 64), (96, 96), (96, 64))
MOST_TOGETHER = 8
ONE_BY_ONE, EQUAL, OURS = WAYS = ("one at a time", "equal requests together", "ours")


@dataclass(frozen=True)
class Asked:
    """A request and when its client asks it, in seconds from the beginning."""

    at: float
    values: dict[str, Any]

    @property
    def short(self) -> bool:
        return self.values["steps"] in SHORT_STEPS


def alone(engine: Any, asked: Sequence[Asked]) -> float:
    """Seconds that requests take one at a time, by what a step takes at each size, with guidance and without."""
    pace: dict[tuple[Any, ...], float] = {}
    for values in (each.values for each in asked):
        kind = values["size"], values.get("guidance")
        if kind not in pace:
            begin = time.perf_counter()
            engine.draw({**values, "steps": SHORT_STEPS[-1]})
            pace[kind] = (time.perf_counter() - begin) / SHORT_STEPS[-1]
    return sum(pace[each.values["size"], each.values.get("guidance")] * each.values["steps"] for each in asked)


def arrivals(count: int, seconds: float, seed: int) -> list[Asked]:
    """Requests whose gaps are exponential, about ``seconds`` from the first to the last."""
    rng = random.Random(seed)
    at, found = 0.0, []
    for number in range(count):
        steps = rng.choice(SHORT_STEPS if rng.random() < SHORT_SHARE else LONG_STEPS)
        values = {"text": "红苹果，3D风格", "steps": steps, "size": rng.choice(SIZES), "seed": number}
        found.append(Asked(at, values | ({"guidance": 1.0} if rng.random() < 0.2 else {})))
        at += rng.expovariate(count / seconds)
    return found


@dataclass(frozen=True)
class Served:
    """Seconds that each request took from when it was due, seconds of all together, and the processor's."""

    took: list[float]
    seconds: float
    processor: float


def driven(asked: Sequence[Asked], draw: Callable[[dict[str, Any]], object]) -> Served:
    """Asks each request when it is due, whatever the others wait for."""
    took = [0.0] * len(asked)
    begin, processor = time.perf_counter(), time.process_time()

    def client(number: int) -> None:
        time.sleep(max(0.0, begin + asked[number].at - time.perf_counter()))
        draw(asked[number].values)
        took[number] = time.perf_counter() - begin - asked[number].at

    threads = [threading.Thread(target=client, args=(number,)) for number in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Served(took, time.perf_counter() - begin, time.process_time() - processor)


class EqualBatches:
    """Draws requests that are equal but for their seeds together, in order of arrival; ``most`` 1 is one at a time."""

    def __init__(self, engine: Any, most: int) -> None:
        self.engine, self.most = engine, most
        self._waiting: list[tuple[dict[str, Any], threading.Event]] = []
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def draw(self, values: dict[str, Any]) -> None:
        done = threading.Event()
        with self._changed:
            self._waiting.append((values, done))
            self._changed.notify()
        done.wait()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._ended:
                    self._changed.wait()
                if not self._waiting:
                    return
                first = {**self._waiting[0][0], "seed": 0}
                group = [one for one in self._waiting if {**one[0], "seed": 0} == first][: self.most]
                self._waiting = [one for one in self._waiting if one not in group]
            self.engine.draw_together([values for values, _ in group])
            for _, done in group:
                done.set()


def compared(model: str, count: int, load: float, seed: int, rounds: int) -> dict[str, Any]:
    """Every way of serving the same arrivals, in so many rounds, each with arrivals of its own."""
    import bimo
    from bimo.hub.loading import steady
    from bimo.serve.job_store import JobStore
    from bimo.serve.pool import EngineKey, EnginePool
    from bimo.serve.service import DrawingService
    from bimo.serve.settings import ServeSettings

    engine = steady(bimo.load(model))
    engine.draw(arrivals(1, 1.0, seed)[0].values)
    seconds = alone(engine, arrivals(count, 1.0, seed)) / load
    found: dict[str, Any] = {"seconds in which requests come": round(seconds, 1), "rounds": []}
    with tempfile.TemporaryDirectory() as folder:
        pool = EnginePool(lambda name: engine, {"model": model})
        pool.put(EngineKey("model"), engine)
        service = DrawingService(ServeSettings((model,), Path(folder)), pool, JobStore(Path(folder)))
        service.start()

        def draw(values: dict[str, Any]) -> None:
            job = service.accept(service.order(values, key="bench", client="bench"), {})
            assert service.wait_here(job.id).failure is None

        for number in range(rounds):
            asked = arrivals(count, seconds, seed + number)
            this: dict[str, dict[str, float]] = {}
            for place in range(len(WAYS)):  # another one begins each round
                name = WAYS[(number + place) % len(WAYS)]
                if name == OURS:
                    this[name] = told(asked, driven(asked, draw))
                    continue
                server = EqualBatches(engine, 1 if name == ONE_BY_ONE else MOST_TOGETHER)
                this[name] = told(asked, driven(asked, server.draw))
                server.end()
            found["rounds"].append(this)
            print(json.dumps(this), flush=True)
        busy = service.executor.busy
        found[OURS] = {
            "pictures a call": round(busy["rows"] / busy["calls"], 2),
            "more than the denoiser's calls": round(busy["all"] / busy["denoiser"] - 1, 3),
        }
        found["overhead"] = overhead(engine, draw)
        service.stop()
    found["ratios"] = {
        other: {
            figure: round(statistics.median(each[OURS][figure] / each[other][figure] for each in found["rounds"]), 2)
            for figure in found["rounds"][0][OURS]
        }
        for other in (ONE_BY_ONE, EQUAL)
    }
    return found


def told(asked: Sequence[Asked], served: Served) -> dict[str, float]:
    """Medians, the slowest, pictures a second and a processor's second."""
    took = served.took
    short = [one for one, each in zip(took, asked, strict=True) if each.short]
    ordered = sorted(took)
    return {
        "median of short": round(statistics.median(short), 2),
        "median": round(statistics.median(took), 2),
        "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 2),
        "pictures/s": round(len(took) / served.seconds, 3),
        "pictures/processor s": round(len(took) / served.processor, 3),
    }


def overhead(engine: Any, draw: Callable[[dict[str, Any]], object], turns: int = 5) -> dict[str, float]:
    """One picture by the service and by the engine alone, in turns; and the engine's time outside of the denoiser."""
    values = {"text": "红苹果，3D风格", "steps": 20, "size": (96, 96), "seed": 1}
    alone, served = [], []
    for _ in range(turns):
        for way, seconds in ((engine.draw, alone), (draw, served)):
            begin = time.perf_counter()
            way(dict(values))
            seconds.append(time.perf_counter() - begin)
    mine, theirs = statistics.median(served), statistics.median(alone)
    return {"engine": round(theirs, 3), "service": round(mine, 3), "more": round(mine / theirs - 1, 3)}


def main() -> None:
    """Measures and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("-m", "--model", default="xiaomo")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--load", type=float, default=3.0, help="how many times as fast as one at a time is served")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    found = compared(asked.model, asked.requests, asked.load, asked.seed, asked.rounds)
    print(json.dumps(found, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
