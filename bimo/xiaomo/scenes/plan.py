"""Which pictures a set holds: for each number a key, a subject, a style and a mood; what is held out is left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image

from bimo.xiaomo.captions.lexicon import elements_of, mood_of
from bimo.xiaomo.chance import Chance
from bimo.xiaomo.heldout import held_out_scene
from bimo.xiaomo.scenes.description import SEASONS, Layout, Mood, Scene
from bimo.xiaomo.scenes.styles import STYLES, render
from bimo.xiaomo.scenes.subjects import SEALED, SUBJECTS, stamp
from bimo.xiaomo.scenes.subjects.verse import verse_scene

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class ScenePlan:
    """What one picture is to be. The key alone decides everything else."""

    key: str
    subject: str
    style: str

    @property
    def mood(self) -> Mood:
        """Season, light and weather, of those that suit the subject."""
        return SUBJECTS[self.subject].draw_mood(Chance(f"{self.key}/mood"))


@dataclass(frozen=True)
class VersePlan:
    """A picture for a line of a poem."""

    key: str
    line: str
    style: str


@dataclass(frozen=True)
class DrawnScene:
    """A picture, and what it declares: its mood, its layout, and the boxes of its elements."""

    image: Image.Image
    mood: Mood
    layout: Layout
    elements: dict[str, list[tuple[float, float, float, float]]]


def pairs() -> list[tuple[str, str]]:
    """Every (subject, style) that goes together, held out or not."""
    return [(subject.name, style) for subject in SUBJECTS.values() for style in subject.styles]


def plan_scenes(count: int, seed: int = 0) -> Iterator[ScenePlan]:
    """`count` plans: every pair that may be seen in turn, in an order of its own each time round."""
    seen = [pair for pair in pairs() if not held_out_scene(*pair)]
    made = 0
    turn = 0
    while made < count:
        for subject, style in _shuffled(seen, Chance(f"plan/{seed}/{turn}"))[: count - made]:
            yield ScenePlan(f"scene-{seed}-{made:06d}", subject, style)
            made += 1
        turn += 1


def plan_verses(lines: Sequence[str], count: int, seed: int = 0) -> Iterator[VersePlan]:
    """`count` plans: each line in turn, in an order of its own each time round, each in some style."""
    made, turn = 0, 0
    while made < count:
        for line in _shuffled(lines, Chance(f"verses/{seed}/{turn}"))[: count - made]:
            key = f"verse-{seed}-{made:06d}"
            yield VersePlan(key, line, Chance(f"{key}/plan").pick(list(STYLES)))
            made += 1
        turn += 1


def _shuffled(things: Sequence[Thing], chance: Chance) -> list[Thing]:
    order = list(things)
    for place in range(len(order) - 1, 0, -1):
        other = chance.integer(0, place)
        order[place], order[other] = order[other], order[place]
    return order


def draw_verse(plan: VersePlan, side: int = 256) -> DrawnScene:
    """The picture of a line: what its words name, in the mood that they name."""
    chance = Chance(f"{plan.key}/mood")
    otherwise = Mood(chance.pick(SEASONS), chance.pick(("dawn", "day", "day", "dusk")), "clear")
    scene = verse_scene(plan.key, elements_of(plan.line), mood_of(plan.line, otherwise))
    return _painted(scene, plan.style, side)


def _painted(scene: Scene, style: str, side: int) -> DrawnScene:
    if style in SEALED:
        stamp(scene)
    return DrawnScene(render(scene, STYLES[style], side), scene.mood, scene.layout, dict(scene.elements))


def draw_scene(plan: ScenePlan, side: int = 256) -> DrawnScene:
    """The picture of a plan; the same bytes for the same plan and side."""
    return _painted(SUBJECTS[plan.subject].scene(plan.key, plan.mood), plan.style, side)
