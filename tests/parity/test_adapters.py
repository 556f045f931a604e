"""Published adapters draw in bimo as in diffusers' own pipelines: LoRA, ControlNet, T2I-Adapter, HunyuanDiT's."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image, ImageDraw

from bimo.core.picture import Picture
from bimo.diffusion.system import System
from bimo.models.adapters.attach import adapt, control, image_prompt
from bimo.models.adapters.lora import extract, inject, save_lora
from bimo.models.layouts.diffusers_folder import read_folder
from tests.support.drawing import alike, draw, same_weights, within_one
from tests.support.hunyuan_checkpoints import checkpoint as hunyuan_checkpoint
from tests.support.hunyuan_checkpoints import read_by_diffusers as hunyuan_by_diffusers
from tests.support.tiny_checkpoints import checkpoint, read_by_diffusers

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
}
REQUEST: dict[str, Any] = {"seed": 3, "steps": 4, "guidance": 7.5, "size": (64, 64), "text": "a red cat"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sd") / "saved"
    checkpoint(place, "clip", diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False))
    return place


def lines(size: tuple[int, int] = (96, 80), mode: str = "RGB") -> Image.Image:
    """A picture of another size than what is drawn."""
    picture = Image.new(mode, size, "black")
    pen = ImageDraw.Draw(picture)
    pen.line((4, 4, size[0] - 9, size[1] - 20), fill="white", width=5)
    pen.ellipse((30, 20, 70, 60), fill="gray" if mode == "L" else "orange")
    return picture


def loud(module: torch.nn.Module, scale: float = 0.3) -> torch.nn.Module:
    """Its zeros, from which an adapter is trained, made numbers that count."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape) * scale)
    return module.eval()


def by_diffusers(pipeline: Any, request: dict[str, Any], **settings: Any) -> list[numpy.ndarray]:
    """The pictures of a pipeline of diffusers."""
    pipeline.set_progress_bar_config(disable=True)
    count = request.get("count", 1)
    width, height = request["size"]
    with warnings.catch_warnings():
        # The adapter's pipeline decodes in a way of its own that diffusers gives up.
        warnings.simplefilter("ignore", FutureWarning)
        drawn = pipeline(
            request["text"],
            negative_prompt=request.get("negative"),
            width=width,
            height=height,
            num_inference_steps=request["steps"],
            guidance_scale=request["guidance"],
            num_images_per_prompt=count,
            generator=[torch.Generator().manual_seed(request["seed"] + i) for i in range(count)],
            **settings,
        )
    return [numpy.asarray(image) for image in drawn.images]


def compare(pictures: list[Picture], expected: list[numpy.ndarray], plain: list[Picture]) -> None:
    """Within 1 of 255 a channel, and another picture than without the adapter."""
    assert len(pictures) == len(expected)
    for picture, array, without in zip(pictures, expected, plain, strict=True):
        found = numpy.asarray(picture.image).astype(int)
        assert numpy.abs(found - array).max() <= 1
        assert numpy.abs(found - numpy.asarray(without.image)).mean() > 2


