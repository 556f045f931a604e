"""What a text says of a whole arrangement: flying, colours, the light of a view, animals as people, more manners."""

from __future__ import annotations

import numpy as np
import pytest

from bimo.hub.editions import SECOND, text_encoder_of
from bimo.xiaomo.artwork.lexicon import MORE_EFFECTS
from bimo.xiaomo.artwork.manners import APPLY
from bimo.xiaomo.artwork.references import put_together, reference
from bimo.xiaomo.captions.arranged import arrangement_of
from bimo.xiaomo.captions.colours import MANY
from bimo.xiaomo.captions.descriptions import Description, description_of
from bimo.xiaomo.captions.draftable import plan_of
from bimo.xiaomo.captions.noun_phrases import Things, things_of
from bimo.xiaomo.captions.settings import SKY


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("会飞的猪", ["thing:wings", "1f416"]),
        ("a flying pig", ["thing:wings", "1f416"]),
        ("长翅膀的狮子", ["thing:wings", "1f981"]),
        ("两只会飞的猫", ["thing:wings", "1f408", "thing:wings", "1f408"]),
        ("会飞的鹰", ["1f985"]),
    ],
)
def test_what_flies_is_in_the_sky_and_has_wings_if_it_had_none(text: str, kinds: list[str]) -> None:
    found = arrangement_of(text)
    assert found is not None
    assert ([thing.kind for thing in found.things], found.scene) == (kinds, SKY)
    # An effect is of the whole picture, on a paper of its own.
    painted = arrangement_of(f"{text}，水彩")
    assert painted is not None
    assert (painted.things, painted.style, painted.scene) == (found.things, "watercolour", "")


@pytest.mark.parametrize(
    ("text", "kinds", "scene"),
    [
        ("打网球", ["figure:男孩+打羽毛球"], ""),
        ("跳芭蕾", ["figure:女孩+跳芭蕾"], ""),
        ("国风插画女孩", ["figure:女孩+古风"], ""),
        ("冲浪的狗", ["figure:动物狗+冲浪"], ""),
        ("不穿鞋的小孩", ["figure:小孩+光脚"], ""),
        ("苹果树下的小女孩", ["thing:apple tree", "figure:女孩"], ""),
        ("草地上的小男孩", ["figure:男孩"], "grass"),
        ("北极熊和冰山", ["1f43b-200d-2744"], "thing:ice field"),
        ("戴圣诞帽的小狗", ["1f436", "thing:Santa hat"], ""),
        ("庙会上的舞龙", ["thing:dragon dance"], "thing:night market"),
    ],
)
def test_people_acts_and_places(text: str, kinds: list[str], scene: str) -> None:
    found = arrangement_of(text)
    assert found is not None
    assert ([thing.kind for thing in found.things], found.scene) == (kinds, scene)


def test_mist_pales_and_rain_darkens_a_view_outdoors_alone() -> None:
    plain, misty, wet = (
        np.asarray(put_together(found, "k", (64, 64)), np.int16)
        for text in ("小镇", "雾气缭绕的小镇", "下雨的小镇")
        if (found := arrangement_of(text)) is not None
    )
    assert misty.mean() > plain.mean() + 8
    assert wet.mean() < plain.mean() - 8
    indoors = [arrangement_of(text) for text in ("教室", "下雨的教室")]
    pictures = [put_together(one, "k", (64, 64)).tobytes() for one in indoors if one is not None]
    assert len(pictures) == 2
    assert pictures[0] == pictures[1]


_EVERYDAY = """
立春 雨水 惊蛰 春分 清明 谷雨 立夏 小满 芒种 夏至 小暑 大暑 立秋 处暑 白露 秋分 寒露 霜降 立冬 小雪 大雪 冬至
鼠 牛 虎 兔 龙 蛇 马 羊 猴 鸡 狗 猪 白羊座 双子座 双鱼座 青年节 建军节 护士节 毕业季 大年初一 腊月二十三
卧室 厨房 办公室 书店 咖啡馆 健身房 游乐园 胡同 春天 夏天 秋天 冬天 橙汁 酸奶 马卡龙 臭豆腐 小米粥
理发师 邮递员 教授 滑雪 拳击 野餐 坐井观天 千军万马 空城计 一心一意 两小儿辩日 数鸭子 柏林 吉隆坡
"""


