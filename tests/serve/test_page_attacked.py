"""gradio's own routes in somebody's hands who knows them: what can be sent there, read there, and started there."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")

import httpx

from bimo.engine.engine import Engine
from bimo.serve.app import create_app, unknown_paths
from bimo.serve.audit import FILE
from bimo.serve.gate import Gate
from bimo.serve.jobs import State
from bimo.serve.keys import KeyStore
from bimo.serve.page.layout import mount
from bimo.serve.page.session import Page
from bimo.serve.service import DrawingService
from bimo.serve.settings import Limits
from tests.serve.conftest import listening
from tests.serve.test_page import sent
from tests.support.waiting import until

#: gradio, with the pandas of today.
pytestmark = [
    pytest.mark.network,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]
#: A drawing that does not end within a test, with ``slow_steps``.
LONG: dict[str, Any] = {"steps": 100, "count": 8}


@dataclass
class Tab:
    """A script that speaks to the page's routes as its own script does, or otherwise."""

    web: httpx.Client
    session: str = "tab"
    config: dict[str, Any] = field(default_factory=dict[str, Any])

    def number(self, element: str) -> int:
        """The number of the event of a component."""
        ids = {one["id"] for one in self.config["components"] if one["props"].get("elem_id") == element}
        return next(one["id"] for one in self.config["dependencies"] if {t[0] for t in one["targets"]} & ids)

    def join(self, element: str, data: list[Any], **changed: Any) -> httpx.Response:
        """Starts an event."""
        body = {"data": data, "fn_index": self.number(element), "session_hash": self.session, "trigger_id": None}
        return self.web.post("/gradio_api/queue/join", json=body | {"event_data": None} | changed)

    def heard(self) -> list[dict[str, Any]]:
        """What the events of this session say, until all have ended."""
        messages: list[dict[str, Any]] = []
        with self.web.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as answer:
            assert answer.status_code == 200
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    messages.append(json.loads(line.removeprefix("data:")))
        return messages


@contextmanager
def opened(
    service: DrawingService, keys: KeyStore | None = None, tokens: tuple[str | None, ...] = (None,)
) -> Iterator[list[Tab]]:
    """The page behind a socket, and a tab for each key, without a login for None."""
    page = Page(service, keys)
    app = create_app(service, gate=lambda inner: Gate(inner, keys=keys, on_page_closed=page.closed))
    unknown_paths(app)
    mount(app, page)
    tabs: list[Tab] = []
    with listening(app) as address:
        for number, token in enumerate(tokens):
            web = httpx.Client(base_url=address, headers={"accept-language": "en"}, timeout=30)
            if token is not None:
                assert web.post("/login", data={"key": token}).status_code == 303
            tabs.append(Tab(web, f"tab{number}"))
        config = next(tab for tab, token in zip(tabs, tokens, strict=True) if keys is None or token is not None)
        seen = config.web.get("/config").json()
        for tab in tabs:
            tab.config = seen
        try:
            yield tabs
        finally:
            for order in service.open_jobs():
                service.cancel(order.id)
            for tab in tabs:
                tab.web.close()


