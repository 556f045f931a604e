"""Converts SentencePiece BPE model files (arXiv:1808.06226, arXiv:1508.07909) to a tokenizer."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bimo.core.errors import WeightsError
from bimo.core.messages import say
from bimo.models.text_encoders.tokenization import fields, whole

#: Piece types: normal, unknown, control, user-defined, unused, byte.
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)
BYTE_PAIRS = 2
SPACE = "▁"


@dataclass(frozen=True)
class Pieces:
    """The contents of a model file: pieces as (text, score, type) by id, and the normaliser."""

    pieces: tuple[tuple[str, float, int], ...]
    algorithm: int
    charsmap: bytes
    prefixed: bool
    squeezed: bool
    escaped: bool


def pieces_of(data: bytes) -> Pieces:
    """Parses a model file: a protocol buffer of pieces (1), training settings (2), a normaliser (3).

    Raises ValueError if it is damaged.
    """
    pieces: list[tuple[str, float, int]] = []
    trained: Mapping[int, bytes] = {}
    normaliser: Mapping[int, bytes] = {}
    for number, value in fields(data):
        if number == 1:
            inside = dict(fields(value))
            score: float = struct.unpack("<f", inside.get(2, bytes(4)))[0]
            pieces.append((inside[1].decode(), score, _number(inside, 3, NORMAL)))
        elif number == 2:
            trained = dict(fields(value))
        elif number == 3:
            normaliser = dict(fields(value))
    flags = (bool(_number(normaliser, field, 1)) for field in (3, 4, 5))
    return Pieces(tuple(pieces), _number(trained, 3, 1), normaliser.get(2, b""), *flags)


def tokenizer_of(path: Path) -> Any:
    """The tokenizer of a BPE model file: whole sentences, merging the pair with the best score first, with byte
    fallback. Raises WeightsError if the file is damaged or of another algorithm.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers

    try:
        model = pieces_of(path.read_bytes())
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise WeightsError("cannot read the tokenizer {path}: {error}", path=path, error=error) from None
    if model.algorithm != BYTE_PAIRS or not model.pieces or not model.escaped:
        problem = say("not of byte pairs")
        raise WeightsError(
            "{path} is {found} (model_type {algorithm}); expected model_type {byte_pairs}",
            path=path,
            found=problem,
            algorithm=model.algorithm,
            byte_pairs=BYTE_PAIRS,
        )
    table = {text: number for number, (text, _, _) in enumerate(model.pieces)}
    unknown = next((text for text, _, kind in model.pieces if kind == UNKNOWN), None)
    bytes_ = any(kind == BYTE for _, _, kind in model.pieces)
    tokenizer: Any = Tokenizer(
        models.BPE(vocab=table, merges=_merges(model, table), unk_token=unknown, fuse_unk=True, byte_fallback=bytes_)
    )
    steps: list[Any] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.squeezed:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if model.prefixed:
        steps.append(normalizers.Prepend(SPACE))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    apart = [AddedToken(text, normalized=False) for text, _, kind in model.pieces if kind == USER]
    if apart:
        tokenizer.add_tokens(apart)
    return tokenizer


def _merges(model: Pieces, table: Mapping[str, int]) -> list[tuple[str, str]]:
    """All pairs that make a piece, best score first."""
    merges: list[tuple[float, int, int, str, str]] = []
    for text, score, kind in model.pieces:
        if kind != NORMAL:
            continue
        for at in range(1, len(text)):
            left, right = text[:at], text[at:]
            if left in table and right in table:
                merges.append((-score, table[left], table[right], left, right))
    return [(left, right) for *_, left, right in sorted(merges)]


def _number(inside: Mapping[int, bytes], field: int, default: int) -> int:
    return whole(inside[field], 0)[0] if field in inside else default
