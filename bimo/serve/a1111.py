"""AUTOMATIC1111's API, /sdapi/v1: what its clients and plug-ins send is drawn; what cannot be honoured is said in the
answer's ``info``, under ``warnings``. One's own jobs alone are shown and interrupted.
"""

from __future__ import annotations

import base64
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pydantic
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from bimo import __version__
from bimo.core.errors import RequestError
from bimo.core.messages import Message, say
from bimo.diffusion.sampler_names import EDM_SAMPLERS, FLOW_SAMPLERS, SAMPLERS, SCHEDULES, sampler_named
from bimo.hub import memory
from bimo.prompts.a1111 import lora_tags
from bimo.prompts.styles import STYLES, styled
from bimo.serve.asking import Asking, Service, drawn, encoded, own_job, shot, whole
from bimo.serve.infotext import infotext, parsed, read_from, request_of
from bimo.serve.jobs import CONDITION, Job, Order, State
from bimo.serve.keys import Caller, Scope
from bimo.serve.problems import ApiError
from bimo.serve.service import DrawingService
from bimo.serve.uploads import bounded, decoded

if TYPE_CHECKING:
    from PIL import Image

router = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"])
internal = APIRouter(prefix="/internal", tags=["AUTOMATIC1111"])
CLIENT = "a1111"
#: Previews that a drawing makes for /progress.
PREVIEWS = 4
#: How an image is brought to the size that is drawn: stretched, cut, padded.
STRETCH, CUT, PAD = 0, 1, 2
UPSCALERS = ("None", "Lanczos", "Nearest")
MOST_SCALED = 4096
#: Samplers whose noise has a share that is drawn anew.
WITH_ETA = ("ddim", "ddim-parallel", "tcd")
AUTOMATIC = ("", "automatic")


