"""Drawing with a system that a test has built."""

from typing import Any

import numpy
import torch

from bimo.core.picture import Picture
from bimo.diffusion.system import System
from bimo.engine.engine import Engine


def draw(system: System, request: Any, /, **settings: Any) -> list[Picture]:
    """As `bimo.draw`, with the system's weights where they are and as they are."""
    return Engine(system).draw(request, **settings)


def alike(one: System, other: System, request: Any) -> None:
    """Asserts that two systems out of different files have the same weights to the bit, and draw the same within one
    of 255: where a weight begins in its file may turn the last bit of a product on some processors.
    """
    same_weights(one, other)
    pictures = [draw(system, request)[0].image for system in (one, other)]
    assert pictures[0].mode == pictures[1].mode
    within_one(*pictures)


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    """Asserts that two modules have the same tensors, of one type and to the bit."""
    before, after = one.state_dict(), other.state_dict()
    assert before.keys() == after.keys()
    assert [name for name, value in before.items() if value.dtype != after[name].dtype] == []
    assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []


def within_one(first: Any, second: Any) -> None:
    """Asserts that two pictures are of one shape and differ nowhere by more than one of 255."""
    one, other = (numpy.asarray(picture).astype(int) for picture in (first, second))
    assert one.shape == other.shape
    assert numpy.abs(one - other).max() <= 1
