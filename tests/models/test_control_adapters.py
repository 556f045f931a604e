"""Adapters beside a denoiser: silent without a picture, refused beside another family, saved with it, trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
from PIL import Image

from bimo.core.errors import BimoError, RecipeError, RequestError, WeightsError
from bimo.core.part import dumps, loads
from bimo.core.recipe import Stage
from bimo.core.tensors import Batch
from bimo.diffusion.system import System
from bimo.models.adapters import lora
from bimo.models.adapters.attach import adapt, adapters, begin_control, control, image_prompt, unadapt
from bimo.models.adapters.control_conditioner import edges
from bimo.models.hunyuan_dit.layout import diffusers_state
from bimo.models.layouts.diffusers_folder import read_folder
from bimo.training.objectives.denoise import Denoise
from tests.models.test_hunyuan_dit import authors_state
from tests.support.drawing import draw
from tests.support.hunyuan_checkpoints import checkpoint as hunyuan_checkpoint
from tests.support.tiny_checkpoints import BERT_WORDS, checkpoint

pytestmark = pytest.mark.slow

SCHEDULE: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
}
UNET: dict[str, Any] = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "conditioning_embedding_out_channels": (4, 4, 4, 4),
}
REQUEST: dict[str, Any] = {"text": "a red cat", "seed": 3, "steps": 2, "size": (64, 64)}
PICTURE = Image.fromarray((numpy.indices((64, 64)).sum(0) % 24 * 10).astype("uint8")).convert("RGB")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sd") / "saved"
    checkpoint(place, "clip", diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False))
    return place


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ControlNet that says something."""
    torch.manual_seed(2)
    made = diffusers.ControlNetModel(**UNET)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    place = tmp_path_factory.mktemp("net")
    made.save_pretrained(str(place))
    return place


def bytes_of(system: System, **more: Any) -> bytes:
    return draw(system, {**REQUEST, **more})[0].image.tobytes()


def test_without_a_picture_or_weight_it_has_no_effect(folder: Path, net: Path) -> None:
    plain = read_folder(folder)
    system = control(plain, net, "canny")
    assert bytes_of(system) == bytes_of(plain)
    assert bytes_of(system, condition_images={"canny": PICTURE}, conditions={"canny": [0.0]}) == bytes_of(plain)
    assert bytes_of(system, condition_images={"canny": PICTURE}) != bytes_of(plain)
    assert system.weights_hash != plain.weights_hash
    shared = plain.get_parameter("image.denoiser.model.conv_in.weight")
    assert system.get_parameter("image.denoiser.denoiser.model.conv_in.weight").data_ptr() == shared.data_ptr()


def test_requests_that_make_no_sense_are_refused(folder: Path, net: Path) -> None:
    system = control(read_folder(folder), net, "canny")
    for more in (
        {"condition_images": {"depth": PICTURE}},
        {"conditions": {"canny": [1.0, 2.0]}},
        {"conditions": {"canny": [1e9]}},
    ):
        with pytest.raises(RequestError, match="canny"):
            bytes_of(system, **more)
    with pytest.raises(RecipeError, match="canny"):
        control(system, net, "canny")


def test_saved_with_the_system_it_reads_back(folder: Path, net: Path, tmp_path: Path) -> None:
    system = control(read_folder(folder), net)
    assert loads(dumps(system.recipe)) == system.recipe
    system.save(tmp_path / "saved")
    again = System.read(tmp_path / "saved")
    assert bytes_of(again, condition_images={"control": PICTURE}) == bytes_of(
        system, condition_images={"control": PICTURE}
    )


def spoilt(net: Path, place: Path, **fields: Any) -> Path:
    """A ControlNet's folder with other fields in its config."""
    place.mkdir()
    (place / "diffusion_pytorch_model.safetensors").write_bytes(
        (net / "diffusion_pytorch_model.safetensors").read_bytes()
    )
    config = {**json.loads((net / "config.json").read_text()), **fields}
    (place / "config.json").write_text(json.dumps(config))
    return place


