"""DashScope's asynchronous API: a task is submitted, then polled, listed or cancelled."""

from __future__ import annotations

import re
import time
import uuid
from datetime import datetime
from typing import Annotated, Any, Literal

import pydantic
from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool

from bimo.core.messages import Message
from bimo.serve.dependencies import ClientLanguage, CurrentCaller, Service, accepted, address, links_of, own_job
from bimo.serve.job_store import Filter
from bimo.serve.jobs import ENDED, Job, State
from bimo.serve.problems import UNSUPPORTED, ApiError

router = APIRouter(prefix="/api/v1", tags=["DashScope"])

STATUS = {
    State.queued: "PENDING",
    State.running: "RUNNING",
    State.done: "SUCCEEDED",
    State.failed: "FAILED",
    State.cancelled: "CANCELED",
}
STATE = {status: state for state, status in STATUS.items()}
#: DashScope's status of tasks that it does not know.
UNKNOWN = "UNKNOWN"
Status = Literal["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELED", "UNKNOWN"]
SecondOfDay = Annotated[str | None, Query(description="YYYYMMDDhhmmss", examples=["20260131235900"])]
CLIENT = "dashscope"
_SIZE = re.compile(r"([0-9]{1,5})[*xX]([0-9]{1,5})")


class Input(pydantic.BaseModel):
    """The prompt."""

    model_config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)

    prompt: str = pydantic.Field(examples=["红苹果，3D风格"])
    negative_prompt: str | None = None


class Parameters(pydantic.BaseModel):
    """DashScope's parameters, with ``steps`` and ``scale`` of its older models. No model here rewrites prompts, so
    ``prompt_extend``, which DashScope's clients send unasked, does nothing: a task's ``actual_prompt`` is its prompt.
    """

    model_config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)

    size: str | None = pydantic.Field(None, examples=["128*128"])
    n: int | None = pydantic.Field(None, ge=1, le=10)
    seed: int | None = None
    style: str | None = None
    steps: int | None = None
    scale: float | None = pydantic.Field(None, allow_inf_nan=False)
    prompt_extend: bool | None = None
    watermark: bool | None = None


class Synthesis(pydantic.BaseModel):
    """The body of a task."""

    model_config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())

    model: str | None = None
    input: Input
    parameters: Parameters = pydantic.Field(default_factory=lambda: Parameters.model_validate({}))


@router.post("/services/aigc/text2image/image-synthesis", summary="Submit a task")
async def synthesis(body: Synthesis, request: Request, service: Service, caller: CurrentCaller) -> dict[str, Any]:
    """Accepts a task; requires ``X-DashScope-Async: enable``, as DashScope does."""
    if request.headers.get("x-dashscope-async", "").lower() != "enable":
        raise ApiError(403, Message("tasks are asynchronous here: send X-DashScope-Async: enable"))
    parameters = body.parameters
    if parameters.watermark and service.settings.label is None:
        raise ApiError(400, Message("this server labels no pictures (bimo serve --label CN --producer NAME)"))
    values: dict[str, Any] = {
        "text": body.input.prompt,
        "negative": body.input.negative_prompt,
        "size": _size(parameters.size),
        "count": parameters.n,
        "seed": parameters.seed,
        "style": parameters.style if parameters.style not in ("<auto>", "auto") else None,
        "steps": parameters.steps,
        "guidance": parameters.scale,
    }
    order = await run_in_threadpool(lambda: service.order(values, key=caller.name, client=CLIENT, model=body.model))
    job = await accepted(request, service, order, {})
    return {"output": {"task_status": STATUS[job.state], "task_id": job.id}, "request_id": job.id}


