"""Parses options of `bimo draw`: images, guidance weights, sizes, boxes, inscriptions, a record to redraw."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import pydantic

from bimo.cli.networks import Networks, option_of
from bimo.core.errors import RequestError
from bimo.core.files import MAXIMUM_PICTURE_BYTES, read_regular
from bimo.core.messages import Message
from bimo.core.picture import Picture
from bimo.core.request import Pixels
from bimo.engine.adapters import numbered

_PICTURE: Any = pydantic.TypeAdapter(Pixels)


def image_in(path: Path) -> Any:
    """Reads a picture. Raises RequestError that names the file if it is not a picture or too large."""
    return _opened(path, read_regular(path, MAXIMUM_PICTURE_BYTES))


def content_of(path: Path) -> bytes:
    """The bytes of a picture's file, to be sent as they are. Raises RequestError as ``image_in``."""
    content = read_regular(path, MAXIMUM_PICTURE_BYTES)
    _opened(path, content)
    return content


def opened(picture: Any) -> Any:
    """A picture as pixels, of its bytes or as it is; None for None."""
    return None if picture is None else _PICTURE.validate_python(picture)


def _opened(path: Path, content: bytes) -> Any:
    try:
        return _PICTURE.validate_python(content)
    except pydantic.ValidationError as error:
        cause = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise RequestError("{path} cannot be used as a picture: {cause}", path=path, cause=cause) from None


def fingerprint(image: Any) -> str:
    """The hash of a picture, as records have it."""
    return str(_PICTURE.dump_python(image))


def name_values(option: str, texts: Sequence[str], example: str) -> dict[str, str]:
    """Parses ['name=value', ...] into {name: value}. Raises RequestError for any other form and for repeated names."""
    values: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (name.strip() and sign and value.strip()) or name.strip() in values:
            raise RequestError(
                "{option} is {text!r}; expected name=value, each name once, for instance {option} {example}",
                option=option,
                text=text,
                example=example,
            )
        values[name.strip()] = value.strip()
    return values


def guidance_weights(texts: Sequence[str]) -> dict[str, float]:
    """Parses ['name=4.0', ...] into {name: 4.0}. Raises RequestError."""
    weights: dict[str, float] = {}
    for name, value in name_values("--guidance-weight", texts, "style=4.0").items():
        try:
            weights[name] = float(value)
        except ValueError:
            raise RequestError(
                "the value of --guidance-weight {name} is {value!r}; expected a number", name=name, value=value
            ) from None
    return weights


def interval(text: str) -> tuple[float, float]:
    """Parses '0.2:0.8' into (0.2, 0.8). Raises RequestError."""
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise RequestError(
            "--guidance-interval is {text!r}; expected two shares of the steps, for instance 0.2:0.8", text=text
        ) from None


@dataclass(frozen=True)
class BestOfN:
    """Selects the best of several pictures with a CLIP in a folder. Raises RequestError for fewer than two pictures."""

    folder: Path
    count: int

    def __post_init__(self) -> None:
        if self.count < 2:
            raise RequestError("--best chooses among pictures; say with -n of how many, for instance -n 4")
        if not self.folder.is_dir():
            raise RequestError(
                "--best: there is no folder {folder}; expected one of Chinese-CLIP, Taiyi-CLIP or the like",
                folder=self.folder,
            )

    def check(self) -> None:
        """Raises RequestError if the folder has no CLIP, before minutes are spent on drawing."""
        from bimo.hub import registry

        recipe = registry.recipe(self.folder)
        if recipe.vision is None:
            raise RequestError(
                "--best: {folder} is {recipe}, which scores no pictures; expected a folder of Chinese-CLIP, Taiyi-CLIP "
                "or the like",
                folder=self.folder,
                recipe=recipe.name,
            )

    def of(self, pictures: Sequence[Picture]) -> Picture:
        """The picture that matches its prompt best."""
        from bimo.hub import registry
        from bimo.models.clip import scoring

        system = registry.load(self.folder)
        return scoring.ranked(pictures, partial(scoring.similarity, system))[0][0]


def images(
    files: Sequence[Path],
    mask: Path | None,
    conditions: Sequence[str],
    networks: Networks,
    read: Callable[[Path], Any] = image_in,
) -> dict[str, Any]:
    """The image fields of a request, ``read`` from files, and the numbers of conditions and networks: the first of
    ``files`` is the image, the others are the conditions "image-2" ... Raises RequestError.
    """
    if mask is not None and not files:
        raise RequestError("--mask without --image; give the image as well")
    pictures = {numbered("image", number): read(path) for number, path in enumerate(files, 1)}
    fields: dict[str, Any] = {"image": pictures.pop("image")} if files else {}
    if mask is not None:
        fields["mask"] = read(mask)
    named_files = name_values("--condition", conditions, "sketch=草图.png")
    numbers = {name: values for name, text in named_files.items() if (values := _condition_numbers(text))}
    named_files = {name: file for name, file in named_files.items() if name not in numbers}
    condition_images = {name: read(Path(file)) for name, file in named_files.items()} | pictures
    condition_images |= {network.name: read(network.image) for network in networks.every}
    if condition_images:
        fields["condition_images"] = condition_images
    weights = numbers | {network.name: network.condition for network in networks.every if network.condition}
    return fields | ({"conditions": weights} if weights else {})


