"""Edits of captions at each step: a trigger word, shuffled tags, dropped tags."""

from __future__ import annotations

import random
import re

from bimo.core.stage_data import CaptionEdits


def edited(caption: str, edits: CaptionEdits, seed: int) -> str:
    """The caption of a step; order and dropped tags come from ``seed``. Separators stay unchanged at their positions;
    an empty caption stays empty but for the trigger.
    """
    if edits.varies:
        caption = _varied(caption, edits, random.Random(seed))
    if edits.trigger and edits.trigger not in caption:
        separator = next((mark for mark in caption if mark in edits.separators), "")
        between = separator or ("，" if re.search(r"[㐀-鿿]", edits.trigger + caption) else ",")
        caption = edits.trigger + (f"{between}{'' if ord(between) > 127 else ' '}{caption}" if caption else "")
    return caption


def _varied(caption: str, edits: CaptionEdits, drawn: random.Random) -> str:
    pieces = re.split(f"([{re.escape(edits.separators)}]\\s*)", caption)
    tags, marks = pieces[0::2], pieces[1::2]
    fixed, others = tags[: edits.keep_tokens], tags[edits.keep_tokens :]
    others = [tag for tag in others if drawn.random() >= edits.tag_dropout]
    if edits.shuffle:
        drawn.shuffle(others)
    tags = [*fixed, *others]
    return "".join(tag + (marks[at] if at < len(tags) - 1 else "") for at, tag in enumerate(tags)).strip()
