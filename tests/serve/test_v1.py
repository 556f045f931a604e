"""Our own interface: submit, watch, list, cancel, fetch; other people's jobs are nobody's."""

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from bimo.core.picture import read_metadata
from bimo.serve.app import create_app
from tests.serve.test_scheduler import lora_file
from tests.support.waiting import until


def submit(client: TestClient, **values: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json={"text": "红苹果", "steps": 2, "seed": 1} | values)
    assert answer.status_code == 202, answer.text
    return answer.json()


def ended(client: TestClient, name: str) -> dict[str, Any]:
    until(lambda: client.get(f"/v1/jobs/{name}").json()["state"] not in ("queued", "running"))
    return client.get(f"/v1/jobs/{name}").json()


def picture(side: int = 64, mode: str = "RGB", colour: Any = "red") -> str:
    buffer = io.BytesIO()
    Image.new(mode, (side, side), colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_a_job_from_its_submission_to_its_picture(client: TestClient, tmp_path: Any) -> None:
    job = submit(client, count=2)
    assert job["state"] == "queued"
    done = ended(client, job["id"])
    assert (done["state"], done["error"]) == ("done", None)
    assert [each["seed"] for each in done["pictures"]] == [1, 2]
    answer = client.get(done["pictures"][1]["url"])
    assert answer.headers["content-type"] == "image/png"
    file = tmp_path / "a.png"
    file.write_bytes(answer.content)
    assert read_metadata(file)["request"]["seed"] == 2
    for kind in ("jpeg", "webp"):
        with Image.open(io.BytesIO(client.get(f"{done['pictures'][0]['url']}?format={kind}").content)) as image:
            assert (image.format, image.size) == (kind.upper(), (128, 128))
    assert client.get(f"/v1/jobs/{job['id']}/pictures/2").status_code == 404
    assert [each["id"] for each in client.get("/v1/history?q=苹果").json()["data"]] == [job["id"]]
    assert client.get("/v1/history?q=梨").json()["data"] == []
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert client.get(f"/v1/jobs/{job['id']}").status_code == 404


def test_a_lora_counts_in_some_of_the_steps_by_every_interface(
    make_service: Any, tiny_engine: Any, tmp_path: Any
) -> None:
    service = make_service(lora_files={"ink": lora_file(tiny_engine, tmp_path, "ink")}, batch=1)
    with TestClient(create_app(service), base_url="http://127.0.0.1") as client:
        job = submit(client, steps=4, loras=[{"name": "ink", "weight": 0.8, "first": 0.2, "last": 0.6}])
        assert job["loras"] == [{"name": "ink", "weight": 0.8, "first": 0.2, "last": 0.6}]
        drawn = client.get(ended(client, job["id"])["pictures"][0]["url"]).content
        whole = submit(client, steps=4, loras=[{"name": "ink", "weight": 0.8}])
        assert client.get(ended(client, whole["id"])["pictures"][0]["url"]).content != drawn
        body = {"prompt": "红苹果", "num_inference_steps": 4, "seed": 1, "loras": {"ink": "0.8@0.2-0.6"}}
        answer = client.post("/v1/images/generations", json=body)
        assert base64.b64decode(answer.json()["data"][0]["b64_json"])[-9000:] == drawn[-9000:]
        wrong = client.post("/v1/images/generations", json=body | {"loras": {"ink": "0.8@2"}})
        assert (wrong.status_code, "0.8@0.2-0.6" in wrong.json()["error"]["message"]) == (400, True)


def events(client: TestClient, path: str) -> list[tuple[str, dict[str, Any]]]:
    with client.stream("GET", path) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line and not line.startswith(":")]
    pairs = zip(lines[::2], lines[1::2], strict=True)
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in pairs]


def test_events_tell_of_steps_previews_and_the_end(client: TestClient) -> None:
    job = submit(client, steps=40, previews=2)
    heard = events(client, f"/v1/jobs/{job['id']}/events")
    assert heard[0][0] == "state"
    assert heard[-1][0] == "ended"
    assert heard[-1][1]["state"] == "done"
    steps = [data for name, data in heard if name == "step"]
    assert [one["done"] for one in steps] == sorted(one["done"] for one in steps)
    previews = [base64.b64decode(one["preview"]) for one in steps if "preview" in one]
    assert previews
    with Image.open(io.BytesIO(previews[0])) as image:
        assert image.format == "JPEG"
    assert [name for name, _ in events(client, f"/v1/jobs/{job['id']}/events")] == ["state", "ended"]


