"""PAI's latent diffusion as its authors save it: read back whole, the averaged painter, the tower by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bimo.core.errors import RecipeError, WeightsError
from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.hub import registry
from bimo.models.pai_diffusion import layout
from bimo.models.pai_diffusion.esrgan import Esrgan
from bimo.models.stable_diffusion import ldm_names
from bimo.recipes import pai_ldm as recipes
from tests.support.drawing import draw
from tests.support.tiny_checkpoints import BERT_WORDS

WANTED = replace(
    recipes.pai_ldm, levels=(recipes.image, replace(recipes.enlarge, denoiser=Esrgan(width=8, blocks=2, growth=4)))
)
WIDTH, LAYERS, HEADS, PROJECT = 16, 2, 2, 12
UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "attention_resolutions": [2, 1],
    "num_res_blocks": 1, "channel_mult": [1, 2, 2], "num_heads": 2, "use_spatial_transformer": True,
    "transformer_depth": 1, "context_dim": PROJECT, "use_checkpoint": True, "legacy": False,
}  # fmt: skip
VAE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32,
    "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
ENCODER = {
    "context_length": 32, "vocab_size": len(BERT_WORDS), "output_dim": PROJECT, "width": WIDTH, "layers": LAYERS,
    "heads": HEADS,
}  # fmt: skip
SYSTEM: dict[str, Any] = {
    "linear_start": 0.00085, "linear_end": 0.012, "timesteps": 1000, "num_timesteps_cond": 1, "log_every_t": 200,
    "first_stage_key": "image", "cond_stage_key": "caption", "image_size": 32, "channels": 4, "monitor": "val/loss",
    "cond_stage_trainable": False, "conditioning_key": "crossattn", "scale_factor": 0.2,
    "unet_config": {"target": "UNetModel", "params": UNET},
    "first_stage_config": {"target": "AutoencoderKL", "params": {"embed_dim": 4, "ddconfig": VAE, "lossconfig": {}}},
    "cond_stage_config": {"target": "Text", "params": {"version": "", "text_encoder": ENCODER}},
}  # fmt: skip
REQUEST: dict[str, Any] = {"text": "一只红色苹果", "seed": 3, "steps": 2, "size": (128, 128)}
ESRGAN = (("conv_body", "trunk_conv"), ("body", "RRDB_trunk"), ("conv_up", "upconv"), ("conv_hr", "HRconv"))


def tower_state() -> dict[str, Tensor]:
    """The published tower's tensors, by the shapes of its constructor."""
    w, found = WIDTH, {}
    for n in range(LAYERS):
        shapes: dict[str, tuple[int, ...]] = {
            "attn.in_proj_weight": (3 * w, w), "attn.in_proj_bias": (3 * w,), "attn.out_proj.weight": (w, w),
            "attn.out_proj.bias": (w,), "ln_1.weight": (w,), "ln_1.bias": (w,), "ln_2.weight": (w,), "ln_2.bias": (w,),
            "mlp.c_fc.weight": (4 * w, w), "mlp.c_fc.bias": (4 * w,), "mlp.c_proj.weight": (w, 4 * w),
            "mlp.c_proj.bias": (w,),
        }  # fmt: skip
        found |= {f"transformer.resblocks.{n}.{name}": torch.randn(shape) * 0.5 for name, shape in shapes.items()}
    ends = {"ln_final.weight": (w,), "ln_final.bias": (w,), "text_projection": (w, PROJECT)}
    ends |= {"embedding_table": (len(BERT_WORDS), w), "positional_embedding": (32, w)}
    return found | {name: torch.randn(shape) for name, shape in ends.items()}


def by_hand(state: dict[str, Tensor], ids: list[int]) -> Tensor:
    """The published forward for one text: a causal tower's state at its end mark, projected, at unit length."""
    x = state["embedding_table"][ids] + state["positional_embedding"][: len(ids)]
    causal = torch.full((len(ids), len(ids)), -torch.inf).triu(1)

    def norm(x: Tensor, name: str) -> Tensor:
        return nn.functional.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-7)

    for n in range(LAYERS):
        at = f"transformer.resblocks.{n}."
        attention = nn.MultiheadAttention(WIDTH, HEADS)
        attention.load_state_dict({k.removeprefix(f"{at}attn."): v for k, v in state.items() if f"{at}attn." in k})
        seen = norm(x, f"{at}ln_1")
        x = x + attention(seen, seen, seen, need_weights=False, attn_mask=causal)[0]
        h = norm(x, f"{at}ln_2") @ state[f"{at}mlp.c_fc.weight"].T + state[f"{at}mlp.c_fc.bias"]
        x = x + (h * torch.sigmoid(1.702 * h)) @ state[f"{at}mlp.c_proj.weight"].T + state[f"{at}mlp.c_proj.bias"]
    answer = norm(x, "ln_final")[-1] @ state["text_projection"]
    return answer / answer.norm()


