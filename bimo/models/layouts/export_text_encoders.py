"""Writes text encoders as transformers' classes read them: config, weights and tokenizer."""

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
from bimo.models.layouts.text_encoders import AS_IT_STANDS
from bimo.models.layouts.weight_files import STEMS
from bimo.models.text_encoders.clip import ClipTextEncoder
from bimo.models.text_encoders.qwen_vision import IMAGE_PAD

#: The class that a text encoder is written as, where the module which it is made of has another name.
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
#: The library of a class in model_index.json, where it is not transformers.
LIBRARIES = {ALT: "alt_diffusion", "ChatGLMModel": "kolors", "ChatGLMTokenizer": "kolors"}
TOKENIZERS = {"BertModel": "BertTokenizer", CHINESE_CLIP: "BertTokenizer", "ChatGLMModel": "ChatGLMTokenizer"}
#: Ids of the end mark in the vocabularies of BERT, whose published configs do not say.
PIECES_END = 102
SETTINGS_FILE = "tokenizer_config.json"
BERT_MARKS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
#: What BERT's tokenizer asks its settings, and what its normaliser calls that.
NORMALISER = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def kind(encoder: Any) -> str:
    """The class of the library that a text encoder is written as."""
    if isinstance(encoder, GlmImageWordsEncoder):
        return GLM_IMAGE_WORDS
    name = type(encoder.model).__name__
    if name == "BertModel" and encoder.part.masked and encoder.part.padding == "shown":
        return CHINESE_CLIP
    if name in KINDS:
        return KINDS[name]
    return f"{name}WithProjection" if isinstance(encoder, ClipTextEncoder) and encoder.part.project else name


def write_text_encoder(folder: Path, encoder: Any, dtype: torch.dtype | None) -> list[str]:
    """Writes a text encoder's config and weights as its library would; answers (library, class)."""
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
        # diffusers reads the last layer of a folder, so the layer that is not read is not written.
        config["num_hidden_layers"] -= 1
        state = {n: v for n, v in state.items() if f".layers.{config['num_hidden_layers']}." not in n}
    if cls in MORE:
        state = MORE[cls](encoder, state, config)
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    checkpoint_io.write(folder / f"{STEMS[0]}.safetensors", state, dtype)
    return [LIBRARIES.get(cls, "transformers"), cls]


