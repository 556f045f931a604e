"""Words and pictures: what a verse names is in its scene, what a caption says is declared, and held-out rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bimo.xiaomo.captions.lexicon import elements, elements_of, mood_of, moods, styles, subjects
from bimo.xiaomo.captions.phrases import MEASURES, dish_captions, facts_of_subject, facts_of_verse, scene_captions
from bimo.xiaomo.captions.verses import (
    COLLECTIONS,
    Verse,
    derive,
    drawn_verses,
    held_out,
    is_verse,
    shown_by_famous_line,
    titles,
    verses,
    write_table,
)
from bimo.xiaomo.dishes.plan import draw_dish, plan_dishes, table_kind
from bimo.xiaomo.dishes.table import dishes
from bimo.xiaomo.dishes.vessels import VESSELS
from bimo.xiaomo.heldout import held_out_verse
from bimo.xiaomo.scenes.description import LIGHTS, SEASONS, WEATHERS, Mood
from bimo.xiaomo.scenes.plan import plan_scenes, plan_verses
from bimo.xiaomo.scenes.styles import STYLES
from bimo.xiaomo.scenes.subjects import SUBJECTS
from bimo.xiaomo.scenes.subjects.verse import room_for, verse_scene

DAY = Mood("summer", "day", "clear")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("举头望明月，低头思故乡", {"moon"}),
        ("枯藤老树昏鸦", {"vine", "bare tree", "crow"}),
        ("兩個黃鸝鳴翠柳，一行白鷺上青天", {"bird", "willow", "egret"}),
        ("大漠孤烟直，长河落日圆", {"desert", "smoke", "river", "sun"}),
        ("孤舟蓑笠翁，独钓寒江雪", {"boat", "fisherman", "river", "snow"}),
        ("二月春风似剪刀", set()),
        ("a boat under the moon", {"boat", "moon"}),
        ("boating", set()),
        # English names of several words are read whole: a river is no lantern, a dragon no boat.
        ("lotus leaves by a river", {"lotus leaf", "river"}),
        ("a river lantern", {"river lantern"}),
        ("a dragon", set()),
        ("the Great Wall in spring", {"great wall"}),
    ],
)
def test_what_words_name(text: str, named: set[str]) -> None:
    assert set(elements_of(text)) == named


def test_what_hour_and_season_words_name() -> None:
    assert mood_of("举头望明月", DAY).light == "night"
    assert mood_of("二月春风似剪刀", DAY) == Mood("spring", "day", "clear")
    assert mood_of("夕阳西下，断肠人在天涯", DAY).light == "dusk"
    assert mood_of("风雪夜归人", DAY) == Mood("winter", "night", "snow")
    assert mood_of("清明时节雨纷纷", DAY) == Mood("spring", "day", "rain")
    assert mood_of("a temple on a snowy night", DAY) == Mood("winter", "night", "snow")
    assert mood_of("a train in autumn", DAY) == Mood("autumn", "day", "clear")


@pytest.mark.slow
def test_the_tables_name_everything_that_is_drawn() -> None:
    assert set(subjects()) == set(SUBJECTS)
    assert set(styles()) == set(STYLES)
    assert set(MEASURES) == set(VESSELS)
    for kind, values in (("season", SEASONS), ("light", LIGHTS), ("weather", WEATHERS)):
        assert set(moods()[kind]) == set(values)
    undrawn = {"bank"}
    for subject in SUBJECTS.values():
        for number in range(2):
            assert set(subject.scene(f"named/{number}").elements) - undrawn <= set(elements()), subject.name


@pytest.mark.slow
def test_a_scene_for_a_verse_holds_what_the_verse_names() -> None:
    lines = [verse for verse in verses() if room_for(verse.elements)][::30]
    assert len(lines) > 40
    for verse in lines:
        scene = verse_scene(f"verse/{verse.line}", verse.elements, mood_of(verse.line, DAY))
        assert set(verse.elements) <= set(scene.elements), verse.line


def test_the_table_of_verses_is_derived_from_the_collections(tmp_path: Path) -> None:
    poem = {"author": "王維", "title": "山居秋暝", "paragraphs": ["明月松間照，清泉石上流。", "不知何處。"]}
    for name in COLLECTIONS:
        (tmp_path / name).write_text(json.dumps([poem]), "utf-8")
    (verse,) = derive(tmp_path)
    assert (verse.line, verse.title, verse.author) == ("明月松间照，清泉石上流。", "山居秋暝", "王维")
    assert set(verse.elements) == {"moon", "pine", "spring", "rock"}
    assert verse.clauses == ("明月松间照", "清泉石上流")
    write_table([verse], tmp_path / "verses.tsv")
    assert (tmp_path / "verses.tsv").read_text("utf-8").splitlines()[2] == "明月松间照，清泉石上流。\t山居秋暝\t王维"


@pytest.mark.slow
def test_captions_say_only_what_is_declared() -> None:
    names = {one.zh[0]: element for element, one in elements().items()}
    for plan in list(plan_scenes(60)):
        scene = SUBJECTS[plan.subject].scene(plan.key, plan.mood)
        said = facts_of_subject(plan.subject, plan.style, plan.mood, scene.elements)
        captions = scene_captions(said, plan.key)
        assert captions == scene_captions(said, plan.key)
        assert len(captions) == 12
        assert {one.lang for one in captions} <= {"zh", "zh-Hant", "en", "mixed"}
        for caption in captions:
            assert caption.text
            assert "{" not in caption.text
            assert not caption.text.startswith(("，", "的", " "))
            for part in caption.text.replace("和", "、").replace("，有", "、").replace("，", "、").split("、"):
                if part in names:
                    assert names[part] in scene.elements, caption.text
            for season in SEASONS:
                if moods()["season"][season].zh[0] in caption.text:
                    assert plan.mood.season == season, caption.text


def test_a_name_that_the_picture_is_not_is_not_used() -> None:
    scene = SUBJECTS["sea moon"].scene("sunrise", Mood("summer", "dawn"))
    said = facts_of_subject("sea moon", "ink", Mood("summer", "dawn"), scene.elements)
    assert "海上日出" in said.zh
    assert "海上明月" not in said.zh
    assert not [line for line in said.verses if "明月" in line]


@pytest.mark.slow
def test_captions_of_dishes() -> None:
    for plan in list(plan_dishes(30)):
        drawn = draw_dish(plan, 32)
        captions = dish_captions(plan.dish, plan.vessel, plan.style, drawn.elements, table_kind(drawn.layout), plan.key)
        dish = dishes()[plan.dish]
        for caption in captions:
            if caption.lang == "zh":
                assert any(name in caption.text for name in (dish.name, *dish.also)), caption.text
            if caption.lang == "en":
                assert dish.english in caption.text
            assert "steam" in drawn.elements or "热气" not in caption.text


def test_held_out_verses_are_in_no_plan_and_no_caption() -> None:
    held = [verse for verse in verses() if held_out(verse)]
    assert len(verses()) * 0.05 < len(held) < len(verses()) * 0.3
    drawn = drawn_verses()
    assert not set(held) & set(drawn)
    planned = {plan.line for plan in plan_verses([verse.line for verse in drawn], len(drawn))}
    assert planned == {verse.line for verse in drawn}
    assert held_out_verse("举头望明月，低头思故乡。") == held_out_verse("举头望明月 低头思故乡")
    for verse in drawn[::40]:
        said = facts_of_verse(verse, "ink", DAY, dict.fromkeys(verse.elements, ((0.1, 0.1, 0.2, 0.2),)))
        assert not any(held_out_verse(line) for line in said.verses)
    for name, named in subjects().items():
        boxes = dict.fromkeys(elements(), ((0.1, 0.1, 0.2, 0.2),))
        for light in LIGHTS:  # names of a line that fit no hour by day may fit another
            said = facts_of_subject(name, "ink", Mood("summer", light), boxes)
            assert not any(held_out(Verse(line)) for line in said.verses), named.words


@pytest.mark.parametrize("text", ["山行", "《鹿柴》", "登鹳雀楼 王之涣", "枫桥夜泊，水墨", "苏轼《水调歌头》"])
def test_a_title_shows_its_poem(text: str) -> None:
    shown = shown_by_famous_line(text)
    assert is_verse(text)
    assert shown in titles().values()


def test_every_title_has_room_for_what_it_shows() -> None:
    for title, named in titles().items():
        assert set(named) <= set(elements()), title
        assert room_for(named), title
