"""Replicas on a small Ray cluster behind one server: of one that is killed under load every job ends once."""

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
pytest.importorskip("ray.serve", exc_type=ImportError)

from bimo.engine.engine import Engine
from bimo.hub.options import LoadOptions
from bimo.serve.dispatcher import Dispatcher
from bimo.serve.jobs import State
from bimo.serve.ray_replicas import RayReplicas
from bimo.serve.run import make_service
from bimo.serve.settings import ServeSettings
from tests.support.checkout import ROOT
from tests.support.waiting import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]
SECONDS = 300.0


def test_a_replica_is_killed_and_every_job_ends_once(
    tiny_folder: Path, tiny_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    options = LoadOptions(device="cpu")
    service = make_service(
        ServeSettings((str(tiny_folder),), tmp_path / "serve", load_options=options, workers=2, on="ray")
    )
    service.start()
    try:
        executor = service.executor
        assert isinstance(executor, Dispatcher)
        replicas = executor.workers
        assert isinstance(replicas, RayReplicas)

        def submit(**values: Any) -> str:
            order = service.order({"text": "猫", "steps": 40, "seed": 1} | values, key="ann", client="test")
            return service.accept(order, {}).id

        jobs = [submit(seed=seed) for seed in range(12)]
        long = submit(steps=150, count=8)
        until(lambda: any(one.pictures for one in service.store.jobs()), SECONDS)
        processes = {replicas.handle.process.remote().result(timeout_s=60) for _ in range(8)}
        os.kill(processes.pop(), signal.SIGKILL)
        assert service.cancel(long)
        until(lambda: not service.open_jobs(), SECONDS)
        ended = {job.id: job for job in service.store.jobs()}
        assert ended[long].state is State.cancelled
        assert {ended[job].state for job in jobs} == {State.done}
        assert all(len(ended[job].pictures) == 1 for job in jobs)
        assert service.outcomes == Counter({("test", "done"): 12, ("test", "cancelled"): 1})
        # The replica that was killed is begun again, and the pictures are those that are drawn here.
        until(lambda: len({replicas.handle.process.remote().result(timeout_s=60) for _ in range(8)}) == 2, SECONDS)
    finally:
        service.stop()
