"""Processes that begin at once: forked from one that has imported what trains, and computed nothing.

A new Python takes seconds of a processor for its imports. That is most of a tiny run, and no part of what is tested
where several processes learn together, one is killed, or a shell runs command after command.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from tempfile import mkstemp
from typing import Any

from tests.support.checkout import ROOT

#: What a process of a run imports sooner or later.
IMPORTED = [
    *(
        "bimo.cli.draw",
        "bimo.cli.finetune_run",
        "bimo.training.trainer",
        "bimo.xiaomo.recipe",
        "accelerate",
        "torch.distributed.fsdp",
    ),
    *("diffusers.models.autoencoders.autoencoder_kl", "diffusers.models.unets.unet_2d_condition"),
]


@cache
def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    before = dict(os.environ)
    os.environ.update({"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])})
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


class Forked:
    """A process that runs code as ``python -c CODE ARGUMENTS`` does; what it says of errors is kept."""

    def __init__(self, code: str, *arguments: str, env: Mapping[str, str], cwd: Path | None = None) -> None:
        file, name = mkstemp()
        os.close(file)
        self._said = Path(name)
        given = (code, arguments, dict(env), str(cwd or Path.cwd()), name)
        self.process = _context().Process(target=_run, args=given)
        self.process.start()

    def ended(self, seconds: float) -> tuple[int, str]:
        """Its status once it has ended, negative for a signal, and what it said."""
        self.process.join(seconds)
        status = self.process.exitcode
        if status is None:
            self.process.kill()
            self.process.join()
        said = self._said.read_text("utf-8")
        self._said.unlink()
        if status is None:
            raise subprocess.TimeoutExpired("forked", seconds, stderr=said)
        return status, said


def _run(code: str, arguments: tuple[str, ...], env: dict[str, str], folder: str, said: str) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    out = os.open(os.devnull, os.O_WRONLY)
    err = os.open(said, os.O_WRONLY | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.argv = ["-c", *arguments]
    try:
        exec(compile(code, "<forked>", "exec"), {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()


#: What a shell runs in place of ``bimo``: it hands streams, folder, environment and words to `answering`.
TYPED = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as asked:
    asked.connect(sys.argv[1])
    socket.send_fds(asked, [b"x"], [0, 1, 2])
    asked.sendall(json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode())
    asked.shutdown(socket.SHUT_WR)
    sys.exit(int(asked.makefile().read() or "70"))
"""


@contextmanager
def answering(address: Path) -> Generator[None]:
    """Meanwhile ``python -c TYPED ADDRESS WORDS`` does what ``bimo WORDS`` does, one at a time."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        listening.listen()
        process = _context().Process(target=_answer, args=(listening,))
        process.start()
        try:
            yield
        finally:
            process.kill()
            process.join()


def _answer(listening: socket.socket) -> None:
    """One command after the other."""
    while True:
        asked, _ = listening.accept()
        with asked, suppress(BrokenPipeError):
            _, streams, _, _ = socket.recv_fds(asked, 1, 3)
            words, folder, env = json.loads(asked.makefile().read())
            command = os.fork()
            if not command:
                _command(words, folder, env, streams)
            for stream in streams:
                os.close(stream)
            _, status = os.waitpid(command, 0)
            asked.sendall(str(os.waitstatus_to_exitcode(status) % 256).encode())


def _command(words: list[str], folder: str, env: dict[str, str], streams: list[int]) -> None:
    from bimo.cli.main import main

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in enumerate(("r", "w", "w")))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    try:
        main(words)
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(ended.code or 0))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(70)
