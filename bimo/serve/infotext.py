"""AUTOMATIC1111's infotext, the settings of a picture as a text chunk of its PNG: writing and parsing."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from bimo.core.credentials import Credentials
from bimo.core.label import Label
from bimo.core.lora_weight import LoraWeight
from bimo.core.picture import METADATA_KEY, Picture
from bimo.diffusion import hires
from bimo.diffusion.sampler_names import SAMPLERS
from bimo.prompts.a1111 import lora_tags
from bimo.serve.jobs import Job

#: The name of the PNG chunk.
CHUNK = "parameters"
#: `key: value` of the last line; a value with a comma is quoted as JSON. The length of keys is bounded, as a long line
#: without a colon would otherwise take quadratic time.
_PAIR = re.compile(r'(\w[\w \-/]{0,60}?):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
#: A1111's upscalers that bimo has, in lower case.
HIRES_UPSCALERS = ("latent", "lanczos", "nearest")
NEGATIVE = "Negative prompt:"


def with_loras(text: str, loras: Sequence[tuple[str, LoraWeight]]) -> str:
    """A prompt with A1111's tags for its LoRAs; ranges of steps are bimo's own, A1111 has none."""
    return text + "".join(f"<lora:{name}:{weight}>" for name, weight in loras)


def sampler_shown(name: str | None) -> str:
    """A sampler's name in A1111, if it has one."""
    known = SAMPLERS.get(name or "")
    return known.a1111[0] if known is not None and known.a1111 else name or ""


def infotext(
    record: Mapping[str, Any], model: str, loras: Sequence[tuple[str, LoraWeight]], size: tuple[int, int]
) -> str:
    """The infotext of a picture's record (`Picture.metadata`)."""
    request = cast("dict[str, Any]", record["request"])
    width, height = request.get("size") or size
    facts: dict[str, Any] = {
        "Steps": request.get("steps"),
        "Sampler": sampler_shown(request.get("sampler")),
        "Schedule type": request.get("schedule"),
        "CFG scale": request.get("guidance"),
        "Seed": request.get("seed"),
        "Size": f"{width}x{height}",
        "Model hash": str(record["weights"])[:10],
        "Model": model,
        "Denoising strength": request.get("strength") if request.get("hires") is None else _hires_strength(request),
        "Hires upscale": request.get("hires"),
        "Hires steps": request.get("hires_steps"),
        "Hires upscaler": None
        if request.get("hires") is None
        else (request.get("hires_upscaler") or "lanczos").title(),
        "Clip skip": request.get("clip_skip"),
        "Style": request.get("style"),
        "Eta": request.get("eta"),
        "CFG rescale": request.get("guidance_rescale"),
        "Variation seed": request.get("subseed") if request.get("subseed_strength") else None,
        "Variation seed strength": request.get("subseed_strength") or None,
        "Tiling": True if request.get("seamless") == "both" else None,
        "Version": "bimo",
    }
    lines = [with_loras(str(request["text"]), loras)]
    if request.get("negative"):
        lines.append(f"{NEGATIVE} {request['negative']}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in facts.items() if value not in (None, "")))
    return "\n".join(lines)


def _hires_strength(request: Mapping[str, Any]) -> float:
    """A1111 has one name for both strengths; with a hires fix it is the second pass's."""
    return request.get("hires_strength") or hires.STRENGTH


def _quoted(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if re.search('[,:\n"]', text) else text


def parsed(text: str) -> dict[str, str]:
    """Parses an infotext into "Prompt", "Negative prompt" and the pairs of its last line."""
    *lines, last = text.strip().split("\n")
    pairs = _PAIR.findall(last)
    if len(pairs) < 2 or not any(name.strip() == "Steps" for name, _ in pairs):
        lines, pairs = [*lines, last], []
    facts: dict[str, str] = {"Prompt": "", NEGATIVE.rstrip(":"): ""}
    section = "Prompt"
    for line in lines:
        if line.startswith(NEGATIVE):
            section, line = NEGATIVE.rstrip(":"), line.removeprefix(NEGATIVE).strip()
        facts[section] += ("\n" if facts[section] else "") + line
    for name, value in pairs:
        facts[name.strip()] = _unquoted(value.strip())
    return facts


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def request_of(text: str) -> dict[str, Any]:
    """The fields of a Request for an infotext; invalid numbers are left out."""
    facts = parsed(text)
    values: dict[str, Any] = {"text": facts["Prompt"], "negative": facts["Negative prompt"] or None}
    numbers: tuple[tuple[str, str, type], ...] = (
        ("Steps", "steps", int),
        ("CFG scale", "guidance", float),
        ("Seed", "seed", int),
        ("Denoising strength", "strength", float),
        ("Clip skip", "clip_skip", int),
        ("Eta", "eta", float),
        ("CFG rescale", "guidance_rescale", float),
        ("Variation seed", "subseed", int),
        ("Variation seed strength", "subseed_strength", float),
    )
    for name, field, kind in numbers:
        if re.fullmatch(r"-?\d{1,19}(\.\d{1,9})?", value := facts.get(name, "")):
            values[field] = kind(float(value)) if kind is float else int(float(value)) if "." in value else int(value)
    for name, field in (("Sampler", "sampler"), ("Schedule type", "schedule"), ("Style", "style")):
        if facts.get(name) and facts[name].casefold() != "automatic":
            values[field] = facts[name]
    if re.fullmatch(r"\d{1,2}(\.\d{1,4})?", facts.get("Hires upscale", "")):
        values["hires"] = float(facts["Hires upscale"])
        if "strength" in values:
            values["hires_strength"] = values.pop("strength")
        if re.fullmatch(r"[1-9]\d{0,2}", facts.get("Hires steps", "")):
            values["hires_steps"] = int(facts["Hires steps"])
        if (name := facts.get("Hires upscaler", "").casefold()) in HIRES_UPSCALERS:
            values["hires_upscaler"] = name
    if ("subseed" in values) != ("subseed_strength" in values):
        values = {name: value for name, value in values.items() if not name.startswith("subseed")}
    if facts.get("Tiling") == "True":
        values["seamless"] = "both"
    if size := re.fullmatch(r"(\d{1,5})x(\d{1,5})", facts.get("Size", "")):
        values["size"] = (int(size[1]), int(size[2]))
    return {name: value for name, value in values.items() if value is not None}


def png_with_infotext(
    picture: Picture, job: Job, label: Label | None = None, credentials: Credentials | None = None
) -> bytes:
    """A picture's PNG with an infotext, labelled and signed if requested."""
    text = infotext(picture.metadata(), job.order.model, job.order.loras, picture.image.size)
    return picture.png({CHUNK: text}, label, f"{job.id}-{picture.index}", credentials)


def read_from(content: bytes) -> tuple[str, dict[str, Any]]:
    """The infotext in a picture's file, "" for none, and its other text chunks."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        items = {str(name): value for name, value in image.info.items() if isinstance(value, str)}
    return items.pop(CHUNK, ""), items


def recorded_text(content: bytes) -> str:
    """The prompt in a picture's metadata, "" if it has none."""
    text, items = read_from(content)
    try:
        return str(json.loads(items[METADATA_KEY])["request"]["text"])
    except (KeyError, ValueError, TypeError, RecursionError):
        return lora_tags(parsed(text)["Prompt"])[0] if text else ""
