"""One model over several cards: shared out by made-up sizes, drawn on a device without contents and on a second name
of the processor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bimo
from bimo.core.errors import RequestError
from bimo.engine import devices, spread
from bimo.engine.compile import repeated_blocks
from bimo.engine.devices import CPU, Card, devices_of
from bimo.engine.engine import Engine
from bimo.engine.offload import offloadable
from bimo.hub import registry
from tests.support.one_device import ELSEWHERE, OneDevice, counted
from tests.support.tiny_systems import TEXT, tiny_system

pytest.importorskip("accelerate")

CARDS = (torch.device("cuda", 0), torch.device("cuda", 1), torch.device("cuda", 2))
#: The processor by another name: tensors are taken there and back, and keep their numbers.
SECOND = torch.device("cpu", 0)
MEGA = 1_000_000


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Card(card, "card", 24 * 10**9, 20 * 10**9) for card in CARDS[:2]]
    monkeypatch.setattr(devices, "cards", lambda: found)


class Worker(nn.Module):
    """Ten blocks of a million numbers each on the meta device, and half a million between them."""

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(1000, 1000, bias=False)) for _ in range(10))
            self.head = nn.Linear(1000, 500, bias=False)


def shared(free: list[int], dtype: torch.dtype = torch.bfloat16, taken: int = 0) -> list[int]:
    """How many blocks each card has, where ``free`` are megabytes that are left of each but for the spare share."""
    sizes = [int(each * MEGA / (1 - spread.SPARE)) + 1 for each in free]
    counts = spread.plan({"a": Worker()}, CARDS[: len(free)], sizes, dtype, taken * MEGA).counts()
    return [counts.get(card, 0) for card in CARDS[: len(free)]]


def test_cards_are_filled_one_after_the_other() -> None:
    # accelerate keeps the largest block's room free on the first: 13 = 1 between + 5 blocks + 2.
    assert shared([13, 20]) == [5, 5]
    assert shared([13, 20], taken=4) == [3, 7]
    assert shared([100, 100]) == [10, 0]
    assert shared([9, 8, 20]) == [3, 4, 3]
    assert shared([13, 20], torch.int8) == [10, 0]
    assert shared([25, 40], torch.float32) == [4, 6]


@pytest.mark.parametrize(("free", "taken"), [([6, 6], 0), ([13, 20], 14)])
def test_a_model_too_large_for_all_devices_is_refused(free: list[int], taken: int) -> None:
    with pytest.raises(RequestError, match=r"the weights take 0\.0 GB and cuda:0\+cuda:1 have .* GB free; name more"):
        shared(free, taken=taken)


@pytest.mark.usefixtures("two_cards")
def test_a_row_of_cards_is_read() -> None:
    assert devices_of("cuda:0+cuda:1") == CARDS[:2]
    assert devices_of("cuda:1 + cuda:0") == (CARDS[1], CARDS[0])
    assert devices_of("cuda:1") == (CARDS[1],)
    for name in ("cuda:0+cuda:0", "cuda+cuda:0", "cuda:0+cpu", "auto+cuda:0"):
        with pytest.raises(RequestError, match="spread over different cards"):
            devices_of(name)
    with pytest.raises(RequestError, match="'cuda:7', which torch has not here"):
        devices_of("cuda:0+cuda:7")


@pytest.mark.usefixtures("two_cards")
@pytest.mark.parametrize("how", [{"memory": "8GB"}, {"offload": "parts"}, {"compiled": True}])
def test_what_does_not_go_with_several_cards(tiny_folder: Path, how: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="spreads the model over cards, which goes without --memory, --offload"):
        bimo.load(tiny_folder, device="cuda:0+cuda:1", **how)


def halved(monkeypatch: pytest.MonkeyPatch, system: Any) -> None:
    """Has the first card hold about half of a system's blocks, beside the room of the largest, which is kept free."""
    workers = offloadable(system)
    blocks = [block for worker in workers.values() for block in repeated_blocks(worker)]
    of_blocks = sum(p.numel() * 4 for block in blocks for p in block.parameters())
    every = sum(p.numel() * 4 for p in system.parameters())
    largest = max(sum(p.numel() * 4 for p in block.parameters()) for block in blocks)
    monkeypatch.setattr("bimo.engine.engine.drawing_bytes", lambda size, keeping: 0)
    monkeypatch.setattr(spread, "free_bytes", lambda cards: [int((every - of_blocks / 2 + largest) / 0.9), 10**9])


@pytest.mark.parametrize("name", ["z-image", "taiyi-sd-zh"])
def test_the_picture_is_the_same_to_the_byte(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = registry.recipe(name)
    request: dict[str, Any] = {"text": TEXT, "seed": 1, "steps": 2, "size": (64, 64)}
    plain = Engine(tiny_system(recipe, tmp_path / "a"), device=CPU, dtype=torch.float32).draw(request)[0]
    system = tiny_system(recipe, tmp_path / "b")
    halved(monkeypatch, system)
    engine = Engine(system, device=CPU, dtype=torch.float32, cards=[SECOND])
    counts = engine.blocks_on
    assert set(counts) == {CPU, SECOND}
    assert engine.draw(request)[0].image.tobytes() == plain.image.tobytes()
    with pytest.raises(RequestError, match="over several cards adapters are named"):
        engine.detach()


@pytest.mark.parametrize("name", ["z-image", "taiyi-sd-zh"])
def test_no_tensor_is_left_on_another_card(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = tiny_system(registry.recipe(name), tmp_path)
    halved(monkeypatch, system)
    with counted(), OneDevice():
        engine = Engine(system, device=CPU, dtype=torch.float32, cards=[ELSEWHERE])
        engine.draw(TEXT, seed=1, steps=2, size=(64, 64))
    blocks = [block for worker in offloadable(system).values() for block in repeated_blocks(worker)]
    found = [{p.device.type for p in block.parameters()} for block in blocks]
    assert {"cpu"} in found
    assert {"meta"} in found
    of_blocks = {id(p) for block in blocks for p in block.parameters()}
    assert {p.device.type for p in system.parameters() if id(p) not in of_blocks} == {"cpu"}
