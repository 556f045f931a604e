"""The encoder of T5 (arXiv:1910.10683), mT5 (arXiv:2010.11934) and ByT5 (arXiv:2105.13626) as a text encoder."""

# transformers and tokenizers leave parts of their interface untyped; what crosses it here is named where it is used.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from bimo.core.errors import RecipeError
from bimo.core.files import write_whole
from bimo.core.part import Part
from bimo.core.tensors import TextEncoding
from bimo.models.text_encoders import tokenization
from bimo.models.text_encoders.encoder import PublishedTextEncoder
from bimo.models.text_encoders.prompt_tokens import TokenRow, batch_rows
from bimo.models.text_encoders.tokenization import SETTINGS_FILE, TOKENIZER_FILE
from bimo.prompts.token_budget import Budget

PIECES_FILE = "spiece.model"
#: ByT5's special tokens; a byte's id is its value plus their number.
MARKS = ("<pad>", "</s>", "<unk>")
#: Text to be rendered, as HunyuanImage-2.1's pipeline extracts it: all in the first kind of quotes, then in the next.
QUOTES = (r"'(.*?)'", r'"(.*?)"', r"‘(.*?)’", r"“(.*?)”")
#: The same of GLM-Image's pipeline.
QUOTES_APART = (r"'([^']*)'", r"\u201c([^\u201c\u201d]*)\u201d", r'"([^"]*)"', r"「([^「」]*)」")


@dataclass(frozen=True, kw_only=True)
class T5(Part):
    """A T5 encoder, with ``head`` wide heads; the defaults are mT5-XL's in HunyuanDiT.

    Padding up to ``length`` is masked in the text encoder; its outputs are returned with a mask. ``feed_forward``
    "relu" is the first T5's, "gated-gelu" that of T5 1.1 and mT5. ``words`` are SentencePiece's pieces, or the bytes of
    ByT5. With ``quoted`` it only reads the text to be rendered; a prompt without quotation marks gives zeros, all
    masked. With ``apart`` it reads each quotation by itself, as GLM-Image does, up to ``length``, and what it says of
    them follows one another; a prompt without any is read as one that is empty.
    """

    width: int = 2048
    layers: int = 24
    heads: int = 32
    head: int = 64
    feed: int = 5120
    vocab: int = 250112
    length: int = 256
    feed_forward: Literal["relu", "gated-gelu"] = "gated-gelu"
    buckets: int = 32
    distance: int = 128
    eps: float = 1e-6
    dropout: float = 0.1
    words: Literal["pieces", "bytes"] = "pieces"
    quoted: bool = False
    apart: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.apart and not self.quoted:
            raise RecipeError("apart is for quoted text, each of which is read by itself; say quoted=True as well")

    def build(self) -> T5TextEncoder:
        """The module, without tokenizer until ``load_tokenizer``."""
        return T5TextEncoder(self)

    def tiny(self) -> Self:
        """Width 16, two layers; vocabulary and length stay, as the tokenizer belongs to the data."""
        return replace(self, width=16, layers=2, heads=2, head=8, feed=32)


