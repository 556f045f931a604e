"""Recipe files and a picture that version 0.1 saved: they are read as what they say, by the names of now."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from bimo.core import part
from bimo.core.earlier_names import FIELDS, PARTS, VALUES
from bimo.core.part_names import PART_NAMES
from bimo.core.picture import read_metadata
from bimo.core.recipe import Recipe
from bimo.core.request import checked
from bimo.hub.registry import load, recipes
from bimo.recipes import curation
from bimo.training.adapters.control_stage import ControlAdapters
from bimo.training.adapters.lora_stage import TextualInversion
from tests.support.checkout import ROOT
from tests.support.drawing import draw

SAVED = Path(__file__).parents[1] / "fixtures" / "saved_0_1"
#: Recipes whose scheduler said less than its publisher's when they were saved.
SETTINGS_ADDED = frozenset(("hunyuan-dit-1.2", "kolors", "taiyi-xl"))
FILES = sorted(SAVED.glob("*.json"))


def without_notes(recipe: Any) -> Any:
    """A recipe but for what it, its stages and its weights say of themselves in words."""
    if not isinstance(recipe, Recipe):
        return recipe
    weights = replace(recipe.weights, note="")
    stages = tuple(replace(stage, note="") for stage in recipe.stages)
    return replace(recipe, note="", weights=weights, stages=stages)


def corrected(saved: Recipe, now: Recipe) -> Recipe:
    """What was saved, with what its recipe says besides since then: in which numbers it is safe, and of published
    schedulers the settings that were missing. Anything else that differs is a fault.
    """
    levels = tuple(
        replace(
            old,
            space_dtypes=new.space_dtypes,
            sampler=new.sampler if old.sampler == "ddpm" else old.sampler,
            schedule=replace(old.schedule, config=new.schedule.config)
            if saved.name in SETTINGS_ADDED
            else old.schedule,
        )
        for old, new in zip(saved.levels, now.levels, strict=True)
    )
    return replace(saved, levels=levels, dtypes=now.dtypes)


def test_there_are_files_to_read() -> None:
    assert len(FILES) == 18


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_saved_recipe_is_the_recipe_of_now(path: Path) -> None:
    saved = part.loads(path.read_text(encoding="utf-8"))
    name = path.stem
    now = getattr(curation, name.removeprefix("curation-")) if name.startswith("curation-") else recipes()[name]
    if isinstance(saved, Recipe):
        saved = corrected(saved, now)
    assert without_notes(saved) == without_notes(now)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_saved_again_a_recipe_reads_back_equal_by_short_names(path: Path) -> None:
    saved = part.loads(path.read_text(encoding="utf-8"))
    text = part.dumps(saved)
    assert part.loads(text) == saved
    assert '"kind": "bimo.' not in text


@cache
def parts() -> frozenset[tuple[str, str]]:
    """(name, "module:name") of every part of the package but for bases that others derive from."""
    classes: dict[str, set[str]] = {}
    places: dict[str, list[str]] = {}
    for path in sorted((ROOT / "bimo").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                classes.setdefault(node.name, set()).update(bases)
                places.setdefault(node.name, []).append(".".join(path.relative_to(ROOT).with_suffix("").parts))
    derived, reached = set[str](), {"Part"}
    while reached:
        derived |= reached
        reached = {name for name, bases in classes.items() if bases & derived} - derived
    found: set[tuple[str, str]] = set()
    for name in derived - {"Part"}:
        for module in places[name]:
            cls = getattr(importlib.import_module(module), name)
            if not issubclass(cls, part.Part) or inspect.isabstract(cls):
                continue
            base = any(one.__module__.startswith("bimo.") for one in cls.__subclasses__())
            if not base:
                found.add((name, f"{module}:{name}"))
    return frozenset(found)


def unnamed(names: Mapping[str, str]) -> set[str]:
    """Parts of the package that a table gives no name in JSON."""
    return {place for name, place in parts() if names.get(name) != place}


@pytest.mark.slow
def test_every_part_has_a_name_in_json() -> None:
    assert unnamed(PART_NAMES) == set()
    less = {name: place for name, place in PART_NAMES.items() if name != "Normal"}
    assert unnamed(less) == {PART_NAMES["Normal"]}


def test_every_earlier_name_leads_to_one_of_now() -> None:
    assert set(PARTS.values()) <= set(PART_NAMES)
    assert {*FIELDS, *(name for name, _ in VALUES)} <= set(PART_NAMES)
    for name, fields in FIELDS.items():
        module, _, cls = PART_NAMES[name].partition(":")
        assert set(fields.values()) <= set(getattr(importlib.import_module(module), cls).__dataclass_fields__)


def test_a_saved_picture_is_drawn_again_by_its_record() -> None:
    path = SAVED / "pose.png"
    with Image.open(path) as saved:
        assert "hints" in json.loads(saved.info["bimo"])["request"]
        pixels = numpy.asarray(saved, dtype=int)
    record = read_metadata(path)
    request = checked(record["request"])
    assert request.conditions == {"pose": [0.0, 1.0, 0.0, 0.0, 0.0]}
    system = load(record["recipe"])
    drawn = draw(system, request)[0]
    difference = pixels - numpy.asarray(drawn.image, dtype=int)
    # Other machines round otherwise; another pose is another picture.
    assert numpy.abs(difference).max() <= 2


def test_a_record_of_0_1_is_read_by_the_names_of_now(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    pose, branches, pictures = {"pose": [0, 1, 0, 0, 0]}, {"text": 2.0}, {"sketch": "sha256:0"}
    request = {"text": "猫", "hints": pose, "dials": branches, "pictures": pictures}
    info = PngInfo()
    info.add_text("bimo", json.dumps({"recipe": "xiaomo", "weights": "", "request": request}))
    Image.new("RGB", (8, 8)).save(tmp_path / "old.png", pnginfo=info)
    assert read_metadata(tmp_path / "old.png")["request"] == {
        "text": "猫",
        "conditions": pose,
        "guidance_weights": branches,
        "condition_images": pictures,
    }


def test_fields_that_were_called_otherwise_are_read_by_the_names_of_now() -> None:
    assert part.load({"kind": "ControlAdapters", "seen": "outlines"}) == ControlAdapters(source="outlines")
    saved = {"kind": "TextualInversion", "token": "<cat>", "initial": "cat", "tower": 1}
    assert part.load(saved) == TextualInversion(token="<cat>", initial="cat", text_encoder=1)
