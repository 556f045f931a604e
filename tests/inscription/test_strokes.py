"""The judge of strokes: right characters pass on paper and blurred a little; wrong ones do not, though a reader reads
them.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from bimo.inscription.corruptions import Corruption, corrupted
from bimo.inscription.fonts import Face
from bimo.inscription.setting import glyph
from bimo.inscription.strokes import compare

TEXT = "飞流直下三千尺疑是银河落九天小桥流水人家红烧狮子头福禄寿喜龙凤鸟马鱼"
SIDE = 56


def on_paper(mask: np.ndarray, blur: float = 0.0, dark: bool = False) -> np.ndarray:
    """[S, S, 3]: ink on ground that changes over the square and has a grain."""
    chance = np.random.default_rng(int(mask.sum()))
    slope = np.linspace(-12, 12, len(mask))[:, None, None]
    ground = (40.0 if dark else 215.0) + slope + chance.normal(0, 4, (*mask.shape, 3))
    ink = np.array((240.0, 230, 210) if dark else (30.0, 25, 25))
    soft = ndimage.gaussian_filter(mask, blur)[..., None] if blur else mask[..., None]
    return np.clip(ground * (1 - soft) + ink * soft, 0, 255)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("blur", [0.0, 0.6])
def test_characters_that_were_set_are_right(faces: tuple[Face, ...], blur: float, dark: bool) -> None:
    right = [compare(on_paper(g, blur, dark), g).right for c in TEXT if (g := glyph(faces[0], c, SIDE)) is not None]
    assert np.mean(right) >= 0.95


@pytest.mark.parametrize("kind", list(Corruption))
def test_wrong_strokes_are_found(faces: tuple[Face, ...], kind: Corruption) -> None:
    chance = np.random.default_rng(1)
    wrong = [(c, corrupted(faces[0], c, TEXT, SIDE, kind, chance)) for c in TEXT]
    judged = [compare(on_paper(mask), glyph(faces[0], c, SIDE)).right for c, mask in wrong if mask is not None]
    assert len(judged) >= 25
    assert sum(judged) <= 1


def test_strokes_merged_by_blur_are_wrong(faces: tuple[Face, ...]) -> None:
    drawn = glyph(faces[0], "疆", SIDE)
    assert not compare(on_paper(drawn, blur=4.0), drawn).right


def test_another_character_and_bare_paper_are_not_right(faces: tuple[Face, ...]) -> None:
    drawn = glyph(faces[0], "末", SIDE)
    assert not compare(on_paper(glyph(faces[0], "未", SIDE)), drawn).right
    bare = compare(np.full((SIDE, SIDE, 3), 200.0), drawn)
    assert not bare.right
    assert bare.contrast < 1


def test_shapes_that_differ_are_an_error(faces: tuple[Face, ...]) -> None:
    with pytest.raises(ValueError, match="crop"):
        compare(np.zeros((8, 8)), glyph(faces[0], "一", 9))
