"""Family by naming and by kind: what an adapter does to the weights of a tiny system is what diffusers' or peft's own
loaders do to the same network or, where neither reads it, the matrix that its definition gives.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bimo.core.errors import WeightsError
from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.models.adapters.attach import adapt, unadapt
from bimo.recipes.cogview4 import cogview4
from bimo.recipes.glm_image import glm_image
from bimo.recipes.hunyuan_dit import hunyuan_dit_1_2
from bimo.recipes.kolors import kolors
from bimo.recipes.longcat_image import longcat_image
from bimo.recipes.lumina_image import lumina_image
from bimo.recipes.ovis_image import ovis_image
from bimo.recipes.qwen_image import qwen_image
from bimo.recipes.qwen_image_21 import qwen_image_21
from bimo.recipes.taiyi_sd import taiyi_en
from bimo.recipes.taiyi_xl import taiyi_xl
from bimo.recipes.z_image import z_image
from bimo.recipes.z_image_omni import z_image_omni

ROOT = "image.denoiser.model"
UNET = "down_blocks.{}.attentions.0.transformer_blocks.0"
#: Family -> its recipe, diffusers' pipeline that reads its adapters ("" where none does), layers of its denoiser.
FAMILIES: dict[str, tuple[Recipe, str, tuple[str, ...]]] = {
    "sd": (
        taiyi_en,
        "StableDiffusionPipeline",
        (
            *(f"{UNET.format(0)}.{n}" for n in ("attn1.to_q", "attn2.to_k", "attn2.to_out.0", "ff.net.0.proj")),
            *("down_blocks.0.resnets.0.conv1", "mid_block.attentions.0.proj_in", "up_blocks.1.attentions.1.proj_out"),
        ),
    ),
    "sdxl": (
        taiyi_xl,
        "StableDiffusionXLPipeline",
        (f"{UNET.format(1)}.attn1.to_q", f"{UNET.format(1)}.ff.net.2", "mid_block.attentions.0.proj_in"),
    ),
    "kolors": (kolors, "StableDiffusionPipeline", (f"{UNET.format(1)}.attn2.to_v", f"{UNET.format(1)}.attn1.to_out.0")),
    "hunyuan": (hunyuan_dit_1_2, "", ("blocks.0.attn1.to_q", "blocks.1.attn2.to_out.0", "blocks.3.ff.net.2")),
    "z_image": (
        z_image,
        "ZImagePipeline",
        (
            *(f"layers.1.attention.{n}" for n in ("to_q", "to_k", "to_v", "to_out.0")),
            *("layers.0.feed_forward.w1", "layers.0.adaLN_modulation.0", "noise_refiner.0.attention.to_v"),
            *("context_refiner.0.feed_forward.w2", "cap_embedder.1", "t_embedder.mlp.0"),
        ),
    ),
    "qwen_image": (
        qwen_image,
        "QwenImagePipeline",
        (
            *(f"transformer_blocks.1.attn.{n}" for n in ("to_q", "add_k_proj", "to_out.0", "to_add_out")),
            *(f"transformer_blocks.0.{n}" for n in ("img_mod.1", "txt_mod.1", "img_mlp.net.0.proj", "txt_mlp.net.2")),
            *("img_in", "txt_in", "proj_out", "norm_out.linear", "time_text_embed.timestep_embedder.linear_1"),
        ),
    ),
    "cogview4": (cogview4, "CogView4Pipeline", ("transformer_blocks.1.attn1.to_q", "transformer_blocks.0.ff.net.2")),
    "lumina": (
        lumina_image,
        "Lumina2Pipeline",
        ("layers.1.attn.to_k", "layers.0.feed_forward.linear_1", "noise_refiner.0.norm1.linear"),
    ),
    "longcat": (
        longcat_image,
        "",
        ("transformer_blocks.0.attn.add_q_proj", "single_transformer_blocks.0.proj_mlp", "x_embedder"),
    ),
    "ovis": (ovis_image, "", ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.0.proj_out", "proj_out")),
    "z_image_omni": (
        z_image_omni,
        "ZImageOmniPipeline",
        (
            *("layers.1.attention.to_q", "layers.0.feed_forward.w1", "layers.0.adaLN_modulation.0"),
            *("siglip_refiner.0.attention.to_v", "siglip_refiner.0.feed_forward.w2", "siglip_embedder.1"),
        ),
    ),
    "qwen_image_21": (
        qwen_image_21,
        "QwenImage21Pipeline",
        (
            *(
                f"transformer_blocks.1.{n}"
                for n in ("attn.to_k", "attn.to_out.0", "img_mlp.gate_layer", "img_mlp.proj")
            ),
            *("transformer_blocks.0.img_mlp.out", "img_in", "txt_in.in_layer", "modulation.1", "norm_out.linear"),
            *("proj_out", "time_text_embed.timestep_embedder.linear_1"),
        ),
    ),
    "glm_image": (
        glm_image,
        "",
        (
            *("transformer_blocks.1.attn1.to_q", "transformer_blocks.0.ff.net.2", "transformer_blocks.0.norm1.linear"),
            *("glyph_projector.net.0.proj", "prior_projector.net.2", "image_projector.proj", "proj_out"),
        ),
    ),
}
RANK = 2


@pytest.fixture(scope="module")
def systems() -> Callable[[str], System]:
    """A tiny system by family, built when first asked for; every test leaves it as it was."""
    built: dict[str, System] = {}

    def of(family: str) -> System:
        if family not in built:
            torch.manual_seed(0)
            built[family] = System(FAMILIES[family][0].tiny()).eval()
        return built[family]

    return of


def halves(layer: torch.nn.Module, seed: int) -> tuple[Tensor, Tensor]:
    """up [out, r] and down [r, in ...] for a layer, as peft and kohya-ss shape them."""
    shape, generator = cast(Tensor, layer.weight).shape, torch.Generator().manual_seed(seed)
    up = torch.randn(shape[0], RANK, *[1] * (len(shape) - 2), generator=generator)
    return up, torch.randn(RANK, *shape[1:], generator=generator)


def product(up: Tensor, down: Tensor) -> Tensor:
    return (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])


def saved(state: dict[str, Tensor], file: Path, **more: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous().clone() for name, value in state.items()}, file, **more)
    return file


def compare(system: System, file: Path, expected: dict[str, Tensor], weight: float = 1.0) -> None:
    """Merged, exactly the expected parameters change, by ``weight`` times as much; taken out again, none has."""
    before = {name: value.clone() for name, value in system.state_dict().items()}
    adapt(system, file, weight)
    try:
        for name, value in system.state_dict().items():
            if name not in expected:
                assert torch.equal(value, before[name]), name
                continue
            wanted = before[name] + weight * expected[name]
            torch.testing.assert_close(value, wanted, atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
            assert not torch.equal(value, before[name])
        assert expected.keys() <= before.keys()
    finally:
        unadapt(system)
    assert all(torch.equal(value, before[name]) for name, value in system.state_dict().items())


def by_diffusers(system: System, pipeline: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What diffusers' loader of a pipeline adds to each parameter of the denoiser."""
    model = copy.deepcopy(system.get_submodule(ROOT))
    loader: Any = getattr(diffusers, pipeline)
    unet = hasattr(loader, "unet_name") and "Image" not in pipeline
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if unet:
            read, alphas = loader.lora_state_dict(dict(state), unet_config=model.config)[:2]
            loader.load_lora_into_unet(read, network_alphas=alphas, unet=model)
        else:
            loader.load_lora_into_transformer(loader.lora_state_dict(dict(state)), transformer=model)
        cast(Any, model).fuse_lora()
    own = dict(system.get_submodule(ROOT).named_parameters())
    found: dict[str, Tensor] = {}
    for name, value in model.named_parameters():
        if "lora_" not in name and "lokr_" not in name:
            name = name.replace(".base_layer", "")
            if not torch.equal(value, own[name]):
                found[f"{ROOT}.{name}"] = (value - own[name]).detach()
    return found