class _Settings(pydantic.BaseModel):
    """Null stands for a field's default, as in A1111."""

    model_config = pydantic.ConfigDict(extra="ignore", allow_inf_nan=False, protected_namespaces=())

    @pydantic.model_validator(mode="before")
    @classmethod
    def _defaults(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


class Txt2Img(_Settings):
    """What txt2img is sent; further fields are taken and left alone."""

    prompt: str = ""
    negative_prompt: str = ""
    styles: list[str] = []
    seed: int = -1
    subseed_strength: float = pydantic.Field(0, allow_inf_nan=False)
    sampler_name: str = ""
    sampler_index: str = ""
    scheduler: str = ""
    batch_size: int = pydantic.Field(1, ge=1)
    n_iter: int = pydantic.Field(1, ge=1)
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    restore_faces: bool = False
    tiling: bool = False
    eta: float | None = None
    denoising_strength: float | None = None
    override_settings: dict[str, Any] = {}
    alwayson_scripts: dict[str, Any] = {}
    script_name: str = ""
    send_images: bool = True
    enable_hr: bool = False
    hr_scale: float = pydantic.Field(2.0, ge=1, le=4, allow_inf_nan=False)
    hr_upscaler: str = ""
    hr_second_pass_steps: int = 0
    hr_resize_x: int = 0
    hr_resize_y: int = 0
    hr_prompt: str = ""
    hr_negative_prompt: str = ""
    infotext: str = ""
    force_task_id: str = pydantic.Field("", max_length=100)


class Img2Img(Txt2Img):
    """What img2img is sent."""

    init_images: list[str] = []
    mask: str = ""
    mask_blur: int = 0
    resize_mode: int = 0
    inpainting_fill: int = 1
    inpaint_full_res: bool = False
    inpainting_mask_invert: int = 0
    initial_noise_multiplier: float = pydantic.Field(1.0, allow_inf_nan=False)
    include_init_images: bool = False


class OnePicture(_Settings):
    """A picture in base64."""

    image: str = ""


class Extras(_Settings):
    """How pictures are enlarged."""

    image: str = ""
    resize_mode: int = 0
    upscaling_resize: float = pydantic.Field(2.0, gt=0, le=8, allow_inf_nan=False)
    upscaling_resize_w: int = pydantic.Field(512, ge=1, le=MOST_SCALED)
    upscaling_resize_h: int = pydantic.Field(512, ge=1, le=MOST_SCALED)
    upscaling_crop: bool = True
    upscaler_1: str = "Lanczos"


class NamedPicture(_Settings):
    """A picture in base64 with a name."""

    data: str
    name: str = ""


class ExtrasBatch(Extras):
    """Several pictures to be enlarged alike."""

    imageList: list[NamedPicture] = pydantic.Field([], max_length=16)


@router.post("/txt2img", summary="Draw a prompt")
async def txt2img(body: Txt2Img, request: Request, service: Service, caller: Asking) -> dict[str, Any]:
    """Pictures in base64, and what they are in ``info``."""
    wanted = await run_in_threadpool(_Wanted, body, service, caller)
    found = await _all(wanted, {}, request, service, caller)
    if body.enable_hr:
        found = await _enlarged(wanted, found, request, service, caller)
    return await run_in_threadpool(_answer, wanted, found, body)


@router.post("/img2img", summary="Draw after a picture")
async def img2img(body: Img2Img, request: Request, service: Service, caller: Asking) -> dict[str, Any]:
    """As txt2img, after the first of ``init_images`` by ``denoising_strength``, within ``mask``."""
    if not body.init_images:
        raise ApiError(404, Message("init_images is empty; expected a picture in base64"), param="init_images")
    wanted = await run_in_threadpool(_Wanted, body, service, caller)
    pictures = await run_in_threadpool(_inputs, body, wanted)
    if len(body.init_images) > 1:
        wanted.note(Message("of {count} init_images the first alone is used", count=len(body.init_images)))
    found = await _all(wanted, pictures, request, service, caller)
    return await run_in_threadpool(_answer, wanted, found, body)


class _Wanted:
    """A request of A1111's as a Request has it, with what is to be said of it."""

    def __init__(self, body: Txt2Img, service: DrawingService, caller: Caller) -> None:
        self.body, self.service = body, service
        self.warnings: list[str] = []
        self.pictures: dict[str, bytes] = {}
        said = request_of(body.infotext) if body.infotext else {}
        text, tags = lora_tags(body.prompt or str(said.get("text", "")))
        self.loras = [(tag.name, tag.weight) for tag in tags]
        options = _options(service, caller) | body.override_settings
        self.model = _checkpoint(service, str(options.get("sd_model_checkpoint") or ""))
        style, text = _styles(body.styles, text)
        sampler = body.sampler_name or body.sampler_index
        name, schedule = self._sampler(sampler, body.scheduler)
        negative = body.negative_prompt or said.get("negative")
        clip_skip = options.get("CLIP_stop_at_last_layers")
        self.values: dict[str, Any] = {
            "text": text,
            "negative": negative or None,
            "style": style,
            "seed": body.seed if body.seed >= 0 else said.get("seed"),
            "count": body.batch_size,
            "steps": body.steps or said.get("steps"),
            "guidance": said.get("guidance") if body.cfg_scale is None else body.cfg_scale,
            "sampler": name or (said.get("sampler") if not sampler else None),
            "schedule": schedule,
            "eta": self._eta(name),
            "clip_skip": clip_skip if isinstance(clip_skip, int) and clip_skip > 1 else None,
            "size": said.get("size"),
        }
        if body.width is not None or body.height is not None:
            own = service.recipe(self.model).request.size
            self.values["size"] = (body.width or own[0], body.height or own[1])
        self._control()
        self._unheeded()
        if body.n_iter * body.batch_size > service.settings.limits.count:
            raise RequestError(
                "{name} is {value}; this server allows at most {most}",
                name="n_iter * batch_size",
                value=body.n_iter * body.batch_size,
                most=service.settings.limits.count,
            )

    def note(self, message: Message) -> None:
        """Says something in the answer."""
        self.warnings.append(say(message))

    def _sampler(self, sampler: str, scheduler: str) -> tuple[str | None, str | None]:
        """A sampler and a schedule that the model has; its own where A1111's is not for it, which is said."""
        schedule = None if scheduler.casefold() in AUTOMATIC else scheduler.casefold().replace(" ", "_")
        if not sampler or sampler.casefold() in AUTOMATIC:
            return None, schedule
        try:
            sampler_named(sampler, SAMPLERS)
        except RequestError as error:
            raise ApiError(404, error.message, code="Sampler not found") from None
        level: Any = self.service.recipe(self.model).levels[-1].schedule
        try:
            level.named(sampler)
        except RequestError:
            self.note(Message("the sampler {sampler} is not for this model; it is drawn with its own", sampler=sampler))
            return None, None
        return sampler, schedule

    def _eta(self, sampler: str | None) -> float | None:
        """The eta of samplers that have one; clients send 1 whatever the sampler, which is what ancestral ones do."""
        eta = self.body.eta
        key = "" if sampler is None else sampler_named(sampler, SAMPLERS)[0]
        if key in WITH_ETA or not eta:
            return eta or None
        if eta != 1:
            self.note(Message("{name} is not done here; it changed nothing", name="eta"))
        return None

    def _control(self) -> None:
        """Pictures of the ControlNet extension: the first to the model's "control", the next to "control-2" ..."""
        found: Any = self.body.alwayson_scripts.get("controlnet", self.body.alwayson_scripts.get("ControlNet"))
        units = found.get("args", []) if isinstance(found, dict) else []
        for name in self.body.alwayson_scripts:
            if name.casefold() != "controlnet":
                self.note(Message("the script {name} is not here; it changed nothing", name=name))
        place = 0
        for unit in units if isinstance(units, list) else []:
            if not isinstance(unit, dict) or unit.get("enabled") is False:
                continue
            image = unit.get("image") or unit.get("input_image")
            image = image.get("image") if isinstance(image, dict) else image
            if not image:
                continue
            place += 1
            name = "control" if place == 1 else f"control-{place}"
            self.pictures[CONDITION + name] = decoded(image, "controlnet.image")
            weight = unit.get("weight", 1.0)
            if not isinstance(weight, (int, float)):
                raise RequestError("{name} is {value!r}; expected a number", name="controlnet.weight", value=weight)
            self.values.setdefault("conditions", {})[name] = [float(weight)]
            module = str(unit.get("module") or "none")
            if module.casefold() != "none":
                self.note(Message("no preprocessor {module} here: the picture is taken as it is", module=module))

    def _unheeded(self) -> None:
        """Says what is asked for and not done."""
        body = self.body
        asked: dict[str, bool] = {
            "subseed_strength": body.subseed_strength != 0,
            "restore_faces": body.restore_faces,
            "tiling": body.tiling,
            "script_name": bool(body.script_name),
        }
        if isinstance(body, Img2Img):
            asked |= {
                "mask_blur": bool(body.mask) and body.mask_blur != 0,
                "inpaint_full_res": bool(body.mask) and body.inpaint_full_res,
                "inpainting_fill": bool(body.mask) and body.inpainting_fill != 1,
                "initial_noise_multiplier": body.initial_noise_multiplier != 1,
            }
        for name, there in asked.items():
            if there:
                self.note(Message("{name} is not done here; it changed nothing", name=name))

    def order(self, caller: Caller, place: int, seed: int | None, changes: Mapping[str, Any] | None = None) -> Order:
        """One of the ``n_iter`` orders."""
        values = {**self.values, **(changes or {})}
        if seed is not None:
            values["seed"] = seed + place * self.body.batch_size
        return self.service.order(
            values,
            key=caller.name,
            client=CLIENT,
            model=self.model,
            loras=self.loras,
            previews=PREVIEWS,
            note={"task": self.body.force_task_id, "iteration": place},
        )


async def _all(
    wanted: _Wanted,
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
    wanted: _Wanted, found: Sequence[Job], request: Request, service: DrawingService, caller: Caller
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
                "text": lora_tags(body.hr_prompt)[0] or wanted.values["text"],
                "negative": body.hr_negative_prompt or wanted.values["negative"],
                "seed": picture.seed,
            }
            content = await run_in_threadpool(_scaled, encoded(picture), size)
            order = wanted.order(caller, 0, None, changes)
            jobs.append(await drawn(request, service, order, {**wanted.pictures, "image": content}))
    return jobs


def _inputs(body: Img2Img, wanted: _Wanted) -> dict[str, bytes]:
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


def _answer(wanted: _Wanted, jobs: Sequence[Job], body: Txt2Img) -> dict[str, Any]:
    pictures = [(job, picture) for job in jobs for picture in job.pictures if picture.flagged is None]
    texts = [
        infotext(picture.record, job.order.model, job.order.loras, (picture.width, picture.height))
        for job, picture in pictures
    ]
    images = [base64.b64encode(encoded(picture)).decode() for _, picture in pictures] if body.send_images else []
    if isinstance(body, Img2Img) and body.include_init_images:
        images += body.init_images
    told = [warning for _, picture in pictures for warning in picture.warnings]
    first = jobs[0].order
    record = pictures[0][1].record if pictures else {"request": dict(first.values), "weights": ""}
    request: dict[str, Any] = record["request"]
    seeds = [picture.seed for _, picture in pictures]
    info = {
        "prompt": body.prompt,
        "all_prompts": [body.prompt] * len(pictures),
        "negative_prompt": body.negative_prompt,
        "all_negative_prompts": [body.negative_prompt] * len(pictures),
        "seed": seeds[0] if seeds else int(first.values["seed"]),
        "all_seeds": seeds,
        "subseed": seeds[0] if seeds else 0,
        "all_subseeds": seeds,
        "subseed_strength": 0,
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


def _styles(names: Sequence[str], text: str) -> tuple[str | None, str]:
    """The style of a request; of several the words of the others are added to the prompt. Raises RequestError."""
    *others, last = names or [""]
    for name in others:
        text = styled(text, name)
    return last or None, text


def _own(service: DrawingService, caller: Caller) -> list[Order]:
    return [order for order in service.open_jobs(caller.name) if order.client == CLIENT]


@router.get("/progress", summary="How one's own drawing goes")
async def progress(service: Service, caller: Asking, skip_current_image: bool = False) -> dict[str, Any]:
    """Of all jobs of the caller that are drawn or wait; all zeros where there is none."""
    return await run_in_threadpool(_progress, service, _own(service, caller), skip_current_image)


def _progress(service: DrawingService, orders: Sequence[Order], without_image: bool) -> dict[str, Any]:
    steps = service.scheduler.progress()
    left, every = (sum(steps.get(order.id, (0, 0))[part] for order in orders) for part in (0, 1))
    first = next((event for order in orders if (event := service.progress(order.id)) is not None), None)
    shown = next((image for order in orders if (image := service.shown(order.id)) is not None), None)
    began = min((order.created for order in orders), default=time.time())
    done = 1 - left / every if every else 0.0
    waited = time.time() - began
    return {
        "progress": min(0.999, max(0.001, done)) if orders else 0.0,
        "eta_relative": waited * (1 - done) / done if done > 0.01 else 0.0,
        "state": {
            "skipped": False,
            "interrupted": False,
            "stopping_generation": False,
            "job": "txt2img" if orders else "",
            "job_count": len(orders),
            "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(began)) if orders else "0",
            "job_no": 0,
            "sampling_step": 0 if first is None else first.done,
            "sampling_steps": 0 if first is None else first.steps,
        },
        "current_image": None if shown is None or without_image else base64.b64encode(shot(shown, "png")).decode(),
        "textinfo": None,
    }


@router.post("/interrupt", summary="End one's own drawings")
async def interrupt(service: Service, caller: Asking) -> dict[str, Any]:
    """Ends them before their next step; what is drawn of them is answered."""
    for order in _own(service, caller):
        service.cancel(order.id)
    return {}


@router.post("/skip", summary="End the drawing that is under way")
async def skip(service: Service, caller: Asking) -> dict[str, Any]:
    """Ends the oldest of one's own drawings; those after it go on."""
    for order in _own(service, caller)[:1]:
        service.cancel(order.id)
    return {}


class Task(_Settings):
    """Which task is asked for, by the id that was forced."""

    id_task: str = pydantic.Field("", max_length=100)
    live_preview: bool = True


@internal.post("/progress", summary="How a task goes, by its id")
async def task_progress(body: Task, service: Service, caller: Asking) -> dict[str, Any]:
    """Of one's own jobs with that ``force_task_id``."""
    orders = [order for order in _own(service, caller) if order.note.get("task") == body.id_task and body.id_task]
    found = await run_in_threadpool(_progress, service, orders, not body.live_preview)
    image = found["current_image"]
    return {
        "active": found["state"]["sampling_steps"] > 0,
        "queued": bool(orders) and not found["state"]["sampling_steps"],
        "completed": not orders,
        "progress": found["progress"],
        "eta": found["eta_relative"],
        "live_preview": None if image is None else f"data:image/png;base64,{image}",
        "id_live_preview": found["state"]["sampling_step"],
        "textinfo": None,
    }


@internal.get("/pending-tasks", summary="Ids of tasks that wait")
async def pending(service: Service, caller: Asking) -> dict[str, Any]:
    """Of one's own jobs."""
    tasks = list(dict.fromkeys(str(o.note["task"]) for o in _own(service, caller) if o.note.get("task")))
    return {"size": len(tasks), "tasks": tasks}


def _checkpoint(service: DrawingService, text: str) -> str:
    """A model by its title, which may have a hash behind it. Raises RequestError."""
    name = text.partition(" [")[0].strip()
    return service.pool.named(name or None)


def _options(service: DrawingService, caller: Caller) -> dict[str, Any]:
    known: dict[str, dict[str, Any]] = service.client_options
    return {"sd_model_checkpoint": service.pool.default, "CLIP_stop_at_last_layers": 1} | known.get(caller.name, {})


@router.get("/options", summary="One's own settings")
async def options(service: Service, caller: Asking) -> dict[str, Any]:
    """The model and what else is drawn with where a request says nothing; each key has its own."""
    return _options(service, caller) | {
        "samples_format": "png",
        "sd_vae": "Automatic",
        "sd_checkpoint_hash": "",
        "live_previews_enable": True,
    }


@router.post("/options", summary="Set one's own settings")
async def set_options(body: dict[str, Any], service: Service, caller: Asking) -> dict[str, Any]:
    """Takes the model and CLIP skip; others are A1111's own and do nothing here."""
    kept: dict[str, Any] = {}
    if "sd_model_checkpoint" in body:
        kept["sd_model_checkpoint"] = _checkpoint(service, str(body["sd_model_checkpoint"] or ""))
    if "CLIP_stop_at_last_layers" in body:
        value = body["CLIP_stop_at_last_layers"]
        if not isinstance(value, int) or not 1 <= value <= 12:
            raise RequestError("{name} is {value!r}; expected 1 to 12", name="CLIP_stop_at_last_layers", value=value)
        kept["CLIP_stop_at_last_layers"] = value
    service.client_options.setdefault(caller.name, {}).update(kept)
    return {}


@router.get("/samplers", summary="Samplers")
async def samplers() -> list[dict[str, Any]]:
    """By A1111's names."""
    every = {**SAMPLERS, **EDM_SAMPLERS, **FLOW_SAMPLERS}
    return [
        {"name": sampler.a1111[0], "aliases": [key, *sampler.a1111[1:]], "options": {}}
        for key, sampler in every.items()
        if sampler.a1111
    ]


@router.get("/schedulers", summary="Schedules of noise")
async def schedulers() -> list[dict[str, Any]]:
    """How noise falls."""
    names = ["automatic", *SCHEDULES]
    empty: dict[str, Any] = {"aliases": None, "default_rho": -1, "need_inner_model": False}
    return [{"name": name, "label": name.replace("_", " ").capitalize(), **empty} for name in names]


@router.get("/sd-models", summary="Models")
async def sd_models(service: Service) -> list[dict[str, Any]]:
    """What may be drawn with; where it lies is the server's own."""
    empty = {"hash": None, "sha256": None, "config": None}
    return [{"title": name, "model_name": name, "filename": name, **empty} for name in service.pool.models]


@router.get("/loras", summary="LoRAs")
async def loras(service: Service) -> list[dict[str, Any]]:
    """What <lora:name:weight> may name."""
    return [{"name": name, "alias": name, "path": name, "metadata": {}} for name in sorted(service.pool.loras)]


@router.get("/embeddings", summary="Learnt words")
async def embeddings(service: Service) -> dict[str, Any]:
    """What the models were taught."""
    fields = {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None, "shape": 0, "vectors": 0}
    return {"loaded": dict.fromkeys(service.embeddings, fields), "skipped": {}}


@router.get("/prompt-styles", summary="Styles")
async def prompt_styles() -> list[dict[str, Any]]:
    """What ``styles`` may name."""
    return [
        {"name": name, "prompt": f"{{prompt}}, {style.en}", "negative_prompt": ""} for name, style in STYLES.items()
    ]


@router.get("/upscalers", summary="Upscalers")
async def upscalers() -> list[dict[str, Any]]:
    """What enlarges pictures."""
    return [{"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4} for name in UPSCALERS]


@router.get("/cmd-flags", summary="None")
@router.get("/script-info", summary="None")
async def nothing() -> dict[str, Any]:
    """A1111's own, which are not here."""
    return {}


@router.get("/sd-vae", summary="None")
@router.get("/latent-upscale-modes", summary="None")
@router.get("/hypernetworks", summary="None")
@router.get("/face-restorers", summary="None")
@router.get("/realesrgan-models", summary="None")
async def none() -> list[dict[str, Any]]:
    """A1111's own, which are not here."""
    return []


@router.get("/scripts", summary="Scripts")
async def scripts() -> dict[str, list[str]]:
    """What ``alwayson_scripts`` may name."""
    return {"txt2img": ["controlnet"], "img2img": ["controlnet"]}


@router.post("/refresh-checkpoints", summary="Nothing to do")
@router.post("/refresh-loras", summary="Nothing to do")
@router.post("/refresh-vae", summary="Nothing to do")
@router.post("/reload-checkpoint", summary="Nothing to do")
async def refresh() -> dict[str, Any]:
    """What there is was said when the server began."""
    return {}


@router.post("/unload-checkpoint", summary="Let go of models that nobody uses")
async def unload(service: Service, caller: Asking) -> dict[str, Any]:
    """For an admin."""
    if not caller.may(Scope.admin):
        raise ApiError(403, Message("this key does not open that: it lacks the scope {scope}", scope=Scope.admin))
    service.pool.release()
    return {}


@router.get("/memory", summary="Memory")
async def memory_of(service: Service) -> dict[str, Any]:
    """Bytes of this machine, and of the weights that are loaded."""
    free = memory.available() or 0
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        total = free
    used = sum(service.pool.loaded().values())
    return {"ram": {"free": free, "used": max(0, total - free), "total": total, "weights": used}, "cuda": {}}


@router.post("/png-info", summary="What a PNG says of itself")
async def png_info(body: OnePicture) -> dict[str, Any]:
    """The infotext of a picture, and the pairs in it."""
    text, items = await run_in_threadpool(lambda: read_from(decoded(body.image, "image")))
    return {
        "info": text,
        "items": items | ({"parameters": text} if text else {}),
        "parameters": parsed(text) if text else {},
    }


@router.post("/extra-single-image", summary="Enlarge a picture")
async def extra_single(body: Extras) -> dict[str, Any]:
    """By Lanczos, or to the nearest pixel."""
    content = decoded(body.image, "image")
    image = await run_in_threadpool(_extra, body, content)
    return {"html_info": "", "image": base64.b64encode(image).decode()}


@router.post("/extra-batch-images", summary="Enlarge pictures")
async def extra_batch(body: ExtrasBatch) -> dict[str, Any]:
    """As extra-single-image."""
    images = [
        base64.b64encode(await run_in_threadpool(_extra, body, decoded(each.data, "imageList"))).decode()
        for each in body.imageList
    ]
    return {"html_info": "", "images": images}


@router.post("/interrogate", summary="Not here")
async def interrogate(body: OnePicture) -> dict[str, Any]:
    """No model here says what is on a picture."""
    raise ApiError(404, Message("no model here describes pictures"), code="Model not found")


def _extra(body: Extras, content: bytes) -> bytes:
    from PIL import Image, ImageOps

    if body.upscaler_1 not in UPSCALERS:
        names = ", ".join(UPSCALERS)
        raise RequestError("there is no upscaler {name!r}; there is {names}", name=body.upscaler_1, names=names)
    with Image.open(io.BytesIO(bounded(content, "image"))) as image:
        size = (round(image.width * body.upscaling_resize), round(image.height * body.upscaling_resize))
        if body.resize_mode:
            size = (body.upscaling_resize_w, body.upscaling_resize_h)
        if max(size) > MOST_SCALED or min(size) < 1:
            raise RequestError(
                "{width}x{height} is too large; this server draws sides up to {side} and {pixels} pixels",
                width=size[0],
                height=size[1],
                side=MOST_SCALED,
                pixels=MOST_SCALED**2,
            )
        if body.resize_mode and body.upscaling_crop:
            image = ImageOps.fit(image, size)
        buffer = io.BytesIO()
        image.resize(size, _filter(body.upscaler_1)).save(buffer, "PNG")
        return buffer.getvalue()


def _filter(name: str) -> Any:
    from PIL import Image

    return Image.Resampling.NEAREST if name == "Nearest" else Image.Resampling.LANCZOS


def _scaled(content: bytes, size: tuple[int, int]) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        buffer = io.BytesIO()
        image.convert("RGB").resize(size, _filter("Lanczos")).save(buffer, "PNG")
        return buffer.getvalue()
