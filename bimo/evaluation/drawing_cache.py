"""Draws the pictures of an evaluation in batches and caches them on disk, so that a stopped run can be resumed."""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image

from bimo.core.hashing import digest_tensors
from bimo.core.messages import say
from bimo.core.part import dumps
from bimo.core.request import Request
from bimo.diffusion.conditioner import Conditioner
from bimo.engine.engine import Engine
from bimo.evaluation.progress import OnProgress


class DrawingCache:
    """Draws requests in batches and stores each picture under a hash of request, weights, dtype and engine, and of the
    program that draws drafts where it begins with one.
    """

    def __init__(self, engine: Engine, folder: Path, batch: int, on_progress: OnProgress) -> None:
        self.engine, self.system = engine, engine.system
        self.folder, self.batch, self.on_progress = folder, batch, on_progress
        system = self.system
        self.weights = system.weights_hash or digest_tensors(system.state_dict())
        self.drawn = 0
        self.seconds = 0.0

    def path(self, request: Request) -> Path:
        """The file of a request's picture."""
        full = self.engine.fill(request).request
        filled = json.dumps(full.model_dump(), ensure_ascii=False, sort_keys=True)
        engine = self.engine
        # Dtype, engine and quantisation change pictures; defaults add no line, so that old names stay valid.
        non_default = {str(engine.dtype): engine.dtype not in (None, torch.float32)}
        non_default |= {engine.processor.name: engine.processor.name != "torch"}
        non_default |= {engine.keeping.quantise: engine.keeping.quantise != "none"}
        if full.draft:
            non_default[self._draft_program] = True
        lines = [
            dumps(self.system.recipe),
            self.weights,
            filled,
            *(name for name, differs in non_default.items() if differs),
        ]
        identity = "\n".join(lines)
        name = hashlib.sha256(identity.encode()).hexdigest()[:24]
        return self.folder / f"{name}.png"

    @cached_property
    def _draft_program(self) -> str:
        """The SHA-256 of the code and tables that draw drafts, which people mend: the same request is another picture
        after it. They are those beside the conditioners that have drafts.
        """
        level = self.system.level(self.system.recipe.levels[-1].name)
        drafting = [type(each) for each in level.conditioners if type(each).draft is not Conditioner.draft]
        folders = sorted({Path(inspect.getfile(each)).parent for each in drafting})
        digest = hashlib.sha256()
        for path in (path for folder in folders for path in sorted(folder.rglob("*"))):
            if path.is_file() and path.suffix not in (".pyc", ".safetensors"):
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def draw(self, requests: Sequence[Request]) -> list[Image.Image]:
        """The pictures of requests in their order; those on disk are read."""
        paths = [self.path(request) for request in requests]
        missing = {path: request for path, request in zip(paths, requests, strict=True) if not path.is_file()}
        todo = list(missing.items())
        for first in range(0, len(todo), self.batch):
            chunk, start = todo[first : first + self.batch], time.perf_counter()
            pictures = self.engine.draw_together([request for _, request in chunk])
            for (path, _), picture in zip(chunk, pictures, strict=True):
                picture.save(path)
            self.seconds += time.perf_counter() - start
            self.drawn += len(chunk)
            self.on_progress(say("drawing"), first + len(chunk), len(todo))
        return [read_picture(path.read_bytes()) for path in paths]


def read_picture(content: bytes) -> Image.Image:
    """A PNG in memory as RGB."""
    with Image.open(io.BytesIO(content)) as image:
        return image.convert("RGB")