@pytest.mark.parametrize("text", _EVERYDAY.split())
def test_everyday_words_have_a_draft_of_all_that_they_say(text: str) -> None:
    plan = plan_of(text, text_encoder_of(SECOND), text)
    assert plan is not None
    assert not (isinstance(plan, Description) and plan.left_out)


@pytest.mark.parametrize(
    ("phrase", "things"),
    [
        ("五彩的气球", Things("1f388", colour=MANY)),
        ("a colorful balloon", Things("1f388", colour=MANY)),
        ("三条七彩的鱼", Things("1f41f", 3, MANY)),
        ("银色的跑车", Things("1f697", colour="grey")),
        ("深红色的玫瑰", Things("1f339", colour="red")),
        ("打太极的熊猫", Things("figure:动物熊猫+打太极")),
        ("穿红色旗袍的兔子", Things("figure:动物兔子+旗袍*red")),
        ("没有胡子的老人", Things("figure:老人+没胡子")),
        ("奔跑的猫", None),
        ("戴眼镜的猫", None),
    ],
)
def test_colours_clothes_and_acts(phrase: str, things: Things | None) -> None:
    assert things_of(phrase) == things


def test_many_colours_are_many() -> None:
    found = arrangement_of("三个五彩的气球")
    assert found is not None
    assert len({thing.colour for thing in found.things}) == 3
    one = arrangement_of("五彩的气球")
    assert one is not None
    picture = np.asarray(put_together(one, "1", (128, 128)).convert("HSV"))
    hues = picture[..., 0][(picture[..., 1] > 120) & (picture[..., 2] > 100)]
    assert len([count for count in np.histogram(hues, 12, (0, 256))[0] if count > 60]) >= 4


@pytest.mark.parametrize(
    ("text", "view", "light", "weather"),
    [
        ("月光下的沙滩", "thing:palm beach", "night", ""),
        ("下雪的公园", "thing:park", "", "snow"),
        ("the park at night", "thing:park", "night", ""),
    ],
)
def test_a_view_in_its_light_and_weather(text: str, view: str, light: str, weather: str) -> None:
    found, plain = arrangement_of(text), arrangement_of("公园" if "park" in view else "沙滩")
    assert found is not None
    assert plain is not None
    assert ([thing.kind for thing in found.things], found.mood.light, found.mood.weather) == ([view], light, weather)
    said, unsaid = (np.asarray(put_together(one, "1", (96, 96)), np.float64).mean() for one in (found, plain))
    assert said < 0.6 * unsaid if light else said != unsaid


def test_a_view_is_where_somebody_is_beside() -> None:
    found = arrangement_of("青海湖边的牦牛")
    assert found is not None
    assert ([thing.kind for thing in found.things], found.scene) == (["thing:yak"], "thing:lake island")


@pytest.mark.parametrize("style", MORE_EFFECTS)
def test_a_manner_is_of_the_whole_picture(style: str) -> None:
    word = MORE_EFFECTS[style].zh[0]
    found = arrangement_of(f"{word}的猫")
    assert found is not None
    assert (found.style, found.fits_any_shape) == (style, False)
    scene = description_of(f"{word}，草地上有一只小狗和一棵树")
    assert scene is not None
    assert scene.style == style


def test_manners_are_what_they_are() -> None:
    sprite = reference("1f408", "3d", 128)
    prints, wax, neon = (np.asarray(APPLY[name](sprite), np.float64) / 255 for name in MORE_EFFECTS)
    assert prints[:6, :80, 2].mean() > prints[:6, :80, 0].mean() + 0.15  # the blue band above
    assert prints[90:, :10].std() < 0.1 < prints[90:, :10].mean()  # bare paper
    assert wax.mean() > 0.7  # on white
    assert neon.mean() < 0.45  # by night
    assert (neon[..., 0] - neon[..., 1]).max() > 0.5 < (neon[..., 2] - neon[..., 0]).max()  # magenta and cyan
