"""Definition of a subject: a function that composes elements, and the moods and styles that suit it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bimo.xiaomo.chance import Chance
from bimo.xiaomo.scenes.description import LIGHTS, SEASONS, Layout, Mood, Scene, draw_layout
from bimo.xiaomo.scenes.elements import sky as air
from bimo.xiaomo.scenes.geometry import box

ALL_STYLES = (
    "ink",
    "colour",
    "gongbi",
    "watercolour",
    "oil",
    "gogh",
    "qinglu",
    "papercut",
    "porcelain",
    "illustration",
)
#: All styles except for the mineral landscape, for subjects without hills.
NO_HILLS = tuple(style for style in ALL_STYLES if style != "qinglu")
#: Styles for modern subjects.
MODERN = ("ink", "colour", "watercolour", "oil", "gogh", "papercut", "illustration")


@dataclass(frozen=True)
class Subject:
    """A subject. `ranges` override those of the default layout; repeated `moods` are more frequent."""

    name: str
    zh: str
    en: str
    compose: Callable[[Scene], None]
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    seasons: tuple[str, ...] = SEASONS
    lights: tuple[str, ...] = LIGHTS
    weathers: tuple[str, ...] = ("clear", "clear", "clear", "mist")
    styles: tuple[str, ...] = ALL_STYLES

    def draw_mood(self, chance: Chance) -> Mood:
        """A random mood that suits the subject; it snows only in winter, and rains only in other seasons."""
        season, light, weather = chance.pick(self.seasons), chance.pick(self.lights), chance.pick(self.weathers)
        if (weather == "snow" and season != "winter") or (weather == "rain" and season == "winter"):
            weather = "clear"
        return Mood(season, light, weather)

    def scene(self, key: str, mood: Mood | None = None, layout: Layout | None = None) -> Scene:
        """Composes the subject from a key, which also determines mood and layout if they are None."""
        chance = Chance(key)
        mood = mood or self.draw_mood(chance.fork("mood"))
        layout = layout or draw_layout(chance.fork("layout"), dict(self.ranges))
        scene = Scene(chance, mood, layout)
        self.compose(scene)
        air.weather(scene)
        return scene


SEALED = frozenset({"ink", "colour", "gongbi", "qinglu"})


def stamp(scene: Scene) -> None:
    """The painter's red seal in a lower corner, away from the near tree."""
    x, y, size = (0.07 if scene.layout.side > 0 else 0.93), 0.93, 0.026
    scene.fill("seal", box(x - size, y - size, x + size, y + size), rough=0.6)
    marks = [
        box(x + k * size - 0.003, y - size * 0.6, x + k * size + 0.003, y + size * 0.6) for k in (-0.45, 0.05, 0.5)
    ]
    marks.append(box(x - size * 0.6, y - 0.003, x + size * 0.6, y + 0.003))
    scene.fill("seal_mark", *marks, rough=0.4)
    scene.declare("seal", x - size, y - size, x + size, y + size)
