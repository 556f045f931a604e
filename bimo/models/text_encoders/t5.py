"""The encoder of T5 (arXiv:1910.10683) and mT5 (arXiv:2010.11934) as a text encoder: HunyuanDiT's second."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from torch import Tensor, nn

from bimo.core.part import Part
from bimo.core.tensors import TextEncoding
from bimo.models.text_encoders import tokenization
from bimo.models.text_encoders.encoder import PublishedTextEncoder
from bimo.models.text_encoders.tokenization import TOKENIZER_FILE

PIECES_FILE = "spiece.model"


@dataclass(frozen=True, kw_only=True)
class T5(Part):
    """An encoder of T5, ``head`` wide a head; the defaults are mT5-XL's in HunyuanDiT.

    Padding up to ``length`` is hidden from the text encoder; its tokens are answered all the same, with a mask.
    ``feed_forward`` "relu" is the first T5's, "gated-gelu" that of T5 1.1 and mT5.
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

    def build(self) -> T5TextEncoder:
        """The module, without its words until ``load_tokenizer``."""
        return T5TextEncoder(self)

    def tiny(self) -> Self:
        """Width 16, two layers; the vocabulary and length stay, as the words belong to the data."""
        return replace(self, width=16, layers=2, heads=2, head=8, feed=32)


class T5TextEncoder(PublishedTextEncoder):
    """Texts -> tokens [B, length, width] and mask [B, length]. Published names are below ``model.``, without their
    ``encoder.``; what they call ``shared`` is ``embed_tokens`` here.
    """

    teachable = True
    begins = 0
    tokenizer_class = "T5Tokenizer"
    tokenizer_files = (TOKENIZER_FILE, PIECES_FILE)
    #: What comes out of it overflows float16.
    keep_in_fp32 = ("wo",)

    def __init__(self, part: T5) -> None:
        super().__init__()
        from transformers import T5Config, T5EncoderModel

        self.part = part
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

    def read_tokenizer(self, folder: Path) -> tuple[Any, str]:
        """tokenizer.json or spiece.model."""
        return pieces(folder)


def pieces(folder: Path) -> tuple[Any, str]:
    """T5's tokenizer of a tokenizer.json or a spiece.model; <pad>. Marks for gaps are left out."""
    from tokenizers import Tokenizer
    from transformers import T5Tokenizer

    if (folder / TOKENIZER_FILE).is_file():
        return Tokenizer.from_file(str(folder / TOKENIZER_FILE)), "<pad>"
    listed, charsmap = tokenization.read_model((folder / PIECES_FILE).read_bytes())
    settings: dict[str, Any] = {"_spm_precompiled_charsmap": charsmap or None, "extra_ids": 0}
    read: Any = T5Tokenizer(vocab=listed, **settings)
    return Tokenizer.from_str(read.backend_tokenizer.to_str()), "<pad>"
