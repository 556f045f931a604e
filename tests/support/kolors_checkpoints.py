"""Tiny words and weights of Kolors: a SentencePiece model written by hand, ChatGLM3 of diffusers' own."""

from __future__ import annotations

import importlib
import json
import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

SCORED = ["红苹", "苹果", "红苹果", "re", "red", "▁red", "ca", "cat", "▁cat", "▁a", "一只", "▁一", "▁一只", "山水"]
LETTERS = [*"▁ardectoun一只红苹果山水画，"]
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
PIECES: list[tuple[str, float, int]] = [
    ("<unk>", 0.0, UNKNOWN),
    ("<s>", 0.0, CONTROL),
    ("</s>", 0.0, CONTROL),
    *((f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)),
    *((piece, -float(rank), NORMAL) for rank, piece in enumerate(SCORED)),
    *((letter, -float(len(SCORED) + rank), NORMAL) for rank, letter in enumerate(LETTERS)),
]


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def chunk(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def model_file(algorithm: int = 2, squeezed: bool = False, pieces: list[tuple[str, float, int]] = PIECES) -> bytes:
    """The bytes of a SentencePiece model."""
    body = b""
    for text, score, kind in pieces:
        inside = chunk(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score) + number(3, kind)
        body += chunk(1, inside)
    trained = number(3, algorithm) + number(4, len(pieces))
    return body + chunk(2, trained) + chunk(3, chunk(1, b"identity") + number(4, int(squeezed)))


def glm_words(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model_file())


def pieces_by_hand(text: str) -> list[str]:
    """SentencePiece's byte pairs, step by step: the neighbours whose piece scores best, the first of equals."""
    scores = {piece: score for piece, score, kind in PIECES if kind == NORMAL}
    symbols = list(("▁" + text).replace(" ", "▁")) if text else []
    while True:
        found = [(-scores[a + b], i) for i, (a, b) in enumerate(pairwise(symbols)) if a + b in scores]
        if not found:
            break
        _, at = min(found)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    return [
        piece
        for symbol in symbols
        for piece in ([symbol] if symbol in scores else [f"<0x{byte:02X}>" for byte in symbol.encode()])
    ]


class ByHand:
    """What diffusers' tokenizer asks of the library sentencepiece."""

    def __init__(self, model_file: str) -> None:
        self.places = {piece: at for at, (piece, _, _) in enumerate(PIECES)}

    def vocab_size(self) -> int:
        return len(PIECES)

    get_piece_size = vocab_size

    def unk_id(self) -> int:
        return 0

    def bos_id(self) -> int:
        return 1

    def eos_id(self) -> int:
        return 2

    def EncodeAsPieces(self, text: str) -> list[str]:
        return pieces_by_hand(text)

    def PieceToId(self, piece: str) -> int:
        return self.places[piece]

    def IdToPiece(self, place: int) -> str:
        return PIECES[place][0]


def save(folder: Path, tower: Any, unet: Any, vae: Any, scheduler: Any, name: str = "KolorsPipeline") -> None:
    """A folder in the layout of Kolors-diffusers."""
    for component, module in (("text_encoder", tower), ("unet", unet), ("vae", vae), ("scheduler", scheduler)):
        module.save_pretrained(str(folder / component))
    glm_words(folder / "tokenizer")
    index = {
        "_class_name": name,
        "force_zeros_for_empty_prompt": False,
        "scheduler": ["diffusers", type(scheduler).__name__],
        "text_encoder": ["kolors", "ChatGLMModel"],
        "tokenizer": ["kolors", "ChatGLMTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))


def module_of_diffusers(name: str) -> Any:
    """One of diffusers' modules of Kolors, which torch warns of as it is read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module(f"diffusers.pipelines.kolors.{name}")


@contextmanager
def tokenizers_of_diffusers() -> Iterator[Callable[[Path], Any]]:
    """diffusers' tokenizer of a folder, over SentencePiece done by hand."""
    theirs = module_of_diffusers("tokenizer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "is_sentencepiece_available", lambda: True)
        patch.setitem(sys.modules, "sentencepiece", SimpleNamespace(SentencePieceProcessor=ByHand))  # type: ignore[arg-type]
        yield lambda folder: theirs.ChatGLMTokenizer(str(folder / "tokenizer.model"))


def opened(folder: Path, words: Callable[[Path], Any]) -> Any:
    """diffusers' pipeline of a folder."""
    made = module_of_diffusers("pipeline_kolors").KolorsPipeline(
        vae=diffusers.AutoencoderKL.from_pretrained(str(folder / "vae")),
        text_encoder=module_of_diffusers("text_encoder").ChatGLMModel.from_pretrained(str(folder / "text_encoder")),
        tokenizer=words(folder / "tokenizer"),
        unet=diffusers.UNet2DConditionModel.from_pretrained(str(folder / "unet")),
        scheduler=diffusers.EulerDiscreteScheduler.from_pretrained(str(folder / "scheduler")),
    )
    made.set_progress_bar_config(disable=True)
    return made


def chatglm(vocab: int = 65024, **sizes: int) -> Any:
    """diffusers' ChatGLM3; at toy width unless said."""
    theirs = module_of_diffusers("text_encoder")
    config = theirs.ChatGLMConfig(
        **{
            "num_layers": 3,
            "padded_vocab_size": vocab,
            "hidden_size": 16,
            "ffn_hidden_size": 24,
            "kv_channels": 8,
            "num_attention_heads": 4,
            "multi_query_group_num": 2,
            **sizes,
        },
        add_qkv_bias=True,
        multi_query_attention=True,
        original_rope=True,
        use_cache=False,
    )
    return theirs.ChatGLMModel(config, empty_init=False)


def random(module: Any) -> Any:
    """The module with weights that matter: the class leaves some as memory was."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            draws = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * draws if "norm" in name else 0.3 * draws)
    return module.eval()
