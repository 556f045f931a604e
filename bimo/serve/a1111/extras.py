"""Upscaling of pictures, and reading of their infotext."""

from __future__ import annotations

import base64
import io
from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from bimo.core.errors import RequestError
from bimo.core.messages import Message
from bimo.serve.a1111.bodies import Extras, ExtrasBatch, OnePicture
from bimo.serve.enlarging import UPSCALERS, enlarged
from bimo.serve.infotext import parsed, read_from
from bimo.serve.problems import ApiError
from bimo.serve.uploads import decoded

router = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"])


@router.post("/png-info", summary="What a PNG says of itself")
async def png_info(body: OnePicture) -> dict[str, Any]:
    """The infotext of a picture, and its parsed settings."""
    text, items = await run_in_threadpool(lambda: read_from(decoded(body.image, "image")))
    return {
        "info": text,
        "items": items | ({"parameters": text} if text else {}),
        "parameters": parsed(text) if text else {},
    }


@router.post("/extra-single-image", summary="Enlarge a picture")
async def extra_single(body: Extras) -> dict[str, Any]:
    """Upscales with Lanczos or nearest-neighbour resampling."""
    image = await run_in_threadpool(_extra, body, body.image, "image")
    return {"html_info": "", "image": base64.b64encode(image).decode()}


@router.post("/extra-batch-images", summary="Enlarge pictures")
async def extra_batch(body: ExtrasBatch) -> dict[str, Any]:
    """As extra-single-image, for several pictures."""
    images = [
        base64.b64encode(await run_in_threadpool(_extra, body, each.data, "imageList")).decode()
        for each in body.imageList
    ]
    return {"html_info": "", "images": images}


@router.post("/interrogate", summary="Not here")
async def interrogate(body: OnePicture) -> dict[str, Any]:
    """Not supported: no model here describes pictures."""
    raise ApiError(404, Message("no model here describes pictures"), code="Model not found")


def _extra(body: Extras, text: str, name: str) -> bytes:
    from PIL import Image

    if body.upscaler_1 not in UPSCALERS:
        names = ", ".join(UPSCALERS)
        raise RequestError("there is no upscaler {name!r}; there is {names}", name=body.upscaler_1, names=names)
    content = decoded(text, name)
    with Image.open(io.BytesIO(content)) as image:
        width, height = (max(1, round(side * body.upscaling_resize)) for side in image.size)
    if body.resize_mode:
        width, height = body.upscaling_resize_w, body.upscaling_resize_h
    return enlarged(content, (width, height), body.upscaler_1, bool(body.resize_mode and body.upscaling_crop))
