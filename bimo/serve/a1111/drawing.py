"""txt2img and img2img, with the second pass of "hires fix"."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from bimo import __version__
from bimo.core.messages import Message
from bimo.serve.a1111.bodies import Img2Img, Txt2Img
from bimo.serve.a1111.wanted import Wanted
from bimo.serve.asking import Asking, Service, drawn, encoded, own_job, whole
from bimo.serve.enlarging import UPSCALERS, enlarged
from bimo.serve.infotext import infotext, parsed
from bimo.serve.jobs import Job, State
from bimo.serve.keys import Caller
from bimo.serve.problems import ApiError
from bimo.serve.service import DrawingService
from bimo.serve.uploads import decoded

if TYPE_CHECKING:
    from PIL import Image

router = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"])
#: How an image is brought to the size that is drawn: stretched, cut, padded.
STRETCH, CUT, PAD = 0, 1, 2


@router.post("/txt2img", summary="Draw a prompt")
async def txt2img(body: Txt2Img, request: Request, service: Service, caller: Asking) -> dict[str, Any]:
    """Pictures in base64, and what they are in ``info``."""
    wanted = await run_in_threadpool(Wanted, body, service, caller)
    found = await _all(wanted, {}, request, service, caller)
    if body.enable_hr:
        found = await _enlarged(wanted, found, request, service, caller)
    return await run_in_threadpool(_answer, wanted, found, body)


@router.post("/img2img", summary="Draw after a picture")
async def img2img(body: Img2Img, request: Request, service: Service, caller: Asking) -> dict[str, Any]:
    """As txt2img, after the first of ``init_images`` by ``denoising_strength``, within ``mask``."""
    if not body.init_images:
        raise ApiError(404, Message("init_images is empty; expected a picture in base64"), param="init_images")
    wanted = await run_in_threadpool(Wanted, body, service, caller)
    pictures = await run_in_threadpool(_inputs, body, wanted)
    if len(body.init_images) > 1:
        wanted.note(Message("of {count} init_images the first alone is used", count=len(body.init_images)))
    found = await _all(wanted, pictures, request, service, caller)
    return await run_in_threadpool(_answer, wanted, found, body)


async def _all(
    wanted: Wanted,
    pictures: Mapping[str, bytes],
    request: Request,
    service: DrawingService,
    caller: Caller,
) -> list[Job]:
    """Every iteration, each a job; those that were interrupted are answered with the pictures that they have."""
    found: list[Job] = []
    seed = wanted.values.get("seed")
    pictures = {**wanted.pictures, **pictures}
    first = wanted.order(caller, 0, seed)
    seed = int(first.values["seed"])
    waiting = [first, *(wanted.order(caller, place, seed) for place in range(1, wanted.body.n_iter))]
    try:
        for order in waiting[1:]:
            await run_in_threadpool(service.accept, order, pictures)
        try:
            found.append(await drawn(request, service, waiting[0], pictures))
        except ApiError as error:
            if error.code != "cancelled":
                raise
            found.append(await own_job(service, caller, waiting[0].id))
        for order in waiting[1:]:
            job = await service.wait(order.id)
            found.append(job if job.state is State.cancelled else whole(job))
        return found
    finally:
        for order in waiting[1:]:
            service.cancel(order.id)


async def _enlarged(
    wanted: Wanted, found: Sequence[Job], request: Request, service: DrawingService, caller: Caller
) -> list[Job]:
    """The second pass of "hires fix": each picture enlarged, and drawn after itself."""
    body = wanted.body
    if body.hr_upscaler and body.hr_upscaler not in UPSCALERS:
        wanted.note(Message("no upscaler {name} here; Lanczos enlarged it", name=body.hr_upscaler))
    jobs: list[Job] = []
    for job in found:
        for picture in job.pictures:
            size = (body.hr_resize_x, body.hr_resize_y)
            if not all(size):
                size = (round(picture.width * body.hr_scale), round(picture.height * body.hr_scale))
            size = (size[0] // 8 * 8, size[1] // 8 * 8)
            changes: dict[str, Any] = {
                "size": size,
                "count": 1,
                "strength": 0.75 if body.denoising_strength is None else body.denoising_strength,
                "steps": body.hr_second_pass_steps or wanted.values["steps"],
                "text": body.hr_prompt or wanted.values["text"],
                "negative": body.hr_negative_prompt or wanted.values["negative"],
                "seed": picture.seed,
            }
            content = await run_in_threadpool(enlarged, encoded(service, picture), size)
            order = wanted.order(caller, 0, None, changes)
            jobs.append(await drawn(request, service, order, {**wanted.pictures, "image": content}))
    return jobs


def _inputs(body: Img2Img, wanted: Wanted) -> dict[str, bytes]:
    """The picture and the mask, brought to the size that is drawn."""
    from PIL import Image, ImageOps

    content = decoded(body.init_images[0], "init_images")
    wanted.values["strength"] = 0.75 if body.denoising_strength is None else body.denoising_strength
    found = {"image": content}
    if body.mask:
        found["mask"] = decoded(body.mask, "mask")
    size = wanted.values.get("size")
    if body.resize_mode not in (STRETCH, CUT, PAD):
        wanted.note(Message("{name} is not done here; it changed nothing", name=f"resize_mode {body.resize_mode}"))
    for name, each in found.items():
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
            found[name] = buffer.getvalue()
    return found


def _answer(wanted: Wanted, jobs: Sequence[Job], body: Txt2Img) -> dict[str, Any]:
    pictures = [(job, picture) for job in jobs for picture in job.pictures if picture.flagged is None]
    texts = [
        infotext(picture.record, job.order.model, job.order.loras, (picture.width, picture.height))
        for job, picture in pictures
    ]
    sent = pictures if body.send_images else []
    images = [base64.b64encode(encoded(wanted.service, picture)).decode() for _, picture in sent]
    if isinstance(body, Img2Img) and body.include_init_images:
        images += body.init_images
    told = [warning for _, picture in pictures for warning in picture.warnings]
    first = jobs[0].order
    record = pictures[0][1].record if pictures else {"request": dict(first.values), "weights": ""}
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
        "warnings": list(dict.fromkeys([*wanted.warnings, *told])),
        "jobs": [job.id for job in jobs],
    }
    return {
        "images": images,
        "parameters": body.model_dump(exclude={"init_images", "mask", "alwayson_scripts"}),
        "info": json.dumps(info, ensure_ascii=False),
    }