Spelled = Callable[[str], str]


def dots(before: str, down: str = "lora_A.weight", up: str = "lora_B.weight") -> tuple[Spelled, str, str]:
    return (lambda name: f"{before}{name}.", down, up)


def bars(before: str) -> tuple[Spelled, str, str]:
    return (lambda name: f"{before}{name.replace('.', '_')}.", "lora_down.weight", "lora_up.weight")


def processors(name: str) -> str:
    """diffusers' first way: of attentions the processors."""
    for part in ("to_q", "to_k", "to_v"):
        name = name.replace(f".{part}", f".processor.{part}_lora") if name.endswith(part) else name
    name = name.replace(".to_out.0", ".processor.to_out_lora")
    return f"unet.{name}." if "processor" in name else f"unet.{name}.lora."


DIFFUSERS = dots("unet."), dots("unet.", "lora.down.weight", "lora.up.weight")
TRANSFORMER = dots("transformer.")
NAMELESS = dots("")
COMFY, COMFY_ALPHA = dots("diffusion_model."), dots("diffusion_model.", "lora_down.weight", "lora_up.weight")
WHOLE = dots("model.diffusion_model.")
DEFAULT = dots("transformer.", "lora_A.default.weight", "lora_B.default.weight")
KOHYA, LYCORIS = bars("lora_unet_"), bars("lycoris_")
DOTS_ALONE = ((lambda name: f"{name.replace('to_', 'to.')}."), "lora.down.weight", "lora.up.weight")
#: diffusers' loaders know neither kohya-ss' names of the first two's layers, nor the last.
NEWER = ("z_image_omni", "qwen_image_21", "glm_image")
#: Family, naming, how it is spelt, whether it says alpha, and whether diffusers reads it.
NAMINGS: list[tuple[str, str, tuple[Spelled, str, str], bool, bool]] = [
    *((f, "diffusers", DIFFUSERS[0], False, True) for f in ("sd", "sdxl", "kolors")),
    *((f, "diffusers before peft", DIFFUSERS[1], False, True) for f in ("sd", "sdxl", "kolors")),
    *((f, "attention processors", (processors, "down.weight", "up.weight"), False, True) for f in ("sd", "kolors")),
    *((f, "kohya-ss", KOHYA, True, True) for f in ("sd", "sdxl", "kolors", "z_image", "qwen_image")),
    *((f, "kohya-ss", KOHYA, True, False) for f in ("hunyuan", "cogview4", "lumina", "longcat", "ovis", *NEWER)),
    *((f, "LyCORIS", LYCORIS, True, False) for f in FAMILIES),
    *((f, "diffusers", TRANSFORMER, False, True) for f in ("z_image", "qwen_image", "cogview4", "lumina", *NEWER[:2])),
    *((f, "diffusers", TRANSFORMER, False, False) for f in ("hunyuan", "longcat", "ovis", "glm_image")),
    *(
        (f, "peft's adapter", DEFAULT, False, False)
        for f in ("z_image", "cogview4", "lumina", "longcat", "ovis", *NEWER)
    ),
    *((f, "no prefix", NAMELESS, False, False) for f in FAMILIES),
    *((f, "ComfyUI", COMFY, False, True) for f in ("z_image", "qwen_image", *NEWER[:2])),
    *((f, "ComfyUI with alpha", COMFY_ALPHA, True, True) for f in ("z_image", "qwen_image", *NEWER[:2])),
    *(
        (f, "ComfyUI", COMFY, False, False)
        for f in ("cogview4", "lumina", "longcat", "ovis", "hunyuan", "sd", "glm_image")
    ),
    *((f, "ComfyUI with alpha", COMFY_ALPHA, True, False) for f in ("lumina", "ovis", "sdxl")),
    *((f, "whole checkpoint's", WHOLE, False, False) for f in FAMILIES),
    ("qwen_image", "DiffSynth", dots("", "lora_A.default.weight", "lora_B.default.weight"), False, True),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "naming", "spelt", "alpha", "read"), NAMINGS, ids=[f"{f}-{n}" for f, n, *_ in NAMINGS]
)
def test_namings(
    systems: Callable[[str], System],
    tmp_path: Path,
    family: str,
    naming: str,
    spelt: tuple[Spelled, str, str],
    alpha: bool,
    read: bool,
) -> None:
    system = systems(family)
    _, pipeline, layers = FAMILIES[family]
    name_of, down_name, up_name = spelt
    state: dict[str, Tensor] = {}
    dense: dict[str, Tensor] = {}
    for seed, name in enumerate(layers):
        up, down = halves(system.get_submodule(f"{ROOT}.{name}"), seed)
        # diffusers gives attentions of a UNet the most common alpha where they differ: there all are alike.
        strength = (3.0 if read and layers[0].startswith("down_") else 1.0 + seed) if alpha else float(RANK)
        state |= {f"{name_of(name)}{down_name}": down, f"{name_of(name)}{up_name}": up}
        if alpha:
            state[f"{name_of(name)}alpha"] = torch.tensor(strength)
        dense[f"{ROOT}.{name}.weight"] = product(up, down) * strength / RANK
    if read:
        expected = by_diffusers(system, pipeline, state)
        assert expected.keys() == dense.keys()
        for name, value in expected.items():
            torch.testing.assert_close(value, dense[name], atol=2e-5, rtol=1e-4)
    compare(system, saved(state, tmp_path / f"{naming}.safetensors"), dense, 0.8)


