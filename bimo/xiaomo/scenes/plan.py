"""Which pictures a set holds: for each number a key, a subject, a style and a mood; what is held out is left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from bimo.xiaomo.chance import Chance
from bimo.xiaomo.heldout import held_out_scene
from bimo.xiaomo.scenes.description import Layout, Mood
from bimo.xiaomo.scenes.styles import STYLES, render
from bimo.xiaomo.scenes.subjects import SEALED, SUBJECTS, stamp


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
        order = list(seen)
        chance = Chance(f"plan/{seed}/{turn}")
        for place in range(len(order) - 1, 0, -1):
            other = chance.integer(0, place)
            order[place], order[other] = order[other], order[place]
        for subject, style in order[: count - made]:
            yield ScenePlan(f"scene-{seed}-{made:06d}", subject, style)
            made += 1
        turn += 1


def draw_scene(plan: ScenePlan, side: int = 256) -> DrawnScene:
    """The picture of a plan; the same bytes for the same plan and side."""
    scene = SUBJECTS[plan.subject].scene(plan.key, plan.mood)
    if plan.style in SEALED:
        stamp(scene)
    image = render(scene, STYLES[plan.style], side)
    return DrawnScene(image, scene.mood, scene.layout, dict(scene.elements))