class T5TextEncoder(PublishedTextEncoder):
    """Texts -> tokens [B, length, width] and mask [B, length]. Published names are below ``model.``, without their
    ``encoder.``; what they call ``shared`` is ``embed_tokens`` here.
    """

    teachable = True
    begins = 0
    tokenizer_class = "T5Tokenizer"
    tokenizer_files = (TOKENIZER_FILE, PIECES_FILE)
    #: Its outputs overflow float16.
    keep_in_fp32 = ("wo",)

    def __init__(self, part: T5) -> None:
        super().__init__()
        from transformers import T5Config, T5EncoderModel

        self.part = part
        if part.words == "bytes":
            self.tokenizer_class, self.tokenizer_files = "ByT5Tokenizer", (TOKENIZER_FILE, SETTINGS_FILE)
        if part.quoted:
            self.begins, self.teachable = None, False
        self.model: nn.Module = T5EncoderModel(
            T5Config(
                vocab_size=part.vocab,
                d_model=part.width,
                d_kv=part.head,
                d_ff=part.feed,
                num_layers=part.layers,
                num_heads=part.heads,
                feed_forward_proj=part.feed_forward,
                relative_attention_num_buckets=part.buckets,
                relative_attention_max_distance=part.distance,
                layer_norm_epsilon=part.eps,
                dropout_rate=part.dropout,
            )
        ).encoder

    def forward(self, ids: Tensor, mask: Tensor) -> TextEncoding:
        """Token ids [B, L] and mask [B, L] bool -> Encoding."""
        return TextEncoding(self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state, mask)

    def encode(self, texts: Sequence[str], skip: int = 0) -> TextEncoding:
        """Texts -> their encodings; with ``quoted`` zeros for texts without quotes; with ``apart`` as many tokens as
        the longest has, [B, L, width].
        """
        if self.part.apart:
            return self._apart(texts)
        encoding = super().encode(texts, skip)
        if not self.part.quoted:
            return encoding
        written = torch.tensor([[bool(self.spelt(text))] for text in texts], device=encoding.tokens.device)
        mask = None if encoding.mask is None else encoding.mask.to(written.device) & written
        return TextEncoding(encoding.tokens * written[:, :, None], mask)

    def spelt(self, text: str) -> str:
        """The text as it is passed to the tokenizer: with ``quoted`` the text to be rendered, "" for none."""
        if not self.part.quoted:
            return text
        if self.part.apart:
            return "".join(quotations(text))
        written = [one for marks in QUOTES for one in re.findall(marks, text)]
        return "".join(f'Text "{one}". ' for one in written)

    def budget(self, text: str) -> Budget:
        """Tokens used of the length and what is lost past it, of what it reads."""
        if not self.part.quoted:
            return super().budget(text)
        if self.part.apart:
            every = [tokenization.budget(self._tokens_of(one), one, self.part.length) for one in quotations(text)]
            return max(every, key=lambda one: one.used, default=Budget(1, self.part.length))
        return tokenization.budget(self.tokens(text), self.spelt(text), self.part.length)

    def _apart(self, texts: Sequence[str]) -> TextEncoding:
        """What each quotation of a text is read as, one behind the other. Where their number is even each has a padding
        token before it, in sight of all, as in diffusers' pipeline.
        """
        every: list[Tensor] = []
        for text in texts:
            written = quotations(text) or [""]
            ahead = [self.pad] * ((len(written) + 1) % 2)
            read = [tokenization.truncated(self._tokens_of(one).ids, self.part.length) for one in written]
            rows = [TokenRow([*ahead, *ids], [True] * (len(ahead) + len(ids))) for ids in read]
            ids, mask = batch_rows(rows, self.pad, pad_left=False)
            tokens = self.forward(ids, mask).tokens
            every.append(torch.cat([one[: len(row.ids)] for one, row in zip(tokens, rows, strict=True)]))
        longest = max(len(one) for one in every)
        tokens = torch.stack([nn.functional.pad(one, (0, 0, 0, longest - len(one))) for one in every])
        lengths = torch.tensor([len(one) for one in every])
        return TextEncoding(tokens, torch.arange(longest) < lengths[:, None])

    def _tokens_of(self, text: str) -> Any:
        return tokenization.read(self.tokenizer, text)

    def save_tokenizer(self, folder: Path) -> None:
        """Writes tokenizer.json and its settings; for bytes with the additional tokens that ByT5's class requires."""
        super().save_tokenizer(folder)
        if self.part.words != "bytes":
            return
        path = folder / SETTINGS_FILE
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings |= dict(zip(("pad_token", "eos_token", "unk_token"), MARKS, strict=True))
        added = sorted(self.tokenizer.get_added_tokens_decoder().items())
        settings["additional_special_tokens"] = [token.content for number, token in added if number >= len(MARKS)]
        settings["added_tokens_decoder"] = {
            str(number): {
                "content": token.content,
                **{name: getattr(token, name) for name in ("lstrip", "rstrip", "normalized", "single_word", "special")},
            }
            for number, token in added
        }
        settings["extra_ids"] = 0
        write_whole(path, json.dumps(settings, indent=1, ensure_ascii=False).encode())

    def read_tokenizer(self, folder: Path) -> tuple[Any, str]:
        """tokenizer.json or spiece.model; for ByT5 the additional tokens of its settings."""
        return utf8(folder) if self.part.words == "bytes" else pieces(folder)


def quotations(text: str) -> list[str]:
    """What stands in quotation marks: all in the first kind of them, then in the next, as GLM-Image reads it."""
    return [one for marks in QUOTES_APART for one in re.findall(marks, text)]


def pieces(folder: Path) -> tuple[Any, str]:
    """T5's tokenizer from a tokenizer.json or a spiece.model; <pad>. Sentinel tokens are left out."""
    from tokenizers import Tokenizer
    from transformers import T5Tokenizer

    if (folder / TOKENIZER_FILE).is_file():
        return Tokenizer.from_file(str(folder / TOKENIZER_FILE)), "<pad>"
    listed, charsmap = tokenization.read_model((folder / PIECES_FILE).read_bytes())
    settings: dict[str, Any] = {"_spm_precompiled_charsmap": charsmap or None, "extra_ids": 0}
    read: Any = T5Tokenizer(vocab=listed, **settings)
    return Tokenizer.from_str(read.backend_tokenizer.to_str()), "<pad>"


def utf8(folder: Path) -> tuple[Any, str]:
    """ByT5's tokenizer: a token for each byte of UTF-8, and the additional ones of a folder's settings; <pad>.

    Raises ValueError for additional tokens whose ids do not follow the bytes.
    """
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
    from transformers import ByT5Tokenizer

    if (folder / TOKENIZER_FILE).is_file():
        return Tokenizer.from_file(str(folder / TOKENIZER_FILE)), MARKS[0]
    read: Any = ByT5Tokenizer.from_pretrained(str(folder), local_files_only=True)
    letters = _letters_of_bytes()
    vocab = {mark: number for number, mark in enumerate(MARKS)}
    vocab |= {letter: len(MARKS) + byte for byte, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    added = sorted(read.added_tokens_decoder.items())
    tokenizer.add_special_tokens(
        [AddedToken(str(t), lstrip=t.lstrip, rstrip=t.rstrip, normalized=False) for _, t in added]
    )
    if strangers := [str(token) for number, token in added if tokenizer.token_to_id(str(token)) != number]:
        raise ValueError(f"added tokens with a number of their own: {strangers[:4]}")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[(MARKS[1], 1)])
    return tokenizer, MARKS[0]


def _letters_of_bytes() -> list[str]:
    """The character of each byte in byte-level tokenizers, as in GPT-2: printable ones represent themselves."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