#: Family, what the authors call a layer, and diffusers' layers whose rows it has: a half is (name, which of two).
AUTHORS: list[tuple[str, str, tuple[str | tuple[str, int], ...], bool]] = [
    ("sd", "input_blocks.1.1.transformer_blocks.0.attn2.to_k", (f"{UNET.format(0)}.attn2.to_k",), False),
    ("sd", "input_blocks.1.0.emb_layers.1", ("down_blocks.0.resnets.0.time_emb_proj",), False),
    (
        "sdxl",
        "middle_block.1.transformer_blocks.0.ff.net.0.proj",
        ("mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",),
        False,
    ),
    ("hunyuan", "blocks.1.attn1.Wqkv", ("blocks.1.attn1.to_q", "blocks.1.attn1.to_k", "blocks.1.attn1.to_v"), False),
    ("hunyuan", "blocks.2.attn2.kv_proj", ("blocks.2.attn2.to_k", "blocks.2.attn2.to_v"), False),
    ("hunyuan", "blocks.2.mlp.fc1", ("blocks.2.ff.net.0.proj",), False),
    ("hunyuan", "mlp_t5.2", ("text_embedder.linear_2",), False),
    ("hunyuan", "final_layer.adaLN_modulation.1", (("norm_out.linear", 1), ("norm_out.linear", 0)), False),
    ("z_image", "layers.1.attention.qkv", tuple(f"layers.1.attention.to_{c}" for c in "qkv"), False),
    ("z_image", "context_refiner.0.attention.out", ("context_refiner.0.attention.to_out.0",), True),
    ("z_image", "final_layer.adaLN_modulation.1", ("all_final_layer.2-1.adaLN_modulation.1",), False),
    ("z_image", "x_embedder", ("all_x_embedder.2-1",), False),
    (
        "z_image_omni",
        "siglip_refiner.0.attention.qkv",
        tuple(f"siglip_refiner.0.attention.to_{c}" for c in "qkv"),
        False,
    ),
    ("z_image_omni", "siglip_refiner.0.attention.out", ("siglip_refiner.0.attention.to_out.0",), False),
    (
        "qwen_image_21",
        "transformer_blocks.1.img_mlp.gate_up",
        ("transformer_blocks.1.img_mlp.gate_layer", "transformer_blocks.1.img_mlp.proj"),
        False,
    ),
    ("lumina", "layers.1.attention.qkv", tuple(f"layers.1.attn.to_{c}" for c in "qkv"), False),
    ("lumina", "noise_refiner.0.adaLN_modulation.1", ("noise_refiner.0.norm1.linear",), False),
    ("lumina", "context_refiner.0.feed_forward.w3", ("context_refiner.0.feed_forward.linear_3",), False),
    ("lumina", "final_layer.linear", ("norm_out.linear_2",), False),
    ("lumina", "cap_embedder.1", ("time_caption_embed.caption_embedder.1",), False),
    ("longcat", "double_blocks.0.txt_attn.qkv", tuple(f"transformer_blocks.0.attn.add_{c}_proj" for c in "qkv"), False),
    ("longcat", "double_blocks.0.img_mlp.2", ("transformer_blocks.0.ff.net.2",), False),
    ("longcat", "final_layer.adaLN_modulation.1", (("norm_out.linear", 1), ("norm_out.linear", 0)), False),
    (
        "ovis",
        "single_blocks.0.linear1",
        (*(f"single_transformer_blocks.0.attn.to_{c}" for c in "qkv"), "single_transformer_blocks.0.proj_mlp"),
        False,
    ),
    ("ovis", "double_blocks.0.img_mlp.gate_proj", (("transformer_blocks.0.ff.net.0.proj", 1),), False),
    ("ovis", "double_blocks.0.txt_mlp.down_proj", ("transformer_blocks.0.ff_context.net.2",), False),
    ("ovis", "time_in.in_layer", ("timestep_embedder.linear_1",), False),
]


