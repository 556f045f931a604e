"""A job's texts stand in its pictures; one that cannot be written fails with its sentence and harms no other."""

from collections.abc import Callable

import pytest
from PIL import Image

from bimo.core.picture import read_metadata
from bimo.engine.engine import Engine
from bimo.inscription.drawing import draw
from bimo.inscription.fonts import system_faces
from bimo.serve.jobs import State
from bimo.serve.service import DrawingService

pytest.importorskip("fontTools")
pytest.importorskip("rapidocr")


@pytest.mark.slow
def test_a_job_with_text_ends_in_a_picture_that_has_it(
    make_service: Callable[..., DrawingService], tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not system_faces():
        pytest.skip("no font with Chinese is installed here (fonts-wqy-zenhei)")
    # The toy system never learned the word; a server refuses what is wholly unknown.
    monkeypatch.setattr(tiny_engine.system, "captions_learned", ("红灯笼",))
    service = make_service(batch=1)
    values = {"text": "红灯笼", "steps": 2, "seed": 1, "inscribe": ("福",), "inscribe_method": "composed"}
    wrong = {"text": "红灯笼", "steps": 2, "seed": 1, "inscribe": ("福",), "font": "/etc/passwd"}
    jobs = [
        service.accept(service.order(one, key="local", client="test"), {}).id
        for one in (values, wrong, {"text": "一只猫", "steps": 2, "seed": 1})
    ]
    service.start()
    done, failed, plain = (service.wait_here(job) for job in jobs)
    with Image.open(done.pictures[0].file) as image:
        assert image.tobytes() == draw(tiny_engine, values)[0].image.tobytes()
    assert read_metadata(done.pictures[0].file)["request"]["inscribe"] == ["福"]
    assert failed.state is State.failed
    assert failed.failure is not None
    assert "font family" in str(failed.failure.message)
    assert plain.state is State.done
