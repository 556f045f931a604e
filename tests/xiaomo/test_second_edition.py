"""The second edition's parts: boxes as maps, a content and its look, the hourglass; and its recipe from end to end."""

from __future__ import annotations

import io
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from bimo import load
from bimo.core import checkpoint_io
from bimo.core.errors import RequestError
from bimo.core.request import Request
from bimo.core.tensors import Batch, Conditioning, TextEncoding
from bimo.diffusion.conditioner import Drawing
from bimo.diffusion.system import System
from bimo.training.objectives.reconstruct import Reconstruct
from bimo.training.train_inputs import vocabulary
from bimo.training.trainer import train
from bimo.xiaomo.autoencoder import Compact
from bimo.xiaomo.build import build_scenes, plan, sample
from bimo.xiaomo.conditioners import POSE_AT_REST, Pose
from bimo.xiaomo.first_level import Expected
from bimo.xiaomo.hourglass import Hourglass
from bimo.xiaomo.layout_condition import LayoutBoxes
from bimo.xiaomo.scenes.planning import planned_boxes
from bimo.xiaomo.second_edition import xiaomo_2
from bimo.xiaomo.style_operator import Restyled, RestyledDenoiser
from tests.support.drawing import draw

pytestmark = pytest.mark.slow

BOXES = LayoutBoxes(elements=("moon", "bridge"))
NOBODY = cast(System, None)


def drawing(text: str, seed: int = 1, **conditions: list[float]) -> Drawing:
    request = Request(text=text, conditions=conditions)
    return Drawing(request, torch.Generator().manual_seed(seed), (), torch.Generator())


def batch(rows: list[dict[str, Any]], seed: int = 0) -> Batch:
    gone = torch.zeros(len(rows), dtype=torch.bool)
    return Batch(torch.zeros(len(rows), 4, 8, 8), (), {}, gone, torch.Generator().manual_seed(seed), labels=rows)


@pytest.mark.parametrize(
    ("text", "at_rest"),
    [
        ("小桥流水人家，水彩", True),
        ("宫保鸡丁", True),
        ("举头望明月，低头思故乡", True),
        ("守株待兔", False),
        ("红苹果", False),
    ],
)
def test_a_scene_has_no_pose_as_in_its_data(text: str, at_rest: bool) -> None:
    pose = Pose(scenes_at_rest=True)
    assert (pose.from_request(NOBODY, drawing(text), (1,)).scalars["pose"].tolist() == [list(POSE_AT_REST)]) is at_rest
    own = [0.0, 0.9, 0.0, 0.0, 3.0]
    assert pose.from_request(NOBODY, drawing(text, pose=own), (1,)).scalars["pose"][0].tolist() == pytest.approx(own)
    assert Pose().from_request(NOBODY, drawing(text), (1,)).scalars["pose"].tolist() != [list(POSE_AT_REST)]


def test_a_box_covers_its_share_of_each_place() -> None:
    maps = BOXES.covered({"moon": [[0.0, 0.0, 0.25, 0.125]], "pine": [[0.5, 0.5, 1.0, 1.0]]}, (4, 4))
    assert maps.shape == (4, 4, 4)
    assert maps[0, 0, 0] == pytest.approx(0.5)
    assert float(maps[0].sum()) == pytest.approx(0.5)
    assert float(maps[1].sum()) == 0
    assert torch.equal(maps[2, 2:, 2:], torch.ones(2, 2))  # a pine is another element
    assert bool((maps[3] == 1).all())
    assert not bool(BOXES.covered({}, (4, 4)).any())


def test_boxes_of_the_data_are_told_and_left_out_alike_to_every_level() -> None:
    rows: list[dict[str, Any]] = [{"elements": {"moon": [[0, 0, 1, 1]]}}] * 40 + [{"kind": "1f34e"}]
    one, two = (BOXES.from_batch(NOBODY, batch(rows)).spatial for _ in range(2))
    assert one is not None
    assert two is not None
    assert torch.equal(one, two)
    told = one[:40, 3, 0, 0]
    assert 0 < float(told.sum()) < 40
    assert not bool(one[40].any())
    other = BOXES.from_batch(NOBODY, batch(rows, 5)).spatial
    assert other is not None
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("小桥流水人家，水彩", {"bridge", "stream", "houses"}),
        ("明月松间照，清泉石上流", {"moon", "pine", "spring", "rock"}),
        ("a stone bridge over a river", {"bridge"}),
        ("鱼香肉丝", {"圆盘", "肉丝"}),
        # A piece of country alone is a scene; a thing is none, nor is what stands beside another.
        ("秋天的银杏，油画", {"ginkgo"}),
        ("a lake in the mist", {"water", "mist"}),
        ("田野", {"field"}),
        ("桥上的汽车", set()),
        ("红苹果", set()),
        ("月亮", set()),
    ],
)
def test_a_prompt_is_laid_out_by_its_words(text: str, there: set[str]) -> None:
    boxes = planned_boxes(text, "one")
    assert boxes.keys() >= there
    assert bool(boxes) == bool(there)
    assert "鱼片" not in boxes
    if there:
        assert boxes == planned_boxes(text, "one") != planned_boxes(text, "two")


