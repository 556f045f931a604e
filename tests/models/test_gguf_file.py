"""Files of GGUF as ComfyUI's and stable-diffusion.cpp's users have them, written by the gguf package."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from diffusers import PNDMScheduler
from torch import nn

import bimo
from bimo.core.errors import BimoError, RequestError, WeightsError
from bimo.core.recipe import Recipe
from bimo.engine.memory import Keeping, resident_bytes, weights_of
from bimo.hub import registry
from bimo.models.layouts import gguf_file
from bimo.models.layouts.gguf_file import GgufDenoiser, GgufLinear
from bimo.models.stable_diffusion import ldm_names
from bimo.recipes.hunyuan_image import hunyuan_image_2_1, hunyuan_image_2_1_distilled
from bimo.recipes.qwen_image_21 import qwen_image_21
from bimo.recipes.z_image_omni import z_image_omni
from tests.support import flow_checkpoints
from tests.support.drawing import draw
from tests.support.gguf_files import Arrays, write
from tests.support.tiny_checkpoints import checkpoint

gguf: Any = pytest.importorskip("gguf")

KINDS = ("Q8_0", "Q4_0", "F16", "BF16")


def arrays(module: nn.Module) -> Arrays:
    return {name: value.detach().float().numpy().copy() for name, value in module.state_dict().items()}


def comfy_of_z_image(own: Arrays) -> Arrays:
    """The names of ComfyUI's Z-Image: q, k and v fused, everything else called otherwise."""
    found: Arrays = {"norm_final.weight": numpy.ones(4, "f4")}
    for name, value in own.items():
        if name.endswith("to_q.weight"):
            stem = name.removesuffix("to_q.weight")
            found[f"{stem}qkv.weight"] = numpy.concatenate([own[f"{stem}to_{part}.weight"] for part in "qkv"])
        elif not name.endswith(("to_k.weight", "to_v.weight")):
            name = re.sub(r"^all_(x_embedder|final_layer)\.2-1\.", r"\1.", name).replace("to_out.0.", "out.")
            found[re.sub(r"\.norm_([qk])\.", r".\1_norm.", name)] = value
    return found


def own_of_z_image(held: Arrays) -> Arrays:
    found: Arrays = {}
    for name, value in held.items():
        name = re.sub(r"^(x_embedder|final_layer)\.", r"all_\1.2-1.", name)
        name = re.sub(r"\.([qk])_norm\.", r".norm_\1.", name).replace("attention.out.", "attention.to_out.0.")
        if "qkv" in name:
            found |= {
                name.replace("qkv", f"to_{part}"): rows for part, rows in zip("qkv", numpy.split(value, 3), strict=True)
            }
        elif name != "norm_final.weight":
            found[name] = value
    return found


