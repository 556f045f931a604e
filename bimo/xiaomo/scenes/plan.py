"""Plans of scene pictures: key, subject, style and mood by number, without held-out combinations."""

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
    """The plan of one picture. All other properties are derived from the key."""

    key: str
    subject: str
    style: str

    @property
    def mood(self) -> Mood:
        """Season, light and weather that suit the subject."""
        return SUBJECTS[self.subject].draw_mood(Chance(f"{self.key}/mood"))


@dataclass(frozen=True)
class VersePlan:
    """A picture for a line of a poem."""

    key: str
    line: str
    style: str


@dataclass(frozen=True)
class DrawnScene:
    """A picture with its labels: mood, layout, and the boxes of its elements."""

    image: Image.Image
    mood: Mood
    layout: Layout
    elements: dict[str, list[tuple[float, float, float, float]]]


def pairs() -> list[tuple[str, str]]:
    """All compatible pairs (subject, style), including held-out ones."""
    return [(subject.name, style) for subject in SUBJECTS.values() for style in subject.styles]


def plan_scenes(count: int, seed: int = 0) -> Iterator[ScenePlan]:
    """`count` plans: every pair that is not held out in turn, reshuffled in each round."""
    training_pairs = [pair for pair in pairs() if not held_out_scene(*pair)]
    number = 0
    turn = 0
    while number < count:
        for subject, style in _shuffled(training_pairs, Chance(f"plan/{seed}/{turn}"))[: count - number]:
            yield ScenePlan(f"scene-{seed}-{number:06d}", subject, style)
            number += 1
        turn += 1


def plan_verses(lines: Sequence[str], count: int, seed: int = 0) -> Iterator[VersePlan]:
    """`count` plans: each line in turn, reshuffled in each round, each in a random style."""
    number, turn = 0, 0
    while number < count:
        for line in _shuffled(lines, Chance(f"verses/{seed}/{turn}"))[: count - number]:
            key = f"verse-{seed}-{number:06d}"
            yield VersePlan(key, line, Chance(f"{key}/plan").pick(list(STYLES)))
            number += 1
        turn += 1


def _shuffled(things: Sequence[Thing], chance: Chance) -> list[Thing]:
    order = list(things)
    for place in range(len(order) - 1, 0, -1):
        other = chance.integer(0, place)
        order[place], order[other] = order[other], order[place]
    return order


def draw_verse(plan: VersePlan, side: int = 256) -> DrawnScene:
    """Draws a line of verse: the elements that its words name, in the mood that they name."""
    chance = Chance(f"{plan.key}/mood")
    otherwise = Mood(chance.pick(SEASONS), chance.pick(("dawn", "day", "day", "dusk")), "clear")
    scene = verse_scene(plan.key, elements_of(plan.line), mood_of(plan.line, otherwise))
    return _painted(scene, plan.style, side)


def _painted(scene: Scene, style: str, side: int) -> DrawnScene:
    if style in SEALED:
        stamp(scene)
    return DrawnScene(render(scene, STYLES[style], side), scene.mood, scene.layout, dict(scene.elements))


def draw_scene(plan: ScenePlan, side: int = 256) -> DrawnScene:
    """Draws a plan, deterministically for a plan and side in pixels."""
    return _painted(SUBJECTS[plan.subject].scene(plan.key, plan.mood), plan.style, side)