def test_a_request_may_say_where_things_stand() -> None:
    shape = (4, 8, 8)
    own = BOXES.from_request(NOBODY, drawing("小桥流水人家", boxes=[1, 0.0, 0.0, 0.5, 0.5]), shape).spatial
    assert own is not None
    assert float(own[0, 1].sum()) == 16
    assert float(own[0, 0].sum()) == 0
    seeds = [BOXES.from_request(NOBODY, drawing("小桥流水人家", seed), shape).spatial for seed in (1, 1, 2)]
    assert torch.equal(cast(Any, seeds[0]), cast(Any, seeds[1]))
    assert not torch.equal(cast(Any, seeds[0]), cast(Any, seeds[2]))
    for wrong in (
        [1.0, 0, 0, 1],
        [3.0, 0, 0, 1, 1],
        [0.5, 0, 0, 1, 1],
        [0.0, 1, 0, 0, 1],
        [0.0, float("nan"), 0, 1, 1],
    ):
        with pytest.raises(RequestError, match="a box is 5 numbers"):
            BOXES.from_request(NOBODY, drawing("x", boxes=wrong), shape)


def test_a_label_may_be_several_things() -> None:
    rows: list[dict[str, Any]] = [
        {"elements": {"moon": [[0, 0, 1, 1]], "pine": []}, "pose": [0.0, 1.0]},
        {"elements": {"moon": []}, "named": ["bridge", "moon"]},
        {"kind": "1f34e"},
    ]
    known = vocabulary(rows)
    assert known.values == {"elements": ("moon", "pine"), "named": ("bridge", "moon"), "kind": ("1f34e",)}
    assert known.members("elements", rows).tolist() == [[1, 1], [1, 0], [0, 0]]
    assert known.members("named", rows).tolist() == [[0, 0], [1, 1], [0, 0]]


