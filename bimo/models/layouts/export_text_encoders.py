"""Exports text encoders for transformers' classes: config, weights and tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bimo.core import checkpoint_io, module_weights
from bimo.models.glm_image.words import GlmImageWordsEncoder
from bimo.models.kolors.layout import ONLY, OWN
from bimo.models.layouts.pipeline_form import ALT, CHINESE_CLIP, GLM_IMAGE_WORDS, MISTRAL, QWEN, QWEN3
from bimo.models.layouts.text_encoders import FAST_TOKENIZER
from bimo.models.layouts.weight_files import STEMS
from bimo.models.text_encoders.clip import ClipTextEncoder
from bimo.models.text_encoders.qwen_vision import IMAGE_PAD

#: Published classes of text encoders by the class of their module here, if the names differ.
KINDS = {
    "Transformed": ALT,
    "T5Stack": "T5EncoderModel",
    "Model": "ChatGLMModel",
    "Qwen2_5_VLTextModel": QWEN,
    "Qwen3VLTextModel": QWEN3,
    "MistralModel": MISTRAL,
    "Ministral3Model": MISTRAL,
}
CLIP = ("CLIPTextModel", "CLIPTextModelWithProjection")
BERT = ("BertModel", CHINESE_CLIP)
#: The library of a class in model_index.json, if it is not transformers.
LIBRARIES = {ALT: "alt_diffusion", "ChatGLMModel": "kolors", "ChatGLMTokenizer": "kolors"}
TOKENIZERS = {"BertModel": "BertTokenizer", CHINESE_CLIP: "BertTokenizer", "ChatGLMModel": "ChatGLMTokenizer"}
#: The id of [SEP] in BERT's vocabularies, which published configs do not name.
BERT_END = 102
SETTINGS_FILE = "tokenizer_config.json"
BERT_MARKS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
#: Settings of BertTokenizer -> the fields of its normaliser.
NORMALISER = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def kind(encoder: Any) -> str:
    """The class that a text encoder is exported as."""
    if isinstance(encoder, GlmImageWordsEncoder):
        return GLM_IMAGE_WORDS
    name = type(encoder.model).__name__
    if name == "BertModel" and encoder.part.masked and encoder.part.padding == "shown":
        return CHINESE_CLIP
    if name in KINDS:
        return KINDS[name]
    return f"{name}WithProjection" if isinstance(encoder, ClipTextEncoder) and encoder.part.project else name


def write_text_encoder(folder: Path, encoder: Any, dtype: torch.dtype | None) -> list[str]:
    """Writes a text encoder's config and weights; returns (library, class)."""
    folder.mkdir(parents=True)
    cls = kind(encoder)
    state: dict[str, Tensor] = encoder.model.state_dict()
    config: dict[str, Any] = _config(encoder) | {"architectures": [cls]}
    if cls in CLIP:
        config |= {"bos_token_id": None, "eos_token_id": _end(encoder), "pad_token_id": encoder.pad}
        if encoder.projection is not None:
            config["projection_dim"] = encoder.part.project
            state |= {"text_projection.weight": encoder.projection.weight}
        state = published(state)
    if cls in CLIP and encoder.part.penultimate is True:
        # diffusers uses the output of the last layer, so the unused last layer is not written.
        config["num_hidden_layers"] -= 1
        state = {n: v for n, v in state.items() if f".layers.{config['num_hidden_layers']}." not in n}
    if cls in ADAPTED:
        state = ADAPTED[cls](encoder, state, config)
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    checkpoint_io.write(folder / f"{STEMS[0]}.safetensors", state, dtype)
    return [LIBRARIES.get(cls, "transformers"), cls]


