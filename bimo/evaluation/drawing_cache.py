"""Pictures of an evaluation, drawn together and kept, so that the same call goes on where it was stopped."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from bimo.core.hashing import digest_tensors
from bimo.core.messages import say
from bimo.core.part import dumps
from bimo.core.request import Request
from bimo.diffusion.request_validation import fill_request
from bimo.engine.engine import Engine
from bimo.evaluation.progress import OnProgress


class DrawingCache:
    """Draws requests, several together, and keeps each picture under a name made of the request, the weights and the
    numbers and kernels that it was drawn by.
    """

    def __init__(self, engine: Engine, folder: Path, batch: int, on_progress: OnProgress) -> None:
        self.engine, self.system = engine, engine.system
        self.folder, self.batch, self.on_progress = folder, batch, on_progress
        system = self.system
        self.weights = system.weights_hash or digest_tensors(system.state_dict())
        self.drawn = 0
        self.seconds = 0.0

    def path(self, request: Request) -> Path:
        """Where the picture of a request lies."""
        filled = json.dumps(fill_request(self.system, request).model_dump(), ensure_ascii=False, sort_keys=True)
        engine = self.engine
        # What draws in other numbers draws other pictures; what all did so far has no line of its own.
        other = {str(engine.dtype): engine.dtype not in (None, torch.float32)}
        other |= {engine.processor.name: engine.processor.name != "torch"}
        other |= {engine.keeping.quantise: engine.keeping.quantise != "none"}
        lines = [dumps(self.system.recipe), self.weights, filled, *(name for name, differs in other.items() if differs)]
        drawn = "\n".join(lines)
        name = hashlib.sha256(drawn.encode()).hexdigest()[:24]
        return self.folder / f"{name}.png"

    def draw(self, requests: Sequence[Request]) -> list[Image.Image]:
        """The pictures of requests, in their order; those that lie there already are read."""
        paths = [self.path(request) for request in requests]
        missing = {path: request for path, request in zip(paths, requests, strict=True) if not path.is_file()}
        todo = list(missing.items())
        for first in range(0, len(todo), self.batch):
            part, began = todo[first : first + self.batch], time.perf_counter()
            pictures = self.engine.draw_together([request for _, request in part])
            for (path, _), picture in zip(part, pictures, strict=True):
                picture.save(path)
            self.seconds += time.perf_counter() - began
            self.drawn += len(part)
            self.on_progress(say("drawing"), first + len(part), len(todo))
        return [read_picture(path.read_bytes()) for path in paths]


def read_picture(content: bytes) -> Image.Image:
    """A PNG in memory as RGB."""
    with Image.open(io.BytesIO(content)) as image:
        return image.convert("RGB")
