"""Configs that other versions of the libraries wrote: what changes no answer is passed over, what would is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from bimo.core.errors import RecipeError
from bimo.models.layouts.configs import NO_EFFECT_TEXT, Config
from bimo.models.layouts.diffusers_folder import recipe_of
from bimo.models.layouts.language_model import language_model
from bimo.models.text_encoders.language_model import LanguageModel
from tests.support.families import FAMILIES

#: As any version of transformers may put them beside a tower's own fields; none is read to answer.
EVERYWHERE: dict[str, Any] = {
    "_attn_implementation_autoset": True,
    "attn_implementation": "flash_attention_2",
    "attention_dropout": 0.1,
    "auto_map": {"AutoModel": "modeling.Model"},
    "cache_implementation": "hybrid",
    "gradient_checkpointing": True,
    "num_labels": 2,
    "num_logits_to_keep": 0,
    "output_past": True,
    "pretraining_tp": 1,
    "quantization_config": None,
    "return_legacy_cache": True,
    "tf_legacy_loss": False,
    "torch_dtype": "bfloat16",
    "torchscript": True,
    "transformers_version": "4.30.2",
    "unsloth_fixed": True,
    "use_bfloat16": True,
    "use_flash_attn": True,
    "xla_device": None,
    "a_switch_of_next_year": False,
    "a_table_of_next_year": None,
}
#: The fields that published configs have, or those of some version had, of which a family's class of today has none.
OWN: dict[str, dict[str, Any]] = {
    "stable-diffusion": {"projection_dim": 768, "dropout": 0.0, "initializer_factor": 1.0, "layerdrop": 0.1},
    "taiyi": {"directionality": "bidi", "pooler_type": "first_token_transform", "position_embedding_type": "absolute"},
    "chinese-clip": {"position_embedding_type": "absolute", "pruned_heads": {}, "is_decoder": False},
    "altdiffusion": {"pooler_fn": "cls", "learn_encoder": False, "position_embedding_type": "absolute"},
    "xl": {"dropout": 0.0, "projection_dim": 12},
    "kolors": {"rope_ratio": 1, "classifier_dropout": None, "interleaved_qkv": False, "seq_length": 8192},
    "hunyuan": {"classifier_dropout": 0.0, "directionality": "bidi"},
    "z_image": {"use_sliding_window": False, "rope_interleaved": False},
    "qwen_image": {"vision_token_id": 7},
    "qwen_image_edit": {"vision_token_id": 7},
    "longcat_image": {"image_token_id": 5},
    "cogview4": {"multi_query_attention": None},
    "lumina": {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": None, "final_logit_softcapping": 30.0},
    "ovis_image": {"use_sliding_window": False, "tie_word_embeddings": True},
    "ernie_image": {"pad_token_id": None, "tie_word_embeddings": True},
    "hunyuan_image": {"vision_token_id": 7},
    "z_image_omni": {"use_sliding_window": False, "rope_interleaved": False},
    "qwen_image_21": {"vision_token_id": 7},
}
#: What would change an answer, or may: refused by its name.
LOUD: dict[str, tuple[str, Any]] = {
    "stable-diffusion": ("use_attention_mask", True),
    "taiyi": ("position_embedding_type", "relative_key"),
    "chinese-clip": ("is_decoder", True),
    "altdiffusion": ("hidden_act", "relu"),
    "xl": ("rotary_base", 10000),
    "kolors": ("rmsnorm", False),
    "hunyuan": ("position_embedding_type", "relative_key"),
    "z_image": ("rotary_base", 10000),
    "qwen_image": ("rotary_base", 10000),
    "qwen_image_edit": ("rotary_base", 10000),
    "longcat_image": ("rotary_base", 10000),
    "cogview4": ("rope_ratio", 500),
    "lumina": ("rotary_base", 10000),
    "ovis_image": ("attention_sinks", 4),
    "ernie_image": ("attention_bias", True),
    "hunyuan_image": ("rotary_base", 10000),
    "z_image_omni": ("rotary_base", 10000),
    "qwen_image_21": ("rotary_base", 10000),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def place(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family) / "saved"
            FAMILIES[family][1](made[family])
        return made[family]

    return place


def edited(source: Path, target: Path, part: str, changes: dict[str, Any]) -> Path:
    """A folder without weights, one part's config changed, and the text's within it."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
    path = target / part / "config.json"
    fields = json.loads(path.read_text())
    inner = fields["text_config"] if isinstance(fields.get("text_config"), dict) else fields
    inner |= changes
    path.write_text(json.dumps(fields))
    return target


@pytest.mark.parametrize("family", FAMILIES)
def test_fields_that_change_nothing_are_passed_over(places: Any, tmp_path: Path, family: str) -> None:
    expected = recipe_of(places(family))
    generation = {name: 7 for name in transformers.GenerationConfig().to_dict() if not name.startswith("_")}
    generation |= {"bos_token_id": 1, "eos_token_id": expected_end(places(family)), "pad_token_id": 0}
    for number, changes in enumerate((EVERYWHERE, generation, OWN[family])):
        folder = edited(places(family), tmp_path / str(number), "text_encoder", changes)
        assert recipe_of(folder) == expected


