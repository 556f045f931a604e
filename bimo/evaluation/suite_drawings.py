"""A suite's pictures by one model: drawn in one process or several, each kept as soon as it is done, so that a run that
was killed goes on; or read from a folder of pictures that something else has drawn.
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
from bimo.core.part import dumps
from bimo.core.request import Request
from bimo.diffusion.request_validation import fill_request
from bimo.engine.devices import DTYPES
from bimo.engine.engine import Engine
from bimo.evaluation.drawing_cache import DrawingCache, read_picture
from bimo.evaluation.progress import OnProgress
from bimo.evaluation.suites.suite import Prompt

#: Makes the engine of a device; a function of a module or a partial of one, as other processes find it by its name.
Load = Callable[..., Engine]
PICTURES, TABLE = "pictures", "drawings.jsonl"


@dataclass(frozen=True)
class Drawing:
    """One picture of a prompt: its file below the model's folder, and the seconds it took (0 where it was there)."""

    key: str
    seed: int
    file: str
    sha256: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Drawings:
    """What a model drew: ``drawn`` in the order that was asked, ``refused`` with why. ``facts`` say of what and how:
    recipe, weights, steps, guidance, sampler, size, device, dtype, engine.
    """

    drawn: tuple[Drawing, ...]
    refused: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def seconds_a_picture(self) -> float | None:
        """The mean over those whose time is known."""
        known = [one.seconds for one in self.drawn if one.seconds]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class _Asked:
    key: str
    seed: int
    request: Request


class _Worker:
    """What a process keeps from one batch to the next."""

    cache: DrawingCache | None = None


def _begin(load: Load, devices: Queue[str], folder: Path, batch: int) -> None:
    _Worker.cache = DrawingCache(load(device=devices.get()), folder, batch, _silent)


def _silent(title: str, done: int, total: int) -> None:
    """Progress is told by the process that asked."""


def _draw(asked: Sequence[_Asked]) -> tuple[list[Drawing], dict[str, str], dict[str, Any]]:
    assert _Worker.cache is not None
    return drawn_by(_Worker.cache, asked)


def drawn_by(cache: DrawingCache, asked: Sequence[_Asked]) -> tuple[list[Drawing], dict[str, str], dict[str, Any]]:
    """Draws a batch; where one of its prompts is refused the others are drawn by themselves."""
    refused: dict[str, str] = {}
    wanted: list[tuple[_Asked, Path]] = []
    for one in asked:
        try:
            cache.engine.completed(one.request)
            wanted.append((one, cache.path(one.request)))
        except BimoError as error:
            refused[f"{one.key}#{one.seed}"] = error.en
    new = [(one, path) for one, path in wanted if not path.is_file()]
    before, began = cache.drawn, time.perf_counter()
    try:
        cache.draw([one.request for one, _ in new])
    except BimoError:
        for one, _ in new:
            try:
                cache.draw([one.request])
            except BimoError as error:
                refused[f"{one.key}#{one.seed}"] = error.en
    each = (time.perf_counter() - began) / max(1, cache.drawn - before)
    fresh = {path for _, path in new}
    drawn = [
        Drawing(one.key, one.seed, path.name, _sha256(path), round(each, 4) if path in fresh else 0.0)
        for one, path in wanted
        if path.is_file()
    ]
    return drawn, refused, facts_of(cache, asked[0].request)


