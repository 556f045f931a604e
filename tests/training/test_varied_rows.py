"""Captions and pictures that vary from step to step: what comes of them, what stays as it is, what is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bimo.core.errors import BimoError, RecipeError
from bimo.core.recipe import Recipe, Stage
from bimo.core.stage_data import Augmentation, CaptionEdits
from bimo.data.augment import varied
from bimo.data.loader import Pictures
from bimo.training.caption_edits import edited
from bimo.training.objectives.denoise import Denoise
from bimo.training.objectives.draft import DRaFT
from bimo.training.objectives.rewards import ColourfulReward
from bimo.training.train_loader import _repeated
from bimo.training.trainer import train
from bimo.training.unvaried import SPOKEN
from bimo.xiaomo.recipe import xiaomo

TAGS = "一只猫, 红色，毛茸茸、窗边"


def test_tags_change_places_and_their_marks_do_not() -> None:
    edits = CaptionEdits(shuffle=True, keep_tokens=1)
    found = {edited(TAGS, edits, seed) for seed in range(40)}
    assert len(found) == 6  # every order of the last three
    assert all(caption.startswith("一只猫, ") for caption in found)
    assert {tuple(c for c in caption if c in ",，、") for caption in found} == {(",", "，", "、")}
    assert all(sorted(caption.replace(" ", "")) == sorted(TAGS.replace(" ", "")) for caption in found)
    assert edited(TAGS, edits, 7) == edited(TAGS, edits, 7)


def test_tags_are_left_out_as_often_as_is_said() -> None:
    edits = CaptionEdits(tag_dropout=0.3, keep_tokens=1)
    kept = Counter(tag for seed in range(2000) for tag in ("猫", "红", "毛", "窗") if tag in edited(TAGS, edits, seed))
    assert kept["猫"] == 2000
    assert all(kept[tag] / 2000 == pytest.approx(0.7, abs=0.04) for tag in "红毛窗")
    alone = edited("a, b", CaptionEdits(tag_dropout=0.99, keep_tokens=1), 3)
    assert alone == "a"  # no mark is left over


@pytest.mark.parametrize(
    ("caption", "trigger", "wanted"),
    [
        ("一只猫", "墨风", "墨风，一只猫"),
        ("a cat, red", "ohwx", "ohwx, a cat, red"),
        ("a cat", "ohwx", "ohwx, a cat"),
        ("猫、狗", "墨风", "墨风、猫、狗"),
        ("墨风的猫", "墨风", "墨风的猫"),
        ("", "墨风", "墨风"),
    ],
)
def test_a_trigger_stands_before(caption: str, trigger: str, wanted: str) -> None:
    assert edited(caption, CaptionEdits(trigger=trigger), 0) == wanted


def test_variants_of_a_picture_are_turned_and_coloured() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(40, 200, (6, 8, 3), np.uint8))
    pixels = np.asarray(picture)
    flip = Augmentation(flip=True)
    assert np.array_equal(np.asarray(varied(picture, flip, "x", 0)), pixels)
    assert np.array_equal(np.asarray(varied(picture, flip, "x", 1)), pixels[:, ::-1])
    for name in ("brightness", "contrast", "saturation", "hue"):
        colours = Augmentation(**{name: 0.4, "variants": 8})
        found = [np.asarray(varied(picture, colours, "x", at)) for at in range(8)]
        assert np.array_equal(found[0], pixels)
        assert len({each.tobytes() for each in found}) >= 7, name
        assert np.array_equal(np.asarray(varied(picture, colours, "x", 3)), found[3])
    bright = [
        np.asarray(varied(picture, Augmentation(brightness=0.4, variants=8), str(i), 1)).mean() for i in range(40)
    ]
    assert 0.6 * pixels.mean() - 1 <= min(bright) < 0.75 * pixels.mean()
    assert 1.25 * pixels.mean() < max(bright) <= 1.4 * pixels.mean() + 1


def test_maps_turn_with_their_pictures_and_what_is_to_stay_stays(tiny_shards: Path) -> None:
    pictures = Pictures(tiny_shards)
    stays = np.zeros(len(pictures), np.bool_)
    stays[1] = True
    plain = pictures.fitted((64, 64))
    fitted = pictures.fitted((64, 64), augment=Augmentation(flip=True), unvaried=stays)
    count = len(pictures)
    assert len(fitted.sizes) == 2 * count
    assert fitted.digest != plain.digest
    assert torch.equal(fitted.pixels([count]), plain.pixels([0]).flip(3))
    assert torch.equal(fitted.pixels([count + 1]), plain.pixels([1]))
    assert fitted.size_ids([count]).tolist() == plain.size_ids([0]).tolist()
    assert fitted.variant_of(count + 1) == (1, 0)


@pytest.mark.parametrize(
    ("caption", "stays"),
    [
        ("墙上写着福", True),
        ("左边是一只猫", True),
        ("一个女孩", True),
        ("a portrait", True),
        ("a humane society", False),
        ("一盘红烧肉", False),
    ],
)
def test_what_captions_say_of_pictures_that_are_not_varied(caption: str, stays: bool) -> None:
    assert bool(SPOKEN.search(caption)) == stays


def test_rows_are_repeated_by_their_folder(tiny_shards: Path) -> None:
    pictures = Pictures(tiny_shards)
    name = tiny_shards.name
    groups = list(pictures.groups)[:4]
    key = pictures.keys[groups[2][0]]
    made = _repeated(pictures, groups, ((f"{name}/*", 2), (f"{name}/{key}", 0)))
    assert Counter(made) == {groups[0]: 2, groups[1]: 2, groups[3]: 2}
    with pytest.raises(RecipeError, match="matches no row"):
        _repeated(pictures, groups, (("10_cat/*", 10),))
    with pytest.raises(RecipeError, match="nothing to learn"):
        _repeated(pictures, groups, (("*", 0),))


def recipe(**fields: Any) -> Recipe:
    stage = Stage(name="s", objective=Denoise(), level="image", train=("image.denoiser.*.to_q.*",), steps=1, batch=4)
    return replace(xiaomo.tiny(), stages=(replace(stage, max_unknown=1.0, **fields),), prompts=())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": DRaFT(reward=ColourfulReward()), "captions": CaptionEdits(shuffle=True)}, "captions do nothing"),
        ({"objective": DRaFT(reward=ColourfulReward()), "repeats": (("*", 2),)}, "repeats do nothing"),
        ({"augment": Augmentation(flip=True)}, "where things are in its pictures"),
    ],
)
def test_where_nothing_would_come_of_it_it_is_refused(
    tiny_shards: Path, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(BimoError, match=message):
        train(recipe(**fields), tiny_shards, tmp_path / "run", threads=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CaptionEdits(tag_dropout=1.0), "tag_dropout"),
        (lambda: CaptionEdits(keep_tokens=2), "does nothing"),
        (lambda: Augmentation(hue=0.7), "hue"),
        (lambda: Augmentation(flip=True, variants=1), "variants"),
        (lambda: recipe(repeats=(("*", -1),)), "counts from 0"),
    ],
)
def test_invalid_values_are_refused(make: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make()
