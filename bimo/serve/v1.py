"""bimo's own API: submitting, listing, watching and cancelling jobs; history; recipes."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

import pydantic
from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from bimo.core.lora_weight import LoraWeight
from bimo.core.messages import Message
from bimo.core.request import Region
from bimo.hub import model_info, registry
from bimo.serve.admission import MOST_WEIGHT, check_names
from bimo.serve.dependencies import (
    MEDIA,
    ClientLanguage,
    CurrentCaller,
    Format,
    Service,
    accepted,
    attached,
    encoded,
    file_of,
    own_job,
    shot,
)
from bimo.serve.events import Event
from bimo.serve.jobs import CONDITION, ENDED, Job, State
from bimo.serve.problems import ApiError
from bimo.serve.service import DrawingService
from bimo.serve.sse import EventStream, event
from bimo.serve.uploads import decoded

router = APIRouter(prefix="/v1", tags=["bimo"])


class Lora(pydantic.BaseModel):
    """A LoRA of this server by name, its weight, and the range of steps in which it is active, as fractions."""

    model_config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str
    weight: float = pydantic.Field(1.0, ge=-MOST_WEIGHT, le=MOST_WEIGHT, allow_inf_nan=False)
    first: float = pydantic.Field(0.0, ge=0, le=1, description="the share of the steps it counts from")
    last: float = pydantic.Field(1.0, ge=0, le=1, description="the share of the steps it counts up to")


class JobRequest(pydantic.BaseModel):
    """The fields of a Request, with pictures in base64, and the settings of the job."""

    model_config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)

    text: str = pydantic.Field(examples=["红苹果，3D风格"])
    negative: str | None = None
    size: tuple[int, int] | None = pydantic.Field(None, examples=[[128, 128]])
    count: int = 1
    seed: int | None = pydantic.Field(None, examples=[1])
    steps: int | None = pydantic.Field(None, examples=[12])
    guidance: float | None = None
    sampler: str | None = None
    schedule: str | None = None
    spacing: str | None = None
    eta: float | None = None
    guidance_rescale: float | None = None
    clip_skip: int | None = None
    outpaint: tuple[int, int, int, int] | None = pydantic.Field(None, description="left, top, right, bottom in pixels")
    feather: int | None = None
    regions: list[Region] | None = pydantic.Field(None, description="prompts for boxes, or colours of region_map")
    region_map: str | None = pydantic.Field(None, description="a picture in base64")
    base_ratio: float | None = None
    hires: float | None = pydantic.Field(None, description="how many times larger it is drawn over")
    hires_strength: float | None = None
    hires_steps: int | None = None
    hires_upscaler: str | None = None
    tile_size: int | None = None
    tile_overlap: int | None = None
    subseed: int | None = None
    subseed_strength: float | None = None
    seamless: str | None = pydantic.Field(None, description="x, y or both")
    style: str | None = None
    drawn_text: str | None = pydantic.Field(None, description="what the model reads in place of text")
    draft: float | None = pydantic.Field(None, description="the share of the steps over a draft by program, 0 for none")
    conditions: dict[str, list[float]] | None = None
    guidance_weights: dict[str, float] | None = None
    strength: float | None = None
    guidance_interval: tuple[float, float] | None = pydantic.Field(None, description="the shares of the steps guided")
    guidance_every: int | None = pydantic.Field(None, description="the other branches of guidance every so many steps")
    step_cache: str | None = pydantic.Field(None, examples=["easy:0.05"])
    token_merging: float | None = None
    nag: float | None = pydantic.Field(None, description="the scale of a negative prompt without guidance")
    tiny_decoder: bool | None = pydantic.Field(None, description="decode by the small decoder that the model came with")
    inscribe: list[str] | None = pydantic.Field(None, description="texts that must stand in the picture; [] for none")
    writing: Literal["horizontal", "vertical", "couplet", "seal"] | None = None
    font: str | None = pydantic.Field(None, description="a font family of the server")
    inscribe_box: tuple[float, float, float, float] | None = pydantic.Field(
        None, description="left, top, width, height as shares of the picture"
    )
    inscribe_at: Literal["thing", "lantern", "signboard", "seal"] | None = None
    inscribe_method: Literal["drawn", "conditioned", "composed"] | None = None
    long_prompt: Literal["cut", "chunks"] | None = None
    original_text: str | None = pydantic.Field(None, description="what text was expanded or translated from")
    image: str | None = pydantic.Field(None, description="a picture in base64")
    mask: str | None = pydantic.Field(None, description="white: to be painted; in base64")
    condition_images: dict[str, str] | None = pydantic.Field(None, description="pictures in base64 by name")
    model: str | None = None
    loras: list[Lora] = []
    controlnets: list[str] = pydantic.Field(
        [], max_length=8, description="the first reads the picture control of condition_images, the next control-2 ..."
    )
    priority: int = pydantic.Field(0, ge=-1, le=1)
    previews: int = pydantic.Field(0, ge=0, le=8, description="how many previews are made on the way")
    seconds: float | None = pydantic.Field(
        None, gt=0, le=86400, allow_inf_nan=False, description="after so long the job fails unless it is drawn"
    )


#: Fields of JobRequest that are not fields of a Request, or are pictures.
_APART = frozenset(
    (
        *("image", "mask", "region_map", "condition_images"),
        *("model", "loras", "controlnets", "priority", "previews", "seconds"),
    )
)


def job_json(job: Job, service: DrawingService, language: str) -> dict[str, Any]:
    """A job as JSON."""
    order = job.order
    step = service.progress(job.id)
    failure = None if job.failure is None else {"code": job.failure.code, "message": job.failure.said(language)}
    pictures = [
        {
            "url": f"/v1/jobs/{job.id}/pictures/{each.place}",
            "place": each.place,
            "width": each.width,
            "height": each.height,
            "seed": each.seed,
            "seconds": round(each.seconds, 3),
            "warnings": list(each.warnings),
            "flagged": None if each.flagged is None else each.flagged.said(language),
            "layers": [
                f"/v1/jobs/{job.id}/pictures/{each.place}/layers/{layer}" for layer in range(1, len(each.layers) + 1)
            ],
        }
        for each in job.pictures
    ]
    return {
        "id": job.id,
        "object": "job",
        "state": job.state.value,
        "model": order.model,
        "client": order.client,
        "request": dict(order.values),
        "loras": [{"name": name, "weight": w.value, "first": w.first, "last": w.last} for name, w in order.loras],
        "controlnets": list(order.controls),
        "priority": order.priority,
        "created": order.created,
        "begun": job.begun,
        "ended": job.ended,
        "attempts": job.attempts,
        "step": None if step is None else {"place": step.place, "done": step.done, "steps": step.steps},
        "pictures": pictures,
        "notes": list(order.notes),
        "error": failure,
    }


@router.post("/jobs", status_code=202, summary="Submit a job")
async def submit(
    body: JobRequest, request: Request, service: Service, caller: CurrentCaller, language: ClientLanguage
) -> dict[str, Any]:
    """Submits a job and returns at once. The same ``Idempotency-Key`` returns the existing job."""
    values = {name: value for name, value in body if name not in _APART and value is not None}
    if body.regions is not None:
        values["regions"] = [region.model_dump(exclude_defaults=True) for region in body.regions]
    pictures = await run_in_threadpool(_pictures, body)
    order = service.order(
        values,
        key=caller.name,
        client="v1",
        model=body.model,
        loras=[(lora.name, LoraWeight(lora.weight, lora.first, lora.last)) for lora in body.loras],
        controls=body.controlnets,
        priority=body.priority,
        previews=body.previews,
        seconds=body.seconds,
    )
    job = await accepted(request, service, order, pictures)
    return job_json(job, service, language)


def _pictures(body: JobRequest) -> dict[str, bytes]:
    """The pictures of a request by their names in an order. Raises RequestError."""
    own = {"image": body.image, "mask": body.mask, "region_map": body.region_map}
    check_names("condition_images", body.condition_images)
    pictures = {name: decoded(text, name) for name, text in own.items() if text is not None}
    return pictures | {CONDITION + name: decoded(text, name) for name, text in (body.condition_images or {}).items()}


@router.get("/jobs", summary="List jobs, the newest first")
async def listed(
    service: Service,
    caller: CurrentCaller,
    language: ClientLanguage,
    state: State | None = None,
    q: Annotated[str, Query(max_length=200, description="what the prompt has")] = "",
    before: Annotated[float | None, Query(description="made before this time", allow_inf_nan=False)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> dict[str, Any]:
    """The caller's own jobs; those of all keys for an admin."""
    jobs = await run_in_threadpool(service.store.jobs, caller.visible_key, state, q, before, limit)
    return {"object": "list", "data": [job_json(job, service, language) for job in jobs]}


