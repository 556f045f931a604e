"""Parts: dumped and loaded they are equal, and what is wrong in one is told by its name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bimo.core.errors import RecipeError
from bimo.core.part import Part, dump, dumps, fits, kind_of, load, loads, meant, nearest, override
from bimo.core.recipe import Defaults, Guidance, Level, Published, Recipe, Stage
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.schedules.flow import Flow
from bimo.diffusion.schedules.single_step import SingleStepRegression

FINITE = st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.text(max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | FINITE | NAMES
GUIDES = st.builds(
    Guidance,
    scale=FINITE,
    unconditional=st.sampled_from(["empty", "zeros"]),
    rescale=FINITE,
    interval=st.tuples(FINITE, FINITE),
)
LAWS = st.one_of(
    st.builds(Flow, logit_mean=FINITE, logit_std=FINITE, shift=FINITE),
    st.builds(SingleStepRegression),
    st.builds(
        Ddpm,
        beta_schedule=st.sampled_from(["linear", "scaled_linear"]),
        beta_start=FINITE,
        count=st.integers(1, 5000),
        config=st.dictionaries(NAMES.filter(lambda n: n != "kind"), SCALARS | st.tuples(SCALARS), max_size=3),
    ),
)
LEVELS = st.builds(
    Level,
    name=st.text(min_size=1, max_size=4),
    space=NAMES | LAWS,
    denoiser=LAWS,
    schedule=LAWS,
    conditioners=st.lists(LAWS, max_size=2).map(tuple),
    steps=st.integers(1, 100),
    guidance=GUIDES,
)
STAGES = st.builds(
    Stage,
    name=NAMES,
    objective=LAWS,
    train=st.lists(NAMES, max_size=3).map(tuple),
    lr=st.floats(1e-9, 10.0),
    lr_schedule=st.sampled_from(["constant", "cosine", "linear"]),
    size=st.none() | st.tuples(st.integers(), st.integers()),
)
RECIPES = st.builds(
    Recipe,
    name=NAMES,
    title=NAMES,
    levels=st.lists(LEVELS, max_size=2).map(tuple),
    stages=st.lists(STAGES, max_size=2).map(tuple),
    weights=st.builds(Published, repo=NAMES),
    request=st.builds(Defaults, guidance=st.none() | FINITE, steps=st.none() | st.integers(1, 9)),
)
RECIPE = Recipe(
    name="toy",
    levels=(Level(name="image", space=Flow(), denoiser=SingleStepRegression(), schedule=Ddpm()),),
    stages=(
        Stage(name="words", objective=SingleStepRegression(), train=("text.*",)),
        Stage(name="all", objective=SingleStepRegression(), train=("*",), level="image"),
    ),
)


@given(recipe=RECIPES)
def test_dumped_and_loaded_is_equal(recipe: Recipe) -> None:
    text = dumps(recipe)
    loaded = loads(text)
    assert loaded == recipe
    assert load(json.loads(json.dumps(dump(recipe)))) == recipe
    assert dumps(loaded) == text


@given(part=LEVELS | STAGES | GUIDES)
def test_dump_fills_in_every_field(part: Part) -> None:
    data = dump(part)
    assert set(data) == {"kind"} | {f.name for f in dataclasses.fields(part)}
    assert data["kind"] == kind_of(part) == type(part).__name__


def test_of_many_choices_the_nearest_are_offered_and_never_the_whole_list() -> None:
    many = [f"system-{number}" for number in range(40)]
    assert meant("systen-7", many).en.startswith("; did you mean system-7")
    message = meant("qqq", [*many, "quick"]).en
    assert message.startswith("; of 41 the nearest are quick")
    assert message.count("system") == 2
    assert meant("qqq", ["a", "b"]).en == "; there is a, b"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "Guidance", "scal": 2}, "has no field 'scal'; did you mean scale"),
        ({"kind": "Guidance", "zzzz": 2}, "there is baseline_scale, branches, channels"),
        ({"kind": "Guidanc"}, "did you mean Guidance"),
        ({"kind": "bimo.core.recipee:Guide"}, "unknown part"),
        ({"kind": "bimo.core.recipe:Source"}, "unknown part"),
        ({"kind": "bimo.core.part:dump"}, "unknown part"),
        ({"kind": "Published", "repo": 3}, "Published.repo is 3; expected str"),
        ({"kind": "Level", "name": "a"}, "lacks the fields ['space', 'denoiser', 'schedule']"),
        ({"kind": "os:system"}, "unknown part"),
        ({"kind": "builtins:eval"}, "unknown part"),
        ({"kind": "bimo_evil:Part"}, "unknown part"),
        ({"kind": "bimo"}, "unknown part"),
        ({"kind": 3}, "unknown part"),
        ({"kind": None}, "unknown part"),
        ({"kind": ["Guidance"]}, "unknown part"),
        ([{"kind": "subprocess:Popen", "args": ["true"]}], "unknown part"),
        ({"kind": "Defaults", "size": {"kind": "os:getcwd"}}, "unknown part"),
    ],
)
def test_wrong_data_is_reported(data: Any, message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        load(data)
    assert message in raised.value.en
    assert raised.value.zh != raised.value.en


def test_a_foreign_kind_is_not_even_imported(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "foreign.py").write_text("open('it-ran', 'w').close()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RecipeError):
        load({"kind": "foreign:Part"})
    assert not (tmp_path / "it-ran").exists()


def test_what_is_not_json_is_reported() -> None:
    with pytest.raises(RecipeError, match=r"JSON"):
        loads("{")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Guidance(scale="7"), "Guidance.scale is '7'; expected float"),  # type: ignore[arg-type]
        (lambda: Guidance(scale=True), "Guidance.scale"),
        (lambda: Guidance(unconditional="nothing"), "Guidance.unconditional is 'nothing'"),  # type: ignore[arg-type]
        (lambda: Guidance(interval=(0.0, 1.0, 2.0)), "Guidance.interval"),  # type: ignore[arg-type]
        (lambda: Guidance(interval=[0.0, 1.0]), "Guidance.interval"),  # type: ignore[arg-type]
        (lambda: Stage(name="a", objective=SingleStepRegression(), train=("a",), steps=1.5), "Stage.steps"),  # type: ignore[arg-type]
        (lambda: Stage(name="a", objective="b", train=("a",)), "Stage.objective"),  # type: ignore[arg-type]
        (lambda: Stage(name="a", objective=SingleStepRegression(), train="text.*"), "Stage.train"),  # type: ignore[arg-type]
        (lambda: Ddpm(config=[1]), "Ddpm.config"),  # type: ignore[arg-type]
    ],
)
def test_wrong_types_are_reported(make: Any, message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        make()
    assert message in raised.value.en


def test_a_part_is_frozen_and_by_name() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Guidance().scale = 2.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        Guidance(2.0)  # type: ignore[misc]


def test_what_is_no_plain_data_is_not_dumped() -> None:
    with pytest.raises(RecipeError):
        dump({"a": {1, 2}})


@pytest.mark.parametrize(
    ("path", "value", "read"),
    [
        ("name", "other", lambda r: r.name == "other"),
        ("name", "3", lambda r: r.name == "3"),
        ("stages.1.lr", "5e-6", lambda r: r.stages[1].lr == 5e-6 and r.stages[0].lr == 1e-4),
        ("stages.words.steps", "7", lambda r: r.stages[0].steps == 7),
        ("stages.words.steps", 7, lambda r: r.stages[0].steps == 7),
        ("stages.0.train", '["text.*", "image.*"]', lambda r: r.stages[0].train == ("text.*", "image.*")),
        ("stages.0.size", "[8, 16]", lambda r: r.stages[0].size == (8, 16)),
        ("stages.0.size", "null", lambda r: r.stages[0].size is None),
        ("levels.image.guidance.scale", "3", lambda r: r.levels[0].guidance.scale == 3),
        ("levels.0.denoiser", '{"kind": "Flow"}', lambda r: r.levels[0].denoiser == Flow()),
        ("request", Defaults(steps=3), lambda r: r.request.steps == 3),
    ],
)
def test_override_sets_one_field(path: str, value: Any, read: Any) -> None:
    changed = override(RECIPE, path, value)
    assert read(changed)
    assert type(changed) is Recipe
    assert RECIPE.name == "toy"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("stage.0.lr", "1", "stage.0.lr: no field 'stage'; did you mean stages?"),
        ("stages.0.lrr", "1", "did you mean lr"),
        ("stages.2.lr", "1", "no item '2'"),
        ("stages.word.lr", "1", "did you mean words"),
        ("stages.-1.lr", "1", "no item '-1'"),
        ("stages..lr", "1", "no item ''"),
        ("name.x", "1", "nothing below"),
        ("", "1", "no field ''"),
        ("stages.0.steps", "many", "Stage.steps is 'many'; expected int"),
        ("stages.0.steps", "1.5", "Stage.steps is 1.5"),
        ("levels.0.denoiser", '{"kind": "os:system"}', "unknown part"),
        ("stages.1.level", "imag", "did you mean image"),
    ],
)
def test_a_path_that_leads_nowhere_is_reported(path: str, value: Any, message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        override(RECIPE, path, value)
    assert message in raised.value.en


def test_tiny_shrinks_what_a_recipe_holds() -> None:
    small = RECIPE.tiny()
    assert small.name == "toy-tiny"
    assert all(stage.steps <= 3 for stage in small.stages)
    assert loads(dumps(small)) == small


@pytest.mark.parametrize(
    ("value", "conditioner", "expected"),
    [
        (1, float, True),
        (True, int, False),
        (1.0, int, False),
        ((1, 2), tuple[int, ...], True),
        ((), tuple[int, ...], True),
        ((1, "a"), tuple[int, str], True),
        ((1,), tuple[int, str], False),
        ({"a": 1}, Mapping[str, int], True),
        ({"a": "b"}, Mapping[str, int], False),
        (None, int | None, True),
        ("b", Literal["a"], False),
        (SingleStepRegression(), Part | str, True),
        (object(), Any, True),
    ],
)
def test_fits(value: Any, conditioner: Any, expected: bool) -> None:
    assert fits(value, conditioner) is expected


def test_nearest_is_best_first() -> None:
    assert nearest("steps", ["stops", "step", "size"])[0] == "step"
    assert nearest("zzz", ["step"]) == ()
