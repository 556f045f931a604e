"""A worker ends with the process that started it, however that ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import multiprocessing, sys, time
from concurrent.futures import ProcessPoolExecutor
from bimo.core.parent_process import end_with_parent
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, end_with_parent) as pool:
        import os
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(600)
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody waited for is at an end, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    try:
        assert alive(worker)
        process.send_signal(signal.SIGKILL)
        process.wait()
        until = time.monotonic() + 120  # a busy machine
        while alive(worker) and time.monotonic() < until:
            time.sleep(0.05)
        assert not alive(worker)
    finally:
        process.stdout.close()
        if alive(worker):
            os.kill(worker, signal.SIGKILL)
