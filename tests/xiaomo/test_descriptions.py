"""Descriptions of a place and what is in it: what is read, what is left out, and where it stands in the picture."""

from __future__ import annotations

import numpy as np
import pytest

from bimo.hub.editions import SECOND, text_encoder_of
from bimo.xiaomo.artwork.backdrops import backdrop
from bimo.xiaomo.artwork.described import draw_description, scene_of
from bimo.xiaomo.artwork.held_out import hexcode
from bimo.xiaomo.captions.descriptions import LONGEST, Description, description_of
from bimo.xiaomo.captions.draftable import plan_of
from bimo.xiaomo.captions.drawn_things import THING
from bimo.xiaomo.captions.figures import FIGURE
from bimo.xiaomo.scenes.description import Mood


def read(text: str) -> Description:
    found = description_of(text)
    assert found is not None, text
    return found


def groups(found: Description) -> list[tuple[str, ...]]:
    """The emoji of each group with their colours, and where it is."""
    return [("+".join(one.kind + one.colour for one in group.things), group.zone) for group in found.groups]


def elements(text: str, key: str = "some") -> set[str]:
    """The elements of the scene of a description."""
    scene = scene_of(read(text), key)
    assert scene is not None
    return set(scene.elements)


def emoji(*named: str) -> str:
    return "+".join(hexcode(one[0]) + one[1:] for one in named)


@pytest.mark.parametrize(
    ("text", "setting", "named", "expected"),
    [
        # a place that is no scene, in Chinese and English, with things beside each other
        ("森林里有一只小兔子和一只小熊", "forest", (), [(emoji("🐇"), ""), (emoji("🐻"), "")]),
        ("海底世界，一条鱼，旁边有海龟", "underwater", (), [(emoji("🐟"), ""), (emoji("🐢"), "beside")]),
        ("a crab on the beach, a kite in the sky", "beach", (), [(emoji("🦀"), ""), (emoji("🪁"), "sky")]),
        # number and colour are of the noun behind them
        ("三只小鸭子过马路，路边停着一辆红色的汽车", "city", (), [(emoji("🦆", "🦆", "🦆"), ""), (emoji("🚗red"), "")]),
        # relations of two, by a verb before or between, or by the place of one in the other
        ("一只穿着红色棉袄的小猫坐在雪地里", "snow", (), [("figure:动物猫+棉袄*red", "")]),
        ("竹林里，大熊猫抱着西瓜", "", ("bamboo",), [(emoji("🐼", "🍉"), "")]),
        ("桌子上放着一个花瓶，花瓶里插着玫瑰", "table", (), [(emoji("🌹", "🏺"), "")]),
        # where in the picture
        ("大街上有一只狗，天上有气球", "city", (), [(emoji("🐕"), ""), (emoji("🎈"), "sky")]),
        ("草地上一只狗，远处有一只羊", "grass", (), [(emoji("🐕"), ""), (emoji("🐑"), "far")]),
        # country alone: a scene of all that is named
        (
            "夜晚的江面上停着一条小船，月亮挂在天上，岸边有枫树和一座古寺",
            "",
            ("water", "boat", "moon", "maple", "temple"),
            [],
        ),
        (
            "A quiet village by the river with willow trees and a stone bridge",
            "",
            ("river", "houses", "willow", "bridge"), [],
        ),
        # animals beside country
        ("草原上有几只羊，远处有一座亭子", "", ("meadow", "pavilion"), [(emoji("🐑", "🐑", "🐑"), "")]),
    ],
)  # fmt: skip
def test_what_is_read(text: str, setting: str, named: tuple[str, ...], expected: list[tuple[str, str]]) -> None:
    found = read(text)
    assert (found.backdrop, set(found.elements), found.left_out) == (setting, set(named), ())
    assert groups(found) == expected


