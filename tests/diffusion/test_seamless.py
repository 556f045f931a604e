"""Seamless pictures: shifted noise draws the shifted picture across an edge, and others are refused."""

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
from bimo.diffusion import noise
from bimo.diffusion.seamless import circular
from bimo.engine.engine import Engine
from tests.support.tiny_checkpoints import checkpoint

LAW: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
REQUEST: dict[str, Any] = {"text": "小桥流水人家", "size": (96, 64), "steps": 2, "seed": 3, "guidance": 3.0}
#: Positions of x that noise is shifted by, and pixels of one.
SHIFT, FACTOR = 4, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("seamless")
    checkpoint(made, "bert", diffusers.DDIMScheduler(**LAW, clip_sample=False, steps_offset=1))
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
def test_no_place_is_an_edge(engine: Engine, monkeypatch: pytest.MonkeyPatch, edges: str, axis: int) -> None:
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
    with circular(net, ""):
        assert torch.equal(net(x), plain)
    assert not walks
    for axes, dims in (("x", {3}), ("y", {2}), ("both", {2, 3})):
        with circular(net, axes):
            shifted = {d for d in (2, 3) if torch.allclose(net(x.roll(3, d)), net(x).roll(3, d), atol=1e-6)}
        assert shifted == dims
    assert torch.equal(net(x), plain)


def test_a_transformer_has_edges(tiny_folder: Path) -> None:
    with pytest.raises(RequestError, match="seamless is for systems of one UNet") as raised:
        bimo.load(tiny_folder).draw({"text": "猫", "size": (64, 64), "steps": 1}, seamless="both")
    assert "xiaomo" in raised.value.en


def test_tiles_and_seams_contradict_each_other(folder: Path) -> None:
    with pytest.raises(RequestError, match="--tiles"):
        bimo.load(folder, tiles=True).draw(REQUEST, seamless="both")
