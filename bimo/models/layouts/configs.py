"""Reads configs of published models: every field is used, known to have no effect, or refused by name."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bimo.core.errors import RecipeError, WeightsError
from bimo.core.messages import say

#: The sizes that text encoders of BERT's and CLIP's shape share: a part's field -> the config's.
TEXT_ENCODER_SIZES = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "feed": "intermediate_size",
    "vocab": "vocab_size",
    "positions": "max_position_embeddings",
}
#: Fields of transformers' configs that do not change a text encoder's output: who wrote the file, heads that are not
#: built.
NO_EFFECT_TEXT = {
    *("architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "use_cache", "output_past"),
    *("gradient_checkpointing", "initializer_range", "initializer_factor", "tie_word_embeddings", "projection_dim"),
    *("classifier_dropout", "directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers"),
    *("pooler_size_per_head", "pooler_type", "bos_token_id", "eos_token_id", "pad_token_id", "id2label", "label2id"),
    *("sep_token_id", "decoder_start_token_id", "tokenizer_class", "finetuning_task", "task_specific_params", "prefix"),
    *("problem_type", "torchscript", "use_bfloat16", "tf_legacy_loss", "tie_encoder_decoder", "return_dict"),
    *("output_attentions", "output_hidden_states", "cross_attention_hidden_size"),
    # Generation settings: a text encoder generates no text.
    *("bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping", "length_penalty"),
    *("encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id", "max_length"),
    *("forced_eos_token_id", "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "output_scores"),
    *("num_return_sequences", "remove_invalid_values", "repetition_penalty", "return_dict_in_generate", "temperature"),
    *("suppress_tokens", "top_k", "top_p", "typical_p", "assistant_confidence_threshold", "assistant_early_exit"),
    *("assistant_ensemble_weight", "assistant_lookbehind", "cache_config", "cache_implementation", "compile_config"),
    *("constraints", "continuous_batching_config", "disable_compile", "dola_layers", "encoder_repetition_penalty"),
    *("epsilon_cutoff", "eta_cutoff", "force_words_ids", "forced_decoder_ids", "generation_kwargs", "guidance_scale"),
    *("is_assistant", "low_memory", "max_cache_len", "max_matching_ngram_size", "max_new_tokens", "max_time"),
    *("min_new_tokens", "min_p", "num_assistant_tokens", "num_assistant_tokens_schedule", "num_logits_to_keep"),
    *("output_logits", "penalty_alpha", "prefill_chunk_size", "prompt_lookup_num_tokens", "renormalize_logits"),
    *("return_legacy_cache", "sequence_bias", "speculation_type", "stop_strings", "target_lookbehind"),
    *("token_healing", "top_h", "use_mtp", "watermarking_config", "final_logit_softcapping"),
    # The attention implementation, tensor parallelism, and the program that wrote the file.
    *("attn_implementation", "attention_implementation", "use_flash_attn", "use_flash_attention_2", "pretraining_tp"),
    *("xla_device", "use_return_dict", "auto_map", "unsloth_fixed", "unsloth_version", "num_labels", "label_names"),
    *("layerdrop", "encoder_layerdrop", "text_config_dict", "vision_config_dict", "logit_scale_init_value"),
}
#: The field that describes quantised weights.
QUANTISED = "quantization_config"
#: Fields of older configs that the current classes lack, with the one supported value of each.
FORMER_TEXT: dict[str, Any] = {
    "is_decoder": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "chunk_size_feed_forward": 0,
    "position_embedding_type": "absolute",
    "use_attention_mask": False,
    "pruned_heads": {},
}


@dataclass(frozen=True)
class Config:
    """A config.json: its path and its fields."""

    path: Path
    fields: Mapping[str, Any]

    def of(self, defaults: Mapping[str, Any], carried: Iterable[str], no_effect: Iterable[str]) -> dict[str, Any]:
        """The values of ``carried`` fields, the class's default for an absent one.

        Raises RecipeError that names a field which is not carried and differs from the default of its class.
        """
        carried, no_effect = set(carried), set(no_effect)
        for name, value in self.fields.items():
            if name in carried or name in no_effect or self.has_no_effect(name, value, name in defaults):
                continue
            if name not in defaults or plain(defaults[name]) != plain(value):
                expected = repr(defaults[name]) if name in defaults else say("no such field")
                raise RecipeError(
                    "{name} of {path} is {value!r}; supported is {expected}, and ignoring it would draw wrong",
                    name=name,
                    path=self.path,
                    value=value,
                    expected=expected,
                )
        return {name: plain(self.fields.get(name, defaults.get(name))) for name in carried}

    def has_no_effect(self, name: str, value: Any, known: bool) -> bool:
        """Whether a field does not change the output: it matters in training only, or it is unknown to the class and
        disabled. Raises RecipeError for quantised weights.
        """
        if name == QUANTISED and value:
            method = cast("dict[str, Any]", value).get("quant_method") if isinstance(value, dict) else value
            raise RecipeError(
                "the weights of {path} are quantised ({method}), which is not read; take those that are not (of 16 "
                "bits as well)",
                path=self.path,
                method=method,
            )
        off = not known and (value is None or value is False or value in ("", [], {}))
        return name.startswith("_") or "dropout" in name or off


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises WeightsError if the file is missing or has none."""
    try:
        data = json.loads(text_of(path.read_bytes()))
    except OSError as error:
        raise WeightsError(
            "cannot read {path}: {strerror}; a model's folder must be downloaded whole",
            path=path,
            strerror=error.strerror,
        ) from None
    except ValueError as error:
        raise WeightsError("{path} is not JSON: {error}", path=path, error=error) from None
    if not isinstance(data, dict):
        raise WeightsError("{path} is not a JSON object", path=path)
    return cast("dict[str, Any]", data)


def text_of(content: bytes) -> str:
    """Decodes a text file: UTF-8 or UTF-16 with or without a byte order mark, or GB 18030 (which includes GBK), as
    editors in China write it. Raises UnicodeDecodeError, which is a ValueError, for any other encoding.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("gb18030")


def defaults_of(cls: type) -> dict[str, Any]:
    """The default of every parameter of a class's constructor that has one."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def plain(value: Any) -> Any:
    """Converts lists to tuples, at any depth: fields of parts are tuples, JSON only has lists."""
    if isinstance(value, dict):
        return {name: plain(v) for name, v in cast("dict[str, Any]", value).items()}
    return tuple(plain(v) for v in cast("list[Any]", value)) if isinstance(value, (list, tuple)) else value


def before(version: Any, limit: tuple[int, int]) -> bool:
    """Whether a version such as '0.8.1' is older than a limit."""
    match = re.match(r"(\d+)\.(\d+)", str(version))
    return match is not None and (int(match[1]), int(match[2])) < limit
