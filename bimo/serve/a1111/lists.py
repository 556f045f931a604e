"""Options of the caller, lists of models, samplers and the like, and stubs of endpoints without a meaning here."""

from __future__ import annotations

import os
from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from bimo.core.errors import RequestError
from bimo.core.messages import Message
from bimo.diffusion.sampler_names import EDM_SAMPLERS, FLOW_SAMPLERS, SAMPLERS, SCHEDULES
from bimo.hub import memory
from bimo.prompts.styles import STYLES
from bimo.serve.a1111.conversion import checkpoint, options_of
from bimo.serve.dependencies import CurrentCaller, Service
from bimo.serve.enlarging import UPSCALERS
from bimo.serve.keys import Scope
from bimo.serve.problems import ApiError

router = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"])


@router.get("/options", summary="One's own settings")
async def options(service: Service, caller: CurrentCaller) -> dict[str, Any]:
    """The caller's defaults, such as the model."""
    return options_of(service, caller) | {
        "samples_format": "png",
        "sd_vae": "Automatic",
        "sd_checkpoint_hash": "",
        "live_previews_enable": True,
    }


@router.post("/options", summary="Set one's own settings")
async def set_options(body: dict[str, Any], service: Service, caller: CurrentCaller) -> dict[str, Any]:
    """Sets the model and CLIP skip; other options are ignored."""
    accepted: dict[str, Any] = {}
    if "sd_model_checkpoint" in body:
        accepted["sd_model_checkpoint"] = checkpoint(service, str(body["sd_model_checkpoint"] or ""))
    if "CLIP_stop_at_last_layers" in body:
        value = body["CLIP_stop_at_last_layers"]
        if not isinstance(value, int) or not 1 <= value <= 12:
            raise RequestError("{name} is {value!r}; expected 1 to 12", name="CLIP_stop_at_last_layers", value=value)
        accepted["CLIP_stop_at_last_layers"] = value
    service.client_options.setdefault(caller.name, {}).update(accepted)
    return {}


@router.get("/samplers", summary="Samplers")
async def samplers() -> list[dict[str, Any]]:
    """Samplers with a name in A1111."""
    every = {**SAMPLERS, **EDM_SAMPLERS, **FLOW_SAMPLERS}
    return [
        {"name": sampler.a1111[0], "aliases": [key, *sampler.a1111[1:]], "options": {}}
        for key, sampler in every.items()
        if sampler.a1111
    ]


@router.get("/schedulers", summary="Schedules of noise")
async def schedulers() -> list[dict[str, Any]]:
    """Noise schedules."""
    names = ["automatic", *SCHEDULES]
    empty: dict[str, Any] = {"aliases": None, "default_rho": -1, "need_inner_model": False}
    return [{"name": name, "label": name.replace("_", " ").capitalize(), **empty} for name in names]


@router.get("/sd-models", summary="Models")
async def sd_models(service: Service) -> list[dict[str, Any]]:
    """The models of this server, without their paths."""
    empty = {"hash": None, "sha256": None, "config": None}
    return [{"title": name, "model_name": name, "filename": name, **empty} for name in service.pool.models]


@router.get("/loras", summary="LoRAs")
async def loras(service: Service, caller: CurrentCaller) -> list[dict[str, Any]]:
    """The names for <lora:name:weight>."""
    names = sorted(await run_in_threadpool(service.pool.loras_of, caller.name))
    return [{"name": name, "alias": name, "path": name, "metadata": {}} for name in names]


@router.get("/embeddings", summary="Learnt words")
async def embeddings(service: Service) -> dict[str, Any]:
    """The embeddings of all models."""
    fields = {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None, "shape": 0, "vectors": 0}
    return {"loaded": dict.fromkeys(service.embeddings, fields), "skipped": {}}


@router.get("/prompt-styles", summary="Styles")
async def prompt_styles() -> list[dict[str, Any]]:
    """The names for ``styles``."""
    return [
        {"name": name, "prompt": f"{{prompt}}, {style.en}", "negative_prompt": ""} for name, style in STYLES.items()
    ]


@router.get("/upscalers", summary="Upscalers")
async def upscalers() -> list[dict[str, Any]]:
    """The upscalers of this server."""
    return [{"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4} for name in UPSCALERS]


@router.get("/cmd-flags", summary="None")
@router.get("/script-info", summary="None")
async def nothing() -> dict[str, Any]:
    """Not supported."""
    return {}


@router.get("/sd-vae", summary="None")
@router.get("/latent-upscale-modes", summary="None")
@router.get("/hypernetworks", summary="None")
@router.get("/face-restorers", summary="None")
@router.get("/realesrgan-models", summary="None")
async def none() -> list[dict[str, Any]]:
    """Not supported."""
    return []


@router.get("/scripts", summary="Scripts")
async def scripts() -> dict[str, list[str]]:
    """The names for ``alwayson_scripts``."""
    return {"txt2img": ["controlnet"], "img2img": ["controlnet"]}


@router.post("/refresh-checkpoints", summary="Nothing to do")
@router.post("/refresh-loras", summary="Nothing to do")
@router.post("/refresh-vae", summary="Nothing to do")
@router.post("/reload-checkpoint", summary="Nothing to do")
async def refresh() -> dict[str, Any]:
    """Does nothing: the lists are fixed when the server starts."""
    return {}


@router.post("/unload-checkpoint", summary="Let go of models that nobody uses")
async def unload(service: Service, caller: CurrentCaller) -> dict[str, Any]:
    """Evicts unused models; needs the scope admin."""
    if not caller.may(Scope.admin):
        raise ApiError(403, Message("this key does not open that: it lacks the scope {scope}", scope=Scope.admin))
    service.pool.release()
    return {}


@router.get("/memory", summary="Memory")
async def memory_of(service: Service) -> dict[str, Any]:
    """Memory of this machine, and of the loaded weights, in bytes."""
    free = memory.available() or 0
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        total = free
    used = sum(service.pool.loaded().values())
    return {"ram": {"free": free, "used": max(0, total - free), "total": total, "weights": used}, "cuda": {}}
