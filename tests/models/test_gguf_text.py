"""Text encoders in files of GGUF, as llama.cpp names their tensors, and each in the folder that it stands in for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from bimo.core.errors import WeightsError
from bimo.core.recipe import Recipe
from bimo.engine.memory import Keeping, resident_bytes, weights_of
from bimo.hub import registry
from bimo.models.layouts.gguf_file import GgufLinear
from bimo.models.layouts.gguf_text import GgufTextEncoder
from bimo.models.layouts.language_model import text_name
from bimo.models.text_encoders.clip import ClipText
from bimo.models.text_encoders.language_model import LanguageModel
from bimo.models.text_encoders.t5 import T5
from tests.support import edit_checkpoints, flow_checkpoints
from tests.support.drawing import same_weights, within_one
from tests.support.gguf_files import Arrays, write

pytest.importorskip("gguf")

#: llama.cpp's names, by its converter's table of each architecture.
LANGUAGE = (
    (r"^embed_tokens\.", "token_embd."),
    (r"^norm\.", "output_norm."),
    (r"^layers\.", "blk."),
    (r"self_attn\.([qkv])_proj", r"attn_\1"),
    (r"self_attn\.o_proj", "attn_output"),
    (r"self_attn\.([qk])_norm", r"attn_\1_norm"),
    (r"mlp\.(gate|up|down)_proj", r"ffn_\1"),
    (r"post_attention_layernorm", "ffn_norm"),
    (r"input_layernorm", "attn_norm"),
)
T5_NAMES = (
    (r"^embed_tokens\.", "token_embd."),
    (r"^final_layer_norm\.", "enc.output_norm."),
    (r"^block\.", "enc.blk."),
    (r"layer\.0\.SelfAttention\.relative_attention_bias", "attn_rel_b"),
    (r"layer\.0\.SelfAttention\.", "attn_"),
    (r"layer\.0\.layer_norm", "attn_norm"),
    (r"layer\.1\.DenseReluDense\.wi_0", "ffn_gate"),
    (r"layer\.1\.DenseReluDense\.wi_1", "ffn_up"),
    (r"layer\.1\.DenseReluDense\.wo", "ffn_down"),
    (r"layer\.1\.layer_norm", "ffn_norm"),
)
SIZES: dict[str, Any] = {"width": 64, "layers": 2, "heads": 2, "head": 32, "feed": 96, "vocab": 320}
SECTIONS = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": (4, 6, 6)}}
INTERLEAVED = {"rope_parameters": {**SECTIONS["rope_parameters"], "mrope_interleaved": True}}
PARTS: dict[str, Any] = {
    "qwen3": LanguageModel(**SIZES, key_heads=1),
    "qwen2vl": LanguageModel(**SIZES, key_heads=1, family="qwen2_5_vl", config=SECTIONS),
    "qwen3vl": LanguageModel(**SIZES, key_heads=1, family="qwen3_vl", config=INTERLEAVED),
    "t5encoder": T5(**SIZES),
}


def llama_cpp(own: Arrays, architecture: str) -> Arrays:
    named: Arrays = {}
    for name, value in own.items():
        for pattern, by in T5_NAMES if architecture.startswith("t5") else LANGUAGE:
            name = re.sub(pattern, by, name)
        named[name] = value
    return named


def arrays(encoder: Any) -> Arrays:
    return {name: value.float().numpy().copy() for name, value in encoder.model.state_dict().items()}


def built(part: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    return part.build().eval().requires_grad_(False)


def answer(encoder: Any, architecture: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    ids = torch.arange(24).view(2, 12) * 7 % 320
    with torch.inference_mode():
        return encoder.forward(ids, torch.ones(2, 12, dtype=torch.bool)).tokens.float()


@pytest.mark.parametrize(("kind", "most"), [("Q8_0", 0.02), ("Q4_0", 0.3), ("F16", 0.001)])
@pytest.mark.parametrize("architecture", PARTS)
def test_an_encoder_answers_as_its_float_model(architecture: str, kind: str, most: float, tmp_path: Path) -> None:
    part = PARTS[architecture]
    original, float_model, kept, whole = built(part, 0), built(part, 1), built(part, 1), built(part, 1)
    file = tmp_path / "x.gguf"
    extra = {"output.weight": numpy.ones((4, 32), "f4"), "dec.blk.0.attn_q.weight": numpy.ones((4, 32), "f4")}
    held = write(file, llama_cpp(arrays(original), architecture) | extra, kind, architecture)
    GgufTextEncoder(file, keep=True).fill(kept, torch.float32)
    GgufTextEncoder(file).fill(whole, torch.float32)
    names = llama_cpp({name: numpy.zeros(1) for name in arrays(original)}, architecture)
    pairs = dict(zip(arrays(original), names, strict=True))
    float_model.model.load_state_dict({own: torch.from_numpy(held[name]) for own, name in pairs.items()})
    for own, name in pairs.items():
        numpy.testing.assert_array_equal(arrays(whole)[own], held[name])
    expected = answer(float_model, architecture)
    # diffusers works scales out in float16.
    assert (answer(kept, architecture) - expected).norm() < 1e-3 * expected.norm()
    off = (expected - answer(original, architecture)).norm() / answer(original, architecture).norm()
    assert 0 < off < most
    blocks = [name for name, layer in kept.named_modules() if isinstance(layer, GgufLinear)]
    assert bool(blocks) == (kind != "F16")
    # T5's network asks this layer in which numbers it is.
    assert not any(name.endswith(".wo") for name in blocks)


@pytest.mark.slow
def test_in_bfloat16_blocks_answer_nearly_the_same(tmp_path: Path) -> None:
    for architecture, part in PARTS.items():
        file = tmp_path / f"{architecture}.gguf"
        original, kept = built(part, 0), built(part, 1)
        write(file, llama_cpp(arrays(original), architecture), "Q8_0", architecture)
        GgufTextEncoder(file, keep=True).fill(kept, torch.bfloat16)
        expected = answer(original, architecture)
        assert (answer(kept, architecture) - expected).norm() < 0.05 * expected.norm()


@pytest.fixture(scope="module")
def z_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("z") / "z-image"
    flow_checkpoints.saved(folder, "z_image")
    return folder


def test_a_folder_draws_with_it_and_needs_no_weights_of_its_own(z_image: Path, tmp_path: Path) -> None:
    import shutil

    import bimo

    plain = bimo.load(z_image)
    file = tmp_path / "qwen.gguf"
    write(file, llama_cpp(arrays(plain.system.text_encoders[0]), "qwen3"), "F32", "qwen3")
    bare = shutil.copytree(z_image, tmp_path / "bare")
    for weights in (bare / "text_encoder").glob("*.safetensors"):
        weights.unlink()
    engine = bimo.load(bare, text_encoder=file)
    request = {"text": "红苹果", "seed": 1, "steps": 2, "size": (32, 32)}
    same_weights(plain.system, engine.system)
    one, other = (each.draw(request)[0] for each in (plain, engine))
    within_one(one.image, other.image)
    assert other.weights not in ("", one.weights)


def test_what_sees_stays_the_folders_own(tmp_path: Path) -> None:
    folder = tmp_path / "edit"
    edit_checkpoints.saved(folder, "edit")
    plain = registry.load(folder)
    encoder: Any = plain.text_encoders[0]
    doubled = {name: 2 * value for name, value in arrays(encoder).items()}
    file = tmp_path / "qwen.gguf"
    write(file, llama_cpp(doubled, "qwen2vl"), "F32", "qwen2vl")
    read: Any = registry.load(folder, text_encoder=file).text_encoders[0]
    found = arrays(read)
    assert all((found[name] == value).all() for name, value in doubled.items())
    seen = read.visual.state_dict()
    assert all(torch.equal(seen[name], value) for name, value in encoder.visual.state_dict().items())


def test_memory_counts_its_blocks_with_the_text_encoders(tmp_path: Path) -> None:
    from bimo.diffusion.system import System

    original = built(PARTS["qwen3"], 0)
    file = tmp_path / "x.gguf"
    write(file, llama_cpp(arrays(original), "qwen3"), "Q8_0", "qwen3")
    system = System(Recipe(name="toy", text_encoders=(PARTS["qwen3"],)))
    before = weights_of(system)
    GgufTextEncoder(file, keep=True).fill(system.text_encoders[0], None)
    after = weights_of(system)
    rounded = before.encoders - after.encoders
    assert (after.blocks, after.encoder_blocks) == (0, rounded * 34 // 32)
    saved = resident_bytes(before, Keeping("bf16")) - resident_bytes(after, Keeping("bf16"))
    assert saved == 2 * rounded - after.encoder_blocks > 0


def test_what_does_not_go_is_one_sentence(z_image: Path, tmp_path: Path) -> None:
    own = llama_cpp(arrays(built(PARTS["qwen3"], 0)), "qwen3")
    cases: tuple[tuple[str, Arrays, str], ...] = (
        ("llama", own, "a model of 'llama'; expected a text encoder of Qwen3 or Qwen2.5-VL or Qwen3-VL or T5"),
        ("qwen2vl", own, "text encoder of Qwen2.5-VL, and this model has Qwen3"),
        ("t5", own, "text encoder of T5, and this model has Qwen3"),
        ("qwen3", own, "does not fit the recipe"),
        ("qwen3", {name: own[name] for name in list(own)[:-1]}, "missing"),
    )
    for number, (architecture, tensors, sentence) in enumerate(cases):
        file = tmp_path / f"{number}.gguf"
        write(file, tensors, "Q8_0", architecture)
        with pytest.raises(WeightsError, match=re.escape(sentence)) as raised:
            registry.load(z_image, text_encoder=file)
        assert "\n" not in str(raised.value)
    with pytest.raises(WeightsError, match=re.escape("a text encoder (--text-encoder)")):
        registry.load(file)
    with pytest.raises(WeightsError, match=r"--text-encoder is .*expected a file of GGUF"):
        registry.load(z_image, text_encoder=z_image / "model_index.json")


def test_which_component_need_not_be_fetched(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    write(file, {"token_embd.weight": numpy.ones((4, 32), "f4")}, "Q8_0", "t5")
    recipe = Recipe(name="toy", text_encoders=(ClipText(), T5()))
    assert registry._component(GgufTextEncoder(file), recipe) == ("text_encoder_2",)
    write(file, {"token_embd.weight": numpy.ones((4, 32), "f4")}, "Q8_0", "qwen2vl")
    edit = registry.recipe("qwen-image-edit")
    assert registry._component(GgufTextEncoder(file), edit) == ()


def test_names_of_the_visual_half_are_not_of_the_model() -> None:
    assert text_name("visual.blocks.0.attn.qkv.weight") is None
