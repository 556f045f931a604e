"""A client of the jobs of `bimo serve`: submits them, listens to their events, fetches their pictures.

By the standard library alone: `http.client` takes a few hundredths of a second to import, httpx ten times that, and it
is in an extra. No redirect is followed and no proxy asked: a key is sent to the address that was named, nowhere else.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import ssl
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

import pydantic

from bimo import __version__
from bimo.core.errors import RequestError
from bimo.core.files import MAXIMUM_PICTURE_BYTES
from bimo.core.messages import Message, language

#: Environment variables of the address and of the key: an option would show the key to every user of the machine.
ADDRESS_VARIABLE, KEY_VARIABLE = "BIMO_SERVER_URL", "BIMO_SERVER_KEY"
#: Seconds until a server answers the call at all; without a sign of it, of which it gives one every 15; and that are
#: spent on telling it that nobody waits any more.
CONNECT_SECONDS, SILENT_SECONDS, LEAVE_SECONDS = 10.0, 60.0, 2.0
#: More bytes are no answer, and no line of one.
MOST_ANSWER = 1 << 24
#: The most characters of a sentence of the server's that are shown.
MOST_SAID = 2000
PNG_BEGIN, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


def printable(text: str) -> str:
    """A sentence of the server's as a terminal may show it: what would steer the terminal is left out."""
    return "".join(character if character.isprintable() else " " for character in text[:MOST_SAID])


Said = Annotated[str, pydantic.AfterValidator(printable)]


class Failure(pydantic.BaseModel):
    """Why a job ended without its pictures."""

    message: Said


class JobPicture(pydantic.BaseModel):
    """A picture of a job. ``flagged`` is why it is kept back, ``layers`` the addresses of what it is made of."""

    place: Annotated[int, pydantic.Field(ge=0)]
    seed: int
    seconds: float
    warnings: list[Said]
    flagged: Said | None
    layers: list[str]


class ServerJob(pydantic.BaseModel):
    """A job as the server tells of it."""

    object: Literal["job"]
    id: Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    state: str
    notes: list[Said]
    pictures: list[JobPicture]
    error: Failure | None

    @property
    def path(self) -> str:
        """Its path below the server's address."""
        return f"/v1/jobs/{self.id}"


class JobStep(pydantic.BaseModel):
    """``done`` of ``steps`` steps of the picture at ``place``."""

    place: int
    done: int
    steps: int


