"""The parts of the small model: its words, its autoencoder, the pose of its first level."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from bimo.core.errors import RequestError, WeightsError
from bimo.core.request import Request
from bimo.core.tensors import Batch, Conditioning, TextEncoding
from bimo.diffusion.conditioner import Drawing
from bimo.diffusion.system import System
from bimo.models.text_encoders.bert import Bert, BertTextEncoder
from bimo.xiaomo.artwork.compose import Pose as Posed
from bimo.xiaomo.artwork.compose import apply_pose
from bimo.xiaomo.autoencoder import Compact
from bimo.xiaomo.conditioners import POSE_AT_REST, Pose
from bimo.xiaomo.first_level import REACH, SMALLEST, Expected, Layers, moved, place_layer
from tests.support.drawing import draw

pytestmark = pytest.mark.slow

WORDS = Bert(
    width=16, layers=1, heads=2, feed=32, vocab=200, positions=16, types=1, length=12, masked=True, pooler=False,
    pool="mean", project=8, words="lexicon", dropout=0.0,
)  # fmt: skip
KNOWN = ("红苹果", "苹果", "猫", "一只", "的", "和", "大熊猫", "cat", "apple")


@pytest.fixture(scope="module")
def tower() -> BertTextEncoder:
    made = WORDS.build().eval()
    made.build_tokenizer(("一只红苹果和猫", "a cat, an apple"), KNOWN)
    return made


def test_the_longest_known_word_is_one_token(tower: BertTextEncoder) -> None:
    assert tower.tokenizer.encode("一只红苹果").tokens == ["[CLS]", "一只", "红苹果", "[SEP]"]


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("一只红苹果和猫", ()),
        ("一隻紅蘋果和貓", ()),
        ("ＡＰＰＬＥ、cat", ()),
        ("穿着宇航服的猫", ("穿着宇航服",)),
        ("a dinosaur", ("dinosaur",)),
        ("一只𪚥", ("𪚥",)),
        ("cats", ("cats",)),
    ],
)
def test_words_never_learnt_are_named(tower: BertTextEncoder, text: str, unknown: tuple[str, ...]) -> None:
    assert tower.budget(text).unknown == unknown


def test_what_is_past_the_length_is_reported(tower: BertTextEncoder) -> None:
    budget = tower.budget("猫" * 15)
    assert (budget.used, budget.limit, budget.lost) == (17, 12, "猫" * 5)
    assert budget.warnings()


@given(st.lists(st.sampled_from([*KNOWN, "𪚥", "dog", ","]), max_size=9))
def test_a_text_is_read_alike_whatever_stands_beside_it(words: list[str]) -> None:
    tower = _tower()
    text = " ".join(words)
    with torch.inference_mode():
        alone = tower.encode([text])
        among = tower.encode(["一只 猫 和 苹果 的 猫 和 猫 和 猫", text])
    assert alone.pooled is not None
    assert among.pooled is not None
    torch.testing.assert_close(alone.pooled[0], among.pooled[1], atol=1e-5, rtol=1e-4)


_made: list[BertTextEncoder] = []


def _tower() -> BertTextEncoder:
    if not _made:
        made = WORDS.build().eval()
        made.build_tokenizer(("一只红苹果和猫", "a cat, an apple"), KNOWN)
        _made.append(made)
    return _made[0]


def test_words_come_back_from_their_folder(tower: BertTextEncoder, tmp_path: Path) -> None:
    tower.save_tokenizer(tmp_path)
    back = WORDS.build()
    back.load_tokenizer(tmp_path)
    assert back.known == tower.known
    assert torch.equal(back.ids(["一只红苹果"])[0], tower.ids(["一只红苹果"])[0])
    (tmp_path / "tokenizer.json").write_text("{", "utf-8")
    with pytest.raises(WeightsError):
        back.load_tokenizer(tmp_path)


def test_too_many_known_words_for_the_vocabulary() -> None:
    made = WORDS.build()
    with pytest.raises(WeightsError, match="vocab"):
        made.build_tokenizer((), [chr(0x4E00 + i) for i in range(300)])


def test_latents_are_an_eighth_and_decode_to_the_size() -> None:
    space = Compact().tiny().build().eval()
    x = space.encode(torch.zeros(2, 3, 64, 96))
    assert x.shape == (2, 8, 8, 12)
    assert space.decode(x).shape == (2, 3, 64, 96)
    assert space.factor == 8


def test_latents_of_a_deep_one_are_a_sixteenth() -> None:
    space = Compact(channels=16, deep=64).tiny().build().eval()
    x = space.encode(torch.zeros(2, 3, 64, 96))
    assert x.shape == (2, 16, 4, 6)
    assert (space.factor, space.shape((96, 64))) == (16, (16, 4, 6))
    assert space.decode(x).shape == (2, 3, 64, 96)


def test_a_deep_one_learns_to_reconstruct() -> None:
    torch.manual_seed(0)
    space = Compact(channels=4, deep=16, fine=16, coarse=16, decoder=16, blocks=1).build().train()
    pixels = torch.nn.functional.interpolate(torch.randn(1, 3, 2, 2).tanh(), size=(32, 32))
    fit = torch.optim.Adam(space.parameters(), 5e-3)
    losses = []
    for _ in range(60):
        loss = (space.reconstruct(pixels, torch.zeros(1, *space.shape((32, 32)))) - pixels).square().mean()
        fit.zero_grad()
        loss.backward()
        fit.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


@pytest.mark.parametrize(
    "pose", [(0, 1, 0, 0, 0), (1, 1, 0, 0, 0), (0, 0.8, 0.1, -0.05, 0), (0, 1, 0, 0, 30), (1, 0.9, 0.05, 0.1, -20)]
)
def test_features_move_as_pictures_do(pose: tuple[float, ...]) -> None:
    image = Image.new("RGBA", (128, 128), (0, 0, 0, 255))
    pen = ImageDraw.Draw(image)
    pen.ellipse((40, 30, 90, 70), fill=(255, 255, 255, 255))
    pen.rectangle((60, 60, 80, 95), fill=(128, 128, 128, 255))
    flip, scale, dx, dy, angle = pose
    wanted = np.asarray(apply_pose(image, Posed(int(flip), scale, dx, dy, angle)).convert("L"), np.float32)
    maps = torch.tensor(np.asarray(image.convert("L"), np.float32))[None, None]
    found = moved(maps, torch.tensor([pose], dtype=torch.float32))[0, 0].numpy()
    assert np.abs(found - wanted).mean() < 1.5


def drawing(seed: int, conditioners: dict[str, list[float]] | None = None) -> Drawing:
    request = Request(text="猫", seed=seed, conditions=conditioners or {})
    source = torch.Generator().manual_seed(seed)
    return Drawing(request, source, (), source)


def pose_of(conditioner: Pose, drawn: Drawing) -> list[float]:
    value: Conditioning = conditioner.from_request(cast(System, None), drawn, (1, 1, 1))
    return value.scalars["pose"][0].tolist()


def test_a_pose_comes_from_the_seed_or_the_request() -> None:
    conditioner = Pose()
    assert pose_of(conditioner, drawing(1)) == pose_of(conditioner, drawing(1)) != pose_of(conditioner, drawing(2))
    assert pose_of(conditioner, drawing(1, {"pose": list(POSE_AT_REST)})) == list(POSE_AT_REST)
    for wrong in ([1.0], [0, 0.0, 0, 0, 0], [0, float("nan"), 0, 0, 0]):
        with pytest.raises(RequestError):
            conditioner.from_request(cast(System, None), drawing(1, {"pose": wrong}), (1, 1, 1))


def test_a_pose_that_is_not_declared_is_at_rest() -> None:
    batch = Batch(torch.zeros(2, 1, 1, 1), (), {}, torch.zeros(2, dtype=torch.bool), torch.Generator())
    assert Pose().from_batch(cast(System, None), batch).scalars["pose"].tolist() == [list(POSE_AT_REST)] * 2
    declared = [1.0, 0.5, 0.25, 0.0, 2.0]
    batch = replace(batch, scalars={"pose": torch.tensor([[float("nan")] * 5, declared])})
    assert Pose().from_batch(cast(System, None), batch).scalars["pose"].tolist() == [list(POSE_AT_REST), declared]


def test_two_seeds_give_two_pictures_and_a_seed_one(tiny_folder: Path) -> None:
    system = System.read(tiny_folder)
    first, second = draw(system, "红苹果", seed=1, steps=2, count=2)
    assert first.image.tobytes() != second.image.tobytes()
    again = draw(system, "红苹果", seed=2, steps=2)[0]
    assert again.png() == second.png()


def test_things_stand_where_their_place_and_the_pose_put_them() -> None:
    image = Image.new("RGBA", (128, 128), (0, 0, 0, 255))
    ImageDraw.Draw(image).polygon([(40, 40), (90, 60), (50, 95)], fill=(255, 255, 255, 255))
    maps = torch.tensor(np.asarray(image.convert("L"), np.float32))[None, None]
    all_of_it = torch.ones_like(maps)
    turned = torch.tensor([[1.0, 0.9, 0.05, 0.1, -20.0]])
    whole, _ = place_layer(maps, all_of_it, turned, torch.tensor([[1.0, 0.0, 0.0]]))
    torch.testing.assert_close(whole, moved(maps, turned))
    # A flip turns a thing about but leaves it at its place: half as large, its middle a quarter left of the middle.
    flipped = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0]])
    found, seen = place_layer(maps, all_of_it, flipped, torch.tensor([[0.5, -0.5, 0.0]]))
    mirrored = apply_pose(image, Posed(1, 0.5, -0.25, 0.0, 0.0))
    assert np.abs(found[0, 0].numpy() - np.asarray(mirrored.convert("L"), np.float32)).mean() < 1.5
    assert seen[0, 0, 64, 32] == 1
    assert seen[0, 0, 64, 80:].abs().max() == 0


def test_layers_begin_hardly_seen_and_read_the_words_that_they_pick() -> None:
    torch.manual_seed(0)
    part = Expected(channels=2, size=8, text=16, vector=8, queries=2, width=16, blocks=1, maps=8, moved=4, things=2)
    module = part.build()
    tokens, mask = torch.randn(1, 5, 16), torch.tensor([[True, True, True, True, False]])

    def answer(tokens: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            given = Conditioning((TextEncoding(tokens, mask),), None)
            return module(torch.zeros(1, 2, 8, 8), torch.ones(1), given)

    other = tokens.clone()
    other[:, 4] = 9.0
    assert torch.equal(answer(tokens), answer(other))
    layers = module.layers
    assert layers is not None
    with torch.no_grad():
        before = answer(tokens)
        begin = layers.place[-1].bias.view(2, 4)
        begin[:, 3] = -40.0
        none = answer(tokens)
        assert 0 < (before - none).abs().max() < 0.5 * none.std()
        # All that is seen is the first thing, of the first word alone, over the whole canvas.
        begin[:] = torch.tensor([[40.0, 0.0, 0.0, 40.0], [0.0, 0.0, 0.0, -40.0]])
        layers.picked = lambda tokens, mean: torch.tensor([[[0.0, -40.0]] + [[-40.0, 0.0]] * 4])
    others = tokens.clone()
    others[:, 1:4] = 0.0
    torch.testing.assert_close(answer(tokens), answer(others), atol=1e-4, rtol=0)


def test_layers_contend_for_words_and_stay_on_the_canvas() -> None:
    torch.manual_seed(0)
    layers = Layers(Expected(text=16, width=16, things=2), read=48)
    tokens = torch.randn(3, 5, 16)
    picked = layers.picked(tokens, tokens.mean(1)).exp()
    assert picked.max() < 1
    # A word that a layer reads whole is hardly read by the other, unless both share it.
    last = layers.pick[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([9.0, 0.0, 0.0]))
        own = layers.picked(tokens, tokens.mean(1)).exp()
        last.bias.copy_(torch.tensor([0.0, 0.0, 9.0]))
        shared = layers.picked(tokens, tokens.mean(1)).exp()
    assert own[..., 0].min() > 0.99
    assert own[..., 1].max() < 0.01
    assert shared.min() > 0.99
    with torch.no_grad():
        for number in layers.place.parameters():
            number.mul_(100.0)
        places, _ = layers.stand(100 * torch.randn(3, 48))
        side_by_side, _ = Layers(Expected(text=16, width=16, things=6), read=48).stand(torch.randn(1, 48))
    assert (side_by_side[0, 1:, 1] > side_by_side[0, :-1, 1]).all()
    assert places[..., 0].min() >= SMALLEST
    assert places[..., 0].max() <= 1
    assert places[..., 1:].abs().max() <= REACH
