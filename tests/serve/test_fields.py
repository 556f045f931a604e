"""Every field of a request is one of a job, and draws what it draws alone, also where jobs share calls."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from starlette.testclient import TestClient

import bimo
from bimo.core.request import Request
from bimo.engine.engine import Engine
from bimo.models.layouts.diffusers_folder import read_folder
from bimo.serve.app import create_app
from bimo.serve.service import DrawingService
from bimo.serve.v1 import JobRequest
from tests.serve.test_scheduler import sharing, shown
from tests.serve.test_v1 import ended, submit
from tests.support import flow_checkpoints

Make = Callable[..., DrawingService]
BASE: dict[str, Any] = {"text": "红苹果", "negative": "山", "steps": 6, "size": [64, 64], "guidance": 5.0}
#: Of a UNet of Stable Diffusion's kind; several of each of what is kept from step to step.
SETTINGS: list[dict[str, Any]] = [
    {},
    {"guidance_interval": [0.3, 0.7]},
    {"guidance_every": 3},
    {"guidance_every": 2, "steps": 4},
    {"step_cache": "deep:3"},
    {"step_cache": "deep:2", "steps": 5},
    {"step_cache": "easy:0.9"},
    {"step_cache": "easy:0.5", "steps": 8},
    {"token_merging": 0.5},
    {"guidance": 1.0, "nag": 3.0},
    {"guidance": 1.0, "nag": 3.0, "negative": "小桥流水"},
    {"tiny_decoder": True},
    {"text": "红苹果，" * 40, "long_prompt": "chunks"},
    {"original_text": "苹果"},
]


def choices(annotation: Any) -> set[str]:
    """The texts that an annotation allows by name."""
    return {one for one in get_args(annotation) if isinstance(one, str)}.union(*map(choices, get_args(annotation)))


def test_a_job_has_every_field_of_a_request() -> None:
    assert set(Request.model_fields) <= set(JobRequest.model_fields)
    for name, field in Request.model_fields.items():
        if name not in ("hires_upscaler", "seamless"):  # whose sentences are a request's own
            assert choices(field.annotation) == choices(JobRequest.model_fields[name].annotation), name


@pytest.fixture
def complete_engine(photo_folder: Path, tmp_path: Path) -> Engine:
    """The toy Stable Diffusion with a tiny decoder."""
    torch.manual_seed(0)
    blocks: Any = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    AutoencoderTiny(**blocks).save_pretrained(str(tmp_path / "taesd"))
    return bimo.load(photo_folder, tiny_decoder=tmp_path / "taesd")


def drawn(client: TestClient, jobs: list[dict[str, Any]]) -> list[tuple[bytes, Any]]:
    """Pixels and record of each job's picture; the jobs are submitted together."""
    names = [submit(client, **job)["id"] for job in jobs]
    done = [ended(client, name) for name in names]
    assert [(one["state"], one["error"]) for one in done] == [("done", None)] * len(jobs)
    return [shown(client.get(one["pictures"][0]["url"]).content) for one in done]


def test_each_field_draws_what_it_draws_alone(make_service: Make, complete_engine: Engine) -> None:
    jobs = [{**BASE, "seed": seed, **own} for seed, own in enumerate(SETTINGS)]
    alone = [shown(complete_engine.draw(job)[0].png()) for job in jobs]
    plain = complete_engine.draw({**BASE, "seed": 5, "steps": 5})[0].png()
    assert shown(plain)[0] != alone[5][0]
    service = make_service(engine=complete_engine, executor=sharing, batch=16)
    with TestClient(create_app(service), base_url="http://127.0.0.1") as client:
        together = drawn(client, jobs)
    assert service.executor.busy["rows"] > 1.5 * service.executor.busy["calls"]
    for (pixels, record), (own, own_record), job in zip(together, alone, jobs, strict=True):
        apart = np.frombuffer(pixels, np.uint8).astype(int) - np.frombuffer(own, np.uint8).astype(int)
        assert abs(apart).max() <= 1, job
        assert record == own_record


