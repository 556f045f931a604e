"""Prompts inside a language model's template as token ids, with the place of each token in the prompt."""

# transformers leaves parts of its interface untyped.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from bimo.core.part import Part
from bimo.models.text_encoders import tokenization
from bimo.models.text_encoders.quoted_pieces import pieces
from bimo.models.text_encoders.qwen_vision import View, rotary_positions

#: The place of the prompt in a template.
SLOT = "{}"


@dataclass(frozen=True, kw_only=True)
class PromptPieces(Part):
    """A prompt with pictures in pieces that are read each on its own: ``first`` before the first picture, ``between``
    two, ``template`` with the prompt in it behind the last one, and ``last`` behind the picture that is drawn.
    """

    first: str = ""
    between: str = ""
    template: str = SLOT
    last: str = ""

    def of(self, text: str, count: int) -> list[str]:
        """The pieces of a text with ``count`` pictures, as many and two more."""
        return [self.first, *[self.between] * (count - 1), self.template.replace(SLOT, text), self.last]


@dataclass(frozen=True)
class TokenRow:
    """The token ids of one text and their attention mask; ``views`` are pictures, whose tokens are at ``places``."""

    ids: list[int]
    attention_mask: list[bool]
    views: tuple[View, ...] = ()
    places: tuple[int, ...] = ()


def batch_rows(rows: Sequence[TokenRow], pad: int, pad_left: bool) -> tuple[Tensor, Tensor]:
    """Rows -> token ids [B, L], padded to the longest row, and attention mask [B, L] bool."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), pad, dtype=torch.long)
    attention_mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        first = longest - len(row.ids) if pad_left else 0
        ids[index, first : first + len(row.ids)] = torch.tensor(row.ids, dtype=torch.long)
        attention_mask[index, first : first + len(row.ids)] = torch.tensor(row.attention_mask, dtype=torch.bool)
    return ids, attention_mask


def embed_pictures(model: Any, rows: Sequence[TokenRow], ids: Tensor) -> dict[str, Any]:
    """What a language model is called with in place of ids: their embeddings [B, L, D] with pictures' tokens at their
    places, all tokens' positions [3, B, L], and what pictures add behind its first layers.

    transformers' own model works these positions out only where its processor tells it which tokens are pictures'
    (since version 5); diffusers' pipelines do not pass that on, so that there pictures lie in one line. Those that
    the weights learned with are meant.
    """
    embeds = model.embed_tokens(ids).clone()
    positions = torch.zeros(3, *ids.shape, dtype=torch.long, device="cpu")
    for index, row in enumerate(rows):
        begins: list[tuple[int, View]] = []
        for view in row.views:
            begins.append((row.places[sum(len(v.tokens) for _, v in begins)], view))
        if row.views:
            embeds[index, list(row.places)] = torch.cat([view.tokens for view in row.views]).to(embeds)
        # Padding behind the text is at place 0, as transformers has it.
        read = sum(row.attention_mask)
        positions[:, index, :read] = rotary_positions(read, begins)
    given: dict[str, Any] = {"inputs_embeds": embeds, "position_ids": positions.to(ids.device)}
    every = [view.deepstack for row in rows for view in row.views]
    if any(every):
        shown = torch.zeros(ids.shape, dtype=torch.bool, device="cpu")
        for index, row in enumerate(rows):
            shown[index, list(row.places)] = True
        layers = [torch.cat(layer) for layer in zip(*every, strict=True)]
        given |= {"visual_pos_masks": shown.to(ids.device), "deepstack_visual_embeds": layers}
    return given


def tokenize_in_template(tokenizer: Any, template: str, text: str, pictures: str = "") -> tuple[list[int], list[int]]:
    """Tokenizes the filled template in one piece.

    ``pictures`` are the tokens of pictures, which stand before the prompt. Returns the ids, and the offset of each
    token in the text: -1 before it, the length of the text or more after it.
    """
    before, _, after = template.partition(SLOT)
    before += pictures
    encoded = tokenizer.encode(before + text + after)
    return encoded.ids, [max(-1, begin - len(before)) for begin, _ in encoded.offsets]


def tokenize_by_character(tokenizer: Any, template: str, text: str, pictures: str = "") -> tuple[list[int], list[int]]:
    """Tokenizes template and prompt separately, and quoted text character by character, as LongCat-Image does.

    Arguments and result as for ``tokenize_in_template``. What follows the prompt in the template is left out: the
    model is causal, so that it has no effect on the states that are used.
    """
    before = template.partition(SLOT)[0] + pictures
    ids: list[int] = list(tokenizer.encode(before, add_special_tokens=False).ids)
    offsets = [-1] * len(ids)
    for start, segment in pieces(text):
        encoded = tokenizer.encode(segment, add_special_tokens=False)
        ids += encoded.ids
        offsets += [start + begin for begin, _ in encoded.offsets]
    return ids, offsets


def read_tokenizer_files(folder: Path) -> tuple[Any, str]:
    """The tokenizer of a folder, and the padding token in its settings."""
    from tokenizers import Tokenizer
    from transformers import Qwen2Tokenizer

    settings = json.loads((folder / tokenization.SETTINGS_FILE).read_text(encoding="utf-8"))
    token = settings.get("pad_token") or ""
    pad = str(cast("dict[str, Any]", token)["content"] if isinstance(token, dict) else token)
    if (folder / tokenization.TOKENIZER_FILE).is_file():
        return Tokenizer.from_file(str(folder / tokenization.TOKENIZER_FILE)), pad
    read: Any = Qwen2Tokenizer.from_pretrained(str(folder), local_files_only=True)
    return Tokenizer.from_str(read.backend_tokenizer.to_str()), pad