@pytest.mark.parametrize(("family", "name", "rows", "read"), AUTHORS, ids=[f"{f}-{n}" for f, n, *_ in AUTHORS])
def test_the_authors_names(
    systems: Callable[[str], System],
    tmp_path: Path,
    family: str,
    name: str,
    rows: tuple[str | tuple[str, int], ...],
    read: bool,
) -> None:
    system = systems(family)
    weights = [system.get_parameter(f"{ROOT}.{row if isinstance(row, str) else row[0]}.weight") for row in rows]
    heights = [len(w) // (1 if isinstance(row, str) else 2) for w, row in zip(weights, rows, strict=True)]
    generator = torch.Generator().manual_seed(1)
    up = torch.randn(sum(heights), RANK, generator=generator)
    down = torch.randn(RANK, *weights[0].shape[1:], generator=generator)
    dense: dict[str, Tensor] = {}
    for row, part, weight in zip(rows, product(up, down).split(heights), weights, strict=True):
        path = f"{ROOT}.{row if isinstance(row, str) else row[0]}.weight"
        whole = dense.setdefault(path, torch.zeros_like(weight))
        (whole if isinstance(row, str) else whole.chunk(2)[row[1]]).copy_(part)
    for before, (a, b) in (
        ("diffusion_model.", ("lora_A.weight", "lora_B.weight")),
        ("lora_unet_", ("lora_down.weight", "lora_up.weight")),
    ):
        base = before + (name.replace(".", "_") if before.endswith("_") else name)
        state = {f"{base}.{a}": down, f"{base}.{b}": up}
        if before == "lora_unet_":
            state[f"{base}.alpha"] = torch.tensor(float(RANK))
        if read and before == "lora_unet_":
            expected = by_diffusers(system, FAMILIES[family][1], state)
            assert expected.keys() == dense.keys()
        compare(system, saved(state, tmp_path / "style.safetensors"), dense)


def test_of_two_names_for_one_layer_diffusers_counts(systems: Callable[[str], System], tmp_path: Path) -> None:
    """Files of some trainers of Z-Image have both, with dots for underscores."""
    system = systems("z_image")
    layers = [f"layers.0.attention.{n}" for n in ("to_q", "to_k", "to_v", "to_out.0")]
    state: dict[str, Tensor] = {}
    dense: dict[str, Tensor] = {}
    for seed, name in enumerate(layers):
        up, down = halves(system.get_submodule(f"{ROOT}.{name}"), seed)
        spelt = name.replace("to_q", "to.q").replace("to_k", "to.k").replace("to_v", "to.v")
        state |= {f"diffusion_model.{spelt}.lora.down.weight": down, f"diffusion_model.{spelt}.lora.up.weight": up}
        dense[f"{ROOT}.{name}.weight"] = product(up, down)
    at = "diffusion_model.layers.0.attention"
    for name, height in (("qkv", 48), ("out", 16)):
        state |= {
            f"{at}.{name}.lora.down.weight": torch.ones(RANK, 16),
            f"{at}.{name}.lora.up.weight": torch.ones(height, RANK),
        }
    expected = by_diffusers(system, "ZImagePipeline", state)
    assert expected.keys() == dense.keys()
    for name, value in expected.items():
        torch.testing.assert_close(value, dense[name], atol=2e-5, rtol=1e-4)
    compare(system, saved(state, tmp_path / "both.safetensors"), dense)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16])
def test_narrow_numbers(systems: Callable[[str], System], tmp_path: Path, dtype: torch.dtype) -> None:
    """As trainers shrink their files: what the numbers stand for, in float32."""
    system = systems("z_image")
    name = "layers.1.attention.to_q"
    up, down = (half.to(dtype) for half in halves(system.get_submodule(f"{ROOT}.{name}"), 1))
    state = {f"diffusion_model.{name}.lora_A.weight": down, f"diffusion_model.{name}.lora_B.weight": up}
    state[f"diffusion_model.{name}.alpha"] = torch.tensor(1.0).to(dtype)
    expected = {f"{ROOT}.{name}.weight": product(up.float(), down.float()) / RANK}
    compare(system, saved(state, tmp_path / "narrow.safetensors"), expected)
    broken = up.float()
    broken[0, -1] = float("nan")
    state[f"diffusion_model.{name}.lora_B.weight"] = broken.to(dtype)
    with pytest.raises(WeightsError, match="NaN"):
        adapt(system, saved(state, tmp_path / "broken.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd", "sdxl", "lumina", "hunyuan"])
