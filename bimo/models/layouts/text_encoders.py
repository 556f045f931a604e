"""Reads text encoders of published folders, and identifies them by class, sizes and tokenizer. Code in a folder is
never run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, cast

from bimo.core.errors import RecipeError
from bimo.core.messages import Message, say
from bimo.models.layouts.configs import FORMER_TEXT, NO_EFFECT_TEXT, TEXT_ENCODER_SIZES, Config, read_json
from bimo.models.layouts.diffusers_folder import Folder
from bimo.models.text_encoders.bert import Bert
from bimo.models.text_encoders.clip import ClipText
from bimo.models.text_encoders.tokenization import TOKENIZER_FILE
from bimo.models.text_encoders.xlm import XlmText

TextEncoderPart = Bert | ClipText | XlmText

PAIRS = ("CLIPTokenizer", "CLIPTokenizerFast")
PIECES = ("BertTokenizer", "BertTokenizerFast")
#: MiaoBi's tokenizer is code in its folder. What it does is known: its vocabulary is read, its code is not run.
MARKED = "CLIPTokenizerRoberta"
MARKS = (49406, 49407)
#: transformers' class for any tokenizer.json.
FAST_TOKENIZER = "PreTrainedTokenizerFast"
#: The number of tokens that Chinese-CLIP reads, whatever its tokenizer's limit.
CHINESE_CLIP_LENGTH = 52
#: AltDiffusion's length if the folder has none.
ALT_LENGTH = 77
PAI_POSITIONS = 32
TEXT_ENCODERS = {
    "BertModel": PIECES,
    "CLIPTextModel": (*PAIRS, *PIECES),
    "ChineseCLIPTextModel": ("ChineseCLIPProcessor", *PIECES),
}
#: Config fields that the class of AltDiffusion's text encoder ignores.
NO_EFFECT_ALT = {"learn_encoder", "pooler_fn", "direct_kl"}
#: Prefixes of Chinese-CLIP's tensors outside of its text encoder.
OTHER_HALF = ("vision_model.", "visual_projection.", "text_projection.", "logit_scale")


@dataclass(frozen=True)
class Identity:
    """A known text encoder: its recipe, its languages and its title.

    Where other systems have the same shapes, ``word`` must occur in the configs' ``_name_or_path``, or ``but`` names
    the ambiguity.
    """

    name: str
    languages: tuple[str, ...]
    encoder: TextEncoderPart
    title: Message | str
    word: str = ""
    but: Message | str = ""


KNOWN = (
    Identity("taiyi-sd-zh", ("zh",), Bert(), Message("Taiyi-SD zh")),
    Identity("taiyi-sd-en", ("zh", "en"), ClipText(), Message("Taiyi-SD EN"), word="taiyi"),
    Identity(
        "stable-diffusion",
        ("en",),
        ClipText(),
        "Stable Diffusion",
        but=Message("; Taiyi-SD EN has its shapes, not its weights"),
    ),
    Identity(
        "stable-diffusion-2",
        ("en",),
        ClipText(width=1024, layers=23, heads=16, feed=4096, activation="gelu"),
        "Stable Diffusion 2",
    ),
    Identity(
        "pai-diffusion",
        ("zh",),
        ClipText(vocab=21128, positions=32, length=32, words="pieces", long="pieces"),
        "PAI-Diffusion",
        but=Message("; which domain it draws is not in the folder"),
    ),
    Identity("skypaint", ("zh", "en"), ClipText(vocab=105879, words="pieces"), "SkyPaint"),
    Identity("wukong-huahua", ("zh",), ClipText(words="pieces", eps=1e-7), Message("WuKong-HuaHua")),
    Identity("miaobi", ("zh",), ClipText(words="pieces", marks=MARKS), Message("MiaoBi")),
    Identity(
        "damo-sd-zh",
        ("zh",),
        Bert(
            width=1024,
            layers=24,
            heads=16,
            feed=4096,
            length=CHINESE_CLIP_LENGTH,
            masked=True,
            padding="shown",
            pooler=False,
        ),
        Message("damo's Chinese Stable Diffusion (Chinese-CLIP ViT-H)"),
    ),
    Identity("altdiffusion", ("zh", "en"), XlmText(), "AltDiffusion", word="altdiffusion-m2"),
    Identity(
        "altdiffusion-m9",
        ("zh", "en"),
        XlmText(),
        "AltDiffusion-m9",
        but=Message("; the bilingual AltDiffusion has its shapes, not its weights"),
    ),
    Identity(
        "altdiffusion-m18",
        ("zh", "en"),
        XlmText(project=1024, penultimate=True),
        "AltDiffusion-m18",
    ),
)


def text_name(name: str) -> str | None:
    """Our name of a text encoder's tensor; None for the position ids, which older files have among the weights."""
    name = name.removeprefix("text_model.")
    return None if name.endswith("embeddings.position_ids") else name


