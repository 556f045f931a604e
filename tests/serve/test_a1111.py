"""AUTOMATIC1111's interface through the package webuiapi, over a socket of this machine."""

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from starlette.testclient import TestClient

from bimo.serve.a1111.bodies import Txt2Img
from bimo.serve.a1111.conversion import ConvertedRequest
from bimo.serve.app import create_app
from bimo.serve.infotext import infotext, parsed, request_of
from bimo.serve.keys import LOCAL
from tests.serve.conftest import listening
from tests.serve.test_scheduler import lora_file
from tests.support.waiting import until

webuiapi = pytest.importorskip("webuiapi")
pytestmark = pytest.mark.network


@pytest.fixture
def address(make_service: Callable[..., Any], photo_engine: Any, tmp_path: Path) -> Iterator[str]:
    """A server of a model that draws after pictures."""
    app = create_app(make_service(engine=photo_engine))
    with listening(app) as found:
        yield found


@pytest.fixture
def webui(address: str) -> Any:
    return webuiapi.WebUIApi(baseurl=f"{address}/sdapi/v1")


SMALL: dict[str, Any] = {"width": 64, "height": 64, "steps": 2}


def test_every_default_of_the_client_is_drawn(webui: Any) -> None:
    found = webui.txt2img(prompt="猫", batch_size=2, n_iter=2, seed=5, **SMALL)
    assert len(found.images) == 4
    assert found.info["all_seeds"] == [5, 6, 7, 8]
    assert found.image.size == (64, 64)
    assert found.info["sampler_name"] == "Euler a"
    assert (found.info["steps"], found.info["cfg_scale"]) == (2, 7.0)
    one = webui.txt2img(prompt="猫", seed=7, **SMALL)
    assert np.array_equal(np.asarray(one.image), np.asarray(found.images[2]))


def test_a_picture_tells_its_settings_and_is_drawn_again_by_them(webui: Any, address: str) -> None:
    body = {"prompt": "猫, (苹果:1.2)", "negative_prompt": "狗", "seed": 3, "sampler_name": "DDIM", "cfg_scale": 4.5}
    answer = requests.post(f"{address}/sdapi/v1/txt2img", json=body | SMALL, timeout=60).json()
    content = base64.b64decode(answer["images"][0])
    text = json.loads(answer["info"])["infotexts"][0]
    told = webui.png_info(Image.open(io.BytesIO(content)))
    found = requests.post(f"{address}/sdapi/v1/png-info", json={"image": answer["images"][0]}, timeout=60).json()
    assert found["info"] == text
    assert found["parameters"]["CFG scale"] == "4.5"
    assert told is not None
    again = requests.post(f"{address}/sdapi/v1/txt2img", json={"infotext": text}, timeout=60).json()
    assert again["images"] == answer["images"]


def test_img2img_keeps_what_the_mask_does(webui: Any) -> None:
    image, mask = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    found = webui.img2img(
        images=[image], prompt="猫", mask_image=mask, denoising_strength=0.8, **(SMALL | {"steps": 4})
    )
    pixels = np.asarray(found.image.convert("RGB"))
    assert (pixels[:, 32:] == (255, 0, 0)).all()
    assert not (pixels[:, :32] == (255, 0, 0)).all()
    assert any("mask_blur" in warning for warning in found.info["warnings"])
    assert found.info["denoising_strength"] == 0.8


def test_hires_fix_draws_twice(webui: Any) -> None:
    found = webui.txt2img(
        prompt="猫", enable_hr=True, hr_scale=2, hr_upscaler="Lanczos", denoising_strength=0.6, **SMALL
    )
    assert found.image.size == (128, 128)


def test_controlnet_needs_a_model_that_has_one(make_service: Any, photo_engine: Any, webui: Any) -> None:
    picture = Image.new("RGB", (64, 64))
    unit = webuiapi.ControlNetUnit(image=picture, module="canny", model="x")
    with pytest.raises(RuntimeError, match=r"400.*control"):
        webui.txt2img(prompt="猫", controlnet_units=[unit], alwayson_scripts={}, **SMALL)