@pytest.mark.slow
def test_lora_of_peft(folder: Path, tmp_path: Path) -> None:
    """Made, named and saved by peft and diffusers, alpha in the header; merged at another weight than 1."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipeline = read_by_diffusers(folder)
    names = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "conv1"]
    pipeline.unet.add_adapter(LoraConfig(r=3, lora_alpha=6, target_modules=names, init_lora_weights="gaussian"))
    for name, parameter in pipeline.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.4)
    state = get_peft_model_state_dict(pipeline.unet)
    from diffusers.training_utils import _collate_lora_metadata

    diffusers.StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=state,
        **_collate_lora_metadata({"unet": pipeline.unet}),
    )
    pipeline = read_by_diffusers(folder)
    with warnings.catch_warnings():
        # peft warns that 3 does not divide 16, among much else.
        warnings.simplefilter("ignore")
        pipeline.load_lora_weights(str(tmp_path), weight_name="pytorch_lora_weights.safetensors")
    system = read_folder(folder)
    plain = draw(system, REQUEST)
    adapt(system, tmp_path / "pytorch_lora_weights.safetensors", 0.7)
    compare(draw(system, REQUEST), by_diffusers(pipeline, REQUEST, cross_attention_kwargs={"scale": 0.7}), plain)


DORA = ("attn2.to_q", "attn2.to_out.0", "conv1", "q_proj")


def test_dora_of_peft(folder: Path, tmp_path: Path) -> None:
    """Made by peft's own layers and saved by diffusers; alpha is not the rank."""
    from diffusers.training_utils import _collate_lora_metadata
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipeline = read_by_diffusers(folder)
    for module, names in ((pipeline.unet, list(DORA[:3])), (pipeline.text_encoder, [DORA[3]])):
        module.add_adapter(LoraConfig(r=2, lora_alpha=3, target_modules=names, use_dora=True))
        torch.manual_seed(7)
        for name, parameter in module.named_parameters():
            if "lora_B" in name or "lora_magnitude" in name:
                parameter.data += 0.4 * torch.randn(parameter.shape)
    layers = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    diffusers.StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(pipeline.unet),
        text_encoder_lora_layers=get_peft_model_state_dict(pipeline.text_encoder),
        **_collate_lora_metadata(layers),
    )
    system = read_folder(folder)
    plain = draw(system, REQUEST)
    adapt(system, tmp_path / "pytorch_lora_weights.safetensors")
    compare(draw(system, REQUEST), by_diffusers(pipeline, REQUEST), plain)