def chinese_clip_name(name: str) -> str | None:
    """``text_name`` without the pooler, which Chinese-CLIP never trained, and without the vision encoder."""
    return None if "pooler." in name or name.startswith(OTHER_HALF) else text_name(name)


def alt_name(name: str) -> str | None:
    """``text_name`` without tensors that the published class does not have."""
    return None if "pooler." in name or name == "logit_scale" else text_name(name)


def text_encoder(folder: Folder, component: str = "text_encoder", words: str = "tokenizer") -> TextEncoderPart:
    """The text encoder of a StableDiffusionPipeline. Raises RecipeError for one that is not supported."""
    kind = folder.demand(component, "transformers", tuple(TEXT_ENCODERS))
    config = folder.config(component)
    marked = _marked(folder, words)
    if not marked:
        folder.demand(words, "transformers", TEXT_ENCODERS[kind])
    elif kind != "CLIPTextModel":
        raise RecipeError(
            "{marked} of {path} goes with a CLIPTextModel only, not with a {kind}",
            marked=MARKED,
            path=folder.path,
            kind=kind,
        )
    if kind == "CLIPTextModel":
        return _clip(folder, config, words, marked)
    fields = _bert(config, chinese_clip=kind != "BertModel")
    if kind == "BertModel":
        return replace(fields, length=token_limit(folder, words, fields.positions))
    length = min(CHINESE_CLIP_LENGTH, fields.positions)
    return replace(fields, length=length, masked=True, padding="shown", pooler=False)


def alt_text_encoder(folder: Folder) -> XlmText:
    """The text encoder of an AltDiffusionPipeline. The library in its index no longer exists; the config is read as
    data.
    """
    from transformers import XLMRobertaConfig

    cls = folder.classes.get("text_encoder", ("", ""))[1]
    if cls != "RobertaSeriesModelWithTransformation":
        raise RecipeError(
            "text_encoder of {path} is {cls}; expected RobertaSeriesModelWithTransformation", path=folder.path, cls=cls
        )
    folder.demand("tokenizer", "transformers", ("XLMRobertaTokenizer", "XLMRobertaTokenizerFast"))
    config = folder.config("text_encoder")
    names = {
        **TEXT_ENCODER_SIZES,
        "types": "type_vocab_size",
        "eps": "layer_norm_eps",
        "dropout": "hidden_dropout_prob",
    }
    names |= {"project": "project_dim", "penultimate": "has_pre_transformation"}
    attention_dropout = {"attention_probs_dropout_prob": config.fields.get("hidden_dropout_prob", 0.1)}
    former = {**FORMER_TEXT, "use_attention_mask": True, "project_dim": 512, "has_pre_transformation": False}
    defaults = {**XLMRobertaConfig().to_dict(), **former, **attention_dropout}
    values = config.of(defaults, names.values(), NO_EFFECT_TEXT | NO_EFFECT_ALT)
    fields: dict[str, Any] = {name: values[field] for name, field in names.items()}
    part = XlmText(**fields)
    return replace(part, length=min(token_limit(folder, "tokenizer", ALT_LENGTH), part.positions - 2))


