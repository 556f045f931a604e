"""Display names, notes and the sampling protocol of the reports of 小墨's evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bimo.core.messages import Message, say
from bimo.core.request import Request
from bimo.evaluation.drawing_cache import DrawingCache
from bimo.evaluation.figures import Question
from bimo.evaluation.report import Labels

_GROUPS = {
    "seen": Message("Captions seen in training: name and style word"),
    "bare": Message("Bare everyday words"),
    "unseen": Message("(kind, style) pairs never seen"),
    "colour": Message("Colour words"),
    "unseen colour": Message("(kind, colour) pairs never seen"),
    "count": Message("Counts"),
    "pair": Message("Two things"),
    "place": Message("Places"),
    "warning": Message("Warning of unknown words"),
    "seeds": Message("Difference between seeds"),
}
_MEASURES = {
    "kind top-1": Message("kind, top-1"),
    "kind top-5": Message("kind, top-5"),
    "style": Message("style right"),
    "kind and style": Message("kind and style right"),
    "nearest neighbour": Message("kind of the nearest neighbour"),
    "colour": Message("colour right"),
    "colour and kind": Message("colour and kind right"),
    "number": Message("number right"),
    "both things": Message("both things"),
    "both in order": Message("both in order"),
    "place": Message("place right"),
    "zh and en alike": Message("zh and en alike"),
    "unknown word named": Message("unknown word named"),
    "false alarm, seen captions": Message("false alarm, seen captions"),
    "false alarm, known everyday words": Message("false alarm, known everyday words"),
    "pixels, two seeds": Message("pixels, two seeds"),
    "pixels, two kinds": Message("pixels, two kinds"),
    "embedding, two seeds": Message("embedding, two seeds"),
    "embedding, two kinds": Message("embedding, two kinds"),
}
_BASELINES = {
    "nearest picture": Message("nearest training picture"),
    "first level": Message("first level alone"),
    "drafted": Message("with drafts by program"),
}
LABELS = Labels(_GROUPS, _MEASURES, _BASELINES)
NOTES = (
    Message("Intervals are 95 %: Wilson for shares, bootstrap for means."),
    Message("“above” means that the model's whole interval lies above the baseline's."),
    Message(
        "Nearest training picture: the 3d training picture of the kind (another style where that is held "
        "out); it ignores words of style, colour, number and place. The judge learned from these very "
        "pictures."
    ),
    Message(
        "True pictures: the true picture of the kind and style asked for in a new pose, shown to the same "
        "judge: the score of a perfect model."
    ),
    Message(
        "Nearest neighbour: the judge's embedding is little sensitive to style, so that copying the 3d "
        "picture scores high as well; whether style transfers is seen in “kind and style right”."
    ),
    Message("Captions seen in training measure memory, not generation."),
    Message("The judge errs too: its accuracy on true pictures is in the tables below."),
    Message("Everyday words: right if the judge names one of the kinds a person would accept."),
)


def sampling_protocol(
    request: Request, questions: Sequence[Question], seeds: Sequence[int], limit: int | None, drawings: DrawingCache
) -> dict[str, Any]:
    """The record of how pictures were sampled: the settings of a request, the numbers of questions, the cost."""
    return {
        "steps": request.steps,
        "guidance": request.guidance,
        "sampler": request.sampler,
        "size": list(request.size or ()),
        "seeds": list(seeds),
        "limit": limit,
        "n": dict(Counter(f"{q.group} {q.language}" for q in questions)),
        "pictures drawn now": drawings.drawn,
        "seconds a picture": round(drawings.seconds / max(1, drawings.drawn), 3),
        "threads": torch.get_num_threads(),
    }


def judge_tables(facts: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """The judge's own accuracies as tables: on poses never seen, and blind on held-out pairs."""
    heading = ["", "n", "kind top-1", "kind top-5", "style", "both"]

    def row(name: str, cells: dict[str, Any]) -> list[str]:
        return [name, str(cells["n"]), *(f"{cells[part]:.1%}".replace("%", " %") for part in heading[2:])]

    main, blind = facts.get("accuracy", {}), facts.get("blind accuracy", {})
    tables: dict[str, list[list[str]]] = {}
    if "overall" in main:
        body = [row(say("all"), main["overall"])]
        body += [row(s, main["overall by style"][s]) for s in main["overall by style"]]
        tables[say("The judge on true pictures in new poses")] = [heading, *body]
    if "held out" in blind:
        body = [row(say("judge without them in training"), blind["held out"])]
        body.append(row(say("judge used here"), main["held out"]))
        body.append(row(say("judge without them in training, on its own pairs"), blind["overall"]))
        tables[say("The judge on true pictures of held-out pairs: the score of a perfect model")] = [heading, *body]
    return tables
