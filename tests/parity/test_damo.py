"""damo's two cascades in ModelScope's layout: read back to the bit, and drawn as the published steps draw."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bimo.core.errors import RecipeError, WeightsError
from bimo.core.recipe import Recipe
from bimo.core.tensors import Conditioning, TextEncoding
from bimo.diffusion.system import System
from bimo.hub.registry import load, recipe
from bimo.models.cascade import layout
from bimo.recipes.damo_cascade import damo_cascade, damo_cascade_xglm
from bimo.recipes.damo_tiny import damo_tiny
from tests.support.chinese_checkpoints import sentence_words
from tests.support.drawing import draw
from tests.support.tiny_checkpoints import BERT_WORDS

UNET = {"dim": 32, "dim_mult": [1, 2], "num_res_blocks": 1, "head_dim": 32, "context_dim": 16}
FLAT = {"dim": 32, "dim_mult": [1, 2], "num_res_blocks": 1}
MERGES = ["r e", "re d</w>", "c a", "ca t</w>"]
CLIP = {
    "embed_dim": 32,
    "image_size": 16,
    "patch_size": 8,
    "vision_dim": 32,
    "vision_heads": 2,
    "vision_layers": 1,
    "vocab_size": 512 + len(MERGES) + 2,
    "text_dim": 16,
    "text_heads": 2,
    "text_layers": 2,
}
CASCADE: dict[str, Any] = {
    "clip": CLIP,
    "xglm": {"vocab_size": 64, "dim": 16, "ffn_dim": 32, "embed_dim": 32, "num_heads": 2, "num_layers": 2},
    "prior": {"dim": 32, "clip_dim": 32, "num_heads": 2, "num_layers": 1},
    "decoder": {**UNET, "y_dim": 32, "attn_scales": [0.5]},
    "upsampler256": {**UNET, "y_dim": 32, "attn_scales": [0.5]},
    "upsampler1024": {**FLAT, "y_dim": 32},
    "prior_diffusion": {"schedule": "cosine"},
    "decoder_diffusion": {"schedule": "cosine", "var_type": "learned_range"},
    "upsampler256_diffusion": {"schedule": "cosine", "num_timesteps": 1000},
    "upsampler1024_diffusion": {"schedule": "linear"},
}
TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
MODELS: dict[str, Any] = {
    "text_config": {**TEXT, "vocab_size": len(BERT_WORDS), "type_vocab_size": 2},
    "generator_config": {**UNET, "text_dim": 32, "attn_scales": [0.5]},
    "upsampler_256_config": {**UNET, "text_dim": 32, "attn_scales": [0.5]},
    "upsampler_1024_config": FLAT,
}
LAWS = {
    "generator_config": {"schedule": "cosine", "var_type": "learned_range"},
    "upsampler_256_config": {"schedule": "cosine"},
    "upsampler_1024_config": {"schedule": "quadratic"},
}


def shaken(recipe: Recipe) -> System:
    """The system of a recipe with random weights everywhere."""
    torch.manual_seed(0)
    system = System(recipe).eval()
    for parameter in system.parameters():
        nn.init.normal_(parameter, std=0.15)
    return system


def published_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Both towers of a system as CLIP's own code names them."""
    found: dict[str, Tensor] = {"clip.log_scale": torch.zeros(())}
    for tower, prefix in (("textual", "text.0.model."), ("visual", "prior.space.model.vision_model.")):
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        for name, value in own.items():
            if name.endswith(("k_proj.weight", "v_proj.weight", "k_proj.bias", "v_proj.bias")):
                continue
            if "q_proj" in name:
                value = torch.cat([own[name.replace("q_proj", f"{which}_proj")] for which in "qkv"])
            for ours, theirs in (
                ("final_layer_norm", "norm"),
                ("encoder.layers.", "transformer."),
                ("self_attn.q_proj", "attn.to_qkv"),
                ("self_attn.out_proj", "attn.proj"),
                ("layer_norm", "norm"),
                ("mlp.fc1", "mlp.0"),
                ("mlp.fc2", "mlp.2"),
                ("embeddings.token_embedding", "token_embedding"),
                ("embeddings.patch_embedding", "patch_embedding"),
                ("embeddings.position_embedding.weight", "pos_embedding"),
                ("embeddings.class_embedding", "cls_embedding"),
                ("post_layernorm", "post_norm"),
                ("pre_layrnorm", "pre_norm"),
            ):
                name = name.replace(ours, theirs)
            value = value[None] if name == "pos_embedding" else value
            value = value[None, None] if name == "cls_embedding" else value
            found[f"clip.{tower}.{name}"] = value
    found["clip.textual.head"] = state["text.0.projection.weight"].T
    found["clip.visual.head"] = state["prior.space.model.visual_projection.weight"].T
    found["clip.textual.attn_mask"] = torch.ones(1, 77, 77)
    return found


