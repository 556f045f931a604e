"""The captions that a LoRA was trained on, as kohya-ss' scripts write them into the head of a file.

``ss_tag_frequency`` is JSON: folder -> what stood between commas in its captions -> how often.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from bimo.core import checkpoint_io

KEY = "ss_tag_frequency"
#: The folder that bimo's own captions are written under.
FOLDER = "captions"
#: The most captions that are written: a file's head is read whole.
MOST = 1000


def about_captions(captions: Iterable[str]) -> dict[str, str]:
    """What a file is to say of the captions that it was trained on."""
    parts = (part.strip() for caption in captions for part in caption.split(","))
    counts = Counter(part for part in parts if part).most_common(MOST)
    return {KEY: json.dumps({FOLDER: dict(counts)}, ensure_ascii=False)} if counts else {}


def captions_of(file: Path) -> tuple[str, ...]:
    """The captions that a file says it was trained on, () where it says nothing that can be read."""
    try:
        folders: Any = json.loads(checkpoint_io.metadata(file).get(KEY) or "{}")
    except (ValueError, RecursionError):
        return ()
    found: list[str] = []
    for tags in cast("Mapping[str, Any]", folders).values() if isinstance(folders, dict) else ():
        found += [str(tag) for tag in cast("Mapping[str, Any]", tags)] if isinstance(tags, dict) else []
    return tuple(dict.fromkeys(found))
