"""The form of the page: validates the values that a browser sends and converts them to a request."""

# Values from a browser are untyped.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
import secrets
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from bimo.core.errors import RequestError
from bimo.core.lora_weight import LoraWeight
from bimo.core.messages import Message
from bimo.engine.adapters import numbered
from bimo.serve.admission import lora_weight
from bimo.serve.jobs import CONDITION
from bimo.serve.uploads import decoded

MAXIMUM_TEXT = 1000
MAXIMUM_COUNT = 8
MAXIMUM_STEPS = 100
MAXIMUM_SIDE = 2048
MAXIMUM_SEED = 2**53 - 1  # the largest exact integer in JavaScript
#: The most characters of a picture: base64 of 12 MiB.
MAXIMUM_PICTURE = 1 << 24
MAXIMUM_NAMES = 16


@dataclass(frozen=True)
class Words:
    """A text field of at most ``most`` characters."""

    most: int = 200

    def read(self, value: Any, name: Message) -> str:
        """The text; None is "". Raises RequestError."""
        if value is None:
            return ""
        if not isinstance(value, str):
            raise RequestError("{name} is {value!r}; expected text", name=name, value=_short(value))
        if len(value) > self.most:
            raise RequestError("{name} is longer than {most} characters", name=name, most=self.most)
        return value


@dataclass(frozen=True)
class Amount:
    """A number field from ``low`` to ``high``; None means ``missing``."""

    low: float
    high: float
    whole: bool = False
    missing: float | None = None

    def read(self, value: Any, name: Message) -> float | int:
        """The number, an int for whole fields. Raises RequestError."""
        number: Any = self.missing if value is None else value
        counts = isinstance(number, (int, float)) and not isinstance(number, bool)
        if not counts or not (math.isfinite(number) and self.low <= number <= self.high):
            raise RequestError(
                "{name} is {value!r}; expected {low} to {high}",
                name=name,
                value=_short(value),
                low=f"{self.low:g}",
                high=f"{self.high:g}" if self.high < 1e6 else int(self.high),
            )
        if self.whole and number != int(number):
            raise RequestError("{name} is {value!r}; expected a whole number", name=name, value=value)
        return int(number) if self.whole else float(number)


@dataclass(frozen=True)
class Flag:
    """A checkbox."""

    def read(self, value: Any, name: Message) -> bool:
        """Raises RequestError for what is neither."""
        if value is not None and not isinstance(value, bool):
            raise RequestError("{name} is {value!r}; expected yes or no", name=name, value=_short(value))
        return bool(value)


@dataclass(frozen=True)
class Names:
    """A selection from a list."""

    def read(self, value: Any, name: Message) -> tuple[str, ...]:
        """The names. Raises RequestError."""
        names: list[Any] = [] if value is None else value
        if (
            not isinstance(value, list | None)
            or len(names) > MAXIMUM_NAMES
            or not all(isinstance(v, str) for v in names)
        ):
            raise RequestError("{name} is {value!r}; expected a list of names", name=name, value=_short(value))
        return tuple(Words().read(each, name) for each in names)


Kind = Words | Amount | Flag | Names


def _field(kind: Kind, name: Message, default: Any = "") -> Any:
    return field(default=default, metadata={"kind": kind, "name": name})


