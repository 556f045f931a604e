"""Client of OpenAI-compatible endpoints (``/chat/completions``), with retries and limits."""

from __future__ import annotations

import json
import math
import os
import re
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bimo.core.errors import DataError, RecipeError
from bimo.core.part import Part

if TYPE_CHECKING:
    import httpx

#: Statuses that are retried: time-out, conflict, too many requests; those from 500 on are retried as well.
RETRIED = {408, 409, 425, 429}
#: Statuses that fail for every request with these settings: a wrong key, address or model.
PERMANENT = {401, 403, 404, 405}
#: Most bytes of a response; a caption is far below.
MOST_BYTES = 1 << 20
#: The longest wait between two attempts, in seconds, also where the endpoint asks for more.
LONGEST = 60.0
MOST_SHOWN = 160
Message = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Endpoint(Part):
    """An endpoint: ``address`` up to and with the version ("http://127.0.0.1:8000/v1"), and the name of the ``model``.

    ``key`` is the name of the environment variable that holds the API key, never the key itself; empty for none.
    ``seconds`` is the time-out of one response, ``tries`` the number of attempts of a request, ``together`` the number
    of concurrent requests. ``tokens`` and ``temperature`` are the endpoint's. Raises RecipeError for an invalid address
    or an empty name.
    """

    address: str
    model: str
    key: str = ""
    seconds: float = 120.0
    tries: int = 6
    together: int = 8
    tokens: int = 512
    temperature: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.match(r"https?://[^/@\s]+", self.address) or "@" in self.address.split("/")[2]:
            raise RecipeError("address of Endpoint must begin with http:// or https:// and hold no user or password")
        if self.key and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key):
            raise RecipeError("key of Endpoint is the name of an environment variable, not the key itself")
        if min(self.tries, self.together, self.tokens) < 1 or not self.seconds > 0:
            raise RecipeError("tries, together and tokens of Endpoint must be at least 1, and seconds above 0")

    def response_key(self) -> str:
        """The settings that responses depend on: the model and how it samples, not the address or the retries."""
        return f"{self.model} {self.tokens} {self.temperature}"


class Unanswered(Exception):
    """A request without a response; ``reason`` is a short sentence without the key."""

    def __init__(self, reason: str, reached: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.reached = reached


@dataclass(frozen=True)
class Answer:
    """A response, and whether it was ``cut`` off at the maximum number of tokens."""

    text: str
    cut: bool = False


class Client:
    """Sends requests to an endpoint; its connections are closed with it. ``wait`` sleeps so many seconds and is
    replaced in tests.
    """

    def __init__(self, endpoint: Endpoint, wait: Callable[[float], object] = time.sleep) -> None:
        import httpx

        self.endpoint = endpoint
        self.wait = wait
        self._key = _key(endpoint)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        # Redirects are not followed, since they would send the key to another host.
        self._http = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(endpoint.seconds, connect=min(endpoint.seconds, 15.0)),
            limits=httpx.Limits(max_connections=endpoint.together),
            follow_redirects=False,
        )
        weakref.finalize(self, self._http.close)

    def ask_all(self, requests: Sequence[Sequence[Message]]) -> list[Answer | Unanswered]:
        """The responses to some requests, in their order, sent concurrently.

        Raises DataError where the endpoint refuses all such requests (key, address, model), and where none of several
        reached it.
        """

        def one(messages: Sequence[Message]) -> Answer | Unanswered:
            try:
                return self.ask(messages)
            except Unanswered as error:
                return error

        if not requests:
            return []
        with ThreadPoolExecutor(self.endpoint.together, "endpoint") as threads:
            answers = list(threads.map(one, requests))
        lost = [answer for answer in answers if isinstance(answer, Unanswered) and not answer.reached]
        if len(lost) == len(answers):
            address, reason = self.endpoint.address, lost[0].reason
            raise DataError(
                "{address} cannot be reached: {reason}. What was written is stored; run the same command again",
                address=address,
                reason=reason,
            )
        return answers

    def ask(self, messages: Sequence[Message]) -> Answer:
        """The response to one request. Raises Unanswered after the last attempt, DataError as ``ask_all``."""
        for tried in range(1, self.endpoint.tries + 1):
            try:
                return self._once(messages)
            except _Retry as error:
                if tried == self.endpoint.tries:
                    raise Unanswered(error.reason, error.reached) from None
                self.wait(min(LONGEST, max(error.after, 0.5 * 2**tried)))
        raise AssertionError("an endpoint is tried at least once")

    def _once(self, messages: Sequence[Message]) -> Answer:
        import httpx

        settings = self.endpoint
        body = {
            "model": settings.model,
            "messages": list(messages),
            "max_tokens": settings.tokens,
            "temperature": settings.temperature,
        }
        try:
            with self._http.stream("POST", f"{settings.address.rstrip('/')}/chat/completions", json=body) as response:
                data = _bounded(response, time.monotonic() + settings.seconds)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _Retry(f"{type(error).__name__}: {self._excerpt(str(error))}", reached=False) from None
        except httpx.TimeoutException as error:
            raise _Retry(f"no answer in {settings.seconds:g} s ({type(error).__name__})") from None
        except httpx.HTTPError as error:
            # Connections that broke off are included.
            raise _Retry(f"{type(error).__name__}: {self._excerpt(str(error))}") from None
        status = response.status_code
        text = self._excerpt(data.decode("utf-8", "replace"))
        if status in PERMANENT:
            raise DataError(
                "{address} refuses ({status}): {said}; look at its address, its model, and the environment "
                "variable that key names",
                address=settings.address,
                status=status,
                said=text,
            )
        if status in RETRIED or status >= 500:
            raise _Retry(f"{status}: {text}", after=_after(response))
        if status != 200:
            raise Unanswered(f"{status}: {text}")
        return _read(data, text)

    def _excerpt(self, text: str) -> str:
        """The beginning of a response, with the key removed, should a server repeat it."""
        text = " ".join(text.split())
        return (text.replace(self._key, "***") if self._key else text)[:MOST_SHOWN]


class _Retry(Exception):
    """A failure to retry, ``after`` so many seconds at least."""

    def __init__(self, reason: str, after: float = 0.0, reached: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after
        self.reached = reached


def _key(endpoint: Endpoint) -> str:
    if not endpoint.key:
        return ""
    value = os.environ.get(endpoint.key, "").strip()
    if not value:
        raise DataError("the environment variable {key} is not set; put the key there", key=endpoint.key)
    return value


def _bounded(response: httpx.Response, until: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    for part in response.iter_bytes():
        size += len(part)
        if size > MOST_BYTES:
            raise Unanswered(f"the answer is larger than {MOST_BYTES} bytes")
        # The library's time-out applies between two chunks, and a response may come a byte at a time.
        if time.monotonic() > until:
            raise _Retry("the answer does not end")
        parts.append(part)
    return b"".join(parts)


def _after(response: httpx.Response) -> float:
    """The seconds of Retry-After; 0 where there is none, or a date."""
    try:
        seconds = float(response.headers.get("Retry-After", ""))
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0


def _read(data: bytes, excerpt: str) -> Answer:
    """The text of a completion. An invalid one may come from a server that is just starting: it is retried."""
    try:
        choice = json.loads(data)["choices"][0]
        text, end = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise _Retry(f"not a completion: {excerpt}") from None
    if text is None and end == "content_filter":
        return Answer("")
    if not isinstance(text, str):
        raise _Retry(f"not a completion: {excerpt}")
    return Answer(text, cut=end == "length")
