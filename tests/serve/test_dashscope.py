"""DashScope's way: submit, ask, fetch, list, cancel; also by its own client."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import requests
from PIL import Image
from starlette.testclient import TestClient

from bimo.serve.app import create_app
from bimo.serve.service import DrawingService
from tests.serve.conftest import listening
from tests.support.waiting import until

PATH = "/api/v1/services/aigc/text2image/image-synthesis"
ASYNC = {"X-DashScope-Async": "enable"}


def body(**parameters: Any) -> dict[str, Any]:
    wanted = {"size": "128*128", "n": 2, "seed": 3, "steps": 2} | parameters
    return {"model": "tiny", "input": {"prompt": "红苹果"}, "parameters": wanted}


def test_a_task_is_submitted_asked_for_and_fetched(client: TestClient) -> None:
    submitted = client.post(PATH, json=body(), headers=ASYNC).json()
    assert submitted["output"]["task_status"] == "PENDING"
    path = f"/api/v1/tasks/{submitted['output']['task_id']}"
    until(lambda: client.get(path).json()["output"]["task_status"] == "SUCCEEDED")
    found = client.get(path).json()
    assert found["usage"] == {"image_count": 2}
    assert found["output"]["task_metrics"] == {"TOTAL": 2, "SUCCEEDED": 2, "FAILED": 0}
    with Image.open(io.BytesIO(client.get(found["output"]["results"][1]["url"]).content)) as image:
        assert image.size == (128, 128)
    assert client.post(f"{path}/cancel").status_code == 400


def test_what_clients_send_unasked_is_no_reason_to_refuse(client: TestClient) -> None:
    sent = body(prompt_extend=True, watermark=False, style="<auto>")
    name = client.post(PATH, json=sent, headers=ASYNC).json()["output"]["task_id"]
    path = f"/api/v1/tasks/{name}"
    until(lambda: client.get(path).json()["output"]["task_status"] == "SUCCEEDED")
    found = client.get(path).json()["output"]["results"][0]
    assert (found["orig_prompt"], found["actual_prompt"]) == ("红苹果", "红苹果")  # nothing was rewritten


def test_a_task_is_cancelled(client: TestClient) -> None:
    name = client.post(PATH, json=body(steps=150), headers=ASYNC).json()["output"]["task_id"]
    assert client.post(f"/api/v1/tasks/{name}/cancel").status_code == 200
    found = client.get(f"/api/v1/tasks/{name}").json()["output"]
    assert (found["task_status"], found["code"]) == ("CANCELED", "cancelled")


@pytest.mark.network
def test_its_own_client_submits_waits_lists_and_cancels(
    make_service: Callable[..., DrawingService], monkeypatch: pytest.MonkeyPatch
) -> None:
    dashscope = pytest.importorskip("dashscope")
    images, drawn = dashscope.ImageSynthesis, {"model": "tiny", "prompt": "红苹果", "size": "128*128"}
    with listening(create_app(make_service())) as address:
        monkeypatch.setattr(dashscope, "base_http_api_url", f"{address}/api/v1")
        monkeypatch.setattr(dashscope, "api_key", "any")
        first, second = (images.async_call(n=1, seed=seed, steps=2, **drawn) for seed in (1, 2))
        for task in (first, second):
            until(lambda task=task: images.fetch(task).output.task_status == "SUCCEEDED")
        found = images.wait(first)
        assert (found.status_code, found.usage.image_count, len(found.output.results)) == (200, 1, 1)
        content = requests.get(found.output.results[0].url, timeout=10).content
        with Image.open(io.BytesIO(content)) as image:
            assert image.size == (128, 128)
        long = images.async_call(steps=150, **drawn)
        assert images.cancel(long).status_code == 200
        assert images.fetch(long).output.task_status == "CANCELED"
        assert images.fetch("nothing").output.task_status == "UNKNOWN"
        refused = images.cancel(first)
        assert (refused.status_code, refused.code) == (400, "UnsupportedOperation")

        listed = images.list().output
        assert [row["status"] for row in listed["data"]] == ["CANCELED", "SUCCEEDED", "SUCCEEDED"]
        assert (listed["total"], listed["total_page"], listed["page_no"], listed["page_size"]) == (3, 1, 1, 10)
        page = images.list(status="SUCCEEDED", model_name="tiny", page_no=2, page_size=1).output
        assert [row["task_id"] for row in page["data"]] == [first.output.task_id]
        assert (page["total"], page["total_page"]) == (2, 2)
        assert page["data"][0]["gmt_create"] <= page["data"][0]["start_time"] <= page["data"][0]["end_time"]
        assert images.list(start_time="20200101000000", end_time="20200102000000").output["total"] == 0
        assert images.list(start_time="20200101000000", status="CANCELED").output["total"] == 1
        assert images.list(status="UNKNOWN").output["data"] == []
        wrong = images.list(start_time="yesterday")
        assert (wrong.status_code, "YYYYMMDDhhmmss" in wrong.message) == (400, True)


@pytest.mark.parametrize(
    ("wrong", "headers", "status", "says"),
    [
        (body(), {}, 403, "X-DashScope-Async"),
        (body() | {"model": "wanx-v1"}, ASYNC, 400, "there is no model"),
        (body(size="big"), ASYNC, 400, "WIDTH"),
        (body(n=11), ASYNC, 422, "n of the request"),
        (body(watermark=True), ASYNC, 400, "label"),
        (body(ref_img="http://x"), ASYNC, 422, "ref_img"),
    ],
    ids=["plain", "model", "size", "n", "watermark", "ref_img"],
)
def test_errors_have_a_code_and_a_message(
    client: TestClient, wrong: dict[str, Any], headers: dict[str, str], status: int, says: str
) -> None:
    answer = client.post(PATH, json=wrong, headers=headers)
    assert answer.status_code == status
    assert says in answer.json()["message"]
    assert answer.json()["code"]