@dataclass(frozen=True)
class Form:
    """The values of the form, one field for each component. ``image``, ``mask`` and ``control_image`` are pictures in
    base64 from the browser's canvas; ``loras`` are "name", "name:0.8" or "name:0.8@0.2-0.6"; "" means
    unset.
    """

    text: str = _field(Words(MAXIMUM_TEXT), Message("the prompt"))
    style: str = _field(Words(), Message("the style"))
    negative: str = _field(Words(MAXIMUM_TEXT), Message("the negative prompt"))
    empty_negative: bool = _field(Flag(), Message("the empty negative prompt"), False)
    model: str = _field(Words(), Message("the model"))
    width: int = _field(Amount(1, MAXIMUM_SIDE, True), Message("width"), 128)
    height: int = _field(Amount(1, MAXIMUM_SIDE, True), Message("height"), 128)
    count: int = _field(Amount(1, MAXIMUM_COUNT, True), Message("the number of pictures"), 1)
    steps: int = _field(Amount(1, MAXIMUM_STEPS, True), Message("steps"), 12)
    guidance: float = _field(Amount(0, 100), Message("guidance"), 1.0)
    seed: int = _field(Amount(-1, MAXIMUM_SEED, True, -1), Message("seed"), -1)
    sampler: str = _field(Words(), Message("the sampler"))
    schedule: str = _field(Words(), Message("the schedule"))
    spacing: str = _field(Words(), Message("the spacing"))
    eta: float = _field(Amount(0, 1, missing=0), Message("eta"), 0.0)
    guidance_rescale: float = _field(Amount(0, 1, missing=0), Message("guidance rescale"), 0.0)
    clip_skip: int = _field(Amount(1, 64, True, 1), Message("CLIP skip"), 1)
    loras: tuple[str, ...] = _field(Names(), Message("the LoRAs"), ())
    embeddings: tuple[str, ...] = _field(Names(), Message("the learnt words"), ())
    image: str = _field(Words(MAXIMUM_PICTURE), Message("the image"))
    mask: str = _field(Words(MAXIMUM_PICTURE), Message("the mask"))
    strength: float = _field(Amount(0.01, 1), Message("strength"), 0.6)
    control: str = _field(Words(), Message("what the control picture is for"))
    control_image: str = _field(Words(MAXIMUM_PICTURE), Message("the control picture"))
    control_weight: float = _field(Amount(0, 2, missing=1), Message("the weight of the control"), 1.0)
    inscribe: str = _field(Words(), Message("the inscription"))
    writing: str = _field(Words(), Message("the writing"))
    font: str = _field(Words(), Message("the font"))

    @classmethod
    def read(cls, values: Sequence[Any]) -> Form:
        """Validates the values of a browser, in the order of the fields. Raises RequestError that names the first wrong
        value.
        """
        all_fields = fields(cls)
        if len(values) != len(all_fields):
            raise RequestError("expected {count} values, got {got}", count=len(all_fields), got=len(values))
        parsed: dict[str, Any] = {}
        for each, value in zip(all_fields, values, strict=True):
            kind: Kind = each.metadata["kind"]
            parsed[each.name] = kind.read(value, each.metadata["name"])
        return cls(**parsed)

    @classmethod
    def kind(cls, name: str) -> Kind:
        """The parser of a field."""
        return cls.__dataclass_fields__[name].metadata["kind"]

    @classmethod
    def title(cls, name: str) -> Message:
        """The display name of a field."""
        return cls.__dataclass_fields__[name].metadata["name"]

    @classmethod
    def words(cls, name: str, value: Any) -> str:
        """Validates a single text field. Raises RequestError."""
        kind = cls.kind(name)
        assert isinstance(kind, Words)
        return kind.read(value, cls.title(name))

    def values(self, own_rescale: float = 0.0, networks: Container[str] = ()) -> dict[str, Any]:
        """The fields of a Request without pictures; defaults are left out. ``own_rescale`` is the model's guidance
        rescale, ``networks`` are the names of ControlNets.
        """
        condition = self.condition(networks)
        words = [word for word in self.embeddings if word not in self.text]
        values: dict[str, Any] = {
            "text": " ".join((self.text, *words)) if words else self.text,
            "style": self.style or None,
            "negative": self.negative or ("" if self.empty_negative else None),
            "size": [self.width, self.height],
            "count": self.count,
            "steps": self.steps,
            "guidance": self.guidance,
            "seed": secrets.randbelow(2**32) if self.seed < 0 else self.seed,
            "sampler": self.sampler or None,
            "schedule": self.schedule or None,
            "spacing": self.spacing or None,
            "eta": self.eta or None,
            "guidance_rescale": None if self.guidance_rescale == own_rescale else self.guidance_rescale,
            "clip_skip": None if self.clip_skip == 1 else self.clip_skip,
            "strength": self.strength if self.image else None,
            "conditions": {condition: [self.control_weight]} if condition and self.control_weight != 1 else None,
            "inscribe": [text for text in self.inscribe.split("\n") if text.strip()] or None,
            "writing": (self.writing or None) if self.inscribe.strip() else None,
            "font": (self.font.strip() or None) if self.inscribe.strip() else None,
        }
        return {name: value for name, value in values.items() if value is not None}

    def condition(self, networks: Container[str]) -> str:
        """The condition of the control picture: "control" for a ControlNet in ``networks``, else the model's own
        condition of that name; "" without a picture or a choice.
        """
        if not (self.control_image and self.control):
            return ""
        return numbered("control", 1) if self.control in networks else self.control

    def pictures(self, networks: Container[str] = ()) -> dict[str, bytes]:
        """The pictures by their names in an order. Raises RequestError."""
        pictures = {"image": self.image, "mask": self.mask if self.image else ""}
        if name := self.condition(networks):
            pictures[CONDITION + name] = self.control_image
        return {name: decoded(text, name.removeprefix(CONDITION)) for name, text in pictures.items() if text}

    def weighted_loras(self) -> list[tuple[str, LoraWeight]]:
        """(name, weight) of each LoRA. Raises RequestError for a weight that cannot be read."""
        return [_weighted(name) for name in self.loras]


def _weighted(text: str) -> tuple[str, LoraWeight]:
    name, colon, weight = text.rpartition(":")
    return (name, lora_weight(name, weight)) if colon else (text, LoraWeight())


def _short(value: Any) -> str | float | int | bool | None:
    """A value shortened for an error message."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value)[:40]


def filled(
    request: Mapping[str, Any], model: str | None = None, loras: Sequence[tuple[str, LoraWeight]] = ()
) -> dict[str, Any]:
    """The values of the form for a request in metadata or a job, by field; unset ones are left out, and so are
    pictures.
    """
    present = {name: value for name, value in request.items() if value is not None}
    values: dict[str, Any] = {
        "style": "",
        "negative": "",
        "sampler": "",
        "schedule": "",
        "spacing": "",
        "eta": 0.0,
        "clip_skip": 1,
        "count": 1,
        "inscribe": "",
        "empty_negative": present.get("negative") == "",
        "loras": [name if weight == LoraWeight() else f"{name}:{weight}" for name, weight in loras],
    }
    if "size" in present:
        values["width"], values["height"] = present["size"]
    if "inscribe" in present:
        values["inscribe"] = "\n".join(present["inscribe"])
    names = {each.name for each in fields(Form)} - {"image", "mask", "inscribe", "loras"}
    values |= {name: value for name, value in present.items() if name in names}
    return values if model is None else values | {"model": model}
