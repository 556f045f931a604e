"""Tokenizers as data from published files, with one implementation of padding, truncation and budgets."""

# diffusers loads its classes lazily, which reads as private, and leaves parts of its interface untyped.
# pyright: reportPrivateImportUsage=false, reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bimo.core.errors import WeightsError
from bimo.core.files import write_whole
from bimo.prompts.emoji import sequences
from bimo.prompts.token_budget import Budget

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
VOCAB_FILE = "vocab.txt"
MODEL_FILE = "sentencepiece.bpe.model"


def padded(rows: Sequence[Sequence[int]], length: int, pad: int) -> tuple[Tensor, Tensor]:
    """Rows of token ids -> ids [B, length] and mask [B, length] bool (True: real). Truncated rows keep their end
    token.
    """
    ids = torch.full((len(rows), length), pad, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, tokens in enumerate(rows):
        kept = truncated(tokens, length)
        ids[row, : len(kept)] = torch.tensor(kept)
        mask[row, : len(kept)] = True
    return ids, mask


def truncated(tokens: Sequence[int], length: int) -> Sequence[int]:
    """At most so many token ids, the last of which is still the end token."""
    return tokens if len(tokens) <= length else [*tokens[: length - 1], tokens[-1]]


def budget(encoded: Any, text: str, length: int) -> Budget:
    """Tokens used of the length and the text lost past it: from the first character not read in whole."""
    used: int = len(encoded.ids)
    if used <= length:
        return Budget(used, length)
    # All tokens of a character have the offsets of the whole character.
    return Budget(used, length, text[encoded.offsets[length - 1][0] :])


def unread(tokenizer: Any, text: str) -> tuple[str, ...]:
    """The parts of a text for which a published tokenizer has no token, emoji as a whole: they become the unknown
    token, or nothing.
    """
    words = known(tokenizer)
    mark = unknown_id(words)
    encoded = words.encode(text, add_special_tokens=False)
    if mark is None or not text.strip():
        return ()
    read = bytearray(len(text))
    for number, (start, end) in zip(encoded.ids, encoded.offsets, strict=True):
        if number != mark:
            read[start:end] = b"\1" * (end - start)
    visible = [place for place, c in enumerate(text) if not c.isspace() and unicodedata.category(c)[0] != "C"]
    places = [place for place in visible if not read[place]]
    whole = {place: (start, end) for start, end in sequences(text) for place in range(start, end)}
    spans = dict.fromkeys(whole.get(place, (place, place + 1)) for place in places)
    joined: list[list[int]] = []
    for start, end in spans:
        alike = joined and start not in whole and joined[-1][0] not in whole
        if alike and joined[-1][1] == start and text[start].isalnum() == text[start - 1].isalnum():
            joined[-1][1] = end
        else:
            joined.append([start, end])
    return tuple(dict.fromkeys(text[start:end] for start, end in joined))


def unknown_id(words: Any) -> int | None:
    """The id of a tokenizer's unknown token; None if it encodes every byte."""
    mark = getattr(words.model, "unk_token", None)
    if mark is None and type(words.model).__name__ == "Unigram":
        mark = "<unk>"
    # CLIP's BPE names its end token as unknown, which never occurs: it encodes bytes.
    if mark is None or mark == "<|endoftext|>" or getattr(words.model, "byte_fallback", False):
        return None
    return words.token_to_id(mark)


@dataclass(frozen=True)
class Read:
    """A tokenized text: ids, names, and offsets in the text."""

    ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]


def read(tokenizer: Any, text: str) -> Any:
    """Tokenizes a text; a word with several tokens (textual inversion) gets all of them."""
    encoded = known(tokenizer).encode(text)
    several = _several(tokenizer)
    if not several:
        return encoded
    expanded = Read([], [], [])
    for number, token, place in zip(encoded.ids, encoded.tokens, encoded.offsets, strict=True):
        for more, name in several.get(number, ((number, token),)):
            expanded.ids.append(more)
            expanded.tokens.append(name)
            expanded.offsets.append(place)
    return expanded


@lru_cache(maxsize=8)
def taught(words: Any) -> tuple[str, ...]:
    """The words that were added to a tokenizer's vocabulary, the longest first."""
    names = (str(token.content) for token in words.get_added_tokens_decoder().values())
    return tuple(sorted(names, key=len, reverse=True))


@lru_cache(maxsize=8)
def _several(words: Any) -> Mapping[int, tuple[tuple[int, str], ...]]:
    """The tokens of each added word with several: "<cat>", "<cat>_1", "<cat>_2" ..."""
    there = {str(token.content): int(number) for number, token in words.get_added_tokens_decoder().items()}
    tokens_of: dict[int, tuple[tuple[int, str], ...]] = {}
    for name, number in there.items():
        every = [(number, name)]
        while (more := f"{name}_{len(every)}") in there:
            every.append((there[more], more))
        if len(every) > 1:
            tokens_of[number] = tuple(every)
    return tokens_of


