"""OpenAI's own client against the application: what it sends is drawn, what it gets it can read."""

import base64
import io
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from bimo.serve.app import create_app

openai = pytest.importorskip("openai")


@pytest.fixture
def images(client: TestClient) -> Any:
    """The client of the package, whose connection is the application in this process."""
    return openai.OpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=client, max_retries=0)


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def file(mode: str = "RGB", colour: Any = "red", size: tuple[int, int] = (128, 128), name: str = "a.png") -> Any:
    buffer = io.BytesIO(b"")
    Image.new(mode, size, colour).save(buffer, "PNG")
    return (name, buffer.getvalue(), "image/png")


SMALL: dict[str, Any] = {"extra_body": {"num_inference_steps": 2, "seed": 1}}


def test_pictures_of_a_prompt(images: Any) -> None:
    answer = images.images.generate(prompt="红苹果，3D风格", model="tiny", n=2, size="128x128", **SMALL)
    assert [each.seed for each in answer.data] == [1, 2]
    assert opened(answer.data[0].b64_json).size == (128, 128)
    assert answer.output_format == "png"
    assert answer.usage.input_tokens > 0
    again = images.images.generate(prompt="红苹果，3D风格", model="tiny", size="auto", **SMALL)
    assert again.data[0].b64_json == answer.data[0].b64_json


def test_addresses_work_for_a_while(images: Any, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = images.images.generate(prompt="猫", response_format="url", output_format="webp", **SMALL)
    url = answer.data[0].url
    behind = client.post(
        "/v1/images/generations",
        json={"prompt": "猫", "response_format": "url", "num_inference_steps": 2},
        headers={"x-forwarded-proto": "https"},
    )
    assert behind.json()["data"][0]["url"].startswith("https://127.0.0.1/files/")
    with Image.open(io.BytesIO(client.get(url).content)) as image:
        assert image.format == "WEBP"
    for wrong in (url[:-1] + ("0" if url[-1] != "0" else "1"), url.replace("/0.webp", "/1.webp"), url.split("?")[0]):
        assert client.get(wrong).status_code in (403, 422)
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert client.get(url).status_code == 403


def test_a_stream_shows_pictures_on_the_way(images: Any) -> None:
    stream = images.images.generate(
        prompt="红苹果", stream=True, partial_images=2, extra_body={"num_inference_steps": 8, "seed": 1}
    )
    events = list(stream)
    kinds = [event.type for event in events]
    assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    last = np.asarray(opened(events[-1].b64_json), float)
    away = [float(np.abs(np.asarray(opened(event.b64_json), float) - last).mean()) for event in events]
    assert away[0] > away[1] > away[2] == 0


@pytest.fixture
def painting(make_service: Any, photo_engine: Any) -> Iterator[Any]:
    """The client before a model that draws into pictures."""
    app = create_app(make_service(engine=photo_engine))
    with TestClient(app, base_url="http://127.0.0.1", headers={"accept-language": "en"}) as client:
        yield openai.OpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=client, max_retries=0)


def test_an_edit_leaves_what_the_mask_keeps(painting: Any) -> None:
    """Transparent is painted, in a mask or in the image itself; all else stays to the pixel."""
    mask = Image.new("RGBA", (128, 128), (255, 0, 0, 255))
    mask.paste((255, 0, 0, 0), (0, 0, 64, 128))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    hole = ("m.png", buffer.getvalue(), "image/png")
    for files in ({"image": file(), "mask": hole}, {"image": [hole]}):
        answer = painting.images.edit(**files, prompt="猫", size="128x128", **SMALL)
        found = np.asarray(opened(answer.data[0].b64_json).convert("RGB"))
        assert (found[:, 64:] == (255, 0, 0)).all()
        assert not (found[:, :64] == (255, 0, 0)).all()


