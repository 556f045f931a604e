"""VisCPM-Paint: its bridge against a few lines, its one file by prefix, what each stage moves."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bimo.core.errors import WeightsError
from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.models.text_encoders.language_model import LanguageModel
from bimo.models.viscpm.layout import BRIDGE, fill
from bimo.recipes.viscpm import viscpm_paint
from bimo.training.optimizers import chosen
from tests.support.drawing import draw, same_weights
from tests.support.flow_checkpoints import qwen_words

TINY = viscpm_paint.tiny()


def small(family: str) -> Recipe:
    tower: Any = TINY.text_encoders[0]
    if family == "cpmant":
        return TINY
    made = LanguageModel(family=family, template=tower.template, pad="batch", bridge=tower.bridge).tiny()
    return replace(TINY, text_encoders=(made,))


def published(system: System, folder: Path) -> tuple[Path, Path]:
    """The weights of a system as VisCPM-Paint's authors keep them, and a folder of the autoencoder's."""
    state: dict[str, torch.Tensor] = {}
    back = {own: name for name, own in BRIDGE.items()}
    for name, value in system.get_submodule("text.0").state_dict().items():
        state[back[name] if name in back else name.replace("model.", "llm.", 1)] = value.clone()
    for name, value in system.get_submodule("image.denoiser.model").state_dict().items():
        state[f"unet.{name}"] = value.clone()
    vae = folder / "vae"
    vae.mkdir(parents=True)
    own = {n: v.clone() for n, v in system.get_submodule("image.space.model").state_dict().items()}
    save_file(own, vae / "diffusion_pytorch_model.safetensors")
    torch.save(state, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin", vae


@pytest.mark.slow
@pytest.mark.parametrize("family", ["cpmant", "llama"])
def test_one_file_is_read_by_prefix_and_draws_the_same(family: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    one = System(small(family)).eval()
    torch.manual_seed(2)
    other = System(small(family)).eval()
    file, vae = published(one, tmp_path)
    fill(other, file, vae)
    same_weights(one, other)
    qwen_words(tmp_path / "words")
    for system in (one, other):
        system.text_encoders[0].load_tokenizer(tmp_path / "words")
    request = {"text": "一只红苹果", "negative": "red", "size": (64, 64), "steps": 2, "seed": 1}
    pictures = [draw(system, request)[0].image.tobytes() for system in (one, other)]
    assert pictures[0] == pictures[1]
    assert draw(one, {**request, "text": "a cat"})[0].image.tobytes() != pictures[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trans_block.layernorm.bias": None}, "norm.bias"),
        ({"trans_block.other": torch.zeros(1)}, "trans_block.other"),
        ({"llm.extra": torch.zeros(1)}, "model.extra"),
        ({"unet.conv_in.weight": torch.zeros(1)}, "conv_in.weight"),
        ({"image.denoiser": torch.zeros(1)}, "image.denoiser"),
    ],
)
def test_what_does_not_fit_is_listed(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    system = System(small("llama"))
    file, vae = published(system, tmp_path)
    state: dict[str, Any] = torch.load(file, weights_only=True) | change
    torch.save({name: value for name, value in state.items() if value is not None}, file)
    with pytest.raises(WeightsError) as raised:
        fill(System(small("llama")), file, vae)
    assert message in raised.value.en


def test_padding_up_to_the_longer_text_is_seen(tmp_path: Path) -> None:
    """Of prompt and negative prompt both are padded to the longer, and the UNet sees it all."""
    system = System(TINY).eval()
    qwen_words(tmp_path)
    tower: Any = system.text_encoders[0]
    tower.load_tokenizer(tmp_path)
    encoding = tower.encode(["", "red red 红苹果"])
    assert encoding.mask is None
    ids = torch.tensor([tower.tokenizer.encode('{"caption": "", "objects": ""}').ids])
    # CPM pads on the left: what is real stands last.
    alone = tower(ids, torch.ones_like(ids, dtype=torch.bool)).tokens
    assert torch.allclose(encoding.tokens[:1, -ids.shape[1] :], alone, atol=1e-5)


def test_full_size_of_what_is_published() -> None:
    """The UNet of Stable Diffusion 2.1; a bridge of 4096 x 1024 without bias; a tower of some 10 B."""
    with torch.device("meta"):
        system = System(viscpm_paint)
    count = {name: sum(p.numel() for p in system.get_submodule(name).parameters()) for name in ("text.0", "image")}
    bridge = {n: p for n, p in system.get_submodule("text.0").named_parameters() if not n.startswith("model.")}
    assert {n: tuple(p.shape) for n, p in bridge.items()} == {
        "out.weight": (1024, 4096),
        "norm.weight": (1024,),
        "norm.bias": (1024,),
    }
    unet = sum(p.numel() for p in system.get_submodule("image.denoiser").parameters())
    assert unet == 865_910_724
    layer = 4 * 4096**2 + 3 * 4096 * 10240 + 2 * 4096
    tower = count["text.0"] - sum(math.prod(p.shape) for p in bridge.values())
    # The rest are two small tables: segments' marks, and the bias of positions.
    assert 0 < tower - 48 * layer - 86583 * 4096 - 4096 < 1e6


def test_stages_open_more_and_more_and_never_the_language_model() -> None:
    names = [name for name, _ in System(TINY).named_parameters()]
    opened = [set(chosen(names, stage.train)) for stage in viscpm_paint.stages]
    bridge = {"text.0.out.weight", "text.0.norm.weight", "text.0.norm.bias"}
    assert opened[0] == bridge
    assert bridge < opened[1] < opened[2]
    assert all("attn2" in name for name in opened[1] - bridge)
    assert opened[2] - bridge == {name for name in names if name.startswith("image.denoiser.")}
    assert not any(name.startswith("text.0.model.") for stage in opened for name in stage)