def test_dora_for_diffusers(folder: Path, tmp_path: Path) -> None:
    """What is learnt here and written is drawn by diffusers and peft as it is drawn here while it learns.

    Of the UNet alone: transformers 5 reads no ``lora_magnitude_vector`` into a text encoder, not even peft's own.
    """
    system = read_folder(folder)
    plain = draw(system, REQUEST)
    targets = [f"image.denoiser.*{name}" for name in DORA[:3]]
    names = inject(system, targets, 2, 3.0, dora=True)
    assert draw(system, REQUEST)[0].image.tobytes() == plain[0].image.tobytes()
    torch.manual_seed(7)
    with torch.no_grad():
        for name in names:
            system.get_parameter(name).add_(0.4 * torch.randn(system.get_parameter(name).shape))
    save_lora(tmp_path / "mine.safetensors", system, extract(system))
    pipeline = read_by_diffusers(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.load_lora_weights(str(tmp_path), weight_name="mine.safetensors")
    compare(draw(system, REQUEST), by_diffusers(pipeline, REQUEST), plain)


def test_a_step_of_dora_is_pefts() -> None:
    """The gradients of one layer: the length of the sum counts as a constant (section 4.3)."""
    from peft import LoraConfig, get_peft_model

    for layer, shape in ((torch.nn.Linear(6, 5), (3, 6)), (torch.nn.Conv2d(4, 5, 3, padding=1), (3, 4, 7, 7))):
        own = torch.nn.Sequential(layer)
        other = get_peft_model(copy.deepcopy(own), LoraConfig(r=2, lora_alpha=3, target_modules=["0"], use_dora=True))
        inject(own, ("0",), 2, 3.0, dora=True)
        low: Any = own[0].lora
        theirs = {name.rsplit("lora_", 1)[1]: p for name, p in other.named_parameters() if "lora_" in name}
        pairs = [
            (low.down.weight, theirs["A.default.weight"]),
            (low.up.weight, theirs["B.default.weight"]),
            (low.magnitude, theirs["magnitude_vector.default.weight"]),
        ]
        torch.manual_seed(3)
        with torch.no_grad():
            for mine, peft in pairs:
                mine.copy_(torch.rand(mine.shape) + 0.2)
                peft.copy_(mine.view(peft.shape))
        x = torch.randn(shape)
        weights = torch.randn(own(x).shape)
        torch.testing.assert_close(own(x), other(x))
        (own(x) * weights).sum().backward()
        (other(x) * weights).sum().backward()
        for mine, peft in pairs:
            torch.testing.assert_close(mine.grad, peft.grad.view(mine.shape))


@pytest.mark.parametrize(
    ("weight", "order", "request_"),
    [
        (1.0, "rgb", {"negative": "apple", "size": (80, 48)}),
        (0.6, "bgr", {"count": 2}),
        (1.0, "rgb", {"guidance": 1.0}),
    ],
)
def test_controlnet(folder: Path, tmp_path: Path, weight: float, order: str, request_: dict[str, Any]) -> None:
    net = loud(
        diffusers.ControlNetModel(
            **UNET, conditioning_embedding_out_channels=(4, 4, 4, 4), controlnet_conditioning_channel_order=order
        )
    )
    net.save_pretrained(str(tmp_path / "net"))
    parts = read_by_diffusers(folder).components
    pipeline = diffusers.StableDiffusionControlNetPipeline(**parts, controlnet=net, requires_safety_checker=False)
    system = control(read_folder(folder), tmp_path / "net")
    request = {**REQUEST, **request_}
    conditioned = {**request, "condition_images": {"control": lines()}, "conditions": {"control": [weight]}}
    expected = by_diffusers(pipeline, request, image=lines(), controlnet_conditioning_scale=weight)
    compare(draw(system, conditioned, batch=2), expected, draw(system, request))


@pytest.mark.slow
@pytest.mark.parametrize("steps", [None, (0.0, 0.5), (0.4, 1.0)])
def test_two_controlnets_are_added(folder: Path, tmp_path: Path, steps: tuple[float, float] | None) -> None:
    """Each with its weight, one of them in a part of the steps."""
    nets, system = [], read_folder(folder)
    for index, name in enumerate(("canny", "depth")):
        net = loud(
            diffusers.ControlNetModel(**UNET, conditioning_embedding_out_channels=(4, 4, 4, 4)), 0.2 + index / 10
        )
        net.save_pretrained(str(tmp_path / name))
        nets.append(net)
        system = control(system, tmp_path / name, name)
    parts = read_by_diffusers(folder).components
    pipeline = diffusers.StableDiffusionControlNetPipeline(**parts, controlnet=nets, requires_safety_checker=False)
    other = lines((64, 64)).rotate(90)
    weight = [0.5, *(steps or ())]
    conditioned = {**REQUEST, "condition_images": {"canny": lines(), "depth": other}, "conditions": {"depth": weight}}
    settings: dict[str, Any] = {"image": [lines(), other], "controlnet_conditioning_scale": [1.0, 0.5]}
    if steps is not None:
        settings |= {"control_guidance_start": [0.0, steps[0]], "control_guidance_end": [1.0, steps[1]]}
    compare(draw(system, conditioned), by_diffusers(pipeline, REQUEST, **settings), draw(system, REQUEST))


#: A light one has one block more than it says: of those published for Stable Diffusion 1 there are three widths.
T2I = [("full_adapter", 3, [8, 16]), ("light_adapter", 1, [8, 16])]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "channels", "widths"), T2I)
def test_t2i_adapter(folder: Path, tmp_path: Path, kind: str, channels: int, widths: list[int]) -> None:
    net = loud(
        diffusers.T2IAdapter(
            in_channels=channels, channels=widths, num_res_blocks=1, downscale_factor=8, adapter_type=kind
        )
    )
    net.save_pretrained(str(tmp_path / "net"))
    parts = {k: v for k, v in read_by_diffusers(folder).components.items() if k != "image_encoder"}
    pipeline = diffusers.StableDiffusionAdapterPipeline(**parts, adapter=net, requires_safety_checker=False)
    system = control(read_folder(folder), tmp_path / "net", "sketch")
    picture = lines(mode="L" if channels == 1 else "RGB")
    request = {**REQUEST, "negative": "apple", "count": 2}
    conditioned = {**request, "condition_images": {"sketch": picture}, "conditions": {"sketch": [0.8]}}
    expected = by_diffusers(pipeline, request, image=picture, adapter_conditioning_scale=0.8)
    compare(draw(system, conditioned), expected, draw(system, request))


