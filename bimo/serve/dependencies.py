"""Shared by the interfaces: FastAPI dependencies (service, caller, language), waiting for jobs, encoding pictures."""

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

from bimo.core.label import PNG_CHUNK
from bimo.core.messages import Message
from bimo.serve.events import Event
from bimo.serve.gate import spoken
from bimo.serve.jobs import Job, Order, State
from bimo.serve.keys import LOCAL, Caller
from bimo.serve.problems import ApiError
from bimo.serve.service import NO_SUCH_JOB, DrawingService

if TYPE_CHECKING:
    from PIL import Image

Format = Literal["png", "jpeg", "webp"]
MEDIA = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
#: The greatest length of an Idempotency-Key; longer ones are refused, as keys are stored.
MOST_IDEMPOTENCY = 255
GONE = Message("the client left before the picture was drawn")


def service_of(request: Request) -> DrawingService:
    """The drawing service of the application."""
    return cast(DrawingService, request.app.state.service)


def caller_of(request: Request) -> Caller:
    """The caller, as the gate has identified them."""
    return cast(Caller, request.scope.get("state", {}).get("caller") or LOCAL)


def language_of(request: Request) -> str:
    """The language of the client, "zh" or "en"."""
    return spoken(request.headers.get("accept-language"))


Service = Annotated[DrawingService, Depends(service_of)]
CurrentCaller = Annotated[Caller, Depends(caller_of)]
ClientLanguage = Annotated[str, Depends(language_of)]


async def accepted(request: Request, service: DrawingService, order: Order, pictures: Mapping[str, bytes]) -> Job:
    """Submits an order. Raises as ``DrawingService.accept``."""
    idempotency_key = request.headers.get("idempotency-key")
    if idempotency_key is not None and len(idempotency_key) > MOST_IDEMPOTENCY:
        raise ApiError(400, Message("Idempotency-Key is longer than {most} characters", most=MOST_IDEMPOTENCY))
    job = await run_in_threadpool(service.accept, order, pictures, idempotency_key)
    request.state.job = job.id
    return job


async def own_job(service: DrawingService, caller: Caller, name: str) -> Job:
    """A job that the caller may see. Raises ApiError."""
    job = await run_in_threadpool(service.job, name, caller.visible_key)
    if job is None:
        raise ApiError(404, NO_SUCH_JOB)
    return job