def _condition_numbers(text: str) -> list[float]:
    """Parses the numbers of a condition, "6" or "1,0,0.5"; [] for the name of a file."""
    if Path(text).exists():
        return []
    try:
        return [float(each) for each in text.split(",")]
    except ValueError:
        return []


def recorded(request: dict[str, Any], fields: dict[str, Any], file: Path) -> dict[str, Any]:
    """The request in a PNG's record, completed with the images it was drawn from, of which the record only has hashes.
    ``fields`` are those of ``images``.

    Raises RequestError if an image is missing, is a different one, or was not used.
    """
    hashes = _images_by_name(request)
    pictures = _images_by_name(fields)
    for name in {**hashes, **pictures}:
        option = f"--{name.replace('_', '-')}" if "." not in name else option_of(name.partition(".")[2])
        if name not in pictures:
            raise RequestError(
                "{file} was drawn from another picture, of which the record has only the hash {wanted}; give it "
                "again with {option}",
                file=file,
                wanted=hashes[name],
                option=option,
            )
        if name not in hashes:
            raise RequestError("the record of {file} has no picture {option}; leave it out", file=file, option=option)
        if fingerprint(pictures[name]) != hashes[name]:
            raise RequestError(
                "{option} is not the picture it was drawn from: its hash is {fingerprint}, recorded is {wanted}",
                option=option,
                fingerprint=fingerprint(pictures[name]),
                wanted=hashes[name],
            )
    weights = {name: list(value) for name, value in dict(request.get("conditions") or {}).items()}
    for name, value in fields.get("conditions", {}).items():
        weight = weights.get(name, [1.0])
        if value != weight:
            raise RequestError(
                "the weight of {option_of} is {value}, recorded is {weight}; leave the weight out",
                option_of=option_of(name),
                value=_numbers(value),
                weight=_numbers(weight),
            )
    return request | {name: value for name, value in fields.items() if name != "conditions"}


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _images_by_name(request: dict[str, Any]) -> dict[str, Any]:
    """The images of a request, or their hashes, by name: "image", "mask", "condition_images.<name>" ..."""
    images = {name: request[name] for name in ("image", "mask", "region_map") if request.get(name) is not None}
    conditions = dict(request.get("condition_images") or {})
    return images | {f"condition_images.{name}": value for name, value in conditions.items()}


AGAIN_ALONE = Message(
    "--again draws what the record says; give no prompt and no settings but -m, -o, --json, --open, --device, --dtype, "
    "--memory, --offload, --quantise, --tiles, --compile, --graphs, --engine, --denoiser, --text-encoder, --fast, "
    "--tiny-decoder, --lora, --embedding, --control, --ip-adapter, --image-encoder and the pictures it was drawn from"
)


class Writing(StrEnum):
    """The layout of inscribed text."""

    HORIZONTAL = "horizontal"
    VERTICAL = "vertical"
    COUPLET = "couplet"
    SEAL = "seal"


class InscribeMethod(StrEnum):
    """The method of inscription that is tried first."""

    DRAWN = "drawn"
    CONDITIONED = "conditioned"
    COMPOSED = "composed"


def inscription(
    texts: Sequence[str] | None,
    none: bool,
    writing: Writing | None,
    font: str | None,
    box: str | None,
    method: InscribeMethod | None,
) -> dict[str, Any]:
    """The inscription options as fields of a request. Raises RequestError for contradicting options."""
    if none and texts:
        raise RequestError("--inscribe and --no-inscribe contradict each other; leave one out")
    return {
        "inscribe": () if none else texts and tuple(texts),
        "writing": writing and writing.value,
        "font": _family(font),
        "inscribe_box": None if box is None else box_of(box),
        "inscribe_method": method and method.value,
    }


def _family(font: str | None) -> str | None:
    """A font family's name; a file or folder is registered and replaced by the family of its first face."""
    if font is None or not (place := Path(font).expanduser()).exists():
        return font
    from bimo.inscription.fonts import add_place

    return add_place(place)


def size_of(text: str) -> tuple[int, int]:
    """Parses '512x768' or '512' into (width, height). Raises RequestError."""
    match = re.fullmatch(r"\s*(\d{1,9})\s*(?:[xX×*]\s*(\d{1,9})\s*)?", text)
    if match is None:
        raise RequestError("--size is {text!r}; expected WxH (for instance 512x768) or one side (512)", text=text)
    return int(match[1]), int(match[2] or match[1])


def box_of(text: str) -> tuple[float, ...]:
    """Parses '0.1,0.1,0.8,0.3' into (left, top, width, height). Raises RequestError."""
    try:
        box = tuple(float(part) for part in text.replace("，", ",").split(","))
    except ValueError:
        box = ()
    if len(box) != 4:
        raise RequestError(
            "--inscribe-box is {text!r}; expected left,top,width,height as shares of the picture, for instance "
            "0.1,0.1,0.8,0.3",
            text=text,
        )
    return box
