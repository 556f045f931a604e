"""A picture's layers by every interface that has a place for them: a file each, with its transparency, and counted."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

import bimo
from bimo.engine.engine import Engine
from bimo.serve.app import create_app
from bimo.serve.job_store import JobStore
from bimo.serve.jobs import Order, State
from tests.serve.test_v1 import ended, picture, submit
from tests.support.edit_checkpoints import saved, small

openai = pytest.importorskip("openai")

REQUEST: dict[str, Any] = {"text": "红", "seed": 1, "steps": 2, "size": (64, 64), "conditions": {"layers": [2]}}


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A toy Qwen-Image-Layered. Not to be changed."""
    folder = tmp_path_factory.mktemp("layered") / "saved"
    saved(folder, "layered")
    engine = bimo.load(folder)
    small(engine.system)
    return engine


@pytest.fixture
def layering(make_service: Any, layered: Engine) -> Iterator[TestClient]:
    app = create_app(make_service(engine=layered))
    with TestClient(app, base_url="http://127.0.0.1", headers={"accept-language": "en"}) as client:
        yield client


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_each_layer_is_a_file_of_the_job(layering: TestClient, layered: Engine) -> None:
    expected = layered.draw(REQUEST | {"image": Image.new("RGB", (64, 64), "red")})[0]
    job = ended(layering, submit(layering, **REQUEST, image=picture())["id"])
    (drawn,) = job["pictures"]
    assert len(drawn["layers"]) == 2
    for url, layer in zip(drawn["layers"], expected.layers, strict=True):
        found = opened(layering.get(url).content)
        assert (found.mode, found.tobytes()) == ("RGBA", layer.tobytes())
        assert opened(layering.get(f"{url}?format=webp").content).mode == "RGBA"
        assert opened(layering.get(f"{url}?format=jpeg").content).mode == "RGB"
    whole = opened(layering.get(drawn["url"]).content)
    assert whole.tobytes() == expected.image.tobytes()
    for wrong in (f"{drawn['url']}/layers/3", drawn["layers"][0].replace("/pictures/0", "/pictures/1")):
        assert layering.get(wrong).status_code == 404


def test_openai_has_the_picture_then_its_layers(layering: TestClient) -> None:
    images = openai.OpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=layering, max_retries=0).images
    given = {"image": ("a.png", base64.b64decode(picture()), "image/png"), "prompt": "红", "size": "64x64"}
    more = {"num_inference_steps": 2, "seed": 1, "layers": 2}
    answer = images.edit(**given, extra_body=more)
    assert [getattr(each, "layer", 0) for each in answer.data] == [0, 1, 2]
    found = [opened(base64.b64decode(each.b64_json)) for each in answer.data]
    assert {each.mode for each in found} == {"RGBA"}
    assert answer.background == "transparent"
    below = found[1].copy()
    below.alpha_composite(found[2])
    assert below.tobytes() == found[0].tobytes()
    urls = [each.url for each in images.edit(**given, extra_body=more, response_format="url").data]
    assert [opened(layering.get(url).content).tobytes() for url in urls] == [each.tobytes() for each in found]
    assert layering.get(urls[1].replace("layer-1", "layer-2")).status_code == 403
    events = list(images.edit(**given, extra_body=more, stream=True))
    assert [getattr(event, "layer", 0) for event in events] == [0, 1, 2]


def test_layers_count_as_pictures(layering: TestClient) -> None:
    body = REQUEST | {"image": picture(), "count": 5, "conditions": {"layers": [3]}}
    answer = layering.post("/v1/jobs", json=body)
    assert answer.status_code == 400
    assert "are 20 pictures; this server allows at most 16" in answer.text


def test_files_of_layers_are_counted_swept_and_forgotten(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    store.accept(Order("job", "tiny", {"text": "红"}), {})
    store.begin("job")
    kept = store.add_picture("job", 0, b"whole", (8, 9), 1, 0.5, [], {}, layers=(b"one", b"two"))
    assert kept is not None
    assert (kept.bytes, [file.read_bytes() for file in kept.layers]) == (11, [b"one", b"two"])
    assert store.job("job").pictures == (kept,)  # type: ignore[union-attr]
    stray = kept.layers[0].with_name("stray.layer-1.png")
    stray.write_bytes(b"x")
    store.end("job", State.done)
    store.recover()
    assert not stray.exists()
    assert all(file.exists() for file in (kept.file, *kept.layers))
    assert store.forget("job")
    assert not any(file.exists() for file in (kept.file, *kept.layers))