def test_caches_of_blocks_are_each_picture_s_own(make_service: Make, tmp_path: Path) -> None:
    flow_checkpoints.saved(tmp_path / "qwen" / "saved", "qwen_image")
    engine = Engine(read_folder(tmp_path / "qwen" / "saved"))
    settings = [{}, *({"step_cache": name} for name in ("first-block:1", "first-block:1", "taylor:3", "easy:0.9"))]
    jobs = [{**BASE, "seed": seed % 3, "steps": 6 + seed % 2, **own} for seed, own in enumerate(settings)]
    alone = [shown(engine.draw(job)[0].png()) for job in jobs]
    with TestClient(
        create_app(make_service(engine=engine, executor=sharing, batch=16)), base_url="http://127.0.0.1"
    ) as client:
        together = drawn(client, jobs)
    assert together[1:4] == alone[1:4]
    plain = shown(engine.draw({**jobs[1], "step_cache": None})[0].png())
    assert together[1][0] != plain[0]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"tiny_decoder": True}, "no tiny decoder"),
        ({"step_cache": "fast"}, "easy:0.05"),
        ({"step_cache": "deep:3"}, "UNet"),
        ({"step_cache": "first-block"}, "take easy"),
        ({"token_merging": 0.5}, "UNet"),
        ({"nag": 3.0}, "negative"),
        ({"guidance_every": 1}, "2 to 20"),
        ({"guidance_interval": [0.8, 0.2]}, "interval"),
        ({"inscribe": ["福"] * 17}, "16"),
        ({"inscribe": ["福" * 4001]}, "longer than 4000"),
        ({"regions": [{"text": "猫" * 4001, "box": [0, 0, 1, 1]}]}, "longer than 4000"),
        ({"original_text": "福" * 4001}, "longer than 4000"),
        ({"drawn_text": "福" * 4001}, "longer than 4000"),
        ({"inscribe": [" "]}, "empty"),
        ({"inscribe": ["福"], "inscribe_box": [0.5, 0, 0.6, 1]}, "box"),
    ],
    ids=str,
)
def test_what_a_model_cannot_do_is_refused_by_a_sentence(client: TestClient, body: dict[str, Any], says: str) -> None:
    answer = client.post("/v1/jobs", json={"text": "红苹果", **body})
    assert answer.status_code == 400, answer.text
    assert says in answer.json()["error"]["message"]


def test_a_font_is_a_family_s_name(client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A font that lies on the server is not found by its path, nor is the path told from one where nothing lies."""
    pytest.importorskip("fontTools")
    from bimo.inscription.fonts import system_faces

    if not (faces := system_faces()):
        pytest.skip("no font with Chinese is installed here (fonts-wqy-zenhei)")
    opened: list[str] = []
    monkeypatch.setattr("bimo.inscription.fonts.faces_of", lambda path: opened.append(str(path)))
    answers = [
        client.post("/v1/jobs", json={"text": "灯笼", "inscribe": ["福"], "font": font})
        for font in (str(faces[0].path), str(tmp_path / "none.ttf"))
    ]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert all("no font family" in answer.json()["error"]["message"] for answer in answers)
    assert opened == []


def test_a_missing_library_is_a_sentence(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(family: str | None = None) -> None:
        raise ModuleNotFoundError("No module named 'fontTools'", name="fontTools")

    monkeypatch.setattr("bimo.inscription.fonts.find_faces", missing)
    answer = client.post("/v1/jobs", json={"text": "灯笼", "inscribe": ["福"]})
    assert answer.status_code == 400
    assert "fontTools is not installed" in answer.json()["error"]["message"]


def test_a_picture_from_the_service_opens(client: TestClient) -> None:
    job = ended(client, submit(client, original_text="苹果", tiny_decoder=False, inscribe=[])["id"])
    assert job["request"]["original_text"] == "苹果"
    with Image.open(io.BytesIO(client.get(job["pictures"][0]["url"]).content)) as image:
        assert image.size == (128, 128)
