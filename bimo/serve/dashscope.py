"""DashScope's asynchronous API: a task is submitted, then polled."""

from __future__ import annotations

import re
import time
from typing import Any

import pydantic
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from bimo.core.messages import Message
from bimo.serve.dependencies import ClientLanguage, CurrentCaller, Service, accepted, address, links_of, own_job
from bimo.serve.jobs import ENDED, Job, State
from bimo.serve.problems import ApiError

router = APIRouter(prefix="/api/v1", tags=["DashScope"])

STATUS = {
    State.queued: "PENDING",
    State.running: "RUNNING",
    State.done: "SUCCEEDED",
    State.failed: "FAILED",
    State.cancelled: "CANCELED",
}
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
    order = await run_in_threadpool(
        lambda: service.order(values, key=caller.name, client="dashscope", model=body.model)
    )
    job = await accepted(request, service, order, {})
    return {"output": {"task_status": STATUS[job.state], "task_id": job.id}, "request_id": job.id}


@router.get("/tasks/{name}", summary="How a task is")
async def task(
    name: str, request: Request, service: Service, caller: CurrentCaller, language: ClientLanguage
) -> dict[str, Any]:
    """The state of a task, and expiring URLs of its pictures."""
    return _task_json(await own_job(service, caller, name), request, language)


@router.post("/tasks/{name}/cancel", summary="Cancel a task")
async def cancel(name: str, service: Service, caller: CurrentCaller) -> dict[str, Any]:
    """Cancels a task before its next step."""
    job = await own_job(service, caller, name)
    if job.state in ENDED:
        raise ApiError(400, Message("this task has ended"), code="UnsupportedOperation")
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
