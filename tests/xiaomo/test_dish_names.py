"""Names of dishes that no table has are read word by word, and drawn as what they say."""

from __future__ import annotations

import numpy as np
import pytest

from bimo.core.errors import DataError
from bimo.hub.loading import load
from bimo.xiaomo.captions.asked import asked, rest_of
from bimo.xiaomo.dishes import naming
from bimo.xiaomo.dishes.arrange import LAYS
from bimo.xiaomo.dishes.naming import composed_dish, dish_named
from bimo.xiaomo.dishes.plan import DishPlan, draw_dish
from bimo.xiaomo.dishes.table import dishes, ingredients
from bimo.xiaomo.dishes.vessels import VESSELS
from bimo.xiaomo.drafts import draft
from bimo.xiaomo.scenes.planning import planned_boxes


@pytest.mark.parametrize(
    ("name", "lay", "vessel", "contents"),
    [
        ("红烧冬瓜", "mound", "圆盘", {"冬瓜块"}),
        ("韭菜炒蛋", "mound", "圆盘", {"韭菜", "炒蛋"}),
        ("青椒土豆丝", "mound", "圆盘", {"青椒丝", "土豆丝"}),
        ("冬瓜排骨汤", "soup", "青花碗", {"冬瓜块", "排骨"}),
        ("番茄鸡蛋面", "noodles", "大碗", {"面条", "番茄块", "炒蛋"}),
        ("咖喱牛肉饭", "rice", "家常碗", {"米饭", "牛肉片", "土豆块", "胡萝卜块"}),
        ("萝卜炖羊排", "stew", "砂锅", {"萝卜块", "排骨"}),
        ("猪肉白菜饺子", "ring", "圆盘", {"饺子"}),
        ("清蒸武昌鱼", "whole", "鱼盘", {"鲈鱼"}),
        ("糖醋鲤鱼", "whole", "鱼盘", {"红烧鱼"}),
        ("鲫鱼豆腐汤", "soup", "青花碗", {"鱼块", "豆腐块"}),
        ("冬瓜燉排骨", "stew", "砂锅", {"冬瓜块", "排骨"}),
    ],
)
def test_a_name_says_what_is_in_it_and_how_it_is_served(name: str, lay: str, vessel: str, contents: set[str]) -> None:
    dish = composed_dish(name)
    assert dish is not None
    assert (dish.lay, dish.vessels[0], {food for food, _ in dish.pieces}) == (lay, vessel, contents)


def test_yuxiang_is_a_taste_and_no_fish() -> None:
    dish = composed_dish("鱼香鸡蛋")
    assert dish is not None
    assert "fish" not in {ingredients()[food].shape for food in dish.contents}
    assert dish.sauce == dishes()["鱼香肉丝"].sauce


@pytest.mark.parametrize(
    "name", ["土豆", "红烧", "鱼", "苹果草莓", "汤", "锅", "盒子", "粉红色的猪", "麻辣", "宫保鸡丁"]
)
def test_what_is_no_dish_or_one_of_the_table(name: str) -> None:
    assert composed_dish(name) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("一碗热腾腾的番茄鸡蛋面", "番茄鸡蛋面"),
        ("水墨风格的青椒土豆丝", "青椒土豆丝"),
        ("红烧鲤鱼，水彩", "红烧鲤鱼"),
        ("妈妈做的韭菜炒蛋", "韭菜炒蛋"),
        ("不要香菜的番茄鸡蛋面", "番茄鸡蛋面"),
        ("兰州牛肉面", "兰州拉面"),
    ],
)
def test_a_text_asks_for_it(text: str, name: str) -> None:
    assert asked(text) == ("dish", name)
    assert "鱼" not in rest_of(text)


def test_what_else_a_text_says_makes_it_no_dish() -> None:
    assert asked("在桥上炒土豆的机器人") == ("", "")
    with pytest.raises(KeyError):
        dish_named("在桥上炒土豆的机器人")


def test_every_word_can_be_drawn() -> None:
    for word in naming._words().values():
        assert word.lay in ("", *LAYS), word.word
        assert set(word.vessels) <= set(VESSELS), word.word
    for name in ("小米粥", "牛排", "涮羊排", "酿苦瓜", "三文鱼刺身", "烤鱿鱼串", "蒜蓉虾"):
        dish = dish_named(name)
        assert np.asarray(draw_dish(DishPlan("1", name, dish.vessels[0], "illustration"), 64).image).std() > 8


def test_the_draft_is_of_what_is_left_when_something_is_not_wanted() -> None:
    whole, less = (np.asarray(draft(f"{words}冬瓜排骨汤", "1", 64), float) for words in ("", "不要葱花的"))
    assert abs(whole - less).max() > 30
    assert abs(whole - less).mean() < 5


def test_a_word_that_cannot_be_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {
        "word": "汤",
        "kind": "drink",
        "lay": "",
        "vessels": "",
        "sauce": "",
        "pieces": "",
        "garnish": "",
        "steam": "",
    }
    monkeypatch.setattr(naming, "read_table", lambda *_: [row])
    naming._words.cache_clear()
    try:
        with pytest.raises(DataError, match="drink"):
            naming._words()
    finally:
        naming._words.cache_clear()


def test_a_picture_of_it_warns_of_no_word() -> None:
    prepared = load("xiaomo-2").prepare({"text": "不要葱花的冬瓜排骨汤，油画"})
    assert prepared.request.draft == 0.25
    assert [warning for warning in prepared.warnings if "葱花" not in warning] == []
    assert planned_boxes("冬瓜排骨汤", "1").keys() >= {"冬瓜块", "排骨", "青花碗"}
