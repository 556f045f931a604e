"""Drawings redrawn in the look of another style, and what references are kept."""

from __future__ import annotations

import hashlib
import zipfile
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from bimo.xiaomo.artwork.drawings import Drawing, read, written
from bimo.xiaomo.artwork.held_out import ONE_IN, STYLES_AT_LEAST, hexcode
from bimo.xiaomo.artwork.lexicon import DEFAULT_STYLE, DRAWN, LATER
from bimo.xiaomo.artwork.looks import (
    LOOKS,
    WHITE,
    Look,
    colours_of,
    counterparts,
    inked,
    lab,
    palette,
    redrawn,
    soft,
    solid,
)
from bimo.xiaomo.artwork.places import Placed
from bimo.xiaomo.artwork.references import ARCHIVE, TABLE, has_references, kept_drawings, reference
from bimo.xiaomo.artwork.words_table import read_aliases, read_names

RED, PINK, BLUE = "#dd2e44", "#ea596e", "#3b88c3"
HOUSE = Drawing((0, 0, 32, 32), '<path fill="#ef4d3c" d="M4 4h24v24H4z"/><path fill="#222" d="M8 8h8v8H8z"/>')


def square(colour: str) -> Drawing:
    return Drawing((0, 0, 8, 8), f'<path fill="{colour}" d="M0 0h8v8H0z"/>')


def test_a_table_is_read_as_it_was_written() -> None:
    drawings = {"1f34e": square(RED), "1f3e0": HOUSE, "2600": Drawing((-1.5, 0, 36, 35), "<g/>")}
    assert read(written(drawings).splitlines()) == drawings


def test_colours_become_those_of_the_style_the_commoner_of_two_alike() -> None:
    common = palette([square(RED)] * 194 + [square(PINK)] * 67 + [square(BLUE)] * 74)
    assert RED in redrawn(HOUSE, Look(()), common).body
    rare = palette([square(RED)] * 2 + [square(PINK)] * 190 + [square(BLUE)] * 74)
    assert PINK in redrawn(HOUSE, Look(()), rare).body
    assert BLUE in redrawn(square("#2277bb"), Look(()), rare).body


def test_a_colour_becomes_its_counterpart_rather_than_what_is_near() -> None:
    skin, pale, red = (255, 220, 93), (255, 211, 182), (221, 46, 68)
    common = {(255, 212, 105): 72, pale: 15, red: 40}
    assert colours_of(redrawn(square("#ffdc5d"), Look(()), common)) == [(255, 212, 105)]
    assert colours_of(redrawn(square("#ffdc5d"), Look(()), common, {skin: pale})) == [pale]


def test_colours_that_can_be_told_apart_stay_so() -> None:
    common = {(237, 76, 92): 100, (255, 179, 0): 90, (62, 67, 71): 80}
    face = Drawing((0, 0, 8, 8), square("#ffcc4d").body + square("#f4900c").body + square("#ffcd4e").body)
    both = {(255, 204, 77): (237, 76, 92), (244, 144, 12): (237, 76, 92), (255, 205, 78): (237, 76, 92)}
    first, second = colours_of(redrawn(face, Look(()), common, both))
    assert (first, second) == ((237, 76, 92), (255, 179, 0))


def test_what_is_pale_does_not_turn_white() -> None:
    common = {(255, 255, 255): 352, (224, 224, 224): 54}
    assert colours_of(redrawn(square("#e1e8ed"), Look(()), common)) == [(224, 224, 224)]
    assert colours_of(redrawn(square("#fdfdfd"), Look(()), common)) == [(255, 255, 255)]
    changed = [pair for known in counterparts().values() for pair in known.items()]
    assert (255, 255, 255) in {other for _, other in changed}
    pale = [rgb for rgb, other in changed if other == (255, 255, 255)]
    assert (lab(np.array(pale))[:, 0] > WHITE).all()


def test_counterparts_are_colours_of_the_style() -> None:
    assert set(counterparts()) == {(s, b) for s, look in LOOKS.items() if not look.dark for b in look.bases}
    for (style, base), known in counterparts().items():
        assert set(known.values()) <= set(palette(kept_drawings(style).values())), style
        assert set(known) <= {rgb for each in kept_drawings(base).values() for rgb in colours_of(each)}, base
    # Skin is yellow in one set and pale in another; a smiling face is yellow in both.
    assert counterparts()["minimal", "twemoji"][255, 220, 93] == (255, 211, 182)
    assert counterparts()["vector", "twemoji"][255, 204, 77] == (255, 221, 103)


