"""Prompts of several things: what is understood of them, and what is put together."""

from __future__ import annotations

import zipfile
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from bimo.prompts.emoji import bare
from bimo.xiaomo.artwork.backdrops import backdrop
from bimo.xiaomo.artwork.compositions import compositions, idioms
from bimo.xiaomo.artwork.held_out import hexcode
from bimo.xiaomo.artwork.places import Placed
from bimo.xiaomo.artwork.references import ARCHIVE, has_references, put_together
from bimo.xiaomo.captions.arranged import LONGEST, arrangement_of
from bimo.xiaomo.captions.in_rows import rows
from bimo.xiaomo.captions.noun_phrases import Things, has_its_own_colour, kinds, names, things_of


def shown(text: str) -> str:
    """What a text is understood as: its things from back to front, and what else it says."""
    found = arrangement_of(text)
    if found is None:
        return ""
    emoji = {hexcode(word): word for word in (*names(), *kinds()) if not word[:1].isalnum() and not word.isascii()}
    things = "".join(emoji.get(each.kind, f"[{each.kind}]") + each.colour for each in found.things)
    return " ".join(filter(None, (things, found.style.replace("3d", ""), found.background, found.scene)))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        # relations, those of the captions and others
        ("骑自行车的熊猫", "🚲🐼"),
        ("戴墨鏡的貓", "🐱🕶"),
        ("a cat wearing sunglasses", "🐱🕶"),
        ("穿着宇航服的哈士奇", "🧑‍🚀🐺"),
        ("a husky in a spacesuit", "🧑‍🚀🐺"),
        ("吃过桥米线的猫", "🐱🍜"),
        ("一只happy的柴犬", "🐕"),
        ("一只在下雨天撑伞的青蛙", "🐸☂ thing:rainy day"),
        ("a dog in the rain", "🐕 thing:rainy day"),
        ("超cute的猫和狗", "🐈🐕"),
        ("弹吉他的兔子", "🐰🎸"),
        ("一个robot在喝tea", "🤖🍵"),
        ("屋顶上的猫", "🏠🐱"),
        ("房子前面的汽车", "🏠🚗"),
        ("看月亮的兔子", "🐇🌙"),
        ("看书的猫头鹰", "🦉📚"),
        ("打篮球的猴子", "🐵🏀"),
        ("打伞的女孩", "[figure:女孩+打伞]"),
        ("宇航员骑马", "🐎🧑‍🚀"),
        ("左边一只猫，右边一只狗", "🐈🐕"),
        ("狗在猫右边", "🐕🐈"),
        ("🐶戴🕶️", "🐶🕶"),
        # lists and numbers
        ("猫和狗", "🐈🐕"),
        ("🍎🍌", "🍎🍌"),
        ("一个苹果和两根香蕉", "🍎🍌🍌"),
        ("五只羊", "🐑🐑🐑🐑🐑"),
        ("三个橙色的南瓜", "🎃orange🎃orange🎃orange"),
        ("一群羊", "🐑🐑🐑🐑🐑🐑"),
        ("一双鞋", "👟👟"),
        ("two dogs on the grass", "🐕🐕 grass"),
        # places, scenes, backgrounds, styles
        ("雪地里的企鹅", "🐧 snow"),
        ("企鹅站在雪地里", "🐧 snow"),
        ("右上角的太阳", "☀"),
        ("红色背景的香蕉", "🍌 red"),
        ("猫，水墨画", "🐈 ink"),
        ("骑马的熊猫，像素风", "🐎🐼 pixel"),
        ("请画一张戴皇冠的青蛙的图片，卡通", "🐸👑 cartoon"),
        # idioms, by name and literally
        ("守株待兔", "🌳🧑‍🌾🐇"),
        ("画蛇添足", "🐍🦶🦶🖌"),
        ("a snake with painted feet", "🐍🦶🦶🖌"),
        # one thing
        ("一只可爱的小猫", "🐈"),
        ("柯基", "🐕"),
        ("an owl", "🦉"),
        ("白马", "🐎white"),
        ("金色的龙", "🐉gold"),
        # anything that is not understood whole
        ("没有猫的房间", ""),
        ("不要猫，只要狗", ""),
        ("戴墨镜的猫在窗台上打盹", ""),
        ("吃米线的鲁滨逊", ""),
        ("十三只羊", ""),
        ("猫和狗，工笔", ""),
        ("", ""),
    ],
)
def test_what_is_understood(text: str, what: str) -> None:
    assert shown(text) == what


