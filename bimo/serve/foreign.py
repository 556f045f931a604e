"""Converts the metadata of AUTOMATIC1111's, ComfyUI's and Fooocus' pictures to requests, and lists what is ignored."""

# Parsed JSON has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bimo.core.errors import RequestError
from bimo.core.files import MAXIMUM_PICTURE_BYTES, PICTURE_FORMATS, read_regular
from bimo.core.messages import say
from bimo.core.picture import METADATA_KEY

if TYPE_CHECKING:
    from bimo.engine.engine import Engine

#: ComfyUI's and Fooocus' samplers -> AUTOMATIC1111's names.
SAMPLERS = {
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "heun": "Heun",
    "dpm_2": "DPM2",
    "dpm_2_ancestral": "DPM2 a",
    "lms": "LMS",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_sde": "DPM++ SDE",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "ddim": "DDIM",
    "uni_pc": "UniPC",
    "lcm": "LCM",
}
#: Keys of A1111's metadata that are converted, or are not settings.
_A1111_KNOWN = frozenset(
    (
        *("Prompt", "Negative prompt", "Steps", "CFG scale", "Seed", "Denoising strength", "Clip skip", "Eta"),
        *("CFG rescale", "Sampler", "Schedule type", "Style", "Size", "Model", "Model hash", "Version", "Hashes"),
        *("Lora hashes", "Style Selector Enabled", "Variation seed", "Variation seed strength", "Tiling"),
        *("Hires upscale", "Hires steps"),
    )
)
_COMFY = {
    "seed": "seed",
    "noise_seed": "seed",
    "steps": "steps",
    "cfg": "guidance",
    "scheduler": "schedule",
    "sampler_name": "sampler",
}
_FOOOCUS = {
    "prompt": "text",
    "negative_prompt": "negative",
    "guidance_scale": "guidance",
    "seed": "seed",
    "steps": "steps",
    "sampler": "sampler",
    "scheduler": "schedule",
    "resolution": "size",
    "clip_skip": "clip_skip",
}
_FOOOCUS_SILENT = frozenset(
    ["base_model", "base_model_hash", "metadata_scheme", "version", "created_by", "full_prompt", "full_negative_prompt"]
)
#: A1111's weights without a number; here such brackets are plain text.
_BARE_WEIGHT = re.compile(r"(?<!\\)\([^():（）]+\)|(?<!\\)\[[^\[\]:|]+\]")
_TEXT_ENCODERS = {"CLIPTextEncode": "text", "CLIPTextEncodeSDXL": "text_g", "CLIPTextEncodeFlux": "clip_l"}
#: The most nodes that are searched upstream of a sampler.
_DEEPEST = 64


@dataclass(frozen=True)
class Foreign:
    """The request of another program's picture, the ``model`` that drew it there, and the ``ignored`` settings."""

    program: str
    fields: Mapping[str, Any]
    model: str = ""
    ignored: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """Sentences for the user about the conversion."""
        sentences = [
            say("a record of {program}, drawn there with {model}", program=self.program, model=self.model or "?")
        ]
        if self.ignored:
            sentences.append(say("what could not be carried over: {left}", left=say(", ").join(self.ignored)))
        return sentences


def foreign(file: Path) -> Foreign | None:
    """Reads the metadata of another program's picture; None if it has none. Raises RequestError if the file is not a
    picture, or its metadata has no prompt.
    """
    return foreign_of(read_regular(file, MAXIMUM_PICTURE_BYTES), file)


def foreign_of(content: bytes, file: object) -> Foreign | None:
    """As ``foreign``, from the bytes of a file; ``file`` is its name in messages."""
    texts = _texts(content, file)
    foreign_request = None
    if METADATA_KEY in texts:
        return None
    if "prompt" in texts and (graph := _json(texts["prompt"])):
        foreign_request = _comfy(graph)
    elif "parameters" in texts:
        foreign_request = (
            _fooocus(settings) if (settings := _json(texts["parameters"])) else _a1111(texts["parameters"])
        )
    if foreign_request is not None and not str(foreign_request.fields.get("text") or "").strip():
        raise RequestError(
            "the record of {program} in {file} has no prompt", program=foreign_request.program, file=file
        )
    return foreign_request


