"""Seamless pictures: shifted noise draws the shifted picture across an edge; x is rolled where places are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
from torch import nn

import bimo
from bimo.core.errors import RequestError
from bimo.core.tensors import Conditioning, DenoiserInput
from bimo.diffusion import noise, seamless
from bimo.diffusion.request_filling import fill_request
from bimo.diffusion.sampling import calls
from bimo.engine.engine import Engine
from bimo.models.flow_tokens import REFERENCE
from bimo.models.glm_image.denoiser import REFERENCE_TOKENS, TOKENS, GlmImage
from tests.support.tiny_checkpoints import checkpoint

SCHEDULE: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
REQUEST: dict[str, Any] = {"text": "小桥流水人家", "size": (96, 64), "steps": 2, "seed": 3, "guidance": 3.0}
#: Positions of x that noise is shifted by, and pixels of one.
SHIFT, FACTOR = 4, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("seamless")
    checkpoint(made, "bert", diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, steps_offset=1))
    return made


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return bimo.load(folder)


def drawn(engine: Engine, **settings: Any) -> Any:
    return numpy.asarray(engine.draw(REQUEST, **settings)[0].image).astype(int)


def shifted(engine: Engine, monkeypatch: pytest.MonkeyPatch, axis: int, **settings: Any) -> Any:
    """What is drawn from noise that was rolled along an axis of x."""
    plain = noise.gaussian
    with monkeypatch.context() as patch:
        patch.setattr(noise, "gaussian", lambda *given: torch.roll(plain(*given), SHIFT, axis))
        return drawn(engine, **settings)


@pytest.mark.parametrize(("edges", "axis"), [("x", 3), ("y", 2), ("both", 3), ("both", 2)])
def test_circular_padding_leaves_no_edge(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, edges: str, axis: int
) -> None:
    """Where edges are neighbours a picture may begin anywhere: noise rolled along them draws the rolled picture."""
    picture = numpy.roll(drawn(engine, seamless=edges), SHIFT * FACTOR, axis - 2)
    assert numpy.abs(shifted(engine, monkeypatch, axis, seamless=edges) - picture).max() <= 1


@pytest.mark.parametrize(("edges", "axis"), [(None, 3), (None, 2), ("x", 2), ("y", 3)])
def test_other_edges_stay_edges(engine: Engine, monkeypatch: pytest.MonkeyPatch, edges: str | None, axis: int) -> None:
    picture = numpy.roll(drawn(engine, seamless=edges), SHIFT * FACTOR, axis - 2)
    assert numpy.abs(shifted(engine, monkeypatch, axis, seamless=edges) - picture).max() > 5


def test_the_network_is_as_before_afterwards(engine: Engine) -> None:
    before = drawn(engine)
    assert (drawn(engine, seamless="both") != before).any()
    assert (drawn(engine) == before).all()
    together = engine.draw_together([REQUEST, REQUEST | {"seamless": "both"}])
    assert (numpy.asarray(together[0].image) == before).all()


def test_convolutions_are_circular_along_the_axes_alone_and_none_is_looked_for_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, x = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Sequential(nn.Conv2d(2, 2, 1))), torch.randn(1, 2, 8, 8)
    plain, walks, modules = net(x), list[int](), net.modules
    monkeypatch.setattr(net, "modules", lambda: (walks.append(1), modules())[1])
    with seamless.circular(net, ""):
        assert torch.equal(net(x), plain)
    assert not walks
    for axes, dims in (("x", {3}), ("y", {2}), ("both", {2, 3})):
        with seamless.circular(net, axes):
            shifted = {d for d in (2, 3) if torch.allclose(net(x.roll(3, d)), net(x).roll(3, d), atol=1e-6)}
        assert shifted == dims
    assert torch.equal(net(x), plain)


def test_x_and_what_lies_on_it_are_rolled_together_at_each_step(tiny_folder: Path) -> None:
    system = bimo.load(tiny_folder).system
    denoiser = system.level("image").denoiser
    x = torch.arange(2 * 8 * 4, dtype=torch.float32).reshape(1, 2, 8, 4)
    control, seen = torch.arange(32 * 16.0).reshape(1, 1, 32, 16), torch.ones(1, 3, 7, 7)
    conditioning = Conditioning(spatial=x[:, :1], pictures={"control": control, "tokens": x[0], "seen": seen})

    def shown(seed: int, axes: str, step: int) -> list[DenoiserInput]:
        loop = seamless.Rolling(denoiser, axes, seed).predict(
            DenoiserInput("image", x, x[:, 0, 0, 0], conditioning, step)
        )
        inputs = [next(loop)]
        inputs.append(loop.send(inputs[0].x * 2))
        with pytest.raises(StopIteration) as stop:
            loop.send(inputs[1].x * 2)
        torch.testing.assert_close(stop.value.value, x * 2)  # what does not know its place answers as if nothing rolled
        return inputs

    first, second = shown(1, "both", 0)
    assert torch.equal(second.x, torch.roll(first.x, (4, 2), (-2, -1)))  # half a side apart
    for one in (first, second):
        assert one.conditioning.spatial is not None
        assert torch.equal(one.conditioning.spatial, one.x[:, :1])
        top = int((one.x[0, 0, :, 0] // 4 == 0).nonzero())
        left = int((one.x[0, 0, 0] % 4 == 0).nonzero())
        assert torch.equal(one.conditioning.pictures["control"], torch.roll(control, (4 * top, 4 * left), (-2, -1)))
        assert torch.equal(one.conditioning.pictures["tokens"], x[0])
        assert torch.equal(one.conditioning.pictures["seen"], seen)
    assert all(set(one.x[0, 0, :, 0].tolist()) == set(x[0, 0, :, 0].tolist()) for one in shown(1, "y", 0))
    assert torch.equal(shown(1, "both", 0)[0].x, first.x)
    assert (
        len({tuple(shown(seed, "both", step)[0].x.flatten().tolist()) for seed in (1, 2, 3) for step in range(4)}) > 4
    )


def test_tokens_of_a_prior_are_rolled_with_x() -> None:
    denoiser = GlmImage().tiny().build()
    grid = torch.arange(6)[None]  # of 2 x 3 patches
    given = Conditioning(
        scalars={TOKENS: grid, REFERENCE_TOKENS + "1": grid}, pictures={f"{REFERENCE}1": torch.ones(1, 16, 4, 8)}
    )
    scalars = denoiser.roll(given, (2, 4), (4, 6)).scalars
    assert scalars[TOKENS].tolist() == [[4, 5, 3, 1, 2, 0]]
    assert torch.equal(scalars[REFERENCE_TOKENS + "1"], grid)  # of a picture of another shape


def test_a_picture_is_made_periodic() -> None:
    ramp = torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(1, 1, 4, 4)
    # By hand: the smooth component's Laplacian is 3, 0, 0, -3 along the row, its mean 0.
    torch.testing.assert_close(seamless.periodic(ramp, "x")[0, 0, 0], torch.tensor([1.125, 1.375, 1.625, 1.875]))
    torch.testing.assert_close(seamless.periodic(ramp, "y"), ramp)  # its rows are alike


def test_a_margin_decodes_as_circular_padding_does(engine: Engine) -> None:
    space = engine.system.space("image")
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), seamless.circular(space, "x"):
        wanted = space.decode(x)
    with torch.inference_mode():
        found = seamless.crop(space.decode(seamless.pad(x, "x", 8)), "x", 64)
        plain = space.decode(x)
    assert (found - wanted).abs().mean() < 0.1 * (plain - wanted).abs().mean()


def seam(picture: Any, axis: int) -> tuple[float, float]:
    """The mean absolute difference across the wrap edge, and between neighbours inside, of 255."""
    pixels = numpy.asarray(picture.convert("RGB")).astype(float)
    across = pixels.take(0, axis) - pixels.take(-1, axis)
    return float(numpy.abs(across).mean()), float(numpy.abs(numpy.diff(pixels, axis=axis)).mean())


@pytest.mark.slow
@pytest.mark.parametrize(("model", "prompt"), [("xiaomo", "夜空下的城堡"), ("xiaomo-2", "荷塘月色，工笔")])
def test_the_bundled_models_have_no_seam(model: str, prompt: str) -> None:
    bundled = bimo.load(model)
    settings: dict[str, Any] = {"seed": 1, "steps": 6}
    (plain,), (tile,) = bundled.draw(prompt, **settings), bundled.draw(prompt, seamless="both", **settings)
    for axis in (0, 1):
        edge, inside = seam(plain.image, axis)
        assert edge > 2 * inside
        edge, inside = seam(tile.image, axis)
        assert edge < 1.6 * inside
    # Of the 6 steps of a level two calls each where x is rolled, one where convolutions are padded.
    request = fill_request(bundled.system, {"text": prompt, "seamless": "both", **settings}).request
    assert calls(bundled.system, request) == (1 + 12 if model == "xiaomo" else 1 + 6)


@pytest.mark.slow
def test_a_seed_gives_the_same_tile_and_a_plain_thing_stays_without_a_seam() -> None:
    bundled = bimo.load("xiaomo")
    settings: dict[str, Any] = {"seed": 1, "steps": 4, "seamless": "both"}
    (alone,) = bundled.draw("红苹果", **settings)
    assert max(seam(alone.image, axis)[0] for axis in (0, 1)) < 1
    together = bundled.draw_together([{"text": "红苹果", **settings}, {"text": "一只猫", **settings}])
    assert numpy.abs(numpy.asarray(together[0].image).astype(int) - numpy.asarray(alone.image)).max() <= 1


def test_what_a_cache_keeps_of_blocks_does_not_lie_where_x_was_rolled_to(tiny_folder: Path) -> None:
    with pytest.raises(RequestError, match="seamless shifts the picture at each step"):
        fill_request(bimo.load(tiny_folder).system, {"text": "猫", "seamless": "both", "step_cache": "taylor"})


def test_tiles_and_seamless_are_refused_together(folder: Path) -> None:
    with pytest.raises(RequestError, match="--tiles"):
        bimo.load(folder, tiles=True).draw(REQUEST, seamless="both")