@pytest.fixture(scope="module")
def z_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose transformer is wide enough for blocks, as diffusers saved it."""
    folder = tmp_path_factory.mktemp("z") / "z-image"
    pipeline = flow_checkpoints.z_image(folder)
    wide: Any = dict(pipeline.transformer.config) | {"dim": 64, "axes_dims": [16, 8, 8]}
    cls = type(pipeline.transformer)
    pipeline.register_modules(transformer=flow_checkpoints.awake(cls.from_config(wide)))
    pipeline.save_pretrained(str(folder))
    return folder


def network(system: Any) -> Any:
    return system.level(system.recipe.levels[-1].name).denoiser.model


def plain(folder: Path) -> Arrays:
    return arrays(network(registry.load(folder)))


@pytest.mark.parametrize("kind", KINDS)
def test_z_image_of_comfy_draws_as_its_float_model(z_image: Path, kind: str, tmp_path: Path) -> None:
    file = tmp_path / "z.gguf"
    held = write(file, comfy_of_z_image(plain(z_image)), kind, "lumina2")
    expected = own_of_z_image(held)
    kept = registry.load(z_image, stored=True, denoiser=file, blocks=True)
    blocks = [name for name, layer in network(kept).named_modules() if isinstance(layer, GgufLinear)]
    assert bool(blocks) == (kind in ("Q8_0", "Q4_0"))
    assert ("layers.0.attention.to_k" in blocks) == bool(blocks)
    whole = registry.load(z_image, denoiser=file)
    for name, value in arrays(network(whole)).items():
        numpy.testing.assert_array_equal(value, expected[name])

    request = {"text": "红苹果", "seed": 1, "steps": 2, "size": (32, 32)}
    engine = bimo.load(z_image, denoiser=file)
    drawn = numpy.asarray(engine.draw(request)[0].image).astype(int)
    float_model = bimo.load(z_image)
    network(float_model.system).load_state_dict({n: torch.from_numpy(v) for n, v in expected.items()})
    reference = numpy.asarray(float_model.draw(request)[0].image).astype(int)
    assert numpy.abs(drawn - reference).max() <= 1
    # It is told apart from the folder's own weights, and from another file.
    assert engine.draw(request)[0].weights not in ("", float_model.draw(request)[0].weights)


@pytest.mark.parametrize("how", [{"dtype": "bf16"}, {"offload": "parts"}, {"dtype": "bf16", "offload": "disk"}])
def test_blocks_stay_blocks_however_they_are_kept(z_image: Path, how: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "z.gguf"
    write(file, comfy_of_z_image(plain(z_image)), "Q8_0")
    request = {"text": "红苹果", "seed": 1, "steps": 2, "size": (32, 32)}
    reference = numpy.asarray(bimo.load(z_image, denoiser=file).draw(request)[0].image).astype(int)
    engine = bimo.load(z_image, denoiser=file, **how)
    drawn = numpy.asarray(engine.draw(request)[0].image).astype(int)
    assert numpy.abs(drawn - reference).mean() < (2 if "dtype" in how else 1e-9)
    kinds = {p.dtype for p in network(engine.system).parameters()}
    assert torch.uint8 in kinds
    assert kinds - {torch.uint8} == {torch.bfloat16 if "dtype" in how else torch.float32}


def test_memory_counts_blocks_as_they_are(z_image: Path, tmp_path: Path) -> None:
    file = tmp_path / "z.gguf"
    write(file, comfy_of_z_image(plain(z_image)), "Q8_0")
    whole, kept = (weights_of(registry.load(z_image, stored=True, denoiser=file, blocks=b)) for b in (False, True))
    assert whole.blocks == 0
    rounded = whole.denoisers[0] - kept.denoisers[0]
    assert kept.blocks == rounded * 34 // 32  # 32 numbers and a scale of two bytes
    saved = resident_bytes(whole, Keeping("bf16")) - resident_bytes(kept, Keeping("bf16"))
    assert saved == 2 * rounded - kept.blocks


def test_a_whole_files_prefix_and_a_kept_shape(tmp_path: Path) -> None:
    folder = tmp_path / "qwen"
    flow_checkpoints.saved(folder, "qwen_image")
    own = plain(folder)
    name = "transformer_blocks.1.attn.to_q.weight"
    cut = {f"{gguf_file.PREFIX}{n}": v.reshape(-1, 32) if n == name else v for n, v in own.items()}
    file = tmp_path / "whole.gguf"
    held = write(
        file,
        {**cut, "first_stage_model.decoder.conv_in.weight": numpy.ones((2, 2), "f4")},
        "Q8_0",
        **{f"{gguf_file.PREFIX}{name}".replace(".", "__"): list(own[name].shape)},
    )
    found = arrays(network(registry.load(folder, denoiser=file)))
    assert found.keys() == own.keys()
    expected = held[f"{gguf_file.PREFIX}{name}"].reshape(own[name].shape)
    numpy.testing.assert_array_equal(found[name], expected)
    assert numpy.abs(expected - own[name]).max() > 1e-6
    assert GgufDenoiser(file).recipe == "qwen-image"


def test_a_unet_of_stable_diffusion_cpp(tmp_path: Path) -> None:
    folder = tmp_path / "sd"
    steps = PNDMScheduler(skip_prk_steps=True, steps_offset=1)
    checkpoint(folder, "clip", steps, channels=(32, 64), attention_head_dim=8)
    own = plain(folder)
    names = ldm_names.inverse(ldm_names.unet_names(ldm_names.Blocks(1, (1, 0))))
    theirs = {ldm_names.renamed(name, names) or name: value for name, value in own.items()}
    file = tmp_path / "sd.gguf"
    held = write(file, theirs, "Q8_0", "sd1")
    kept = registry.load(folder, denoiser=file, blocks=True)
    assert any(isinstance(layer, GgufLinear) for layer in network(kept).modules())
    found = arrays(network(registry.load(folder, denoiser=file)))
    for name, value in found.items():
        numpy.testing.assert_array_equal(value, held[ldm_names.renamed(name, names) or name])
    with pytest.raises(WeightsError, match="--denoiser"):
        registry.load(file)


def test_k_quants_are_worked_out_layer_by_layer() -> None:
    numbers = numpy.random.default_rng(0)
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType.Q4_K]
    data = numbers.integers(0, 256, (8, 2 * size), dtype=numpy.uint8)
    scales = data.reshape(-1, size)[:, :4]
    scales[:] = numpy.float16([0.01, 0.02]).view(numpy.uint8)
    matrix = gguf.quants.dequantize(data, gguf.GGMLQuantizationType.Q4_K)
    stored = gguf_file.GgufTensor((8, 2 * block), "Q4_K", torch.from_numpy(data))
    layer = GgufLinear(nn.Linear(2 * block, 8), stored)
    x = torch.randn(3, 2 * block, generator=torch.Generator().manual_seed(0))
    expected = nn.functional.linear(x, torch.from_numpy(matrix), layer.bias)
    # diffusers works scales out in float16.
    assert (layer(x) - expected).norm() < 1e-3 * expected.norm()
    torch.testing.assert_close(stored.dequantized(torch.float32), torch.from_numpy(matrix))


def cut_file(path: Path, folder: Path) -> None:
    write(path, comfy_of_z_image(plain(folder)), "Q8_0")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


REFUSED: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "another family's": (
        lambda path, folder: write(path, {"double_blocks.0.img_attn.qkv.weight": numpy.ones((32, 32), "f4")}, "F16"),
        "FLUX.*ZImageTransformer2DModel",
    ),
    "nobody's": (lambda path, folder: write(path, {"a": numpy.ones((2, 2), "f4")}, "F16"), "no family"),
    "cut": (cut_file, "cut off or damaged"),
    "none": (lambda path, folder: path.write_bytes(b"safetensors"), "expected a file of GGUF"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_sentence(case: str, z_image: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    REFUSED[case][0](file, z_image)
    with pytest.raises(WeightsError, match=REFUSED[case][1]) as raised:
        registry.load(z_image, denoiser=file)
    assert "\n" not in str(raised.value)


def test_a_base_of_another_layout_and_a_missing_library(
    z_image: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "z-image-Turbo-Q8_0.gguf"
    write(file, comfy_of_z_image(plain(z_image)), "Q8_0")
    assert GgufDenoiser(file).recipe == "z-image-turbo"
    assert registry.recipe(file).name == "z-image-turbo"
    with pytest.raises(WeightsError, match=r"model_index\.json"):
        registry.load(tiny_folder, denoiser=file)
    flux = tmp_path / "flux.gguf"
    write(flux, {"double_blocks.0.img_attn.qkv.weight": numpy.ones((32, 32), "f4")}, "F16")
    with pytest.raises(WeightsError, match="FLUX, which is not drawn here"):
        registry.load(flux)
    monkeypatch.setattr(gguf_file, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match="pip install"):
        registry.load(z_image, denoiser=file)


def test_adapters_are_named_when_it_is_loaded(z_image: Path, tmp_path: Path) -> None:
    file = tmp_path / "z.gguf"
    write(file, comfy_of_z_image(plain(z_image)), "Q8_0")
    engine = bimo.load(z_image, denoiser=file)
    for change in (lambda: engine.attach(embeddings=()), lambda: engine.with_adapters(), lambda: engine.detach()):
        with pytest.raises(BimoError, match="blocks"):
            change()


#: HunyuanImage-2.1's names in diffusers' network and its authors', without the layers that are fused there.
HUNYUAN = (
    (r"^context_embedder_2\.linear_", "byt5_in.fc"),
    (r"^context_embedder_2\.norm\.", "byt5_in.layernorm."),
    (r"^context_embedder\.proj_in\.", "txt_in.input_embedder."),
    (r"^context_embedder\.time_text_embed\.timestep_embedder\.", "txt_in.t_embedder."),
    (r"^context_embedder\.time_text_embed\.text_embedder\.", "txt_in.c_embedder."),
    (r"^context_embedder\.token_refiner\.refiner_blocks\.", "txt_in.individual_token_refiner.blocks."),
    (r"(blocks\.\d+\.)norm_out\.linear\.", r"\1adaLN_modulation.1."),
    (r"^time_guidance_embed\.timestep_embedder\.", "time_in."),
    (r"^time_guidance_embed\.timestep_embedder_r\.", "time_r_in."),
    (r"^time_guidance_embed\.guidance_embedder\.", "guidance_in."),
    (r"^(.*(?:t_embedder|time_in|time_r_in|guidance_in))\.linear_(\d)\.", lambda m: f"{m[1]}.mlp.{2 * int(m[2]) - 2}."),
    (r"^single_transformer_blocks\.(\d+)\.attn\.(to_[qkv])\.", r"single_blocks.\1.linear1_\2."),
    (r"^single_transformer_blocks\.(\d+)\.attn\.norm_([qk])\.", r"single_blocks.\1.\2_norm."),
    (r"^single_transformer_blocks\.(\d+)\.norm\.", r"single_blocks.\1.modulation."),
    (r"^single_transformer_blocks\.(\d+)\.proj_mlp\.", r"single_blocks.\1.linear1_mlp."),
    (r"^single_transformer_blocks\.(\d+)\.proj_out\.", r"single_blocks.\1.linear2.fc."),
    (r"^transformer_blocks\.", "double_blocks."),
    (r"(double_blocks\.\d+\.)norm1\.", r"\1img_mod."),
    (r"(double_blocks\.\d+\.)norm1_context\.", r"\1txt_mod."),
    (r"(double_blocks\.\d+\.)attn\.(to_[qkv])\.", r"\1img_attn_\2."),
    (r"(double_blocks\.\d+\.)attn\.add_([qkv])_proj\.", r"\1txt_attn_to_\2."),
    (r"(double_blocks\.\d+\.)attn\.norm_([qk])\.", r"\1img_attn_\2_norm."),
    (r"(double_blocks\.\d+\.)attn\.norm_added_([qk])\.", r"\1txt_attn_\2_norm."),
    (r"(double_blocks\.\d+\.)attn\.to_out\.0\.", r"\1img_attn_proj."),
    (r"(double_blocks\.\d+\.)attn\.to_add_out\.", r"\1txt_attn_proj."),
    (r"(double_blocks\.\d+\.)ff\.", r"\1img_mlp."),
    (r"(double_blocks\.\d+\.)ff_context\.", r"\1txt_mlp."),
    (r"(individual_token_refiner\.blocks\.\d+\.)attn\.to_out\.0\.", r"\1self_attn_proj."),
    (r"(individual_token_refiner\.blocks\.\d+\.)attn\.(to_[qkv])\.", r"\1self_attn_\2."),
    (r"(individual_token_refiner\.blocks\.\d+\.)ff\.", r"\1mlp."),
    (r"mlp\.net\.0\.proj\.", "mlp.fc1."),
    (r"mlp\.net\.2\.", "mlp.fc2."),
    (r"^x_embedder\.", "img_in."),
    (r"^proj_out\.", "final_layer.linear."),
    (r"^norm_out\.linear\.", "final_layer.adaLN_modulation.1."),
)


def of_hunyuan(own: Arrays, fused: bool) -> Arrays:
    """The names of HunyuanImage-2.1's authors: q, k and v ``fused`` as in the base, or one after the other as in the
    distilled one.
    """
    found: Arrays = {}
    for name, value in own.items():
        for pattern, by in HUNYUAN:
            name = re.sub(pattern, by, name)
        if "final_layer.adaLN" in name:
            value = numpy.roll(value, len(value) // 2, axis=0)  # the shift first
        found[name] = value
    for name in [name for name in found if "_to_q." in name]:
        every = [name.replace("_to_q.", f"_to_{part}.") for part in "qkv"]
        mlp = name.replace("linear1_to_q.", "linear1_mlp.")
        rows = [found.pop(each) for each in every]
        if not fused and "self_attn" not in name:
            found |= {each.replace("_to_", "_"): value for each, value in zip(every, rows, strict=True)}
        elif mlp == name:
            found[name.replace("_to_q.", "_qkv.")] = numpy.concatenate(rows)
        else:
            found[name.replace("linear1_to_q.", "linear1.")] = numpy.concatenate([*rows, found.pop(mlp)])
    return found


def of_qwen_image_21(own: Arrays) -> Arrays:
    """As ComfyUI and stable-diffusion.cpp have it: the gate and what it opens fused."""
    found = {name: value for name, value in own.items() if "img_mlp.gate_layer" not in name}
    for name in [name for name in own if "img_mlp.gate_layer" in name]:
        proj = name.replace("gate_layer", "proj")
        found[name.replace("gate_layer", "gate_up")] = numpy.concatenate([own[name], found.pop(proj)])
    return found


#: The names of files, the recipe that they are of, and their tensors of diffusers' own.
AUTHORS: dict[str, tuple[Recipe, Callable[[Arrays], Arrays]]] = {
    "HunyuanImage2.1-Q4_K_M": (hunyuan_image_2_1, partial(of_hunyuan, fused=True)),
    "hunyuanimage2.1-distilled-Q8_0": (hunyuan_image_2_1_distilled, partial(of_hunyuan, fused=False)),
    "qwen-image-2.1-Q8_0": (qwen_image_21, of_qwen_image_21),
    "Qwen-Image-2.1-split-Q4_0": (qwen_image_21, dict),
    "z_image_omni-Q8_0": (z_image_omni, comfy_of_z_image),
}


@pytest.mark.parametrize("name", AUTHORS)
def test_layers_by_their_authors_names_are_those_of_the_network(tmp_path: Path, name: str) -> None:
    recipe, named = AUTHORS[name]
    torch.manual_seed(0)
    denoiser: Any = recipe.tiny().levels[-1].denoiser
    source, target = denoiser.build().model, denoiser.build().model
    own = arrays(flow_checkpoints.awake(source))
    file = tmp_path / f"{name}.gguf"
    written = named(own)
    write(file, written, "F16")
    assert (written.keys() == own.keys()) == (named is dict)
    assert GgufDenoiser(file).recipe == recipe.name
    GgufDenoiser(file).fill(target, torch.float32)
    for key, value in arrays(target).items():
        numpy.testing.assert_allclose(value, own[key], rtol=1e-3, atol=1e-4, err_msg=key)


#: What ComfyUI's users have, by the names of the files (their tensors are diffusers' own), and what it is drawn as.
FILES = {
    "qwen-image-Q4_K_M": "qwen-image",
    "Qwen_Image_2512-Q8_0": "qwen-image-2512",
    "Qwen_Image_Edit-Q4_0": "qwen-image-edit",
    "Qwen-Image-Edit-2509-Q5_K_S": "qwen-image-edit-2509",
    "qwen-image-edit-2511-Q4_K_M": "qwen-image-edit-2511",
}


@pytest.mark.parametrize("name", FILES)
def test_which_of_qwens_it_is_stands_in_the_name_of_a_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / f"{name}.gguf"
    write(file, {"txt_norm.weight": numpy.ones(32, "f4")}, "Q8_0", "qwen_image")
    assert GgufDenoiser(file).recipe == FILES[name]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["edit", "layered"])
def test_pictures_are_read_by_a_denoiser_in_blocks(tmp_path: Path, kind: str) -> None:
    """Qwen-Image-Edit and -Layered, whose folders' other parts go with a file of theirs."""
    from tests.support.edit_checkpoints import photo, saved, small

    folder = tmp_path / "saved"
    saved(folder, kind)
    own = plain(folder)
    file = tmp_path / "qwen-image-edit-Q8_0.gguf"
    held = write(file, own, "Q8_0", "qwen_image")
    assert GgufDenoiser(file).recipe == ("qwen-image-edit" if kind == "edit" else "qwen-image-layered")
    system = small(registry.load(folder, denoiser=file))
    found = arrays(network(system))
    assert found.keys() == own.keys()
    for name, value in found.items():
        numpy.testing.assert_array_equal(value, held[name].reshape(value.shape))
    request = {"text": "红", "image": photo(64, 64), "seed": 1, "steps": 2, "size": (64, 64)}
    reference = small(registry.load(folder))
    network(reference).load_state_dict({n: torch.from_numpy(v) for n, v in found.items()})
    drawn, expected = (numpy.asarray(draw(each, request)[0].image).astype(int) for each in (system, reference))
    assert numpy.abs(drawn - expected).max() <= 1
