"""Every interface against its own description: what it allows and what it does not, asked by schemathesis. No answer is
a fault of the server, none has a status, a type or a shape that the description does not have.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("schemathesis")

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from bimo.core.picture import Picture
from bimo.engine.engine import Engine
from bimo.serve.app import create_app, unknown_paths
from bimo.serve.executor import CANCELLED, Executor, Listener, Source, failure_of, idle
from bimo.serve.jobs import Failure as JobFailure
from bimo.serve.jobs import Order
from bimo.serve.service import DrawingService

#: Requests of each kind to each operation.
EXAMPLES = 3
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SETTINGS = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class Instant(Executor):
    """Checks jobs as a model does, and answers each with the same picture at once."""

    def __init__(self, engine: Engine, source: Source, listener: Listener) -> None:
        self.engine, self.source, self.listener = engine, source, listener
        (self.picture,) = engine.draw({"text": "猫", "steps": 1, "seed": 1})

    @property
    def busy(self) -> dict[str, float]:
        return idle()

    def start(self) -> None:
        pass

    def submit(self, order: Order, done: frozenset[int] = frozenset()) -> None:
        try:
            prepared = self.engine.prepare(order.request(self.source.inputs(order.id)))
        except Exception as error:
            self.listener.ended(order.id, failure_of(error))
            return
        self.listener.began(order.id)
        for place in range(order.count):
            picture: Picture = replace(self.picture, request=prepared.request, index=place)
            self.listener.drew(order.id, picture)
        self.listener.ended(order.id, None)

    def skip(self, job: str, failure: JobFailure | None = None) -> None:
        pass

    def cancel(self, job: str, failure: JobFailure = CANCELLED) -> None:
        pass

    def progress(self) -> dict[str, tuple[int, int]]:
        return {}

    def seconds_ahead(self) -> float:
        return 0.0

    def stop(self, drain: bool = False, seconds: float = 30.0) -> None:
        pass


@pytest.fixture
def client(make_service: Callable[..., DrawingService], tiny_engine: Engine) -> Iterator[TestClient]:
    """The whole application, whose pictures take no time."""
    service = make_service(executor=lambda pool, source, listener, settings: Instant(tiny_engine, source, listener))
    app = create_app(service)
    unknown_paths(app)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as made:
        yield made


def answered(client: TestClient, case: Any) -> Response:
    """What the application answers a case, without a socket."""
    told: dict[str, Any] = case.as_transport_kwargs(base_url="http://127.0.0.1")
    kept = {
        name: told[name] for name in ("method", "url", "headers", "params", "data", "json", "files") if name in told
    }
    sent = requests.Request(**kept).prepare()
    body = sent.body.encode() if isinstance(sent.body, str) else sent.body
    got = client.request(str(sent.method), str(sent.url), content=body, headers=dict(sent.headers))
    headers = {name: got.headers.get_list(name) for name in got.headers}
    return Response(
        status_code=got.status_code, headers=headers, content=got.content, request=sent, elapsed=0.0, verify=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["allowed", "not allowed"])
def test_answers_are_what_is_described(client: TestClient, mode: GenerationMode) -> None:
    described = client.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(described)
    faults: list[str] = []
    asked = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @SETTINGS
        @given(case=operation.as_strategy(mode))
        def ask(case: Any) -> None:
            nonlocal asked
            asked += 1
            case.validate_response(answered(client, case), checks=CHECKS)

        try:
            ask()
        except Unsatisfiable:  # it takes nothing that could be wrong
            continue
        except (Failure, FailureGroup) as error:
            faults.append(f"{operation.label}: {error}")
    assert not faults, "\n".join(faults)
    assert asked > 60


def test_everything_is_titled_and_every_error_has_its_form(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    operations = [(path, one) for path, methods in described["paths"].items() for method, one in methods.items()]
    assert len(operations) > 50
    for path, one in operations:
        assert one["summary"], path
        assert one["tags"], path
        content = one["responses"]["4XX"]["content"]["application/json"]["schema"]
        assert content["required"], path