def read_words(
    folder: Path, wanted: Sequence[str], vocab: int, reader: Callable[[Path], tuple[Any, str]]
) -> tuple[Any, int]:
    """The tokenizer that ``reader`` reads from a folder, without padding and truncation, and its padding id.

    ``wanted`` are alternative sets of files ("vocab.json + merges.txt"). Raises WeightsError if they are missing,
    damaged, or have ids beyond the text encoder's ``vocab``.
    """
    if not any(all((folder / name).is_file() for name in names.split(" + ")) for names in wanted):
        listed = " / ".join(wanted)
        raise WeightsError("no tokenizer in {folder}: expected {listed}", folder=folder, listed=listed)
    try:
        words, pad = reader(folder)
    except WeightsError:
        raise
    except Exception as error:  # tokenizers raises plain Exception
        raise WeightsError("cannot read the tokenizer of {folder}: {error}", folder=folder, error=error) from None
    words.no_padding()
    words.no_truncation()
    largest = max(words.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= vocab:
        raise WeightsError(
            "the tokenizer of {folder} counts up to {largest}, the text encoder has {vocab} words; they do not "
            "belong together",
            folder=folder,
            largest=largest,
            vocab=vocab,
        )
    number = words.token_to_id(pad)
    if number is None:
        raise WeightsError("the tokenizer of {folder} has no {pad}", folder=folder, pad=pad)
    return words, number


def write_words(folder: Path, words: Any, pad: int, cls: str, length: int) -> None:
    """Writes a tokenizer for transformers' class of that name: tokenizer.json, and its padding token."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"tokenizer_class": cls, "model_max_length": length, "pad_token": known(words).id_to_token(pad)}
    write_whole(folder / TOKENIZER_FILE, words.to_str().encode())
    write_whole(folder / SETTINGS_FILE, json.dumps(settings, indent=1, ensure_ascii=False).encode())


def known(words: Any) -> Any:
    """A text encoder's tokenizer. Raises WeightsError if it has none yet."""
    if words is None:
        raise WeightsError("the text encoder has no tokenizer yet")
    return words


def published_words() -> WeightsError:
    """The error for training a text encoder without the tokenizer that belongs to it."""
    return WeightsError(
        "the tokenizer of this text encoder is published with its weights; put its files (vocab.txt, "
        "tokenizer.json ...) into words.0 of the run's folder"
    )


def word_pieces(folder: Path) -> tuple[Any, str]:
    """BERT's tokenizer from a tokenizer.json or a vocab.txt, lower-casing unless its config says otherwise; [PAD]."""
    from tokenizers import Tokenizer
    from tokenizers.implementations import BertWordPieceTokenizer

    if (folder / TOKENIZER_FILE).is_file():
        return Tokenizer.from_file(str(folder / TOKENIZER_FILE)), "[PAD]"
    config = folder / SETTINGS_FILE
    settings: dict[str, Any] = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    lower = bool(settings.get("do_lower_case", True))
    vocab = str(folder / VOCAB_FILE)
    # As in BertTokenizer: accents follow the case unless strip_accents is set.
    made = BertWordPieceTokenizer(
        vocab,
        lowercase=lower,
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
    )
    # The plain tokenizer, as from a tokenizer.json.
    return made._tokenizer, "[PAD]"  # pyright: ignore[reportPrivateUsage]


def marked(words: Any, marks: tuple[int, int]) -> Any:
    """A WordPiece tokenizer that begins and ends a text with other ids than its own, such as CLIP's."""
    from tokenizers.processors import TemplateProcessing

    # The names only represent the ids; they need not be in the vocabulary.
    words.post_processor = TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", marks[0]), ("<end>", marks[1])]
    )
    return words


def byte_pairs(folder: Path) -> tuple[Any, str]:
    """CLIP's tokenizer from a CLIPTokenizer's files, and its padding token."""
    from tokenizers import Tokenizer
    from transformers import CLIPTokenizer

    read: Any = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    return Tokenizer.from_str(read.backend_tokenizer.to_str()), str(read.pad_token)


def sentence_pieces(folder: Path) -> tuple[Any, str]:
    """XLM-RoBERTa's tokenizer from a tokenizer.json or a sentencepiece.bpe.model; <pad>.

    Four special tokens come first and <mask> last, so that a piece's id is that of the file plus one.
    """
    from tokenizers import Tokenizer
    from transformers import XLMRobertaTokenizer

    if (folder / TOKENIZER_FILE).is_file():
        return Tokenizer.from_file(str(folder / TOKENIZER_FILE)), "<pad>"
    pieces, charsmap = read_model((folder / MODEL_FILE).read_bytes())
    marks = [(mark, 0.0) for mark in ("<s>", "<pad>", "</s>", "<unk>")]
    settings: dict[str, Any] = {"_spm_precompiled_charsmap": charsmap or None}
    read: Any = XLMRobertaTokenizer(vocab=[*marks, *pieces[3:], ("<mask>", 0.0)], **settings)
    return Tokenizer.from_str(read.backend_tokenizer.to_str()), "<pad>"


def read_model(data: bytes) -> tuple[list[tuple[str, float]], bytes]:
    """Pieces with their scores and the table of characters of a SentencePiece model file (arXiv:1808.06226).

    Such a file is a protocol buffer: in field 1 a piece each (1: text, 2: score), in field 3 the normaliser (2: table).
    """
    import struct

    pieces: list[tuple[str, float]] = []
    charsmap = b""
    for number, value in fields(data):
        if number == 1:
            inside = dict(fields(value))
            pieces.append((inside[1].decode(), struct.unpack("<f", inside.get(2, bytes(4)))[0]))
        elif number == 3:
            charsmap = dict(fields(value)).get(2, b"")
    return pieces, charsmap


def fields(data: bytes) -> list[tuple[int, bytes]]:
    """Numbers and contents of a protocol buffer's fields; the content of an integer are its raw bytes."""
    contents: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        key, at = whole(data, at)
        kind = key & 7
        if kind == 0:
            size = whole(data, at)[1] - at
        elif kind == 2:
            size, at = whole(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(data):
            raise ValueError("truncated")
        contents.append((key >> 3, data[at : at + size]))
        at += size
    return contents


def whole(data: bytes, at: int) -> tuple[int, int]:
    """A varint, and the offset after it."""
    value = shift = 0
    while True:
        if at >= len(data):
            raise ValueError("truncated")
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at
