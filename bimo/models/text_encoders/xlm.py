"""XLM-RoBERTa with a linear head as a text encoder (AltCLIP, arXiv:2211.06679): AltDiffusion's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

from torch import Tensor, nn

from bimo.core.errors import RecipeError, WeightsError
from bimo.core.part import Part
from bimo.core.tensors import TextEncoding
from bimo.models.text_encoders import tokenization
from bimo.models.text_encoders.encoder import PublishedTextEncoder
from bimo.models.text_encoders.tokenization import MODEL_FILE, TOKENIZER_FILE

#: XLM-RoBERTa's positions are counted from that of its padding: this many are never used.
UNUSED_POSITIONS = 2
PAD = 1


@dataclass(frozen=True, kw_only=True)
class XlmText(Part):
    """An XLM-RoBERTa with masked padding, whose denoiser gets all ``length`` tokens.

    Its last states pass through a linear layer to ``project``, with ``norm`` through a norm before it, as in AltCLIP.
    With ``penultimate`` those of the last layer but one pass through a norm and a second such layer instead, as in
    AltDiffusion-m18. ``embed`` adds a pooled output: the first token's output through a further layer of that width.
    """

    width: int = 1024
    layers: int = 24
    heads: int = 16
    feed: int = 4096
    vocab: int = 250002
    positions: int = 514
    types: int = 1
    length: int = 77
    project: int = 768
    penultimate: bool = False
    norm: bool = False
    embed: int = 0
    eps: float = 1e-5
    dropout: float = 0.1

    def build(self) -> XlmTextEncoder:
        """The module, without tokenizer until ``load_tokenizer``. Raises RecipeError for inconsistent fields."""
        return XlmTextEncoder(self)

    def tiny(self) -> Self:
        """Width 16, two layers; vocabulary and length stay, as the tokenizer belongs to the data."""
        return replace(self, width=16, layers=2, heads=2, feed=32, project=16, embed=min(self.embed, 16))


class Transformed(nn.Module):
    """XLM-RoBERTa and the layers for its states, with the published names."""

    def __init__(self, part: XlmText) -> None:
        super().__init__()
        from transformers import XLMRobertaConfig, XLMRobertaModel

        config = XLMRobertaConfig(
            vocab_size=part.vocab,
            hidden_size=part.width,
            num_hidden_layers=part.layers,
            num_attention_heads=part.heads,
            intermediate_size=part.feed,
            max_position_embeddings=part.positions,
            type_vocab_size=part.types,
            layer_norm_eps=part.eps,
            hidden_dropout_prob=part.dropout,
            attention_probs_dropout_prob=part.dropout,
        )
        self.roberta = XLMRobertaModel(config, add_pooling_layer=False)
        # Published with the head of the last states even if it is not used.
        self.transformation = nn.Linear(part.width, part.project)
        self.transformation_pre = nn.Linear(part.width, part.project) if part.penultimate else None
        self.pre_LN = nn.LayerNorm(part.width, eps=part.eps) if part.penultimate or part.norm else nn.Identity()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids [B, L] and mask [B, L] bool -> [B, L, project]."""
        if self.transformation_pre is None:
            return self.transformation(self.pre_LN(self.roberta(ids, attention_mask=mask.long()).last_hidden_state))
        states = self.roberta(ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states
        return self.transformation_pre(self.pre_LN(cast("tuple[Tensor, ...]", states)[-2]))


class XlmTextEncoder(PublishedTextEncoder):
    """Texts -> tokens [B, length, project]; the denoiser sees those of the padding as well. Published names are below
    ``model.``, without the pooler.
    """

    teachable = True
    chunkable = True
    begins = 1
    pad = PAD
    tokenizer_class = "XLMRobertaTokenizer"
    tokenizer_files = (TOKENIZER_FILE, MODEL_FILE)

    def __init__(self, part: XlmText) -> None:
        super().__init__()
        if part.length > part.positions - UNUSED_POSITIONS:
            raise RecipeError(
                "length of XlmText is {length}, but {positions} positions are for words",
                length=part.length,
                positions=part.positions - UNUSED_POSITIONS,
            )
        self.part = part
        self.model = Transformed(part)
        self.projection = nn.Linear(part.project, part.embed, bias=False) if part.embed else None

    def forward(self, ids: Tensor, mask: Tensor) -> TextEncoding:
        """Token ids [B, L] and mask [B, L] bool -> Encoding with tokens [B, L, project], pooled [B, embed]."""
        tokens = self.model(ids, mask)
        return TextEncoding(tokens, None, None if self.projection is None else self.projection(tokens[:, 0]))

    def read_tokenizer(self, folder: Path) -> tuple[Any, str]:
        """tokenizer.json or sentencepiece.bpe.model."""
        return tokenization.sentence_pieces(folder)

    def load_tokenizer(self, folder: Path) -> None:
        """As every tokenizer. Raises WeightsError also if positions are not counted from the id of its padding."""
        super().load_tokenizer(folder)
        if self.pad != PAD:
            raise WeightsError("<pad> of {folder} is {pad}; expected 1", folder=folder, pad=self.pad)
