"""OpenAI's Images API: generations, edits, variations, models, with streamed previews, after its reference
(platform.openai.com/docs/api-reference/images); extensions are documented in docs/en/serving.md.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Literal

import pydantic
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from bimo.core.errors import RequestError
from bimo.core.lora_weight import LoraWeight
from bimo.core.messages import Message, say
from bimo.models.qwen_image.layered import LAYERS
from bimo.serve.admission import lora_weight
from bimo.serve.dependencies import (
    ClientLanguage,
    CurrentCaller,
    Format,
    Service,
    accepted,
    address,
    attached,
    draw_and_wait,
    encoded,
    file_of,
    links_of,
    shot,
    whole,
)
from bimo.serve.infotext import recorded_text
from bimo.serve.jobs import CONDITION, Job, Order, StoredPicture
from bimo.serve.keys import Caller
from bimo.serve.problems import ApiError, Json, form
from bimo.serve.service import DrawingService
from bimo.serve.sse import EventStream, event
from bimo.serve.uploads import bounded, painted_where_transparent

router = APIRouter(prefix="/v1", tags=["OpenAI Images"])

#: Factors of the model's default number of steps.
QUALITIES = {"low": 0.5, "medium": 1.0, "standard": 1.0, "auto": 1.0, "high": 1.5, "hd": 1.5, "xhigh": 2.0, "max": 2.0}
#: The styles of OpenAI's own dall-e-3, which its clients send unasked: none of ours, and no reason to refuse a request.
DALLE_STYLES = ("vivid", "natural")
#: The default strength of variations.
VARIATION_STRENGTH = 0.6
_SIZE = re.compile(r"([0-9]{1,5})[xX]([0-9]{1,5})")

Quality = Literal["auto", "low", "medium", "standard", "high", "hd", "xhigh", "max"]


class ImagesRequest(pydantic.BaseModel):
    """OpenAI's fields, and bimo's own from ``negative_prompt`` on, which clients send in ``extra_body``."""

    model_config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())

    prompt: str | None = pydantic.Field(None, examples=["红苹果，3D风格"])
    model: str | None = None
    n: int | None = pydantic.Field(None, ge=1, le=10)
    size: str | None = pydantic.Field(None, examples=["128x128", "auto"])
    quality: Quality | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: int | None = pydantic.Field(None, ge=0, le=100)
    background: Literal["auto", "opaque", "transparent"] | None = None
    moderation: Literal["auto", "low"] | None = None
    partial_images: int | None = pydantic.Field(None, ge=0, le=3)
    stream: bool | None = None
    style: str | None = None
    user: str | None = pydantic.Field(None, max_length=512)
    safety_identifier: str | None = pydantic.Field(None, max_length=512)
    input_fidelity: Literal["low", "high"] | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    strength: float | None = None
    layers: int | None = pydantic.Field(None, ge=1, le=1000, description="of a model that draws layers, how many")
    loras: dict[str, float | str] | None = pydantic.Field(None, examples=[{"ink": 0.8}, {"ink": "0.8@0.2-0.6"}])


@router.post("/images/generations", summary="Draw pictures of a prompt", responses={200: {"content": {}}})
async def generations(
    body: ImagesRequest, request: Request, service: Service, caller: CurrentCaller, language: ClientLanguage
) -> Response:
    """Pictures of a prompt, in base64 or as expiring URLs; with ``stream`` as server-sent events."""
    return await _answer(body, {}, request, service, caller, language, "image_generation")


@router.post(
    "/images/edits",
    summary="Draw into a picture, or after it",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["prompt", "image"],
                        "properties": {
                            "prompt": {"type": "string"},
                            "image": {"type": "string", "format": "binary"},
                            "mask": {"type": "string", "format": "binary"},
                        },
                    }
                }
            },
        }
    },
)
async def edits(request: Request, service: Service, caller: CurrentCaller, language: ClientLanguage) -> Response:
    """A picture drawn after ``image``, or ``image`` edited as the prompt says; with ``mask`` only where that is
    transparent (or white, where it has no transparency), and without one where the image itself is transparent. Further
    pictures, as ``image[]``, are for models that draw from several.
    """
    body, files = await _form(request)
    pictures = await run_in_threadpool(_edited, files)
    return await _answer(body, pictures, request, service, caller, language, "image_edit")


@router.post(
    "/images/variations",
    summary="Vary a picture",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["image"],
                        "properties": {"image": {"type": "string", "format": "binary"}},
                    }
                }
            },
        }
    },
)
async def variations(request: Request, service: Service, caller: CurrentCaller, language: ClientLanguage) -> Response:
    """Image-to-image from ``image``, with ``prompt`` or the one in the picture's metadata."""
    body, files = await _form(request)
    image = await run_in_threadpool(_only_one, files, "image")
    prompt = body.prompt or await run_in_threadpool(recorded_text, image)
    if not prompt:
        raise ApiError(
            400,
            Message("this picture carries no record of how it was drawn; say what is on it: prompt"),
            param="prompt",
        )
    body = body.model_copy(update={"prompt": prompt, "strength": body.strength or VARIATION_STRENGTH})
    return await _answer(body, {"image": image}, request, service, caller, language, "image_edit")


