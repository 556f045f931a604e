"""Canvases: square RGB pictures composed of sprites, with labels that describe them completely.

All randomness comes from a `random.Random` seeded by the sample's key, so a canvas is the same in every process.
Papers, backdrops and layouts are fixed: everything that varies is in the labels.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from PIL import Image

from bimo.core.errors import DataError
from bimo.xiaomo.artwork.backdrops import STANDS, backdrop
from bimo.xiaomo.artwork.compose import (
    IDENTITY,
    Pose,
    apply_pose,
    forward,
    keep_inside,
    on_colour,
    paste_at,
    paste_standing,
    recolour,
)
from bimo.xiaomo.artwork.compositions import compositions, idioms
from bimo.xiaomo.artwork.editions import FIRST, Edition
from bimo.xiaomo.artwork.effects import APPLY
from bimo.xiaomo.artwork.held_out import held_out, held_out_composition, held_out_relation, hexcode
from bimo.xiaomo.artwork.lexicon import COLOURS, EFFECTS, PLACES, RELATIONS, SCENES
from bimo.xiaomo.artwork.places import ACCESSORIES, ANIMAL_FACES, CENTRES, LAYOUTS, PLAIN_FACES
from bimo.xiaomo.artwork.sprites import Kind, SpriteStore

STYLE_WEIGHTS: Mapping[str, float] = {
    "3d": 4.0, "cartoon": 2.5, "twemoji": 1.3, "flat": 1.3, "silhouette": 1.0, "line": 1.0, "retro": 0.9,
    "vector": 1.3, "minimal": 1.0, "outlined": 1.3,
}  # fmt: skip
ALIASED_WEIGHT = 3.0
TRANSPORT = range(54, 57)
UNCOUNTED = frozenset("对双副束串摞道团滴片份家所沓套")
NO_FLIP = re.compile(
    r"left|right|quarter|crescent|gibbous|clock|watch|hand|finger|point|\bok\b|hundred|zzz|calendar|book|paper|sign|"
    r"keyboard|map|globe|bank|hospital|hotel|office|store|money|card|medal|8 ball|spade|club|mahjong|joker|radio|fax|"
    r"pager|chart|dvd|disk|mail|label|police|taxi|bus|ambulance|letter|score|note|thermometer|scale|slider|anger|date|"
    r"dollar|yen|euro|pound|receipt|ticket|speech|speaking|memo|document|scroll|abacus|slot|die|ruler|television|laptop"
)
HANDS = range(16, 22)


@dataclass(frozen=True)
class Labels:
    """The labels of a canvas, None for what does not apply. Kinds are hexcodes, the rest ids of the lexicon.

    `style` is the drawn style of the sprites, `effect` the processing applied to them; `pose` is [flip, scale, dx, dy,
    degrees]. `boxes` are those of arranged objects, before the pose: [across, down, long side], relative to the side.
    `elements` are the positions of an idiom's objects by their Chinese names: [left, top, right, bottom], relative to
    the side.
    """

    type: str
    kind: str
    style: str
    effect: str | None = None
    colour: str | None = None
    background: str | None = None
    scene: str | None = None
    count: int | None = None
    kind2: str | None = None
    relation: str | None = None
    place: str | None = None
    size: str | None = None
    pose: list[float] = field(default_factory=lambda: IDENTITY.as_list())
    boxes: list[list[float]] | None = None
    idiom: str | None = None
    elements: dict[str, list[list[float]]] | None = None

    def as_dict(self) -> dict[str, object]:
        """A plain dict, for JSON, without the fields that the first edition lacks."""
        later = ("idiom", "elements")
        return {name: value for name, value in asdict(self).items() if name not in later or value is not None}


@dataclass(frozen=True)
class Plan:
    """The plan of one sample; `sprite` is set for the identity pose of one (kind, style)."""

    key: str
    type: str
    sprite: tuple[str, str] | None = None


def rng_of(seed: int, key: str, purpose: str) -> random.Random:
    """The random generator of a sample, seeded by seed, key and purpose."""
    return random.Random(hashlib.sha256(f"{seed}:{key}:{purpose}".encode()).digest())


class Cast:
    """The kinds for each role; every choice of a (kind, style) is checked against the held-out rule here."""

    def __init__(self, kinds: Sequence[Kind], edition: Edition = FIRST) -> None:
        self.edition = edition
        self.kinds = {kind.hexcode: kind for kind in kinds}
        common = [kind for kind in kinds if kind.aliases_zh]
        self.all = list(kinds)
        self.things = [k for k in kinds if k.group not in ("smileys", "people")]
        self.players = [
            k
            for k in common
            if k.group in ("animals-nature", "food-drink", "objects", "activities")
            or k.subgroup in TRANSPORT
            or 23 <= k.subgroup <= 26
        ]
        self.standing = [k for k in self.players if k.group not in ("objects", "activities")]
        self.counted = [k for k in self.players if k.classifier and k.classifier not in UNCOUNTED]
        self.faces = self._of(ANIMAL_FACES + PLAIN_FACES)
        self.accessories = self._of("".join(ACCESSORIES))
        #: The (relation, object) pairs and idioms whose kinds are all available.
        self.composed = [
            (name, self.kinds[code])
            for name, one in compositions().items()
            for code in map(hexcode, one.things)
            if code in self.kinds
        ]
        self.drawable_idioms = [
            name for name, one in idioms().items() if all(hexcode(emoji) in self.kinds for emoji, _ in one.things)
        ]
        self.foods = [k for k in common if k.group == "food-drink" and 42 <= k.subgroup <= 46]

    def _of(self, emoji: str) -> list[Kind]:
        return [self.kinds[code] for code in map(hexcode, emoji) if code in self.kinds]

    def drawn(self, kind: Kind, among: Sequence[str] | None = None) -> list[str]:
        """The drawn styles of a kind that may be used, by default among those of the edition."""
        return [style for style in among or self.edition.drawn if style in kind.styles and not held_out(kind, style)]

    def pick(self, rng: random.Random, kinds: Sequence[Kind], among: Sequence[str]) -> tuple[Kind, str]:
        """A kind and one of its usable styles; common kinds and main styles have higher probabilities."""
        weights = [ALIASED_WEIGHT if kind.aliases_zh else 1.0 for kind in kinds]
        for kind in rng.choices(kinds, weights, k=64) if kinds else []:
            styles = self.drawn(kind, among)
            if styles:
                return kind, rng.choices(styles, [STYLE_WEIGHTS[style] for style in styles])[0]
        raise DataError(
            "Too little artwork for a canvas: no kind has a usable style. Check that the packages are complete."
        )

    def pick_two(self, rng: random.Random, first: Sequence[Kind], second: Sequence[Kind]) -> tuple[Kind, Kind, str]:
        """Two different kinds in a style that both may use, never a held-out composition."""
        for _ in range(200):
            one, style = self.pick(rng, first, self.edition.coloured)
            two = rng.choice(second) if second else one
            if one != two and style in self.drawn(two) and not held_out_composition(one.hexcode, two.hexcode):
                return one, two, style
        raise DataError("Too little artwork: no two kinds may share a canvas. Check that the packages are complete.")


def plan(kinds: Sequence[Kind], canvases: int, seed: int, edition: Edition = FIRST) -> list[Plan]:
    """The plans of all samples, shuffled: the edition's shares, every usable (kind, style) once in identity pose; then,
    likewise, its additional ones.
    """
    cast = Cast(kinds, edition)
    more = {name: round(canvases * share / (1 + sum(edition.more.values()))) for name, share in edition.more.items()}
    first = canvases - sum(more.values())
    amounts = {name: round(first * share) for name, share in edition.shares.items()}
    amounts["single"] += first - sum(amounts.values())
    for name, needed in (
        ("accessory", cast.faces and cast.accessories),
        ("eating", cast.faces and cast.foods),
        ("composition", cast.faces and cast.composed),
        ("idiom", cast.drawable_idioms),
    ):
        if not needed and name in amounts:
            amounts["single"] += amounts.pop(name)
    types: list[tuple[str, tuple[str, str] | None]] = []
    sprites = [(kind.hexcode, style) for kind in cast.all for style in cast.drawn(kind)]
    rng = random.Random(seed)
    rng.shuffle(sprites)
    types += [("single", sprites[i] if i < len(sprites) else None) for i in range(amounts.pop("single"))]
    types += [(name, None) for name, amount in amounts.items() for _ in range(amount)]
    rng.shuffle(types)
    later: list[tuple[str, tuple[str, str] | None]] = [(name, None) for name, n in more.items() for _ in range(n)]
    rng.shuffle(later)
    types += later
    return [Plan(f"{number:07d}", name, sprite) for number, (name, sprite) in enumerate(types)]


class Composer:
    """Draws the canvas of a plan: `compose(plan)` -> (RGB, Labels)."""

    def __init__(self, kinds: Sequence[Kind], store: SpriteStore, seed: int, edition: Edition = FIRST) -> None:
        self.cast, self.store, self.seed, self.side = Cast(kinds, edition), store, seed, edition.side
        self.edition = edition
        self._by_type: Mapping[str, Callable[[Plan, random.Random], tuple[Image.Image, Labels]]] = {
            "single": self._single, "effect": self._effect, "recolour": self._recolour,
            "background": self._background, "scene": self._scene, "pair": self._pair, "count": self._count,
            "accessory": self._accessory, "eating": self._eating, "place": self._place, "size": self._size,
            "composition": self._composition, "idiom": self._idiom,
        }  # fmt: skip

    def compose(self, plan: Plan) -> tuple[Image.Image, Labels]:
        """The canvas and its labels, determined by plan and seed."""
        return self._by_type[plan.type](plan, rng_of(self.seed, plan.key, "canvas"))

    def _sprite(self, kind: Kind, style: str) -> Image.Image:
        if held_out(kind, style):
            raise DataError("{emoji} in {style} is held out.", emoji=kind.emoji, style=style)
        return self.store.sprite(kind.hexcode, style).image

    def _pose(self, rng: random.Random, kinds: Sequence[Kind], image: Image.Image, reach: float) -> Pose:
        """A random pose that keeps an image on the canvas; `reach` 1 is the full range, less is closer to the rest
        pose.
        """
        flips = all(kind.subgroup not in HANDS and not NO_FLIP.search(kind.en.lower()) for kind in kinds)
        flip = int(rng.random() < 0.5) if flips else 0
        scale = rng.uniform(1 - 0.28 * reach, 1.05)
        dx, dy = rng.uniform(-0.08, 0.08) * reach, rng.uniform(-0.08, 0.08) * reach
        return keep_inside(image, Pose(flip, scale, dx, dy, round(rng.uniform(-12, 12) * reach, 2)))

    def _posed(self, rng: random.Random, kind: Kind, style: str) -> tuple[Image.Image, Pose]:
        image = self._sprite(kind, style)
        pose = self._pose(rng, [kind], image, 1.0)
        return apply_pose(image, pose), pose

    def _arranged(
        self,
        rng: random.Random,
        style: str,
        places: Sequence[tuple[Kind, float, float, float]],
        order: Sequence[int] | None = None,
    ) -> tuple[Image.Image, dict[str, Any]]:
        """Kinds at (across, down) with long side `size`, posed together on white, and their labels. They are pasted in
        the given order, or by `order`.

        A flip mirrors every kind in its place: left stays left.
        """
        laid = places if order is None else [places[number] for number in order]
        layer = Image.new("RGBA", (self.side, self.side))
        for kind, across, down, size in laid:
            paste_at(layer, self._sprite(kind, style), across, down, size)
        pose = self._pose(rng, [kind for kind, *_ in places], layer, 0.7)
        if pose.flip:
            layer = Image.new("RGBA", (self.side, self.side))
            for kind, across, down, size in laid:
                paste_at(layer, self._sprite(kind, style), 1 - across, down, size)
        stood = {"pose": pose.as_list(), "boxes": [list(box) for _, *box in places]}
        return on_colour(apply_pose(layer, pose)), stood

    def _single(self, plan: Plan, rng: random.Random) -> tuple[Image.Image, Labels]:
        if plan.sprite is not None:
            kind, style = self.cast.kinds[plan.sprite[0]], plan.sprite[1]
            return on_colour(self._sprite(kind, style)), Labels("single", kind.hexcode, style)
        kind, style = self.cast.pick(rng, self.cast.all, self.edition.drawn)
        image, pose = self._posed(rng, kind, style)
        return on_colour(image), Labels("single", kind.hexcode, style, pose=pose.as_list())

    def _effect(self, plan: Plan, rng: random.Random) -> tuple[Image.Image, Labels]:
        effect = rng.choice(EFFECTS)
        usable = [kind for kind in self.cast.all if not held_out(kind, effect)]
        kind, style = self.cast.pick(rng, usable, self.edition.coloured)
        image, pose = self._posed(rng, kind, style)
        return APPLY[effect](image), Labels("effect", kind.hexcode, style, effect=effect, pose=pose.as_list())

    def _recolour(self, plan: Plan, rng: random.Random) -> tuple[Image.Image, Labels]:
        colour = rng.choice(list(COLOURS))
        usable = [kind for kind in self.cast.things if not held_out_composition(kind.hexcode, colour)]
        kind, style = self.cast.pick(rng, usable, self.edition.coloured)
        image, pose = self._posed(rng, kind, style)
        canvas = on_colour(recolour(image, COLOURS[colour]))
        return canvas, Labels("recolour", kind.hexcode, style, colour=colour, pose=pose.as_list())

    def _background(self, plan: Plan, rng: random.Random) -> tuple[Image.Image, Labels]:
        background = rng.choice(list(COLOURS))
        kind, style = self.cast.pick(rng, self.cast.all, self.edition.coloured)
        image, pose = self._posed(rng, kind, style)
        canvas = on_colour(image, COLOURS[background].background)
        return canvas, Labels("background", kind.hexcode, style, background=background, pose=pose.as_list())

    def _scene(self, plan: Plan, rng: random.Random) -> tuple[Image.Image, Labels]:
        scene = rng.choice(list(SCENES))
        usable = [kind for kind in self.cast.standing if not held_out_composition(kind.hexcode, scene)]
        kind, style = self.cast.pick(rng, usable, self.edition.coloured)
        canvas, stand = backdrop(scene, self.side).copy(), STANDS[scene]
        image = self._sprite(kind, style)
        pose = self._pose(rng, [kind], image, 0.7)
        turned = apply_pose(image, Pose(flip=pose.flip, angle=pose.angle))
        across, foot = stand.across + pose.dx, stand.foot + pose.dy / 2
        paste_standing(canvas, turned, across, foot, stand.size * pose.scale, stand.shadow)
        return canvas, Labels("scene", kind.hexcode, style, scene=scene, pose=pose.as_list())

    def _pair(self, plan: Plan, rng: random.Random) -> tuple[Image.Image, Labels]:
        one, two, style = self.cast.pick_two(rng, self.cast.players, self.cast.players)
        relation = rng.choices(list(RELATIONS), [0.4, 0.2, 0.2, 0.2])[0]
        places = {"right": ((0.74, 0.5), (0.26, 0.5)), "above": ((0.5, 0.26), (0.5, 0.74))}
        first, second = places.get(relation, ((0.26, 0.5), (0.74, 0.5)))
        canvas, stood = self._arranged(rng, style, ((one, *first, 0.45), (two, *second, 0.45)))
        return canvas, Labels("pair", one.hexcode, style, kind2=two.hexcode, relation=relation, **stood)

    def _count(self, plan: Plan, rng: random.Random) -> tuple[Image.Image, Labels]:
        kind, style = self.cast.pick(rng, self.cast.counted, self.edition.coloured)
        count = rng.choice(list(LAYOUTS))
        canvas, stood = self._arranged(rng, style, [(kind, *layout) for layout in LAYOUTS[count]])
        return canvas, Labels("count", kind.hexcode, style, count=count, **stood)

    def _accessory(self, plan: Plan, rng: random.Random) -> tuple[Image.Image, Labels]:
        face, worn, style = self.cast.pick_two(rng, self.cast.faces, self.cast.accessories)
        place = ACCESSORIES[worn.emoji.replace("\ufe0f", "")]
        canvas, stood = self._arranged(rng, style, ((face, 0.5, 0.58, 0.74), (worn, *place)))
        labels = Labels("accessory", face.hexcode, style, kind2=worn.hexcode, relation="wearing", **stood)
        return canvas, labels

    def _eating(self, plan: Plan, rng: random.Random) -> tuple[Image.Image, Labels]:
        face, food, style = self.cast.pick_two(rng, self.cast.faces, self.cast.foods)
        canvas, stood = self._arranged(rng, style, ((face, 0.45, 0.45, 0.78), (food, 0.74, 0.75, 0.44)))
        labels = Labels("eating", face.hexcode, style, kind2=food.hexcode, relation="eating", **stood)
        return canvas, labels

    def _place(self, plan: Plan, rng: random.Random) -> tuple[Image.Image, Labels]:
        kind, style = self.cast.pick(rng, self.cast.players, self.edition.coloured)
        place = rng.choice(list(PLACES))
        canvas, stood = self._arranged(rng, style, ((kind, *CENTRES[place], 0.40),))
        return canvas, Labels("place", kind.hexcode, style, place=place, **stood)

    def _size(self, plan: Plan, rng: random.Random) -> tuple[Image.Image, Labels]:
        kind, style = self.cast.pick(rng, self.cast.players, self.edition.coloured)
        size = rng.choice(["small", "large"])
        canvas, stood = self._arranged(rng, style, ((kind, 0.5, 0.5, 0.32 if size == "small" else 0.98),))
        return canvas, Labels("size", kind.hexcode, style, size=size, **stood)

    def _composition(self, plan: Plan, rng: random.Random) -> tuple[Image.Image, Labels]:
        for _ in range(200):
            relation, thing = rng.choice(self.cast.composed)
            one = compositions()[relation]
            among = [style for style in self.edition.coloured if not one.styles or style in one.styles]
            face, style = self.cast.pick(rng, self.cast.faces, among)
            held = held_out_relation(face.hexcode, relation, thing.hexcode)
            if face != thing and style in self.cast.drawn(thing) and not held:
                order = (1, 0) if one.over == "first" else (0, 1)
                first = one.styles.get(style, one.first)
                canvas, stood = self._arranged(rng, style, ((face, *first), (thing, *one.second)), order)
                labels = Labels("composition", face.hexcode, style, kind2=thing.hexcode, relation=relation, **stood)
                return canvas, labels
        raise DataError(
            "Too little artwork: no face and thing may share a canvas. Check that the packages are complete."
        )

    def _idiom(self, plan: Plan, rng: random.Random) -> tuple[Image.Image, Labels]:
        name = rng.choice(self.cast.drawable_idioms)
        places = [(self.cast.kinds[hexcode(emoji)], *box) for emoji, box in idioms()[name].things]
        kinds = [kind for kind, *_ in places]
        styles = [style for style in self.edition.coloured if all(style in self.cast.drawn(kind) for kind in kinds)]
        if not styles:  # only held-out styles are left: another idiom is drawn
            return self._composition(plan, rng)
        style = rng.choices(styles, [STYLE_WEIGHTS[style] for style in styles])[0]
        canvas, stood = self._arranged(rng, style, places)
        pose = Pose(0, *stood["pose"][1:])
        elements: dict[str, list[list[float]]] = {}
        for kind, across, down, size in places:
            corners = [forward(pose, across + x * size / 2, down + y * size / 2) for x in (-1, 1) for y in (-1, 1)]
            left, right = (edge(x for x, _ in corners) for edge in (min, max))
            top, bottom = (edge(y for _, y in corners) for edge in (min, max))
            box = [round(min(max(number, 0.0), 1.0), 3) for number in (left, top, right, bottom)]
            elements.setdefault(kind.zh_words[0], []).append(box)
        labels = Labels("idiom", kinds[0].hexcode, style, pose=stood["pose"], idiom=name, elements=elements)
        return canvas, labels