def test_a_pooled_controlnet(folder: Path, tmp_path: Path) -> None:
    """The shuffling one: what is drawn without words does not see it."""
    net = loud(
        diffusers.ControlNetModel(**UNET, conditioning_embedding_out_channels=(4, 4, 4, 4), global_pool_conditions=True)
    )
    net.save_pretrained(str(tmp_path / "net"))
    parts = read_by_diffusers(folder).components
    pipeline = diffusers.StableDiffusionControlNetPipeline(**parts, controlnet=net, requires_safety_checker=False)
    system = control(read_folder(folder), tmp_path / "net")
    conditioned = {**REQUEST, "condition_images": {"control": lines()}, "conditions": {"control": [0.8]}}
    expected = by_diffusers(pipeline, REQUEST, image=lines(), controlnet_conditioning_scale=0.8)
    compare(draw(system, conditioned), expected, draw(system, REQUEST))


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.parity.test_stable_diffusion_xl import checkpoint as xl_checkpoint

    return xl_checkpoint(tmp_path_factory.mktemp("xl") / "saved")


def xl_parts(xl: Path) -> dict[str, Any]:
    from tests.parity.test_stable_diffusion_xl import read_by_diffusers as xl_by_diffusers

    return xl_by_diffusers(xl).components


def test_controlnet_of_xl(xl: Path, tmp_path: Path) -> None:
    parts = xl_parts(xl)
    net = loud(
        diffusers.ControlNetModel.from_unet(parts["unet"], conditioning_embedding_out_channels=(4, 4, 4, 4)), 0.2
    )
    net.save_pretrained(str(tmp_path / "net"))
    pipeline = diffusers.StableDiffusionXLControlNetPipeline(**parts, controlnet=net, add_watermarker=False)
    system = read_folder(xl)
    conditioned = {**REQUEST, "condition_images": {"control": lines()}, "conditions": {"control": [0.7]}}
    expected = by_diffusers(pipeline, REQUEST, image=lines(), controlnet_conditioning_scale=0.7)
    drawn = draw(control(system, tmp_path / "net"), conditioned)
    compare(drawn, expected, draw(system, REQUEST))
    authors = authors_controlnet(net)
    torch.save({f"control_model.{name}": value for name, value in authors.items()}, tmp_path / "xl.pth")
    within_one(draw(control(system, tmp_path / "xl.pth"), conditioned)[0].image, drawn[0].image)


def test_t2i_adapter_of_xl(xl: Path, tmp_path: Path) -> None:
    """One block more than the UNet has: the last is for its middle."""
    parts = xl_parts(xl)
    widths = [*parts["unet"].config.block_out_channels, parts["unet"].config.block_out_channels[-1]]
    net = loud(
        diffusers.T2IAdapter(
            in_channels=3, channels=widths, num_res_blocks=2, downscale_factor=16, adapter_type="full_adapter_xl"
        )
    )
    net.save_pretrained(str(tmp_path / "net"))
    pipeline = diffusers.StableDiffusionXLAdapterPipeline(**parts, adapter=net)
    system = read_folder(xl)
    conditioned = {**REQUEST, "condition_images": {"sketch": lines()}, "conditions": {"sketch": [0.8]}}
    expected = by_diffusers(pipeline, REQUEST, image=lines(), adapter_conditioning_scale=0.8)
    drawn = draw(control(system, tmp_path / "net", "sketch"), conditioned)
    compare(drawn, expected, draw(system, REQUEST))
    torch.save(authors_t2i(net), tmp_path / "t2i.pth")
    found = draw(control(system, tmp_path / "t2i.pth", "sketch"), conditioned)
    within_one(found[0].image, drawn[0].image)


