"""Causal language models as text encoders: Qwen, GLM-4, Gemma-2, Llama, Mistral, CPM; the states of one layer."""

# transformers leaves parts of its interface untyped; what crosses it here is named where it is used.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from bimo.core.errors import RecipeError, WeightsError
from bimo.core.files import write_whole
from bimo.core.messages import Listed
from bimo.core.part import Part, meant
from bimo.core.tensors import TextEncoding
from bimo.diffusion.text_encoder import TextEncoder
from bimo.models.text_encoders import tokenization
from bimo.models.text_encoders.encoder import PublishedTextEncoder
from bimo.models.text_encoders.prompt_tokens import (
    SLOT,
    PromptPieces,
    TokenRow,
    batch_rows,
    embed_pictures,
    read_tokenizer_files,
    tokenize_by_character,
    tokenize_in_template,
)
from bimo.models.text_encoders.qwen_vision import IMAGE_PAD, PictureReader, View
from bimo.prompts.token_budget import Budget

if TYPE_CHECKING:
    from PIL import Image

PAIRS_FILES = "vocab.json + merges.txt"
#: family -> transformers' config and model, and what that config calls ``feed``, ``head`` and ``key_heads``.
FAMILIES: dict[str, tuple[str, str, tuple[str, str, str]]] = {
    "qwen3": ("Qwen3Config", "Qwen3Model", ("intermediate_size", "head_dim", "num_key_value_heads")),
    "qwen2_5_vl": ("Qwen2_5_VLTextConfig", "Qwen2_5_VLTextModel", ("intermediate_size", "", "num_key_value_heads")),
    "qwen3_vl": ("Qwen3VLTextConfig", "Qwen3VLTextModel", ("intermediate_size", "head_dim", "num_key_value_heads")),
    "glm": ("GlmConfig", "GlmModel", ("intermediate_size", "head_dim", "num_key_value_heads")),
    "gemma2": ("Gemma2Config", "Gemma2Model", ("intermediate_size", "head_dim", "num_key_value_heads")),
    "llama": ("LlamaConfig", "LlamaModel", ("intermediate_size", "head_dim", "num_key_value_heads")),
    "mistral": ("MistralConfig", "MistralModel", ("intermediate_size", "head_dim", "num_key_value_heads")),
    "ministral3": ("Ministral3Config", "Ministral3Model", ("intermediate_size", "head_dim", "num_key_value_heads")),
    "cpmant": ("CpmAntConfig", "CpmAntModel", ("dim_ff", "dim_head", "")),
}


@dataclass(frozen=True, kw_only=True)
class Bridge(Part):
    """A linear layer without bias and a norm from a language model's states to ``width``, as VisCPM-Paint's."""

    width: int = 1024
    eps: float = 1e-6

    def tiny(self) -> Self:
        """Width 16."""
        return replace(self, width=16)