def _config(encoder: Any) -> dict[str, Any]:
    """The config of a text encoder's model. BERT's, AltDiffusion's and ChatGLM3's are our own and have none."""
    cls = kind(encoder)
    part = encoder.part
    if cls == "ChatGLMModel":
        sizes = {field: getattr(part, name) for name, (field, _) in OWN.items()}
        alike = {name: value for name, (value, _) in ONLY.items()}
        return {"model_type": "chatglm", "original_rope": True, **alike, **sizes}
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
        # By this field diffusers' pipelines tell a text encoder of the padding.
        more = {"use_attention_mask": True}
    if cls == ALT:
        more = {"model_type": "xlm-roberta", "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        more |= {"use_attention_mask": True, "project_dim": part.project, "has_pre_transformation": part.penultimate}
        more["layer_norm_eps"] = part.eps
    return json.loads(config.to_json_string(use_diff=False)) | more


def _end(encoder: Any) -> int:
    """The id where CLIP pools: 2 stands for the largest token of a text, as configs of before 2023 have it."""
    if encoder.part.pool == "largest":
        return 2
    end_of_text = encoder.tokenizer.token_to_id("<|endoftext|>") if encoder.tokenizer is not None else None
    return PIECES_END if end_of_text is None else end_of_text


def published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CLIP's tensors as every version of transformers knows them: below ``text_model``, the projection beside it."""
    plain = ("text_model.", "text_projection.")
    return {name if name.startswith(plain) else f"text_model.{name}": value for name, value in state.items()}


def _pooled(encoder: Any, state: Mapping[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """BERT's tensors with the pooler that transformers' class has; zeros where nobody reads it and there is none."""
    width = encoder.part.width
    zeros = {"pooler.dense.weight": torch.zeros(width, width), "pooler.dense.bias": torch.zeros(width)}
    return {**zeros, **state}


def _encoder(encoder: Any, state: Mapping[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """T5's tensors below ``encoder``; the words' table has two names, of which a class may read either."""
    return {"shared.weight": state["embed_tokens.weight"].clone(), **{f"encoder.{n}": v for n, v in state.items()}}


def _turning(encoder: Any, state: Mapping[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """ChatGLM3's tensors with the speeds of its rotation, which its class keeps among them."""
    from bimo.models.text_encoders.chatglm import ROTARY_BASE

    half = encoder.part.head // 2
    speeds = 1.0 / ROTARY_BASE ** (torch.arange(0, half, 2).float() / half)
    return {**state, "rotary_pos_emb.inv_freq": speeds}


def _seeing(encoder: Any, state: Mapping[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """The language model of Qwen2.5-VL or Qwen3-VL, and its vision tower where it has one, in the whole's layout."""
    sight = {"depth": 0, "hidden_size": 16, "num_heads": 1, "intermediate_size": 16, "out_hidden_size": 16}
    seen: dict[str, Tensor] = {}
    marks: dict[str, Any] = {}
    if encoder.visual is not None:
        sight = json.loads(encoder.visual.model.config.to_json_string(use_diff=False))
        seen = {f"model.visual.{name}": value for name, value in encoder.visual.model.state_dict().items()}
        marks = {"image_token_id": encoder.tokenizer.token_to_id(IMAGE_PAD)}
    # The head that speaks was not loaded: the words' table stands in for it.
    settings = {"tie_word_embeddings": True, **marks}
    cls = kind(encoder)
    whole = "Qwen3VLConfig" if cls == QWEN3 else "Qwen2_5_VLConfig"
    return _whole(state, config, (whole, cls), "model.language_model.", sight, seen, **settings)


def _seeing_by_pixtral(encoder: Any, state: Mapping[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """The language model of Mistral 3 in the whole's layout."""
    sight = {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "head_dim": 16}
    sight |= {"num_hidden_layers": 0, "num_attention_heads": 1, "image_size": 28}
    return _whole(state, config, ("Mistral3Config", MISTRAL), "language_model.", sight)


def _whole(
    state: Mapping[str, Tensor],
    config: dict[str, Any],
    classes: tuple[str, str],
    prefix: str,
    sight: Mapping[str, Any],
    seen: Mapping[str, Tensor] | None = None,
    **settings: Any,
) -> dict[str, Tensor]:
    """A language model in the layout of a whole that sees: its class will not be without that part, and where it was
    not loaded, as ``seen``, gets one of no layers and zeros, which no text is ever led through. ``config`` becomes that
    of the whole.
    """
    import transformers

    language = dict(config)
    whole: Any = getattr(transformers, classes[0])(text_config=language, vision_config=sight, **settings)
    with module_weights.unfilled():
        names: dict[str, Tensor] = getattr(transformers, classes[1])(whole).state_dict()
    own = {**(seen or {}), **{f"{prefix}{name}": value for name, value in state.items()}}
    unseen = {n: torch.zeros(v.shape) for n, v in names.items() if n not in own and not n.startswith("lm_head.")}
    config.clear()
    config |= json.loads(whole.to_json_string(use_diff=False))
    config |= {"architectures": [classes[1]], "text_config": language}
    return {**unseen, **own}


#: What a class has beside the tensors of its text encoder: (text encoder, tensors, config) -> tensors; the config may
#: be changed.
MORE: dict[str, Callable[[Any, Mapping[str, Tensor], dict[str, Any]], dict[str, Tensor]]] = {
    "BertModel": _pooled,
    CHINESE_CLIP: _pooled,
    "T5EncoderModel": _encoder,
    "ChatGLMModel": _turning,
    QWEN: _seeing,
    QWEN3: _seeing,
    MISTRAL: _seeing_by_pixtral,
}


def write_words(folder: Path, encoder: Any) -> list[str]:
    """Writes a text encoder's tokenizer as its library reads it; answers (library, class)."""
    encoder.save_tokenizer(folder)
    path = folder / SETTINGS_FILE
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    cls = str(settings.get("tokenizer_class", TOKENIZERS.get(kind(encoder), "CLIPTokenizer")))
    if cls.startswith("Bert"):
        settings = {**BERT_MARKS, **_normaliser(encoder.tokenizer), **settings}
    if isinstance(encoder, ClipTextEncoder) and encoder.part.marks is not None:
        # BERT's own class would begin and end a text with BERT's own marks again.
        cls = settings["tokenizer_class"] = AS_IT_STANDS
    settings = {"tokenizer_class": cls, "model_max_length": encoder.part.length} | settings
    path.write_text(json.dumps(settings, indent=1, ensure_ascii=False), encoding="utf-8")
    return [LIBRARIES.get(cls, "transformers"), cls]


def _normaliser(words: Any) -> dict[str, Any]:
    """How a BERT's tokenizer spells a text, by the names that its class asks for: the class makes its own of them."""
    normalizer: dict[str, Any] = json.loads(words.to_str()).get("normalizer") or {}
    return {name: normalizer[own] for name, own in NORMALISER.items() if own in normalizer}
