"""Jobs are done whoever does them: processes that are killed cost a job, halves of it, or one row; errors are told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bimo.core.errors import DataError
from bimo.curation.executors.executor import Halvable, SerialExecutor, load_file
from bimo.curation.executors.processes import ProcessExecutor
from tests.support.checkout import ROOT

FILES = (("curation_steps", str(ROOT / "tests" / "support" / "curation_steps.py")),)
steps = load_file(FILES[0][0], Path(FILES[0][1]))


@dataclass(frozen=True)
class Numbers(Halvable):
    """A job over some numbers."""

    first: int
    stop: int

    def halves(self) -> tuple[Numbers, Numbers] | None:
        middle = (self.first + self.stop) // 2
        return (Numbers(self.first, middle), Numbers(middle, self.stop)) if self.stop - self.first > 1 else None


def test_every_job_is_answered_once() -> None:
    crew = ProcessExecutor(2, FILES)
    found = dict(crew.answers(steps.Square(), range(20)))
    assert found == {number: number * number for number in range(20)}
    # The same processes do the next task.
    pids = {worker.process.pid for worker in crew._workers}
    assert dict(crew.answers(steps.Square(power=3), [2, 3])) == {2: 8, 3: 27}
    assert {worker.process.pid for worker in crew._workers} == pids
    crew.close()
    assert not crew._workers
    assert dict(SerialExecutor().answers(steps.Square(), [4])) == {4: 16}


def test_exceptions_of_a_task_are_raised_to_the_caller() -> None:
    with pytest.raises(DataError, match="not 3"):
        list(ProcessExecutor(2, FILES).answers(steps.Square(refuses=3), range(5)))
    with pytest.raises(RuntimeError, match=r"ZeroDivisionError"):
        list(ProcessExecutor(1, FILES).answers(steps.Square(divides=1), range(5)))


@pytest.mark.slow
def test_a_killed_worker_costs_one_row(tmp_path: Path) -> None:
    crew = ProcessExecutor(2, FILES)
    task = steps.Total(kills=5, log=str(tmp_path / "log"))
    found = list(crew.answers(task, [Numbers(0, 4), Numbers(4, 8)]))
    crew.close()
    done = {number: value for _, part in found for number, value in part.items()}
    assert done == {number: "lost" if number == 5 else number for number in range(8)}
    # Four numbers twice, then two of them, then one, which has two tries as well.
    assert (tmp_path / "log").read_text().split().count("5") == 2 + 1 + 2


def test_a_job_that_kills_and_cannot_be_halved_ends_the_run() -> None:
    with pytest.raises(DataError, match="was killed 2 times"):
        list(ProcessExecutor(1, FILES).answers(steps.Square(kills=1), range(3)))


def test_a_worker_that_cannot_begin_is_reported(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise ValueError('no good')")
    with pytest.raises(RuntimeError, match="no good"):
        list(ProcessExecutor(1, (("broken", str(tmp_path / "broken.py")),)).answers(steps.Square(), [1]))


ORPHANS = """
import sys
from pathlib import Path
from bimo.curation.executors.executor import load_file
from bimo.curation.executors.processes import ProcessExecutor
if __name__ == "__main__":
    files = (("curation_steps", sys.argv[1]),)
    steps = load_file(files[0][0], Path(sys.argv[1]))
    for job, answer in ProcessExecutor(2, files).answers(steps.Idle(), range(8)):
        print(answer, flush=True)
"""


def test_workers_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    command = [sys.executable, str(script), FILES[0][1]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = {int(parent.stdout.readline()) for _ in range(2)}
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        for pid in pids:
            watched = _pidfd(pid)
            if watched is not None:
                import select

                assert select.select([watched], [], [], 30)[0], "a worker outlived its parent"
                os.close(watched)


def _pidfd(pid: int) -> Any:
    """What can be waited on until a process is gone; None where it is already."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


LIGHT = """
import sys
from bimo.curation import decoded_image
from bimo.curation.dedup import duplicates
from bimo.curation.filters import image_rules
from bimo.curation.phases import measure
from bimo.curation.readers import reading
from bimo.curation.phases.store import begin_arrow, table_bytes
begin_arrow()
table_bytes({"number": [1, 2]})
print([name for name in ("pandas", "pydantic", "torch") if name in sys.modules])
import pandas, pyarrow
print(pyarrow.table({"a": [1]}).to_pandas().shape, len(pyarrow.array(pandas.Series([1, 2]))))
"""


def test_a_worker_loads_little_and_pandas_can_still_be_had() -> None:
    pytest.importorskip("pandas")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", LIGHT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "(1, 1) 2"]
