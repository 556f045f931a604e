"""BERT as a text encoder (arXiv:1810.04805): Taiyi's, Chinese-CLIP's and xiaomo's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self, cast

from torch import Tensor, nn

from bimo.core.errors import WeightsError
from bimo.core.files import write_whole
from bimo.core.part import Part
from bimo.core.tensors import TextEncoding
from bimo.models.text_encoders import lexicon, tokenization
from bimo.models.text_encoders.bert_network import BertModel
from bimo.models.text_encoders.encoder import PublishedTextEncoder
from bimo.models.text_encoders.tokenization import TOKENIZER_FILE, VOCAB_FILE, published_words
from bimo.prompts.emoji import in_words
from bimo.prompts.normalise import normal
from bimo.prompts.paraphrases import proposed
from bimo.prompts.token_budget import Budget

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
KNOWN_FILE = "known.txt"
TRIM = 4
#: Learned words that are named beside strange ones.
MOST_NEAR = 6
HAN = r"\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_HAN = re.compile(f"[{HAN}]")
_RUNS = re.compile(f"[{HAN}]+|[a-z0-9][a-z0-9'’-]*|[^\\s{HAN}a-z0-9]")


@dataclass(frozen=True, kw_only=True)
class Bert(Part):
    """A BERT text encoder. ``words`` "vocab" reads a vocab.txt as BERT does; "lexicon" has whole words of a known list
    as tokens, matched longest first, single characters for the rest.

    ``masked`` says whether padding is masked in the text encoder (not in Taiyi's); it is then handled by ``padding``:
    "trimmed" to the longest text of the batch and masked for the denoiser; all ``length`` tokens, "hidden" (masked) for
    the denoiser; or all of them "shown" (Chinese-CLIP's). ``pool`` adds a pooled output: the "mean" of the real tokens,
    that of BERT's own pooler, from the "first" token, or that token itself as the "start" (Chinese-CLIP's); through a
    linear layer to ``project`` unless that is 0.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    feed: int = 3072
    vocab: int = 21128
    positions: int = 512
    types: int = 2
    length: int = 512
    masked: bool = False
    padding: Literal["trimmed", "hidden", "shown"] = "trimmed"
    pooler: bool = True
    pool: Literal["", "mean", "first", "start"] = ""
    project: int = 0
    words: Literal["vocab", "lexicon"] = "vocab"
    dropout: float = 0.1

    def build(self) -> BertTextEncoder:
        """The module, without tokenizer until ``load_tokenizer`` or ``build_tokenizer``."""
        return BertTextEncoder(self)

    def tiny(self) -> Self:
        """Width 16, two layers; vocabulary and length stay, as the tokenizer belongs to the data."""
        return replace(self, width=16, layers=2, heads=2, feed=32, project=min(self.project, 16))


class BertTextEncoder(PublishedTextEncoder):
    """Texts -> tokens [B, L, width], mask [B, L], pooled [B, project]."""

    teachable = True
    begins = 1
    tokenizer_files = (TOKENIZER_FILE, VOCAB_FILE)
    part: Bert

    def __init__(self, part: Bert) -> None:
        super().__init__()
        self.part = part
        self.model = BertModel(
            width=part.width,
            layers=part.layers,
            heads=part.heads,
            feed=part.feed,
            vocab=part.vocab,
            positions=part.positions,
            types=part.types,
            dropout=part.dropout,
            pooler=part.pooler,
        )
        self.head = nn.Linear(part.width, part.project) if part.pool and part.project else None
        self.known: frozenset[str] = frozenset()
        self.chunkable = part.words == "vocab"

    def forward(self, ids: Tensor, mask: Tensor) -> TextEncoding:
        """Token ids [B, L] and mask [B, L] bool -> Encoding."""
        if not self.part.masked:
            output = self.model(ids)
            return TextEncoding(output.last_hidden_state, None, self._pooled(output, mask))
        if self.part.padding == "trimmed":
            # Masked padding need not be computed.
            longest = -(-int(mask.sum(1).max()) // TRIM) * TRIM
            ids, mask = ids[:, :longest], mask[:, :longest]
        output = self.model(ids, attention_mask=mask.long())
        pooled = self._pooled(output, mask)
        return TextEncoding(output.last_hidden_state, None if self.part.padding == "shown" else mask, pooled)

    def _pooled(self, output: Any, mask: Tensor) -> Tensor | None:
        if not self.part.pool:
            return None
        if self.part.pool == "first":
            pooled = output.pooler_output
        elif self.part.pool == "start":
            pooled = output.last_hidden_state[:, 0]
        else:
            weight = mask.unsqueeze(-1).to(output.last_hidden_state)
            pooled = (output.last_hidden_state * weight).sum(1) / weight.sum(1)
        return pooled if self.head is None else self.head(pooled)

    def budget(self, text: str) -> Budget:
        """Tokens used of the length, the text lost past it, and words that are in no list of known words."""
        if self.part.words == "vocab":
            return super().budget(text)
        used, limit = self._used(text), self.part.length
        low, high = (0, len(text)) if used > limit else (len(text), len(text))
        # Normalised for the lexicon it has other offsets than the text: search for the longest prefix that fits.
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._used(text[:middle]) <= limit else (low, middle - 1)
        strange = self._strange(text)
        # No word is proposed where none is missing.
        near = tuple(dict.fromkeys((*proposed(strange.words, self._knows), *lexicon.near(strange.words, self.known))))
        return Budget(used, limit, text[low:], strange.words, (), near[:MOST_NEAR], strange.mostly, strange.wholly)

    def build_tokenizer(self, captions: Iterable[str], known: Iterable[str]) -> None:
        """Builds the vocabulary of a "lexicon" text encoder: known words, then the characters and words of the captions
        by frequency. Raises WeightsError if the known words exceed the vocabulary, and for a text encoder with a
        published vocabulary.
        """
        if self.part.words == "vocab":
            raise published_words()
        listed = dict.fromkeys(w for word in known for w in _RUNS.findall(normal(word)) if len(w) <= 12)
        counts = Counter(run for caption in captions for run in _RUNS.findall(normal(caption)))
        characters = dict.fromkeys(c for run in (*listed, *sorted(counts)) for c in run)
        letters = dict.fromkeys("abcdefghijklmnopqrstuvwxyz0123456789")
        by_count = [w for w, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if not _HAN.match(w)]
        every = list(dict.fromkeys((*SPECIAL, *letters, *listed, *characters, *by_count)))
        if len(SPECIAL) + len(letters) + len(listed) + len(characters) > self.part.vocab:
            raise WeightsError(
                "{count} known words and characters, but a vocabulary of {vocab}; make vocab larger in the recipe",
                count=len(listed) + len(characters),
                vocab=self.part.vocab,
            )
        self.tokenizer = _lexicon(every[: self.part.vocab])
        self.known = frozenset(listed) | {w for w in by_count if w in every[: self.part.vocab]}

    def save_tokenizer(self, folder: Path) -> None:
        """Writes tokenizer.json, and known.txt for a lexicon."""
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / TOKENIZER_FILE, self.tokenizer.to_str().encode())
        if self.part.words == "lexicon":
            write_whole(folder / KNOWN_FILE, "\n".join(sorted(self.known)).encode())

    def load_tokenizer(self, folder: Path) -> None:
        """Reads tokenizer.json, or BERT's vocab.txt. Raises WeightsError if they are missing or damaged."""
        super().load_tokenizer(folder)
        if self.pad != 0:
            raise WeightsError("[PAD] of {folder} is {pad}; expected 0", folder=folder, pad=self.pad)
        if self.part.words == "lexicon":
            try:
                self.known = frozenset((folder / KNOWN_FILE).read_text(encoding="utf-8").split("\n"))
            except (OSError, UnicodeDecodeError) as error:
                raise WeightsError(
                    "cannot read the known words of {folder}: {error}", folder=folder, error=error
                ) from None

    def read_tokenizer(self, folder: Path) -> tuple[Any, str]:
        """tokenizer.json or vocab.txt."""
        return tokenization.word_pieces(folder)

    def _used(self, text: str) -> int:
        return len(self.tokens(text).ids)

    def spelt(self, text: str) -> str:
        """The normalised text for the tokenizer; words added by textual inversion are unchanged."""
        if self.part.words == "vocab":
            return text
        return "".join(c for _, c in self._spelt(text))

    def _spelt(self, text: str) -> list[tuple[int, str]]:
        """(position in the normal form, character): -1 is a gap next to a character outside the vocabulary, which would
        turn its whole run into [UNK].
        """
        vocabulary, own = _characters(self.tokenizer), tokenization.taught(self.tokenizer)
        pieces = re.split(f"({'|'.join(map(re.escape, own))})", text) if own else [text]
        unknown: list[tuple[int, str]] = []
        place = 0
        for number, piece in enumerate(pieces):
            for c in piece if number % 2 else normal(in_words(piece, self._knows)):
                plain = number % 2 or c in vocabulary or c.isspace()
                unknown += [(place, c)] if plain else [(-1, " "), (place, c), (-1, " ")]
                place += 1
        return unknown

    def _knows(self, words: str) -> bool:
        return not self._strange(words).words

    def _strange(self, text: str) -> lexicon.Strange:
        spelt = self._spelt(text)
        spans = cast("list[tuple[int, int]]", self.tokenizer.encode("".join(c for _, c in spelt)).offsets)
        places = [(spelt[start][0], spelt[end - 1][0] + 1) for start, end in spans if start < end]
        own = frozenset(tokenization.taught(self.tokenizer))
        return lexicon.strange("".join(c for place, c in spelt if place >= 0), places, self.known, own)


@lru_cache(maxsize=4)
def _characters(words: Any) -> frozenset[str]:
    return frozenset(w for w in words.get_vocab() if len(w) == 1)


def _lexicon(vocabulary: Sequence[str]) -> Any:
    """A tokenizer that matches the longest known word first: WordPiece without a continuation prefix."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    table = {word: index for index, word in enumerate(vocabulary)}
    model = models.WordPiece(table, unk_token="[UNK]", continuing_subword_prefix="", max_input_chars_per_word=400)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", table["[SEP]"]), ("[CLS]", table["[CLS]"]))
    return tokenizer