async def draw_and_wait(request: Request, service: DrawingService, order: Order, pictures: Mapping[str, bytes]) -> Job:
    """Submits an order and waits for its pictures; cancels it if the client disconnects. Raises ApiError for a failed
    job.
    """
    job = await accepted(request, service, order, pictures)
    finished = asyncio.ensure_future(service.wait(job.id))
    disconnected = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({finished, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if not finished.done():
            service.cancel(job.id)
            raise ApiError(499, GONE, code="client_closed_request")
        return whole(finished.result())
    finally:
        if not finished.done():
            service.cancel(job.id)
        for task in (finished, disconnected):
            task.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def attached(service: DrawingService, job: str) -> AsyncIterator[Event]:
    """The events of a job; the job is cancelled if the consumer stops early."""
    ended = False
    try:
        async for event in service.events(job):
            ended = event.kind == "ended"
            yield event
    finally:
        if not ended:
            service.cancel(job)


def whole(job: Job) -> Job:
    """The job itself if it has pictures to show. Raises ApiError if it failed or all are withheld."""
    if job.failure is not None:
        raise ApiError.of(job.failure)
    if job.state is not State.done:
        raise ApiError(500, Message("the job has no picture"))
    flagged = [picture.flagged for picture in job.pictures if picture.flagged is not None]
    if flagged and len(flagged) == len(job.pictures):
        raise ApiError.of(flagged[0])
    return job


def encoded(service: DrawingService, file: Path, kind: Format = "png", quality: int = 90) -> bytes:
    """The file of a picture, as stored or converted to another format, with its label and signature."""
    png = file.read_bytes()
    if kind == "png":
        return png
    content, credentials = recoded(png, kind, quality), service.settings.credentials
    return content if credentials is None else credentials.signed(content)


def recoded(png: bytes, kind: Format, quality: int = 90) -> bytes:
    """Converts a PNG to another format; JPEG has no transparency, and what shows through there is white. XMP, which has
    the label, is kept; bimo's metadata is not, nor are content credentials, which are valid only for the original
    bytes.
    """
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        kept = image if kind == "webp" and image.mode == "RGBA" else on_white(image)
        return shot(kept, kind, quality, _xmp(image))


def on_white(image: Image.Image) -> Image.Image:
    """A picture without transparency."""
    from PIL import Image

    if image.mode != "RGBA":
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white.convert("RGB")


def shot(image: Image.Image, kind: Format = "jpeg", quality: int = 80, xmp: bytes | None = None) -> bytes:
    """Encodes an image with its XMP, such as the label of a preview, or with another."""
    from PIL.PngImagePlugin import PngInfo

    buffer, xmp = io.BytesIO(), xmp or _xmp(image)
    settings: dict[str, Any] = {} if kind == "png" else {"quality": quality}
    if xmp and kind == "png":
        settings["pnginfo"] = PngInfo()
        settings["pnginfo"].add_itxt(PNG_CHUNK, xmp.decode())
    elif xmp:
        settings["xmp"] = xmp
    image.save(buffer, kind.upper(), **settings)
    return buffer.getvalue()


def _xmp(image: Image.Image) -> bytes | None:
    xmp = image.info.get("xmp") or image.info.get(PNG_CHUNK)
    return xmp.encode() if isinstance(xmp, str) else xmp


class Links:
    """Signed URLs of pictures that expire."""

    def __init__(self, secret: str, seconds: int) -> None:
        self._secret, self.seconds = secret.encode(), seconds

    def path(self, job: str, place: int, kind: Format = "png", layer: int = 0) -> str:
        """The path with its time of expiry and a signature (HMAC-SHA256); of a layer of the picture where one is named,
        from 1.
        """
        until = int(time.time()) + self.seconds
        name = f"{place}.layer-{layer}.{kind}" if layer else f"{place}.{kind}"
        return f"/files/{job}/{name}?until={until}&signature={self._signature(job, name, until)}"

    def good(self, job: str, name: str, until: int, signature: str) -> bool:
        """Whether a path is correctly signed and has not expired."""
        expected = self._signature(job, name, until).encode()
        return hmac.compare_digest(expected, signature.encode("utf-8", "replace")) and until >= time.time()

    def _signature(self, job: str, name: str, until: int) -> str:
        return hmac.new(self._secret, f"{job}/{name}/{until}".encode(), hashlib.sha256).hexdigest()


def links_of(request: Request) -> Links:
    """The URL signer of the application."""
    return cast(Links, request.app.state.links)


def address(request: Request, path: str) -> str:
    """The absolute URL of a path, as seen by the client: by https where a proxy says so, which changes links alone."""
    by_https = request.headers.get("x-forwarded-proto") == "https"
    base = request.base_url.replace(scheme="https") if by_https else request.base_url
    return str(base).rstrip("/") + path


def file_of(job: Job, place: int, layer: int = 0) -> Path:
    """The file of a picture of a job, or of one of its layers, from 1. Raises ApiError if it does not exist or is
    withheld.
    """
    picture = next((picture for picture in job.pictures if picture.place == place), None)
    files = () if picture is None else (picture.file, *picture.layers)
    if picture is None or not 0 <= layer < len(files) or not files[layer].is_file():
        where = Message("{place}, layer {layer}", place=place, layer=layer) if layer else place
        raise ApiError(404, Message("this job has no picture {place}", place=where))
    if picture.flagged is not None:
        raise ApiError.of(picture.flagged)
    return files[layer]