def test_a_job_is_cancelled(client: TestClient) -> None:
    job = submit(client, steps=150)
    answer = client.post(f"/v1/jobs/{job['id']}/cancel").json()
    assert answer["state"] == "cancelled"
    assert answer["error"]["message"] == "the job was cancelled"
    assert client.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "cancelled"


def test_the_same_key_of_idempotency_is_the_same_job(client: TestClient) -> None:
    body = {"text": "红苹果", "steps": 2}
    first, second = (
        client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "a"}).json()["id"] for _ in range(2)
    )
    assert first == second


def test_pictures_come_in_base64(client: TestClient) -> None:
    job = submit(client, image=picture(), mask=picture(mode="L", colour=255), strength=0.5, steps=4)
    assert job["request"]["text"] == "红苹果"
    done = ended(client, job["id"])
    assert done["error"] is None or done["error"]["code"] == "invalid_request", done  # of a model that takes none


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"text": ""}, 400, "prompt is empty"),
        ({"text": "a", "steps": 151}, 400, "at most 150"),
        ({"text": "a", "count": 17}, 400, "at most 16"),
        ({"text": "a", "size": [127, 128]}, 400, "multiple"),
        ({"text": "a", "size": [4096, 128]}, 400, "too large"),
        ({"text": "a", "strange": 1}, 422, "strange"),
        ({"text": "a", "model": "../../etc/passwd"}, 400, "there is no model"),
        ({"text": "a", "loras": [{"name": "/etc/passwd"}]}, 400, "LoRA"),
        ({"text": "a", "loras": [{"name": "ink", "first": 0.6, "last": 0.6}]}, 400, "0.8@0.2-0.6"),
        ({"text": "a", "loras": [{"name": "ink", "last": 1.5}]}, 422, "loras.0.last"),
        ({"text": "a", "image": "https://example.com/a.png"}, 400, "fetches none"),
        ({"text": "a", "image": "file:///etc/passwd"}, 400, "fetches none"),
        ({"text": "a", "image": "!"}, 400, "base64"),
        ({"text": "a", "image": base64.b64encode(b"<svg/>").decode()}, 400, "not a picture"),
        ({"text": "a", "mask": picture()}, 400, "without an image"),
        ({"text": "a", "sampler": "rm -rf"}, 400, "sampler"),
        ({"text": "a", "style": "x"}, 400, "style"),
    ],
    ids=str,
)
def test_what_cannot_be_drawn_gets_a_sentence(client: TestClient, body: dict[str, Any], status: int, says: str) -> None:
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]["message"]
    zh = client.post("/v1/jobs", json=body, headers={"accept-language": "zh-CN"}).json()["error"]["message"]
    assert zh
    assert client.get("/v1/jobs").json()["data"] == []


def test_recipes_are_listed(client: TestClient) -> None:
    found = client.get("/v1/recipes").json()
    assert found["models"] == [{"name": "tiny", "loaded": True, "default": True}]
    assert any(row["name"] == "xiaomo" for row in found["data"])
    assert client.get("/v1/recipes/xiaomo").json()["name"] == "xiaomo"
    assert client.get("/v1/recipes/nothing").status_code == 404


def test_the_server_says_how_it_is(client: TestClient) -> None:
    assert client.get("/healthz").json()["status"] == "ok"
    assert client.get("/readyz").json() == {"status": "ready"}
    ended(client, submit(client)["id"])
    numbers = client.get("/metrics").text
    assert 'bimo_jobs_total{client="v1",state="done"} 1.0' in numbers
    assert "bimo_denoiser_calls_total" in numbers
    paths = client.get("/openapi.json").json()
    assert paths["info"]["title"] == "bimo 笔墨"
    assert "/v1/jobs" in paths["paths"]