def test_text_encoders(systems: Callable[[str], System], tmp_path: Path, family: str) -> None:
    """Of each tower one layer, as diffusers, kohya-ss and peft, in a folder of the tower's name, spell it."""
    system = systems(family)
    layer = {
        "sd": ("encoder.layers.1.self_attn.q_proj",),
        "sdxl": ("encoder.layers.0.mlp.fc1", "encoder.layers.1.self_attn.out_proj"),
        "lumina": ("layers.1.self_attn.v_proj",),
        "hunyuan": ("encoder.layer.0.attention.self.query", "block.0.layer.0.SelfAttention.q"),
    }[family]
    for index, name in enumerate(layer):
        module = system.get_submodule(f"text.{index}.model.{name}")
        up, down = halves(module, index)
        inner = f"text_model.{name}" if family in ("sd", "sdxl") else name
        dense = {f"text.{index}.model.{name}.weight": product(up, down)}
        number = "" if index == 0 else f"_{index + 1}"
        folder = tmp_path / f"text_encoder{number}"
        spelt = {f"text_encoder{number}.{inner}": "lora_A.weight lora_B.weight"}
        spelt |= {f"text_encoder{number}.{inner} ": "lora_linear_layer.down.weight lora_linear_layer.up.weight"}
        spelt |= {f"lora_te{index + 1}_{inner.replace('.', '_')}": "lora_down.weight lora_up.weight"}
        if index == 0:
            spelt |= {f"lora_te_{inner.replace('.', '_')}": "lora_down.weight lora_up.weight"}
        for base, ends in spelt.items():
            a, b = ends.split()
            state = {f"{base.strip()}.{a}": down, f"{base.strip()}.{b}": up}
            compare(system, saved(state, tmp_path / "style.safetensors"), dense)
        state = {f"base_model.model.{inner}.lora_A.weight": down, f"base_model.model.{inner}.lora_B.weight": up}
        file = saved(state, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": 6}))
        strong = {path: 3 * value for path, value in dense.items()}
        compare(system, folder, strong)
        compare(system, file, strong)


def test_the_projection_of_a_text_encoder(systems: Callable[[str], System], tmp_path: Path) -> None:
    system = systems("sdxl")
    up, down = halves(system.get_submodule("text.1.projection"), 5)
    for base, a, b in (
        ("lora_te2_text_projection", "lora_down", "lora_up"),
        ("text_encoder_2.text_projection", "lora_A", "lora_B"),
    ):
        state = {f"{base}.{a}.weight": down, f"{base}.{b}.weight": up}
        compare(system, saved(state, tmp_path / "p.safetensors"), {"text.1.projection.weight": product(up, down)})


def learnt(config: Any, system: System, layers: tuple[str, ...], folder: Path) -> dict[str, Tensor]:
    """An adapter of peft's own classes for layers of the denoiser, every number of it random, saved as peft saves it;
    what merging it there adds to each parameter.
    """
    from peft import get_peft_model

    model = copy.deepcopy(system.get_submodule(ROOT))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    config.target_modules = list(layers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped: Any = get_peft_model(model, config)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if parameter.requires_grad:
                    begun = parameter if "magnitude" in name else 1.0 if "ia3" in name else 0.0
                    parameter.copy_(begun + 0.3 * torch.randn(parameter.shape, generator=generator))
        wrapped.save_pretrained(str(folder))
        merged = wrapped.merge_and_unload()
    after = dict(merged.named_parameters())
    return {f"{ROOT}.{n}": after[n].detach() - v for n, v in before.items() if not torch.equal(after[n], v)}


LINEAR, CONV = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "down_blocks.0.resnets.0.conv1"
WIDE, BIASED = "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj", "mid_block.resnets.0.conv1"
#: Class of peft's settings, its fields, and the layers.
PEFT: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "LoRA": ("LoraConfig", {"r": 4, "lora_alpha": 16}, (LINEAR, CONV)),
    "rank-stabilised": ("LoraConfig", {"r": 4, "lora_alpha": 3, "use_rslora": True}, (LINEAR, WIDE)),
    "patterns": (
        "LoraConfig",
        {"r": 4, "lora_alpha": 8, "rank_pattern": {"to_q": 3}, "alpha_pattern": {"ff.net.0.proj": 5, "to_q": 7}},
        (LINEAR, WIDE, CONV),
    ),
    "DoRA": ("LoraConfig", {"r": 2, "lora_alpha": 3, "use_dora": True}, (LINEAR, CONV, WIDE)),
    "LoRA with a bias": ("LoraConfig", {"r": 2, "lora_alpha": 3, "lora_bias": True}, (WIDE,)),
    "LoHa": ("LoHaConfig", {"r": 2, "alpha": 5}, (LINEAR, CONV)),
    "LoHa of Tucker's": ("LoHaConfig", {"r": 2, "alpha": 5, "use_effective_conv2d": True}, (CONV,)),
    "LoKr": ("LoKrConfig", {"r": 1, "alpha": 3, "decompose_both": True}, (LINEAR, CONV, WIDE)),
    "LoKr of Tucker's": ("LoKrConfig", {"r": 1, "alpha": 3, "use_effective_conv2d": True}, (CONV,)),
    "LoKr whole": ("LoKrConfig", {"r": 8, "alpha": 4}, (LINEAR, CONV)),
    "OFT": ("OFTConfig", {"r": 0, "oft_block_size": 4}, (LINEAR, CONV)),
    "OFT of one block": ("OFTConfig", {"r": 0, "oft_block_size": 4, "block_share": True}, (LINEAR, WIDE)),
    "OFT by Cayley": ("OFTConfig", {"r": 2, "oft_block_size": 0, "use_cayley_neumann": False}, (LINEAR,)),
    "OFT of three terms": ("OFTConfig", {"r": 2, "oft_block_size": 0, "num_cayley_neumann_terms": 3}, (LINEAR,)),
    "BOFT": ("BOFTConfig", {"boft_block_size": 4, "boft_n_butterfly_factor": 1}, (LINEAR, CONV)),
    "BOFT of two stages": ("BOFTConfig", {"boft_block_size": 2, "boft_n_butterfly_factor": 2}, (LINEAR, WIDE)),
    "BOFT of one": ("BOFTConfig", {"boft_block_size": 4, "boft_n_butterfly_factor": 0}, (LINEAR,)),
    "(IA)^3": ("IA3Config", {"feedforward_modules": [WIDE, BIASED]}, (LINEAR, WIDE, CONV, BIASED)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PEFT)
def test_what_peft_wrote(systems: Callable[[str], System], tmp_path: Path, kind: str) -> None:
    """As a folder, as the file in it, and under another name: the settings that lie beside it are its own."""
    import peft

    system = systems("sd")
    cls, fields, layers = PEFT[kind]
    expected = learnt(getattr(peft, cls)(**fields), system, layers, tmp_path / "saved")
    assert expected
    compare(system, tmp_path / "saved", expected)
    compare(system, tmp_path / "saved" / "adapter_model.safetensors", expected, 0.5)
    other = (tmp_path / "saved" / "adapter_model.safetensors").rename(tmp_path / "saved" / "ink.safetensors")
    compare(system, other, expected)


def test_settings_that_cannot_be_meant_are_refused(systems: Callable[[str], System], tmp_path: Path) -> None:
    import peft

    system = systems("sd")
    learnt(peft.LoraConfig(r=4, lora_alpha=16), system, (LINEAR,), tmp_path)
    config = tmp_path / "adapter_config.json"
    said = json.loads(config.read_text())
    cases: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
        "rank": ({"r": 8}, ("rank 8", "has rank")),
        "kind": ({"peft_type": "VERA"}, ("VERA", "not read")),
        "bias": ({"bias": "all"}, ("bias 'all'", "draw wrong")),
        "saved": ({"modules_to_save": ["conv_in"]}, ("modules_to_save",)),
        "begun": ({"init_lora_weights": "pissa"}, ("pissa",)),
        "strength": ({"lora_alpha": None}, ("no lora_alpha",)),
    }
    for fields, told in cases.values():
        config.write_text(json.dumps({**said, **fields}))
        with pytest.raises(WeightsError) as error:
            adapt(system, tmp_path / "adapter_model.safetensors")
        assert all(each in error.value.en for each in (str(config), *told)), error.value.en
    config.unlink()
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        with pytest.raises(WeightsError, match=r"adapter_config\.json"):
            adapt(system, path)


def test_folders_of_trainers(systems: Callable[[str], System], tmp_path: Path) -> None:
    """A file of diffusers' name, one adapter for each network, one file of any name; not of two."""
    import peft

    system = systems("sd")
    up, down = halves(system.get_submodule(f"{ROOT}.{LINEAR}"), 1)
    state = {f"unet.{LINEAR}.lora_A.weight": down, f"unet.{LINEAR}.lora_B.weight": up}
    expected = {f"{ROOT}.{LINEAR}.weight": product(up, down)}
    saved(state, tmp_path / "run" / "pytorch_lora_weights.safetensors")
    (tmp_path / "run" / "optimizer.bin").write_bytes(b"")
    compare(system, tmp_path / "run", expected)
    torch.save(state, tmp_path / "run" / "pytorch_lora_weights.bin")
    (tmp_path / "run" / "pytorch_lora_weights.safetensors").unlink()
    compare(system, tmp_path / "run", expected)
    saved(state, tmp_path / "one" / "墨.safetensors")
    compare(system, tmp_path / "one", expected)
    saved(state, tmp_path / "one" / "second.safetensors")
    with pytest.raises(WeightsError, match=r"second\.safetensors"):
        adapt(system, tmp_path / "one")
    saved(state, tmp_path / "steps" / "checkpoint-10" / "pytorch_lora_weights.safetensors")
    with pytest.raises(WeightsError, match=r"checkpoint-10/pytorch_lora_weights\.safetensors"):
        adapt(system, tmp_path / "steps")
    both = learnt(peft.LoraConfig(r=2, lora_alpha=4), system, (LINEAR, CONV), tmp_path / "both" / "unet")
    name = "text_model.encoder.layers.0.self_attn.k_proj"
    up, down = halves(system.get_submodule("text.0.model.encoder.layers.0.self_attn.k_proj"), 2)
    words = {f"base_model.model.{name}.lora_A.weight": down, f"base_model.model.{name}.lora_B.weight": up}
    saved(words, tmp_path / "both" / "text_encoder" / "adapter_model.safetensors")
    (tmp_path / "both" / "text_encoder" / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 1}')
    both["text.0.model.encoder.layers.0.self_attn.k_proj.weight"] = product(up, down) / 2
    compare(system, tmp_path / "both", both)


def rows_turned(blocks: Tensor) -> Tensor:
    """The turn of rows by (1 + Q) (1 - Q)^-1 in blocks, as a matrix to be multiplied from the left."""
    q = blocks - blocks.transpose(1, 2)
    one = torch.eye(q.shape[-1])
    return torch.block_diag(*((one + each) @ torch.linalg.inv(one - each) for each in q)).T


def lengthened(weight: Tensor, lengths: Tensor, dims: tuple[int, ...]) -> Tensor:
    return weight / weight.square().sum(dim=dims, keepdim=True).sqrt() * lengths


def lycoris(kind: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The tensors of a kind for a weight, and what its definition adds."""
    generator = torch.Generator().manual_seed(4)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    out, across, *places = weight.shape
    alpha = {"alpha": torch.tensor(3.0)}
    up, down = numbers(out, RANK, *[1] * len(places)), numbers(RANK, across, *places)
    low = {"lora_up.weight": up, "lora_down.weight": down, **alpha}
    dense = product(up, down) * 1.5
    rest = tuple(range(1, weight.ndim))
    if kind == "LoCon with a middle":
        up, down, mid = numbers(out, RANK, 1, 1), numbers(RANK, across, 1, 1), numbers(RANK, RANK, *places)
        made = torch.einsum("om,mnhw,ni->oihw", up[..., 0, 0], mid, down[..., 0, 0])
        return {"lora_up.weight": up, "lora_down.weight": down, "lora_mid.weight": mid, **alpha}, made * 1.5
    if kind == "scalar":
        return {**low, "scalar": torch.tensor(0.5)}, dense / 2
    if kind == "DoRA of rows":
        lengths = numbers(out, *[1] * (weight.ndim - 1)).abs() + 0.5
        return {**low, "dora_scale": lengths}, lengthened(weight + dense, lengths, rest) - weight
    if kind == "DoRA of columns":
        lengths = numbers(1, across, *[1] * (weight.ndim - 2)).abs() + 0.5
        return {**low, "dora_scale": lengths}, lengthened(weight + dense, lengths, (0, *rest[1:])) - weight
    flat = numbers(out, RANK), numbers(RANK, across * weight[0, 0].numel()), numbers(out, RANK)
    loha = {"hada_w1_a": flat[0], "hada_w1_b": flat[1], "hada_w2_a": flat[2], "hada_w2_b": flat[1] + 1, **alpha}
    hadamard = ((flat[0] @ flat[1]) * (flat[2] @ (flat[1] + 1)) * 1.5).reshape(weight.shape)
    if kind == "LoHa":
        return loha, hadamard
    if kind == "LoHa and DoRA":
        lengths = numbers(out, *[1] * (weight.ndim - 1)).abs() + 0.5
        return {**loha, "dora_scale": lengths}, lengthened(weight + hadamard, lengths, rest) - weight
    if kind == "LoKr":
        first, second = numbers(2, 4), (numbers(out // 2, 1), numbers(1, across // 4 * weight[0, 0].numel()))
        large = (second[0] @ second[1]).reshape(out // 2, across // 4, *places)
        made = torch.kron(first.reshape(2, 4, *[1] * len(places)), large) * 3.0
        return {"lokr_w1": first, "lokr_w2_a": second[0], "lokr_w2_b": second[1], **alpha}, made
    if kind == "LoKr of Tucker's":
        first, core = numbers(2, 2), numbers(RANK, RANK, *places)
        above, below = numbers(RANK, out // 2), numbers(RANK, across // 2)
        large = torch.einsum("rshw,ro,si->oihw", core, above, below)
        state = {"lokr_w1": first, "lokr_t2": core, "lokr_w2_a": above, "lokr_w2_b": below, **alpha}
        return state, torch.kron(first.reshape(2, 2, 1, 1), large.contiguous()) * 1.5
    if kind == "LoKr whole":  # then alpha says nothing
        first, large = numbers(4, 2), numbers(out // 4, across // 2, *places)
        return {"lokr_w1": first, "lokr_w2": large, **alpha}, torch.kron(first.reshape(4, 2, *[1] * len(places)), large)
    if kind in ("(IA)^3", "(IA)^3 of inputs"):
        inputs = kind != "(IA)^3"
        share = numbers(across if inputs else out)
        wide = (1, -1) if inputs else (-1, 1)
        made = weight * share.view(*wide, *[1] * len(places))
        return {"weight": share, "on_input": torch.tensor(int(inputs))}, made
    if kind == "difference":
        return {"diff": numbers(*weight.shape)}, lycoris_difference(weight)
    if kind == "GLoRA":
        a1, a2, b1, b2 = numbers(across, RANK), numbers(RANK, across), numbers(out, RANK), numbers(RANK, across)
        state = {"a1.weight": a1, "a2.weight": a2, "b1.weight": b1, "b2.weight": b2, **alpha}
        return state, (weight @ a1 @ a2 + b1 @ b2) * 1.5
    blocks = numbers(out // 4, 4, 4)
    if kind == "OFT":
        turned = (rows_turned(blocks) @ weight.flatten(1)).reshape(weight.shape)
        return {"oft_blocks": blocks, "alpha": torch.tensor(0.0)}, turned - weight
    if kind == "OFT, held back":
        q = blocks - blocks.transpose(1, 2)
        held = blocks * (0.01 * out / q.norm())
        turned = (rows_turned(held) @ weight.flatten(1)).reshape(weight.shape)
        return {"oft_blocks": blocks, "alpha": torch.tensor(0.01)}, turned - weight
    if kind == "OFT, rescaled":
        by = numbers(out, *[1] * (weight.ndim - 1)) + 1
        turned = (rows_turned(blocks) @ weight.flatten(1)).reshape(weight.shape) * by
        return {"oft_blocks": blocks, "rescale": by}, turned - weight
    assert kind == "BOFT"
    stages = numbers(2, out // 4, 4, 4)
    whole = weight.flatten(1)
    for stage, blocks in enumerate(stages):
        # Rows of a stage meet that are 2 * 2**stage apart.
        order = torch.arange(out).reshape(-1, 2, 2 * 2**stage).transpose(1, 2).flatten()
        back = torch.arange(out).reshape(-1, 2 * 2**stage, 2).transpose(1, 2).flatten()
        whole = (rows_turned(blocks).T @ whole[order])[back]
    return {"oft_blocks": stages}, whole.reshape(weight.shape) - weight


def lycoris_difference(weight: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    shapes = ((weight.shape[0], RANK, *[1] * (weight.ndim - 2)), (RANK, *weight.shape[1:]))
    flat = ((weight.shape[0], RANK), (RANK, weight[0].numel()), (weight.shape[0], RANK))
    for shape in (*shapes, *flat):
        torch.randn(*shape, generator=generator)
    return torch.randn(*weight.shape, generator=generator) * 0.3


LYCORIS_KINDS = [
    *(("LoCon with a middle", CONV), ("LoKr of Tucker's", CONV), ("scalar", LINEAR)),
    *((f"DoRA of {which}", layer) for which in ("rows", "columns") for layer in (LINEAR, CONV, WIDE)),
    *((kind, layer) for kind in ("LoHa", "LoHa and DoRA", "LoKr", "LoKr whole") for layer in (LINEAR, CONV)),
    *((kind, layer) for kind in ("(IA)^3", "(IA)^3 of inputs", "difference") for layer in (WIDE, CONV)),
    *((kind, layer) for kind in ("OFT", "OFT, held back", "OFT, rescaled", "BOFT") for layer in (LINEAR, CONV)),
    ("GLoRA", LINEAR),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "layer"), LYCORIS_KINDS, ids=[f"{k}-{n.rsplit('.', 2)[-1]}" for k, n in LYCORIS_KINDS]
)
def test_kinds_of_lycoris(systems: Callable[[str], System], tmp_path: Path, kind: str, layer: str) -> None:
    system = systems("sd")
    weight = system.get_parameter(f"{ROOT}.{layer}.weight").detach()
    tensors, expected = lycoris(kind, weight)
    for before in ("lora_unet_", "lycoris_", "diffusion_model."):
        base = before + (layer.replace(".", "_") if before.endswith("_") else layer)
        state = {f"{base}.{role}": value for role, value in tensors.items()}
        compare(system, saved(state, tmp_path / "kind.safetensors"), {f"{ROOT}.{layer}.weight": expected}, 0.5)
    torch.save(state, tmp_path / "kind.pt")
    compare(system, tmp_path / "kind.pt", {f"{ROOT}.{layer}.weight": expected})


def test_norms_and_biases(systems: Callable[[str], System], tmp_path: Path) -> None:
    """Full differences of LyCORIS, also of what is not a matrix."""
    system = systems("sd")
    norm = "down_blocks.0.attentions.0.norm"
    state = {
        f"lora_unet_{norm.replace('.', '_')}.w_norm": torch.ones(8),
        f"lora_unet_{norm.replace('.', '_')}.b_norm": torch.full((8,), 0.5),
        f"lora_unet_{CONV.replace('.', '_')}.diff_b": torch.full((8,), 2.0),
        "lora_te_text_model_final_layer_norm.diff": torch.full((16,), 3.0),
    }
    expected = {f"{ROOT}.{norm}.weight": torch.ones(8), f"{ROOT}.{norm}.bias": torch.full((8,), 0.5)}
    expected |= {f"{ROOT}.{CONV}.bias": torch.full((8,), 2.0)}
    expected |= {"text.0.model.final_layer_norm.weight": torch.full((16,), 3.0)}
    compare(system, saved(state, tmp_path / "norms.safetensors"), expected)


@pytest.mark.parametrize("kind", ["LoKr", "DoRA of columns", "OFT", "LoHa"])
def test_kinds_over_fused_layers(systems: Callable[[str], System], tmp_path: Path, kind: str) -> None:
    """What changes q, k and v together changes each by its rows of the whole."""
    system = systems("z_image")
    paths = [f"{ROOT}.layers.0.attention.to_{c}.weight" for c in "qkv"]
    whole = torch.cat([system.get_parameter(path).detach() for path in paths])
    tensors, dense = lycoris(kind, whole)
    state = {f"diffusion_model.layers.0.attention.qkv.{role}": value for role, value in tensors.items()}
    compare(system, saved(state, tmp_path / "fused.safetensors"), dict(zip(paths, dense.chunk(3), strict=True)))


def test_lokr_of_ai_toolkit(systems: Callable[[str], System], tmp_path: Path) -> None:
    """As diffusers reads it for Z-Image."""
    system = systems("z_image")
    name = "layers.1.attention.to_q"
    generator = torch.Generator().manual_seed(6)
    first, a, b = (torch.randn(*shape, generator=generator) for shape in ((4, 4), (4, 1), (1, 4)))
    tensors = {"lokr_w1": first, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(0.5)}
    dense = torch.kron(first, a @ b) / 2
    state = {f"diffusion_model.{name}.{role}": value for role, value in tensors.items()}
    expected = by_diffusers(system, "ZImagePipeline", state)
    assert expected.keys() == {f"{ROOT}.{name}.weight"}
    torch.testing.assert_close(expected[f"{ROOT}.{name}.weight"], dense, atol=2e-5, rtol=1e-4)
    compare(system, saved(state, tmp_path / "lokr.safetensors"), expected)
