"""The second edition of the artwork: relations and idioms by table, larger canvases; the first keeps its records."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from bimo.core.errors import DataError
from bimo.data import shards
from bimo.prompts.emoji import names
from bimo.xiaomo.artwork import canvas, captions
from bimo.xiaomo.artwork import compositions as compositions_module
from bimo.xiaomo.artwork.build import build_artwork
from bimo.xiaomo.artwork.canvas import ANIMAL_FACES
from bimo.xiaomo.artwork.compositions import Idiom, compositions, idioms
from bimo.xiaomo.artwork.editions import FIRST, SECOND
from bimo.xiaomo.artwork.held_out import held_out_relation, hexcode
from bimo.xiaomo.artwork.packages import Package
from bimo.xiaomo.scenes.planning import planned_boxes

Fake = tuple[Path, tuple[Package, ...]]
IDIOM = Idiom(
    "对牛弹琴", "对着猫开车", "说话不看对象", "a cat and a car", "talking past each other",
    (("🐱", (0.3, 0.5, 0.4)), ("🚗", (0.7, 0.6, 0.4))),
)  # fmt: skip


@pytest.fixture(scope="module")
def built(fake: Fake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("second")
    with pytest.MonkeyPatch.context() as patch:
        for module in (canvas, captions):
            patch.setattr(module, "idioms", lambda: {IDIOM.name: IDIOM})
        build_artwork(out, 300, workers=1, packages=fake[0], table=fake[1], edition=SECOND)
    return out


def test_every_thing_of_the_tables_is_an_emoji_within_the_canvas() -> None:
    assert len(compositions()) >= 12
    assert len(idioms()) >= 40
    for name, one in compositions().items():
        assert one.over in ("first", "second"), name
        assert one.things, name
        assert all("{a}" in form for form in (*one.zh, *one.en)), name
        assert all(names(emoji, True) for emoji in one.things), name
        assert set(one.styles) <= set(SECOND.coloured), name
    for idiom in idioms().values():
        assert len(idiom.things) >= 2, idiom.name
        assert all(names(emoji, True) for emoji, _ in idiom.things), idiom.name
        assert all((idiom.literal, idiom.meant, idiom.en, idiom.en_meant)), idiom.name


def test_a_place_that_is_none_is_told_with_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"idiom": "画蛇添足", "things": "🐍@0.5,2.0,0.4"}]
    monkeypatch.setattr(compositions_module, "read_table", lambda package, name: rows)
    with pytest.raises(DataError, match=r"画蛇添足.*0\.5,2\.0,0\.4"):
        compositions_module.idioms.__wrapped__()


def test_relations_are_held_out_by_a_rule() -> None:
    faces = [hexcode(face) for face in ANIMAL_FACES]
    every = [(f, n, hexcode(t)) for f in faces for n, one in compositions().items() for t in one.things]
    held = [triple for triple in every if held_out_relation(*triple)]
    assert 0.05 < len(held) / len(every) < 0.12


@pytest.mark.slow
def test_canvases_are_larger_and_say_what_they_show(built: Path) -> None:
    found: dict[str, int] = {}
    for _, png, record in shards.read(built):
        labels = record["labels"]
        found[labels["type"]] = found.get(labels["type"], 0) + 1
        assert Image.open(io.BytesIO(png)).size == (256, 256)
        said = [caption["text"] for caption in record["captions"]]
        assert not any("{" in text for text in said)
        if labels["type"] == "composition":
            assert not held_out_relation(labels["kind"], labels["relation"], labels["kind2"])
            assert len(labels["boxes"]) == 2
        if labels["type"] == "idiom":
            assert any(IDIOM.name in text or IDIOM.literal in text for text in said)
            boxes = [box for some in labels["elements"].values() for box in some]
            assert len(boxes) == 2
            assert all(0 <= left < right <= 1 and 0 <= top < bottom <= 1 for left, top, right, bottom in boxes)
    assert set(found) == set(SECOND.shares)
    assert found["composition"] == round(300 * SECOND.shares["composition"])


def test_the_first_edition_has_no_label_of_the_second(fake: Fake, tmp_path: Path) -> None:
    build_artwork(tmp_path, 40, workers=1, packages=fake[0], table=fake[1], edition=FIRST)
    for _, png, record in shards.read(tmp_path):
        assert Image.open(io.BytesIO(png)).size == (128, 128)
        assert not {"idiom", "elements"} & record["labels"].keys()


def test_the_second_edition_has_styles_and_packages_besides() -> None:
    assert set(FIRST.drawn) < set(SECOND.drawn)
    assert {package.use for package in SECOND.packages} >= {"style vector", "style minimal", "style outlined"}


def test_an_idiom_is_laid_out_by_its_table() -> None:
    boxes = planned_boxes("守株待兔", "any")
    assert len(boxes[""]) == len(idioms()["守株待兔"].things)