def test_adapters_of_another_family_are_refused(folder: Path, net: Path, tmp_path: Path) -> None:
    system = read_folder(folder)
    cases: list[tuple[str, dict[str, Any], type[BimoError], str]] = [
        ("wide", {"cross_attention_dim": 1024}, WeightsError, "cross_attention_dim 1024≠16"),
        ("kind", {"_class_name": "HunyuanDiT2DControlNetModel"}, RecipeError, "HunyuanDiT2DControlNetModel"),
        ("unknown", {"_class_name": "AutoencoderKL"}, RecipeError, "AutoencoderKL"),
        ("field", {"flip_sin_to_cos": False}, RecipeError, "flip_sin_to_cos"),
        ("picture", {"conditioning_channels": 4}, WeightsError, "controlnet_cond_embedding.conv_in.weight"),
    ]
    for name, fields, error, told in cases:
        with pytest.raises(error) as raised:
            control(system, spoilt(net, tmp_path / name, **fields))
        assert told in raised.value.en
    cut = spoilt(net, tmp_path / "cut") / "diffusion_pytorch_model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(WeightsError):
        control(system, cut.parent)
    with pytest.raises(WeightsError):
        control(system, tmp_path / "nowhere")


def test_files_that_are_no_controlnet_of_this_model_are_refused(folder: Path, net: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    system = read_folder(folder)
    own = load_file(net / "diffusion_pytorch_model.safetensors")
    key = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    lacking = {name: value for name, value in own.items() if "zero" not in name and "controlnet_mid" not in name}
    wide = {"body.0.block1.weight": torch.ones(32, 32, 3, 3), "conv_in.weight": torch.ones(32, 192, 3, 3)}
    wide |= {f"body.{i}.block1.weight": torch.ones(32, 32, 3, 3) for i in range(1, 4)}
    cases: list[tuple[str, dict[str, torch.Tensor], type[BimoError], tuple[str, ...]]] = [
        ("other", {**own, key: torch.ones(8, 1024)}, WeightsError, ("another model", "cross_attention_dim 1024≠16")),
        ("z-image", {"control_all_x_embedder.2-1.weight": torch.ones(2)}, RecipeError, ("ControlNet of Z-Image",)),
        (
            "qwen-image",
            {name: torch.ones(2) for name in ("txt_norm.weight", "controlnet_x_embedder.weight")},
            RecipeError,
            ("ControlNet of Qwen-Image",),
        ),
        ("sana", {"caption_projection.linear_1.weight": torch.ones(2)}, RecipeError, ("ControlNet of SANA",)),
        ("union", {**own, "task_embedding": torch.ones(2)}, RecipeError, ("ControlNet-Union",)),
        ("lora", {**own, "lora_controlnet": torch.ones(2)}, RecipeError, ("Control-LoRA",)),
        ("difference", {**own, "difference": torch.ones(2)}, RecipeError, ("differences",)),
        ("none", {"x.weight": torch.ones(2)}, WeightsError, ("no ControlNet", "x.weight")),
        ("less", lacking, WeightsError, ("missing", "controlnet_mid_block.weight")),
        ("nan", {**own, key: own[key] * float("nan")}, WeightsError, ("NaN", key)),
        ("t2i", wide, WeightsError, ("T2I-Adapter", "(32, 32)", "(8, 16)")),
    ]
    for name, state, error, told in cases:
        file = tmp_path / f"{name}.safetensors"
        save_file({key: value.clone() for key, value in state.items()}, file)
        with pytest.raises(error) as raised:
            control(system, file)
        assert all(each in raised.value.en for each in (str(file), *told)), raised.value.en


def test_published_sizes_of_t2i_adapters() -> None:
    """The sizes of those that TencentARC published for Stable Diffusion 1 and XL."""
    from bimo.models.adapters.control_files import check_widths, read_control
    from bimo.models.adapters.controlnet import T2iAdapter
    from bimo.models.stable_diffusion.unet import Unet
    from bimo.recipes.taiyi_xl import sdxl_unet
    from tests.parity.test_adapters import authors_t2i

    sizes: list[tuple[Unet, dict[str, Any]]] = [
        (Unet(), {"channels": [320, 640, 1280, 1280], "downscale_factor": 8, "adapter_type": "full_adapter"}),
        (Unet(), {"channels": [320, 640, 1280], "downscale_factor": 8, "adapter_type": "light_adapter"}),
        (sdxl_unet, {"channels": [320, 640, 1280, 1280], "downscale_factor": 16, "adapter_type": "full_adapter_xl"}),
    ]
    for unet, fields in sizes:
        blocks = 4 if fields["adapter_type"] == "light_adapter" else 2
        with torch.device("meta"):
            net = diffusers.T2IAdapter(in_channels=3, num_res_blocks=blocks, **fields)
        for state in (net.state_dict(), authors_t2i(net)):
            read = read_control(state, unet, Path("t2i.pth"))
            assert isinstance(read.part, T2iAdapter)
            assert (read.part.widths, read.part.blocks) == (tuple(fields["channels"]), blocks)
            assert (read.part.factor, read.part.kind) == (fields["downscale_factor"], fields["adapter_type"])
            assert read.state.keys() == net.state_dict().keys()
        check_widths(read.part, unet, Path("t2i"))


def test_ip_adapters_of_another_family_are_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from tests.parity.test_adapters import image_tower, ip_adapter

    system = read_folder(folder)
    image_tower(tmp_path / "tower")
    state = ip_adapter(system.level("image").denoiser.model, plus=False)
    flat = {f"{part}.{name}": value for part, table in state.items() for name, value in table.items()}
    missing = {name: value for name, value in flat.items() if ".1.to_k_ip" not in name}
    strange = {**flat, "ip_adapter.99.to_k_ip.weight": torch.ones(2)}
    for name, tensors, told in (
        ("missing", missing, "to_k_ip"),
        ("strange", strange, "ip_adapter.99"),
        ("none", {"x": torch.ones(2)}, "image_proj"),
    ):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(WeightsError, match=told):
            image_prompt(system, tmp_path / f"{name}.safetensors", tmp_path / "tower")


def test_lora_and_two_adapters_in_one_system(folder: Path, net: Path, tmp_path: Path) -> None:
    """Each on the layers of the UNet within, whatever stands around it."""
    from safetensors.torch import save_file

    from tests.parity.test_adapters import image_tower, ip_adapter

    image_tower(tmp_path / "tower")
    system = control(read_folder(folder), net)
    state = ip_adapter(system.get_submodule("image.denoiser.denoiser.model"), plus=False)
    flat = {f"{part}.{name}": value for part, table in state.items() for name, value in table.items()}
    save_file(flat, tmp_path / "ip.safetensors")
    system = image_prompt(system, tmp_path / "ip.safetensors", tmp_path / "tower")
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_v"
    halves = {f"unet.{name}.lora_A.weight": torch.arange(8.0)[None], f"unet.{name}.lora_B.weight": torch.ones(8, 1)}
    save_file(halves, tmp_path / "style.safetensors")
    before = bytes_of(system)
    adapt(system, tmp_path / "style.safetensors")
    assert adapters(system) == [("style", 1.0)]
    drawn = {bytes_of(system, condition_images=p) for p in ({}, {"control": PICTURE}, {"prompt": PICTURE})}
    assert len(drawn | {before}) == 4
    unadapt(system)
    assert bytes_of(system) == before
    assert lora.inject(system, ("*.transformer_blocks.0.attn1.to_q",), 1, 1.0)


def test_a_new_adapter_begins_at_zero_and_learns(folder: Path) -> None:
    system = begin_control(read_folder(folder))
    own = system.get_submodule("image.denoiser.adapter.model")
    within = system.get_submodule("image.denoiser.denoiser.model")
    assert torch.equal(own.get_parameter("conv_in.weight"), within.get_parameter("conv_in.weight"))
    assert bytes_of(system, condition_images={"control": PICTURE}) == bytes_of(read_folder(folder))
    learns_edges(system)


def test_hunyuan_learns_one_as_well(tmp_path: Path) -> None:
    hunyuan_checkpoint(tmp_path / "saved", "1.2")
    system = begin_control(read_folder(tmp_path / "saved"))
    learns_edges(system)
    system.save(tmp_path / "learnt")
    assert bytes_of(System.read(tmp_path / "learnt"), condition_images={"control": PICTURE}) == bytes_of(
        system, condition_images={"control": PICTURE}
    )


def learns_edges(system: System) -> None:
    """The loss of one batch falls, by the adapter's parameters alone."""
    from bimo.training.train_inputs import TrainInputs, Vocabulary

    torch.manual_seed(0)
    adapter = [p for n, p in system.named_parameters() if ".adapter." in n]
    system.requires_grad_(False)
    for parameter in adapter:
        parameter.requires_grad_(True)
    before = {n: p.detach().clone() for n, p in system.named_parameters() if ".adapter." not in n}
    optimiser = torch.optim.Adam(adapter, lr=3e-3)
    with torch.no_grad():
        x = system.space("image").encode(torch.rand(2, 3, 64, 64) * 2 - 1)
        encodings = system.encode(["a red cat", "苹果"])
    stage = Stage(name="control", objective=Denoise(), level="image", train=("image.denoiser.adapter.*",))
    losses: list[float] = []
    for _ in range(25):
        generator = torch.Generator().manual_seed(7)
        batch = Batch(x, encodings, {}, torch.zeros(2, dtype=torch.bool), generator)
        inputs = TrainInputs(system, stage, None, (), Vocabulary({}), generator, batch=batch)
        loss = stage.objective.loss(inputs)  # type: ignore[attr-defined]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] * 0.98
    assert all(torch.equal(before[n], p) for n, p in system.named_parameters() if n in before)
    system.eval()


def test_edges_are_where_the_picture_changes() -> None:
    picture = torch.full((1, 3, 8, 8), -1.0)
    picture[..., 4:] = 1.0
    found = edges(picture)[0, 0]
    assert set(found.nonzero()[:, 1].tolist()) == {3, 4}
    assert not edges(torch.zeros(1, 3, 8, 8)).any()


def test_a_controlnet_of_hunyuans_authors(tmp_path: Path) -> None:
    hunyuan_checkpoint(tmp_path / "saved", "1.2")
    system = read_folder(tmp_path / "saved")
    begun = begin_control(system).get_submodule("image.denoiser.adapter.model")
    # Of four blocks the first has a skip: the ControlNet has that one.
    ours = {n: v + 0.1 for n, v in begun.state_dict().items()}
    whole = system.level("image").denoiser.model.state_dict()
    theirs = authors_state({**whole, **ours})
    kept = {n: v for n, v in theirs.items() if not n.startswith(("final_layer.", *(f"blocks.{i}." for i in (1, 2, 3))))}
    for end in ("weight", "bias"):
        kept[f"before_proj.{end}"] = ours[f"input_block.{end}"]
        kept[f"after_proj_list.0.{end}"] = ours[f"controlnet_blocks.0.{end}"]
    found = diffusers_state(kept)
    assert found.keys() == ours.keys()
    assert all(torch.equal(found[n], value) for n, value in ours.items())
    torch.save({"module": kept}, tmp_path / "pytorch_model_canny_distill.pt")
    made = control(system, tmp_path / "pytorch_model_canny_distill.pt")
    along = bytes_of(made, condition_images={"control": PICTURE})
    assert along != bytes_of(made)
    torch.save(ours, tmp_path / "diffusers.pt")
    assert bytes_of(control(system, tmp_path / "diffusers.pt"), condition_images={"control": PICTURE}) == along


def test_miaobi_takes_what_was_made_for_stable_diffusion(folder: Path, net: Path, tmp_path: Path) -> None:
    """Its tower is CLIP's with the words of a BERT; LoRA, ControlNet and T2I-Adapter see the UNet alone."""
    from safetensors.torch import save_file

    system = read_folder(folder)
    tower: Any = system.recipe.text_encoders[0]
    words = tmp_path / "words"
    words.mkdir()
    (words / "vocab.txt").write_text("\n".join(BERT_WORDS), encoding="utf-8")
    chinese = replace(tower, words="pieces", marks=(tower.vocab - 2, tower.vocab - 1))
    made = System(replace(system.recipe, text_encoders=(chinese,))).eval()
    made.load_state_dict(system.state_dict())
    made.text[0].load_tokenizer(words)
    up, down = torch.ones(16, 1), torch.ones(1, 16) / 4
    name = "lora_te_text_model_encoder_layers_0_self_attn_v_proj"
    save_file({f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}, tmp_path / "style.safetensors")
    diffusers.T2IAdapter(in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=8).save_pretrained(
        str(tmp_path / "t2i")
    )
    request = {"text": "一只红苹果"}
    drawn = [bytes_of(made, **request)]
    adapt(made, tmp_path / "style.safetensors", 0.8)
    drawn.append(bytes_of(made, **request))
    made = control(control(made, net, "canny"), tmp_path / "t2i", "sketch")
    drawn += [bytes_of(made, **request, condition_images={name: PICTURE}) for name in ("canny", "sketch")]
    assert len(set(drawn)) == 4