def identity(found: TextEncoderPart, folder: Folder, config: Config) -> tuple[str, tuple[str, ...], str]:
    """Name, languages, and the reason for them: whose text encoder has these sizes and this tokenizer."""
    shape = say("{vocab} x {width} word embeddings", vocab=found.vocab, width=found.width)
    kind = {Bert: "BertModel", ClipText: "CLIPTextModel", XlmText: "XLM-R"}[type(found)]
    because = say("its text encoder is a {kind} ({shape})", kind=kind, shape=shape)
    named = " ".join(str(c.get("_name_or_path", "")) for c in (config.fields, folder.index)).strip()
    for known in KNOWN:
        if known.word in named.lower() and _alike(found, known.encoder):
            near = Message("{title}{but}", title=known.title, but=known.but)
            also = say(" and its config names {named}", named=named) if known.word else ""
            return known.name, known.languages, say("{because}{told}: {near}", because=because, told=also, near=near)
    chinese = not (isinstance(found, ClipText) and found.words == "pairs")
    name = "stable-diffusion-bert" if isinstance(found, Bert) else "stable-diffusion"
    also = say("; no known system has this size")
    return name, ("zh",) if chinese else ("en",), because + also


def _alike(found: TextEncoderPart, known: TextEncoderPart) -> bool:
    """Whether two text encoders are equal except for their length, which the tokenizer determines."""
    return type(found) is type(known) and all(
        getattr(found, f.name) == getattr(known, f.name) for f in fields(found) if f.name != "length"
    )


def _bert(config: Config, chinese_clip: bool) -> Bert:
    from transformers import BertConfig, ChineseCLIPTextConfig

    nested = config.fields.get("text_config")
    if chinese_clip and isinstance(nested, dict):
        config = Config(config.path, cast("Mapping[str, Any]", nested))
    names = {**TEXT_ENCODER_SIZES, "types": "type_vocab_size", "dropout": "hidden_dropout_prob"}
    attention_dropout = {"attention_probs_dropout_prob": config.fields.get("hidden_dropout_prob", 0.1)}
    cls = ChineseCLIPTextConfig if chinese_clip else BertConfig
    # Chinese-CLIP masks the padding; some of its configs have a field for it.
    masking = {"use_attention_mask": chinese_clip}
    values = config.of(
        {**FORMER_TEXT, **cls().to_dict(), **attention_dropout, **masking}, names.values(), NO_EFFECT_TEXT
    )
    fields: dict[str, Any] = {name: values[field] for name, field in names.items()}
    return Bert(**fields)


def _clip(folder: Folder, config: Config, words: str, marked: bool) -> ClipText:
    from transformers import CLIPTextConfig

    names = {**TEXT_ENCODER_SIZES, "activation": "hidden_act", "eps": "layer_norm_eps"}
    values = config.of({**FORMER_TEXT, **CLIPTextConfig().to_dict()}, names.values(), NO_EFFECT_TEXT)
    fields: dict[str, Any] = {name: values[field] for name, field in names.items()}
    part = ClipText(**fields)
    part = replace(part, length=token_limit(folder, words, part.positions))
    if marked:
        return replace(part, words="pieces", marks=MARKS)
    if folder.classes[words][1] in PAIRS:
        return part
    # Only PAI has so few positions; its names code encodes a long prompt in chunks.
    return replace(part, words="pieces", long="pieces" if part.positions == PAI_POSITIONS else "cut")


def _marked(folder: Folder, words: str) -> bool:
    """Whether the tokenizer is MiaoBi's, by its class in the index or in the tokenizer's config."""
    path = folder.path / words / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    named = [settings.get("tokenizer_class"), settings.get("auto_map"), folder.classes.get(words)]
    if any(MARKED in str(name) for name in named):
        return True
    file = folder.path / words / TOKENIZER_FILE
    if folder.classes.get(words, ("", ""))[1] != FAST_TOKENIZER or not file.is_file():
        return False
    # As `export` writes it: a tokenizer.json that adds these ids at the start and end of a text.
    post_processor: dict[str, Any] = read_json(file).get("post_processor") or {}
    special_tokens: dict[str, dict[str, Any]] = post_processor.get("special_tokens") or {}
    return {number for token in special_tokens.values() for number in token["ids"]} == set(MARKS)


def token_limit(folder: Folder, words: str, positions: int) -> int:
    """The length of the tokenizer, at most the number of position embeddings."""
    settings = folder.path / words / "tokenizer_config.json"
    limit = read_json(settings).get("model_max_length") if settings.is_file() else None
    return min(int(limit), positions) if isinstance(limit, (int, float)) else positions