@pytest.mark.parametrize(("change", "seen"), [((0.2, 0.2, 0.2), False), ((0.2, -0.2, 0.0), True), ((0, 0, 0.3), True)])
def test_colours_are_weighed_apart_from_light_and_dark(change: tuple[float, ...], seen: bool) -> None:
    pixels = torch.zeros(2, 3, 16, 16)

    class Space:
        @staticmethod
        def shape(size: tuple[int, int]) -> tuple[int, ...]:
            return 4, size[1] // 8, size[0] // 8

        @staticmethod
        def reconstruct(pixels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            return pixels + torch.tensor(change)[None, :, None, None]

    inputs = SimpleNamespace(
        pixels=pixels,
        generator=torch.Generator(),
        total_rows=2,
        own=lambda x: x,
        system=SimpleNamespace(space=lambda _: Space),
    )
    plain, coloured = (Reconstruct(level="image", chroma=c).loss(cast(Any, inputs)) for c in (0.0, 1.0))
    assert bool(coloured > plain + 0.05) == seen
    scaled = Reconstruct(level="image", scales=(2, 4)).loss(cast(Any, inputs))
    assert scaled > plain


def told(rows: int = 2, spatial: int = 0, side: int = 8) -> Conditioning:
    torch.manual_seed(3)
    mask = torch.ones(rows, 5, dtype=torch.bool)
    mask[0, 3:] = False
    stream = TextEncoding(torch.randn(rows, 5, 16), mask)
    boxes = torch.rand(rows, spatial, side, side) if spatial else None
    return Conditioning((stream,), None, boxes, {"pose": torch.tensor([[0.0, 1, 0, 0, 0]] * rows)})


def test_an_operator_begins_as_nothing_and_reads_no_padding() -> None:
    part = Restyled(content=Expected(channels=4, text=16, maps=8, moved=4, pose="pose", things=2, spatial=3)).tiny()
    part = replace(part, content=replace(part.content, size=8))
    torch.manual_seed(0)
    made: RestyledDenoiser = part.build()
    conditioning, x, t = told(spatial=3), torch.zeros(2, 4, 8, 8), torch.ones(2)
    content, answer = made.both(x, t, conditioning)
    assert torch.equal(content, answer)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    content, answer = made.both(x, t, conditioning)
    assert not torch.equal(content, answer)
    stream = conditioning.streams[0]
    other = stream.tokens.clone()
    other[0, 3:] += 9.0
    same = replace(conditioning, streams=(TextEncoding(other, stream.mask),))
    torch.testing.assert_close(made.both(x, t, same)[1], answer)
    # Boxes move what is there, words its look.
    moved = replace(conditioning, spatial=cast(Any, conditioning.spatial).flip(-1))
    assert not torch.equal(made.both(x, t, moved)[0], content)
    # Another size of x than it was made for.
    assert made(torch.zeros(2, 4, 6, 10), t, replace(told(), spatial=torch.rand(2, 3, 6, 10))).shape == (2, 4, 6, 10)


def test_an_hourglass_reads_words_time_pose_and_conditioners_but_no_padding() -> None:
    part = Hourglass(channels=4, spatial=3, text=16, scalars=(("pose", 5),)).tiny()
    torch.manual_seed(0)
    made = part.build()
    conditioning, x, t = told(spatial=3), torch.randn(2, 4, 8, 8), torch.tensor([100.0, 700.0])
    assert not bool(made(x, t, conditioning).any())  # it begins as what it refines
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    answer = made(x, t, conditioning)
    assert answer.shape == x.shape
    stream = conditioning.streams[0]
    other = stream.tokens.clone()
    other[0, 3:] += 9.0
    same = replace(conditioning, streams=(TextEncoding(other, stream.mask),))
    torch.testing.assert_close(made(x, t, same), answer)
    words = replace(conditioning, streams=(TextEncoding(stream.tokens + 1, stream.mask),))
    pose = replace(conditioning, scalars={"pose": conditioning.scalars["pose"] + 1})
    conditioners = replace(conditioning, spatial=cast(Any, conditioning.spatial) + 1)
    for changed in (made(x, t, words), made(x, t + 50, conditioning), made(x, t, pose), made(x, t, conditioners)):
        assert not torch.allclose(changed, answer, atol=1e-4)


def test_the_recipe_goes_through_all_its_stages_and_draws(tiny_shards: Path, tmp_path: Path) -> None:
    build_scenes(tmp_path / "scenes", 10, 128, workers=1)
    recipe = replace(xiaomo_2.tiny(), prompts=())
    recipe = replace(recipe, stages=tuple(replace(s, steps=2, max_unknown=1.0) for s in recipe.stages))
    data = (tmp_path / "scenes", tiny_shards)
    whole = train(recipe, data, tmp_path / "whole", threads=1)
    # Stopped after every step it ends in the same bytes.
    for _ in range(5):
        train(recipe, data, tmp_path / "parts", threads=1, stop_after=0.0)
    train(recipe, data, tmp_path / "parts", threads=1)
    states = [checkpoint_io.read(folder / "weights.safetensors") for folder in (whole, tmp_path / "parts")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    system = System.read(whole)
    words = cast(Any, system.text[0]).known
    assert {"小桥流水人家", "宫保鸡丁", "水墨画"} <= words
    one, two = (draw(system, Request(text="小桥流水人家", seed=seed, size=(128, 128), steps=2))[0] for seed in (1, 2))
    assert one.image.size == (128, 128)
    assert one.image.tobytes() != two.image.tobytes()


def test_the_trained_autoencoder_gives_pictures_back() -> None:
    """Of a scene, a dish and a verse that no set holds; a decoder of random weights has some 10 dB."""
    path = resources.files("bimo.xiaomo").joinpath("second/autoencoder.safetensors")
    state = {name.removeprefix("image.space."): value for name, value in checkpoint_io.read(Path(str(path))).items()}
    space = xiaomo_2.levels[-1].space
    assert isinstance(space, Compact)
    made = space.build().eval()
    made.load_state_dict(state)
    for one in plan(4, seed=77)[:4]:
        picture = Image.open(io.BytesIO(sample(one)[1])).convert("RGB")
        pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.inference_mode():
            error = (made.decode(made.encode(pixels)).clamp(-1, 1) - pixels).square().mean() / 4
        assert -10 * float(error.log10()) > 18


def test_the_bundled_weights_draw_what_is_asked() -> None:
    engine = load("xiaomo-2")
    assert engine.system.budgets("举头望明月，水墨画")[0].unknown == ()
    one, two = (engine.draw("小桥流水人家，水彩", seed=seed, steps=4)[0].image for seed in (1, 2))
    assert one.size == (256, 256)
    assert np.abs(np.asarray(one, dtype=int) - np.asarray(two, dtype=int)).mean() > 5
    for word, channel in (("红苹果", 0), ("蓝色的苹果", 2)):
        pixels = np.asarray(engine.draw(word, seed=1, steps=4)[0].image, dtype=int).reshape(-1, 3)
        thing = pixels[pixels.min(1) < 200]
        assert 0.1 < len(thing) / len(pixels) < 0.8
        others = [thing[:, other].mean() for other in range(3) if other != channel]
        assert thing[:, channel].mean() > max(others) + 40
