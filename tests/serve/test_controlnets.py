"""ControlNets that requests name: by every interface the picture that the engine with the network draws."""

import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from bimo.core.errors import RequestError
from bimo.engine.engine import Engine
from bimo.serve.app import create_app
from bimo.serve.page.form import Form
from bimo.serve.page.session import Page
from bimo.serve.pool import control_files
from bimo.serve.service import DrawingService

VALUES: dict[str, Any] = {"text": "猫", "steps": 2, "seed": 1, "size": [64, 64]}


@pytest.fixture(scope="module")
def networks(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A ControlNet of the toy Stable Diffusion that says something, and what is none."""
    import diffusers

    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(2)
    unet = diffusers.UNet2DConditionModel.from_pretrained(str(photo_folder / "unet"))
    net = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 4, 4))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    net.save_pretrained(str(folder / "lines"))
    (folder / "notes").mkdir()
    (folder / "readme.txt").write_text("no network")
    return control_files(folder)


def lines() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((64, 64)).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(png: bytes) -> bytes:
    with Image.open(io.BytesIO(png)) as image:
        return image.convert("RGB").tobytes()


@pytest.fixture
def service(
    make_service: Callable[..., DrawingService], photo_engine: Engine, networks: dict[str, Path]
) -> DrawingService:
    """A service of the toy Stable Diffusion with a ControlNet, not started."""
    return make_service(engine=photo_engine, control_files=networks, batch=1)


@pytest.fixture
def expected(photo_engine: Engine, networks: dict[str, Path]) -> tuple[bytes, bytes]:
    """Pixels with the ControlNet at 0.5, and without."""
    controlled = photo_engine.with_adapters(controls=[networks["lines"]])
    conditioned = {**VALUES, "condition_images": {"control": lines()}, "conditions": {"control": [0.5]}}
    (picture,), (plain,) = controlled.draw(conditioned), photo_engine.draw(dict(VALUES))
    return picture.image.convert("RGB").tobytes(), plain.image.convert("RGB").tobytes()


def test_a_folder_of_networks(networks: dict[str, Path]) -> None:
    assert list(networks) == ["lines"]


def test_every_interface_draws_with_it(service: DrawingService, expected: tuple[bytes, bytes]) -> None:
    assert expected[0] != expected[1]
    picture = base64.b64encode(lines()).decode()
    with TestClient(create_app(service), base_url="http://127.0.0.1", headers={"accept-language": "en"}) as client:
        own = VALUES | {"condition_images": {"control": picture}, "conditions": {"control": [0.5]}}
        job = client.post("/v1/jobs", json=own | {"controlnets": ["lines"]}).json()
        assert job["controlnets"] == ["lines"]
        job = service.wait_here(job["id"])
        assert job.failure is None, job.failure.said("en")
        assert pixels(job.pictures[0].file.read_bytes()) == expected[0]
        # The model alone stays as it is.
        plain = service.wait_here(client.post("/v1/jobs", json=VALUES).json()["id"])
        assert pixels(plain.pictures[0].file.read_bytes()) == expected[1]

        unit = {"image": picture, "model": "lines [0123abcd]", "weight": 0.5}
        body = {"prompt": "猫", "steps": 2, "seed": 1, "width": 64, "height": 64}
        asked = body | {"alwayson_scripts": {"controlnet": {"args": [unit]}}}
        answer = client.post("/sdapi/v1/txt2img", json=asked).json()
        assert pixels(base64.b64decode(answer["images"][0])) == expected[0]
        assert client.get("/controlnet/model_list").json() == {"model_list": ["lines"]}

        ranged = unit | {"guidance_start": 0, "guidance_end": 0.5}
        answer = client.post("/sdapi/v1/txt2img", json=body | {"alwayson_scripts": {"controlnet": {"args": [ranged]}}})
        drawn = pixels(base64.b64decode(answer.json()["images"][0]))
        assert drawn not in expected  # the network counts in the first of two steps
        none = unit | {"guidance_start": 0.1, "guidance_end": 0.9}
        answer = client.post("/sdapi/v1/txt2img", json=body | {"alwayson_scripts": {"controlnet": {"args": [none]}}})
        assert any("no step of 2" in warning for warning in json.loads(answer.json()["info"])["warnings"])
        wrong = ranged | {"guidance_end": -1}
        refused = client.post("/sdapi/v1/txt2img", json=body | {"alwayson_scripts": {"controlnet": {"args": [wrong]}}})
        assert (refused.status_code, "guidance_end" in refused.json()["detail"]) == (400, True)

        unknown = body | {"alwayson_scripts": {"controlnet": {"args": [unit | {"model": "depth"}]}}}
        for path, wrong in (("/sdapi/v1/txt2img", unknown), ("/v1/jobs", own | {"controlnets": ["depth"]})):
            refused = client.post(path, json=wrong)
            assert refused.status_code == 400
            assert "there is lines" in refused.text

        form = Form(text="猫", width=64, height=64, steps=2, seed=1, control="lines", control_weight=0.5)
        form = replace(form, control_image=f"data:image/png;base64,{picture}")
        page = Page(service)
        order = page.order(form, "local")
        order = replace(order, values={n: v for n, v in order.values.items() if n != "guidance"})
        drawn = service.wait_here(service.accept(order, form.pictures(page.pool.controls)).id)
        assert pixels(drawn.pictures[0].file.read_bytes()) == expected[0]


def test_a_job_keeps_its_networks(service: DrawingService) -> None:
    order = service.order(VALUES, key="local", client="test", controls=["lines"])
    service.store.accept(order, {})
    (job,) = service.store.recover()
    assert job.order.controls == ("lines",)
    with pytest.raises(RequestError, match="depth"):
        service.order(VALUES, key="local", client="test", controls=["depth"])
