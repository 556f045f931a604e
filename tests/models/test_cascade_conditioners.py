"""Hints of cascades and compositions: what they give in training and drawing, against formulas and known colours."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from bimo.core.errors import RecipeError, RequestError, TrainingError
from bimo.core.part import dumps, loads
from bimo.core.recipe import Level, Recipe
from bimo.core.request import Request
from bimo.core.tensors import Batch, Conditioning
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.schedules.single_step import SingleStepRegression
from bimo.diffusion.system import System
from bimo.models.cascade.conditioners import LowRes, Score, Semantics
from bimo.models.composer.conditioners import Intensity, Map, Palette, Sketch, grey, lab, outlines
from bimo.models.pai_diffusion.esrgan import Esrgan
from bimo.models.spaces import ClipImage, Latent, Pixels

SIDE = 64


def picture(colour: tuple[int, int, int], count: int = 1) -> Tensor:
    """[count, 3, 64, 64] of one colour with a white square in it."""
    pixels = torch.tensor(colour, dtype=torch.float32)[None, :, None, None].expand(count, 3, SIDE, SIDE).clone()
    pixels[:, :, 16:32, 16:32] = 255.0
    return pixels / 127.5 - 1


def batch(x: Tensor, pixels: Tensor | None, seed: int = 0, **settings: Any) -> Batch:
    dropped = settings.pop("dropped", torch.zeros(len(x), dtype=torch.bool))
    generator = torch.Generator().manual_seed(seed)
    return Batch(x, (), settings.pop("scalars", {}), dropped, generator, pixels, **settings)


def drawing(**settings: Any) -> Any:
    empty: dict[str, Any] = {"pictures": {}, "results": {}, "generator": torch.Generator().manual_seed(0)}
    request = Request(text="红", conditions=settings.pop("conditions", {}))
    return SimpleNamespace(**(empty | settings), request=request)


def two_levels(**settings: Any) -> System:
    """A system of a level at a quarter of the side and one that enlarges it."""
    net = Esrgan().tiny()
    first = Level(name="small", space=settings.pop("space", Pixels(factor=4)), denoiser=net, schedule=Ddpm())
    last = Level(
        name="large",
        space=Pixels(),
        denoiser=net,
        schedule=SingleStepRegression(),
        conditioners=(LowRes(level="small"),),
    )
    return System(Recipe(name="two", levels=(first, last))).eval()


def test_the_smaller_picture_is_the_same_in_training_and_drawing() -> None:
    system = two_levels()
    pixels = picture((200, 30, 60))
    small = pixels.unfold(2, 4, 4).unfold(3, 4, 4).mean(dim=(4, 5))
    wanted = functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    conditioner = LowRes(level="small")
    learnt = conditioner.from_batch(system, batch(pixels, pixels))
    seen = conditioner.from_request(system, drawing(results={"small": small}), (3, SIDE, SIDE))
    assert learnt.spatial is not None
    assert seen.spatial is not None
    assert torch.allclose(learnt.spatial, wanted, atol=1e-5)
    assert torch.allclose(seen.spatial, wanted, atol=1e-5)
    assert not seen.scalars
    assert conditioner.unconditional(seen) == seen
    as_it_is = LowRes(level="small", resize="none").from_request(
        system, drawing(results={"small": 2 * small}), (3, 64, 64)
    )
    assert as_it_is.spatial is not None
    assert as_it_is.spatial.shape == (1, 3, 16, 16)
    assert float(as_it_is.spatial.max()) == 1.0
    with pytest.raises(TrainingError, match="reads pixels"):
        conditioner.from_batch(system, batch(pixels, None))


def test_noise_on_the_smaller_picture_is_reported() -> None:
    system = two_levels()
    pixels = picture((200, 30, 60), 32)
    conditioner = LowRes(level="small", resize="none", noise=0.5, noise_name="noise")
    learnt = conditioner.from_batch(system, batch(pixels, pixels))
    times = learnt.scalars["noise"][:, 0]
    assert 0 <= float(times.min()) < float(times.max()) < 500
    assert learnt.spatial is not None
    off = (learnt.spatial - functional.avg_pool2d(pixels, 4)).flatten(1).std(1)
    # The later the time, the further from the picture.
    assert float(torch.corrcoef(torch.stack([off, times]))[0, 1]) > 0.8
    seen = conditioner.from_request(system, drawing(results={"small": torch.zeros(1, 3, 16, 16)}), (3, SIDE, SIDE))
    assert torch.equal(seen.scalars["noise"], torch.zeros(1, 1))


@torch.no_grad()
def test_the_embedding_is_that_of_clips_own_preparation() -> None:
    from transformers import CLIPImageProcessor

    torch.manual_seed(0)
    space = ClipImage(embed=24, size=16, width=16, layers=1, heads=2, feed=32, patch=8).build().eval()
    smooth = functional.interpolate(torch.rand(1, 3, 4, 5), size=(48, 64), mode="bicubic").clamp(0, 1)
    image = Image.fromarray((smooth[0] * 255).round().byte().permute(1, 2, 0).numpy())
    prepared = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16)(image, return_tensors="pt")
    wanted = cast(Any, space.model(prepared["pixel_values"])).image_embeds[0]
    found = space.encode(smooth * 2 - 1)
    assert found.shape == (1, 24)
    assert float(found.norm()) == pytest.approx(math.sqrt(24))
    assert float(functional.cosine_similarity(found[0], wanted, dim=0)) > 0.999
    assert space.shape((1024, 512)) == (24,)
    with pytest.raises(RecipeError, match="cannot be decoded"):
        space.decode(found)


def test_an_earlier_embedding_or_that_of_a_given_picture() -> None:
    torch.manual_seed(0)
    system = two_levels(space=ClipImage().tiny())
    conditioner = Semantics(level="small")
    pixels = picture((200, 30, 60))
    own = system.space("small").encode(pixels)
    dreamt = torch.randn(1, 16)
    assert torch.equal(conditioner.from_batch(system, batch(pixels, pixels)).scalars["semantics"], own)
    assert torch.equal(
        conditioner.from_request(system, drawing(results={"small": dreamt}), ()).scalars["semantics"], dreamt
    )
    given = drawing(results={"small": dreamt}, pictures={"semantics": pixels})
    value = conditioner.from_request(system, given, ())
    assert torch.equal(value.scalars["semantics"], own)
    assert not conditioner.unconditional(value).scalars["semantics"].any()


def test_a_smaller_picture_in_latents() -> None:
    space = Latent(shrink=4).tiny().build()
    assert space.factor == 32
    assert space.shape((128, 64)) == (4, 2, 4)
    with torch.no_grad():
        x = space.encode(torch.zeros(1, 3, 64, 128))
        assert x.shape == (1, 4, 2, 4)
        assert space.decode(x).shape == (1, 3, 16, 32)
        pixels = torch.rand(1, 3, 64, 128) * 2 - 1
        whole = Latent().tiny().build()
        whole.load_state_dict(space.state_dict())
        assert torch.allclose(space.encode(pixels), whole.encode(functional.avg_pool2d(pixels, 4)))


def test_a_score_is_the_datas_or_what_is_wanted() -> None:
    conditioner = Score(wanted=0.9, low=0.1)
    x = torch.zeros(2, 3, 4, 4)
    dropped = torch.tensor([False, True])
    learnt = conditioner.from_batch(
        cast(Any, None), batch(x, None, scalars={"score": torch.tensor([0.7, 0.8])}, dropped=dropped)
    )
    assert torch.allclose(learnt.scalars["score"], torch.tensor([[0.7], [0.1]]))
    assert conditioner.from_request(cast(Any, None), drawing(), ()).scalars["score"].tolist() == [[pytest.approx(0.9)]]
    value = conditioner.from_request(cast(Any, None), drawing(conditions={"score": [0.5]}), ())
    assert value.scalars["score"].tolist() == [[0.5]]
    assert conditioner.unconditional(value).scalars["score"].tolist() == [[pytest.approx(0.1)]]
    with pytest.raises(RequestError, match="one number"):
        conditioner.from_request(cast(Any, None), drawing(conditions={"score": [0.5, 1.0]}), ())
    with pytest.raises(TrainingError, match="score every picture"):
        conditioner.from_batch(cast(Any, None), batch(x, None))


@pytest.mark.parametrize(
    ("colour", "wanted"),
    [
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((119, 119, 119), (50.03, 0.0, 0.0)),
    ],
)
def test_known_colours_in_cielab(colour: tuple[int, int, int], wanted: tuple[float, ...]) -> None:
    found = lab(torch.tensor(colour, dtype=torch.float32).reshape(1, 3, 1, 1) / 127.5 - 1)
    assert found.flatten().tolist() == pytest.approx(wanted, abs=0.1)


def test_a_palette_counts_every_colour_once_and_changes_smoothly() -> None:
    conditioner = Palette()
    red = conditioner.counted(picture((255, 0, 0)))
    assert red.shape == (1, 275)
    assert float(red.mean()) == pytest.approx(1.0, rel=1e-4)
    bins = red.reshape(11, 5, 5)
    # A sixteenth of the picture is white: no chroma, the lightest bin. Red lies at 40 degrees, over 100 of chroma.
    assert float(bins[:, 0, 4].sum()) == pytest.approx(275 / 16, rel=0.01)
    hue = math.atan2(67.2, 80.09) / (2 * math.pi) * 11
    assert float(bins[1, 4].sum()) == pytest.approx(275 * 15 / 16 * (1 - abs(hue - 1)), rel=0.02)
    near, far = conditioner.counted(picture((250, 4, 4))), conditioner.counted(picture((0, 0, 255)))
    assert float((red - near).abs().sum()) < 0.1 * float((red - far).abs().sum())
    # Where things lie does not matter.
    assert torch.allclose(conditioner.counted(picture((255, 0, 0)).flip(3)), red, atol=1e-4)
    assert not conditioner.from_request(cast(Any, None), drawing(), (3, 8, 8)).scalars["palette"].any()
    assert conditioner.tiny().counted(picture((9, 9, 9))).shape == (1, 16)


def test_outlines_follow_sobel() -> None:
    pixels = picture((40, 90, 200))
    light = grey(pixels)[0, 0].numpy()
    padded = numpy.pad(light, 1, mode="edge")
    down, across = numpy.zeros((SIDE, SIDE)), numpy.zeros((SIDE, SIDE))
    for y in range(3):
        for x in range(3):
            seen = padded[y : y + SIDE, x : x + SIDE]
            across += seen * (x - 1) * (2 if y == 1 else 1)
            down += seen * (y - 1) * (2 if x == 1 else 1)
    wanted = numpy.sqrt(across**2 + down**2)
    assert outlines(pixels)[0, 0].numpy() == pytest.approx(wanted / wanted.max(), abs=1e-5)
    # A drawing of dark lines is taken as it is.
    paper = torch.ones(1, 3, 8, 8)
    paper[:, :, 3] = -1.0
    lines = Sketch(found=False).from_request(cast(Any, None), drawing(pictures={"sketch": paper}), (3, 8, 8)).spatial
    assert lines is not None
    assert lines[0, 0].sum(1).tolist() == pytest.approx([0, 0, 0, 8, 0, 0, 0, 0], abs=1e-5)
    assert not outlines(torch.zeros(1, 3, 8, 8)).any()


def test_maps_come_with_the_picture() -> None:
    x, map_ = torch.zeros(1, 3, 16, 16), picture((0, 0, 0))
    depth, things = Map(name="depth"), Map(name="instances", colours=True)
    maps = {"depth": map_, "instances": map_}
    learnt = depth.from_batch(cast(Any, None), batch(x, None, maps=maps)).spatial
    assert learnt is not None
    assert learnt.shape == (1, 1, 16, 16)
    assert float(learnt[0, 0, 5, 5]) == pytest.approx(1.0)
    assert float(learnt[0, 0, 0, 0]) == pytest.approx(0.0)
    flat = things.from_batch(cast(Any, None), batch(x, None, maps=maps)).spatial
    assert flat is not None
    assert flat.shape == (1, 3, 16, 16)
    assert set(flat.unique().tolist()) == {0.0, 1.0}
    with pytest.raises(TrainingError, match="every picture needs its own"):
        depth.from_batch(cast(Any, None), batch(x, picture((9, 9, 9))))
    assert depth.maps == ("depth",)
    assert things.from_request(cast(Any, None), drawing(), (3, 4, 4)).spatial is not None


def test_intensity_has_no_colour() -> None:
    conditioner = Intensity()
    for colour, wanted in (((255, 0, 0), 0.299), ((0, 0, 255), 0.114)):
        given = drawing(pictures={"intensity": picture(colour)})
        map_ = conditioner.from_request(cast(Any, None), given, (3, 16, 16)).spatial
        assert map_ is not None
        assert float(map_[0, 0, 0, 0]) == pytest.approx(wanted, abs=1e-4)
    assert conditioner.unconditional(Conditioning(spatial=torch.ones(1, 1, 2, 2))).spatial is not None


def test_conditioners_read_back_equal() -> None:
    for part in (Map(), LowRes(level="a"), Score(), Palette(), Sketch(found=False)):
        assert loads(dumps(part)) == part


def test_fields_of_a_space_that_do_not_go_together_are_reported() -> None:
    with pytest.raises(RecipeError, match="Latent"):
        Latent(block_channels=(8, 8), groups=32).build()