class JobServer:
    """A running `bimo serve` at an address, "http://host:7860" or "host:7860". Every method raises RequestError for a
    server that is not there, refuses, stops in the middle, or is none of bimo.
    """

    def __init__(self, address: str, key: str = "") -> None:
        self.parts = _parts(address)
        self.address = self.parts.geturl()
        if not (key.isascii() and key.isprintable()):
            raise RequestError("{variable} holds characters that no key has; copy it again", variable=KEY_VARIABLE)
        self._headers = {
            "Accept-Language": language(),
            "User-Agent": f"bimo/{__version__}",
            **({"Authorization": f"Bearer {key}"} if key else {}),
        }

    def submit(self, body: Mapping[str, Any]) -> ServerJob:
        """Submits a job, the fields of ``POST /v1/jobs``."""
        with self._answer("POST", "/v1/jobs", json.dumps(body).encode()) as response:
            return self._job(self._read(response))

    def job(self, job: ServerJob) -> ServerJob:
        """The job as it is now."""
        with self._answer("GET", job.path) as response:
            return self._job(self._read(response))

    def events(self, job: ServerJob) -> Iterator[JobStep | ServerJob | None]:
        """What happens to a job until it ends: steps; None for a picture that has come; the job itself at last. The job
        is cancelled where the connection ends before it.
        """
        with self._answer("GET", f"{job.path}/events?leaving_cancels=true") as response:
            for kind, data in self._events(response):
                if kind == "step":
                    yield self._validated(JobStep, data)
                elif kind == "picture":
                    yield None
                elif kind == "ended":
                    yield self._job(data)
                    return
        raise self._stopped(Message("its events end"))

    def picture(self, job: ServerJob, place: int, layer: int = 0) -> bytes:
        """The PNG of a picture, or of one of its layers, from 1."""
        path = f"{job.path}/pictures/{place}" + (f"/layers/{layer}" if layer else "")
        with self._answer("GET", path) as response:
            content = self._read(response, MAXIMUM_PICTURE_BYTES)
        if not content.startswith(PNG_BEGIN):
            raise self._foreign(Message("no PNG"))
        if not content.endswith(PNG_END):
            raise self._stopped(Message("its picture ends early"))
        return content

    def cancel(self, job: ServerJob) -> None:
        """Cancels a job, if the server still hears."""
        with contextlib.suppress(RequestError), self._answer("POST", f"{job.path}/cancel", b"", LEAVE_SECONDS):
            pass

    @contextmanager
    def _answer(
        self, method: str, path: str, body: bytes | None = None, seconds: float = SILENT_SECONDS
    ) -> Generator[http.client.HTTPResponse]:
        """An answer that is none of refusal. Raises RequestError."""
        secure = self.parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(str(self.parts.hostname), self.parts.port, timeout=min(CONNECT_SECONDS, seconds))
        headers = self._headers | {"Connection": "close"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            self._connect(connection)
            connection.sock.settimeout(seconds)
            # A server that refuses a long body may do so, and close, before it has read all of it.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, self.parts.path + path, body, headers)
            response = connection.getresponse()
            if response.status >= 300:
                raise self._refused(response)
            yield response
        except TimeoutError:
            raise RequestError(
                "the server at {address} has said nothing for {seconds:.0f} seconds; see whether it is well, and draw "
                "again",
                address=self.address,
                seconds=seconds,
            ) from None
        except http.client.BadStatusLine as error:
            if isinstance(error, http.client.RemoteDisconnected):
                raise self._stopped(Message("it ended the connection")) from None
            raise self._foreign(Message("no HTTP")) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._stopped(_reason(error)) from None
        finally:
            connection.close()

    def _connect(self, connection: http.client.HTTPConnection) -> None:
        try:
            connection.connect()
        except ssl.SSLError as error:
            raise RequestError(
                "{address} cannot be asked by TLS ({reason}); see whether it is https:, and name the file of an "
                "authority of your own in SSL_CERT_FILE",
                address=self.address,
                reason=getattr(error, "verify_message", "") or error.reason or _reason(error),
            ) from None
        except OSError as error:
            raise RequestError(
                "there is no server at {address} ({reason}); name another by --server, or begin it there with "
                "bimo serve",
                address=self.address,
                reason=_reason(error),
            ) from None

    def _refused(self, response: http.client.HTTPResponse) -> RequestError:
        if response.status < 400:
            return RequestError(
                "the server at {address} sends on to {other}, and the key goes nowhere else; name that address by "
                "--server if it is the right one",
                address=self.address,
                other=printable(response.headers.get("Location", "?")),
            )
        try:
            sentence = printable(str(json.loads(self._read(response))["error"]["message"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return self._foreign(f"{response.status} {printable(response.reason)}")
        if response.status == 401:
            return RequestError(
                "the server refuses: {sentence}; the key goes into the environment variable {variable}",
                sentence=sentence,
                variable=KEY_VARIABLE,
            )
        return RequestError("the server refuses: {sentence}", sentence=sentence)

    def _events(self, response: http.client.HTTPResponse) -> Iterator[tuple[str, bytes]]:
        """(name, data) of server-sent events; comments keep the connection open."""
        name = ""
        while line := response.readline(MOST_ANSWER + 1):
            if len(line) > MOST_ANSWER:
                raise self._foreign(Message("an endless line"))
            field, _, value = line.strip().partition(b": ")
            if field == b"event":
                name = value.decode("ascii", "replace")
            elif field == b"data":
                yield name, value

    def _read(self, response: http.client.HTTPResponse, most: int | None = None) -> bytes:
        most = MOST_ANSWER if most is None else most
        content = response.read(most + 1)
        if len(content) > most:
            raise self._foreign(Message("more than {most} bytes", most=most))
        if response.length:  # what http.client still waits for: it answers what came, as if it were all
            raise self._stopped(Message("its answer ends early"))
        return content

    def _job(self, content: bytes) -> ServerJob:
        return self._validated(ServerJob, content)

    def _validated(self, kind: type[Any], content: bytes) -> Any:
        try:
            return kind.model_validate_json(content)
        except pydantic.ValidationError:
            raise self._foreign(printable(content[:60].decode("utf-8", "replace"))) from None

    def _foreign(self, answer: str | Message) -> RequestError:
        return RequestError(
            "{address} does not answer as bimo serve does ({answer}); name the address that bimo serve shows",
            address=self.address,
            answer=answer,
        )

    def _stopped(self, reason: str | Message) -> RequestError:
        return RequestError(
            "the server at {address} stopped in the middle ({reason}); what is written is whole, draw the rest again",
            address=self.address,
            reason=reason,
        )


def _parts(address: str) -> SplitResult:
    """The parts of an address without a slash at its end. Raises RequestError."""
    text = address.strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, sound = SplitResult("", "", "", "", ""), False
    plain = not (parts.query or parts.fragment or parts.username or parts.password)
    if not (sound and plain and text.isprintable() and text.isascii() and " " not in text):
        raise RequestError(
            "--server is {address!r}; expected the address that bimo serve shows, for instance "
            "http://192.168.1.5:7860, with the key in {variable}",
            address=re.sub("[^/]*@", "...@", address),  # what stands there may be a key
            variable=KEY_VARIABLE,
        )
    return parts._replace(path=parts.path.rstrip("/"))


def _reason(error: BaseException) -> str:
    """What went wrong, in a few words."""
    told = (error.strerror if isinstance(error, OSError) else "") or str(error)
    return printable(told) or type(error).__name__