def tiny_folder(folder: Path) -> System:
    folder.mkdir()
    (folder / "model_config.json").write_text(json.dumps(MODELS))
    (folder / "diffusion_config.json").write_text(json.dumps(LAWS))
    (folder / "vocab.txt").write_text("\n".join(BERT_WORDS), "utf-8")
    system = shaken(layout.recipe_of(folder, damo_tiny))
    state: dict[str, Tensor] = {}
    for name, value in system.state_dict().items():
        below = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        text = below.replace("text.0.model.", "text_encoder.")
        state[text if text != below else f"unet_{name}".replace(".denoiser", "", 1)] = value
    torch.save(state, folder / "pytorch_model.bin")
    return system


def cascade_folder(folder: Path) -> tuple[System, System]:
    sentence_words(folder, 24)
    (folder / "configuration.json").write_text(json.dumps({"framework": "pytorch", **CASCADE}))
    lines = ["#version", *MERGES, *[""] * (49152 - 256 - 2 - len(MERGES)), "no merge of CLIP's"]
    (folder / "bpe_simple_vocab_16e6.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    english, chinese = (shaken(layout.recipe_of(folder, wanted)) for wanted in (damo_cascade, damo_cascade_xglm))
    own = english.state_dict()
    state = published_clip(own)
    state |= {name.replace(".denoiser", "", 1): value for name, value in own.items() if ".denoiser." in name}
    words = {n: v for n, v in chinese.state_dict().items() if n.startswith("text.0.model.")}
    state |= {name.replace("text.0.model.", "xglm."): value for name, value in words.items()}
    state |= {"prior.attn_mask": torch.ones(1, 1, 4, 4), "xglm.attn_mask": torch.ones(1, 1, 5, 5)}
    state["xglm.pos_embedding.weight"] = torch.zeros(4, 16)
    torch.save(state, folder / "pytorch_model.bin")
    return english, chinese


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, System]:
    folder = tmp_path_factory.mktemp("damo") / "tiny"
    return folder, tiny_folder(folder)


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, System, System]:
    folder = tmp_path_factory.mktemp("damo") / "cascade"
    return folder, *cascade_folder(folder)


def same(one: System, other: System, but: str = "never") -> bool:
    before, after = one.state_dict(), other.state_dict()
    return before.keys() == after.keys() and all(
        torch.equal(value, after[name]) for name, value in before.items() if not name.startswith(but)
    )


def test_the_small_cascade_reads_back(tiny: tuple[Path, System]) -> None:
    folder, made = tiny
    assert layout.bases(folder) == ("damo-tiny",)
    assert recipe(folder).levels == made.recipe.levels
    system = load(folder)
    assert same(made, system)
    generator = system.recipe.level("generator")
    assert getattr(generator.denoiser, "encoder_film") is False  # noqa: B009
    assert getattr(generator.schedule, "variance") == "learned_range"  # noqa: B009
    last = system.recipe.level("upsampler_1024").schedule
    assert (getattr(last, "beta_schedule"), getattr(last, "beta_start")) == ("scaled_linear", 0.0015)  # noqa: B009


def test_the_large_cascade_reads_back_with_either_text_encoder(cascade: tuple[Path, System, System]) -> None:
    folder, english, chinese = cascade
    assert layout.bases(folder) == ("damo-cascade",)
    read = layout.read(folder, damo_cascade)
    assert same(english, read)
    assert read.text_encoders[0].budget("red cat").used == 4
    # Both were published with the same networks; only the first system's were saved.
    other = layout.read(folder, damo_cascade_xglm)
    output, found = chinese.state_dict(), other.state_dict()
    assert {n for n in output if n.startswith("text.")} <= found.keys()
    assert all(torch.equal(v, found[n]) for n, v in output.items() if "text.0" in n)
    assert same(replaced(other, english), english)


def replaced(system: System, by: System) -> System:
    """The system with another's text tower."""
    system.text = by.text
    return system


