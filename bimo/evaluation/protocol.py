"""Records of how numbers were measured, so that numbers of different protocols are not compared.

A record has two parts. ``measured`` is everything that affects a number (the suite's data, number of pictures, seeds,
requested settings, resize, scorers, judges, versions); numbers are comparable if it is equal. ``drawn`` describes the
model and its own defaults, and is shown next to the numbers.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

from bimo.core.errors import DataError, RequestError
from bimo.core.messages import Listed, Message
from bimo.core.part import meant
from bimo.evaluation.suites.suite import Suite

#: 2: OneIG's score without marks, as its own script counts.
VERSION = 2
#: Packages whose versions affect a number.
PACKAGES = ("bimo", "torch", "torchmetrics", "rapidocr", "pillow")
#: Settings of a drawing; None means the model's default.
SETTINGS = ("steps", "guidance", "sampler", "size")


@dataclass(frozen=True)
class Preset:
    """The protocol of published numbers, as far as it is public. ``settings`` are those of drawing, ``unpublished``
    names what the publication does not say, ``quirks`` are unexpected details.
    """

    suite: str
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seeds: tuple[int, ...] = ()
    resize: str = ""
    crop: int = 0
    n: int | None = None
    unpublished: tuple[str, ...] = ()
    quirks: tuple[Message, ...] = ()


PRESETS: dict[str, Preset] = {
    "altdiffusion-coco-zh": Preset(
        suite="coco-cn",
        settings={"steps": 50, "guidance": 9.0, "sampler": "DDIM", "size": (512, 512)},
        seeds=(54551,),
        resize="torch-fidelity",
        crop=256,
        quirks=(
            Message("the prompts are machine-translated COCO captions"),
            Message(
                "pictures are compared with the English source caption (ViT-B-32-quickgelu, laion400m_e32), those of "
                "Chinese prompts as well"
            ),
            Message("both sets: short side to 256, then the centre"),
            Message("on several cards the remainder of the division is dropped"),
        ),
    ),
    "viscpm-30k": Preset(
        suite="coco-cn",
        n=30000,
        unpublished=("size", "sampler", "steps", "guidance", "translation", "resize", "seeds"),
        quirks=(Message("30,000 samples of MS-COCO, zero-shot"),),
    ),
    "coco-cn": Preset(
        suite="coco-cn",
        n=1053,
        unpublished=("sampler", "steps", "guidance", "seeds"),
        quirks=(
            Message("the test set has 1,000 pictures and 1,053 captions by people; those are used, not the translated"),
            Message("FID of some 1,000 pictures is mostly the bias of their number: look at KID and FID-infinity"),
        ),
    ),
    "oneig-zh-text": Preset(
        suite="oneig-zh",
        seeds=(0, 1, 2, 3),
        unpublished=("seeds",),
        quirks=(
            Message("four pictures a prompt, in a 2 x 2 grid"),
            Message("Qwen2.5-VL-7B reads the pictures there and PP-OCR here: the scores do not compare"),
        ),
    ),
}  # fmt: skip


def preset(name: str) -> Preset:
    """A published protocol by name. Raises RequestError for an unknown name."""
    if name not in PRESETS:
        near = meant(name, PRESETS)
        raise RequestError("there is no protocol {name!r}{near}; there is {names}", name=name, near=near,
                           names=Listed(PRESETS))  # fmt: skip
    return PRESETS[name]


def with_preset(chosen: Preset, name: str, suite: Suite, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Merges drawing settings with those of a protocol. Raises RequestError if the suite is not the protocol's, or a
    setting contradicts it.
    """
    if suite.name != chosen.suite:
        raise RequestError("the protocol {name} is of the suite {wanted}, not of {suite}", name=name,
                           wanted=chosen.suite, suite=suite.name)  # fmt: skip
    merged = dict(settings)
    for key, value in chosen.settings.items():
        if merged.get(key) not in (None, value):
            raise RequestError(
                "the protocol {name} has {key} {value}, and {requested} is asked for; leave one of them out",
                name=name,
                key=key,
                value=value,
                requested=merged[key],
            )
        merged[key] = value
    return merged


def versions() -> dict[str, str]:
    """The installed versions of the packages that affect a number."""
    by_package: dict[str, str] = {}
    for package in PACKAGES:
        try:
            by_package[package] = version(package)
        except PackageNotFoundError:
            continue
    return by_package


def machine() -> dict[str, Any]:
    """The machine; costs are only comparable on the same one."""
    import torch

    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    cards = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
    return {"system": platform.system(), "processor": name, "threads": torch.get_num_threads(), "cards": cards}


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(field, value in the first, in the second) for everything in ``measured`` that differs."""
    first_fields, second_fields = _flat(first.get("measured", {})), _flat(second.get("measured", {}))
    pairs = [(name, first_fields.get(name), second_fields.get(name)) for name in {**first_fields, **second_fields}]
    return [("version", first.get("version"), second.get("version"))] * (
        first.get("version") != second.get("version")
    ) + [one for one in pairs if one[1] != one[2]]


def demand_comparable(first: Mapping[str, Any], second: Mapping[str, Any], names: tuple[str, str]) -> None:
    """Raises DataError that lists the fields in which two records differ, if any."""
    if differing := differences(first, second):
        listed = [Message("{field} ({one} / {other})", field=f, one=a, other=b) for f, a, b in differing]
        raise DataError(
            "{first} and {second} were not measured in the same way, their numbers do not compare: {fields}; evaluate "
            "both again with the same settings",
            first=names[0],
            second=names[1],
            fields=Listed(listed),
        )


def _flat(record: Mapping[str, Any], stem: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat |= _flat(cast(Mapping[str, Any], value), f"{stem}{name}.")
        else:
            flat[f"{stem}{name}"] = list(cast(tuple[Any, ...], value)) if isinstance(value, tuple) else value
    return flat
