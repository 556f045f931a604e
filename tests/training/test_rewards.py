"""Rewards: what they give beside what gives the same another way, their gradients, and what they refuse."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from bimo.core.errors import DataError, RecipeError, TrainingError, WeightsError
from bimo.core.part import Part, dumps, loads
from bimo.curation.filters import ocr
from bimo.diffusion.system import System
from bimo.hub.registry import load
from bimo.models.clip.scoring import similarity
from bimo.training.objectives.online_rewards import pixels_of
from bimo.training.objectives.rewards import (
    AestheticReward,
    BackgroundReward,
    ClipReward,
    ColourfulReward,
    CustomReward,
    GlyphReward,
    Judges,
    Shown,
    WeightedRewards,
    names_of,
)
from bimo.xiaomo.recipe import xiaomo
from tests.parity.test_clip_families import TEXTS, alt, chinese, clip, images, saved

pytestmark = pytest.mark.slow

FONTS = ("/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc", "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc")
IDIOMS = ("守株待兔", "画蛇添足", "亡羊补牢", "刻舟求剑", "掩耳盗铃", "井底之蛙", "狐假虎威", "叶公好龙")


def font(size: int) -> ImageFont.FreeTypeFont:
    path = next((path for path in FONTS if Path(path).is_file()), None)
    if path is None:
        pytest.skip("no Chinese font here: apt install fonts-wqy-zenhei")
    return ImageFont.truetype(path, size)


def written(*lines: str, upright: bool = False) -> Image.Image:
    """Lines from top to bottom, or columns from right to left."""
    longest = max(map(len, lines))
    size = (56 * longest + 60, 64 * len(lines) + 60)
    made = Image.new("RGB", size[::-1] if upright else size, "white")
    pen = ImageDraw.Draw(made)
    for number, line in enumerate(lines):
        for place, character in enumerate(line):
            corner = (30 + 56 * place, 30 + 64 * number)
            if upright:
                corner = (made.width - 86 - 64 * number, 30 + 56 * place)
            pen.text(corner, character, font=font(48), fill="black")
    return made


def shown(*pairs: tuple[str, Image.Image], **labels: Any) -> Shown:
    pixels = torch.stack([pixels_of(picture) for _, picture in pairs])
    return Shown(pixels, [text for text, _ in pairs], [labels] * len(pairs))


def scores(reward: Part, given: Shown, judges: Judges | None = None) -> list[float]:
    return (judges or Judges()).scores(reward, given)["score"].tolist()


@pytest.mark.parametrize("upright", [False, True])
def test_glyphs_are_the_share_that_is_read(upright: bool) -> None:
    for idiom in IDIOMS:
        assert scores(GlyphReward(), shown((f"墙上写着「{idiom}」", written(idiom, upright=upright)))) == [1.0]
        wrong = idiom[:3] + "国"
        assert scores(GlyphReward(), shown((f"墙上写着“{idiom}”", written(wrong, upright=upright)))) == [0.75]
    both = ("白日依山尽", "黄河入海流")
    picture = written(*both, upright=upright)
    assert scores(GlyphReward(), shown((f"「{both[0]}」《{both[1]}》", picture))) == [1.0]


def test_glyphs_fall_with_what_is_spoilt() -> None:
    """The more of the strokes is gone, the less is read."""
    noise = random.Random(1)
    means: list[float] = []
    for gone in (0.0, 0.3, 0.6, 1.0):
        found: list[float] = []
        for idiom in IDIOMS:
            picture = written(idiom)
            pen = ImageDraw.Draw(picture)
            for place in range(4):
                if noise.random() < gone:
                    left = 30 + 56 * place
                    for _ in range(12):
                        x, y = noise.randrange(left, left + 48), noise.randrange(30, 80)
                        pen.line((x, y, x + noise.randrange(-20, 20), y + noise.randrange(-20, 20)), "black", 4)
            found += scores(GlyphReward(), shown((f"「{idiom}」", picture)))
        means.append(float(np.mean(found)))
    assert means[0] == 1.0
    assert means == sorted(means, reverse=True)
    assert means[-1] < 0.5


def test_glyphs_fold_width_and_script_and_read_labels() -> None:
    assert scores(GlyphReward(), shown(("招牌上写着「开门大吉」", written("開門大吉")))) == [1.0]
    assert scores(GlyphReward(), shown(("a sign “ＯＰＥＮ ２４”", written("OPEN24")))) == [1.0]
    assert scores(GlyphReward(label="inscription"), shown(("一张纸", written("守株待兔")), inscription="守株待兔")) == [
        1.0
    ]
    nothing = scores(GlyphReward(), shown(("一只猫", written("守株待兔"))))
    assert nothing[0] != nothing[0]
    assert scores(GlyphReward(), shown(("「守株待兔」", Image.new("RGB", (120, 120), "white")))) == [0.0]


def test_accuracy_counts_edits() -> None:
    def read(*texts: str) -> ocr.Reading:
        boxes = np.array([[[0, y], [1, y], [1, y + 0.1], [0, y + 0.1]] for y in range(len(texts))], np.float64)
        return ocr.Reading(boxes.reshape(-1, 4, 2), texts, (100, 100))

    assert ocr.accuracy("春眠不觉晓", read("春眠", "不觉晓")) == 1.0
    assert ocr.accuracy("春眠不觉晓", read("春眠", "觉晓")) == pytest.approx(0.8)
    assert ocr.accuracy("春眠，不觉晓！", read("春眠不觉晓")) == 1.0
    assert ocr.accuracy("福", read("祸从口出")) == 0.0  # never below nothing
    assert ocr.accuracy("福", read()) == 0.0
    assert ocr.accuracy("，。", read("福")) is None
    assert ocr.edit_distance("kitten", "sitting") == 3
    assert ocr.edit_distance("", "abc") == ocr.edit_distance("abc", "") == 3


@pytest.mark.parametrize("make", [clip, chinese, alt])
def test_similarity_is_the_scorers_cosine_and_has_a_gradient(make: Any, tmp_path: Path) -> None:
    saved(make, tmp_path / "clip")
    judges = Judges(load)
    square = [image.resize((16, 16)) for image in images()]  # as large as the tower sees: nothing is resized
    texts = TEXTS[: len(square)]
    pixels = torch.stack([pixels_of(image) for image in square]).requires_grad_()
    reward = ClipReward(scorer=str(tmp_path / "clip"))
    found = judges.scores(reward, Shown(pixels, texts))["score"]
    wanted = similarity(load(tmp_path / "clip"), texts, square).diagonal()
    assert torch.allclose(found, wanted, atol=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), pixels)
    assert gradient.abs().sum() > 0
    assert judges.system(str(tmp_path / "clip")) is judges.system(str(tmp_path / "clip"))


def test_a_head_of_beauty_over_a_clip(tmp_path: Path) -> None:
    saved(chinese, tmp_path / "clip")
    head = nn.Sequential(nn.Linear(12, 6), nn.Dropout(), nn.Linear(6, 1)).eval()
    torch.save(head.state_dict(), tmp_path / "head.pth")
    judges = Judges(load)
    square = [image.resize((16, 16)) for image in images()]
    pixels = torch.stack([pixels_of(image) for image in square]).requires_grad_()
    reward = AestheticReward(scorer=str(tmp_path / "clip"), head=str(tmp_path / "head.pth"))
    found = judges.scores(reward, Shown(pixels, ["x"] * 3))["score"]
    system = load(tmp_path / "clip")
    with torch.no_grad():
        seen = nn.functional.normalize(system.vision(system.vision.seen(square)), dim=1)
        wanted = head(seen)[:, 0]
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.autograd.grad(found.sum(), pixels)[0].abs().sum() > 0
    torch.save({"weight": torch.ones(1, 8), "bias": torch.ones(1)}, tmp_path / "narrow.pth")
    with pytest.raises(DataError, match="takes 8"):
        scores(
            AestheticReward(scorer=str(tmp_path / "clip"), head=str(tmp_path / "narrow.pth")),
            Shown(pixels, ["x"] * 3),
            judges,
        )
    with pytest.raises(WeightsError):
        scores(
            AestheticReward(scorer=str(tmp_path / "clip"), head=str(tmp_path / "none.pth")),
            Shown(pixels, ["x"] * 3),
            judges,
        )


def test_colours_by_no_weights() -> None:
    grey, red = Image.new("RGB", (64, 48), (90, 90, 90)), Image.new("RGB", (64, 48), (255, 0, 0))
    many = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    found = scores(ColourfulReward(), shown(("", grey), ("", red), ("", many)))
    assert found[0] < 0.01 < found[1] < found[2]
    # By hand: red less green of the second is 255 everywhere, yellow less blue 127.5.
    assert found[1] == pytest.approx(0.3 * (255**2 + 127.5**2) ** 0.5 / 100, abs=1e-3)
    framed = Image.new("RGB", (100, 100), (40, 80, 220))
    framed.paste((255, 255, 255), (8, 8, 92, 92))
    ground = BackgroundReward(colour=(40, 80, 220))
    assert scores(ground, shown(("", framed))) == pytest.approx([1.0], abs=1e-6)
    assert scores(ground, shown(("", Image.new("RGB", (100, 100), "white")))) == pytest.approx(
        [1 - (215 + 175 + 35) / 765], abs=1e-4
    )


def test_weighted_adds_up_and_passes_over_what_has_nothing_to_say() -> None:
    reward = WeightedRewards(
        parts=(
            (2.0, BackgroundReward(colour=(0, 0, 0))),
            (0.5, GlyphReward()),
            (1.0, BackgroundReward(colour=(255, 255, 255))),
        )
    )
    given = shown(("一只猫", Image.new("RGB", (64, 64), "white")), ("「福」", Image.new("RGB", (64, 64), "white")))
    found = Judges().scores(reward, given)
    assert (
        list(found)
        == ["score", "BackgroundReward 1", "GlyphReward", "BackgroundReward 2"]
        == ["score", *names_of(reward)]
    )
    assert found["score"].tolist() == [1.0, 1.0]
    assert found["GlyphReward"].isnan().tolist() == [True, False]
    assert not reward.differentiable
    assert loads(dumps(reward)) == reward
    silent = Judges().scores(WeightedRewards(parts=((1.0, GlyphReward()),)), given)["score"]
    assert silent.isnan().tolist() == [True, False]
    with pytest.raises(RecipeError, match="no rewards"):
        WeightedRewards(parts=())


def test_ones_own_function_and_what_is_none(tiny_folder: Path) -> None:
    given = shown(("红", Image.new("RGB", (8, 8), "red")), ("蓝", Image.new("RGB", (8, 8), "blue")))
    judges = Judges(own={"red": lambda shown: shown.pixels[:, 0].mean((1, 2)), "bad": lambda shown: 1.0})
    assert scores(CustomReward(name="red"), given, judges) == pytest.approx([1.0, -1.0])
    with pytest.raises(TrainingError, match="one number a drawing"):
        scores(CustomReward(name="bad"), given, judges)
    with pytest.raises(RecipeError, match="did you mean red"):
        scores(CustomReward(name="reed"), given, judges)
    with pytest.raises(RecipeError, match="is no reward"):
        scores(xiaomo, given, judges)
    with pytest.raises(TrainingError, match="nothing says how it is opened"):
        scores(ClipReward(scorer="taiyi-clip"), given)
    with pytest.raises(RecipeError, match="no image encoder"):
        scores(ClipReward(scorer="painter"), given, Judges(lambda name: System.read(tiny_folder)))