def test_an_interrupted_drawing_is_answered_as_it_is_then(webui: Any) -> None:
    answers: list[Any] = []
    settings = SMALL | {"steps": 150, "width": 256}
    drawing = threading.Thread(target=lambda: answers.append(webui.txt2img(prompt="猫", n_iter=9, **settings)))
    drawing.start()
    until(lambda: webui.get_progress()["state"]["sampling_step"] > 1)
    told = webui.get_progress()
    assert 0 < told["progress"] < 1
    assert told["state"]["sampling_steps"] == 150
    webui.interrupt()
    drawing.join(60)
    (found,) = answers
    assert found.info["interrupted"]
    assert 0 < len(found.images) < 9  # those that were begun
    assert found.image.size == (256, 64)
    assert np.asarray(found.image).std() > 1
    assert found.info["infotexts"][0].startswith("猫\nSteps: 150")
    assert any("of 150: not finished" in warning for warning in found.info["warnings"])
    assert webui.get_progress()["progress"] == 0
    webui.util_wait_for_ready(check_interval=0.1)


def test_a_skipped_picture_is_answered_as_it_is_then_and_the_others_whole(webui: Any) -> None:
    answers: list[Any] = []
    image = Image.new("RGB", (128, 64), "red")
    settings = SMALL | {"steps": 40, "width": 128, "denoising_strength": 1.0, "seed": 7, "batch_size": 2}
    drawing = threading.Thread(target=lambda: answers.append(webui.img2img([image], prompt="猫", **settings)))
    drawing.start()
    until(lambda: webui.get_progress()["state"]["sampling_step"] > 1)
    webui.skip()
    drawing.join(60)
    (found,) = answers
    assert found.info["all_seeds"] == [7, 8]
    assert not found.info["interrupted"]
    assert any("of 40: not finished" in warning for warning in found.info["warnings"])


def test_lists_and_models(webui: Any) -> None:
    assert "Euler a" in [one["name"] for one in webui.get_samplers()]
    assert "karras" in [one["name"] for one in webui.get_schedulers()]
    assert webui.util_get_model_names() == ["tiny"]
    webui.util_set_model("tiny")
    assert webui.util_get_current_model() == "tiny"
    for listed in (webui.get_upscalers, webui.get_loras, webui.get_embeddings, webui.get_prompt_styles):
        listed()
    for empty in (webui.get_hypernetworks, webui.get_face_restorers, webui.get_realesrgan_models, webui.get_cmd_flags):
        assert not empty()
    assert webui.get_memory()["ram"]["total"] > 0


def test_pictures_are_enlarged(webui: Any) -> None:
    image = Image.new("RGB", (16, 8), "red")
    found = webui.extra_single_image(image=image, upscaler_1="Lanczos", upscaling_resize=2)
    assert found.image.size == (32, 16)
    batch = webui.extra_batch_images(images=[image, image], upscaler_1="Nearest", upscaling_resize=3)
    assert [each.size for each in batch.images] == [(48, 24)] * 2


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"prompt": "猫", "sampler_name": "Magic"}, 404, "sampler"),
        ({"prompt": ""}, 400, "empty"),
        ({"prompt": "猫", "steps": 1000}, 400, "at most"),
        ({"prompt": "猫", "batch_size": 8, "n_iter": 8}, 400, "at most"),
        ({"prompt": "猫", "width": 63, "height": 64}, 400, "multiple"),
        ({"prompt": "<lora:nothing:1> 猫"}, 400, "LoRA"),
        ({"prompt": "猫", "override_settings": {"sd_model_checkpoint": "x"}}, 400, "model"),
        ({"prompt": "猫", "styles": ["x"]}, 400, "style"),
        ({"prompt": 5}, 422, "string"),
    ],
    ids=str,
)
def test_errors_have_a_detail(client: TestClient, body: dict[str, Any], status: int, says: str) -> None:
    answer = client.post("/sdapi/v1/txt2img", json=body)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["detail"]


def test_a_sampler_of_other_models_is_said_to_be_left_alone(client: TestClient) -> None:
    body = {"prompt": "红苹果", "sampler_name": "Euler a", "steps": 2, "width": 128, "height": 128, "tiling": True}
    info = json.loads(client.post("/sdapi/v1/txt2img", json=body).json()["info"])
    assert any("Euler a" in warning for warning in info["warnings"])
    assert not any("tiling" in warning for warning in info["warnings"])


def test_tiling_is_drawn_seamless(make_service: Any) -> None:
    service = make_service()
    body = Txt2Img(prompt="红苹果", tiling=True)
    converted = ConvertedRequest(body, service, LOCAL)
    assert (converted.values["seamless"], converted.warnings) == ("both", [])
    again = Txt2Img(prompt="红苹果", infotext="红苹果\nSteps: 3, Seed: 1, Tiling: True")
    assert ConvertedRequest(again, service, LOCAL).values["seamless"] == "both"
    assert "seamless" not in ConvertedRequest(Txt2Img(prompt="红苹果"), service, LOCAL).values


