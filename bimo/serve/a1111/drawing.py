"""txt2img and img2img, with hires fix."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from bimo import __version__
from bimo.core.errors import RequestError
from bimo.core.messages import Message
from bimo.serve.a1111.bodies import Img2Img, Txt2Img
from bimo.serve.a1111.conversion import ConvertedRequest
from bimo.serve.admission import check_side
from bimo.serve.dependencies import CurrentCaller, Service, draw_and_wait, encoded, own_job, whole
from bimo.serve.enlarging import UPSCALERS, enlarged
from bimo.serve.executor import CANCELLED
from bimo.serve.infotext import infotext, parsed
from bimo.serve.jobs import Job, Order, State
from bimo.serve.keys import Caller
from bimo.serve.problems import ApiError
from bimo.serve.service import DrawingService
from bimo.serve.uploads import decoded

if TYPE_CHECKING:
    from PIL import Image

router = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"])
#: A1111's resize modes of an initial image.
STRETCH, CUT, PAD = 0, 1, 2


@router.post("/txt2img", summary="Draw a prompt")
async def txt2img(body: Txt2Img, request: Request, service: Service, caller: CurrentCaller) -> dict[str, Any]:
    """Pictures in base64, with their settings in ``info``."""
    converted = await run_in_threadpool(ConvertedRequest, body, service, caller)
    if body.enable_hr:
        _check_hires(converted)
    jobs = await _all(converted, {}, request, service, caller)
    if body.enable_hr and not any(job.state is State.cancelled for job in jobs):
        jobs = await _hires_pass(converted, jobs, request, service, caller)
    return await run_in_threadpool(_answer, converted, jobs, body)


@router.post("/img2img", summary="Draw after a picture")
async def img2img(body: Img2Img, request: Request, service: Service, caller: CurrentCaller) -> dict[str, Any]:
    """As txt2img, from the first of ``init_images`` with ``denoising_strength``, within ``mask``."""
    if not body.init_images:
        raise ApiError(404, Message("init_images is empty; expected a picture in base64"), param="init_images")
    converted = await run_in_threadpool(ConvertedRequest, body, service, caller)
    pictures = await run_in_threadpool(_inputs, body, converted)
    if len(body.init_images) > 1:
        converted.note(Message("of {count} init_images the first alone is used", count=len(body.init_images)))
    jobs = await _all(converted, pictures, request, service, caller)
    return await run_in_threadpool(_answer, converted, jobs, body)


async def _all(
    converted: ConvertedRequest,
    pictures: Mapping[str, bytes],
    request: Request,
    service: DrawingService,
    caller: Caller,
) -> list[Job]:
    """Draws all iterations, a job each."""
    jobs: list[Job] = []
    seed = converted.values.get("seed")
    pictures = {**converted.pictures, **pictures}
    first = converted.order(caller, 0, seed)
    seed = int(first.values["seed"])
    orders = [first, *(converted.order(caller, iteration, seed) for iteration in range(1, converted.body.n_iter))]
    try:
        for order in orders[1:]:
            await run_in_threadpool(service.accept, order, pictures)
        jobs.append(await _one(request, service, caller, orders[0], pictures))
        for order in orders[1:]:
            job = await service.wait(order.id)
            jobs.append(job if job.state is State.cancelled else whole(job))
        return jobs
    finally:
        for order in orders[1:]:
            service.cancel(order.id)


async def _one(
    request: Request, service: DrawingService, caller: Caller, order: Order, pictures: Mapping[str, bytes]
) -> Job:
    """Draws a job; an interrupted one is returned with the pictures that it has, as they were then."""
    try:
        return await draw_and_wait(request, service, order, pictures)
    except ApiError as error:
        if error.code != CANCELLED.code:
            raise
        return await own_job(service, caller, order.id)


def _check_hires(converted: ConvertedRequest) -> None:
    """Raises RequestError for what the second pass could not draw, before the first one is drawn."""
    body, service = converted.body, converted.service
    strength = body.denoising_strength
    if strength is not None and not 0 < strength <= 1:
        raise RequestError("strength is {strength}; expected above 0 and at most 1", strength=strength)
    check_side(
        _second_size(body, *(converted.values["size"] or service.recipe(converted.model).request.size)),
        service.settings,
    )


def _second_size(body: Txt2Img, width: int, height: int) -> tuple[int, int]:
    """The size of the second pass of hires fix over a picture, in multiples of 8 pixels."""
    size = (body.hr_resize_x, body.hr_resize_y)
    if not all(size):
        size = (round(width * body.hr_scale), round(height * body.hr_scale))
    return size[0] // 8 * 8, size[1] // 8 * 8


async def _hires_pass(
    converted: ConvertedRequest, first_jobs: Sequence[Job], request: Request, service: DrawingService, caller: Caller
) -> list[Job]:
    """The second pass of hires fix: image-to-image from each enlarged picture; none over what was interrupted."""
    body = converted.body
    if body.hr_upscaler and body.hr_upscaler not in UPSCALERS:
        converted.note(Message("no upscaler {name} here; Lanczos enlarged it", name=body.hr_upscaler))
    jobs: list[Job] = []
    for job in first_jobs:
        for picture in job.pictures:
            size = _second_size(body, picture.width, picture.height)
            changes: dict[str, Any] = {
                "size": size,
                "count": 1,
                "strength": 0.75 if body.denoising_strength is None else body.denoising_strength,
                "steps": body.hr_second_pass_steps or converted.values["steps"],
                "text": body.hr_prompt or converted.values["text"],
                "negative": body.hr_negative_prompt or converted.values["negative"],
                "seed": picture.seed,
            }
            content = await run_in_threadpool(enlarged, encoded(service, picture.file), size)
            order = converted.order(caller, 0, None, changes)
            second = await _one(request, service, caller, order, {**converted.pictures, "image": content})
            jobs.append(second if second.pictures else replace(job, pictures=(picture,)))
            if second.state is State.cancelled:
                return jobs
    return jobs


def _inputs(body: Img2Img, converted: ConvertedRequest) -> dict[str, bytes]:
    """The initial image and the mask, resized as requested."""
    from PIL import Image, ImageOps

    content = decoded(body.init_images[0], "init_images")
    converted.values["strength"] = 0.75 if body.denoising_strength is None else body.denoising_strength
    pictures = {"image": content}
    if body.mask:
        pictures["mask"] = decoded(body.mask, "mask")
    size = converted.values.get("size")
    if body.resize_mode not in (STRETCH, CUT, PAD):
        converted.note(Message("{name} is not done here; it changed nothing", name=f"resize_mode {body.resize_mode}"))
    for name, each in pictures.items():
        with Image.open(io.BytesIO(each)) as opened:
            image: Image.Image = ImageOps.exif_transpose(opened)
            if name == "mask" and body.inpainting_mask_invert:
                image = ImageOps.invert(image.convert("L"))
            if size is not None and body.resize_mode == CUT:
                image = ImageOps.fit(image, size)
            elif size is not None and body.resize_mode == PAD:
                image = ImageOps.pad(image.convert("RGB" if name == "image" else "L"), size)
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            pictures[name] = buffer.getvalue()
    return pictures


def _answer(converted: ConvertedRequest, jobs: Sequence[Job], body: Txt2Img) -> dict[str, Any]:
    pictures = [(job, picture) for job in jobs for picture in job.pictures if picture.flagged is None]
    texts = [
        infotext(picture.record, job.order.model, job.order.loras, (picture.width, picture.height))
        for job, picture in pictures
    ]
    sent = pictures if body.send_images else []
    images = [base64.b64encode(encoded(converted.service, picture.file)).decode() for _, picture in sent]
    if isinstance(body, Img2Img) and body.include_init_images:
        images += body.init_images
    warnings = [warning for _, picture in pictures for warning in picture.warnings]
    first = jobs[0].order
    record: Mapping[str, Any] = pictures[0][1].record if pictures else {"request": dict(first.values), "weights": ""}
    request: dict[str, Any] = record["request"]
    seeds = [picture.seed for _, picture in pictures]
    subseeds = [picture.record["request"].get("subseed", picture.seed) for _, picture in pictures]
    info = {
        "prompt": body.prompt,
        "all_prompts": [body.prompt] * len(pictures),
        "negative_prompt": body.negative_prompt,
        "all_negative_prompts": [body.negative_prompt] * len(pictures),
        "seed": seeds[0] if seeds else int(first.values["seed"]),
        "all_seeds": seeds,
        "subseed": subseeds[0] if subseeds else 0,
        "all_subseeds": subseeds,
        "subseed_strength": request.get("subseed_strength") or 0,
        "width": pictures[0][1].width if pictures else 0,
        "height": pictures[0][1].height if pictures else 0,
        "sampler_name": parsed(texts[0]).get("Sampler", "") if texts else "",
        "cfg_scale": request.get("guidance"),
        "steps": request.get("steps"),
        "batch_size": body.batch_size,
        "restore_faces": False,
        "sd_model_name": first.model,
        "sd_model_hash": str(record["weights"])[:10],
        "denoising_strength": request.get("strength"),
        "clip_skip": request.get("clip_skip") or 1,
        "styles": body.styles,
        "infotexts": texts,
        "index_of_first_image": 0,
        "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(first.created)),
        "is_using_inpainting_conditioning": False,
        "version": f"bimo {__version__}",
        "interrupted": any(job.state is State.cancelled for job in jobs),
        "warnings": list(dict.fromkeys([*converted.warnings, *warnings])),
        "jobs": [job.id for job in jobs],
    }
    return {
        "images": images,
        "parameters": body.model_dump(exclude={"init_images", "mask", "alwayson_scripts"}),
        "info": json.dumps(info, ensure_ascii=False),
    }
