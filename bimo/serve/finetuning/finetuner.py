"""Runs `bimo finetune` in a child process, one at a time.

A run survives a killed server: after a restart, the server waits for the process if it still runs, or resumes the run
from its last save. A server that shuts down terminates the process, which saves first, and resumes it after a restart.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bimo.core.errors import BimoError, RequestError
from bimo.core.files import write_whole
from bimo.core.messages import Message, say, speaking
from bimo.serve.finetuning.record import FOLDER, KEPT, OUTPUT, PHOTOS, Record, State, records
from bimo.serve.pool import EnginePool
from bimo.serve.settings import ServeSettings
from bimo.serve.uploads import bounded
from bimo.training.finetune.captions import caption_in_name
from bimo.training.finetune.result import SHEET_FILE

_log = logging.getLogger(__name__)
#: Steps between sheets of samples.
SAMPLE_EVERY = 50
#: Seconds between polls of a process that an earlier server started.
LOOK_SECONDS = 0.5
#: Seconds that a process has to save and exit before it is killed.
GRACE = 20.0
#: The file that a process keeps locked while it runs.
LOCK = "lock"
#: The niceness of processes, so that drawing has priority.
NICENESS = 10
#: The prefix of a command's error message.
ERROR = "bimo: "
#: The most characters of a name and of the other texts.
NAME_LENGTH, TEXT_LENGTH = 40, 200
NO_SUCH_RUN = Message("there is no such fine-tuning; it may have been deleted")


@dataclass(frozen=True)
class Photo:
    """A photo of a request: its bytes, the name of its file, a caption or ""."""

    content: bytes
    name: str = ""
    caption: str = ""


@dataclass(frozen=True)
class FinetuneRequest:
    """A request to fine-tune. ``word`` is the caption of photos without one, and the class noun if all show the same
    ``subject``, whose name that is (DreamBooth). With ``steps`` 0 their number is chosen by the rules.
    """

    model: str
    name: str
    photos: Sequence[Photo]
    word: str = ""
    subject: str = ""
    steps: int = 0
    language: str = "en"


class Finetuner:
    """Starts, stops, resumes and deletes the fine-tuning runs of a server. All methods are thread-safe.

    ``command`` is the command line of `bimo`. ``check`` raises RequestError for texts that the server refuses.
    """

    def __init__(
        self,
        settings: ServeSettings,
        pool: EnginePool,
        check: Callable[[str], None] = lambda text: None,
        command: Sequence[str] = (sys.executable, "-m", "bimo"),
    ) -> None:
        self.settings, self.pool, self.command = settings, pool, tuple(command)
        self.check = check
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        #: The current run: its id, and the thread that waits for its process.
        self._running: tuple[str, threading.Thread] | None = None
        #: Runs that were stopped by their owner, until their process has ended.
        self._halted: set[str] = set()

    def start(self) -> None:
        """Resumes the run that an earlier server left unfinished."""
        with self._lock:
            for record in records(self.settings.folder):
                if record.state is State.running and self._running is None:
                    try:
                        self._go(record)
                    except RequestError as error:  # its model is no longer served
                        self._failed(record, error.message.said(record.language))

    def stop(self, seconds: float = GRACE) -> None:
        """Terminates the process, which saves first; the run is resumed after the next start."""
        self._stopping.set()
        with self._lock:
            running = self._running
        if running is not None:
            self._terminate(running[0])
            running[1].join(seconds)
            if running[1].is_alive():
                self._terminate(running[0], getattr(signal, "SIGKILL", signal.SIGTERM))
                running[1].join()

    def of(self, key: str) -> list[Record]:
        """The runs of a key, the newest first."""
        return [record for record in records(self.settings.folder) if record.key == key]

    def one(self, name: str, key: str) -> Record:
        """A run of a key by its id. Raises RequestError."""
        found = next((record for record in self.of(key) if record.id == name), None)
        if found is None:
            raise RequestError(NO_SUCH_RUN)
        return found

    def begin(self, asked: FinetuneRequest, key: str) -> Record:
        """Writes the photos and starts the process. Raises RequestError for invalid requests, exceeded limits, and
        while another run is in progress.
        """
        limits, own = self.settings.limits, self.of(key)
        self.pool.model_name(asked.model)
        self._check_texts(asked)
        if not 0 < len(asked.photos) <= limits.photos:
            raise RequestError(
                "{count} photos; this server fine-tunes on 1 to {most}", count=len(asked.photos), most=limits.photos
            )
        if not 0 <= asked.steps <= limits.finetune_steps:
            raise RequestError(
                "{name} is {value}; this server allows at most {most}",
                name="steps",
                value=asked.steps,
                most=limits.finetune_steps,
            )
        if len(own) >= limits.finetunings:
            raise RequestError(
                "{count} fine-tunings are kept, and no more; delete one that you do not need", count=len(own)
            )
        captions = [photo.caption.strip() or caption_in_name(Path(photo.name).stem) for photo in asked.photos]
        if not asked.word.strip() and not all(captions):
            raise RequestError(
                "{count} photos have no caption, and their names say nothing: say what the photos show",
                count=captions.count(""),
            )
        names = [photo.name or str(number) for number, photo in enumerate(asked.photos, 1)]
        kinds = [_kind(photo, name) for photo, name in zip(asked.photos, names, strict=True)]
        with self._lock:
            self._check_free()
            # Part of the id in the name keeps engines of a deleted LoRA from serving another of its name.
            run_id = uuid.uuid4().hex
            folder = self.settings.folder / FOLDER / run_id
            try:
                for number, (photo, kind, caption) in enumerate(zip(asked.photos, kinds, captions, strict=True), 1):
                    # Numbered, as names from a request must not become file names; they are used for captions only.
                    write_whole(folder / PHOTOS / f"{number:04d}.{kind}", photo.content)
                    if caption:
                        write_whole(folder / PHOTOS / f"{number:04d}.txt", caption.encode())
                record = Record(
                    run_id,
                    key,
                    f"{asked.name.strip()}-{run_id[:4]}",
                    self.pool.model_name(asked.model),
                    len(asked.photos),
                    asked.word.strip(),
                    asked.subject.strip(),
                    asked.steps,
                    asked.language,
                    time.time(),
                    folder=folder,
                ).write()
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            return self._go(record)

    def halt(self, name: str, key: str) -> None:
        """Stops a run after the current step and saves it."""
        record = self.one(name, key)
        with self._lock:
            if self._running is None or self._running[0] != record.id:
                return
            self._halted.add(record.id)
        self._terminate(record.id)

    def resume(self, name: str, key: str) -> None:
        """Resumes a run that was stopped or failed. Raises RequestError while another one is in progress."""
        record = self.one(name, key)
        with self._lock:
            if record.state not in (State.stopped, State.failed):
                return
            self._check_free()
            self._go(record)

    def forget(self, name: str, key: str) -> None:
        """Deletes a run with its photos and its LoRA. Raises RequestError while it is in progress."""
        record = self.one(name, key)
        with self._lock:
            if self._running is not None and self._running[0] == record.id:
                raise RequestError("this fine-tuning is under way; stop it first")
            shutil.rmtree(record.folder, ignore_errors=True)

    def _check_texts(self, asked: FinetuneRequest) -> None:
        name = asked.name.strip()
        if not 0 < len(name) <= NAME_LENGTH or not name.replace("-", "").replace("_", "").isalnum():
            raise RequestError(
                "the name is {name!r}; expected letters, digits, - and _, {most} at most", name=name, most=NAME_LENGTH
            )
        captions = [photo.caption for photo in asked.photos]
        for text in (asked.word, asked.subject, *captions, *(photo.name for photo in asked.photos)):
            if len(text) > TEXT_LENGTH or any(not (char.isprintable() or char in "\n\t") for char in text):
                raise RequestError(
                    "a caption or word is longer than {most} characters, or has some that cannot be shown",
                    most=TEXT_LENGTH,
                )
            self.check(text)
        if asked.subject.strip() and not asked.word.strip():
            raise RequestError("the subject needs a class word, what it is one of: 猫 for 一只<我的>猫")

    def _check_free(self) -> None:
        if self._stopping.is_set():
            raise RequestError("the server is stopping; ask again in a moment")
        if self._running is not None:
            raise RequestError("a fine-tuning is under way; this server runs one at a time, begin when it has ended")

    def _words(self, record: Record) -> list[str]:
        """The command line of a run. Raises RequestError if its model is no longer served."""
        model = self.pool.models[self.pool.model_name(record.model)]
        words = ["finetune", str(record.folder / PHOTOS), "--model", model, "--lora"]
        words += ["--out", str(record.run), "--device", self.settings.load_options.device]
        words += ["--sample-every", str(SAMPLE_EVERY), "--language", record.language]
        # With "=" the value may start with a dash.
        words += [f"--class={record.word}"] if record.word else []
        words += [f"--dreambooth={record.subject}"] if record.subject else []
        return words + (["--steps", str(record.steps)] if record.steps else [])

    def _go(self, record: Record) -> Record:
        """Starts the process of a run, or attaches to the one that an earlier server started. Called with the lock
        held.
        """
        process = None
        with _held(record.folder) as handles, (record.folder / OUTPUT).open("ab") as output:
            if handles is not None:
                words = [*self.command, *self._words(record)]
                try:
                    process = subprocess.Popen(
                        words,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
                        start_new_session=True,  # Ctrl-C must only reach the server, which terminates it
                        pass_fds=handles,
                    )
                except OSError as error:
                    return self._failed(record, str(error))
        if process is not None:
            if hasattr(os, "setpriority"):
                with suppress(OSError):
                    os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
            record = record.changed(state=State.running, ended=None, failure="", process=process.pid)
        thread = threading.Thread(target=self._wait, args=(record, process), name="bimo-finetune", daemon=True)
        self._running = (record.id, thread)
        thread.start()
        return record

    def _wait(self, record: Record, process: subprocess.Popen[bytes] | None) -> None:
        """Waits for the process of a run and records how it ended."""
        status = 0
        if process is not None:
            status = process.wait()
        else:
            while _busy(record.folder):
                time.sleep(LOOK_SECONDS)
        with self._lock:
            try:
                self._ended(record, status)
            except (BimoError, OSError):
                _log.exception("recording how a fine-tuning ended")
            self._halted.discard(record.id)
            self._running = None

    def _ended(self, record: Record, status: int) -> None:
        if status == 0 and record.lora.is_file() and record.sheet == record.run / SHEET_FILE:
            _tidy(record)
            record.changed(state=State.done, ended=time.time())
        elif record.id in self._halted:
            record.changed(state=State.stopped, ended=time.time())
        elif not self._stopping.is_set():
            self._failed(record, _failure(record, status))

    def _failed(self, record: Record, sentence: str) -> Record:
        return record.changed(state=State.failed, ended=time.time(), failure=sentence)

    def _terminate(self, name: str, number: int = signal.SIGTERM) -> None:
        """Signals the process of a run. The lock on its folder proves that the process id still belongs to it."""
        record = Record.read(self.settings.folder / FOLDER / name)
        if record is not None and record.process > 0 and _busy(record.folder):
            with suppress(OSError):
                os.kill(record.process, number)


def _kind(photo: Photo, name: str) -> str:
    """The suffix for a photo by its bytes. Raises RequestError if it is not a picture."""
    from PIL import Image

    with Image.open(io.BytesIO(bounded(photo.content, name))) as image:
        return str(image.format).lower()


@contextmanager
def _held(folder: Path) -> Generator[tuple[int, ...] | None]:
    """Locks the folder of a run and yields the file descriptors that a child process inherits, so that the lock is held
    as long as it runs; None if another process holds it. Without such locks (Windows) there are no descriptors.
    """
    with (folder / LOCK).open("w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        except ImportError:
            yield ()
            return
        yield (file.fileno(),)


def _busy(folder: Path) -> bool:
    """Whether a process is running in the folder of a run."""
    with _held(folder) as handles:
        return handles is None


def _tidy(record: Record) -> None:
    """Deletes the photos, and the files of the run except for the result."""
    shutil.rmtree(record.folder / PHOTOS, ignore_errors=True)
    for entry in record.run.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name not in KEPT:
            entry.unlink(missing_ok=True)


def _failure(record: Record, status: int) -> str:
    """The error message of a failed process, in the language of the request."""
    lines = (record.folder / OUTPUT).read_text("utf-8", "replace").splitlines()
    said = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    if said and status > 0:
        return record.without_paths(said[-1])
    with speaking(record.language):
        if status < 0:
            return say("the process was ended by signal {number}, as where memory runs out", number=-status)
        return say("the process ended before it was done")
