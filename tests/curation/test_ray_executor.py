"""On a Ray cluster of two nodes, of which one dies in the middle, a run gives the bytes that it gives here; a picture
that kills whoever looks at it is lost alone.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bimo.core.errors import DataError
from bimo.curation.executors.executor import SerialExecutor, load_file
from bimo.curation.executors.ray_cluster import RayExecutor
from bimo.curation.phases import store
from bimo.curation.phases.run import curate
from bimo.curation.steps import Curation, Tools
from tests.support.checkout import ROOT

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")

FILES = (("curation_steps", str(ROOT / "tests" / "support" / "curation_steps.py")),)
steps = load_file(FILES[0][0], Path(FILES[0][1]))


QUIET = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


def made(source: Path, count: int) -> Path:
    """So many pictures of 20 pixels across and more, with captions."""
    source.mkdir()
    for number in range(count):
        Image.fromarray(np.full((20, 20 + number, 3), number, np.uint8)).save(source / f"{number:02d}.png")
        (source / f"{number:02d}.txt").write_text(f"第 {number} 张", "utf-8")
    return source


def listed(*chosen: Any) -> Curation:
    return Curation(name="test", steps=chosen)


def run(source: Path, out: Path, *first: Any, **more: Any) -> dict[str, str]:
    chosen = (*first, steps.Wide(pixels=24), steps.Guess(log=str(out.parent / "log")), steps.Mend())
    report = curate(source, out, listed(*chosen), tools=Tools(steps.no_scorer), **more)
    assert (report["numbers"]["rows_in"], report["numbers"]["failed"]) == (40, 0)
    files = [*out.glob("*.tar"), *out.glob("table/*"), out / "selection.parquet"]
    assert len(files) == 7
    return {str(f.relative_to(out)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@QUIET
def test_a_lost_node_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setattr(store, "ROWS_A_SMALL_UNIT", 8)
    source = made(tmp_path / "source", 40)
    wanted = run(source, tmp_path / "here" / "out", steps.Stuck(), workers=SerialExecutor())
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        said: list[str] = []

        def kill() -> None:
            said.append(fifo.read_text())
            cluster.remove_node(second, allow_graceful=False)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        crew = RayExecutor(str(cluster.address), FILES)
        stuck = steps.Stuck(node=str(second.all_processes["raylet"][0].process.pid), fifo=str(fifo))
        found = run(source, tmp_path / "ray" / "out", stuck, workers=crew, model_workers=crew)
        assert said == ["here"]
        assert found == wanted
    finally:
        ray.shutdown()
        cluster.shutdown()


@QUIET
def test_a_picture_that_kills_is_lost_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    source = made(tmp_path / "source", 8)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        crew = RayExecutor(str(cluster.address), FILES)
        tools = Tools(steps.no_scorer)
        report = curate(source, tmp_path / "out", listed(steps.Wide(kills=25)), tools=tools, workers=crew)
        assert (report["numbers"]["kept"], report["failures"]) == (7, {"worker killed": 1})
        # Eight rows have two tries, then four and two of them one each, and the row itself two.
        assert report["numbers"]["workers_killed"] == 2 + 1 + 1 + 2
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.parametrize(
    "error", [ConnectionError("nobody\nis there"), RuntimeError("is there"), ValueError("is there")]
)
def test_a_cluster_that_cannot_be_joined_is_reported(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def init(**settings: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(DataError, match=r"the Ray cluster head:1 cannot be joined: is there. Look at RAY_ADDRESS"):
        RayExecutor("head:1")
