"""Where a request names no model, the bundled one that learned what it asks for draws, and that is said."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")

from starlette.testclient import TestClient

import bimo
from bimo.core.lora_weight import LoraWeight
from bimo.engine.engine import Engine
from bimo.hub.editions import SECOND
from bimo.serve.app import create_app
from bimo.serve.page import models
from bimo.serve.page.form import Form
from bimo.serve.page.session import Page
from bimo.serve.pool import EngineKey
from bimo.serve.service import DrawingService
from tests.support.waiting import until

DISH, THING = "宫保鸡丁", "红苹果"


@pytest.fixture
def service(make_service: Callable[..., DrawingService], tiny_engine: Engine) -> DrawingService:
    """A service whose two editions are both the toy system."""
    made = make_service(lora_files={"ink": Path("ink.safetensors")})
    made.pool.models, made.pool.default, made.pool.editions = {"xiaomo": "tiny", SECOND: "tiny"}, "xiaomo", True
    for name in made.pool.models:
        made.pool.put(EngineKey(name), tiny_engine)
    return made


@pytest.mark.parametrize(
    ("values", "more", "model"),
    [
        ({"text": DISH}, {}, SECOND),
        ({"text": THING}, {}, "xiaomo"),
        ({"text": DISH}, {"model": "xiaomo"}, "xiaomo"),
        ({"text": THING}, {"model": SECOND}, SECOND),
        ({"text": DISH}, {"loras": [("ink", LoraWeight())]}, "xiaomo"),
        ({"text": f"{DISH} <lora:ink:0.5>"}, {}, "xiaomo"),
        ({}, {}, "xiaomo"),
    ],
)
def test_who_draws(service: DrawingService, values: dict[str, Any], more: dict[str, Any], model: str) -> None:
    order = service.order(values, key="local", client="test", **more)
    assert order.model == model
    assert bool(order.notes) == (model == SECOND and "model" not in more)


def test_every_interface_says_who_drew(
    service: DrawingService, tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_engine.system, "captions_learned", (DISH,))
    values = {"steps": 1, "seed": 1}
    with TestClient(create_app(service), base_url="http://127.0.0.1", headers={"accept-language": "en"}) as client:
        answer = client.post("/v1/jobs", json=values | {"text": DISH}).json()
        assert answer["model"] == SECOND
        assert SECOND in answer["notes"][0]
        assert any(SECOND in warning for warning in service.wait_here(answer["id"]).pictures[0].warnings)
        a1111 = client.post("/sdapi/v1/txt2img", json={"prompt": DISH, "steps": 1, "width": 64, "height": 64}).json()
        assert f'"sd_model_name": "{SECOND}"' in a1111["info"]
        assert "over a draft" in a1111["info"]
        client.post("/v1/images/generations", json={"prompt": DISH, "num_inference_steps": 1}).raise_for_status()
        assert service.store.jobs()[0].order.model == SECOND
        client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "xiaomo"})
        client.post("/sdapi/v1/txt2img", json={"prompt": DISH, "steps": 1, "width": 64, "height": 64})
        assert service.store.jobs()[0].order.model == "xiaomo"


def test_the_page_draws_at_that_models_own_size(service: DrawingService, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(service)

    offers = {name: models.Offer.of(service.pool.load_now(EngineKey(name))) for name in service.pool.models}
    double = {"width": 256, "height": 256}
    offers[SECOND] = models.Offer(**(vars(offers[SECOND]) | double))

    async def offer(name: str) -> models.Offer:
        return offers[name]

    monkeypatch.setattr(page, "offer", offer)

    def fitted(**values: Any) -> tuple[int, int]:
        form = asyncio.run(page._fitted(Form(**values)))
        return form.width, form.height

    assert fitted(text=DISH, width=128, height=128) == (256, 256)
    wide = offers["xiaomo"].shaped("16:9")
    assert fitted(text=DISH, width=wide[0], height=wide[1]) == offers[SECOND].shaped("16:9")
    assert fitted(text=DISH, width=64, height=64) == (64, 64)  # no shape of the default's
    assert fitted(text=THING, width=128, height=128) == (128, 128)
    assert fitted(text=DISH, width=128, height=128, model="xiaomo") == (128, 128)


@pytest.mark.parametrize(
    ("words", "models_served"),
    [([], ("xiaomo", SECOND)), (["-m", "xiaomo"], ("xiaomo",)), (["--embeddings", "."], ("xiaomo",))],
)
def test_both_are_served_where_none_is_named(
    words: list[str], models_served: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from bimo.cli import main
    from bimo.serve import run

    seen: list[Any] = []
    monkeypatch.delenv("BIMO_MODEL", raising=False)
    monkeypatch.setattr(run, "serve", lambda settings, **more: seen.append(settings))
    assert main.run(["serve", "--data", str(tmp_path), *words]) == 0
    assert seen[0].models == models_served
    assert seen[0].editions is (len(models_served) == 2)
    assert seen[0].finetuning is True
    assert main.run(["serve", "--data", str(tmp_path), "--host", "0.0.0.0", *words]) == 0
    assert seen[1].finetuning is False
    assert main.run(["serve", "--data", str(tmp_path), "--name", "draw.example.com", *words]) == 0
    assert seen[2].finetuning is False
    assert main.run(["serve", "--data", str(tmp_path), "--host", "0.0.0.0", "--finetune", *words]) == 0
    assert seen[3].finetuning is True


def test_a_prompt_of_which_nothing_was_learned_is_refused_unless_it_is_sent_as_read(
    make_service: Callable[..., DrawingService],
) -> None:
    service = make_service(engine=bimo.load("xiaomo"))
    with TestClient(create_app(service), base_url="http://127.0.0.1", headers={"accept-language": "en"}) as client:

        def ended(body: dict[str, Any]) -> Any:
            name = client.post("/v1/jobs", json=body | {"steps": 1, "seed": 1}).json()["id"]
            until(lambda: client.get(f"/v1/jobs/{name}").json()["state"] in ("done", "failed"))
            return client.get(f"/v1/jobs/{name}").json()

        refused = ended({"text": "孙悟空"})
        assert refused["state"] == "failed"
        assert "猴子" in refused["error"]["message"]
        assert ended({"text": "孙悟空", "drawn_text": "孙悟空"})["state"] == "done"
        commoner = ended({"text": "一只柯基"})
        assert any("柯基 → 狗" in warning for warning in commoner["pictures"][0]["warnings"])
        answer = client.post("/v1/images/generations", json={"prompt": "孙悟空"})
        assert answer.status_code == 400
        assert "never learned" in answer.json()["error"]["message"]
