"""Converts a request of AUTOMATIC1111's API to the fields of a Request, with warnings for what is ignored."""

# Scripts of A1111 are untyped JSON.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from bimo.core.errors import RequestError
from bimo.core.messages import Message, say
from bimo.core.request import seeds_of
from bimo.diffusion.sampler_names import SAMPLERS, sampler_named
from bimo.engine.adapters import numbered
from bimo.prompts.a1111 import lora_tags
from bimo.prompts.styles import styled
from bimo.serve.a1111.bodies import Img2Img, Txt2Img
from bimo.serve.admission import MOST_WEIGHT, check_side, check_text
from bimo.serve.infotext import request_of
from bimo.serve.jobs import CONDITION, Order
from bimo.serve.keys import Caller
from bimo.serve.problems import ApiError
from bimo.serve.service import DrawingService
from bimo.serve.uploads import decoded

CLIENT = "a1111"
#: Number of previews for /progress.
PREVIEWS = 4
#: Samplers with an eta.
WITH_ETA = ("ddim", "ddim-parallel", "tcd")
AUTOMATIC = ("", "automatic")


class ConvertedRequest:
    """A converted request: fields, pictures, ControlNets, and warnings for the response."""

    def __init__(self, body: Txt2Img, service: DrawingService, caller: Caller) -> None:
        self.body, self.service = body, service
        self.warnings: list[str] = []
        self.pictures: dict[str, bytes] = {}
        self.controls: list[str] = []
        self.values: dict[str, Any] = {}
        limits = service.settings.limits
        for text in (body.prompt, body.negative_prompt, body.hr_prompt, body.hr_negative_prompt, body.infotext):
            check_text(text, limits)
        recorded = request_of(body.infotext) if body.infotext else {}
        options = service.client_options.get(caller.name, {}) | body.override_settings
        self.asked = model_title(options.get("sd_model_checkpoint"))
        style, text = _styles(body.styles, body.prompt or str(recorded.get("text", "")))
        self._read_controlnet()
        size = None if body.width is None or body.height is None else (body.width, body.height)
        adapted, redrawn = bool(lora_tags(text)[1] or self.controls), isinstance(body, Img2Img)
        self.model = service.pool.model_for(self.asked, text, adapted, size, redrawn)
        sampler = body.sampler_name or body.sampler_index
        name, schedule = self._sampler(sampler, body.scheduler)
        negative = body.negative_prompt or recorded.get("negative")
        clip_skip = options.get("CLIP_stop_at_last_layers")
        self.values |= {
            "text": text,
            "negative": negative or None,
            "style": style,
            "seed": body.seed if body.seed >= 0 else recorded.get("seed"),
            "count": body.batch_size,
            "steps": body.steps or recorded.get("steps"),
            "guidance": recorded.get("guidance") if body.cfg_scale is None else body.cfg_scale,
            "sampler": name or (recorded.get("sampler") if not sampler else None),
            "schedule": schedule,
            "eta": self._eta(name),
            "clip_skip": clip_skip if isinstance(clip_skip, int) and clip_skip > 1 else None,
            "size": recorded.get("size"),
            "subseed": recorded.get("subseed"),
            "subseed_strength": recorded.get("subseed_strength"),
        }
        if body.subseed_strength:
            second = body.subseed if body.subseed >= 0 else secrets.randbelow(2**32)
            self.values |= {"subseed": second, "subseed_strength": body.subseed_strength}
        if body.width is not None or body.height is not None:
            own = service.recipe(self.model).request.size
            self.values["size"] = (body.width or own[0], body.height or own[1])
        check_side(self.values["size"], service.settings)
        if body.tiling or recorded.get("seamless"):
            self.values["seamless"] = "both"
        self._note_ignored()
        if body.n_iter * body.batch_size > service.settings.limits.count:
            raise RequestError(
                "{name} is {value}; this server allows at most {most}",
                name="n_iter * batch_size",
                value=body.n_iter * body.batch_size,
                most=service.settings.limits.count,
            )

    def note(self, message: Message) -> None:
        """Adds a warning to the response."""
        self.warnings.append(say(message))

    def _sampler(self, sampler: str, scheduler: str) -> tuple[str | None, str | None]:
        """The sampler and schedule; those of the model, with a warning, if A1111's does not work with it."""
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
        """The eta of samplers that have one. Clients send 1 for any sampler; that is what ancestral samplers use."""
        eta = self.body.eta
        key = "" if sampler is None else sampler_named(sampler, SAMPLERS)[0]
        if key in WITH_ETA or not eta:
            return eta or None
        if eta != 1:
            self.note(Message("{name} is not done here; it changed nothing", name="eta"))
        return None

    def _read_controlnet(self) -> None:
        """Reads the units of the ControlNet extension: the first picture is the condition "control", the next
        "control-2" ...; a unit may name a ControlNet of this server.
        """
        extension: Any = self.body.alwayson_scripts.get("controlnet", self.body.alwayson_scripts.get("ControlNet"))
        units = extension.get("args", []) if isinstance(extension, dict) else []
        for name in self.body.alwayson_scripts:
            if name.casefold() != "controlnet":
                self.note(Message("the script {name} is not here; it changed nothing", name=name))
        number = 0
        if not isinstance(units, list) or not all(isinstance(unit, dict) for unit in units):
            raise RequestError("args of the script {name} is no list of units", name="controlnet")
        for unit in units:
            if unit.get("enabled") is False:
                continue
            image = unit.get("image") or unit.get("input_image")
            image = image.get("image") if isinstance(image, dict) else image
            if not image:
                continue
            number += 1
            name = numbered("control", number)
            self._network(str(unit.get("model") or "None"))
            self.pictures[CONDITION + name] = decoded(image, "controlnet.image")
            weight = unit.get("weight", 1.0)
            if not isinstance(weight, (int, float)) or not abs(weight) <= MOST_WEIGHT:
                raise RequestError(
                    "{name} is {value!r}; expected a number up to {most}",
                    name="controlnet.weight",
                    value=str(weight)[:40],
                    most=f"{MOST_WEIGHT:g}",
                )
            self.values.setdefault("conditions", {})[name] = [float(weight), *_steps_of(unit)]
            if str(unit.get("control_mode", 0)).casefold() not in ("0", "balanced"):
                self.note(Message("{name} is not done here; it changed nothing", name="control_mode"))
            module = str(unit.get("module") or "none")
            if module.casefold() != "none":
                self.note(Message("no preprocessor {module} here: the picture is taken as it is", module=module))

    def _network(self, unit_model: str) -> None:
        """Adds the ControlNet of a unit; its name may be followed by a hash. Raises RequestError for an unknown one, if
        this server has any.
        """
        name = unit_model.partition(" [")[0].strip()
        networks = self.service.pool.controls
        if name in networks:
            self.controls.append(name)
        elif name.casefold() != "none" and networks:
            self.service.pool.control(name)  # raises with the known names

    def _note_ignored(self) -> None:
        """Adds warnings for settings that are ignored."""
        body = self.body
        requested: dict[str, bool] = {
            "restore_faces": body.restore_faces,
            "script_name": bool(body.script_name),
        }
        if isinstance(body, Img2Img):
            requested |= {
                "mask_blur": bool(body.mask) and body.mask_blur != 0,
                "inpaint_full_res": bool(body.mask) and body.inpaint_full_res,
                "inpainting_fill": bool(body.mask) and body.inpainting_fill != 1,
                "initial_noise_multiplier": body.initial_noise_multiplier != 1,
            }
        for name, is_set in requested.items():
            if is_set:
                self.note(Message("{name} is not done here; it changed nothing", name=name))

    def order(self, caller: Caller, place: int, seed: int | None, changes: Mapping[str, Any] | None = None) -> Order:
        """The order of one of the ``n_iter`` iterations."""
        values = {**self.values, **(changes or {})}
        if seed is not None:
            subseed, strength = values.get("subseed"), values.get("subseed_strength")
            values["seed"], subseed = seeds_of(seed, subseed, strength, place * self.body.batch_size)
            values |= {} if subseed is None else {"subseed": subseed}
        return self.service.order(
            values,
            key=caller.name,
            client=CLIENT,
            model=self.asked,
            controls=self.controls,
            previews=PREVIEWS,
            note={"task": self.body.force_task_id, "iteration": place},
        )