def authors_controlnet(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A ControlNet of diffusers under the names of the authors' code, one residual layer a block."""
    blocks = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "controlnet_mid_block": "middle_block_out.0",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
        "controlnet_cond_embedding.conv_in": "input_hint_block.0",
        "controlnet_cond_embedding.conv_out": "input_hint_block.14",
        **{f"controlnet_cond_embedding.blocks.{i}": f"input_hint_block.{2 * i + 2}" for i in range(6)},
        **{f"controlnet_down_blocks.{i}": f"zero_convs.{i}.0" for i in range(9)},
    }
    for level in range(3):
        blocks[f"down_blocks.{level}.resnets.0"] = f"input_blocks.{2 * level + 1}.0"
        blocks[f"down_blocks.{level}.attentions.0"] = f"input_blocks.{2 * level + 1}.1"
        blocks[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{2 * level + 2}.0.op"
    layers = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1"}
    layers |= {"norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
    named: dict[str, torch.Tensor] = {}
    for name, value in net.state_dict().items():
        at = next(own for own in sorted(blocks, key=len, reverse=True) if name.startswith(f"{own}."))
        rest = name.removeprefix(f"{at}.")
        head, _, end = rest.rpartition(".")
        named[f"{blocks[at]}.{layers[head]}.{end}" if ".resnets." in at else f"{blocks[at]}.{rest}"] = value
    return named


def authors_t2i(net: Any) -> dict[str, torch.Tensor]:
    """A T2I-Adapter of diffusers under the authors' names: residual layers in one list, but for light ones."""
    count = net.config.num_res_blocks
    named: dict[str, torch.Tensor] = {}
    for name, value in net.state_dict().items():
        parts = name.split(".")[1:]
        if parts[0] == "body" and net.config.adapter_type == "light_adapter":
            parts = [part.replace("resnets", "body") for part in parts]
        elif parts[0] == "body" and parts[2] == "resnets":
            parts = ["body", str(int(parts[1]) * count + int(parts[3])), *parts[4:]]
        elif parts[0] == "body":
            parts = ["body", str(int(parts[1]) * count), *parts[2:]]
        named[".".join(parts)] = value
    return named


def test_controlnets_in_one_file(folder: Path, tmp_path: Path) -> None:
    """Under diffusers' names or the authors', alone or with the diffusion model around: as from the folder."""
    from safetensors.torch import save_file

    net = loud(diffusers.ControlNetModel(**UNET, conditioning_embedding_out_channels=(4, 4, 4, 4)))
    net.save_pretrained(str(tmp_path / "net"))
    authors = authors_controlnet(net)
    torch.save(authors, tmp_path / "bare.pth")
    # diffusers reads these names as well.
    read = diffusers.ControlNetModel.from_single_file(str(tmp_path / "bare.pth"), config=str(tmp_path / "net"))
    same_weights(net, read)
    below = {f"control_model.{name}": value for name, value in authors.items()}
    around = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.ones(8, 4, 3, 3),
        "first_stage_model.x": torch.ones(2),
    }
    torch.save({"state_dict": below | around}, tmp_path / "whole.pth")
    save_file({name: value.clone() for name, value in below.items()}, tmp_path / "control.safetensors")
    save_file({name: value.clone() for name, value in net.state_dict().items()}, tmp_path / "one.safetensors")
    system = read_folder(folder)
    conditioned = {**REQUEST, "steps": 1, "condition_images": {"control": lines()}}
    expected = draw(control(system, tmp_path / "net"), conditioned)[0].image.tobytes()
    for name in ("bare.pth", "whole.pth", "control.safetensors", "one.safetensors"):
        assert draw(control(system, tmp_path / name), conditioned)[0].image.tobytes() == expected
    pooled = tmp_path / "control_v11e_shuffle.pth"
    torch.save(authors, pooled)
    other = draw(control(system, pooled), conditioned)[0].image.tobytes()
    assert other != expected
    pooled.with_suffix(".yaml").write_bytes("# 打乱\nglobal_average_pooling: False\n".encode("gbk"))
    assert draw(control(system, pooled), conditioned)[0].image.tobytes() == expected


@pytest.mark.parametrize(("kind", "channels"), [("full_adapter", 3), ("full_adapter", 1), ("light_adapter", 3)])
def test_t2i_adapters_in_one_file(folder: Path, tmp_path: Path, kind: str, channels: int) -> None:
    from safetensors.torch import save_file

    net = loud(
        diffusers.T2IAdapter(
            in_channels=channels, channels=[8, 16], num_res_blocks=2, downscale_factor=8, adapter_type=kind
        )
    )
    net.save_pretrained(str(tmp_path / "net"))
    torch.save(authors_t2i(net), tmp_path / "authors.pth")
    save_file({name: value.clone() for name, value in net.state_dict().items()}, tmp_path / "diffusers.safetensors")
    system = read_folder(folder)
    conditioned = {**REQUEST, "steps": 1, "condition_images": {"control": lines()}}
    expected = draw(control(system, tmp_path / "net"), conditioned)[0].image.tobytes()
    for name in ("authors.pth", "diffusers.safetensors"):
        assert draw(control(system, tmp_path / name), conditioned)[0].image.tobytes() == expected


def test_controlnet_of_hunyuan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hunyuan_checkpoint(tmp_path / "saved", "1.2")
    parts = hunyuan_by_diffusers(tmp_path / "saved").components
    config = {
        k: v for k, v in parts["transformer"].config.items() if k not in {"num_layers", "learn_sigma", "norm_type"}
    }
    net = loud(diffusers.HunyuanDiT2DControlNetModel(**config, transformer_num_layers=4), 0.1)
    net.save_pretrained(str(tmp_path / "net"))
    pipeline = diffusers.HunyuanDiTControlNetPipeline(**parts, controlnet=net, requires_safety_checker=False)
    system = control(read_folder(tmp_path / "saved"), tmp_path / "net")
    request = {**REQUEST, "text": "一只红苹果", "negative": "小桥", "guidance": 5.0, "size": (80, 48)}
    conditioned = {**request, "condition_images": {"control": lines()}, "conditions": {"control": [0.9]}}
    # diffusers codes the picture by chance, whatever the seed; the mean is what it is by.
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, *rest: self.mode())
    settings = {"control_image": lines().resize((80, 48), Image.Resampling.LANCZOS), "use_resolution_binning": False}
    expected = by_diffusers(pipeline, request, **settings, controlnet_conditioning_scale=0.9)
    compare(draw(system, conditioned), expected, draw(system, request))


