"""Poses, recolouring, effects and scenes: what is declared is what is drawn."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bimo.xiaomo.artwork.backdrops import STANDS, backdrop
from bimo.xiaomo.artwork.canvas import Composer, plan, rng_of
from bimo.xiaomo.artwork.compose import IDENTITY, Pose, apply_pose, forward, keep_inside, on_colour, recolour
from bimo.xiaomo.artwork.editions import FIRST
from bimo.xiaomo.artwork.effects import APPLY
from bimo.xiaomo.artwork.held_out import COLOURS as HELD_COLOURS
from bimo.xiaomo.artwork.held_out import PAIRS, SCENES, held_out, held_out_composition, hexcode
from bimo.xiaomo.artwork.lexicon import COLOURS, DRAWN, EFFECTS
from bimo.xiaomo.artwork.lexicon import SCENES as SCENE_WORDS
from bimo.xiaomo.artwork.sprites import Kind, Sprite, SpriteStore, canonical, content_box


def sprite(box: tuple[int, int, int, int] = (30, 20, 90, 100), colour: str = "#d03030") -> Image.Image:
    image = Image.new("RGBA", (128, 128))
    ImageDraw.Draw(image).rectangle(box, fill=colour)
    return image


def some_kinds(count: int) -> list[Kind]:
    return [
        Kind(f"1f{number:03x}", chr(0x1F000 + number), "objects", 82, "物", "物", f"thing {number}", styles=DRAWN)
        for number in range(count)
    ]


def dot(x: int, y: int) -> Image.Image:
    return sprite((x - 3, y - 3, x + 3, y + 3))


@pytest.mark.parametrize(
    "pose",
    [
        Pose(0, 1.0, 0.1, 0.0, 0.0),
        Pose(1, 1.0, 0.0, 0.0, 0.0),
        Pose(0, 1.0, 0.0, 0.0, 30.0),
        Pose(1, 0.8, 0.05, -0.04, 12.0),
        Pose(0, 1.05, -0.06, 0.07, -9.5),
    ],
)
def test_the_picture_moves_where_the_pose_says(pose: Pose) -> None:
    left, top, right, bottom = content_box(apply_pose(dot(80, 40), pose))
    x, y = forward(pose, 80.5 / 128, 40.5 / 128)
    assert abs((left + right) / 2 - x) < 0.008
    assert abs((top + bottom) / 2 - y) < 0.008


def test_the_order_is_flip_turn_scale_move() -> None:
    # a point right of the centre: flipped to the left, turned a quarter anticlockwise to below, halved, moved right
    x, y = forward(Pose(1, 0.5, 0.1, 0.0, 90.0), 0.9, 0.5)
    assert (round(x, 6), round(y, 6)) == (0.6, 0.7)
    assert apply_pose(dot(80, 40), IDENTITY).tobytes() == dot(80, 40).tobytes()


def test_nothing_leaves_the_canvas() -> None:
    image = canonical(sprite((0, 0, 127, 60)))
    assert image is not None
    pose = keep_inside(image, Pose(0, 1.05, 0.08, -0.08, 12.0))
    moved = apply_pose(image, pose)
    alpha = np.asarray(moved.getchannel("A"))
    assert alpha[0].max() < 9
    assert alpha[-1].max() < 9
    assert alpha[:, 0].max() < 9
    assert alpha[:, -1].max() < 9


def test_canonical() -> None:
    image = canonical(sprite((0, 0, 20, 60)))
    assert image is not None
    left, top, right, bottom = content_box(image)
    assert abs((bottom - top) - 0.84) < 0.02
    assert abs((left + right) / 2 - 0.5) < 0.01
    assert canonical(Image.new("RGBA", (16, 16))) is None


@pytest.mark.parametrize("name", [name for name, colour in COLOURS.items() if colour.hue is not None])
@pytest.mark.parametrize("base", ["#d03030", "#3060d0", "#909090"])
def test_recoloured_things_have_the_hue(name: str, base: str) -> None:
    colour = COLOURS[name]
    image = np.asarray(recolour(sprite(colour=base), colour).convert("RGB"), np.float64)[40:80, 40:80].mean((0, 1))
    found = np.degrees(
        np.arctan2(np.sqrt(3) * (image[1] - image[2]), 2 * image[0] - image[1] - image[2])
    )  # fmt: skip
    assert colour.hue is not None
    assert abs((found - colour.hue + 180) % 360 - 180) < 22


@pytest.mark.parametrize("effect", EFFECTS)
def test_effects_are_repeatable_and_differ_from_the_sprite(effect: str) -> None:
    first, second = APPLY[effect](sprite()), APPLY[effect](sprite())
    assert first.size == (128, 128)
    assert first.mode == "RGB"
    assert first.tobytes() == second.tobytes()
    assert first.tobytes() != on_colour(sprite()).tobytes()
    assert APPLY[effect](Image.new("RGBA", (128, 128))).size == (128, 128)


@pytest.mark.parametrize("scene", list(SCENE_WORDS))
def test_scenes(scene: str) -> None:
    assert backdrop(scene).size == (128, 128)
    assert scene in STANDS


def test_the_held_out_rule() -> None:
    kinds = some_kinds(600)
    held = [(kind, style) for kind in kinds for style in (*DRAWN, *EFFECTS) if held_out(kind, style)]
    assert 0.035 < len(held) / (600 * (len(DRAWN) + len(EFFECTS))) < 0.065
    for first, second in PAIRS:
        assert held_out_composition(hexcode(first), hexcode(second))
        assert held_out_composition(hexcode(second), hexcode(first))
    for emoji, other in (*HELD_COLOURS, *SCENES):
        assert held_out_composition(hexcode(emoji), other)
    few = Kind("1f600", "x", "objects", 82, "物", "物", "thing", styles=("3d",))
    assert not any(held_out(few, style) for style in (*DRAWN, *EFFECTS))


def test_the_plan_has_the_shares_and_every_sprite_once() -> None:
    kinds = some_kinds(40)
    plans = plan(kinds, 2000, 0)
    amounts = {name: sum(item.type == name for item in plans) for name in FIRST.shares}
    assert len(plans) == 2000
    first = plans[: 2000 - sum(round(2000 * share / (1 + sum(FIRST.more.values()))) for share in FIRST.more.values())]
    later = plans[len(first) :]
    assert abs(amounts["effect"] - 0.14 * len(first)) <= 1
    assert abs(amounts["count"] - 0.04 * len(first)) <= 1
    assert {item.type for item in later} == set(FIRST.more)
    assert abs(sum(item.type == "pair" for item in later) - 0.15 * len(first)) <= 1
    identity = [item.sprite for item in plans if item.sprite is not None]
    usable = {(kind.hexcode, style) for kind in kinds for style in DRAWN if not held_out(kind, style)}
    assert len(identity) == len(usable)
    assert set(identity) == usable
    assert plan(kinds, 2000, 0) == plans


def test_things_stand_in_their_boxes_under_the_pose_and_a_flip_leaves_left_left() -> None:
    class Store:
        def sprite(self, kind: str, style: str) -> Sprite:
            return Sprite(kind, style, sprite(colour="#ff0000" if kind == "1f000" else "#0000ff"))

    kinds = some_kinds(2)
    composer = Composer(kinds, cast(SpriteStore, Store()), 0)
    flips = set()
    for number in range(12):
        places = ((kinds[0], 0.26, 0.5, 0.45), (kinds[1], 0.74, 0.5, 0.45))
        canvas, stood = composer._arranged(rng_of(0, str(number), "canvas"), "flat", places)
        pixels = np.asarray(canvas, np.int64)
        flip, *rest = stood["pose"]
        for (across, down, side), sign in zip(stood["boxes"], (1, -1), strict=True):
            assert side == 0.45
            seen = np.argwhere(sign * (pixels[..., 0] - pixels[..., 2]) > 128)
            x, y = forward(Pose(0, *rest), across, down)
            assert abs((seen[:, 1].mean() + 0.5) / 128 - x) < 0.01
            assert abs((seen[:, 0].mean() + 0.5) / 128 - y) < 0.01
        flips.add(flip)
    assert flips == {0, 1}
