"""A service of the toy system, and clients of its interfaces."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

import uvicorn
from starlette.testclient import TestClient

import bimo
from bimo.engine.engine import Engine
from bimo.serve.app import create_app, unknown_paths
from bimo.serve.job_store import JobStore
from bimo.serve.pool import EngineKey, EnginePool
from bimo.serve.service import DrawingService
from bimo.serve.settings import ServeSettings
from tests.support.waiting import until


@pytest.fixture(scope="session")
def tiny_engine(tiny_folder: Path) -> Engine:
    """The toy system. Not to be changed."""
    return bimo.load(tiny_folder)


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy Stable Diffusion, which draws after pictures and into masks, and beside a ControlNet."""
    import diffusers

    from tests.support.tiny_checkpoints import checkpoint

    folder = tmp_path_factory.mktemp("photo") / "model"
    schedule: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    scheduler = diffusers.DDIMScheduler(**schedule, steps_offset=1, clip_sample=False, set_alpha_to_one=False)
    checkpoint(folder, "bert", scheduler)
    return folder


@pytest.fixture(scope="session")
def photo_engine(photo_folder: Path) -> Engine:
    """That system. Not to be changed."""
    return bimo.load(photo_folder)


@pytest.fixture
def make_service(tiny_engine: Engine, tmp_path: Path) -> Iterator[Callable[..., DrawingService]]:
    """Makes services of the toy system in the test's folder, not started; those that were started are stopped."""
    made: list[DrawingService] = []

    def make(folder: Path | None = None, **settings: Any) -> DrawingService:
        apart = {name: settings.pop(name) for name in ("inspect", "check_prompt", "executor") if name in settings}
        loras, controls = settings.pop("lora_files", None), settings.pop("control_files", None)
        engine = settings.pop("engine", tiny_engine)
        options = ServeSettings(("tiny",), folder or tmp_path / "serve", **settings)
        pool = EnginePool(lambda name: engine, {"tiny": "tiny"}, loras, controls=controls)
        pool.put(EngineKey("tiny"), engine)
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


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """An application behind a socket of this machine, at an address."""
    sock = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http="h11", ws="none", log_level="warning"))
    thread = threading.Thread(target=server.run, args=([sock],))
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        sock.close()