@router.get("/models", summary="Which models there are")
async def models(service: Service) -> dict[str, Any]:
    """The models that a request may name."""
    return {"object": "list", "data": [_model(name) for name in service.pool.models]}


@router.get("/models/{name}", summary="One model")
async def model(name: str, service: Service) -> dict[str, Any]:
    """A model that a request may name."""
    if name not in service.pool.models:
        raise _no_model(service, name)
    return _model(name)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "bimo"}


def _no_model(service: DrawingService, name: str) -> ApiError:
    try:
        service.pool.model_name(name)
    except RequestError as error:
        return ApiError(404, error.message, code="model_not_found", param="model")
    raise AssertionError(name)


async def _answer(
    body: ImagesRequest,
    pictures: Mapping[str, bytes],
    request: Request,
    service: DrawingService,
    caller: Caller,
    language: str,
    kind: str,
) -> Response:
    order = await run_in_threadpool(_order, body, pictures, service, caller)
    if body.stream:
        job = await accepted(request, service, order, pictures)
        return EventStream(_streamed(body, job, service, language, kind))
    job = await draw_and_wait(request, service, order, pictures)
    return Json(await run_in_threadpool(_answered, body, job, request, service))


def _order(body: ImagesRequest, pictures: Mapping[str, bytes], service: DrawingService, caller: Caller) -> Order:
    """The order of a request. Raises RequestError, ApiError."""
    if not (body.prompt or "").strip():
        raise ApiError(400, Message("the prompt is empty; write a sentence of what to draw"), param="prompt")
    if body.model and body.model not in service.pool.models:
        raise _no_model(service, body.model)
    if body.background == "transparent":
        raise ApiError(
            400,
            Message("whether a picture is transparent is for its model and the prompt to say; leave background out"),
            param="background",
        )
    if body.partial_images and not body.stream:
        raise ApiError(
            400, Message("partial_images come in a stream alone; set stream to true"), param="partial_images"
        )
    if body.output_compression not in (None, 100) and body.output_format in (None, "png"):
        raise ApiError(
            400, Message("PNG has no output_compression; let output_format be jpeg or webp"), param="output_compression"
        )
    steps = body.num_inference_steps
    share = QUALITIES[body.quality or "auto"]
    if steps is None and share != 1.0:
        steps = max(1, round(service.own_steps(body.model) * share))
    values: dict[str, Any] = {
        "text": body.prompt,
        "negative": body.negative_prompt,
        "size": _size(body.size),
        "count": body.n,
        "seed": body.seed,
        "steps": steps,
        "guidance": body.guidance_scale,
        "sampler": body.sampler,
        "style": None if body.style in DALLE_STYLES else body.style,
        "strength": body.strength if "image" in pictures else None,
        "conditions": None if body.layers is None else {LAYERS: [body.layers]},
    }
    return service.order(
        values,
        key=caller.name,
        client="openai",
        model=body.model,
        loras=[(name, _weight(name, weight)) for name, weight in (body.loras or {}).items()],
        previews=(body.partial_images or 0) if body.stream else 0,
        note={name: value for name, value in (("user", body.user),) if value},
    )


def _weight(name: str, weight: float | str) -> LoraWeight:
    return lora_weight(name, weight) if isinstance(weight, str) else LoraWeight(weight)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None or text in ("", "auto"):
        return None
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ApiError(
            400, Message("size is {text!r}; expected WIDTHxHEIGHT, as 1024x1024, or auto", text=text), param="size"
        )
    return int(match[1]), int(match[2])


def _answered(body: ImagesRequest, job: Job, request: Request, service: DrawingService) -> dict[str, Any]:
    kind: Format = body.output_format or "png"
    data: list[dict[str, Any]] = []
    for picture, layer in _shown(job):
        if body.response_format == "url":
            fields = {"url": address(request, links_of(request).path(job.id, picture.place, kind, layer))}
        else:
            fields = {"b64_json": _file(service, body, job, picture.place, layer)}
        data.append({**fields, "seed": picture.seed} | ({"layer": layer} if layer else {}))
    return {"created": int(job.order.created), "data": data, **_facts(body, job, service)}


def _shown(job: Job) -> list[tuple[StoredPicture, int]]:
    """The pictures that are not withheld, each followed by its layers, from 1."""
    kept = (picture for picture in job.pictures if picture.flagged is None)
    return [(picture, layer) for picture in kept for layer in range(1 + len(picture.layers))]