@pytest.mark.parametrize(
    ("phrase", "things"),
    [
        ("三只小猪", Things(hexcode("🐖"), 3)),
        ("2个苹果", Things(hexcode("🍎"), 2)),
        ("several apples", Things(hexcode("🍎"), 3)),
        ("a big blue apple", Things(hexcode("🍎"), 1, "blue")),
        ("巨大的蓝色的鸟", Things(hexcode("🐦"), 1, "blue", "large")),
        ("两对门环", None),
        ("", None),
        ("的", None),
    ],
)
def test_a_noun_phrase(phrase: str, things: Things | None) -> None:
    assert things_of(phrase) == things


def test_a_long_text_is_not_read() -> None:
    assert arrangement_of("猫和" * LONGEST + "狗") is None


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("红苹果", True),
        ("red apple", True),
        ("红包", False),
        ("绿色的猫", False),
        ("苹果", False),
        ("两个红苹果", False),
    ],
)
def test_a_name_with_its_own_colour(text: str, own: bool) -> None:
    assert has_its_own_colour(text) is own


@pytest.mark.parametrize("count", range(2, 13))
def test_so_many_stand_apart_and_on_the_canvas(count: int) -> None:
    boxes = rows(count)
    assert len(boxes) == count
    for number, (across, down, side) in enumerate(boxes):
        assert side / 2 <= across <= 1 - side / 2 + 1e-6
        assert side / 2 <= down <= 1 - side / 2 + 1e-6
        for other, below, _ in boxes[:number]:
            assert max(abs(across - other), abs(down - below)) > 0.8 * side


def things_in(image: Image.Image) -> int:
    """The number of separate things on white, larger than a speck."""
    from scipy import ndimage

    filled = np.asarray(image.convert("L")) < 235
    marks, count = ndimage.label(ndimage.binary_dilation(filled, iterations=2))
    return sum(int((marks == number).sum()) > 150 for number in range(1, count + 1))


@pytest.mark.parametrize(("text", "count"), [("五只羊", 5), ("七个草莓", 7), ("十个苹果", 10), ("两只蝴蝶", 2)])
def test_as_many_as_asked_are_drawn(text: str, count: int) -> None:
    arrangement = arrangement_of(text)
    assert arrangement is not None
    for key in ("one", "two", "three"):
        assert things_in(put_together(arrangement, key, (256, 256))) == count


def test_a_picture_of_another_shape_has_more_ground() -> None:
    arrangement = arrangement_of("红色背景的香蕉")
    assert arrangement is not None
    assert arrangement.fits_any_shape
    wide = np.asarray(put_together(arrangement, "some", (192, 128)))
    assert (wide[:, 32:160] == np.asarray(put_together(arrangement, "some", (128, 128)))).all()
    assert (wide[:, :32] == wide[0, 0]).all()
    assert [one.fits_any_shape for one in map(arrangement_of, ("猫在雪地里", "猫，水墨画")) if one] == [True, False]


@pytest.mark.parametrize("size", [(192, 128), (128, 192)])
def test_a_scene_of_another_shape_has_its_thing_whole(size: tuple[int, int]) -> None:
    arrangement = arrangement_of("雪地里的企鹅")
    assert arrangement is not None
    picture = put_together(arrangement, "some", size)
    assert picture.size == size
    purple = (np.asarray(picture, np.int16) - np.array([70, 45, 115])).__abs__().max(-1) < 40
    rows_, columns = np.flatnonzero(purple.any(1)), np.flatnonzero(purple.any(0))
    assert rows_.size > 0.35 * min(size)
    assert columns[0] > 4
    assert columns[-1] < size[0] - 4


def test_a_key_is_a_picture() -> None:
    arrangement = arrangement_of("骑自行车的熊猫")
    assert arrangement is not None
    one, again, other = (put_together(arrangement, key, (128, 128)).tobytes() for key in ("one", "one", "other"))
    assert one == again
    assert one != other


