"""Checks of a stage's data before its first step: captions that a text encoder cannot read, too few pictures of a
size.
"""

# torch and tokenizers leave parts of their interfaces untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from bimo.core.errors import TrainingError
from bimo.core.messages import Message, say
from bimo.core.recipe import Stage
from bimo.data.loader import Pictures
from bimo.diffusion.text_encoder import TextEncoder
from bimo.training.batch_sampler import BatchSampler

#: The number of captions that are sampled.
SAMPLE = 2000
MOST_SHOWN = 5
UNSUITED = Message("hardly suit its text encoders")
REMEDY = Message("mend the tokenizer or the data, or raise that limit of the stage where it is meant so")


def check_seed(saved_seed: int, wanted: int, out: Path) -> None:
    """Raises TrainingError if a run is resumed with another seed."""
    if saved_seed != wanted:
        raise TrainingError(
            "the run in {out} was begun with seed {begun}, and now it is {wanted}; go on with --seed "
            "{begun}, or take another folder",
            out=out,
            begun=saved_seed,
            wanted=wanted,
        )


@dataclass(frozen=True)
class Reading:
    """How a text encoder reads some captions: the share of unknown tokens, and of truncated captions."""

    unknown: float
    truncated: float


def reading(text_encoder: TextEncoder, captions: Sequence[str]) -> Reading:
    """Counts unknown tokens by their id, without those of an empty text; byte-level BPE has none."""
    if not captions:
        return Reading(0.0, 0.0)
    cut = sum(budget.used > budget.limit for budget in map(text_encoder.budget, captions))
    mark = _unknown_id(text_encoder)
    tokens = unknown = 0
    if mark is not None:
        own, own_unknown = _counts(text_encoder, "", mark)
        for caption in captions:
            count, unknown_count = _counts(text_encoder, caption, mark)
            tokens, unknown = tokens + count - own, unknown + unknown_count - own_unknown
    return Reading(unknown / max(1, tokens), cut / len(captions))


def sampled(pictures: Pictures) -> list[str]:
    """At most ``SAMPLE`` captions of the training rows, always the same; a row without any has an empty one."""
    rows = np.fromiter((row for group in pictures.groups for row in group), np.int64)
    ends = np.cumsum([len(pictures.captions[row]) or 1 for row in rows.tolist()])
    places = range(int(ends[-1]))
    if len(places) > SAMPLE:
        places = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[:SAMPLE].tolist()
    captions: list[str] = []
    for place in places:
        at = int(np.searchsorted(ends, place, "right"))
        captions.append((pictures.captions[int(rows[at])] or ("",))[place - int(ends[at])])
    return captions


def check_words(stage: Stage, text_encoders: Sequence[TextEncoder], pictures: Pictures, prefix: str = "") -> None:
    """Prints how the text encoders read the captions with ``prefix`` before each, one line each.

    Raises TrainingError if more is unknown, truncated or empty than the stage allows.
    """
    captions = sampled(pictures)
    read = readings(text_encoders, captions, prefix)
    for number, one in enumerate(read, 1):
        print(
            say(
                "captions of stage {name!r} ({count} looked at), text encoder {number}: unknown tokens {unknown:.1%}, "
                "cut short {truncated:.1%}, empty {empty:.1%}",
                name=stage.name,
                count=len(captions),
                number=number,
                unknown=one.unknown,
                truncated=one.truncated,
                empty=_empty(captions),
            )
        )
    if listed := too_much(stage, captions, read):
        raise TrainingError(
            "the captions of stage {name!r} {unsuited}: {listed}; {remedy}",
            name=stage.name,
            unsuited=UNSUITED,
            listed=listed,
            remedy=REMEDY,
        )


def readings(text_encoders: Sequence[TextEncoder], captions: Sequence[str], prefix: str = "") -> list[Reading]:
    """How each text encoder reads the captions that are not empty, with ``prefix`` before each."""
    prompts = [prefix + caption for caption in captions if caption.strip()]
    return [reading(text_encoder, prompts) for text_encoder in text_encoders]


def too_much(stage: Stage, captions: Sequence[str], readings: Sequence[Reading]) -> str:
    """The shares that exceed what a stage allows (unknown, truncated, empty), "" if none does."""
    shares = [("max_empty", say("empty captions"), _empty(captions))]
    for number, one in enumerate(readings, 1):
        what = say("unknown tokens of text encoder {number}", number=number)
        shares.append(("max_unknown", what, one.unknown))
        what = say("captions cut short by text encoder {number}", number=number)
        shares.append(("max_truncated", what, one.truncated))
    limits = [(what, share, name, float(getattr(stage, name))) for name, what, share in shares]
    return ", ".join(f"{what} {share:.1%} > {name} {most:.1%}" for what, share, name, most in limits if share > most)


def _empty(captions: Sequence[str]) -> float:
    return sum(not caption.strip() for caption in captions) / max(1, len(captions))


def check_groups(stage: Stage, order: BatchSampler, processes: int) -> None:
    """Raises TrainingError if a batch has fewer groups than there are processes: one would have no rows."""
    least = min(order.count, sum(map(len, order.by_size)))
    if least < processes:
        raise TrainingError(
            "a batch of stage {name!r} has {least} groups of rows for {processes} processes; make batch larger, or "
            "begin fewer processes",
            name=stage.name,
            least=least,
            processes=processes,
        )


def check_sizes(stage: Stage, order: BatchSampler) -> None:
    """Warns about sizes with too few pictures for a batch, before training starts."""
    small = [
        (size, len(group)) for size, group in zip(order.sizes, order.by_size, strict=True) if len(group) < order.count
    ]
    if not small:
        return
    if len(order.by_size) == 1:
        print(
            say(
                "stage {name!r}: a batch wants {count} groups of rows, the data has {small}; each batch has just those",
                name=stage.name,
                count=order.count,
                small=small[0][1],
            )
        )
        return
    listed = ", ".join(f"{width}x{height} ({count})" for (width, height), count in small[:MOST_SHOWN])
    listed += " ..." if len(small) > MOST_SHOWN else ""
    print(
        say(
            "stage {name!r}: {count} sizes have fewer pictures than a batch of {count_2}; it is filled up "
            "with the same ones again: {listed}",
            name=stage.name,
            count=len(small),
            count_2=order.count,
            listed=listed,
        )
    )


def _unknown_id(text_encoder: TextEncoder) -> int | None:
    """The id of a text encoder's unknown token; None if its tokenizer has none."""
    if text_encoder.tokenizer is None:
        return None
    model = cast("dict[str, Any]", json.loads(text_encoder.tokenizer.to_str())["model"])
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    mark = model.get("unk_token")
    return None if mark is None else text_encoder.tokenizer.token_to_id(mark)


def _counts(text_encoder: TextEncoder, text: str, mark: int) -> tuple[int, int]:
    """(tokens, unknown tokens) of a text, without padding."""
    ids, mask = text_encoder.ids([text])
    return int(mask.sum()), int((ids[mask] == mark).sum())
