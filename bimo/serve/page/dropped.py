"""Reads the settings of a picture that is dropped on the page, drawn by bimo or another program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bimo.core.errors import RequestError
from bimo.core.lora_weight import LoraWeight
from bimo.core.messages import Message, say
from bimo.core.picture import METADATA_KEY, metadata_of
from bimo.core.request import checked
from bimo.diffusion.sampler_names import schedule_named
from bimo.engine.engine import Engine
from bimo.prompts.a1111 import LoraTag, lora_tags
from bimo.serve.foreign import fitting, foreign_of
from bimo.serve.infotext import parsed, read_from
from bimo.serve.page.form import filled
from bimo.serve.pool import EnginePool
from bimo.serve.uploads import decoded

#: Fields of a request that need pictures, which metadata does not contain.
_NOT_IN_A_FILE = {"image", "mask", "condition_images", "conditions", "strength"}
FILE = Message("the file")


@dataclass(frozen=True)
class DroppedSettings:
    """The values for the form, and notes for the visitor."""

    values: dict[str, Any]
    notes: tuple[str, ...] = ()


def settings_of(text: Any, pool: EnginePool, engine: Engine, user: str) -> DroppedSettings:
    """The settings of a picture in base64; those of another program are adapted to ``engine``. Raises RequestError for
    a file without settings.
    """
    if not isinstance(text, str) or not text.startswith("data:"):
        raise RequestError("that is no picture of up to 12 MB; drop a PNG, JPEG or WebP")
    content = decoded(text.partition(" ")[0], FILE)
    infotext, items = read_from(content)
    if METADATA_KEY in items:
        return _from_own_record(content, infotext, pool, user)
    foreign_request = foreign_of(content, FILE)
    if foreign_request is None:
        raise RequestError("the file carries no settings of bimo, AUTOMATIC1111, ComfyUI or Fooocus")
    accepted, ignored = fitting(engine, foreign_request.fields)
    accepted["text"], tags = lora_tags(str(accepted["text"]))
    loras, unknown = _known_loras(pool.loras_of(user), tags)
    _use_form_names(engine, accepted)
    return DroppedSettings(filled(accepted, None, loras), (*foreign_request.notes(), *ignored, *unknown))


def _from_own_record(content: bytes, infotext: str, pool: EnginePool, user: str) -> DroppedSettings:
    record = metadata_of(content)
    model = next((name for name, path in pool.models.items() if record["recipe"] in (name, path)), None)
    # Metadata refers to pictures only by hash.
    request_fields = {name: value for name, value in record["request"].items() if name not in _NOT_IN_A_FILE}
    # LoRAs are not part of a request; they are only in the infotext.
    tags = lora_tags(parsed(infotext)["Prompt"])[1] if infotext else ()
    loras, unknown = _known_loras(pool.loras_of(user), tags)
    note = str(Message("The settings of the picture are in the form."))
    return DroppedSettings(
        filled(checked(request_fields).model_dump(exclude_defaults=True), model, loras), (note, *unknown)
    )


def _known_loras(names: Sequence[str], tags: Sequence[LoraTag]) -> tuple[list[tuple[str, LoraWeight]], tuple[str, ...]]:
    """The LoRAs that a visitor may use, and notes about the others."""
    known = [tag for tag in tags if tag.name in names]
    notes = [say("no LoRA {name} on this server", name=tag.name) for tag in tags if tag not in known]
    return [(tag.name, tag.weight) for tag in known], tuple(notes)


def _use_form_names(engine: Engine, fields: dict[str, Any]) -> None:
    """Converts sampler and schedule to the names in the form."""
    level = engine.system.level(engine.recipe.levels[-1].name)
    if sampler := fields.get("sampler"):
        key, schedule = level.schedule.named(sampler)
        fields["sampler"] = next((n for n in level.schedule.names() if level.schedule.named(n)[0] == key), sampler)
        fields.setdefault("schedule", schedule)
    if fields.get("schedule"):
        fields["schedule"] = schedule_named(fields["schedule"])
