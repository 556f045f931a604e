"""Text encoders in published folders: which one it is, by class, sizes and tokenizer; code of a folder is never
run.
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
#: MiaoBi's tokenizer is code in its folder. What it does is known, so its words are read and the code is left alone.
MARKED = "CLIPTokenizerRoberta"
MARKS = (49406, 49407)
#: transformers' class that reads a tokenizer.json as it stands.
AS_IT_STANDS = "PreTrainedTokenizerFast"
#: Chinese-CLIP reads as many tokens, whatever its tokenizer could.
CHINESE_CLIP_LENGTH = 52
#: AltDiffusion's length, where the folder does not say.
ALT_LENGTH = 77
PAI_POSITIONS = 32
TEXT_ENCODERS = {
    "BertModel": PIECES,
    "CLIPTextModel": (*PAIRS, *PIECES),
    "ChineseCLIPTextModel": ("ChineseCLIPProcessor", *PIECES),
}
#: What the class of AltDiffusion's text encoder reads of its config and does nothing with.
NO_EFFECT_ALT = {"learn_encoder", "pooler_fn", "direct_kl"}
#: The rest of a whole Chinese-CLIP, whose text encoder alone is wanted.
OTHER_HALF = ("vision_model.", "visual_projection.", "text_projection.", "logit_scale")


@dataclass(frozen=True)
class Identity:
    """What a text encoder is known as: the recipe's name, languages, its title in Chinese and English.

    ``word`` must stand in what the configs name, where a shape alone cannot tell. ``but`` is what it cannot tell.
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
    """Today's name of a text encoder's tensor. Its positions were once kept among the weights."""
    name = name.removeprefix("text_model.")
    return None if name.endswith("embeddings.position_ids") else name


def chinese_clip_name(name: str) -> str | None:
    """``text_name`` without the pooler, which Chinese-CLIP never trained, and without the half that sees."""
    return None if "pooler." in name or name.startswith(OTHER_HALF) else text_name(name)


def alt_name(name: str) -> str | None:
    """``text_name`` without what the published class itself does not ask for."""
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
    """The text encoder of an AltDiffusionPipeline. Its index names a library that is gone: it is read as data."""
    from transformers import XLMRobertaConfig

    cls = folder.classes.get("text_encoder", ("", ""))[1]
    if cls != "RobertaSeriesModelWithTransformation":
        raise RecipeError(
            "text_encoder of {path} is {cls}; expected RobertaSeriesModelWithTransformation", path=folder.path, cls=cls
        )
    folder.demand("tokenizer", "transformers", ("XLMRobertaTokenizer", "XLMRobertaTokenizerFast"))
    config = folder.config("text_encoder")
    own = {**TEXT_ENCODER_SIZES, "types": "type_vocab_size", "eps": "layer_norm_eps", "dropout": "hidden_dropout_prob"}
    own |= {"project": "project_dim", "penultimate": "has_pre_transformation"}
    twin = {"attention_probs_dropout_prob": config.fields.get("hidden_dropout_prob", 0.1)}
    former = {**FORMER_TEXT, "use_attention_mask": True, "project_dim": 512, "has_pre_transformation": False}
    defaults = {**XLMRobertaConfig().to_dict(), **former, **twin}
    read = config.of(defaults, own.values(), NO_EFFECT_TEXT | NO_EFFECT_ALT)
    fields: dict[str, Any] = {name: read[field] for name, field in own.items()}
    made = XlmText(**fields)
    return replace(made, length=min(token_limit(folder, "tokenizer", ALT_LENGTH), made.positions - 2))


def identity(found: TextEncoderPart, folder: Folder, config: Config) -> tuple[str, tuple[str, ...], str]:
    """Name, languages and the reason for them: a text encoder's sizes and its tokenizer, and whose those are."""
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
    """Whether two text encoders have the same tensors and read alike; the length is the tokenizer's to say."""
    return type(found) is type(known) and all(
        getattr(found, f.name) == getattr(known, f.name) for f in fields(found) if f.name != "length"
    )


def _bert(config: Config, chinese_clip: bool) -> Bert:
    from transformers import BertConfig, ChineseCLIPTextConfig

    nested = config.fields.get("text_config")
    if chinese_clip and isinstance(nested, dict):
        config = Config(config.path, cast("Mapping[str, Any]", nested))
    own = {**TEXT_ENCODER_SIZES, "types": "type_vocab_size", "dropout": "hidden_dropout_prob"}
    twin = {"attention_probs_dropout_prob": config.fields.get("hidden_dropout_prob", 0.1)}
    cls = ChineseCLIPTextConfig if chinese_clip else BertConfig
    # Chinese-CLIP masks the padding, which a config of it may say.
    masking = {"use_attention_mask": chinese_clip}
    read = config.of({**FORMER_TEXT, **cls().to_dict(), **twin, **masking}, own.values(), NO_EFFECT_TEXT)
    fields: dict[str, Any] = {name: read[field] for name, field in own.items()}
    return Bert(**fields)


def _clip(folder: Folder, config: Config, words: str, marked: bool) -> ClipText:
    from transformers import CLIPTextConfig

    own = {**TEXT_ENCODER_SIZES, "activation": "hidden_act", "eps": "layer_norm_eps"}
    read = config.of({**FORMER_TEXT, **CLIPTextConfig().to_dict()}, own.values(), NO_EFFECT_TEXT)
    fields: dict[str, Any] = {name: read[field] for name, field in own.items()}
    made = ClipText(**fields)
    made = replace(made, length=token_limit(folder, words, made.positions))
    if marked:
        return replace(made, words="pieces", marks=MARKS)
    if folder.classes[words][1] in PAIRS:
        return made
    # So few positions are PAI's, whose own interface reads a long prompt in pieces.
    return replace(made, words="pieces", long="pieces" if made.positions == PAI_POSITIONS else "cut")


def _marked(folder: Folder, words: str) -> bool:
    """Whether the tokenizer is MiaoBi's, by the name that the index or the tokenizer's own config gives."""
    path = folder.path / words / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    named = [settings.get("tokenizer_class"), settings.get("auto_map"), folder.classes.get(words)]
    if any(MARKED in str(name) for name in named):
        return True
    file = folder.path / words / TOKENIZER_FILE
    if folder.classes.get(words, ("", ""))[1] != AS_IT_STANDS or not file.is_file():
        return False
    # As this package writes it for others: a tokenizer of data alone that begins and ends texts with these ids.
    post_processor: dict[str, Any] = read_json(file).get("post_processor") or {}
    special_tokens: dict[str, dict[str, Any]] = post_processor.get("special_tokens") or {}
    return {number for token in special_tokens.values() for number in token["ids"]} == set(MARKS)


def token_limit(folder: Folder, words: str, positions: int) -> int:
    """How many tokens the tokenizer gives. A position past the last has no embedding: it cannot be more than those."""
    settings = folder.path / words / "tokenizer_config.json"
    limit = read_json(settings).get("model_max_length") if settings.is_file() else None
    return min(int(limit), positions) if isinstance(limit, (int, float)) else positions