def test_what_does_not_fit_is_reported(tiny: tuple[Path, System], tmp_path: Path) -> None:
    folder, _ = tiny
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    state = torch.load(copy / "pytorch_model.bin", weights_only=True)
    state["unet_generator.surplus"] = state.pop("unet_generator.head.2.bias")
    torch.save(state, copy / "pytorch_model.bin")
    with pytest.raises(WeightsError) as raised:
        layout.read(copy, damo_tiny)
    assert "missing 1: generator.denoiser.head.2.bias" in raised.value.en
    assert "unexpected 1: generator.denoiser.surplus" in raised.value.en
    for change, told in (
        ({"generator_config": {**MODELS["generator_config"], "num_heads": 8}}, "num_heads"),
        ({"text_config": {**MODELS["text_config"], "pre_ln": True}}, "pre_ln"),
        ({"generator_config": {**MODELS["generator_config"], "colour": 1}}, "colour"),
    ):
        (copy / "model_config.json").write_text(json.dumps(MODELS | change))
        with pytest.raises(RecipeError) as refused:
            layout.recipe_of(copy, damo_tiny)
        assert told in refused.value.en
    (copy / "model_config.json").write_text(json.dumps(MODELS))
    (copy / "diffusion_config.json").write_text(json.dumps(LAWS | {"generator_config": {"var_type": "learned"}}))
    with pytest.raises(RecipeError, match="learned"):
        layout.recipe_of(copy, damo_tiny)
    assert not layout.is_folder(tmp_path)


def solved(
    system: System, name: str, x: Tensor, denoiser_input: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> Tensor:
    """x of a level drawn by its sampler; ``ask`` gives the answers of both branches, of which noise is 3 channels."""
    level = system.recipe.level(name)
    sampler = system.level(name).schedule.sampler(level.sampler, level.steps)
    for t in sampler.timesteps:
        given, null = denoiser_input(x, t)
        x = sampler.step(null + level.guidance.scale * (given - null), t, x)
    return x


@torch.no_grad()
def test_it_draws_as_the_published_steps_do(tiny: tuple[Path, System]) -> None:
    folder, _ = tiny
    system = layout.read(folder, damo_tiny)
    levels = tuple(replace(level, steps=3 if level.name == "generator" else 2) for level in system.recipe.levels)
    system.recipe = replace(system.recipe, levels=levels)
    for level in levels:
        system.level(level.name).recipe = level
    text = "一只红色苹果"
    found = draw(system, text, size=(128, 128), seed=5)[0]
    tower: Any = system.text_encoders[0]
    ids, mask = tower.ids([text])
    answer = tower.model(ids, attention_mask=mask.long())
    words, y = answer.last_hidden_state, answer.pooler_output
    noise = torch.Generator().manual_seed(5)

    def told(at: Tensor, seen: Tensor, known: bool, small: Tensor | None = None) -> Conditioning:
        stream = TextEncoding(words if known else torch.zeros_like(words), seen)
        scalars = {"low_res_noise": torch.zeros(1, 1)}
        return Conditioning((stream,), y if known else torch.zeros_like(y), small, scalars)

    nets = {level.name: system.level(level.name).denoiser for level in levels}

    def both(name: str, hidden: bool, small: Tensor | None) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        def ask(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            unseen = torch.zeros_like(mask) if hidden else mask
            rows = (told(t, mask, True, small), told(t, unseen, False, small))
            given, null = (nets[name](x, t[None], row)[:, :3] for row in rows)
            return given, null

        return ask

    def larger(x: Tensor) -> Tensor:
        return functional.interpolate(x, scale_factor=4.0, mode="bilinear", align_corners=False)

    x = solved(system, "generator", torch.randn(1, 3, 8, 8, generator=noise), both("generator", False, None))
    x = larger(x)
    x = solved(system, "upsampler_256", torch.randn(x.shape, generator=noise), both("upsampler_256", True, x))
    x = larger(x)
    x = solved(system, "upsampler_1024", torch.randn(x.shape, generator=noise), both("upsampler_1024", True, x))
    wanted = ((x[0].clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).numpy()
    assert numpy.abs(numpy.asarray(found.image, dtype=float) - wanted).max() <= 1.0
    assert wanted.std() > 5


@pytest.mark.slow
def test_either_text_encoder_draws_the_large_cascade(cascade: tuple[Path, System, System]) -> None:
    folder, *_ = cascade
    for wanted in (damo_cascade, damo_cascade_xglm):
        levels = tuple(replace(level, steps=1 if "upsampler" in level.name else 2) for level in wanted.levels)
        few = replace(wanted, levels=levels)
        system = layout.read(folder, few)
        one, other = (draw(system, text, size=(128, 128), seed=1)[0].image for text in ("a red cat", "一只苹果"))
        assert one.size == (128, 128)
        assert one.tobytes() != other.tobytes()


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (damo_tiny, 3_159_615_116),
        # Published as 5 B in all: with both towers and the vision tower these are 5.45 B.
        (damo_cascade, 4_884_234_060),
        (damo_cascade_xglm, 5_325_834_828),
    ],
)
def test_sizes_at_full_width(wanted: Recipe, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in System(wanted).parameters()) == count
