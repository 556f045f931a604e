"""People and things that are drawn: what their tables name can be drawn, and what phrases name whom."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from importlib import resources

import numpy as np
import pytest

from bimo.core.errors import DataError
from bimo.prompts.normalise import normal
from bimo.xiaomo.artwork.backdrops import STANDS
from bimo.xiaomo.artwork.references import has_references, put_together
from bimo.xiaomo.captions.arranged import arrangement_of
from bimo.xiaomo.captions.asked import scenic
from bimo.xiaomo.captions.drawn_things import INDOORS, THING, VIEW, drawn_things, views
from bimo.xiaomo.captions.figures import FIGURE, figure_of, looks_of, rows
from bimo.xiaomo.captions.lexicon import CLAUSE, clauses, elements
from bimo.xiaomo.captions.noun_phrases import Things, kinds, things_of
from bimo.xiaomo.captions.tableaux import tableaux
from bimo.xiaomo.captions.verses import famous_lines, is_verse, verses
from bimo.xiaomo.drawn.figures import COLOURS, PARTS, PLAIN, POSES, parts, shapes
from bimo.xiaomo.drawn.sprites import drawn
from bimo.xiaomo.drawn.things import outlines
from bimo.xiaomo.drawn.vector import shaded
from bimo.xiaomo.scenes.subjects.verse import room_for
from bimo.xiaomo.tables import read_table


@pytest.mark.parametrize("part", ["person", "animal", "clothes", "act", "look"])
def test_every_row_of_the_figures_can_be_drawn(part: str) -> None:
    named = [name for name, row in rows().items() if row.part == part and (row.looks or not row.company)]
    assert named
    for name in named:
        for person in ("",) if part in ("person", "animal") else ("女孩+", "老人+", "将军+"):
            looks = looks_of(f"{FIGURE}{person}{name}")
            assert looks.keys() <= {*PLAIN, *PARTS, *COLOURS}, name
            ElementTree.fromstring(f"<svg>{shapes(looks)}</svg>")


def test_every_part_of_a_figure_is_somebodys() -> None:
    looks = [look for row in rows().values() for look in row.looks] + list(PLAIN.items())
    used = {f"{'prop' if key in ('left', 'right') else key.partition(':')[0]}/{value}" for key, value in looks}
    assert {name for name in parts() if name.count("/") == 1} - used == set()
    assert set(POSES) == {value for key, value in looks if key == "pose"}


def test_an_unknown_part_is_named_with_those_that_there_are() -> None:
    with pytest.raises(DataError, match=r"no hat 'fez'; there are .*straw"):
        shapes({"hat": "fez"})


def test_names_mean_one_thing() -> None:
    for part in ("person", "animal", "clothes", "act", "look"):
        words = Counter(normal(word) for row in rows().values() if row.part == part for word in (*row.zh, *row.en))
        assert [word for word, count in words.items() if count > 1] == []
    words = Counter(normal(word) for one in drawn_things().values() for word in (*one.zh, *one.en))
    assert [word for word, count in words.items() if count > 1] == []


def test_the_things_of_the_table_are_those_that_are_drawn() -> None:
    assert drawn_things().keys() == outlines().keys()
    assert {one.scene for one in drawn_things().values()} - STANDS.keys() == {"", VIEW, INDOORS}


@pytest.mark.parametrize("name", ["figure.svg", "things.svg"])
def test_pictures_have_no_letters_of_a_font(name: str) -> None:
    tree = ElementTree.fromstring(resources.files("bimo.xiaomo.drawn").joinpath(name).read_text("utf-8"))
    assert {element.tag for element in tree.iter()} <= {"svg", "g", "path", "circle", "ellipse", "rect"}
    assert len({group.get("id") for group in tree}) == len(tree)


@pytest.mark.parametrize("name", [name for name, row in rows().items() if row.company or row.scene])
def test_company_can_be_drawn(name: str) -> None:
    row = rows()[name]
    things = {word: things_of(normal(word)) for word in row.zh}  # of some there is a reference picture by a bare word
    word = next(word for word, one in things.items() if one is not None and one.kind == f"{FIGURE}{name}")
    arrangement = arrangement_of(word)
    assert arrangement is not None
    assert has_references(arrangement.things)
    assert len(arrangement.things) == max(1, len(row.company))
    assert arrangement.scene == row.scene
    assert row.scene in ("", *STANDS, *views())
    assert all(thing.box[1] - thing.box[2] / 2 > -0.05 for thing in arrangement.things)


@pytest.mark.parametrize(
    ("phrase", "kind"),
    [
        ("关羽", "关羽"),
        ("monkey king", "孙悟空"),
        ("穿汉服的女孩", "女孩+汉服"),
        ("身穿红色旗袍的女人", "女人+旗袍*red"),
        ("穿着白色连衣裙的长发女孩", "女孩+裙子+长发*white"),
        ("蓝色汉服的少女", "女孩+汉服*blue"),
        ("弹古筝的女子", "女人+弹古筝"),
        ("老人正在打太极", "老人+打太极"),
        ("old man practising tai chi", "老人+打太极"),
        ("girl in a red dress", "女孩+裙子*red"),
        ("撑着油纸伞的旗袍女子", "女人+旗袍+打伞"),
        ("戴眼镜的医生在看书", "医生+看书+戴眼镜"),
        # no person, more than one, or something else besides
        ("穿汉服", ""),
        ("打太极", ""),
        ("关羽张飞", ""),
        ("穿汉服的猫", "动物猫+汉服"),
        ("弹古筝的女子和月亮", ""),
        ("", ""),
    ],
)
def test_who_a_phrase_names(phrase: str, kind: str) -> None:
    assert figure_of(phrase) == (f"{FIGURE}{kind}" if kind else "")


def test_people_and_things_are_things_like_any_others() -> None:
    assert things_of("三个和尚") == Things(f"{FIGURE}和尚", 3)
    assert things_of("两把椅子和桌子") is None
    assert things_of("蓝色的台灯") == Things(f"{THING}lamp", 1, "blue")
    assert kinds()["老师"] != f"{FIGURE}老师"  # of whom there is a reference picture


def test_clothes_have_the_colour_that_is_said() -> None:
    red, blue = (np.asarray(drawn(f"{FIGURE}女人+旗袍*{colour}").render(256), np.int16) for colour in ("red", "blue"))
    assert ((red[..., 0] - red[..., 2] > 100).sum()) > 5 * ((blue[..., 0] - blue[..., 2] > 100).sum())


def test_shading_keeps_the_outline() -> None:
    table = drawn(f"{THING}table")
    flat, lit = (np.asarray(drawing.render(512), np.int16) for drawing in (table, shaded(table)))
    assert (flat[..., 3] == lit[..., 3]).all()
    assert (np.diff(lit[..., 0], axis=0) != 0).sum() > 5 * (np.diff(flat[..., 0], axis=0) != 0).sum()


def test_a_landmark_stands_where_it_belongs_but_for_a_ground_that_is_said() -> None:
    found = [arrangement_of(text) for text in ("金字塔", "红色背景的金字塔", "金字塔，剪纸")]
    said = [(one.scene, one.background, one.style) for one in found if one is not None]
    assert said == [("desert", "", "3d"), ("", "red", "3d"), ("", "", "papercut")]


@pytest.mark.parametrize("kind", views())
def test_a_view_fills_the_picture(kind: str) -> None:
    assert np.asarray(drawn(kind).render(128))[..., 3].min() == 255


def test_a_view_is_a_picture_and_a_scene() -> None:
    alone, within, english = (arrangement_of(text) for text in ("公园", "公园里的小狗", "a dog in the park"))
    assert alone is not None
    assert within is not None
    assert (alone.scene, within.scene) == ("", f"{THING}park")
    assert within == english
    wide, square = (put_together(within, "some", size) for size in ((96, 64), (64, 64)))
    assert (wide.size, square.size) == ((96, 64), (64, 64))
    assert put_together(alone, "some", (96, 64)).size == (96, 64)


@pytest.mark.parametrize("line", famous_lines())
def test_what_a_famous_line_shows_has_room_in_a_scene(line: tuple[str, ...]) -> None:
    shown = famous_lines()[line]
    assert set(shown) <= elements().keys()
    assert room_for(shown)
    assert is_verse("，".join(line))
    assert scenic(next(part for part in line if len(part) >= CLAUSE)) == shown


def test_a_famous_line_is_one_that_no_collection_has() -> None:
    of_collections = {part for verse in verses() for part in clauses(verse.line)}
    assert [line for line in famous_lines() if of_collections.intersection(line)] == []
    assert not is_verse("知否")  # too short to count by itself
    # a clause that names nothing is seen with its line
    assert scenic("忽如一夜春风来") == scenic("忽如一夜春风来，千树万树梨花开") != ()
    assert scenic("千树万树梨花开") == ("tree", "peach blossom")


def test_a_tableau_shows_what_there_are_pictures_of() -> None:
    words = Counter(
        normal(word)
        for row in read_table("captions", "tableaux.tsv")
        for cell in ("zh", "en")
        for word in row[cell].split("/")
    )
    assert [word for word, count in words.items() if count > 1] == []
    for word, one in tableaux().items():
        assert has_references(one.placed()), word
        assert one.scene in ("", *STANDS), word


@pytest.mark.parametrize(
    ("text", "kinds_", "scene", "style"),
    [
        ("七夕", {"figure:织女", "figure:牛郎", "2b50"}, "night", "3d"),
        ("画一张百年好合，剪纸", {"thing:double happiness", "figure:新郎", "figure:新娘"}, "", "papercut"),
        ("Merry Christmas", {"1f384", "figure:圣诞老人", "1f381"}, "snow", "3d"),
    ],
)
def test_what_a_tableau_is_called(text: str, kinds_: set[str], scene: str, style: str) -> None:
    found = arrangement_of(text)
    assert found is not None
    assert ({thing.kind for thing in found.things}, found.scene, found.style) == (kinds_, scene, style)


def test_of_a_picture_the_name_of_a_style_is_one() -> None:
    assert things_of("剪纸") == Things("thing:window paper-cut")
    found = arrangement_of("剪纸")
    assert found is not None
    assert [thing.kind for thing in found.things] == ["thing:window paper-cut"]