def test_an_edit_streams_and_a_variation_is_drawn_by_the_record(painting: Any) -> None:
    kinds = [
        event.type
        for event in painting.images.edit(
            image=file(), prompt="猫", stream=True, partial_images=1, extra_body={"num_inference_steps": 4}
        )
    ]
    assert kinds == ["image_edit.partial_image", "image_edit.completed"]
    drawn = painting.images.generate(prompt="猫", size="128x128", **SMALL).data[0].b64_json
    picture = ("a.png", base64.b64decode(drawn), "image/png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the client, from its third major on
        varied = painting.images.create_variation(image=picture, size="128x128", **SMALL)
    assert varied.data[0].b64_json != drawn


def test_images_come_alone_or_in_a_list(images: Any) -> None:
    for image in (file(), [file()]):
        with pytest.raises(openai.BadRequestError, match=r"cannot use an image|strength"):
            images.images.edit(image=image, prompt="猫", extra_body={"strength": 2.0})
    with pytest.raises(openai.BadRequestError, match="reads no picture 'image-2'"):
        images.images.edit(image=[file(), file()], prompt="猫")
    with pytest.raises(openai.BadRequestError, match="must be alike"):
        images.images.edit(image=file(), mask=file("RGBA", (0, 0, 0, 0), (64, 64)), prompt="猫")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the client, from its third major on
        with pytest.raises(openai.BadRequestError, match="carries no record"):
            images.images.create_variation(image=file())


def test_models_are_listed(images: Any) -> None:
    assert [each.id for each in images.models.list().data] == ["tiny"]
    assert images.models.retrieve("tiny").owned_by == "bimo"
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        images.models.retrieve("dall-e-3")


@pytest.mark.parametrize(
    ("fields", "error", "says", "param"),
    [
        ({"model": "dall-e-3"}, "NotFoundError", "there is no model", "model"),
        ({"prompt": " "}, "BadRequestError", "prompt is empty", "prompt"),
        ({"size": "big"}, "BadRequestError", "WIDTHxHEIGHT", "size"),
        ({"size": "100x100"}, "BadRequestError", "multiple", None),
        ({"n": 11}, "BadRequestError", "less than or equal", "n"),
        ({"background": "transparent"}, "BadRequestError", "transparent", "background"),
        ({"partial_images": 2}, "BadRequestError", "stream", "partial_images"),
        ({"output_format": "svg"}, "BadRequestError", "png", "output_format"),
        ({"output_compression": 5}, "BadRequestError", "jpeg or webp", "output_compression"),
        ({"style": "baroque-ish"}, "BadRequestError", "style", None),
        ({"extra_body": {"frame_count": 3}}, "BadRequestError", "frame_count", "frame_count"),
    ],
    ids=str,
)
def test_errors_are_the_clients_own(images: Any, fields: dict[str, Any], error: str, says: str, param: Any) -> None:
    with pytest.raises(getattr(openai, error), match=says) as caught:
        images.images.generate(**({"prompt": "猫"} | fields))
    assert caught.value.body["param"] == param
    assert caught.value.body["type"] in ("invalid_request_error", "not_found_error")


@pytest.mark.parametrize("style", ["vivid", "natural"])
def test_the_styles_of_dall_e_that_clients_send_unasked_change_nothing(images: Any, style: str) -> None:
    plain = images.images.generate(prompt="猫", **SMALL)
    answer = images.images.generate(prompt="猫", style=style, quality="standard", user="me", **SMALL)
    assert answer.data[0].b64_json == plain.data[0].b64_json
    assert any("style" in warning for warning in answer.warnings)
    assert not any("style" in warning for warning in plain.warnings)


def test_a_full_queue_is_told_with_when_to_ask_again(make_service: Any) -> None:
    from bimo.serve.settings import Limits

    service = make_service(limits=Limits(waiting=1))
    with TestClient(create_app(service), base_url="http://127.0.0.1") as client:
        made = openai.OpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=client, max_retries=0)
        waiting = client.post("/v1/jobs", json={"text": "猫", "steps": 150}).json()["id"]
        with pytest.raises(openai.RateLimitError) as caught:
            made.images.generate(prompt="猫")
        assert int(caught.value.response.headers["retry-after"]) >= 1
        client.delete(f"/v1/jobs/{waiting}")


def test_quality_is_steps(images: Any, client: TestClient) -> None:
    images.images.generate(prompt="猫", quality="low")
    images.images.generate(prompt="猫", quality="max")
    steps = [job["request"].get("steps") for job in client.get("/v1/jobs").json()["data"]]
    assert steps == [24, 6]