def _texts(content: bytes, file: object) -> dict[str, str]:
    """The text chunks of a PNG, or the EXIF comment of a JPEG or WebP as "parameters"."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=PICTURE_FORMATS) as image:
            texts = {str(name): value for name, value in image.info.items() if isinstance(value, str)}
            comment = image.getexif().get_ifd(0x8769).get(0x9286)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise RequestError("cannot read the picture {path}: {error}", path=file, error=error) from None
    if isinstance(comment, bytes) and comment[:8] == b"UNICODE\0":
        # EXIF does not define the byte order: A1111 writes big-endian, others the order of the machine.
        read = [comment[8:].decode(order, "replace") for order in ("utf-16-be", "utf-16-le")]
        texts.setdefault("parameters", read[1] if "Steps:" in read[1] else read[0])
    return texts


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _a1111(text: str) -> Foreign:
    from bimo.serve.infotext import HIRES_UPSCALERS, parsed, request_of

    settings = parsed(text)
    known = _A1111_KNOWN
    if settings.get("Hires upscaler", "").casefold() in HIRES_UPSCALERS:
        known |= {"Hires upscaler"}
    ignored = [f"{name}: {value}" for name, value in settings.items() if name not in known]
    fields = {name: value for name, value in request_of(text).items() if not (name == "seed" and value < 0)}
    if "strength" in fields:
        ignored.append(f"Denoising strength: {fields.pop('strength')}")  # the initial image is not available
    if bare := _BARE_WEIGHT.search(settings["Prompt"]):
        ignored.append(say("the weight of {bare} (write a number, as in (word:1.1))", bare=bare[0]))
    return Foreign("AUTOMATIC1111", fields, settings.get("Model", ""), tuple(ignored))


def _fooocus(settings: Mapping[str, Any]) -> Foreign:
    fields: dict[str, Any] = {}
    ignored: list[str] = []
    for name, value in settings.items():
        field = _FOOOCUS.get(name)
        if field is None:
            if name not in _FOOOCUS_SILENT and value not in (None, "", [], "None"):
                ignored.append(f"{name}: {value}")
            continue
        if field == "size":
            sides = re.findall(r"\d{1,5}", str(value))
            value = tuple(map(int, sides)) if len(sides) == 2 else None
        elif field in ("seed", "steps", "clip_skip"):
            value = int(value) if re.fullmatch(r"\d{1,18}", str(value)) else None
        if value not in (None, ""):
            fields[field] = value
    _renamed(fields)
    return Foreign("Fooocus", fields, str(settings.get("base_model", "")), tuple(ignored))


def _renamed(fields: dict[str, Any]) -> None:
    """Converts the names of samplers."""
    sampler = str(fields.get("sampler") or "").removesuffix("_gpu")
    if sampler:
        fields["sampler"] = SAMPLERS.get(sampler, sampler)


def _comfy(graph: Mapping[str, Any]) -> Foreign | None:
    nodes = {name: node for name, node in graph.items() if isinstance(node, dict) and "class_type" in node}
    samplers = [node for node in nodes.values() if {"positive", "negative", "steps"} <= _inputs(node).keys()]
    if not samplers:
        return None
    sampler = samplers[0]
    inputs = _inputs(sampler)
    fields: dict[str, Any] = {}
    for name, field in _COMFY.items():
        if isinstance(inputs.get(name), (int, float, str)):
            fields[field] = inputs[name]
    _renamed(fields)
    used = {id(sampler)}
    for name, field in (("positive", "text"), ("negative", "negative")):
        for node in _upstream(nodes, inputs.get(name)):
            text = _inputs(node).get(_TEXT_ENCODERS.get(node["class_type"], ""))
            if isinstance(text, str):
                fields[field] = text
                used.add(id(node))
                break
    model = ""
    for node in _upstream(nodes, inputs.get("model")):
        name = next((_inputs(node)[key] for key in ("ckpt_name", "unet_name") if key in _inputs(node)), None)
        if isinstance(name, str):
            model = name
            used.add(id(node))
    for node in _upstream(nodes, inputs.get("latent_image")):
        sides = _inputs(node).get("width"), _inputs(node).get("height")
        if all(isinstance(side, int) for side in sides):
            fields["size"] = sides
            used.add(id(node))
            break
    plain = {"VAEDecode", "SaveImage", "PreviewImage", "VAELoader", "CLIPLoader", "DualCLIPLoader"}
    ignored = [
        node["class_type"] for node in nodes.values() if id(node) not in used and node["class_type"] not in plain
    ]
    if isinstance(inputs.get("denoise"), (int, float)) and inputs["denoise"] != 1:
        ignored.append(f"denoise: {inputs['denoise']}")
    return Foreign("ComfyUI", fields, model, tuple(dict.fromkeys(map(str, ignored))))


def _inputs(node: Mapping[str, Any]) -> Mapping[str, Any]:
    inputs = node.get("inputs")
    return cast("Mapping[str, Any]", inputs) if isinstance(inputs, dict) else {}


def _upstream(nodes: Mapping[str, Any], link: Any) -> Iterator[Mapping[str, Any]]:
    """The nodes upstream of a link, the nearest first; terminates on cycles."""
    waiting, seen = [link], set[str]()
    while waiting and len(seen) < _DEEPEST:
        link = waiting.pop(0)
        if not (isinstance(link, Sequence) and len(link) == 2 and str(link[0]) in nodes) or str(link[0]) in seen:
            continue
        seen.add(str(link[0]))
        node = nodes[str(link[0])]
        yield node
        waiting += [value for value in _inputs(node).values() if isinstance(value, list)]


def fitting(engine: Engine, fields: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The fields that a system accepts, and the reasons for those left out."""
    from bimo.diffusion.request_filling import fill_request

    accepted: dict[str, Any] = {"text": fields["text"]}
    reasons: list[str] = []
    for name, value in fields.items():
        if name == "text":
            continue
        try:
            fill_request(engine.system, accepted | {name: value})
        except RequestError as error:
            reasons.append(say("left out, {name}: {error}", name=name, error=error))
            continue
        accepted[name] = value
    return accepted, reasons