def _config(encoder: Any) -> dict[str, Any]:
    """The config of a text encoder. Our modules of BERT, AltDiffusion and ChatGLM3 have none: it is built from the
    part.
    """
    cls = kind(encoder)
    part = encoder.part
    if cls == "ChatGLMModel":
        sizes = {field: getattr(part, name) for name, (field, _) in OWN.items()}
        fixed = {name: value for name, (value, _) in ONLY.items()}
        return {"model_type": "chatglm", "original_rope": True, **fixed, **sizes}
    if cls not in (*BERT, ALT):
        return json.loads(encoder.model.config.to_json_string(use_diff=False))
    from transformers import BertConfig, ChineseCLIPTextConfig

    config = (ChineseCLIPTextConfig if cls == CHINESE_CLIP else BertConfig)(
        vocab_size=part.vocab,
        hidden_size=part.width,
        num_hidden_layers=part.layers,
        num_attention_heads=part.heads,
        intermediate_size=part.feed,
        max_position_embeddings=part.positions,
        type_vocab_size=part.types,
        hidden_dropout_prob=part.dropout,
        attention_probs_dropout_prob=part.dropout,
    )
    more: dict[str, Any] = {}
    if cls == CHINESE_CLIP:
        # diffusers' pipelines pass the attention mask only if this is set.
        more = {"use_attention_mask": True}
    if cls == ALT:
        more = {"model_type": "xlm-roberta", "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        more |= {"use_attention_mask": True, "project_dim": part.project, "has_pre_transformation": part.penultimate}
        more["layer_norm_eps"] = part.eps
    return json.loads(config.to_json_string(use_diff=False)) | more


def _end(encoder: Any) -> int:
    """The id of the token where CLIP pools; 2 means the largest id of a text, as in configs from before 2023."""
    if encoder.part.pool == "largest":
        return 2
    end_of_text = encoder.tokenizer.token_to_id("<|endoftext|>") if encoder.tokenizer is not None else None
    return BERT_END if end_of_text is None else end_of_text


def published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CLIP's tensors under the names of every version of transformers: in ``text_model``, except the projection."""
    plain = ("text_model.", "text_projection.")
    return {name if name.startswith(plain) else f"text_model.{name}": value for name, value in state.items()}


def _bert(encoder: Any, state: Mapping[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """BERT's tensors with a pooler, which transformers' class requires: zeros if the model has none and does not use
    it.
    """
    width = encoder.part.width
    zeros = {"pooler.dense.weight": torch.zeros(width, width), "pooler.dense.bias": torch.zeros(width)}
    return {**zeros, **state}


def _t5(encoder: Any, state: Mapping[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """T5's tensors in ``encoder``; the token embedding under both of its names, as classes differ in which they
    read.
    """
    return {"shared.weight": state["embed_tokens.weight"].clone(), **{f"encoder.{n}": v for n, v in state.items()}}


def _chatglm(encoder: Any, state: Mapping[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """ChatGLM3's tensors with the inverse frequencies of its rotary embedding, a buffer of its class."""
    from bimo.models.text_encoders.chatglm import ROTARY_BASE

    half = encoder.part.head // 2
    inv_freq = 1.0 / ROTARY_BASE ** (torch.arange(0, half, 2).float() / half)
    return {**state, "rotary_pos_emb.inv_freq": inv_freq}


def _qwen_vl(encoder: Any, state: Mapping[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """The language model of Qwen2.5-VL or Qwen3-VL, with its vision encoder if it was loaded, as the multimodal
    class.
    """
    vision_config = {"depth": 0, "hidden_size": 16, "num_heads": 1, "intermediate_size": 16, "out_hidden_size": 16}
    vision: dict[str, Tensor] = {}
    special_tokens: dict[str, Any] = {}
    if encoder.visual is not None:
        vision_config = json.loads(encoder.visual.model.config.to_json_string(use_diff=False))
        vision = {f"model.visual.{name}": value for name, value in encoder.visual.model.state_dict().items()}
        special_tokens = {"image_token_id": encoder.tokenizer.token_to_id(IMAGE_PAD)}
    # The language-model head was not loaded; tied to the token embedding it needs no weights.
    settings = {"tie_word_embeddings": True, **special_tokens}
    cls = kind(encoder)
    config_class = "Qwen3VLConfig" if cls == QWEN3 else "Qwen2_5_VLConfig"
    return _multimodal(state, config, (config_class, cls), "model.language_model.", vision_config, vision, **settings)


def _mistral3(encoder: Any, state: Mapping[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """The language model of Mistral 3 as the multimodal class."""
    vision_config = {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "head_dim": 16}
    vision_config |= {"num_hidden_layers": 0, "num_attention_heads": 1, "image_size": 28}
    return _multimodal(state, config, ("Mistral3Config", MISTRAL), "language_model.", vision_config)


def _multimodal(
    state: Mapping[str, Tensor],
    config: dict[str, Any],
    classes: tuple[str, str],
    prefix: str,
    vision_config: Mapping[str, Any],
    vision: Mapping[str, Tensor] | None = None,
    **settings: Any,
) -> dict[str, Tensor]:
    """The tensors of a language model under the names of its multimodal class; ``classes`` are (config, model).

    The class requires a vision encoder. If none was loaded (``vision``), it gets one without layers whose remaining
    weights are zeros; text never passes through it. ``config`` is replaced by that of the multimodal class.
    """
    import transformers

    language = dict(config)
    full_config: Any = getattr(transformers, classes[0])(text_config=language, vision_config=vision_config, **settings)
    with module_weights.unfilled():
        names: dict[str, Tensor] = getattr(transformers, classes[1])(full_config).state_dict()
    tensors = {**(vision or {}), **{f"{prefix}{name}": value for name, value in state.items()}}
    zeros = {n: torch.zeros(v.shape) for n, v in names.items() if n not in tensors and not n.startswith("lm_head.")}
    config.clear()
    config |= json.loads(full_config.to_json_string(use_diff=False))
    config |= {"architectures": [classes[1]], "text_config": language}
    return {**zeros, **tensors}


#: Adds what a published class requires besides our tensors: (text encoder, tensors, config) -> tensors. May change the
#: config.
ADAPTED: dict[str, Callable[[Any, Mapping[str, Tensor], dict[str, Any]], dict[str, Tensor]]] = {
    "BertModel": _bert,
    CHINESE_CLIP: _bert,
    "T5EncoderModel": _t5,
    "ChatGLMModel": _chatglm,
    QWEN: _qwen_vl,
    QWEN3: _qwen_vl,
    MISTRAL: _mistral3,
}


def write_tokenizer(folder: Path, encoder: Any) -> list[str]:
    """Writes a text encoder's tokenizer; returns (library, class)."""
    encoder.save_tokenizer(folder)
    path = folder / SETTINGS_FILE
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    cls = str(settings.get("tokenizer_class", TOKENIZERS.get(kind(encoder), "CLIPTokenizer")))
    if cls.startswith("Bert"):
        settings = {**BERT_MARKS, **_normaliser(encoder.tokenizer), **settings}
    if isinstance(encoder, ClipTextEncoder) and encoder.part.marks is not None:
        # BertTokenizer would add [CLS] and [SEP] as well.
        cls = settings["tokenizer_class"] = FAST_TOKENIZER
    settings = {"tokenizer_class": cls, "model_max_length": encoder.part.length} | settings
    path.write_text(json.dumps(settings, indent=1, ensure_ascii=False), encoding="utf-8")
    return [LIBRARIES.get(cls, "transformers"), cls]


def _normaliser(tokenizer: Any) -> dict[str, Any]:
    """The normaliser of a BERT tokenizer as settings of BertTokenizer, which builds its own from them."""
    normalizer: dict[str, Any] = json.loads(tokenizer.to_str()).get("normalizer") or {}
    return {name: normalizer[field] for name, field in NORMALISER.items() if field in normalizer}
