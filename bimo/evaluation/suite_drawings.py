"""Draws a suite's pictures with one model, in one process or several. Pictures are written one by one, so that a killed
run can be resumed. Alternatively reads a folder of pictures that were drawn elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from bimo.core.errors import BimoError, DataError, RequestError
from bimo.core.files import MAXIMUM_PICTURE_BYTES, read_regular, write_whole
from bimo.core.messages import say
from bimo.core.parent_process import end_with_parent
from bimo.core.part import dumps
from bimo.core.request import Request
from bimo.engine.devices import DTYPES
from bimo.engine.engine import Engine
from bimo.evaluation.drawing_cache import DrawingCache, read_picture
from bimo.evaluation.progress import OnProgress
from bimo.evaluation.suites.suite import Prompt

#: Builds the engine for a device: a module-level function or a partial of one, so that it can be pickled.
Load = Callable[..., Engine]
PICTURES, TABLE = "pictures", "drawings.jsonl"
#: A file in the folder of a model whose pictures were drawn elsewhere, with the path of those.
GIVEN = "pictures.txt"


@dataclass(frozen=True)
class Drawing:
    """One picture of a prompt: its file below the model's folder, and the seconds it took (0 if it was on disk)."""

    key: str
    seed: int
    file: str
    sha256: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Drawings:
    """A model's pictures in the order of the prompts, and reasons by key for the ``refused`` ones. ``facts`` are
    recipe, weights, steps, guidance, sampler, size, device, dtype, engine.
    """

    drawn: tuple[Drawing, ...]
    refused: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def seconds_a_picture(self) -> float | None:
        """The mean over the pictures whose time is known."""
        timed = [one.seconds for one in self.drawn if one.seconds]
        return sum(timed) / len(timed) if timed else None


@dataclass(frozen=True)
class _Task:
    key: str
    seed: int
    request: Request


class _Worker:
    """State of a worker process."""

    cache: DrawingCache | None = None


def _begin(load: Load, devices: Queue[str], folder: Path, batch: int) -> None:
    end_with_parent()
    _Worker.cache = DrawingCache(load(device=devices.get()), folder, batch, _silent)


def _silent(title: str, done: int, total: int) -> None:
    """No progress bar: the main process shows the progress."""


def _draw(tasks: Sequence[_Task]) -> tuple[list[Drawing], dict[str, str], dict[str, Any]]:
    assert _Worker.cache is not None
    return drawn_by(_Worker.cache, tasks)


def drawn_by(cache: DrawingCache, tasks: Sequence[_Task]) -> tuple[list[Drawing], dict[str, str], dict[str, Any]]:
    """Draws a batch; if one of its prompts is refused, the others are drawn one by one."""
    refused: dict[str, str] = {}
    accepted: list[tuple[_Task, Path]] = []
    for task in tasks:
        try:
            accepted.append((task, cache.path(task.request)))
        except BimoError as error:
            refused[f"{task.key}#{task.seed}"] = error.en
    missing = [(task, path) for task, path in accepted if not path.is_file()]
    before, start = cache.drawn, time.perf_counter()
    try:
        cache.draw([task.request for task, _ in missing])
    except BimoError:
        for task, _ in missing:
            try:
                cache.draw([task.request])
            except BimoError as error:
                refused[f"{task.key}#{task.seed}"] = error.en
    seconds = (time.perf_counter() - start) / max(1, cache.drawn - before)
    new_paths = {path for _, path in missing}
    drawn = [
        Drawing(task.key, task.seed, path.name, _sha256(path), round(seconds, 4) if path in new_paths else 0.0)
        for task, path in accepted
        if path.is_file()
    ]
    return drawn, refused, facts_of(cache, accepted[0][0].request) if accepted else {}


def facts_of(cache: DrawingCache, request: Request) -> dict[str, Any]:
    """The model and settings of a drawing, for the record."""
    engine, system = cache.engine, cache.system
    filled = engine.fill(request).request
    return {
        "recipe": system.recipe.name,
        "recipe sha256": hashlib.sha256(dumps(system.recipe).encode()).hexdigest(),
        "weights": cache.weights,
        "adapters": [f"{name}:{weight}" for name, weight in engine.lora_weights],
        "steps": filled.steps,
        "guidance": filled.guidance,
        "sampler": filled.sampler,
        "size": list(filled.size or ()),
        "device": engine.device.type,
        "dtype": next((name for name, kind in DTYPES.items() if kind == engine.dtype), "fp32"),
        "engine": engine.processor.name,
    }


