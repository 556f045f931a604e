"""Whatever a stage is told, stopped after every step it ends in the same bytes, and the option does something."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bimo.core.errors import TrainingError
from bimo.core.recipe import Recipe, Stage
from bimo.core.stage_data import Augmentation, CaptionEdits
from bimo.training.adapters.lora_stage import Lora
from bimo.training.objectives.denoise import Denoise
from bimo.training.objectives.flow_times import FlowTimes
from bimo.training.trainer import train
from bimo.xiaomo.recipe import xiaomo

STEPS = 4
STAGE = Stage(
    name="options",
    objective=Denoise(),
    level="image",
    train=("image.denoiser.*.to_q.*",),
    steps=STEPS,
    batch=4,
    lr=1e-3,
    max_unknown=1.0,
)
#: What is asked of a stage, by fields of it.
OPTIONS: dict[str, dict[str, Any]] = {
    "lion": {"optimiser": "lion"},
    "prodigy": {"optimiser": "prodigy", "lr": 1.0, "optimiser_args": {"d0": 1e-3}},
    "dadaptadam": {"optimiser": "dadaptadam", "lr": 1.0, "optimiser_args": {"d0": 1e-3}},
    "schedulefreeadamw": {"optimiser": "schedulefreeadamw", "validation": 0.2, "validate_every": 2},
    "came": {"optimiser": "came"},
    "a class of one's own": {"optimiser": "torch.optim:NAdam"},
    "restarts": {"lr_schedule": "cosine_with_restarts", "lr_cycles": 2},
    "pieces": {"lr_schedule": "piecewise_constant", "lr_pieces": ((1, 1.0), (3, 0.1))},
    "noise": {"objective": Denoise(offset=0.1, multires=4, perturbation=0.1)},
    "huber": {"objective": Denoise(loss_type="huber", snr=5.0)},
    "debiased": {"objective": Denoise(debiased=True)},
    "times": {"objective": Denoise(flow=FlowTimes(density="mode", shift=0.0, weight="cosmap"))},
    "tags": {"captions": CaptionEdits(shuffle=True, tag_dropout=0.5, trigger="墨风", separators=",，、的")},
    "variants": {"augment": Augmentation(brightness=0.3, hue=0.1, variants=4, anyway=True)},
    "repeats": {"repeats": (("*0*", 3),)},
    "loha": {"train": (), "adapter": Lora(targets=("image.denoiser.*.to_q",), algo="loha")},
    "lokr": {"train": (), "adapter": Lora(targets=("image.denoiser.*.to_q",), algo="lokr")},
    "oft": {"train": (), "adapter": Lora(targets=("image.denoiser.*.to_q",), algo="oft")},
    "ranks": {"train": (), "adapter": Lora(targets=("image.denoiser.*.to_[qk]",), ranks=(("*.to_k", 8, 2.0),))},
}
#: What changes how a step is taken, and not what comes of it.
SAME: dict[str, dict[str, Any]] = {
    "fused backward": {"fused_backward": True},
    "fused backward, adafactor": {"fused_backward": True, "optimiser": "adafactor"},
}


def recipe(**fields: Any) -> Recipe:
    return replace(xiaomo.tiny(), stages=(replace(STAGE, **fields),), prompts=())


def weights(folder: Path) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def plain(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return weights(train(recipe(), tiny_shards, tmp_path_factory.mktemp("plain"), threads=1))


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_goes_on_to_the_bit(tiny_shards: Path, tmp_path: Path, plain: bytes, name: str) -> None:
    wanted = recipe(**OPTIONS[name])
    whole = weights(train(wanted, tiny_shards, tmp_path / "whole", threads=1))
    for _ in range(STEPS + 1):
        train(wanted, tiny_shards, tmp_path / "stopped", threads=1, stop_after=0.0)
    assert weights(tmp_path / "stopped") == whole
    assert whole != plain


@pytest.mark.slow
@pytest.mark.parametrize("name", SAME)
def test_goes_on_to_the_bit_and_is_the_same(tiny_shards: Path, tmp_path: Path, name: str) -> None:
    fields = {**SAME[name], "max_grad_norm": 0.0}
    fused, apart = recipe(**fields), recipe(**{**fields, "fused_backward": False})
    whole = weights(train(apart, tiny_shards, tmp_path / "whole", threads=1))
    for _ in range(STEPS + 1):
        train(fused, tiny_shards, tmp_path / "stopped", threads=1, stop_after=0.0)
    assert weights(tmp_path / "stopped") == whole


def test_a_step_of_all_at_once_is_not_taken_in_the_backward_pass(tiny_shards: Path, tmp_path: Path) -> None:
    wanted = recipe(fused_backward=True, max_grad_norm=0.0, optimiser="prodigy")
    with pytest.raises(TrainingError, match="looks at all that learns at once"):
        train(wanted, tiny_shards, tmp_path / "run", threads=1)
