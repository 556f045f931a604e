"""Whatever is attached to an engine is taken off again: by its name, or all of it, to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bimo.core.errors import WeightsError
from bimo.core.lora_weight import LoraWeight
from bimo.engine.engine import Engine
from bimo.models.layouts.diffusers_folder import read_folder
from tests.models.test_control_adapters import PICTURE, REQUEST
from tests.support.adapter_files import with_adapters


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_adapters(tmp_path_factory.mktemp("sd"))


def attached(place: Path, *names: str) -> Engine:
    """An engine with some of the adapters: ink, <duck>, control, prompt."""
    engine = Engine(read_folder(place / "sd"), dtype=torch.float32)
    engine.attach(
        *([place / "ink.safetensors"] if "ink" in names else []),
        embeddings=[f"{place}/duck.safetensors=<duck>"] if "<duck>" in names else [],
        controls=[place / "net"] if "control" in names else [],
        ip_adapters=[place / "ip.safetensors"] if "prompt" in names else [],
        image_encoder=place / "tower",
    )
    return engine


def drawn(engine: Engine, *names: str) -> tuple[bytes, str]:
    """A picture that everything of ``names`` has a part in, and the hash that it is saved with."""
    text = "a red <duck> cat" if "<duck>" in names else "a red cat"
    images = {name: PICTURE for name in ("control", "prompt") if name in names}
    picture = engine.draw({**REQUEST, "text": text, "condition_images": images})[0]
    return picture.image.tobytes(), picture.weights


EVERY = ("ink", "<duck>", "control", "prompt")


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_one_is_taken_off_and_the_others_stay(place: Path, name: str) -> None:
    rest = [each for each in EVERY if each != name]
    engine = attached(place, *EVERY)
    drawn(engine, *EVERY)
    engine.detach(name)
    assert drawn(engine, *rest) == drawn(attached(place, *rest), *rest)
    with pytest.raises(WeightsError, match=f"nothing called '{name}' is attached"):
        engine.detach(name)


def test_all_are_taken_off_and_come_again(place: Path) -> None:
    plain = drawn(attached(place))
    engine = attached(place, *EVERY)
    whole = drawn(engine, *EVERY)
    engine.detach()
    assert drawn(engine) == plain != whole
    engine.attach(place / "ink.safetensors", controls=[place / "net"])
    assert drawn(engine, "control") == drawn(attached(place, "ink", "control"), "control")


def test_a_lora_keeps_its_range_beside_other_adapters(place: Path) -> None:
    """In the steps outside of it the weights are those without it, whatever was attached after it."""
    engine = attached(place)
    engine.attach(f"{place}/ink.safetensors:0.8@0-0.5")
    engine.attach(controls=[place / "net"], ip_adapters=[place / "ip.safetensors"], image_encoder=place / "tower")
    other = attached(place, "control", "prompt")
    other.attach(f"{place}/ink.safetensors:0.8@0-0.5")
    whole = attached(place, "ink", "control", "prompt")
    assert engine.lora_weights == other.lora_weights == [("ink", LoraWeight(0.8, 0, 0.5))]
    without = attached(place, "control", "prompt")
    pictures = [drawn(each, "control", "prompt")[0] for each in (engine, other, whole, without)]
    assert pictures[0] == pictures[1]
    assert len(set(pictures)) == 3
    engine.detach()
    assert drawn(engine) == drawn(attached(place))


def test_what_was_attached_one_after_the_other(place: Path) -> None:
    engine = attached(place, "control")
    engine.attach(place / "ink.safetensors")
    engine.attach(embeddings=[f"{place}/duck.safetensors=<duck>"])
    engine.detach("control")
    assert drawn(engine, "<duck>") == drawn(attached(place, "ink", "<duck>"), "<duck>")
