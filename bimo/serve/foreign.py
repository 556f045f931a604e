"""Pictures of AUTOMATIC1111, ComfyUI and Fooocus: what their records say as a request, and what cannot be carried."""

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

#: ComfyUI's and Fooocus' samplers by AUTOMATIC1111's names.
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
#: What A1111's records say that is no setting, or that the request has under another name.
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
#: A1111 weighs a word in brackets without a number; here such brackets are text.
_BARE_WEIGHT = re.compile(r"(?<!\\)\([^():（）]+\)|(?<!\\)\[[^\[\]:|]+\]")
_TEXT_ENCODERS = {"CLIPTextEncode": "text", "CLIPTextEncodeSDXL": "text_g", "CLIPTextEncodeFlux": "clip_l"}
#: How many nodes lie at most between a sampler and its words.
_DEEPEST = 64


@dataclass(frozen=True)
class Foreign:
    """A request of another program's picture: ``model`` is what drew it there, ``left`` what has no meaning here."""

    program: str
    fields: Mapping[str, Any]
    model: str = ""
    left: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """What is to be said before it is drawn."""
        said = [say("a record of {program}, drawn there with {model}", program=self.program, model=self.model or "?")]
        if self.left:
            said.append(say("what could not be carried over: {left}", left=say(", ").join(self.left)))
        return said


def foreign(file: Path) -> Foreign | None:
    """What the record of a picture of another program says; None where it has none. Raises RequestError for a file
    that is no picture, and for a record without a prompt.
    """
    return foreign_of(read_regular(file, MAXIMUM_PICTURE_BYTES), file)


def foreign_of(content: bytes, file: object) -> Foreign | None:
    """As ``foreign``, of the bytes of a file, which sentences call ``file``."""
    texts = _texts(content, file)
    found = None
    if METADATA_KEY in texts:
        return None
    if "prompt" in texts and (graph := _json(texts["prompt"])):
        found = _comfy(graph)
    elif "parameters" in texts:
        found = _fooocus(said) if (said := _json(texts["parameters"])) else _a1111(texts["parameters"])
    if found is not None and not str(found.fields.get("text") or "").strip():
        raise RequestError("the record of {program} in {file} has no prompt", program=found.program, file=file)
    return found


def _texts(content: bytes, file: object) -> dict[str, str]:
    """The texts in a picture: PNG's chunks, or the comment in EXIF that JPEG and WebP carry as "parameters"."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=PICTURE_FORMATS) as image:
            texts = {str(name): value for name, value in image.info.items() if isinstance(value, str)}
            comment = image.getexif().get_ifd(0x8769).get(0x9286)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise RequestError("cannot read the picture {path}: {error}", path=file, error=error) from None
    if isinstance(comment, bytes) and comment[:8] == b"UNICODE\0":
        # EXIF says not in which order the bytes are: A1111 writes the larger first, others as the processor has them.
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

    said = parsed(text)
    known = _A1111_KNOWN
    if said.get("Hires upscaler", "").casefold() in HIRES_UPSCALERS:
        known |= {"Hires upscaler"}
    left = [f"{name}: {value}" for name, value in said.items() if name not in known]
    fields = {name: value for name, value in request_of(text).items() if not (name == "seed" and value < 0)}
    if "strength" in fields:
        left.append(f"Denoising strength: {fields.pop('strength')}")  # of a picture that is not here
    if bare := _BARE_WEIGHT.search(said["Prompt"]):
        left.append(say("the weight of {bare} (write a number, as in (word:1.1))", bare=bare[0]))
    return Foreign("AUTOMATIC1111", fields, said.get("Model", ""), tuple(left))


def _fooocus(said: Mapping[str, Any]) -> Foreign:
    fields: dict[str, Any] = {}
    left: list[str] = []
    for name, value in said.items():
        field = _FOOOCUS.get(name)
        if field is None:
            if name not in _FOOOCUS_SILENT and value not in (None, "", [], "None"):
                left.append(f"{name}: {value}")
            continue
        if field == "size":
            sides = re.findall(r"\d{1,5}", str(value))
            value = tuple(map(int, sides)) if len(sides) == 2 else None
        elif field in ("seed", "steps", "clip_skip"):
            value = int(value) if re.fullmatch(r"\d{1,18}", str(value)) else None
        if value not in (None, ""):
            fields[field] = value
    _renamed(fields)
    return Foreign("Fooocus", fields, str(said.get("base_model", "")), tuple(left))


def _renamed(fields: dict[str, Any]) -> None:
    """Samplers and schedules by the names that requests take."""
    sampler = str(fields.get("sampler") or "").removesuffix("_gpu")
    if sampler:
        fields["sampler"] = SAMPLERS.get(sampler, sampler)


def _comfy(graph: Mapping[str, Any]) -> Foreign | None:
    nodes = {name: node for name, node in graph.items() if isinstance(node, dict) and "class_type" in node}
    samplers = [node for node in nodes.values() if {"positive", "negative", "steps"} <= _inputs(node).keys()]
    if not samplers:
        return None
    sampler = samplers[0]
    given = _inputs(sampler)
    fields: dict[str, Any] = {}
    for name, field in _COMFY.items():
        if isinstance(given.get(name), (int, float, str)):
            fields[field] = given[name]
    _renamed(fields)
    used = {id(sampler)}
    for name, field in (("positive", "text"), ("negative", "negative")):
        for node in _upstream(nodes, given.get(name)):
            text = _inputs(node).get(_TEXT_ENCODERS.get(node["class_type"], ""))
            if isinstance(text, str):
                fields[field] = text
                used.add(id(node))
                break
    model = ""
    for node in _upstream(nodes, given.get("model")):
        name = next((_inputs(node)[key] for key in ("ckpt_name", "unet_name") if key in _inputs(node)), None)
        if isinstance(name, str):
            model = name
            used.add(id(node))
    for node in _upstream(nodes, given.get("latent_image")):
        sides = _inputs(node).get("width"), _inputs(node).get("height")
        if all(isinstance(side, int) for side in sides):
            fields["size"] = sides
            used.add(id(node))
            break
    plain = {"VAEDecode", "SaveImage", "PreviewImage", "VAELoader", "CLIPLoader", "DualCLIPLoader"}
    left = [node["class_type"] for node in nodes.values() if id(node) not in used and node["class_type"] not in plain]
    if isinstance(given.get("denoise"), (int, float)) and given["denoise"] != 1:
        left.append(f"denoise: {given['denoise']}")
    return Foreign("ComfyUI", fields, model, tuple(dict.fromkeys(map(str, left))))


def _inputs(node: Mapping[str, Any]) -> Mapping[str, Any]:
    inputs = node.get("inputs")
    return cast("Mapping[str, Any]", inputs) if isinstance(inputs, dict) else {}


def _upstream(nodes: Mapping[str, Any], link: Any) -> Iterator[Mapping[str, Any]]:
    """The nodes that a link comes from, the nearest first; a graph that goes in circles ends."""
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
    """The fields that a system can draw by, and why others were left out."""
    from bimo.diffusion.request_validation import fill_request

    kept: dict[str, Any] = {"text": fields["text"]}
    said: list[str] = []
    for name, value in fields.items():
        if name == "text":
            continue
        try:
            fill_request(engine.system, kept | {name: value})
        except RequestError as error:
            said.append(say("left out, {name}: {error}", name=name, error=error))
            continue
        kept[name] = value
    return kept, said