def saved(folder: Path) -> tuple[System, dict[str, Tensor]]:
    """A folder as the authors save one, the system its tensors were taken from, and those of the tower."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model": {"target": "ldm", "params": SYSTEM}}))
    (folder / "vocab.txt").write_text("\n".join(BERT_WORDS), "utf-8")
    torch.manual_seed(4)
    system = System(layout.recipe_of(folder, WANTED)).eval()
    words = tower_state()
    state = {f"cond_stage_model.model.{name}": value for name, value in words.items()}
    image: Any = system.level("image")
    names = ldm_names.inverse(ldm_names.unet_names(ldm_names.Blocks(1, (1, 1, 0))))
    for name, value in image.denoiser.model.state_dict().items():
        own = f"diffusion_model.{ldm_names.renamed(name, names)}"
        state[f"model.{own}"] = torch.zeros_like(value)
        state[f"model_ema.{own.replace('.', '')}"] = value
    coder = {
        ldm_names.renamed(n, ldm_names.inverse(ldm_names.vae_names(4, 1))): v
        for n, v in image.space.model.state_dict().items()
    }
    turned = ldm_names.vae_to_ldm({str(name): value for name, value in coder.items()})
    state |= {f"first_stage_model.{name}": value for name, value in turned.items()}
    schedule = ("betas", "alphas_cumprod_prev", "sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod")
    schedule += ("sqrt_recipm1_alphas_cumprod", "posterior_log_variance_clipped", "posterior_mean_coef1")
    state |= dict.fromkeys((*schedule, "model_ema.decay", "model_ema.num_updates"), torch.zeros(1))
    torch.save({"state_dict": state}, folder / "pytorch_model.bin")
    large: dict[str, Tensor] = {}
    for name, value in system.level("enlarge").denoiser.state_dict().items():
        for ours, theirs in ESRGAN:
            name = name.replace(ours, theirs)
        large[re.sub(r"rdb(\d)", r"RDB\1", name)] = value
    torch.save(large, folder / "RRDB_ESRGAN_x4.pth")
    return system, words


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, System, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("pai") / "general"
    return folder, *saved(folder)


@pytest.mark.slow
def test_read_back_it_is_what_was_saved(place: tuple[Path, System, dict[str, Tensor]]) -> None:
    folder, original, words = place
    found = layout.read(folder, WANTED)
    read = found.state_dict()
    for name, value in original.state_dict().items():
        if not name.startswith("text."):
            assert torch.equal(read[name], value), name
    schedule: Any = found.level("image").schedule
    space: Any = found.level("image").space
    assert (schedule.beta_schedule, schedule.beta_start, schedule.beta_end) == ("scaled_linear", 0.00085, 0.012)
    assert space.part.scaling == 0.2
    tower: Any = found.text_encoders[0]
    for text in ("红色苹果", "小桥流水人家"):
        ids, mask = tower.ids([text])
        with torch.no_grad():
            answer = tower.encode([text]).tokens[0, 0]
        assert torch.allclose(answer, by_hand(words, ids[0][mask[0]].tolist()).detach(), atol=1e-5)
    picture = draw(found, REQUEST)[0]
    assert picture.image.size == (128, 128)
    assert picture.image.tobytes() != draw(found, REQUEST | {"text": "小桥"})[0].image.tobytes()


def test_a_folder_is_known_by_its_files(
    place: tuple[Path, System, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, original, _ = place
    assert registry.recipe(folder).text_encoders == original.recipe.text_encoders
    monkeypatch.setattr(registry, "recipes", lambda: {"pai-ldm": WANTED})
    assert registry.load(folder).recipe == original.recipe


def spoilt(place: Path, to: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    """A copy of the folder whose tensors are changed."""
    to.mkdir()
    for name in ("config.json", "vocab.txt", "RRDB_ESRGAN_x4.pth"):
        (to / name).write_bytes((place / name).read_bytes())
    state = torch.load(place / "pytorch_model.bin", weights_only=True)["state_dict"]
    change(state)
    torch.save(state, to / "pytorch_model.bin")
    return to


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("model_ema.diffusion_modelout2weight"), "missing 1: image.denoiser.model.conv_out.weight"),
        (lambda s: s.pop("cond_stage_model.model.ln_final.bias"), "missing 1: text.0.model.final_layer_norm.bias"),
        (
            lambda s: s.update({"model.diffusion_model.odd": torch.zeros(1)}),
            "unexpected 1: model.diffusion_model.odd without",
        ),
        (lambda s: s.update({"first_stage_model.odd": torch.zeros(1)}), "unexpected 1: first_stage_model.odd"),
        (
            lambda s: s.update({"cond_stage_model.model.transformer.resblocks.2.ln_1.bias": torch.zeros(16)}),
            "unexpected 1: text.0.model.encoder.layers.2.layer_norm1.bias",
        ),
        (lambda s: s.update({"first_stage_model.quant_conv.bias": torch.zeros(3)}), "misshapen 1"),
    ],
)
def test_what_does_not_fit_is_listed(
    place: tuple[Path, System, dict[str, Tensor]], tmp_path: Path, change: Any, said: str
) -> None:
    with pytest.raises(WeightsError) as caught:
        layout.read(spoilt(place[0], tmp_path / "spoilt", change), WANTED)
    assert said in caught.value.en


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"scale_by_std": True}, "scale_by_std"),
        ({"beta_schedule": "cosine"}, "beta_schedule"),
        ({"conditioning_key": "concat"}, "crossattn"),
        ({"unet_config": {"params": UNET | {"num_classes": 3}}}, "num_classes"),
        ({"first_stage_config": {"params": {"embed_dim": 3, "ddconfig": VAE}}}, "embed_dim"),
        ({"cond_stage_config": {"params": {"text_encoder": ENCODER, "normalize": False}}}, "normalize"),
    ],
)
def test_unsupported_configs_are_refused(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    wanted: Recipe = WANTED
    (tmp_path / "config.json").write_text(json.dumps({"model": {"params": SYSTEM | fields}}))
    with pytest.raises(RecipeError, match=said):
        layout.recipe_of(tmp_path, wanted)
    (tmp_path / "config.json").write_text(json.dumps({"model": {}}))
    with pytest.raises(WeightsError, match="params"):
        layout.recipe_of(tmp_path, wanted)