def image_tower(folder: Path) -> Any:
    """Saves a tiny image tower and answers it."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(6)
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    tower = CLIPVisionModelWithProjection(
        CLIPVisionConfig(**sizes, projection_dim=12, image_size=32, patch_size=8, hidden_act="gelu")
    ).eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.mul_(3)
    tower.save_pretrained(str(folder))
    return tower


def ip_adapter(unet: Any, plus: bool, words: int = 16) -> dict[str, dict[str, torch.Tensor]]:
    """An IP-Adapter's file for a UNet, named as its authors do: every second attention, from 1."""
    generator = torch.Generator().manual_seed(8)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.5

    found: dict[str, torch.Tensor] = {}
    for at, (name, _) in enumerate(unet.attn_processors.items()):
        if name.endswith("attn2.processor"):
            width = unet.get_submodule(name.removesuffix(".processor")).inner_dim
            found |= {f"{at}.to_k_ip.weight": numbers(width, words), f"{at}.to_v_ip.weight": numbers(width, words)}
    if not plus:
        shapes: dict[str, tuple[int, ...]] = {"proj.weight": (4 * words, 12), "proj.bias": (4 * words,)}
        shapes |= {"norm.weight": (words,), "norm.bias": (words,)}
    else:
        shapes = {"latents": (1, 4, 20), "proj_in.weight": (20, 24), "proj_in.bias": (20,)}
        shapes |= {
            "proj_out.weight": (words, 20),
            "proj_out.bias": (words,),
            "norm_out.weight": (words,),
            "norm_out.bias": (words,),
        }
        for layer in range(4):
            at0, at1 = f"layers.{layer}.0", f"layers.{layer}.1"
            shapes |= {f"{at0}.norm{i}.{end}": (20,) for i in (1, 2) for end in ("weight", "bias")}
            shapes |= {f"{at0}.to_q.weight": (128, 20), f"{at0}.to_kv.weight": (256, 20)}
            shapes |= {f"{at0}.to_out.weight": (20, 128), f"{at1}.0.weight": (20,), f"{at1}.0.bias": (20,)}
            shapes |= {f"{at1}.1.weight": (80, 20), f"{at1}.3.weight": (20, 80)}
    return {"image_proj": {name: numbers(*shape) for name, shape in shapes.items()}, "ip_adapter": found}


