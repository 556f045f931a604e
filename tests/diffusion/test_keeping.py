"""Weights as other numbers, and put away while they do not work: the picture stays, or nearly."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch

from bimo.core.types import Picture
from bimo.diffusion.drive import drive
from bimo.diffusion.keeping import Shelf, workers
from bimo.diffusion.paint import paint, prepare
from bimo.diffusion.system import System

REQUEST = {"text": "一只红苹果", "seed": 3, "steps": 3, "guidance": 3.0, "size": (64, 64)}


def drawn(shelf: Shelf, index: int = 0) -> Picture:
    with shelf.towers():
        prepared = prepare(shelf.system, REQUEST)
    (picture,) = drive(shelf.system, [paint(shelf.system, prepared, index)], lambda _, ask: shelf.told(ask))
    return picture


def kinds(system: System) -> dict[str, set[torch.dtype]]:
    return {name: {p.dtype for p in worker.parameters()} for name, worker in workers(system).items()}


@pytest.mark.parametrize("away", [False, True])
def test_float32_is_the_same_picture_to_the_byte(tiny_folder: Path, away: bool) -> None:
    plain = Shelf(System.read(tiny_folder), torch.float32, away=False)
    kept = Shelf(System.read(tiny_folder, None), torch.float32, away=away)
    for index in (0, 1):
        assert drawn(kept, index).image.tobytes() == drawn(plain, index).image.tobytes()


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_nearly_the_same_picture(tiny_folder: Path, dtype: torch.dtype, away: bool) -> None:
    plain = Shelf(System.read(tiny_folder), torch.float32, away=False)
    kept = Shelf(System.read(tiny_folder, None), dtype, away=away)
    one, other = (numpy.asarray(drawn(shelf).image).astype(int) for shelf in (plain, kept))
    assert 0 < numpy.abs(one - other).mean() < 2
    assert all(p.dtype == torch.float32 for p in kept.system.space("image").parameters())  # type: ignore[attr-defined]


def test_only_what_works_is_turned(tiny_folder: Path) -> None:
    system = System.read(tiny_folder, None)
    shelf = Shelf(system, torch.bfloat16, away=True)
    stored, half = {torch.float32}, {torch.bfloat16}
    assert all(found == stored for found in kinds(system).values())
    with shelf.towers():
        assert kinds(system) == {"text.0": half, "expected.denoiser": stored, "image.denoiser": stored}
        prepared = prepare(system, REQUEST)
    working: list[str] = []

    def told(_: int, ask: object) -> None:
        shelf.told(ask)  # type: ignore[arg-type]
        working.append(shelf.working)
        assert [name for name, found in kinds(system).items() if found == half] == [shelf.working]

    drive(system, [paint(system, prepared)], told)  # type: ignore[arg-type]
    assert working == ["expected.denoiser", *["image.denoiser"] * 3]
    shelf.rest()
    assert all(found == stored for found in kinds(system).values())


def test_weights_come_back_bit_for_bit(tiny_folder: Path) -> None:
    system = System.read(tiny_folder, None)
    before = {name: value.clone() for name, value in system.state_dict().items()}
    shelf = Shelf(system, torch.float16, away=True)
    drawn(shelf)
    shelf.rest()
    assert all(torch.equal(value, before[name]) for name, value in system.state_dict().items())