def test_a_seed_is_varied_and_counts_on(client: TestClient) -> None:
    body = {"prompt": "红苹果", "seed": 3, "subseed": 7, "subseed_strength": 0.5, "steps": 2, "n_iter": 2}
    body |= {"width": 128, "height": 128}
    answer = client.post("/sdapi/v1/txt2img", json=body).json()
    texts = json.loads(answer["info"])["infotexts"]
    for place, text in enumerate(texts):
        assert "Seed: 3, Size: 128x128" in text
        assert f"Variation seed: {7 + place}, Variation seed strength: 0.5" in text
    alone = client.post("/sdapi/v1/txt2img", json=body | {"subseed": 8, "n_iter": 1}).json()
    assert alone["images"] == answer["images"][1:]


def test_loras_in_prompts_are_drawn_with(make_service: Any, tiny_engine: Any, tmp_path: Path) -> None:
    service = make_service(lora_files={"ink": lora_file(tiny_engine, tmp_path, "ink")}, batch=1)
    with TestClient(create_app(service), base_url="http://127.0.0.1") as client:
        body = {"prompt": "红苹果 <lora:ink:0.8>", "steps": 2, "seed": 1, "width": 128, "height": 128}
        answer = client.post("/sdapi/v1/txt2img", json=body).json()
        plain = client.post("/sdapi/v1/txt2img", json=body | {"prompt": "红苹果"}).json()
        assert answer["images"] != plain["images"]
        text = json.loads(answer["info"])["infotexts"][0]
        assert text.startswith("红苹果<lora:ink:0.8>")
        assert client.post("/sdapi/v1/txt2img", json={"infotext": text}).json()["images"] == answer["images"]
        assert [one["name"] for one in client.get("/sdapi/v1/loras").json()] == ["ink"]
        ranged = client.post("/sdapi/v1/txt2img", json=body | {"prompt": "红苹果 <lora:ink:0.8@0-0.5>"}).json()
        assert ranged["images"][0] not in (answer["images"][0], plain["images"][0])
        text = json.loads(ranged["info"])["infotexts"][0]
        assert text.startswith("红苹果<lora:ink:0.8@0-0.5>")
        assert client.post("/sdapi/v1/txt2img", json={"infotext": text}).json()["images"] == ranged["images"]
        strong = client.post("/sdapi/v1/txt2img", json=body | {"prompt": f"红苹果 <lora:ink:{'9' * 400}>"})
        assert (strong.status_code, "ink" in strong.json()["detail"]) == (400, True)


def test_a_task_is_known_by_the_id_that_was_forced(client: TestClient) -> None:
    answers: list[Any] = []
    body = {"prompt": "猫", "steps": 150, "width": 256, "height": 256, "force_task_id": "task(1)"}
    drawing = threading.Thread(target=lambda: answers.append(client.post("/sdapi/v1/txt2img", json=body)))
    drawing.start()
    until(lambda: client.get("/internal/pending-tasks").json()["tasks"] == ["task(1)"])
    until(lambda: client.post("/internal/progress", json={"id_task": "task(1)"}).json()["active"])
    assert client.post("/internal/progress", json={"id_task": "task(2)"}).json()["completed"]
    client.post("/sdapi/v1/skip")
    drawing.join(60)
    assert answers[0].status_code == 200


@pytest.mark.parametrize(
    "text",
    [
        "a cat",
        "猫，(红:1.2)\n第二行",
        'quote " and: colon, comma',
        "Steps: 3, in prose",
        "Negative prompt in prose",
    ],
)
def test_infotext_is_read_back(text: str) -> None:
    request = {"text": text, "negative": "a\nb", "steps": 20, "sampler": "euler-a", "guidance": 7.5, "seed": 2**63 - 1}
    record = {"request": request | {"size": (64, 96), "clip_skip": 2, "strength": 0.5}, "weights": "ab" * 32}
    written = infotext(record, "my model, v2", [], (64, 96))
    assert request_of(written) == request | {"size": (64, 96), "clip_skip": 2, "strength": 0.5, "sampler": "Euler a"}
    assert parsed(written)["Model"] == "my model, v2"