@pytest.mark.parametrize("plus", [False, True])
def test_ip_adapter(folder: Path, tmp_path: Path, plus: bool) -> None:
    from safetensors.torch import save_file
    from transformers import CLIPImageProcessor

    parts = read_by_diffusers(folder).components
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    tower = image_tower(tmp_path / "tower")
    parts |= {"image_encoder": tower, "feature_extractor": processor}
    pipeline = diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
    state = ip_adapter(pipeline.unet, plus)
    if plus:
        torch.save(state, tmp_path / "adapter.bin")
    else:
        flat = {f"{part}.{name}": value for part, table in state.items() for name, value in table.items()}
        save_file(flat, tmp_path / "adapter.safetensors")
    file = tmp_path / ("adapter.bin" if plus else "adapter.safetensors")
    pipeline.load_ip_adapter(state, subfolder="", weight_name="", image_encoder_folder=None)
    pipeline.set_ip_adapter_scale(0.7)
    system = image_prompt(read_folder(folder), file, tmp_path / "tower")
    request = {**REQUEST, "negative": "apple", "count": 2}
    conditioned = {**request, "condition_images": {"prompt": lines()}, "conditions": {"prompt": [0.7]}}
    plain = draw(system, request)
    assert [p.image.tobytes() for p in plain] == [p.image.tobytes() for p in draw(read_folder(folder), request)]
    compare(draw(system, conditioned, batch=2), by_diffusers(pipeline, request, ip_adapter_image=lines()), plain)


def full_projection(words: int = 16) -> dict[str, torch.Tensor]:
    """What the adapter of whole faces makes of all places of the tiny tower."""
    generator = torch.Generator().manual_seed(9)
    shapes = {"0.weight": (24, 24), "0.bias": (24,), "2.weight": (words, 24), "2.bias": (words,)}
    shapes |= {"3.weight": (words,), "3.bias": (words,)}
    return {f"proj.{name}": torch.randn(*shape, generator=generator) * 0.5 for name, shape in shapes.items()}