@router.get("/tasks", summary="Tasks, the newest first")
@router.get("/tasks/", include_in_schema=False)
async def tasks(
    service: Service,
    caller: CurrentCaller,
    language: ClientLanguage,
    start_time: SecondOfDay = None,
    end_time: SecondOfDay = None,
    model_name: str | None = None,
    api_key_id: str | None = None,
    status: Status | None = None,
    page_no: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    page_size: Annotated[int, Query(ge=1, le=100)] = 10,
) -> dict[str, Any]:
    """The caller's tasks that are kept. Times are of this machine's clock; its only region is itself."""
    which = Filter(
        key=caller.visible_key or api_key_id,
        client=CLIENT,
        model=model_name,
        state=None if status is None else STATE.get(status),
        since=_moment("start_time", start_time),
        before=None if end_time is None else 1 + (_moment("end_time", end_time) or 0.0),
    )
    nothing = status == UNKNOWN or api_key_id not in (None, which.key)
    page, total = [], 0
    if not nothing:
        page, total = await run_in_threadpool(service.store.page, which, page_size, (page_no - 1) * page_size)
    return {
        "request_id": uuid.uuid4().hex,
        "data": [_row(job, language) for job in page],
        "total": total,
        "total_page": -(-total // page_size),
        "page_no": page_no,
        "page_size": page_size,
    }


@router.get("/tasks/{name}", summary="How a task is")
async def task(
    name: str, request: Request, service: Service, caller: CurrentCaller, language: ClientLanguage
) -> dict[str, Any]:
    """The state of a task, and expiring URLs of its pictures; UNKNOWN for one that is not, or not any more."""
    job = await run_in_threadpool(service.job, name, caller.visible_key)
    if job is None:
        return {"request_id": uuid.uuid4().hex, "output": {"task_id": name, "task_status": UNKNOWN}}
    return _task_json(job, request, language)


@router.post("/tasks/{name}/cancel", summary="Cancel a task")
async def cancel(name: str, service: Service, caller: CurrentCaller) -> dict[str, Any]:
    """Cancels a task before its next step."""
    job = await own_job(service, caller, name)
    if job.state in ENDED:
        raise ApiError(400, Message("this task has ended"), code=UNSUPPORTED)
    service.cancel(name)
    await service.wait(name)
    return {"request_id": name}


def _size(text: str | None) -> tuple[int, int] | None:
    if not text:
        return None
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ApiError(400, Message("size is {text!r}; expected WIDTH*HEIGHT, as 1024*1024", text=text))
    return int(match[1]), int(match[2])


def _moment(name: str, text: str | None) -> float | None:
    """The time of YYYYMMDDhhmmss."""
    if text is None:
        return None
    try:
        return datetime.strptime(text, "%Y%m%d%H%M%S").timestamp()
    except (ValueError, OverflowError, OSError):
        raise ApiError(
            400, Message("{name} is {text!r}; expected YYYYMMDDhhmmss, as 20260131235900", name=name, text=text)
        ) from None


def _row(job: Job, language: str) -> dict[str, Any]:
    """A task in a list; times are in milliseconds."""
    row: dict[str, Any] = {
        "api_key_id": job.order.key,
        "model_name": job.order.model,
        "request_id": job.id,
        "status": STATUS[job.state],
        "task_id": job.id,
        "user_api_unique_key": f"apikey:v1:aigc:text2image:image-synthesis:{job.order.model}",
    }
    for name, at in (("gmt_create", job.order.created), ("start_time", job.begun), ("end_time", job.ended)):
        if at is not None:
            row[name] = int(at * 1000)
    if job.failure is not None:
        row |= {"code": job.failure.code, "message": job.failure.said(language)}
    return row


def _task_json(job: Job, request: Request, language: str) -> dict[str, Any]:
    links = links_of(request)
    output: dict[str, Any] = {
        "task_id": job.id,
        "task_status": STATUS[job.state],
        "submit_time": _time(job.order.created),
    }
    for name, at in (("scheduled_time", job.begun), ("end_time", job.ended)):
        if at is not None:
            output[name] = _time(at)
    visible = [picture for picture in job.pictures if picture.flagged is None]
    if job.failure is not None:
        output |= {"code": job.failure.code, "message": job.failure.said(language)}
    elif job.state is State.done:
        text = job.order.values.get("text")
        output["results"] = [
            {"orig_prompt": text, "actual_prompt": text, "url": address(request, links.path(job.id, picture.place))}
            for picture in visible
        ]
        output["results"] += [
            {"code": each.flagged.code, "message": each.flagged.said(language)}
            for each in job.pictures
            if each.flagged is not None
        ]
    count = job.order.count
    failed = count - len(visible) if job.state in ENDED else 0
    output["task_metrics"] = {"TOTAL": count, "SUCCEEDED": len(visible), "FAILED": failed}
    return {"request_id": job.id, "output": output, "usage": {"image_count": len(visible)}}


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) + f".{int(at * 1000) % 1000:03d}"
