"""A job's texts stand in its pictures; one that cannot be written fails with its sentence and harms no other."""

from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from bimo.core.errors import RequestError
from bimo.core.picture import Picture, read_metadata
from bimo.core.request import Request
from bimo.engine.engine import Engine
from bimo.inscription.drawing import draw, finished
from bimo.inscription.fonts import system_faces
from bimo.inscription.inscribe import OnCharacters
from bimo.serve.jobs import State
from bimo.serve.service import DrawingService

pytest.importorskip("fontTools")
pytest.importorskip("rapidocr")


@pytest.fixture
def service(
    make_service: Callable[..., DrawingService], tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> DrawingService:
    """Of an engine that learned the word of a lantern: a server refuses what is wholly unknown."""
    if not system_faces():
        pytest.skip("no font with Chinese is installed here (fonts-wqy-zenhei)")
    monkeypatch.setattr(tiny_engine.system, "captions_learned", ("红灯笼",))
    return make_service(batch=1)


@pytest.mark.slow
def test_a_job_with_text_ends_in_a_picture_that_has_it(service: DrawingService, tiny_engine: Engine) -> None:
    values = {"text": "红灯笼", "steps": 2, "seed": 1, "inscribe": ("福",), "inscribe_method": "composed"}
    values |= {"inscribe_box": (0.1, 0.1, 0.6, 0.6), "writing": "seal", "font": system_faces()[0].family}
    # No two lines: it is found when they are placed in the picture.
    odd = {"text": "红灯笼", "steps": 2, "seed": 1, "inscribe": ("福寿喜",), "writing": "couplet"}
    with pytest.raises(RequestError, match="font family"):
        accepted(service, values | {"font": "/etc/passwd"})
    jobs = [accepted(service, one) for one in (values, odd, {"text": "一只猫", "steps": 2, "seed": 1})]
    service.start()
    done, failed, plain = (service.wait_here(job) for job in jobs)
    with Image.open(done.pictures[0].file) as image:
        assert image.tobytes() == draw(tiny_engine, values)[0].image.tobytes()
    assert read_metadata(done.pictures[0].file)["request"]["inscribe"] == ["福"]
    assert failed.state is State.failed
    assert failed.failure is not None
    assert (failed.failure.status, "couplet" in failed.failure.said("en")) == (400, True)
    assert plain.state is State.done


def accepted(service: DrawingService, values: dict[str, Any]) -> str:
    return service.accept(service.order(values, key="local", client="test"), {}).id


@pytest.mark.slow
def test_a_job_that_is_cancelled_is_not_written_to_its_end(
    service: DrawingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    whole = service.executor.cancel

    def cancelling(engine: Engine, picture: Picture, request: Request, progress: OnCharacters) -> Picture:
        def counted(done: int, count: int) -> None:
            written.append(done)
            whole(job)
            progress(done, count)

        return finished(engine, picture, request, counted)

    monkeypatch.setattr("bimo.serve.scheduler.finished", cancelling)
    job = accepted(service, {"text": "红灯笼", "steps": 2, "inscribe": ("福", "寿"), "inscribe_method": "composed"})
    service.start()
    assert service.wait_here(job).state is State.cancelled
    assert len(written) == 1
