"""True scenes, dishes and verses for their judge: what a built set holds, and what was held out, drawn anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bimo.data import shards
from bimo.evaluation.drawing_cache import read_picture
from bimo.evaluation.progress import OnProgress
from bimo.xiaomo.captions.verses import verses
from bimo.xiaomo.chance import Chance
from bimo.xiaomo.dishes.plan import DishPlan, draw_dish
from bimo.xiaomo.dishes.table import dishes
from bimo.xiaomo.evaluation.truth import small
from bimo.xiaomo.heldout import held_out_scene, held_out_verse
from bimo.xiaomo.scenes.plan import ScenePlan, VersePlan, draw_scene, draw_verse, pairs
from bimo.xiaomo.scenes.styles import STYLES
from bimo.xiaomo.scenes.subjects.verse import room_for

#: Pixels a side that the judge sees: the smallest at which a bridge of a far shore is still one.
SIDE = 96
#: The least pictures that an element must stand in to be learnt.
FEWEST = 40
#: Rows in a hundred that the judge is examined on and does not learn from.
EXAMINED = 6
#: Held-out lines that the judge is examined on, and that a system is asked.
LINES = 120
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class SceneLabels:
    """What true pictures show: ``subject`` [N], of a scene or dish, -1 for a verse; ``style`` [N]; ``elements`` [N, E],
    1 where one stands.
    """

    subject: NDArray[np.int64]
    style: NDArray[np.int64]
    elements: NDArray[np.float32]


@dataclass(frozen=True)
class SceneTruth:
    """RGB [N, 96, 96, 3] and what is on them; the names that the indices stand for."""

    pixels: Bytes
    labels: SceneLabels
    subjects: tuple[str, ...]
    styles: tuple[str, ...]
    elements: tuple[str, ...]

    def rows(self, rows: Sequence[int] | NDArray[np.int64]) -> SceneTruth:
        """Some of them, in that order."""
        index, labels = np.asarray(rows, np.int64), self.labels
        some = SceneLabels(labels.subject[index], labels.style[index], labels.elements[index])
        return SceneTruth(self.pixels[index], some, self.subjects, self.styles, self.elements)


def read_scenes(folder: Path, on_progress: OnProgress) -> SceneTruth:
    """All pictures of a built set. Raises DataError where the folder is none."""
    index = shards.read_index(folder)
    pixels: list[Bytes] = []
    rows: list[Mapping[str, Any]] = []
    for _, png, record in shards.read(folder):
        pixels.append(small(read_picture(png), SIDE))
        rows.append(record["labels"])
        if len(rows) % 500 == 0:
            on_progress("true scenes", len(rows), index.count)
    subjects = sorted({row["subject"] for row in rows if row["type"] != "verse"})
    counts: dict[str, int] = {}
    for row in rows:
        for name in row["elements"]:
            counts[name] = counts.get(name, 0) + 1
    named = sorted(name for name, count in counts.items() if count >= min(FEWEST, max(1, len(rows) // 10)))
    styles = tuple(sorted({row["style"] for row in rows}))
    return labelled(np.stack(pixels), rows, tuple(subjects), styles, tuple(named))


def labelled(
    pixels: Bytes,
    rows: Sequence[Mapping[str, Any]],
    subjects: tuple[str, ...],
    styles: tuple[str, ...],
    elements: tuple[str, ...],
) -> SceneTruth:
    """Pictures with the labels of their records as indices; what has no index is -1, or no element."""
    subject = {name: number for number, name in enumerate(subjects)}
    style = {name: number for number, name in enumerate(styles)}
    place = {name: number for number, name in enumerate(elements)}
    there = np.zeros((len(rows), len(elements)), np.float32)
    for row, labels in zip(there, rows, strict=True):
        row[[place[name] for name in labels["elements"] if name in place]] = 1
    what = [-1 if row["type"] == "verse" else subject.get(row["subject"], -1) for row in rows]
    manner = [style.get(row["style"], -1) for row in rows]
    return SceneTruth(pixels, SceneLabels(np.array(what), np.array(manner), there), subjects, styles, elements)


def held_out_scenes(like: SceneTruth, each: int, on_progress: OnProgress) -> SceneTruth:
    """``each`` true pictures of every pair of subject and style that no set holds, drawn anew."""
    wanted = [pair for pair in pairs() if held_out_scene(*pair)]
    plans = [ScenePlan(f"examined-{number}-{one}", *pair) for number, pair in enumerate(wanted) for one in range(each)]
    return _drawn(like, plans, on_progress)


def held_out_lines() -> list[str]:
    """The lines that no caption holds, that name two things or more, and that a picture has room for."""
    held = [one for one in verses() if held_out_verse(one.line) and len(one.elements) > 1]
    return [one.line for one in held if room_for(one.elements)][:LINES]


def held_out_verses(like: SceneTruth, on_progress: OnProgress) -> SceneTruth:
    """True pictures of those lines, drawn anew, each in some style."""
    plans = [
        VersePlan(f"examined-{line}", line, Chance(f"{line}/style").pick(list(STYLES))) for line in held_out_lines()
    ]
    return _drawn(like, plans, on_progress)


def usual_dishes(like: SceneTruth, names: Sequence[str], on_progress: OnProgress) -> SceneTruth:
    """A true picture of each dish in its usual vessel and manner, drawn anew."""
    plans = [DishPlan(f"examined-{name}", name, dishes()[name].vessels[0], "illustration") for name in names]
    return _drawn(like, plans, on_progress)


def _drawn(like: SceneTruth, plans: Sequence[ScenePlan | VersePlan | DishPlan], on_progress: OnProgress) -> SceneTruth:
    pixels: list[Bytes] = []
    rows: list[Mapping[str, Any]] = []
    for number, plan in enumerate(plans, 1):
        if isinstance(plan, DishPlan):
            dish = draw_dish(plan)
            image, shown, kind, name = dish.image, dish.elements, "dish", plan.dish
        elif isinstance(plan, VersePlan):
            scene = draw_verse(plan)
            image, shown, kind, name = scene.image, scene.elements, "verse", plan.line
        else:
            scene = draw_scene(plan)
            image, shown, kind, name = scene.image, scene.elements, "scene", plan.subject
        pixels.append(small(image, SIDE))
        rows.append({"type": kind, "subject": name, "style": plan.style, "elements": shown})
        on_progress("held-out scenes", number, len(plans))
    stack = np.stack(pixels) if pixels else np.zeros((0, SIDE, SIDE, 3), np.uint8)
    return labelled(stack, rows, like.subjects, like.styles, like.elements)
