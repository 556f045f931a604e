"""CLIP as in its authors' code: its tensors with transformers' names, its merges as a tokenizer's files."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from bimo.core.errors import WeightsError

#: The number of CLIP's merges: its vocabulary without bytes, bytes that end a word, and two special tokens.
MERGES = 49152 - 256 - 2

#: Names of CLIP's own code within a transformer block, and transformers' names.
_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.out_proj",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
}
_TEXT = {"token_embedding": "embeddings.token_embedding", "norm": "final_layer_norm"}
_IMAGE = {"patch_embedding": "embeddings.patch_embedding", "pre_norm": "pre_layrnorm", "post_norm": "post_layernorm"}


def transformers_names(name: str, value: Tensor, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """A tensor of CLIP's own code with transformers' names: three for fused queries, keys and values."""
    encoder, _, rest = name.partition(".")
    text = encoder == "textual"
    inside = prefix if text else f"{prefix}vision_model."
    stem, _, last = rest.rpartition(".")
    if rest == "head":
        yield ("text.0.projection.weight" if text else f"{prefix}visual_projection.weight"), value.T.contiguous()
    elif rest == "pos_embedding":
        yield f"{inside}embeddings.position_embedding.weight", value[0]
    elif rest == "cls_embedding":
        yield f"{inside}embeddings.class_embedding", value[0, 0]
    elif found := re.fullmatch(r"transformer\.(\d+)\.(.+)", stem):
        layer = f"{inside}encoder.layers.{found[1]}."
        if found[2] == "attn.to_qkv":
            for which, part in zip("qkv", value.chunk(3), strict=True):
                yield f"{layer}self_attn.{which}_proj.{last}", part
        else:
            yield f"{layer}{_BLOCK.get(found[2], found[2])}.{last}", value
    else:
        yield f"{inside}{(_TEXT if text else _IMAGE).get(stem, stem)}.{last}", value


def write_pairs(file: Path, folder: Path) -> None:
    """Writes vocab.json and merges.txt from CLIP's list of merges. Raises WeightsError if it cannot be read."""
    try:
        lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")
    except (OSError, EOFError, UnicodeDecodeError, gzip.BadGzipFile) as error:
        raise WeightsError("cannot read the words {file}: {error}", file=file, error=error) from None
    merges = [line for line in lines[1 : MERGES + 1] if line]
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in shown] + [chr(256 + i) for i in range(256 - len(shown))]
    joined = [merge.replace(" ", "") for merge in merges]
    words = [*letters, *(f"{c}</w>" for c in letters), *joined, "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
