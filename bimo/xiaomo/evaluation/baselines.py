"""What a system must beat: the nearest training picture, the first level alone. And the rules on true pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from bimo.core.request import Request
from bimo.data import shards
from bimo.diffusion.batching import denoise_together
from bimo.diffusion.image_inputs import to_image
from bimo.diffusion.preparation import prepare
from bimo.diffusion.sampling import sample
from bimo.diffusion.system import System
from bimo.evaluation.drawing_cache import read_picture
from bimo.evaluation.intervals import Interval, share
from bimo.evaluation.pixel_rules import foreground, in_place, pieces
from bimo.evaluation.progress import OnProgress
from bimo.xiaomo.artwork.lexicon import DEFAULT_STYLE, DRAWN
from bimo.xiaomo.artwork.sprites import Kind
from bimo.xiaomo.evaluation.measures import colour_of
from bimo.xiaomo.evaluation.prompts import Question
from bimo.xiaomo.evaluation.truth import Artwork, Bytes, examination

NEAREST = "nearest picture"
FIRST = "first level"
#: The model itself, beginning with its own drafts; without them it is measured what its weights learned.
DRAFTED = "drafted"
RULES_EACH = 200
TRUE_SEED = 11


def nearest_picture(artwork: Artwork, question: Question) -> Image.Image:
    """The training picture of the kind asked for, at rest, whatever else is asked: the 3d one, where that is held out
    the first other style's; white where training has none.
    """
    kind = next((kind for kind in artwork.kinds if kind.hexcode in question.kinds[:1]), None)
    order = (DEFAULT_STYLE, *(style for style in DRAWN if style != DEFAULT_STYLE))
    style = next((style for style in order if kind is not None and artwork.usable(kind, style)), None)
    if kind is None or style is None:
        return Image.new("RGB", (128, 128), (255, 255, 255))
    return artwork.picture(kind, style)


def true_pictures(artwork: Artwork, questions: Sequence[Question]) -> tuple[list[Question], Bytes]:
    """The questions of a kind in a style that have a true picture, and it in a new pose: what a perfect painter draws.

    RGB [N, 64, 64, 3], one picture a key: both languages are shown the same.
    """
    kinds = {kind.hexcode: kind for kind in artwork.kinds}
    pairs: dict[str, tuple[Kind, str]] = {}
    for q in questions:
        if q.style is not None and q.kinds[0] in kinds and artwork.exists(kinds[q.kinds[0]], q.style):
            pairs[f"{q.group} {q.key}"] = (kinds[q.kinds[0]], q.style)
    pixels = examination(artwork, list(pairs.values()), TRUE_SEED)
    place = {key: number for number, key in enumerate(pairs)}
    pictured = [q for q in questions if f"{q.group} {q.key}" in place]
    return pictured, pixels[[place[f"{q.group} {q.key}"] for q in pictured]]


def first_level(
    system: System, requests: Sequence[Request], batch: int, on_progress: OnProgress
) -> list[Image.Image] | None:
    """The pictures that the first level's answer decodes to, with the same seeds; None for a system whose first level
    is not a one-step level of the last one's space.
    """
    levels = system.recipe.levels
    if len(levels) < 2 or system.space(levels[0].name) is not system.space(levels[-1].name):
        return None
    space = system.space(levels[0].name)
    images: list[Image.Image] = []
    with torch.inference_mode():
        for first in range(0, len(requests), batch):
            loops = [sample(system, prepare(system, request)) for request in requests[first : first + batch]]
            inputs = [next(loop) for loop in loops]
            if any(each.steps != 1 or each.level != levels[0].name or len(each.x) != 1 for each in inputs):
                return None
            images += [to_image(space.decode(output)[0]) for output in denoise_together(system, inputs)]
            for loop in loops:
                loop.close()
            on_progress(FIRST, len(images), len(requests))
    return images


def rules_on_truth(artwork: Artwork) -> dict[str, Interval]:
    """How often the rules on pixels are right about training canvases, whose labels say what is on them."""
    right: dict[str, list[bool]] = {"colour": [], "number": [], "place": [], "two pieces": []}
    of = {"recolour": "colour", "count": "number", "place": "place", "pair": "two pieces"}
    for _, png, record in shards.read(artwork.folder):
        labels = record["labels"]
        rule = of.get(labels["type"])
        if rule is None or len(right[rule]) >= RULES_EACH:
            if all(len(outcomes) >= RULES_EACH for outcomes in right.values()):
                break
            continue
        image = read_picture(png)
        match rule:
            case "colour":
                right[rule].append(colour_of(image) == labels["colour"])
            case "number":
                right[rule].append(len(pieces(foreground(image))) == labels["count"])
            case "place":
                right[rule].append(in_place(foreground(image), labels["place"]))
            case _:
                right[rule].append(len(pieces(foreground(image))) == 2)
    return {rule: share(outcomes) for rule, outcomes in right.items() if outcomes}