@pytest.mark.parametrize(
    ("text", "mood"),
    [
        ("深秋的傍晚，一条小路通向远处的古寺", Mood("autumn", "dusk", "")),
        ("雪天的村庄，门口有一只狗", Mood("winter", "", "snow")),
        # a lighthouse is no lamp
        ("大海上的帆船，远处有一座灯塔", Mood("", "", "")),
    ],
)
def test_its_season_hour_and_weather(text: str, mood: Mood) -> None:
    assert read(text).mood == mood


@pytest.mark.parametrize(
    ("text", "subject", "style"),
    [("spring的西湖", "west lake", "3d"), ("故宫前有一只猫，水墨画", "palace", "ink"), ("向日葵，梵高", "", "gogh")],
)
def test_its_subject_and_style(text: str, subject: str, style: str) -> None:
    assert (read(text).subject, read(text).style) == (subject, style)


def test_what_is_excluded_is_not_drawn() -> None:
    assert read("没有叶子的树").elements == ("bare tree",)
    assert read("不戴帽子的雪人").elements == ("snowman",)
    assert read("没有月亮的夜晚").excluded == ("moon",)
    assert groups(read("没有花的花瓶")) == [(emoji("🏺"), "")]
    assert elements("夜空，一条小河") - elements("没有星星的夜空，一条小河") == {"stars"}
    # a part of a thing whose picture has it
    assert description_of("没有翅膀的飞机", anyhow=True) is None
    assert description_of("草地上一只狗，不要狗") is None


def test_words_that_are_not_understood_are_named_or_too_many() -> None:
    assert read("一个戴着草帽的农民在金色的稻田里拾穗，天边是晚霞").left_out == ("拾穗",)
    assert read("一只大熊猫坐在竹林里，憨态可掬").left_out == ("憨态可掬",)
    assert description_of("一台发电机和两个铁路局在草地上") is None
    assert description_of("桌子上" * LONGEST) is None


@pytest.mark.parametrize(
    ("text", "named", "left_out"),
    [
        ("憨厚的猫头鹰啄食", "🦉", ("憨厚", "啄食")),
        ("一台发电机和两个铁路局和一只猫", "🐈", ("发", "电", "机", "铁路", "局")),
        ("蓝莓奶酥蛋糕", "🍰", ("蓝莓", "奶酥")),
        ("三文鱼披萨", "🍕", ("三文鱼",)),
    ],
)
def test_what_little_is_understood_is_shown_and_the_rest_named(
    text: str, named: str, left_out: tuple[str, ...]
) -> None:
    assert description_of(text) is None
    found = description_of(text, anyhow=True)
    assert found is not None
    assert (groups(found), found.left_out) == ([(emoji(named), "")], left_out)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("雨中打伞的女孩和小狗", ["figure:女孩+打伞", emoji("🐕")]),
        ("公园里，孩子们在门口堆雪人，旁边有一只狗", ["figure:小孩+堆雪人", emoji("🐕")]),
        ("花园里有一个女孩，正在浇花", ["figure:女孩+浇花"]),
        ("屋里一只猫在睡觉，旁边有一只狗", [emoji("🐱", "💤"), emoji("🐕")]),
        ("a girl blowing bubbles in the park", ["figure:女孩+吹泡泡"]),
    ],
)
def test_what_is_done_is_seen_in_who_does_it(text: str, expected: list[str]) -> None:
    found = read(text)
    assert [kind for kind, _ in groups(found)] == expected
    assert found.left_out == ()


@pytest.mark.parametrize(
    ("text", "expected", "left_out"),
    [("三人成虎", [emoji("🧑"), emoji("🐅")], ("三", "成")), ("鸟尽弓藏", [emoji("🐦"), emoji("🏹")], ("尽", "藏"))],
)
def test_of_a_saying_that_no_table_has_its_characters_are_shown(
    text: str, expected: list[str], left_out: tuple[str, ...]
) -> None:
    plan = plan_of(text, text_encoder_of(SECOND), text)
    assert isinstance(plan, Description)
    assert ([kind for kind, _ in groups(plan)], plan.left_out) == (expected, left_out)
    assert plan_of("铁路局长", text_encoder_of(SECOND), "铁路局长") is None


