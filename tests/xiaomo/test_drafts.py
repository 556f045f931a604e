"""Drafts by program: which prompts have one, what it shows, and how it is drawn over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bimo
from bimo.cli import main
from bimo.core.errors import RequestError
from bimo.core.picture import read_metadata, recorded
from bimo.core.request import Request
from bimo.diffusion.conditioner import CONDITIONER_SEED
from bimo.diffusion.preparation import prepare
from bimo.diffusion.request_filling import fill_request
from bimo.diffusion.sampling import calls
from bimo.engine.engine import Engine
from bimo.hub.editions import SECOND, edition_for, text_encoder_of
from bimo.serve.page.models import words_of
from bimo.xiaomo.artwork.held_out import hexcode
from bimo.xiaomo.captions.arranged import Arrangement
from bimo.xiaomo.captions.draftable import AsWritten, plan_of
from bimo.xiaomo.captions.lexicon import style_of
from bimo.xiaomo.dishes.plan import DishPlan, draw_dish
from bimo.xiaomo.drafts import draft
from bimo.xiaomo.scenes.description import Mood
from bimo.xiaomo.scenes.plan import ScenePlan, draw_scene
from bimo.xiaomo.scenes.planning import planned, planned_boxes
from tests.support.command_line import runner

SHARE = 0.25


@pytest.fixture(scope="module")
def engine() -> Engine:
    return bimo.load("xiaomo-2")


@pytest.mark.parametrize(
    ("text", "has_one"),
    [
        ("宫保鸡丁", True),
        ("一碗热腾腾的牛肉面，水彩", True),
        ("Mapo tofu", True),
        ("小桥流水人家，梵高星空风格", True),
        ("小橋流水人家", True),
        ("举头望明月，低头思故乡", True),
        ("孤帆远影碧空尽", True),
        ("West Lake in spring", True),
        ("a stone bridge over a stream, watercolor", True),
        ("春天的早晨，一座小桥跨过清澈的溪水，两岸开满桃花，远处有几户人家升起炊烟", True),
        ("疑是银河落九天", True),
        ("小荷才露尖尖角，早有蜻蜓立上头", True),
        ("沙漠里的骆驼队", True),
        ("月饼", True),
        ("没有人的长城", True),
        ("雪地里的企鹅，工笔", True),
        ("长城上的熊猫", True),
        # put together from references
        ("吃牛肉面的猫", True),
        ("大熊猫吃竹子", True),
        ("雪地里的企鹅", True),
        ("守株待兔", True),
        ("🐼🎋", True),
        ("月亮", True),
        ("红苹果", True),
        # what is excluded is left out, or was never in it
        ("没有鱼的鱼香肉丝", True),
        ("牛肉面，不加香菜", True),
        ("beef noodle soup without coriander", True),
        ("不要猫，只要狗", True),
        ("一只狗，不要狗", False),
        ("没有叶子的树", True),
        ("没有轮子的汽车", True),
        ("没有翅膀的飞机", False),
        ("没有面条和牛肉和青菜的牛肉面", False),
        # something else is asked for, which the program does not draw
        ("没有船的西湖", False),
        ("长城，像素风", False),
        # of what is understood in part that part
        ("月亮和铁路局", True),
        ("铁路局", False),
    ],
)
def test_what_can_be_drafted(text: str, has_one: bool) -> None:
    assert (plan_of(text, text_encoder_of(SECOND)) is not None) is has_one


@pytest.mark.parametrize(
    ("text", "emoji"),
    [("河马", "🦛"), ("雪人", "⛄"), ("一棵大树", "🌳"), ("梨", "🍐"), ("西兰花", "🥦"), ("a house", "🏠")],
)
def test_the_name_of_a_thing_is_no_scene_of_its_characters(text: str, emoji: str) -> None:
    plan = plan_of(text, text_encoder_of(SECOND), text)
    assert isinstance(plan, Arrangement)
    assert [thing.kind for thing in plan.things] == [hexcode(emoji)]


@pytest.mark.parametrize("text", ["荷花", "雪山", "大海", "寺庙", "松树", "滴水穿石", "鹅毛大雪"])
def test_country_and_what_has_a_procedure_is_drawn_by_it(text: str) -> None:
    assert plan_of(text, text_encoder_of(SECOND), text) == "procedures"
    assert plan_of("月饼", text_encoder_of(SECOND), "月饼") == AsWritten("月饼")


def test_a_word_that_the_draft_shows_is_not_said_to_be_drawn_as_another(engine: Engine) -> None:
    assert engine.prepare("唢呐").warnings == ()
    (told,) = engine.prepare("柯基和唢呐").warnings
    assert "柯基 → 狗" in told
    assert "唢呐" not in told
    # Without the draft it is the model's word that is drawn.
    assert "唢呐 → " in " ".join(engine.prepare("唢呐", draft=0).warnings)


def test_what_has_a_draft_is_drawn_with_it() -> None:
    editions = [edition_for(text) for text in ("月饼", "沙漠里的骆驼队", "雪地里的企鹅", "🐉", "红苹果")]
    assert editions == [SECOND, SECOND, SECOND, SECOND, "xiaomo"]


def test_a_verse_is_known_by_what_was_written() -> None:
    encoder, read, verse = text_encoder_of(SECOND), "千山鸟飞绝，万径的老虎灭", "千山鸟飞绝，万径人踪灭"
    for other in ("", "千山鸟飞绝，万径的老虎灭吧"):
        assert not isinstance(plan_of(read, encoder, other), AsWritten)
        assert plan_of(read, encoder, other) != "procedures"
    assert plan_of(read, encoder, verse) == AsWritten(verse)


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("长城，油画", "oil"),
        ("梵高星空风格的长城", "gogh"),
        ("lotus pond, watercolor", "watercolour"),
        ("青花瓷盘里的饺子", "porcelain"),
        ("长城", ""),
        ("inking", ""),
    ],
)
def test_the_style_that_is_named(text: str, style: str) -> None:
    assert style_of(text) == style


def test_it_is_what_the_training_data_shows() -> None:
    dish = draw_dish(DishPlan("some", "宫保鸡丁", "圆盘", "oil"))
    assert draft("宫保鸡丁，油画", "some", 256).tobytes() == dish.image.tobytes()
    assert draft("一盘宫保鸡丁", "some", 256).tobytes() != dish.image.tobytes()
    # The mood that the words leave open is that of the plan.
    scene = draw_scene(ScenePlan("one", "great wall", "ink"))
    assert draft("长城，水墨画", "one", 256).tobytes() == scene.image.tobytes()
    assert draft("长城，水墨画", "other", 256).tobytes() != scene.image.tobytes()


def test_of_a_dish_an_ingredient_is_left_out() -> None:
    with_all, without = (planned_boxes(text, "some") for text in ("牛肉面", "不要香菜的牛肉面"))
    assert with_all.keys() - without.keys() == {"香菜"}
    assert planned_boxes("没有鱼的鱼香肉丝", "some") == planned_boxes("鱼香肉丝", "some")


def moods(text: str) -> list[Mood]:
    """The moods of a text over some keys."""
    return [scene.mood for key in range(20) if (scene := planned(text, f"{key}")) is not None]


def test_what_names_no_hour_is_seen_by_day() -> None:
    lights = {text: {mood.light for mood in moods(text)} for text in ("长城", "长城夜景", "中秋")}
    assert lights == {"长城": {"dawn", "day", "dusk"}, "长城夜景": {"night"}, "中秋": {"night"}}


@pytest.mark.parametrize(
    ("text", "season"),
    [("桃花和小河", "spring"), ("荷花和小船", "summer"), ("银杏大道", "autumn"), ("寒梅和小桥", "winter")],
)
def test_plants_name_their_season(text: str, season: str) -> None:
    assert {mood.season for mood in moods(text)} == {season}


def test_a_subject_gives_way_to_what_else_is_named() -> None:
    text = "夜晚的江面上停着一条小船，月亮挂在天上，岸边有枫树和一座古寺"
    assert {"water", "boat", "moon", "maple", "temple"} <= planned_boxes(text, "some").keys()
    assert "great wall" in planned_boxes("长城落日", "some")


def test_it_is_drawn_over(engine: Engine) -> None:
    """A quarter of the steps from a draft stays near it; without one the picture is another."""
    with_draft = engine.draw("宫保鸡丁", seed=1)[0]
    without = engine.draw("宫保鸡丁", seed=1, draft=0)[0]
    assert recorded(with_draft.request)["draft"] == SHARE
    assert "draft" not in recorded(without.request)
    own = np.asarray(draft("宫保鸡丁", f"drawn-{1 ^ CONDITIONER_SEED}/宫保鸡丁", 256), np.float32)
    near, far = (np.abs(np.asarray(one.image, np.float32) - own).mean() for one in (with_draft, without))
    assert near < 12 < 2 * near < far
    assert with_draft.image.tobytes() != engine.draw("宫保鸡丁", seed=2)[0].image.tobytes()
    filled = [fill_request(engine.system, Request(text=text)).request for text in ("宫保鸡丁", "没有翅膀的飞机")]
    # one call of the first level, then 3 or 12
    assert [calls(engine.system, one) for one in filled] == [4, 13]


def test_a_picture_with_a_draft_is_drawn_again(engine: Engine, tmp_path: Path) -> None:
    picture = engine.draw("小桥流水人家，水彩", seed=3, draft=0.4)[0]
    picture.save(tmp_path / "one.png")
    record = read_metadata(tmp_path / "one.png")
    assert record["request"]["draft"] == 0.4
    assert engine.draw(record["request"])[0].image.tobytes() == picture.image.tobytes()


@pytest.mark.parametrize(
    "fields",
    [
        {"image": Image.new("RGB", (256, 256), "red")},
        {"conditions": {"boxes": [0, 0.1, 0.1, 0.9, 0.9]}},
        {"size": (256, 320)},
        {"regions": ({"text": "月亮", "box": (0, 0, 0.5, 0.5)},)},
        {"text": "没有船的西湖"},
        {"text": "西湖 AND 长城"},
        {"text": "西湖", "style": "pixel"},
    ],
)
def test_there_is_none(engine: Engine, fields: dict[str, Any]) -> None:
    request = {"text": "西湖", **fields}
    assert fill_request(engine.system, request).request.draft is None
    assert fill_request(engine.system, {"text": "西湖"}).request.draft == SHARE
    warned = prepare(engine.system, {**request, "draft": 0.5}).warnings
    assert any("no draft" in warning for warning in warned)
    assert not any("no draft" in warning for warning in prepare(engine.system, request).warnings)


def test_a_model_without_drafts_says_so() -> None:
    system = bimo.load("xiaomo").system
    assert any("no draft" in warning for warning in prepare(system, {"text": "红苹果", "draft": 0.5}).warnings)
    assert prepare(system, {"text": "红苹果", "draft": 0}).request.draft is None


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_is_from_none_to_all(engine: Engine, share: float) -> None:
    with pytest.raises(RequestError, match="draft"):
        engine.draw("西湖", draft=share)


def test_the_command_line_says_that_there_is_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = runner(capfd)
    status, _, said = run("draw", "红苹果", "--draft", "0.5", "--steps", "1", "-o", str(tmp_path / "one.png"))
    assert status == 0
    assert "no draft" in said
    status, _, said = run("draw", "西湖", "--draft", "0.5", "--steps", "1", "-o", str(tmp_path / "two.png"))
    assert status == 0
    assert "no draft" not in said


def test_words_that_a_draft_shows_are_no_warning(engine: Engine) -> None:
    """五 and 屋顶 were never learned; the draft has five sheep, and a roof."""
    for text in ("五只羊", "屋顶上的猫"):
        assert not [said for said in prepare(engine.system, Request(text=text)).warnings if "never learned" in said]
        literal = prepare(engine.system, Request(text=text, draft=0))
        assert [said for said in literal.warnings if "never learned" in said]


def test_an_explanation_says_that_there_is_a_draft(capsys: pytest.CaptureFixture[str]) -> None:
    for text, said in (("屋顶上的猫", "every word"), ("西湖", "25% of the steps")):
        assert main.run(["draw", text, "--explain"]) == 0
        assert said in capsys.readouterr().out
    assert main.run(["draw", "西湖", "--draft", "0", "--explain"]) == 0
    assert "draft by program" not in capsys.readouterr().out


def test_none_is_none_however_often_it_is_filled(
    engine: Engine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    filled = fill_request(engine.system, {"text": "西湖", "seed": 3, "steps": 4, "draft": 0})
    assert fill_request(engine.system, filled) is filled
    assert fill_request(engine.system, filled.request).request.draft == filled.asked.draft == 0
    file = tmp_path / "one.png"
    status, _, _ = runner(capfd)("draw", "西湖", "--draft", "0", "--seed", "3", "--steps", "4", "-o", str(file))
    assert status == 0
    without = engine.draw("西湖", seed=3, steps=4, draft=0)[0].image
    assert Image.open(file).tobytes() == without.tobytes()
    assert without.tobytes() != engine.draw("西湖", seed=3, steps=4)[0].image.tobytes()
    assert "draft" not in read_metadata(file)["request"]
    again = tmp_path / "again.png"
    assert runner(capfd)("draw", "--again", str(file), "-o", str(again))[0] == 0
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("word", ["孙悟空", "中国结", "eiffel tower", "猫"])
def test_what_the_model_knows_has_the_words_of_its_drafts(engine: Engine, word: str) -> None:
    assert f'data-word="{word}"' in words_of(engine, word)