@dataclass(frozen=True, kw_only=True)
class LanguageModel(Part):
    """A language model that reads a prompt inside ``template``; the defaults are Qwen3-4B as Z-Image has it.

    ``config`` are further fields of the family's config in transformers. ``state`` is the index among the embeddings
    and the layers' outputs of what is taken: -1 is the last, through the final norm unless ``normed`` is off.
    ``drop`` tokens are left out in front, or as many as the beginning ``drop_text`` of the template has, and ``length``
    are kept of the rest. ``empty`` is read in place of an empty text. ``pad`` says what a denoiser sees of
    padding: nothing ("none"), all up to ``length`` ("full"), or what the longest text of the batch has more
    ("batch"); the text encoder itself does not see that. ``multiple`` pads each text on the left to a multiple of it,
    in sight of all. ``characters`` reads what stands in quotes character by character, and template and prompt apart.
    With ``vision`` it looks at pictures, which stand before the prompt in the template and take none of ``length``.
    With ``pieces`` it does not look at them: what is said around them is read in pieces, each up to ``length``.
    ``shares`` is the place of another of the system's text encoders that is the same model: its weights are held once.
    """

    family: str = "qwen3"
    width: int = 2560
    layers: int = 36
    heads: int = 32
    key_heads: int = 8
    head: int = 128
    feed: int = 9728
    vocab: int = 151936
    positions: int = 40960
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    template: str = SLOT
    drop: int = 0
    drop_text: str = ""
    empty: str = ""
    length: int = 512
    state: int = -1
    normed: bool = True
    pad: Literal["none", "full", "batch"] = "none"
    multiple: int = 1
    characters: bool = False
    bridge: Bridge | None = None
    vision: PictureReader | None = None
    pieces: PromptPieces | None = None
    shares: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.family not in FAMILIES:
            near = meant(self.family, FAMILIES)
            raise RecipeError("there is no family of language models {family!r}{near}", family=self.family, near=near)
        if self.template.count(SLOT) != 1:
            raise RecipeError("a template has one {slot} in it: {template!r}", slot=SLOT, template=self.template)
        if self.family == "cpmant" and (self.pad != "batch" or self.drop or self.state != -1 or self.multiple > 1):
            raise RecipeError("the family cpmant is for pad='batch', state=-1, with nothing dropped in front")
        if not self.normed and self.state != -1:
            raise RecipeError("normed=False is for state -1 alone")
        if not self.template.startswith(self.drop_text):
            raise RecipeError("drop_text is no beginning of the template: {text!r}", text=self.drop_text)
        vision = self.vision
        pads = ("none",) if vision is not None and vision.apart else ("none", "full")
        if vision is not None and (self.family != vision.family or self.pad not in pads):
            raise RecipeError(
                "this vision is for the family {family}, with pad {pads}",
                family=vision.family,
                pads=Listed(pads, between="or"),
            )

    def build(self) -> LanguageModelEncoder:
        """The module, without its words until ``load_tokenizer``."""
        return LanguageModelEncoder(self)

    @property
    def sizes(self) -> tuple[Any, ...]:
        """All that says which model it is, whatever it is told and whatever is taken of it."""
        own = self.family, self.width, self.layers, self.heads, self.key_heads, self.head, self.feed, self.vocab
        return *own, self.positions, dict(self.config)

    def tiny(self) -> Self:
        """Width 16, two layers, two heads of 8; the words, the template and the length stay."""
        config = dict(self.config)
        if self.family in ("qwen2_5_vl", "qwen3_vl"):
            # The sections of its rotation add up to half a head.
            key = "rope_scaling" if "rope_scaling" in config else "rope_parameters"
            rope = config.get(key) or {"rope_type": "default", "rope_theta": 1000000.0}
            config[key] = {**rope, "mrope_section": (2, 1, 1)}
        bridge = None if self.bridge is None else self.bridge.tiny()
        vision = None if self.vision is None else self.vision.tiny()
        small = replace(self, width=16, layers=2, heads=2, feed=32, bridge=bridge, config=config, vision=vision)
        return replace(small, head=8, key_heads=min(self.key_heads, 1))