def test_a_subject_without_what_is_named_gives_way_to_a_description() -> None:
    plan = plan_of("荷塘里的两只鸭子", text_encoder_of(SECOND), "荷塘里的两只鸭子")
    assert isinstance(plan, Description)
    assert groups(plan) == [(emoji("🦆", "🦆"), "")]


def test_what_is_in_the_air_is_put_there() -> None:
    assert groups(read("热气球飞过群山")) == [(f"{THING}hot air balloon", "sky")]


def test_the_later_of_two_places_is_shown() -> None:
    assert read("海边的咖啡馆里有一只猫").backdrop == f"{THING}cafe"


def test_a_view_is_a_place_of_descriptions() -> None:
    found = read("教室里有一只猫，旁边有一只狗")
    assert found.backdrop == f"{THING}classroom"
    assert np.asarray(draw_description(found, "k", 64)).std() > 20


@pytest.mark.parametrize(
    ("text", "backdrop"),
    [("雨中奔跑的小狗和小猫", f"{THING}rainy day"), ("夜里的猫和老鼠", "night"), ("傍晚的猫和老鼠", "sunset")],
)
def test_of_a_place_of_which_the_weather_is_said_that_is_seen(text: str, backdrop: str) -> None:
    assert read(text).backdrop == backdrop


@pytest.mark.parametrize("text", ["红苹果", "猫", "赛博朋克", "", "，。", "猫和狗的铁路局", "玫瑰花园里的猫，剪纸"])
def test_what_is_no_description(text: str) -> None:
    assert description_of(text) is None


def test_a_name_a_verse_or_a_relation_has_its_own_draft() -> None:
    encoder = text_encoder_of(SECOND)
    for text in ("小桥流水人家", "举头望明月，低头思故乡", "戴墨镜的猫", "雪地里的企鹅", "宫保鸡丁"):
        plan = plan_of(text, encoder, text)
        assert plan is not None
        assert not isinstance(plan, Description)
    text = "森林里有一只小兔子，旁边有一只小熊"
    assert [plan_of(text, encoder, text, square) for square in (True, False)] == [description_of(text), None]


def test_things_stand_where_they_are_said_to_be() -> None:
    alone = np.asarray(backdrop("city", 128), np.int16)
    for text, rows in (("大街，天上有气球", slice(0, 56)), ("大街上有一只狗", slice(56, 128))):
        picture = np.asarray(draw_description(read(text), "some", 128), np.int16)
        changed = np.abs(picture - alone).max((1, 2)) > 24
        assert changed[rows].sum() > 12
        assert not np.delete(changed, np.r_[rows]).any()


def test_the_same_key_gives_the_same_picture() -> None:
    found = read("小河边有一只狗，远处有一座亭子")
    one, again, other = (draw_description(found, key, 64).tobytes() for key in ("one", "one", "other"))
    assert one == again != other


def test_nobody_is_there_who_is_not_asked_for() -> None:
    text = "草原上有一条小河，远处有一座古塔"
    others = {"person", "egret", "swallow", "boat", "fisherman"}
    assert not any(elements(text, str(key)) & others for key in range(8))


def test_a_word_for_several_people_shows_them_all() -> None:
    text = "在海边看日出的情侣"
    plan = plan_of(text, text_encoder_of(SECOND), text)
    assert isinstance(plan, Description)
    assert not plan.left_out
    (couple,) = plan.groups
    assert sum(kind.startswith(FIGURE) for kind in couple.kinds) == 2


def test_where_somebody_sleeps_is_no_unknown_word() -> None:
    found = read("猫咪睡在窗台上")
    assert (groups(found), found.backdrop, found.left_out) == ([(emoji("🐈"), "")], f"{THING}windowsill", ())


def test_what_is_put_together_in_english_stays_so() -> None:
    found = read("a cat on a chair in a garden, mountains in the background")
    assert [len(group.things) for group in found.groups] == [2, 1]
    assert found.groups[0].things[0].kind == emoji("🪑")
