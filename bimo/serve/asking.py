"""What the interfaces share: who asks and in which language, jobs that are waited for, pictures as they are sent."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import io
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from bimo.core.messages import Message
from bimo.serve.events import Event
from bimo.serve.gate import spoken
from bimo.serve.jobs import Drawn, Job, Order, State
from bimo.serve.keys import LOCAL, Caller
from bimo.serve.problems import ApiError
from bimo.serve.service import NO_SUCH_JOB, DrawingService

if TYPE_CHECKING:
    from PIL import Image

Format = Literal["png", "jpeg", "webp"]
MEDIA = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
GONE = Message("the client left before the picture was drawn")


def service_of(request: Request) -> DrawingService:
    """The server's drawing."""
    return cast(DrawingService, request.app.state.service)


def caller_of(request: Request) -> Caller:
    """Who asks, as the gate found out."""
    return cast(Caller, request.scope.get("state", {}).get("caller") or LOCAL)


def language_of(request: Request) -> str:
    """The language of the client, "zh" or "en"."""
    return spoken(request.headers.get("accept-language"))


Service = Annotated[DrawingService, Depends(service_of)]
Asking = Annotated[Caller, Depends(caller_of)]
Spoken = Annotated[str, Depends(language_of)]


async def accepted(request: Request, service: DrawingService, order: Order, pictures: Mapping[str, bytes]) -> Job:
    """The job of an order, stored. Raises as ``DrawingService.accept``."""
    again = request.headers.get("idempotency-key")
    job = await run_in_threadpool(service.accept, order, pictures, again)
    request.state.job = job.id
    return job


async def own_job(service: DrawingService, caller: Caller, name: str) -> Job:
    """A job that the caller may see. Raises ApiError."""
    job = await run_in_threadpool(service.job, name, caller.sees)
    if job is None:
        raise ApiError(404, NO_SUCH_JOB)
    return job


async def drawn(request: Request, service: DrawingService, order: Order, pictures: Mapping[str, bytes]) -> Job:
    """Accepts an order and waits until its pictures are there. A client that leaves meanwhile ends it. Raises ApiError
    for a job that failed.
    """
    job = await accepted(request, service, order, pictures)
    waiting = asyncio.ensure_future(service.wait(job.id))
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            service.cancel(job.id)
            raise ApiError(499, GONE, code="client_closed_request")
        return whole(waiting.result())
    finally:
        if not waiting.done():
            service.cancel(job.id)
        for task in (waiting, leaving):
            task.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def attached(service: DrawingService, job: str) -> AsyncIterator[Event]:
    """The events of a job that ends when nobody listens any more."""
    ended = False
    try:
        async for event in service.events(job):
            ended = event.kind == "ended"
            yield event
    finally:
        if not ended:
            service.cancel(job)


def whole(job: Job) -> Job:
    """A job with all of its pictures. Raises ApiError for one that has none to show."""
    if job.failure is not None:
        raise ApiError.of(job.failure)
    if job.state is not State.done:
        raise ApiError(500, Message("the job has no picture"))
    flagged = [picture.flagged for picture in job.pictures if picture.flagged is not None]
    if flagged and len(flagged) == len(job.pictures):
        raise ApiError.of(flagged[0])
    return job


def encoded(service: DrawingService, picture: Drawn, kind: Format = "png", quality: int = 90) -> bytes:
    """The file of a picture, as it was stored or in another format, with what its law wants it to say, and signed."""
    png = picture.file.read_bytes()
    if kind == "png":
        return png
    content, credentials = recoded(png, kind, quality), service.settings.credentials
    return content if credentials is None else credentials.signed(content)


def recoded(png: bytes, kind: Format, quality: int = 90) -> bytes:
    """A PNG in another format. Its XMP, where a label is, goes along; the record of how it was drawn does not, nor do
    credentials, which are of the file's own bytes.
    """
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
        return shot(image.convert("RGB"), kind, quality, xmp.encode() if isinstance(xmp, str) else xmp)


def shot(image: Image.Image, kind: Format = "jpeg", quality: int = 80, xmp: bytes | None = None) -> bytes:
    """An image as a file."""
    buffer = io.BytesIO()
    settings: dict[str, Any] = {} if kind == "png" else {"quality": quality}
    if xmp and kind != "png":
        settings["xmp"] = xmp
    image.save(buffer, kind.upper(), **settings)
    return buffer.getvalue()


class Links:
    """Addresses of pictures that work for a while and for nobody who did not get them."""

    def __init__(self, secret: str, seconds: int) -> None:
        self._secret, self.seconds = secret.encode(), seconds

    def path(self, job: str, place: int, kind: Format = "png") -> str:
        """The path, with until when it works and a signature (HMAC-SHA256)."""
        until = int(time.time()) + self.seconds
        return f"/files/{job}/{place}.{kind}?until={until}&signature={self._signature(job, place, kind, until)}"

    def good(self, job: str, place: int, kind: str, until: int, signature: str) -> bool:
        """Whether a path was made here and still works."""
        wanted = self._signature(job, place, kind, until).encode()
        return hmac.compare_digest(wanted, signature.encode("utf-8", "replace")) and until >= time.time()

    def _signature(self, job: str, place: int, kind: str, until: int) -> str:
        return hmac.new(self._secret, f"{job}/{place}.{kind}/{until}".encode(), hashlib.sha256).hexdigest()


def links_of(request: Request) -> Links:
    """The server's addresses of pictures."""
    return cast(Links, request.app.state.links)


def address(request: Request, path: str) -> str:
    """A path of this server as its client may call it."""
    return str(request.base_url).rstrip("/") + path


def file_of(job: Job, place: int) -> Drawn:
    """A picture of a job. Raises ApiError where there is none, or it is not shown."""
    found = next((picture for picture in job.pictures if picture.place == place), None)
    if found is None or not Path(found.file).is_file():
        raise ApiError(404, Message("this job has no picture {place}", place=place))
    if found.flagged is not None:
        raise ApiError.of(found.flagged)
    return found
