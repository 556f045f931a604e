"""Dishes by procedure: the tables are whole, every dish can be drawn, whatever it is called."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from bimo.core.errors import DataError
from bimo.xiaomo.dishes import table
from bimo.xiaomo.dishes.arrange import LAYS
from bimo.xiaomo.dishes.pieces.shapes import SHAPES
from bimo.xiaomo.dishes.plan import MANNERS, DishPlan, draw_dish, plan_dishes, vessels_of
from bimo.xiaomo.dishes.table import dishes, ingredients
from bimo.xiaomo.dishes.vessels import VESSELS
from bimo.xiaomo.heldout import held_out_dish

CROCKERY = {"chopsticks", "small dish", "steam"}


def test_the_tables_are_whole() -> None:
    assert len(dishes()) >= 60
    assert {one.shape for one in ingredients().values()} <= set(SHAPES)
    for dish in dishes().values():
        assert dish.lay in LAYS, dish.name
        assert set(dish.vessels) <= set(VESSELS), dish.name
        assert dish.english
        assert dish.pieces
        assert all(count > 0 for _, count in (*dish.pieces, *dish.garnish)), dish.name
    names = [name for dish in dishes().values() for name in (dish.name, *dish.also)]
    assert len(names) == len(set(names)), "two dishes own one name"


def test_names_that_mislead() -> None:
    def shapes(name: str) -> set[str]:
        return {ingredients()[one].shape for one in dishes()[name].contents}

    assert "fish" not in shapes("鱼香肉丝")
    assert "fish" not in shapes("鱼香茄子")
    assert dishes()["红烧狮子头"].pieces[0][0] == "狮子头"
    assert ingredients()["狮子头"].shape == "ball"
    assert "fish" in shapes("清蒸鲈鱼")


@pytest.mark.slow
@pytest.mark.parametrize("name", list(dishes()))
def test_every_dish_is_drawn(name: str) -> None:
    for number, vessel in enumerate(dishes()[name].vessels):
        style = MANNERS[(list(dishes()).index(name) + number) % len(MANNERS)] if number else "illustration"
        drawn = draw_dish(DishPlan(f"every/{vessel}", name, vessel, style), 64)
        assert np.asarray(drawn.image, np.float32).std() > 8
        assert vessel in drawn.elements
        assert set(drawn.elements) - {vessel} - CROCKERY == set(dishes()[name].contents)


def test_a_key_gives_the_same_bytes() -> None:
    plan = next(plan_dishes(1))
    one, same = draw_dish(plan), draw_dish(plan)
    assert one.image.size == (256, 256)
    assert hashlib.sha256(one.image.tobytes()).digest() == hashlib.sha256(same.image.tobytes()).digest()
    assert one.layout == same.layout


def test_held_out_vessels_are_never_planned() -> None:
    held = {
        (name, vessel) for name, dish in dishes().items() for vessel in dish.vessels[1:] if held_out_dish(name, vessel)
    }
    assert held
    planned = {(plan.dish, plan.vessel) for plan in plan_dishes(1200)}
    assert not held & planned
    assert {name for name, _ in planned} == set(dishes())
    assert all(vessels_of(name)[0] == dish.vessels[0] for name, dish in dishes().items())


def test_a_row_that_cannot_be_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="葱花"):
        table.counted("葱花", "汤")
    with pytest.raises(DataError, match="龙肉"):
        table.counted("龙肉*3", "汤")
    with pytest.raises(DataError, match="red"):
        table.colour_of("red", "汤")
