"""The training captions of a LoRA, in the metadata that kohya-ss' scripts write into a file's header.

``ss_tag_frequency`` is JSON: folder -> comma-separated tag of its captions -> count.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from bimo.core import checkpoint_io

KEY = "ss_tag_frequency"
#: The folder under which bimo's own captions are written.
FOLDER = "captions"
#: The most captions that are written: a file's header is read whole.
MOST = 1000


def about_captions(captions: Iterable[str]) -> dict[str, str]:
    """The metadata for a file's training captions."""
    parts = (part.strip() for caption in captions for part in caption.split(","))
    counts = Counter(part for part in parts if part).most_common(MOST)
    return {KEY: json.dumps({FOLDER: dict(counts)}, ensure_ascii=False)} if counts else {}


def captions_of(file: Path) -> tuple[str, ...]:
    """The training captions in a file's metadata, () if there are none that can be read."""
    try:
        folders: Any = json.loads(checkpoint_io.metadata(file).get(KEY) or "{}")
    except (ValueError, RecursionError):
        return ()
    captions: list[str] = []
    for tags in cast("Mapping[str, Any]", folders).values() if isinstance(folders, dict) else ():
        captions += [str(tag) for tag in cast("Mapping[str, Any]", tags)] if isinstance(tags, dict) else []
    return tuple(dict.fromkeys(captions))
