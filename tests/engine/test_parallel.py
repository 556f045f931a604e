"""Drawings side by side, a process a device: the same pictures as alone, in the order they were asked for."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

import bimo
from bimo.core.errors import RequestError
from bimo.engine.engine import Engine
from bimo.engine.parallel import parallel

REQUESTS = [{"text": "红苹果", "seed": seed, "steps": 2} for seed in (3, 4, 5)]


def load(folder: Path, device: str) -> Engine:
    return bimo.load(folder, device=device)


@pytest.mark.slow
def test_parallel_devices_draw_what_one_draws(tiny_folder: Path) -> None:
    alone = [picture.png() for request in REQUESTS for picture in bimo.load(tiny_folder).draw(request)]
    with parallel(partial(load, tiny_folder), ["cpu", "cpu"]) as engines:
        assert [picture.png() for pictures in engines.draw(REQUESTS) for picture in pictures] == alone
        with pytest.raises(RequestError):
            list(engines.draw([{"text": "红", "steps": -1}]))
        assert [pictures[0].png() for pictures in engines.draw(REQUESTS[:1])] == alone[:1]


def test_without_a_device_it_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(RequestError, match="name some"), parallel(partial(load, tiny_folder), []):
        pass