def draw_suite(
    load: Load,
    devices: Sequence[str],
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    settings: Mapping[str, Any],
    folder: Path,
    batch: int,
    on_progress: OnProgress,
) -> Drawings:
    """Draws every prompt with every seed into ``folder``, on one device in this process, or on several with a process
    each (a device may be named twice). Existing pictures are not drawn again. Raises RequestError if a process died,
    DataError if nothing could be drawn.
    """
    tasks = [_Task(p.key, seed, Request(text=p.text, seed=seed, **settings)) for p in prompts for seed in seeds]
    batches = [tasks[first : first + batch] for first in range(0, len(tasks), batch)]
    pictures = folder / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    known_seconds = {one.file: one.seconds for one in read_table(folder)}
    by_task: dict[tuple[str, int], Drawing] = {}
    refused: dict[str, str] = {}
    facts: dict[str, Any] = {}
    with _drawing(load, devices, pictures, batch) as results:
        for drawn, new_refusals, new_facts in results(batches):
            for one in drawn:
                seconds = one.seconds or known_seconds.get(one.file, 0.0)
                by_task[one.key, one.seed] = Drawing(one.key, one.seed, one.file, one.sha256, seconds)
            refused, facts = refused | new_refusals, new_facts or facts
            _write_table(folder, by_task.values())
            on_progress(say("drawing"), len(by_task) + len(refused), len(tasks))
    if not by_task:
        why = next(iter(refused.values()), "-")
        raise DataError("not one of {count} prompts could be drawn: {why}", count=len(tasks), why=why)
    ordered = [by_task[one.key, one.seed] for one in tasks if (one.key, one.seed) in by_task]
    return Drawings(tuple(ordered), refused, facts)


_Result = tuple[list[Drawing], dict[str, str], dict[str, Any]]


@contextmanager
def _drawing(
    load: Load, devices: Sequence[str], pictures: Path, batch: int
) -> Generator[Callable[[Sequence[Sequence[_Task]]], Iterator[_Result]]]:
    """Yields a function that draws batches and iterates over their results in order of completion."""
    if len(devices) == 1:
        cache = DrawingCache(load(device=devices[0]), pictures, batch, _silent)
        yield lambda batches: (drawn_by(cache, one) for one in batches)
        return
    context = multiprocessing.get_context("spawn")
    names: Any = context.Queue()
    for device in devices:
        names.put(device)
    with ProcessPoolExecutor(len(devices), context, _begin, (load, names, pictures, batch)) as pool:

        def results(batches: Sequence[Sequence[_Task]]) -> Iterator[_Result]:
            futures = [pool.submit(_draw, future) for future in batches]
            try:
                for done in as_completed(futures):
                    yield done.result()
            except BrokenProcessPool:
                raise RequestError(
                    "a process that draws on one of the devices has ended (out of memory most often); name fewer "
                    "devices; what was drawn is kept, run the same command again"
                ) from None
            finally:
                for future in futures:
                    future.cancel()

        yield results


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_table(folder: Path, drawn: Sequence[Drawing] | Any) -> None:
    lines = (json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in drawn)
    write_whole(folder / TABLE, "".join(lines).encode())


def read_table(folder: Path) -> list[Drawing]:
    """The readable rows of a folder's table; empty without a table."""
    path = folder / TABLE
    drawings: list[Drawing] = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        try:
            drawings.append(Drawing(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return drawings


def read_pictures(folder: Path, prompts: Sequence[Prompt]) -> Drawings:
    """Reads pictures that were drawn elsewhere: files named by a prompt's key, ``dishes.01.png``, further ones
    ``dishes.01-2.png``. Prompts without a picture count as refused. Raises DataError if the folder has none.
    """
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")]
    by_stem = {path.stem: path for path in files}
    drawings: list[Drawing] = []
    missing: dict[str, str] = {}
    for prompt in prompts:
        stems = [prompt.key, *(f"{prompt.key}-{number}" for number in range(2, 100))]
        matches = [by_stem[stem] for stem in stems if stem in by_stem]
        drawings += [Drawing(prompt.key, number, path.name, _sha256(path)) for number, path in enumerate(matches)]
        if not matches:
            missing[prompt.key] = "no picture"
    if not drawings:
        raise DataError(
            "{folder} holds no picture of this suite; name them after the keys of its prompts, as {key}.png",
            folder=folder,
            key=prompts[0].key,
        )
    return Drawings(tuple(drawings), missing, {"recipe": folder.name, "weights": "", "pictures": "given"})


def open_picture(path: Path) -> Image.Image | None:
    """A picture as RGB, None if its file cannot be read."""
    try:
        return read_picture(read_regular(path, MAXIMUM_PICTURE_BYTES))
    except (OSError, UnidentifiedImageError, RequestError, Image.DecompressionBombError, SyntaxError):
        return None