def _facts(body: ImagesRequest, job: Job, service: DrawingService) -> dict[str, Any]:
    first = job.pictures[0]
    tokens = service.tokens(job.order)
    ignored = [say("{name} is not done here; it changed nothing", name="style")] if body.style in DALLE_STYLES else []
    kind = body.output_format or "png"
    return {
        "background": "transparent" if kind != "jpeg" and _has_opacity(first) else "opaque",
        "output_format": kind,
        "quality": body.quality or "auto",
        "size": f"{first.width}x{first.height}",
        "usage": {
            "input_tokens": tokens,
            "input_tokens_details": {"text_tokens": tokens, "image_tokens": 0},
            "output_tokens": 0,
            "total_tokens": tokens,
        },
        "warnings": list(dict.fromkeys([*ignored, *(each for one in job.pictures for each in one.warnings)])),
    }


def _has_opacity(picture: StoredPicture) -> bool:
    from PIL import Image

    with Image.open(picture.file) as image:
        return image.mode == "RGBA"


def _file(service: DrawingService, body: ImagesRequest, job: Job, place: int, layer: int = 0) -> str:
    quality = 90 if body.output_compression is None else body.output_compression
    return base64.b64encode(encoded(service, file_of(job, place, layer), body.output_format or "png", quality)).decode()


async def _streamed(
    body: ImagesRequest, job: Job, service: DrawingService, language: str, kind: str
) -> AsyncGenerator[bytes]:
    """Streams previews, then the pictures. Errors after the first byte are events, too."""
    shown = 0
    common = {
        "created_at": int(time.time()),
        "background": "opaque",
        "output_format": body.output_format or "png",
        "quality": body.quality or "auto",
    }
    try:
        async for happened in attached(service, job.id):
            if happened.kind == "step" and happened.preview is not None and shown < (body.partial_images or 0):
                content = await run_in_threadpool(shot, happened.preview, body.output_format or "png", 80)
                size = f"{happened.preview.width}x{happened.preview.height}"
                payload = {"b64_json": base64.b64encode(content).decode(), "partial_image_index": shown, "size": size}
                name = f"{kind}.partial_image"
                yield event(name, {"type": name} | common | payload)
                shown += 1
        ended = await run_in_threadpool(service.job, job.id)
        assert ended is not None
        for picture, layer in _shown(whole(ended)):
            content = await run_in_threadpool(_file, service, body, ended, picture.place, layer)
            name = f"{kind}.completed"
            payload = {"b64_json": content, "seed": picture.seed, "created_at": common["created_at"]}
            payload |= {"layer": layer} if layer else {}
            yield event(name, {"type": name} | await run_in_threadpool(_facts, body, ended, service) | payload)
    except ApiError as error:
        problem = form("/v1/", error.status, error.code, error.message.said(language))
        yield event("error", {"type": "error"} | problem)


async def _form(request: Request) -> tuple[ImagesRequest, dict[str, list[bytes]]]:
    """Reads the fields and files of a form. Raises ApiError."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ApiError(415, Message("expected a form with files: Content-Type: multipart/form-data"))
    fields: dict[str, Any] = {}
    files: dict[str, list[bytes]] = {}
    async with request.form(max_files=16, max_fields=64, max_part_size=1 << 20) as sent:
        for name, value in sent.multi_items():
            if isinstance(value, UploadFile):
                files.setdefault(name.removesuffix("[]"), []).append(await value.read())
            elif name in fields:
                raise ApiError(400, Message("{name} comes twice", name=name), param=name)
            else:
                fields[name] = value
    if isinstance(fields.get("loras"), str):
        try:
            fields["loras"] = json.loads(fields["loras"])
        except (ValueError, RecursionError):
            raise ApiError(400, Message('loras is no JSON; expected {{"name": 0.8}}'), param="loras") from None
    for name in files.keys() - {"image", "mask"}:
        raise ApiError(400, Message("a file {name!r} is not known; there is image, and mask", name=name), param=name)
    try:
        return ImagesRequest(**fields), files
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        message = Message("{where} of the request is wrong: {first}", where=where, first=first["msg"])
        raise ApiError(400, message, param=where) from None


def _only_one(files: Mapping[str, list[bytes]], name: str) -> bytes:
    pictures = files.get(name, [])
    if len(pictures) != 1:
        message = Message("{count} pictures came as {name}; expected one", count=len(pictures), name=name)
        raise ApiError(400, message, param=name)
    return bounded(pictures[0], name)


def _edited(files: Mapping[str, list[bytes]]) -> dict[str, bytes]:
    """The image, further images and mask of a Request. Raises RequestError."""
    others = {f"{CONDITION}image-{n}": bounded(one, "image") for n, one in enumerate(files.get("image", [])[1:], 2)}
    image, masks = _only_one({"image": files.get("image", [])[:1]}, "image"), files.get("mask", [])
    if len(masks) > 1:
        raise ApiError(400, Message("{count} pictures came as {name}; expected one", count=len(masks), name="mask"))
    mask = painted_where_transparent(bounded(masks[0], "mask"), image) if masks else None
    if mask is None and not masks:
        mask = painted_where_transparent(image, image, only=True)
    return {"image": image} | ({} if mask is None else {"mask": mask}) | others