class LanguageModelEncoder(PublishedTextEncoder):
    """Texts -> tokens [B, L, width] and mask [B, L]. Published names of the model are below ``model.``, those of its
    vision tower below ``visual.model.``.
    """

    heads = ("out.", "norm.")
    tokenizer_files = (tokenization.TOKENIZER_FILE, PAIRS_FILES)

    def __init__(self, part: LanguageModel) -> None:
        super().__init__()
        import transformers

        self.part = part
        config_name, model_name, (feed, head, key_heads) = FAMILIES[part.family]
        sizes: dict[str, Any] = {feed: part.feed, head: part.head, key_heads: part.key_heads}
        sizes["max_position_embeddings"] = part.positions
        if part.family == "cpmant":
            sizes["position_bias_max_distance"] = sizes.pop("max_position_embeddings")
        else:
            # Ids that change no answer; those of a whole vocabulary may not be in a small one.
            sizes |= {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
        sizes.pop("", None)
        config = getattr(transformers, config_name)(
            hidden_size=part.width,
            num_hidden_layers=part.layers,
            num_attention_heads=part.heads,
            vocab_size=part.vocab,
            **sizes,
            **{name: as_lists(value) for name, value in part.config.items()},
        )
        self.model = getattr(transformers, model_name)(config)
        self.out = nn.Linear(part.width, part.bridge.width, bias=False) if part.bridge else None
        self.norm = nn.LayerNorm(part.bridge.width, eps=part.bridge.eps) if part.bridge else None
        self.visual = None if part.vision is None else part.vision.build()
        self.reads_pictures = part.vision is not None or part.pieces is not None

    def share(self, others: Sequence[TextEncoder]) -> None:
        """Reads with the model of another, which stays that one's own. Raises RecipeError where it is another model."""
        if self.part.shares is None:
            return
        other = others[self.part.shares] if self.part.shares < len(others) else None
        if not isinstance(other, LanguageModelEncoder) or other is self or other.part.sizes != self.part.sizes:
            raise RecipeError(
                "shares is {place}; expected the place of a text encoder that is the same language model",
                place=self.part.shares,
            )
        del self.model
        # Not registered: its weights are counted, moved and saved where they are held.
        vars(self)["model"] = other.model

    def encode(self, texts: Sequence[str], skip: int = 0) -> TextEncoding:
        """Texts -> tokens, and a mask where the texts' lengths differ and padding is not to be seen."""
        return self.finished(self.trunk(texts))

    def trunk(self, texts: Sequence[str]) -> TextEncoding:
        """What the model itself says of texts: tokens of its own width, masked as ``encode`` masks them."""
        return self._encode_rows([self._row(text) for text in texts])

    def encode_with(self, texts: Sequence[str], pictures: Sequence[Sequence[Image.Image]]) -> TextEncoding:
        """Each text with its pictures before it -> tokens of both. Without any, as ``encode``."""
        if self.part.pieces is not None and any(pictures):
            counts = map(len, pictures)
            return self._encode_pieces([self.part.pieces.of(*each) for each in zip(texts, counts, strict=True)])
        if self.visual is None or self.part.vision is None or not any(pictures):
            return self.encode(texts)
        # Of a picture that goes with several texts one look is enough.
        views_by_picture = {id(picture): self.visual(picture) for own in pictures for picture in own}
        rows: list[TokenRow] = []
        for text, own in zip(texts, pictures, strict=True):
            views = tuple(cast(View, views_by_picture[id(picture)]) for picture in own)
            row, places = self._row_with(text, [len(view.tokens) for view in views])
            rows.append(replace(row, views=views, places=places))
        return self.finished(self._encode_rows(rows))

    def picture_places(self, count: int) -> tuple[int, ...]:
        """As ``TextEncoder.picture_places``: where they are ``apart``, in order before the text, or between pieces."""
        if self.part.pieces is not None and count:
            *before, _, last = (len(self._piece(piece).ids) for piece in self.part.pieces.of("", count))
            return (*itertools.accumulate(before), -last)
        if self.part.vision is None or not self.part.vision.apart:
            return ()
        _, places = self._row_with("", [1] * count)
        return tuple(place - self._start() - index for index, place in enumerate(places))

    def _encode_pieces(self, texts: Sequence[Sequence[str]]) -> TextEncoding:
        """Texts in pieces -> the tokens of their pieces in order."""
        rows = [self._piece(piece) for pieces in texts for piece in pieces]
        ids, attended = (each.to(self._device()) for each in self._batch(rows))
        states = self._states(ids, attended)
        said = iter(states[i, : len(row.ids)] for i, row in enumerate(rows))
        each = [torch.cat([next(said) for _ in pieces]) for pieces in texts]
        mask = pad_sequence([torch.ones(len(one), dtype=torch.bool) for one in each], batch_first=True)
        return self.finished(TextEncoding(pad_sequence(each, batch_first=True), None if mask.all() else mask))

    def _piece(self, piece: str) -> TokenRow:
        ids = tokenization.known(self.tokenizer).encode(piece).ids[: self.part.length]
        return TokenRow(ids, [True] * len(ids))

    def _row_with(self, text: str, lengths: Sequence[int]) -> tuple[TokenRow, tuple[int, ...]]:
        """A text behind pictures of so many tokens each, and the places of these. Raises WeightsError for a tokenizer
        that knows no pictures.
        """
        pad = tokenization.known(self.tokenizer).token_to_id(IMAGE_PAD)
        if pad is None or self.part.vision is None:
            raise WeightsError(
                "the tokenizer has no token {token}, which stands for a picture; take that of the model's own folder",
                token=IMAGE_PAD,
            )
        prompt = self.part.vision.prompt
        each = [prompt.format(n).replace(IMAGE_PAD, IMAGE_PAD * length) for n, length in enumerate(lengths, 1)]
        row = self._row(text, self.part.vision.between.join(each))
        # The first such tokens: a text may have the mark in its own words.
        return row, tuple([place for place, id_ in enumerate(row.ids) if id_ == pad][: sum(lengths)])

    def _encode_rows(self, rows: Sequence[TokenRow]) -> TextEncoding:
        """Rows -> what the model says behind the template's own tokens, masked where padding is not to be seen."""
        start = self._start()
        ids, attended = (each.to(self._device()) for each in self._batch(rows))
        seen = embed_pictures(self.model, rows, ids) if any(row.views for row in rows) else None
        states = self._states(ids, attended, seen)
        if self.part.vision is not None and self.part.vision.apart:
            said = [sorted({*range(start, len(row.ids))} - {*row.places}) for row in rows]
            tokens = pad_sequence([states[i, own] for i, own in enumerate(said)], batch_first=True)
            lengths = torch.tensor([len(own) for own in said])
        else:
            tokens = states[:, start:]
            lengths = torch.tensor([len(row.ids) - start for row in rows])
        if self.part.pad != "none" or bool((lengths == lengths.max()).all()):
            return TextEncoding(tokens)
        return TextEncoding(tokens, torch.arange(tokens.shape[1]) < lengths[:, None])

    def ids(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts in the template -> token ids [B, L] and mask [B, L] bool (True: seen by the model)."""
        return self._batch([self._row(text) for text in texts])

    def _batch(self, rows: Sequence[TokenRow]) -> tuple[Tensor, Tensor]:
        # CPM recognises padding by its id alone, and only on the left.
        return batch_rows(rows, self.pad, pad_left=self.part.family == "cpmant")

    def finished(self, trunk: TextEncoding) -> TextEncoding:
        """The trunk's output, through the bridge where there is one."""
        if self.out is None or self.norm is None:
            return trunk
        return replace(trunk, tokens=self.norm(self.out(trunk.tokens)))

    def blank(self) -> Tensor | None:
        """What the trunk says of padding, [width]: CPM's attends to nothing and nothing attends to it, so that it is
        the same of every text, and the text the same behind it. None for other families.
        """
        if self.part.family != "cpmant":
            return None
        ids = torch.full((1, 2), self.pad, dtype=torch.long, device=self._device())
        return self._states(ids, torch.tensor([[False, True]], device=self._device()))[0, 0].cpu()

    def forward(self, ids: Tensor, mask: Tensor) -> TextEncoding:
        """Token ids [B, L] and which of them the model sees [B, L] bool -> tokens [B, L, width]."""
        return self.finished(TextEncoding(self._states(ids.to(self._device()), mask.to(self._device()))))

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _states(self, ids: Tensor, attended: Tensor, seen: Mapping[str, Any] | None = None) -> Tensor:
        if self.part.family == "cpmant":
            # It knows padding by its id, 0, and has no mask of its own.
            return self.model(ids.masked_fill(~attended, 0), use_cache=False).last_hidden_state
        before_norm: list[Tensor] = []
        handle = None
        if not self.part.normed:
            # transformers lists the last state after the norm only; what goes into the norm is read by this hook.
            def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
                before_norm.append(args[0])

            handle = self.model.norm.register_forward_pre_hook(keep)
        intermediate = self.part.state != -1
        try:
            # No mask where all is seen, as CogView4's pipeline gives it none of padding on the left.
            mask = None if bool(attended.all()) else attended.long()
            inputs = seen or {"input_ids": ids}
            output = self.model(**inputs, attention_mask=mask, output_hidden_states=intermediate, use_cache=False)
        finally:
            if handle is not None:
                handle.remove()
        if before_norm:
            return before_norm[0]
        return output.hidden_states[self.part.state] if intermediate else output.last_hidden_state

    def budget(self, text: str) -> Budget:
        """Tokens used of the length, and the text lost past it: from the first character not read in whole."""
        ids, places = self._read(text)
        start, limit = self._start(), self.part.length
        place = places[start + limit] if len(ids) > start + limit else -1
        lost = text[place:] if 0 <= place < len(text) else ""
        return Budget(max(0, len(ids) - start), limit, lost, unread=tokenization.unread(self.tokenizer, text))

    def save_tokenizer(self, folder: Path) -> None:
        """Writes tokenizer.json, what it is padded with, and the template as pipelines ask for one."""
        # Of a pipeline that names no length this is what it reads.
        limit = min(self.part.positions, self._start() + self.part.length)
        tokenization.write_words(folder, self.tokenizer, self.pad, "PreTrainedTokenizerFast", limit)
        before, _, after = (json.dumps(piece, ensure_ascii=False) for piece in self.part.template.partition(SLOT))
        path = folder / tokenization.SETTINGS_FILE
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings["chat_template"] = f"{{{{ {before} + messages[-1]['content'] + {after} }}}}"
        write_whole(path, json.dumps(settings, indent=1, ensure_ascii=False).encode())

    def read_tokenizer(self, folder: Path) -> tuple[Any, str]:
        """tokenizer.json, or the vocab.json and merges.txt of Qwen2Tokenizer, and the padding of its settings."""
        return read_tokenizer_files(folder)

    def _start(self) -> int:
        """How many tokens in front are the template's alone."""
        text = self.part.template.partition(SLOT)[0] if self.part.characters else self.part.drop_text
        if not text:
            return self.part.drop
        return len(tokenization.known(self.tokenizer).encode(text, add_special_tokens=False).ids)

    def _read(self, text: str, pictures: str = "") -> tuple[list[int], list[int]]:
        """The ids of a text in its template behind what stands for ``pictures``, and where in the text each begins (-1
        before, its length after it).
        """
        tokenize = tokenize_by_character if self.part.characters else tokenize_in_template
        return tokenize(tokenization.known(self.tokenizer), self.part.template, text or self.part.empty, pictures)

    def _row(self, text: str, pictures: str = "") -> TokenRow:
        ids, places = self._read(text, pictures)
        start = self._start()
        before = max(start, sum(place < 0 for place in places)) if pictures else start
        ids = ids[: before + self.part.length]
        blank = self.pad
        ahead = -len(ids) % self.part.multiple
        ids = [blank] * ahead + ids
        attention_mask = [True] * len(ids)
        if self.part.pad == "full":
            more = before + self.part.length - len(ids)
            ids, attention_mask = ids + [blank] * more, attention_mask + [False] * more
        return TokenRow(ids, attention_mask)


def as_lists(value: Any) -> Any:
    """Tuples of a recipe as the lists that transformers' configs want, at any depth."""
    if isinstance(value, Mapping):
        return {k: as_lists(v) for k, v in cast("Mapping[str, Any]", value).items()}
    return [as_lists(v) for v in cast("tuple[Any, ...]", value)] if isinstance(value, (tuple, list)) else value
