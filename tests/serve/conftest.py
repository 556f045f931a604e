"""A service of the toy system, and clients of its interfaces."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from starlette.testclient import TestClient

import bimo
from bimo.engine.engine import Engine
from bimo.serve.app import create_app, unknown_paths
from bimo.serve.jobs import JobStore
from bimo.serve.pool import EngineKey, EnginePool
from bimo.serve.service import DrawingService
from bimo.serve.settings import ServeSettings


@pytest.fixture(scope="session")
def tiny_engine(tiny_folder: Path) -> Engine:
    """The toy system. Not to be changed."""
    return bimo.load(tiny_folder)


@pytest.fixture
def make_service(tiny_engine: Engine, tmp_path: Path) -> Iterator[Callable[..., DrawingService]]:
    """Makes services of the toy system in the test's folder, not started; those that were started are stopped."""
    made: list[DrawingService] = []

    def make(folder: Path | None = None, **settings: Any) -> DrawingService:
        apart = {name: settings.pop(name) for name in ("inspect", "encode", "always") if name in settings}
        loras = settings.pop("lora_files", None)
        options = ServeSettings(("tiny",), folder or tmp_path / "serve", **settings)
        pool = EnginePool(lambda name: tiny_engine, {"tiny": "tiny"}, loras)
        pool.put(EngineKey("tiny"), tiny_engine)
        made.append(DrawingService(options, pool, JobStore(options.folder), **apart))
        return made[-1]

    yield make
    for service in made:
        if service.ready:
            service.stop()


@pytest.fixture
def service(make_service: Callable[..., DrawingService]) -> DrawingService:
    """A service that draws."""
    made = make_service()
    made.start()
    return made


@pytest.fixture
def client(make_service: Callable[..., DrawingService]) -> Iterator[TestClient]:
    """A client of the whole application, in this process."""
    app = create_app(make_service())
    unknown_paths(app)
    with TestClient(app, base_url="http://127.0.0.1", headers={"accept-language": "en"}) as made:
        yield made
