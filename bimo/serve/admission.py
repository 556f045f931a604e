"""Validates a request before it is queued: amounts, the server's limits, and the capabilities of its model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

from bimo.core.errors import RequestError
from bimo.core.lora_weight import LoraWeight
from bimo.core.request import Request, checked
from bimo.diffusion import hires
from bimo.diffusion.sampling import calls
from bimo.engine.engine import Engine
from bimo.hub import memory
from bimo.serve.jobs import Loras
from bimo.serve.settings import Limits, ServeSettings

#: The largest weight of a LoRA, positive or negative.
MOST_WEIGHT = 10.0
#: The most conditions of a request, and the most characters of their names: a warning repeats what is read nowhere.
MOST_CONDITIONS, LONGEST_NAME = 64, 100


def lora_weight(name: str, written: str) -> LoraWeight:
    """Parses the weight of a LoRA, "0.8" or "0.8@0.2-0.6". Raises RequestError."""
    weight = LoraWeight.read(written)
    if weight is None:
        raise _wrong_weight(name, written)
    return checked_weight(name, weight)


def checked_weight(name: str, weight: LoraWeight) -> LoraWeight:
    """Returns the weight. Raises RequestError if it is too large, or its range contains no step."""
    if not (abs(weight.value) <= MOST_WEIGHT and 0 <= weight.first < weight.last <= 1):
        raise _wrong_weight(name, str(weight))
    return weight


def _wrong_weight(name: str, written: str) -> RequestError:
    return RequestError(
        "the weight of LoRA {name} is {weight!r}; expected -10 to 10, with a range of steps as in 0.8@0.2-0.6",
        name=name,
        weight=written,
    )


def check_text(text: object, limits: Limits) -> None:
    """Raises RequestError for a prompt that is too long for the server; to be called before parsing it."""
    if isinstance(text, str) and len(text) > limits.text:
        raise RequestError("the prompt is longer than {maximum_text} characters", maximum_text=limits.text)


def check_texts(values: Mapping[str, Any], limits: Limits) -> None:
    """Raises RequestError for any text of a request, however deep in it, that is too long for the server."""
    for name, value in values.items():
        if name in ("text", "negative"):
            check_text(value, limits)
        elif _longest(value) > limits.text:
            raise RequestError("{name} is longer than {most} characters", name=name, most=limits.text)


def _longest(value: object) -> int:
    """The most characters of a text in a value of JSON."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        value = list(cast("Mapping[str, object]", value).values())
    return max(map(_longest, cast("list[object]", value)), default=0) if isinstance(value, (list, tuple)) else 0


def check_amounts(
    values: Mapping[str, Any], loras: Mapping[str, LoraWeight], controls: Collection[str], limits: Limits
) -> None:
    """Raises RequestError for more pictures, steps or adapters than a server allows in a request."""
    for field_name, most in (("count", limits.count), ("steps", limits.steps), ("hires_steps", limits.steps)):
        if isinstance(values.get(field_name), int) and values[field_name] > most:
            raise RequestError(
                "{name} is {value}; this server allows at most {most}",
                name=field_name,
                value=values[field_name],
                most=most,
            )
    adapter_count = max(len(loras), len(controls))
    if adapter_count > limits.loras:
        raise RequestError(
            "{count} LoRAs or ControlNets; this server allows at most {most}", count=adapter_count, most=limits.loras
        )
    for name, weight in loras.items():
        checked_weight(name, weight)
    check_names("conditions", values.get("conditions"))


def check_names(field_name: str, values: object) -> None:
    """Raises RequestError for more or longer names in a field of a request than a server repeats in warnings."""
    if not isinstance(values, Mapping):
        return
    names = [str(name) for name in cast("Mapping[object, object]", values)]
    longest = max(map(len, names), default=0)
    if len(names) > MOST_CONDITIONS or longest > LONGEST_NAME:
        raise RequestError(
            "{name} has {count} names of up to {longest} characters; this server allows {most} of up to {most_2}",
            name=field_name,
            count=len(names),
            longest=longest,
            most=MOST_CONDITIONS,
            most_2=LONGEST_NAME,
        )


def check_size(request: Request, settings: ServeSettings, own: tuple[int, int] | None = None) -> None:
    """Raises RequestError for a picture, after its second pass, larger than the server, or its memory, allows. ``own``
    is the size that the model draws where a request has none.
    """
    limits = settings.limits
    if request.size is None and own is not None and request.image is None:
        request = request.model_copy(update={"size": own})
    width, height = hires.size_of(request, 1) if request.size else (1, 1)
    if max(width, height) > limits.side or width * height > limits.pixels:
        raise RequestError(
            "{width}x{height} is too large; this server draws sides up to {side} and {pixels} pixels",
            width=width,
            height=height,
            side=limits.side,
            pixels=limits.pixels,
        )
    options = settings.load_options
    memory.check((width, height), options.dtype, options.device, tiles=options.tiles)


def check_side(size: tuple[int, int] | None, settings: ServeSettings) -> None:
    """As ``check_size``, for a size that pictures are resized to before there is a request."""
    if size is not None:
        check_size(checked({"text": "–", "size": size}), settings)


def check_drawable(engine: Engine, request: Request, settings: ServeSettings) -> None:
    """Raises RequestError if the model cannot draw the request, or only in more calls of its denoiser than a server
    gives a picture: tiles that overlap by all but a pixel are thousands a step; or in more layers than it allows
    pictures.
    """
    filled = engine.fill(request).request
    check_size(filled, settings)
    if (count := calls(engine.system, filled)) > settings.limits.calls:
        raise RequestError(
            "a picture would take {count} calls of the denoiser; this server allows {most}: take fewer steps, larger "
            "tiles, or less overlap",
            count=count,
            most=settings.limits.calls,
        )
    each = engine.system.space(engine.recipe.levels[-1].name).pictures_of(filled) if engine.recipe.levels else 1
    if each > 1 and each * filled.count > settings.limits.count:
        raise RequestError(
            "{count} times a picture and its layers are {value} pictures; this server allows at most {most}",
            count=filled.count,
            value=each * filled.count,
            most=settings.limits.count,
        )


def check_ranges(engine: Engine, loras: Loras) -> None:
    """Raises RequestError for LoRAs in a range of steps if the engine's weights cannot change between steps."""
    if any(not weight.whole for _, weight in loras):
        engine.check_lora_ranges()