@pytest.mark.parametrize(
    ("text", "ways"),
    [("一个苹果和一根香蕉", 2), ("左边一个苹果，右边一根香蕉", 1), ("an apple to the left of a banana", 1)],
)
def test_the_order_of_things_is_the_keys_where_the_text_leaves_it_open(text: str, ways: int) -> None:
    arrangement = arrangement_of(text)
    assert arrangement is not None
    red = [np.asarray(put_together(arrangement, str(key), (96, 96)), np.int16) for key in range(12)]
    apples = {
        bool(((p[:, :48, 0] - p[:, :48, 1]) > 120).sum() > ((p[:, 48:, 0] - p[:, 48:, 1]) > 120).sum()) for p in red
    }
    assert len(apples) == ways


@pytest.mark.parametrize(
    ("thing", "ways"),
    [
        ("一根香蕉", 2),
        ("一个邮筒", 1),
        ("一个红包", 1),
        ("一辆救护车", 1),
        ("一辆赛车", 1),
        ("一个外卖盒", 1),
        ("一个台球", 1),
    ],
)
def test_no_writing_is_mirrored(thing: str, ways: int) -> None:
    arrangement = arrangement_of(f"一个绿色的苹果和{thing}")
    assert arrangement is not None
    green = [np.asarray(put_together(arrangement, str(key), (96, 96)), np.int16) for key in range(12)]
    sides = {bool((p[:, :48, 1] - p[:, :48, 0] > 40).sum() > (p[:, 48:, 1] - p[:, 48:, 0] > 40).sum()) for p in green}
    assert len(sides) == ways


def test_things_in_a_scene_stand_on_its_ground() -> None:
    arrangement = arrangement_of("three dogs on the grass")
    assert arrangement is not None
    drawn = np.asarray(put_together(arrangement, "some", (256, 256)), np.int16)
    changed = np.abs(drawn - np.asarray(backdrop("grass", 256), np.int16)).max(-1) > 40
    lowest = np.flatnonzero(changed.any(1))[-1] / 256
    assert 0.8 < lowest < 0.95
    assert np.flatnonzero(changed.any(0)).size > 0.6 * 256


def test_colours_are_those_that_are_named() -> None:
    arrangement = arrangement_of("紫色的苹果和绿色的苹果")
    assert arrangement is not None
    pixels = np.asarray(put_together(arrangement, "some", (128, 128)), np.int16)
    left, right = pixels[40:90, 20:48].reshape(-1, 3).mean(0), pixels[40:90, 80:108].reshape(-1, 3).mean(0)
    assert left[2] > left[1] + 20
    assert right[1] > right[2] + 20


def test_there_is_a_reference_of_what_tables_name() -> None:
    with zipfile.ZipFile(str(resources.files("bimo.xiaomo.artwork") / ARCHIVE)) as archive:
        names = set(archive.namelist())
        licences = archive.read("LICENSES.md").decode()
    assert {
        word for word in ("MIT", "Apache-2.0", "CC-BY-4.0", "Microsoft", "Google", "Mozilla") if word not in licences
    } == set()
    composed = {hexcode(bare(emoji)) for one in compositions().values() for emoji in one.things}
    told = {hexcode(bare(emoji)) for one in idioms().values() for emoji, _ in one.things}
    assert {kind for kind in composed | told if f"3d/{kind}.webp" not in names} == set()


def test_without_a_reference_there_is_no_draft() -> None:
    feathers = arrangement_of("两根羽毛")
    assert feathers is not None
    assert has_references(feathers.things)
    assert not has_references((*feathers.things, Placed("ffff", "", (0.5, 0.5, 0.5))))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        # a name in the captions, before what its words say one by one
        ("smiling face with sunglasses", "😎"),
        ("墨镜笑脸，线条", "😎 line"),
        ("三个橙色书本", "📙📙📙"),
        ("rescue worker's helmet, retro", "⛑ retro"),
        ("猫，剪影", "🐈 silhouette"),
        # a word for another kind stays its own
        ("three houses", "🏠🏠🏠"),
    ],
)
def test_a_kind_is_known_by_its_name_in_the_captions(text: str, what: str) -> None:
    assert shown(text) == what


def test_a_silhouette_is_drawn_in_ink() -> None:
    arrangement = arrangement_of("a car, silhouette")
    assert arrangement is not None
    pixels = np.asarray(put_together(arrangement, "some", (128, 128)), np.int16)
    assert np.ptp(pixels, axis=-1).max() < 12
    assert 0.1 < (pixels < 60).all(-1).mean() < 0.6
