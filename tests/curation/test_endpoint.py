"""Asking an endpoint: a stand-in on this machine that answers, refuses, fails, hangs and babbles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bimo.core.errors import DataError, RecipeError
from bimo.core.part import dump, dumps, load
from bimo.curation.captioning import endpoint as module
from bimo.curation.captioning.endpoint import Answer, Client, Endpoint, Unanswered
from tests.support.chat_endpoint import Reply, Standin, said

pytestmark = pytest.mark.network


ASK = [{"role": "user", "content": "你好"}]


Make = Callable[..., tuple[Client, list[float]]]


@pytest.fixture
def client(standin: Standin) -> Make:
    def make(**settings: Any) -> tuple[Client, list[float]]:
        waits: list[float] = []
        given = {"address": standin.address, "model": "m", "tries": 4, **settings}
        return Client(Endpoint(**given), wait=waits.append), waits

    return make


def test_a_request_is_that_of_the_protocol(standin: Standin, client: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    asker, waits = client(key="SOME_KEY", tokens=64, temperature=0.5)
    assert asker.ask(ASK) == Answer("好")
    assert standin.paths == ["/v1/chat/completions"]
    assert standin.bodies == [{"model": "m", "messages": ASK, "max_tokens": 64, "temperature": 0.5}]
    assert standin.headers[0]["authorization"] == "Bearer sk-secret"
    assert waits == []


def test_no_key_is_sent_where_none_is_named(standin: Standin, client: Make) -> None:
    client()[0].ask(ASK)
    assert "authorization" not in standin.headers[0]


def test_temporary_errors_are_retried(standin: Standin, client: Make) -> None:
    replies: list[Reply] = [(429, {"error": "slow down"}, {"Retry-After": "7"}), (500, b"oops", {}), None, said("好")]
    standin.reply = lambda body, count: replies[count]
    asker, waits = client()
    assert asker.ask(ASK) == Answer("好")
    # As long as the endpoint says, else twice as long each time.
    assert waits == [7.0, 2.0, 4.0]


@pytest.mark.parametrize("after", ["1e9", "nan", "-5", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_the_retry_delay_is_bounded(standin: Standin, client: Make, after: str) -> None:
    standin.reply = lambda body, count: said("好") if count else (429, {}, {"Retry-After": after})
    asker, waits = client()
    asker.ask(ASK)
    assert waits == [60.0 if after == "1e9" else 1.0]


@pytest.mark.parametrize(
    "reply",
    [
        (200, b"<html>", {}),
        (200, b'{"choices": []}', {}),
        (200, b"[]", {}),
        (200, b'{"choices": [{"message": {"content": 3}}]}', {}),
        (200, b'{"choices": [{"message": null}]}', {}),
        (200, b"[" * 100_000, {}),
        (200, b"\xff\xfe", {}),
        (503, {"error": "loading"}, {}),
        None,
    ],
)
def test_malformed_answers_are_retried_then_given_up(standin: Standin, client: Make, reply: Reply) -> None:
    standin.reply = lambda body, count: reply
    asker, waits = client(tries=3)
    with pytest.raises(Unanswered):
        asker.ask(ASK)
    assert len(standin.bodies) == 3
    assert waits == [1.0, 2.0]


def test_one_bad_request_is_not_asked_again(standin: Standin, client: Make) -> None:
    standin.reply = lambda body, count: (400, {"error": "too long"}, {})
    asker, waits = client()
    with pytest.raises(Unanswered, match=r"400: .*too long"):
        asker.ask(ASK)
    assert waits == []


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_ends_it_at_once(
    standin: Standin, client: Make, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    standin.reply = lambda body, count: (status, {"error": "key sk-secret is wrong"}, {})
    asker, _ = client(key="SOME_KEY", together=1)
    with pytest.raises(DataError) as raised:
        asker.ask_all([ASK, ASK])
    for text in (raised.value.zh, raised.value.en):
        assert str(status) in text
        assert "***" in text
        assert "secret" not in text


def test_a_redirect_is_not_followed(standin: Standin, client: Make) -> None:
    standin.reply = lambda body, count: (307, {}, {"Location": "http://127.0.0.1:1/elsewhere"})
    with pytest.raises(Unanswered, match="307"):
        client()[0].ask(ASK)
    assert len(standin.bodies) == 1


def test_an_endless_answer_is_not_read(standin: Standin, client: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    standin.reply = lambda body, count: said("长" * 1000)
    with pytest.raises(Unanswered, match="1000"):
        client()[0].ask(ASK)


def test_a_silent_endpoint_times_out(standin: Standin, client: Make) -> None:
    def hang(body: dict[str, Any], count: int) -> Reply:
        if count == 0:
            standin.open.wait(30)
        return said("好")

    standin.reply = hang
    asker, waits = client(seconds=0.2)
    assert asker.ask(ASK) == Answer("好")
    assert waits == [1.0]


def test_an_unreachable_endpoint_is_reported(standin: Standin, client: Make) -> None:
    asker, waits = client(address="http://127.0.0.1:9/v1", tries=2)
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9"):
        asker.ask_all([ASK, ASK])
    assert waits == [1.0, 1.0]


def test_answers_stand_in_the_order_of_the_requests(standin: Standin, client: Make) -> None:
    def reply(body: dict[str, Any], count: int) -> Reply:
        text = body["messages"][0]["content"]
        return (400, {}, {}) if text == "5" else said(f"{text}!", "length" if text == "6" else "stop")

    standin.reply = reply
    asker, _ = client(together=3)
    found = asker.ask_all([[{"role": "user", "content": str(n)}] for n in range(20)])
    assert isinstance(found[5], Unanswered)
    assert found[6] == Answer("6!", cut=True)
    assert [answer.text for answer in found if isinstance(answer, Answer)] == [f"{n}!" for n in range(20) if n != 5]
    assert asker.ask_all([]) == []


def test_a_filtered_answer_is_empty(standin: Standin, client: Make) -> None:
    standin.reply = lambda body, count: said(None, "content_filter")
    assert client()[0].ask(ASK) == Answer("")


def test_the_key_is_nowhere_but_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    part = Endpoint(address="https://a.example/v1", model="m", key="SOME_KEY")
    assert load(dump(part)) == part
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    assert "secret" not in dumps(part) + repr(part) + part.response_key()
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(DataError, match="SOME_KEY"):
        Client(part)


@pytest.mark.parametrize(
    "wrong",
    [
        {"address": "ftp://a/v1"},
        {"address": "https://user:word@a/v1"},
        {"key": "sk-1234"},
        {"tries": 0},
        {"seconds": 0.0},
    ],
)
def test_invalid_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError) as raised:
        Endpoint(**{"address": "https://a/v1", "model": "m", **wrong})
    # What may be a key or a password is not repeated.
    assert "1234" not in raised.value.en
    assert "user:word" not in raised.value.en
