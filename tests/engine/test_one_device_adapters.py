"""What is put beside a system, drawn on a device without contents: LoRAs, ControlNets, IP-Adapters, learnt words, every
sampler and previews leave no tensor on the processor.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bimo.diffusion.sampler_names import SAMPLERS
from bimo.engine.adapters import Adapters
from bimo.engine.engine import Engine
from bimo.models.layouts.diffusers_folder import read_folder
from bimo.serve.previews import preview
from tests.support.adapter_files import with_adapters
from tests.support.one_device import ELSEWHERE, OneDevice, counted

pytestmark = pytest.mark.slow

REQUEST: dict[str, Any] = {"text": "a red cat", "negative": "blue", "seed": 1, "steps": 4, "size": (64, 64)}
PICTURE = Image.linear_gradient("L").resize((64, 64)).convert("RGB")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_adapters(tmp_path_factory.mktemp("sd"))


@pytest.fixture
def there(place: Path) -> Iterator[Engine]:
    """An engine on the device, and the device."""
    with counted(), OneDevice():
        yield Engine(read_folder(place / "sd"), device=ELSEWHERE, dtype=torch.float16)


def every(place: Path) -> dict[str, Any]:
    return {
        "embeddings": [f"{place}/duck.safetensors=<duck>"],
        "controls": [place / "net"],
        "ip_adapters": [place / "ip.safetensors"],
        "image_encoder": place / "tower",
    }


def demand_all_there(engine: Engine) -> None:
    """Draws with all adapters; everything of the system is on the device."""
    tensors = [*engine.system.named_parameters(), *engine.system.named_buffers()]
    assert not [name for name, tensor in tensors if tensor.device != ELSEWHERE]
    images = {"control": PICTURE, "prompt": PICTURE}
    (picture,) = engine.draw({**REQUEST, "text": "a red <duck> cat", "condition_images": images})
    assert picture.image.size == (64, 64)


def test_adapters_attached_at_loading(place: Path) -> None:
    adapters = Adapters.from_files([place / "ink.safetensors"], **every(place))
    with counted(), OneDevice():
        demand_all_there(
            Engine(adapters.put(read_folder(place / "sd")), device=ELSEWHERE, dtype=torch.float16),
        )


def test_adapters_attached_and_detached_later(place: Path, there: Engine) -> None:
    there.attach(place / "ink.safetensors", **every(place))
    demand_all_there(there)
    there.detach("ink")
    demand_all_there(there)
    there.detach()
    (picture,) = there.draw(REQUEST)
    assert picture.image.size == (64, 64)


def test_another_engine_with_a_lora(place: Path, there: Engine) -> None:
    other = there.with_adapters([place / "ink.safetensors"])
    for engine in (there, other):
        assert engine.draw(REQUEST)[0].image.size == (64, 64)


# DPM++ SDE draws by a generator of the device itself, and one without contents has none.
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "dpm-solver-sde"])
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning")  # numpy, of torch's tensors
def test_every_sampler(there: Engine, sampler: str) -> None:
    (picture,) = there.draw({**REQUEST, "sampler": sampler})
    assert picture.image.size == (64, 64)


def test_from_a_picture_and_into_a_mask(there: Engine) -> None:
    (picture,) = there.draw({**REQUEST, "image": PICTURE, "mask": PICTURE, "strength": 0.8})
    assert picture.image.size == (64, 64)


def test_a_preview_of_a_step(there: Engine) -> None:
    prepared = there.prepare(REQUEST)
    with there.working():
        asked = next(there.loop(prepared))
        (answer,) = there.denoise([asked])
        shown = preview(there.system, asked, answer)
    assert shown is not None
    assert shown.size == (64, 64)
