"""Reads language models in folders of diffusers: the text encoder of a config, and the names of its tensors."""

from __future__ import annotations

import re
from typing import Any, cast

from bimo.core.errors import RecipeError
from bimo.core.messages import Listed
from bimo.models.layouts.configs import NO_EFFECT_TEXT, Config, plain
from bimo.models.layouts.diffusers_folder import Folder
from bimo.models.text_encoders.language_model import FAMILIES, LanguageModel

TOKENIZERS = ("Qwen2Tokenizer", "Qwen2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
#: The fields of a rotary embedding in configs from before transformers 5.
ROTATION = ("rope_theta", "rope_scaling", "partial_rotary_factor")
#: Fields about images in a prompt; prompts here hold none.
NO_EFFECT_VISION = {
    *("vision_config", "image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"),
    *("vision_token_id", "pruned_heads"),
}
#: Former fields of a family's class, or fields that duplicate others.
FORMER = {
    # hidden_activation is the one that is used; no prompt is as long as the sliding window.
    "gemma2": {"hidden_act", "sliding_window_size"},
    "qwen2_5_vl": {"use_mrope"},
}


def text_encoder(
    folder: Folder,
    classes: tuple[str, ...],
    family: str,
    tokenizers: tuple[str, ...] = TOKENIZERS,
    words: str = "tokenizer",
) -> LanguageModel:
    """The text encoder of a folder, without the pipeline's settings (template, layers); ``words`` is the component with
    its tokenizer. Raises RecipeError for another class.
    """
    folder.demand("text_encoder", "transformers", classes)
    folder.demand(words, "transformers", tokenizers)
    return language_model(folder.config("text_encoder"), family)


def inner_family(folder: Folder, families: tuple[str, ...]) -> str:
    """The family of the language model within a multimodal text encoder. Raises RecipeError if it is not one of
    ``families``.
    """
    config = folder.config("text_encoder")
    inner = config.fields.get("text_config")
    family = str(cast("dict[str, Any]", inner).get("model_type")) if isinstance(inner, dict) else ""
    if family not in families:
        raise RecipeError(
            "the language model in {path} is {family!r}; supported is {families}",
            path=config.path,
            family=family,
            families=Listed(families, between="or"),
        )
    return family


def language_model(config: Config, family: str) -> LanguageModel:
    """The text encoder that a config describes. Raises RecipeError for a field that its class lacks."""
    import transformers

    config_name, _, (feed, head, key_heads) = FAMILIES[family]
    inner = config.fields.get("text_config")
    fields = cast("dict[str, Any]", inner) if isinstance(inner, dict) else dict(config.fields)
    names = {
        "width": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "vocab": "vocab_size",
        "positions": "max_position_embeddings",
        "feed": feed,
        "head": head,
        "key_heads": key_heads,
    }
    sizes = {name: fields[field] for name, field in names.items() if fields.get(field) is not None}
    if "head" not in sizes:
        sizes["head"] = sizes["width"] // sizes["heads"]
    published = {names[name]: value for name, value in sizes.items() if names[name]}
    special = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    base: dict[str, Any] = getattr(transformers, config_name)(**published, **special).to_dict()
    rest: dict[str, Any] = {}
    no_effect = {*names.values(), *NO_EFFECT_TEXT, *NO_EFFECT_VISION, *FORMER.get(family, ())}
    for name, value in fields.items():
        if name in no_effect or config.has_no_effect(name, value, name in base or name in ROTATION):
            continue
        if name == "hidden_activation" and value is None:
            continue  # means the default of the class
        if name not in base and name not in ROTATION:
            raise RecipeError(
                "{name} of {path} is {value!r}, a field that {config_name} does not have; ignoring it would draw wrong",
                name=name,
                path=config.path,
                value=value,
                config_name=config_name,
            )
        if name not in base or plain(base[name]) != plain(value):
            rest[name] = plain(value)
    return LanguageModel(family=family, config=rest, **sizes)


def text_name(name: str) -> str | None:
    """Our name of a tensor of a language model; None for the head and the vision encoder."""
    if name == "lm_head.weight" or re.match(r"(model\.)?(visual|vision_tower|multi_modal_projector)\.", name):
        return None
    return re.sub(r"^(model\.)?(language_model\.)?(model\.)?", "", name)