def test_two_ip_adapters_at_once(folder: Path, tmp_path: Path) -> None:
    """Each its own picture and weight, one of all places; a ControlNet may stand beside both."""
    from transformers import CLIPImageProcessor

    parts = read_by_diffusers(folder).components
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    parts |= {"image_encoder": image_tower(tmp_path / "image_encoder"), "feature_extractor": processor}
    pipeline = diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
    states = [ip_adapter(pipeline.unet, plus=True), ip_adapter(pipeline.unet, plus=False)]
    states[1]["image_proj"] = full_projection()
    states[1]["ip_adapter"] = {name: value * 0.7 for name, value in states[1]["ip_adapter"].items()}
    for number, state in enumerate(states):
        torch.save(state, tmp_path / f"{number}.bin")
    pipeline.load_ip_adapter(states, subfolder=["", ""], weight_name=["", ""], image_encoder_folder=None)
    pipeline.set_ip_adapter_scale([0.7, 0.4])
    system = image_prompt(read_folder(folder), tmp_path / "0.bin", name="first")
    system = image_prompt(system, tmp_path / "1.bin", name="second")
    other = lines((64, 64)).rotate(90)
    settings = {
        **REQUEST,
        "condition_images": {"first": lines(), "second": other},
        "conditions": {"first": [0.7], "second": [0.4]},
    }
    expected = by_diffusers(pipeline, REQUEST, ip_adapter_image=[lines(), other])
    plain = draw(read_folder(folder), REQUEST)
    compare(draw(system, settings), expected, plain)
    assert draw(system, REQUEST)[0].image.tobytes() == plain[0].image.tobytes()
    net = loud(diffusers.ControlNetModel(**UNET, conditioning_embedding_out_channels=(4, 4, 4, 4)))
    net.save_pretrained(str(tmp_path / "net"))
    around = control(system, tmp_path / "net")
    assert draw(around, settings)[0].image.tobytes() == draw(system, settings)[0].image.tobytes()
    both = {**settings, "condition_images": {**settings["condition_images"], "control": other}}
    assert draw(around, both)[0].image.tobytes() != draw(system, settings)[0].image.tobytes()
    system.save(tmp_path / "kept")
    alike(system, System.read(tmp_path / "kept"), settings)


def test_ip_adapter_plus_of_kolors(tmp_path: Path) -> None:
    """Where the words are led to the UNet's width first: the answer of the UNet, as diffusers' own gives it."""
    from bimo.core.tensors import Conditioning, TextEncoding
    from tests.parity.test_kolors import VOCAB, kolors_unet, scheduler
    from tests.support.kolors_checkpoints import chatglm, random, save
    from tests.support.tiny_checkpoints import vae

    torch.manual_seed(4)
    theirs = kolors_unet()
    save(tmp_path / "saved", random(chatglm(VOCAB)), theirs, vae().eval(), scheduler())
    image_tower(tmp_path / "tower")
    state = ip_adapter(theirs, plus=True, words=24)
    torch.save(state, tmp_path / "adapter.bin")
    system = image_prompt(read_folder(tmp_path / "saved"), tmp_path / "adapter.bin", tmp_path / "tower")
    theirs._load_ip_adapter_weights([state])
    for processor in theirs.attn_processors.values():
        if hasattr(processor, "to_k_ip"):
            processor.scale = [0.7]
    x, t, tokens, vector = (
        torch.randn(2, 4, 8, 8),
        torch.tensor([700.0, 3.0]),
        torch.randn(2, 5, 16),
        torch.randn(2, 16),
    )
    ids, seen = torch.arange(12.0).reshape(2, 6), torch.randn(2, 17, 24)
    scalars = {"size_ids": ids, "prompt.weight": torch.full((2, 1), 0.7)}
    conditioning = Conditioning((TextEncoding(tokens),), vector, None, scalars, {"prompt": seen})
    with torch.inference_mode():
        found = system.level("image").denoiser(x, t, conditioning)
        added = {"text_embeds": vector, "time_ids": ids, "image_embeds": [seen[:, None]]}
        expected = theirs(x, t, tokens, added_cond_kwargs=added, return_dict=False)[0]
        silent = system.level("image").denoiser(
            x,
            t,
            Conditioning(
                (TextEncoding(tokens),),
                vector,
                None,
                {"size_ids": ids, "prompt.weight": torch.zeros(2, 1)},
                {"prompt": seen},
            ),
        )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found - silent).abs().max() > 0.01
