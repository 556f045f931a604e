"""Scenes by procedure: the same bytes from a key, every subject in every manner, what is declared, what is held out."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from bimo.xiaomo.chance import Chance
from bimo.xiaomo.heldout import held_out_scene
from bimo.xiaomo.scenes.description import LIGHTS, SEASONS, WEATHERS, Layout, Mood, Scene
from bimo.xiaomo.scenes.geometry import box, path
from bimo.xiaomo.scenes.plan import ScenePlan, draw_scene, pairs, plan_scenes
from bimo.xiaomo.scenes.styles import STYLES, render
from bimo.xiaomo.scenes.subjects import SUBJECTS
from tests.support.checkout import ROOT

PLAN = ScenePlan("scene-test-1", "bridge", "watercolour")
CODE = """
import hashlib
from bimo.xiaomo.scenes.plan import ScenePlan, draw_scene
drawn = draw_scene(ScenePlan("scene-test-1", "bridge", "watercolour"))
print(hashlib.sha256(drawn.image.tobytes()).hexdigest(), drawn.layout.as_list())
"""


def test_chance_is_the_key_s_alone() -> None:
    one, same, other = Chance("a"), Chance("a"), Chance("b")
    assert one.array(3, 2).tolist() == same.array(3, 2).tolist() != other.array(3, 2).tolist()
    assert Chance("a").fork("x").uniform() != Chance("a").fork("y").uniform()
    # these numbers are part of the format: were they to change, so would every picture
    assert Chance("a").integer(0, 10**6) == 715140
    assert np.abs(Chance("c").bell(1.0, 4000)).max() < 3.5
    assert abs(float(Chance("c").bell(1.0, 4000).std()) - 1) < 0.05


def test_a_key_gives_the_same_bytes_in_a_new_process() -> None:
    drawn = draw_scene(PLAN)
    expected = f"{hashlib.sha256(drawn.image.tobytes()).hexdigest()} {drawn.layout.as_list()}"
    done = subprocess.run((sys.executable, "-c", CODE), cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
    assert draw_scene(PLAN).image.tobytes() == drawn.image.tobytes()
    assert draw_scene(ScenePlan("scene-test-2", "bridge", "watercolour")).image.tobytes() != drawn.image.tobytes()


#: A subject for each manner that is also drawn at its full size.
FULL_SIZE = {
    style: [name for name, subject in SUBJECTS.items() if style in subject.styles][number]
    for number, style in enumerate(STYLES)
}


@pytest.mark.slow
@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_subject_in_every_manner(subject: str) -> None:
    for style in SUBJECTS[subject].styles:
        side = 256 if FULL_SIZE[style] == subject else 64
        drawn = draw_scene(ScenePlan(f"every/{style}", subject, style), side)
        pixels = np.asarray(drawn.image, np.float32)
        assert pixels.shape == (side, side, 3)
        assert pixels.std() > 8, f"{subject} in {style} is nearly blank"
        assert drawn.elements, f"{subject} declares nothing"
        for name, boxes in drawn.elements.items():
            for left, top, right, bottom in boxes:
                assert 0 <= left < right <= 1, (subject, name)
                assert 0 <= top < bottom <= 1, (subject, name)


def test_there_are_enough_subjects_and_all_manners() -> None:
    assert len(SUBJECTS) >= 24
    assert set(STYLES) == {
        *("ink", "colour", "gongbi", "watercolour", "oil", "gogh", "qinglu", "papercut", "porcelain", "illustration")
    }


def test_moods_suit_the_subject() -> None:
    for name, subject in SUBJECTS.items():
        for number in range(40):
            mood = subject.draw_mood(Chance(f"{name}{number}"))
            assert mood.season in subject.seasons
            assert mood.light in subject.lights
            assert mood.weather in WEATHERS
            assert not (mood.weather == "snow" and mood.season != "winter")


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
def test_a_thing_of_which_the_picture_has_one_column_is_painted(style: str) -> None:
    for shift in range(-2, 9):
        scene = Scene(Chance("edge"), Mood(), Layout())
        scene.fill("sky", scene.whole)
        for material in ("wall", "food", "ridge"):
            scene.fill(material, box(-0.3, 0.2, -shift / 64, 0.8))
            scene.fill(material, box(0.2, -0.3, 0.8, -shift / 64))
        scene.line("trunk", [path((-shift / 64, 0.2), (-shift / 64, 0.8))], 0.002)
        assert render(scene, STYLES[style], 64).size == (64, 64)


@pytest.mark.slow
def test_light_and_season_are_seen() -> None:
    subject = SUBJECTS["bridge"]

    def mean(mood: Mood, style: str) -> np.ndarray:
        return np.asarray(render(subject.scene("moods", mood), STYLES[style], 128), np.float32).mean((0, 1))

    for style in ("oil", "watercolour", "gogh"):
        by_light = {light: mean(Mood("summer", light), style) for light in LIGHTS}
        assert by_light["night"].mean() < by_light["day"].mean() - (12 if style == "gogh" else 40)
        assert by_light["dusk"][0] - by_light["dusk"][2] > by_light["day"][0] - by_light["day"][2] + 25
        by_season = {season: mean(Mood(season), style) for season in SEASONS}
        assert by_season["summer"][1] - by_season["summer"][0] > by_season["autumn"][1] - by_season["autumn"][0] + 10
    night = mean(Mood("summer", "night"), "ink")
    assert abs(night[2] - night[0]) < 16, "a night in ink is not blue"


def test_a_straight_line_is_declared_with_its_width() -> None:
    scene = Scene(Chance("smoke"), Mood(), Layout())
    with scene.element("smoke"):
        scene.line("smoke", [path((0.5, 0.2), (0.5, 0.6))], 0.02)
    assert scene.elements["smoke"] == [(0.49, 0.19, 0.51, 0.61)]


def test_the_layout_says_where_the_moon_is() -> None:
    scene = SUBJECTS["sea moon"].scene("moon", Mood("summer", "night"), Layout(light_x=0.3, light_y=0.2))
    ((left, top, right, bottom),) = scene.elements["moon"]
    assert abs((left + right) / 2 - 0.3) < 0.01
    assert abs((top + bottom) / 2 - 0.2) < 0.01


def test_held_out_pairs_are_never_planned_and_all_others_are() -> None:
    everything = pairs()
    held = {pair for pair in everything if held_out_scene(*pair)}
    assert len(everything) * 0.05 < len(held) < len(everything) * 0.15
    planned = [(plan.subject, plan.style) for plan in plan_scenes(2 * len(everything))]
    assert not held & set(planned)
    assert held | set(planned) == set(everything)


def test_a_longer_plan_begins_with_the_shorter() -> None:
    assert list(plan_scenes(50)) == list(plan_scenes(500))[:50]
    assert list(plan_scenes(50, 1)) != list(plan_scenes(50))