def _steps_of(unit: Mapping[str, Any]) -> tuple[float, ...]:
    """The range of steps of a unit as two fractions; () for all of them. Raises RequestError."""
    first, last = unit.get("guidance_start", 0.0), unit.get("guidance_end", 1.0)
    if not (isinstance(first, (int, float)) and isinstance(last, (int, float)) and 0 <= first < last <= 1):
        raise RequestError(
            "{name} are {first!r} and {last!r}; expected shares of the steps from 0 to 1, the first below the second",
            name="guidance_start, guidance_end",
            first=str(first)[:40],
            last=str(last)[:40],
        )
    return () if (first, last) == (0, 1) else (float(first), float(last))


def _styles(names: Sequence[str], text: str) -> tuple[str | None, str]:
    """The style and the prompt; of several styles the last is the request's, the others are appended to the prompt.
    Raises RequestError.
    """
    *others, last = names or [""]
    for name in others:
        text = styled(text, name)
    return last or None, text


def checkpoint(service: DrawingService, text: str) -> str:
    """A model by its title, the default for "". Raises RequestError."""
    return service.pool.model_name(model_title(text))


def model_title(title: object) -> str | None:
    """The name in a model's title, which may be followed by a hash; None for none."""
    return str(title or "").partition(" [")[0].strip() or None


def options_of(service: DrawingService, caller: Caller) -> dict[str, Any]:
    by_caller: dict[str, dict[str, Any]] = service.client_options
    return {"sd_model_checkpoint": service.pool.default, "CLIP_stop_at_last_layers": 1} | by_caller.get(caller.name, {})