@router.get("/history", summary="What was drawn, the newest first")
async def history(
    service: Service,
    caller: CurrentCaller,
    language: ClientLanguage,
    q: Annotated[str, Query(max_length=200)] = "",
    before: Annotated[float | None, Query(allow_inf_nan=False)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> dict[str, Any]:
    """The caller's own finished jobs."""
    jobs = await run_in_threadpool(service.store.jobs, caller.visible_key, State.done, q, before, limit)
    return {"object": "list", "data": [job_json(job, service, language) for job in jobs]}


@router.get("/jobs/{name}", summary="One job")
async def one(name: str, service: Service, caller: CurrentCaller, language: ClientLanguage) -> dict[str, Any]:
    """A job of the caller's."""
    return job_json(await own_job(service, caller, name), service, language)


@router.post("/jobs/{name}/cancel", summary="Cancel a job")
async def cancel(name: str, service: Service, caller: CurrentCaller, language: ClientLanguage) -> dict[str, Any]:
    """Cancels a job before its next step and returns it; an ended job is returned unchanged."""
    job = await own_job(service, caller, name)
    if job.state not in ENDED and service.cancel(name):
        job = await service.wait(name)
    return job_json(job, service, language)


@router.delete("/jobs/{name}", status_code=204, summary="Cancel a job, or take it out of the history")
async def forget(name: str, service: Service, caller: CurrentCaller) -> Response:
    """Cancels a job if necessary, and deletes it with its pictures."""
    job = await own_job(service, caller, name)
    if job.state not in ENDED and service.cancel(name):
        await service.wait(name)
    await run_in_threadpool(service.store.forget, name)
    return Response(status_code=204)


@router.get(
    "/jobs/{name}/events",
    summary="How a job goes, as server-sent events",
    responses={200: {"content": {"text/event-stream": {}}, "description": "state, step, picture, ended"}},
    response_class=Response,
)
async def events(
    name: str, service: Service, caller: CurrentCaller, language: ClientLanguage, leaving_cancels: bool = False
) -> EventStream:
    """``state`` with the job, ``step`` with a preview where there is one (JPEG in base64), ``picture``, and ``ended``
    with the job, which is last. With ``leaving_cancels`` the job ends when the connection does.
    """
    await own_job(service, caller, name)

    async def stream_events() -> AsyncGenerator[bytes]:
        job = await own_job(service, caller, name)
        yield event("state", job_json(job, service, language))
        if job.state not in ENDED:
            stream = attached(service, name) if leaving_cancels else service.events(name)
            async for each in stream:
                if each.kind in ("step", "picture"):
                    yield event(each.kind, _event_json(each, name))
        yield event("ended", job_json(await own_job(service, caller, name), service, language))

    return EventStream(stream_events())


def _event_json(happened: Event, job: str) -> dict[str, Any]:
    if happened.kind == "picture":
        return {"place": happened.place, "url": f"/v1/jobs/{job}/pictures/{happened.place}"}
    data: dict[str, Any] = {"place": happened.place, "done": happened.done, "steps": happened.steps}
    if happened.preview is not None:
        data["preview"] = base64.b64encode(shot(happened.preview)).decode()
    return data


@router.get(
    "/jobs/{name}/pictures/{place}",
    summary="A picture of a job",
    responses={200: {"content": {kind: {} for kind in MEDIA.values()}, "description": "the file"}},
    response_class=Response,
)
async def picture(name: str, place: int, service: Service, caller: CurrentCaller, format: Format = "png") -> Response:
    """The picture, as PNG with its record, or in another format."""
    return await _file(service, file_of(await own_job(service, caller, name), place), format)


@router.get(
    "/jobs/{name}/pictures/{place}/layers/{layer}",
    summary="A layer of a picture of a job",
    responses={200: {"content": {kind: {} for kind in MEDIA.values()}, "description": "the file"}},
    response_class=Response,
)
async def picture_layer(
    name: str,
    place: int,
    layer: Annotated[int, Path(ge=1)],
    service: Service,
    caller: CurrentCaller,
    format: Format = "png",
) -> Response:
    """What the picture is made of, with its transparency; 1 is the lowest."""
    return await _file(service, file_of(await own_job(service, caller, name), place, layer), format)


async def _file(service: DrawingService, file: FilePath, format: Format) -> Response:
    content = await run_in_threadpool(encoded, service, file, format)
    return Response(content, media_type=MEDIA[format], headers={"Cache-Control": "private, max-age=86400"})


@router.get("/recipes", summary="Which systems there are")
async def recipes(service: Service, caller: CurrentCaller) -> dict[str, Any]:
    """Every recipe of bimo, and the models that this server draws with."""
    rows = await run_in_threadpool(lambda: [model_info.brief(recipe) for recipe in registry.listed().values()])
    loaded = {key.model for key in service.pool.loaded()}
    models = [
        {"name": name, "loaded": name in loaded, "default": name == service.pool.default}
        for name in service.pool.models
    ]
    return {
        "object": "list",
        "models": models,
        "loras": sorted(await run_in_threadpool(service.pool.loras_of, caller.name)),
        "controlnets": list(service.pool.controls),
        "data": rows,
    }


@router.get("/recipes/{name}", summary="One system")
async def recipe(name: str) -> dict[str, Any]:
    """What is in a recipe."""
    if name not in registry.listed():
        raise ApiError(404, Message("there is no recipe called {name!r}; /v1/recipes lists them", name=name))
    return await run_in_threadpool(lambda: model_info.full(registry.recipe(name)))