def facts_of(cache: DrawingCache, request: Request) -> dict[str, Any]:
    """Of what and how it is drawn."""
    engine, system = cache.engine, cache.system
    filled = fill_request(system, request)
    return {
        "recipe": system.recipe.name,
        "recipe sha256": hashlib.sha256(dumps(system.recipe).encode()).hexdigest(),
        "weights": cache.weights,
        "adapters": [f"{name}:{weight:g}" for name, weight in engine.adapters],
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
    """Draws every prompt with every seed into ``folder``, on one device in this process or on several, each in a
    process of its own (a device may be named twice). What lies there is not drawn again. Raises RequestError where a
    process ended, DataError where nothing could be drawn.
    """
    asked = [_Asked(p.key, seed, Request(text=p.text, seed=seed, **settings)) for p in prompts for seed in seeds]
    batches = [asked[first : first + batch] for first in range(0, len(asked), batch)]
    pictures = folder / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    known = {one.file: one.seconds for one in read_table(folder)}
    found: dict[tuple[str, int], Drawing] = {}
    refused: dict[str, str] = {}
    facts: dict[str, Any] = {}
    with _drawing(load, devices, pictures, batch) as results:
        for drawn, no, told in results(batches):
            for one in drawn:
                seconds = one.seconds or known.get(one.file, 0.0)
                found[one.key, one.seed] = Drawing(one.key, one.seed, one.file, one.sha256, seconds)
            refused, facts = refused | no, told
            _write_table(folder, found.values())
            on_progress(say("drawing"), len(found) + len(refused), len(asked))
    if not found:
        why = next(iter(refused.values()), "-")
        raise DataError("not one of {count} prompts could be drawn: {why}", count=len(asked), why=why)
    ordered = [found[one.key, one.seed] for one in asked if (one.key, one.seed) in found]
    return Drawings(tuple(ordered), refused, facts)


_Result = tuple[list[Drawing], dict[str, str], dict[str, Any]]


@contextmanager
def _drawing(
    load: Load, devices: Sequence[str], pictures: Path, batch: int
) -> Generator[Callable[[Sequence[Sequence[_Asked]]], Iterator[_Result]]]:
    """What draws batches, in whatever order they are done."""
    if len(devices) == 1:
        cache = DrawingCache(load(device=devices[0]), pictures, batch, _silent)
        yield lambda batches: (drawn_by(cache, one) for one in batches)
        return
    context = multiprocessing.get_context("spawn")
    names: Any = context.Queue()
    for device in devices:
        names.put(device)
    with ProcessPoolExecutor(len(devices), context, _begin, (load, names, pictures, batch)) as pool:

        def results(batches: Sequence[Sequence[_Asked]]) -> Iterator[_Result]:
            waiting = [pool.submit(_draw, one) for one in batches]
            try:
                for done in as_completed(waiting):
                    yield done.result()
            except BrokenProcessPool:
                raise RequestError(
                    "a process that draws on one of the devices has ended (out of memory most often); name fewer "
                    "devices; what was drawn is kept, run the same command again"
                ) from None
            finally:
                for one in waiting:
                    one.cancel()

        yield results


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_table(folder: Path, drawn: Sequence[Drawing] | Any) -> None:
    lines = (json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in drawn)
    write_whole(folder / TABLE, "".join(lines).encode())


def read_table(folder: Path) -> list[Drawing]:
    """The drawings of a folder, as far as its table can be read; none where there is no table."""
    path = folder / TABLE
    found: list[Drawing] = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        try:
            found.append(Drawing(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found


def given_pictures(folder: Path, prompts: Sequence[Prompt]) -> Drawings:
    """Pictures that something else drew: files named after a prompt's key, ``dishes.01.png``, several as
    ``dishes.01-2.png``. A prompt without one is counted as refused. Raises DataError for a folder without any.
    """
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")]
    by_stem = {path.stem: path for path in files}
    found: list[Drawing] = []
    missing: dict[str, str] = {}
    for prompt in prompts:
        stems = [prompt.key, *(f"{prompt.key}-{number}" for number in range(2, 100))]
        mine = [by_stem[stem] for stem in stems if stem in by_stem]
        found += [Drawing(prompt.key, place, path.name, _sha256(path)) for place, path in enumerate(mine)]
        if not mine:
            missing[prompt.key] = "no picture"
    if not found:
        raise DataError(
            "{folder} holds no picture of this suite; name them after the keys of its prompts, as {key}.png",
            folder=folder,
            key=prompts[0].key,
        )
    return Drawings(tuple(found), missing, {"recipe": folder.name, "weights": "", "pictures": "given"})


def open_picture(path: Path) -> Image.Image | None:
    """A picture as RGB; None where its file cannot be read."""
    try:
        return read_picture(read_regular(path, MAXIMUM_PICTURE_BYTES))
    except (OSError, UnidentifiedImageError, RequestError, Image.DecompressionBombError, SyntaxError):
        return None
