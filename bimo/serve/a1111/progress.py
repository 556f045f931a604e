"""Progress and interruption of the caller's own jobs."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from bimo.serve.a1111.bodies import Task
from bimo.serve.a1111.conversion import CLIENT
from bimo.serve.dependencies import CurrentCaller, Service, shot
from bimo.serve.jobs import Order
from bimo.serve.keys import Caller
from bimo.serve.service import DrawingService

router = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"])
internal = APIRouter(prefix="/internal", tags=["AUTOMATIC1111"])


def _own(service: DrawingService, caller: Caller) -> list[Order]:
    return [order for order in service.open_jobs(caller.name) if order.client == CLIENT]


@router.get("/progress", summary="How one's own drawing goes")
async def progress(service: Service, caller: CurrentCaller, skip_current_image: bool = False) -> dict[str, Any]:
    """The progress of all unfinished jobs of the caller; zeros if there are none."""
    return await run_in_threadpool(_progress, service, _own(service, caller), skip_current_image)


def _progress(service: DrawingService, orders: Sequence[Order], without_image: bool) -> dict[str, Any]:
    steps = service.executor.progress()
    left, total = (sum(steps.get(order.id, (0, 0))[part] for order in orders) for part in (0, 1))
    first = next((event for order in orders if (event := service.progress(order.id)) is not None), None)
    preview = next((image for order in orders if (image := service.preview(order.id)) is not None), None)
    start = min((order.created for order in orders), default=time.time())
    done = 1 - left / total if total else 0.0
    waited = time.time() - start
    return {
        "progress": min(0.999, max(0.001, done)) if orders else 0.0,
        "eta_relative": waited * (1 - done) / done if done > 0.01 else 0.0,
        "state": {
            "skipped": False,
            "interrupted": False,
            "stopping_generation": False,
            "job": "txt2img" if orders else "",
            "job_count": len(orders),
            "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(start)) if orders else "0",
            "job_no": 0,
            "sampling_step": 0 if first is None else first.done,
            "sampling_steps": 0 if first is None else first.steps,
        },
        "current_image": None if preview is None or without_image else base64.b64encode(shot(preview, "png")).decode(),
        "textinfo": None,
    }


@router.post("/interrupt", summary="End one's own drawings")
async def interrupt(service: Service, caller: CurrentCaller) -> dict[str, Any]:
    """Ends the caller's jobs before their next step. Their answers have the finished pictures, and those under way as
    they are then.
    """
    for order in _own(service, caller):
        service.interrupt(order.id)
    return {}


@router.post("/skip", summary="End the picture that is under way")
async def skip(service: Service, caller: CurrentCaller) -> dict[str, Any]:
    """Ends the picture under way of the caller's oldest job that has begun; it is answered as it is then, and the
    others are drawn.
    """
    begun = [order for order in _own(service, caller) if service.progress(order.id) is not None]
    for order in begun[:1]:
        service.skip(order.id)
    return {}


@internal.post("/progress", summary="How a task goes, by its id")
async def task_progress(body: Task, service: Service, caller: CurrentCaller) -> dict[str, Any]:
    """The progress of the caller's jobs with that ``force_task_id``."""
    orders = [order for order in _own(service, caller) if order.note.get("task") == body.id_task and body.id_task]
    report = await run_in_threadpool(_progress, service, orders, not body.live_preview)
    image = report["current_image"]
    return {
        "active": report["state"]["sampling_steps"] > 0,
        "queued": bool(orders) and not report["state"]["sampling_steps"],
        "completed": not orders,
        "progress": report["progress"],
        "eta": report["eta_relative"],
        "live_preview": None if image is None else f"data:image/png;base64,{image}",
        "id_live_preview": report["state"]["sampling_step"],
        "textinfo": None,
    }


@internal.get("/pending-tasks", summary="Ids of tasks that wait")
async def pending(service: Service, caller: CurrentCaller) -> dict[str, Any]:
    """The task ids of the caller's unfinished jobs."""
    tasks = list(dict.fromkeys(str(o.note["task"]) for o in _own(service, caller) if o.note.get("task")))
    return {"size": len(tasks), "tasks": tasks}