@pytest.fixture
def slow_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a step take a tenth of a second, so that a long drawing is under way until it is stopped."""
    denoise = Engine.denoise

    def slowly(self: Engine, inputs: list[Any]) -> Any:
        time.sleep(0.1)
        return denoise(self, inputs)

    monkeypatch.setattr(Engine, "denoise", slowly)


def test_a_file_by_its_name_or_address_is_neither_copied_nor_fetched(
    make_service: Callable[..., DrawingService], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "gradio"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(kept))
    secret = tmp_path / "secret.txt"
    secret.write_text("nobody's business")
    with opened(make_service()) as (tab,):
        places = (str(secret), "/dev/zero", "http://127.0.0.1:9/x.png")
        files = [{"path": place, "url": place, "meta": {"_type": "gradio.FileData"}} for place in places]
        values = cycle([value for file in files for value in (file, [file], {"a": file}, [[file]])])
        for event, value in zip(tab.config["dependencies"], values, strict=False):
            if event["inputs"]:
                answer = tab.join("draw", [value] * len(event["inputs"]), fn_index=event["id"])
                assert (answer.status_code, event["id"]) == (422, event["id"])
                assert "load it again" in answer.json()["error"]
        for odd in ({"trigger_id": "x"}, {"session_hash": None}, {"session_hash": {}}, {"fn_index": 1.5}):
            assert tab.join("draw", sent(), **odd).status_code == 422
        # What gradio has fields for and the page no use is not passed on.
        assert tab.join("draw", sent(), event_id="another", batched=True, simple_format=True).status_code == 200
        assert next(one for one in tab.heard() if one["msg"] == "process_completed")["success"]
    assert not [path for path in kept.rglob("*") if path.is_file()]


@pytest.mark.usefixtures("slow_steps")
def test_a_session_is_of_whoever_opened_it(make_service: Callable[..., DrawingService], tmp_path: Path) -> None:
    keys = KeyStore(tmp_path / "keys")
    service = make_service()
    with opened(service, keys, (keys.add("me"), keys.add("other"), None)) as (mine, other, stranger):
        event = mine.join("draw", sent(**LONG)).json()["event_id"]
        until(lambda: len(service.open_jobs()) == 1)
        body = {"session_hash": mine.session, "fn_index": mine.number("draw"), "event_id": event}
        for tab, status in ((other, 404), (stranger, 401)):
            answers = [
                tab.web.get("/gradio_api/queue/data", params={"session_hash": mine.session}),
                tab.web.get(f"/gradio_api/heartbeat/{mine.session}"),
                tab.web.post("/gradio_api/cancel", json=body),
                tab.join("stop", [], session_hash=mine.session),
                tab.join("draw", sent(), session_hash=mine.session),
            ]
            assert [answer.status_code for answer in answers] == [status] * len(answers)
            assert all(answer.json()["error"] for answer in answers)
        for path in ("/config", "/gradio_api/info", "/gradio_api/startup-events", "/gradio_api/app_id"):
            assert stranger.web.get(path).status_code == 401
        assert len(service.open_jobs()) == 1
        assert mine.join("stop", []).status_code == 200
        until(lambda: not service.open_jobs())
        assert [job.state for job in service.store.jobs()] == [State.cancelled]


@pytest.mark.usefixtures("slow_steps")
def test_what_is_started_there_counts_as_anything_else(
    make_service: Callable[..., DrawingService], tmp_path: Path
) -> None:
    keys = KeyStore(tmp_path / "keys")
    service = make_service(limits=Limits(waiting_of_key=2))
    with opened(service, keys, (keys.add("slow", per_minute=2), keys.add("busy"))) as (slow, busy):
        for _ in range(4):
            slow.join("draw", sent())
        ended = [one["output"] for one in slow.heard() if one["msg"] == "process_completed"]
        assert sum("too often" in str(one.get("error")) for one in ended) == 2
        for number in range(3):
            busy.session = f"busy{number}"
            busy.join("draw", sent(**LONG))
        until(lambda: len(service.open_jobs("busy")) == 2)
        said = [one["output"] for one in busy.heard() if one["msg"] == "process_completed"]
        assert "jobs are waiting" in said[0]["error"]
        for wrong, says in (({"width": 4096}, "width"), ({"steps": 101}, "steps"), ({"count": 9}, "number")):
            busy.session = f"wrong-{says}"
            busy.join("draw", sent(**wrong))
            (said,) = [one["output"] for one in busy.heard() if one["msg"] == "process_completed"]
            assert says in said["error"]


@pytest.mark.usefixtures("slow_steps")
def test_pictures_that_are_waited_for_keep_nobody_from_opening_the_page(
    make_service: Callable[..., DrawingService],
) -> None:
    service = make_service(limits=Limits(waiting=50))
    with opened(service) as (tab,):
        for number in range(50):
            tab.session = f"many{number}"
            assert tab.join("draw", sent(**LONG)).status_code == 200
        until(lambda: len(service.open_jobs()) == 50)
        tab.session = "another"
        event = next(
            one["id"] for one in tab.config["dependencies"] if any(kind == "load" for _, kind in one["targets"])
        )
        assert tab.join("draw", [], fn_index=event).status_code == 200
        assert [one["success"] for one in tab.heard() if one["msg"] == "process_completed"] == [True]


@pytest.mark.usefixtures("slow_steps")
def test_a_table_longer_than_a_keys_rate_is_drawn_to_its_end(
    make_service: Callable[..., DrawingService], tmp_path: Path
) -> None:
    keys = KeyStore(tmp_path / "keys")
    service = make_service(limits=Limits(waiting_of_key=4))
    with opened(service, keys, (keys.add("me", per_minute=600),)) as (tab,):
        tab.join("table-draw", ["\n".join(["红苹果"] * 14), *sent()])
        tab.heard()
        jobs = service.store.jobs(most=50)
        assert [job.state for job in jobs] == [State.done] * 14
        # Stopped, it submits no more.
        tab.join("table-draw", ["\n".join(["红苹果"] * 14), *sent(**LONG)])
        until(lambda: len(service.open_jobs()) == 4)
        tab.join("stop", [])
        tab.heard()
        assert not service.open_jobs()
        assert len(service.store.jobs(most=50)) < 28


@pytest.mark.parametrize("prompts", [False, True])
def test_the_pages_jobs_are_written_down(
    make_service: Callable[..., DrawingService], tmp_path: Path, prompts: bool
) -> None:
    keys = KeyStore(tmp_path / "keys")
    service = make_service(audit_prompts=prompts)
    with opened(service, keys, (keys.add("me"),)) as (tab,):
        tab.join("draw", sent())
        tab.heard()
    lines = [json.loads(line) for line in (service.settings.folder / FILE).read_text().splitlines()]
    (line,) = [each for each in lines if "job" in each]
    assert (line["key"], line["from"], line.get("prompt")) == ("me", "127.0.0.1", "红苹果" if prompts else None)
    assert {each["key"] for each in lines if each["path"].startswith("/gradio_api/queue")} == {"me"}