def expected_end(folder: Path) -> Any:
    return json.loads((folder / "text_encoder" / "config.json").read_text()).get("eos_token_id", 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_fields_that_may_change_an_answer_are_refused_by_name(places: Any, tmp_path: Path, family: str) -> None:
    name, value = LOUD[family]
    with pytest.raises(RecipeError, match=rf"{name} of .*text_encoder.config\.json"):
        recipe_of(edited(places(family), tmp_path / "loud", "text_encoder", {name: value}))


@pytest.mark.parametrize("family", FAMILIES)
def test_quantised_weights_are_told_as_such(places: Any, tmp_path: Path, family: str) -> None:
    denoiser = "unet" if (places(family) / "unet").is_dir() else "transformer"
    for part in ("text_encoder", denoiser):
        changes = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
        with pytest.raises(RecipeError, match=r"quantised \(bitsandbytes\)"):
            recipe_of(edited(places(family), tmp_path / part, part, changes))


def test_what_generation_is_told_is_known() -> None:
    """Of the pinned transformers: a newer one may have more."""
    assert {n for n in transformers.GenerationConfig().to_dict() if not n.startswith("_")} <= NO_EFFECT_TEXT


#: Configs as published, of before transformers 5: the rotation and the sections of it told otherwise.
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma2": (
        "Gemma2Config",
        {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_logit_softcapping": 50.0,
            "bos_token_id": 2,
            "cache_implementation": "hybrid",
            "eos_token_id": 1,
            "final_logit_softcapping": 30.0,
            "head_dim": 8,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 16,
            "initializer_range": 0.02,
            "intermediate_size": 24,
            "max_position_embeddings": 8192,
            "model_type": "gemma2",
            "num_attention_heads": 2,
            "num_hidden_layers": 4,
            "num_key_value_heads": 1,
            "pad_token_id": 0,
            "query_pre_attn_scalar": 100,
            "rms_norm_eps": 1e-6,
            "rope_theta": 5000.0,
            "sliding_window": 64,
            "torch_dtype": "float32",
            "transformers_version": "4.42.4",
            "use_cache": True,
            "vocab_size": 99,
        },
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VLTextConfig",
        {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_size": 16,
            "image_token_id": 5,
            "initializer_range": 0.02,
            "intermediate_size": 24,
            "max_position_embeddings": 128000,
            "max_window_layers": 28,
            "model_type": "qwen2_5_vl",
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "num_key_value_heads": 1,
            "rms_norm_eps": 1e-5,
            "rope_scaling": {"mrope_section": [2, 1, 1], "type": "mrope"},
            "rope_theta": 500000.0,
            "sliding_window": 32768,
            "tie_word_embeddings": False,
            "use_cache": True,
            "use_sliding_window": False,
            "video_token_id": 6,
            "vision_config": {"depth": 2},
            "vocab_size": 99,
            "vision_end_token_id": 3,
            "vision_start_token_id": 4,
            "vision_token_id": 7,
            "use_mrope": False,
        },
    ),
    "qwen3": (
        "Qwen3Config",
        {
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "head_dim": 8,
            "hidden_act": "silu",
            "hidden_size": 16,
            "intermediate_size": 24,
            "max_position_embeddings": 40960,
            "max_window_layers": 2,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "num_key_value_heads": 1,
            "rms_norm_eps": 1e-5,
            "rope_scaling": None,
            "rope_theta": 5000,
            "sliding_window": None,
            "use_sliding_window": False,
            "vocab_size": 99,
        },
    ),
    "mistral": (
        "MistralConfig",
        {
            "attention_dropout": 0.0,
            "bos_token_id": 1,
            "dtype": "bfloat16",
            "eos_token_id": 2,
            "head_dim": 8,
            "hidden_act": "silu",
            "hidden_size": 16,
            "initializer_range": 0.02,
            "intermediate_size": 24,
            "max_position_embeddings": 262144,
            "model_type": "mistral",
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "num_key_value_heads": 1,
            "pad_token_id": None,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "factor": 16.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "original_max_position_embeddings": 16384,
                "rope_theta": 1000000.0,
                "rope_type": "yarn",
            },
            "sliding_window": None,
            "tie_word_embeddings": True,
            "use_cache": True,
            "vocab_size": 99,
        },
    ),
    "glm": (
        "GlmConfig",
        {
            "attention_bias": True,
            "attention_dropout": 0.0,
            "eos_token_id": [1, 2],
            "head_dim": 8,
            "hidden_act": "silu",
            "hidden_size": 16,
            "intermediate_size": 24,
            "max_position_embeddings": 8192,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "num_key_value_heads": 1,
            "pad_token_id": 1,
            "partial_rotary_factor": 0.25,
            "rms_norm_eps": 1.5e-7,
            "rope_theta": 5000.0,
            "vocab_size": 99,
        },
    ),
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_a_published_config_means_what_the_library_makes_of_it(family: str) -> None:
    name, fields = PUBLISHED[family]
    expected = getattr(transformers, name).from_dict(fields)
    part = language_model(Config(Path("text_encoder/config.json"), fields), family)
    assert isinstance(part, LanguageModel)
    found = part.build().model.config
    heard = set(getattr(transformers, name)().to_dict()) - NO_EFFECT_TEXT - {"architectures"}
    for field in sorted(heard):
        assert getattr(found, field, None) == getattr(expected, field, None), field
