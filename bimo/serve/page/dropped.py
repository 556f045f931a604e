"""Settings out of a picture's file that is dropped on the page: bimo's own record, or that of another program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bimo.core.errors import RequestError
from bimo.core.messages import Both, Message, say
from bimo.core.picture import METADATA_KEY, metadata_of
from bimo.core.request import checked
from bimo.diffusion.sampler_names import schedule_named
from bimo.engine.engine import Engine
from bimo.prompts.a1111 import lora_tags
from bimo.serve.foreign import fitting, foreign_of
from bimo.serve.infotext import parsed, read_from
from bimo.serve.page.form import filled
from bimo.serve.pool import EnginePool
from bimo.serve.uploads import decoded

#: What a record says of pictures, which it does not hold.
_NOT_IN_A_FILE = {"image", "mask", "condition_images", "conditions", "strength"}
FILE = Both("这个文件", "the file")


@dataclass(frozen=True)
class Dropped:
    """What the form shows for a file, and what is to be said of it."""

    values: dict[str, Any]
    notes: tuple[str, ...] = ()


def settings_of(text: Any, pool: EnginePool, engine: Engine) -> Dropped:
    """The settings of a picture in base64, as a browser reads it; those of another program are fitted to ``engine``.
    Raises RequestError for a file without any.
    """
    if not isinstance(text, str) or not text.startswith("data:"):
        raise RequestError("that is no picture of up to 12 MB; drop a PNG, JPEG or WebP")
    content = decoded(text.partition(" ")[0], FILE)
    infotext, items = read_from(content)
    if METADATA_KEY in items:
        return _own(content, infotext, pool)
    theirs = foreign_of(content, FILE)
    if theirs is None:
        raise RequestError("the file carries no settings of bimo, AUTOMATIC1111, ComfyUI or Fooocus")
    kept, left = fitting(engine, theirs.fields)
    kept["text"], tags = lora_tags(str(kept["text"]))
    loras, unknown = _known(pool, [(tag.name, tag.weight) for tag in tags])
    _shown(engine, kept)
    return Dropped(filled(kept, None, loras), (*theirs.notes(), *left, *unknown))


def _own(content: bytes, infotext: str, pool: EnginePool) -> Dropped:
    record = metadata_of(content)
    model = next((name for name, path in pool.models.items() if record["recipe"] in (name, path)), None)
    # A file may say anything; its pictures are named there by their hashes alone.
    said = {name: value for name, value in record["request"].items() if name not in _NOT_IN_A_FILE}
    # LoRAs are none of a request: they are in the text that is for A1111's programs.
    tags = lora_tags(parsed(infotext)["Prompt"])[1] if infotext else ()
    loras, unknown = _known(pool, [(tag.name, tag.weight) for tag in tags])
    note = str(Message("The settings of the picture are in the form."))
    return Dropped(filled(checked(said).model_dump(exclude_defaults=True), model, loras), (note, *unknown))


def _known(pool: EnginePool, loras: Sequence[tuple[str, float]]) -> tuple[list[tuple[str, float]], tuple[str, ...]]:
    """The LoRAs that this server has, and what is said of the others."""
    unknown = tuple(say("no LoRA {name} on this server", name=name) for name, _ in loras if name not in pool.loras)
    return [each for each in loras if each[0] in pool.loras], unknown


def _shown(engine: Engine, fields: dict[str, Any]) -> None:
    """Samplers and schedules by the names that the form shows."""
    level = engine.system.level(engine.recipe.levels[-1].name)
    if sampler := fields.get("sampler"):
        key, schedule = level.schedule.named(sampler)
        fields["sampler"] = next((n for n in level.schedule.names() if level.schedule.named(n)[0] == key), sampler)
        fields.setdefault("schedule", schedule)
    if fields.get("schedule"):
        fields["schedule"] = schedule_named(fields["schedule"])