def test_ink_is_black_where_a_light_drawing_is_darker() -> None:
    hand = Drawing((0, 0, 8, 8), square("#ffc83d").body + '<path fill="#d67d00" d="M2 2h4v4H2z"/>')
    assert colours_of(redrawn(hand, Look((), dark=0.35), {})) == [(255, 255, 255)]
    assert colours_of(redrawn(hand, Look((), dark=0.35, darker=0.4), {})) == [(255, 255, 255), (0, 0, 0)]
    assert colours_of(redrawn(square("#d67d00"), Look((), dark=0.35, darker=0.4), {})) == [(255, 255, 255)]


def test_ink_is_black_where_the_drawing_is_dark_and_open_elsewhere() -> None:
    look = Look((), dark=0.35, outline=("#000", 0.1))
    drawn = redrawn(HOUSE, look, {})
    assert drawn.box == pytest.approx((-3.2, -3.2, 38.4, 38.4))
    alpha = np.asarray(inked(drawn.render(96)).getchannel("A"), np.int16)
    at = lambda x, y: alpha[round((y + 3.2) * 2.5), round((x + 3.2) * 2.5)]  # noqa: E731
    assert at(12, 12) == 255  # the window
    assert at(22, 22) == 0  # the wall
    assert at(28, 20) == 255  # its outline
    assert at(-2, -2) == 0


def test_a_shadow_lies_below() -> None:
    picture = redrawn(HOUSE, Look((), shadow=True), {(239, 77, 60): 1}).render(64)
    shadow = np.asarray(picture, np.int16)[-4, 32]
    assert 0 < shadow[3] < 60


def test_a_body_is_lit_from_above() -> None:
    flat = Image.new("RGBA", (64, 64))
    flat.paste((120, 120, 120, 255), (12, 12, 52, 52))
    shaded = np.asarray(solid(flat), np.int16)
    assert shaded[14, 30, 0] > 125
    assert shaded[49, 30, 0] < 112
    assert (shaded[..., 3] == np.asarray(flat)[..., 3]).all()
    softly = np.asarray(soft(flat), np.int16)
    assert 120 < softly[14, 30, 0] < shaded[14, 30, 0]
    assert shaded[49, 30, 0] < softly[49, 30, 0] < 120


@pytest.fixture(scope="module")
def kept() -> dict[str, set[str]]:
    """The kinds that there is a picture of in the archive, by style."""
    with zipfile.ZipFile(str(resources.files("bimo.xiaomo.artwork") / ARCHIVE)) as archive:
        names = set(archive.namelist())
        tables = {style: TABLE.format(style=style) for style in (*DRAWN, *LATER)}
        there = {
            style: set(read(archive.read(table).decode().splitlines())) if table in names else set[str]()
            for style, table in tables.items()
        }
    return {**there, DEFAULT_STYLE: {name[3:-5] for name in names if name.startswith("3d/")}}


def test_no_pair_that_is_held_out_is_kept(kept: dict[str, set[str]]) -> None:
    common = set(map(hexcode, read_aliases()))
    pairs = [(kind, style) for style, kinds in kept.items() for kind in kinds]
    assert len(pairs) > 7500
    for kind, style in pairs:
        digest = hashlib.sha256(f"{kind}:{style}".encode()).digest()
        if int.from_bytes(digest[:8], "big") % ONE_IN == 0 and not (style == DEFAULT_STYLE and kind in common):
            assert sum(kind in others for others in kept.values()) < STYLES_AT_LEAST, (kind, style)


def test_every_kind_is_drawn_in_every_style(kept: dict[str, set[str]]) -> None:
    coloured = [set(look.bases) for look in LOOKS.values()]
    for kind in map(hexcode, read_names()):
        styles = {style for style, kinds in kept.items() if kind in kinds}
        assert all(styles & ({style} | bases) for style, bases in zip(LOOKS, coloured, strict=True)), kind


def test_a_kind_without_a_picture_in_3d_has_references(kept: dict[str, set[str]]) -> None:
    flat_only = [kind for kind in map(hexcode, read_names()) if kind not in kept[DEFAULT_STYLE]]
    assert flat_only
    assert all(has_references((Placed(kind, "", (0.5, 0.5, 0.5)),)) for kind in flat_only)


@pytest.mark.parametrize("style", ["silhouette", "line"])
def test_what_is_not_kept_is_drawn_in_the_look_of_the_style(style: str, kept: dict[str, set[str]]) -> None:
    missing = sorted(set(map(hexcode, read_names())) - kept[style])[:3]
    assert missing
    for kind in missing:
        sprite = np.asarray(reference(kind, style, 64), np.int16)
        assert (sprite[sprite[..., 3] > 200][:, :3] < 40).all()
        assert 0.02 < (sprite[..., 3] > 128).mean() < 0.7


def test_a_style_has_its_own_picture_of_a_thing() -> None:
    pictures = {reference(hexcode("🚗"), style, 48).tobytes() for style in (DEFAULT_STYLE, *LOOKS)}
    assert len(pictures) == 1 + len(LOOKS)
    with pytest.raises(KeyError):
        reference("ffff", "line", 48)
