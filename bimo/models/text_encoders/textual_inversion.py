"""Textual inversion (arXiv:2208.01618): new words of a text encoder, each with embeddings of its own.

A word with several vectors has several tokens, as in diffusers: "<cat>", "<cat>_1", "<cat>_2" ...; "<cat>" in a prompt
expands to all of them. The file format is diffusers' too: the word -> its vectors, [n, D] or [D].
"""

# torch leaves parts of its interface untyped; what crosses it here is named where it is used.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from bimo.core import checkpoint_io
from bimo.core.errors import RecipeError, WeightsError
from bimo.core.hashing import digest
from bimo.core.messages import Listed, Message
from bimo.diffusion.system import System
from bimo.models.text_encoders import tokenization
from bimo.models.text_encoders.bert import BertTextEncoder
from bimo.models.text_encoders.encoder import PublishedTextEncoder

#: How files of Stable Diffusion XL name the text encoders that their vectors are for, AUTOMATIC1111's and diffusers' ->
#: which that is.
PLACES = {"clip_l": 0, "clip_g": 1, "text_encoders_0": 0, "text_encoders_1": 1}
#: Names of vectors that are no word: the word is the file's name then.
UNNAMED = (*PLACES, "emb_params")
#: What diffusers calls the file in a folder of a word, best first.
LEARNT_FILES = ("learned_embeds.safetensors", "learned_embeds.bin")


class Learnt(nn.Module):
    """The vectors [n, D] of a word in training, next to an embedding table: those of the ids from ``first`` on, for
    which the table has no rows, or unused ones.
    """

    def __init__(self, vectors: Tensor, first: int, before: Any) -> None:
        super().__init__()
        self.before = before  # the tokenizer without the word
        self.vectors = nn.Parameter(vectors)
        self.first = first
        self.asked: Tensor | None = None

    def forward(self, output: Tensor) -> Tensor:
        """The table's output [B, L, D], with the word's own vectors at its tokens."""
        assert self.asked is not None
        place = self.asked - self.first
        own = (place >= 0) & (place < len(self.vectors))
        return torch.where(own[..., None], self.vectors[place.clamp(0, len(self.vectors) - 1)].to(output), output)


def _learnt(table: nn.Module) -> Learnt | None:
    return cast("Learnt | None", table._modules.get("learnt"))  # pyright: ignore[reportPrivateUsage]


def _record_ids(table: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    learnt = _learnt(table)
    if learnt is None:
        return None
    learnt.asked = inputs[0]
    return (inputs[0].clamp(max=cast(nn.Embedding, table).num_embeddings - 1), *inputs[1:])


def _insert_vectors(table: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    learnt = _learnt(table)
    return output if learnt is None else learnt(output)


def begin_word(text_encoder: Any, token: str, initial: str, count: int) -> str:
    """Adds a trainable word of ``count`` vectors to a text encoder, initialised with the words ``initial``: in turn if
    they are fewer, as means if they are more; returns the path of its parameter in the text encoder. The embedding
    table is unchanged.

    Raises RecipeError for a text encoder that does not support it, an existing word, and unknown initial words.
    """
    table = table_of(text_encoder)
    marks = set(text_encoder.tokens("").ids)
    initial_ids = [number for number in text_encoder.tokens(initial).ids if number not in marks]
    unknown = text_encoder.tokenizer.token_to_id("[UNK]")
    if not initial_ids or unknown in initial_ids:
        raise RecipeError(
            "the text encoder does not know {initial!r} of initial; write words that it knows", initial=initial
        )
    rows = table.weight.detach()[initial_ids]
    parts = rows.tensor_split(count) if len(rows) > count else [rows[i % len(rows)][None] for i in range(count)]
    before = text_encoder.tokenizer
    learnt = Learnt(torch.stack([part.mean(0) for part in parts]), _named(text_encoder, token, count), before)
    learnt.to(table.weight.device)
    table.add_module("learnt", learnt)
    # The hooks stay afterwards, where they do nothing.
    if _insert_vectors not in table._forward_hooks.values():  # pyright: ignore[reportPrivateUsage]
        table.register_forward_pre_hook(cast(Any, _record_ids))
        table.register_forward_hook(cast(Any, _insert_vectors))
    path = next(name for name, module in text_encoder.named_modules() if module is learnt)
    return f"{path}.vectors"


def end_word(text_encoder: Any) -> None:
    """Removes the word in training from a text encoder."""
    table: Any = table_of(text_encoder)
    _known_by(text_encoder, table.learnt.before)
    del table.learnt


def vectors_of(text_encoder: Any) -> Tensor:
    """The vectors of the word in training, [n, D]."""
    learnt: Any = table_of(text_encoder)
    return cast(Tensor, learnt.learnt.vectors).detach().clone()


def save_word(path: Path, token: str, vectors: Tensor) -> None:
    """Writes a word in diffusers' format, then reads it back and compares. Raises WeightsError."""
    checkpoint_io.write(path, {token: vectors})
    if not torch.equal(checkpoint_io.read(path)[token], vectors.cpu()):
        raise WeightsError("{path} reads back otherwise", path=path)


def untaught(system: System) -> Callable[[], None]:
    """A function that restores the current tokenizers, embedding tables and recipe of a system."""
    encoders = [each for each in system.text_encoders if isinstance(each, PublishedTextEncoder)]
    known = {id(each): each.known for each in encoders if isinstance(each, BertTextEncoder)}
    before = [(each, each.tokenizer, each.part, _tables(each)) for each in encoders]
    recipe, hashed = system.recipe, system.hashed

    def restore() -> None:
        for encoder, tokenizer, part, tables in before:
            encoder.tokenizer, encoder.part = tokenizer, part
            if isinstance(encoder, BertTextEncoder):
                encoder.known = known[id(encoder)]
            for path, table in tables:
                _put_at(encoder, path, table)
        system.recipe, system.hashed = recipe, hashed

    return restore


def _tables(encoder: nn.Module) -> list[tuple[str, nn.Embedding]]:
    """Every table by each of its paths: T5 has two for that of its tokens."""
    named = encoder.named_modules(remove_duplicate=False)
    return [(path, module) for path, module in named if isinstance(module, nn.Embedding)]


def _put_at(encoder: nn.Module, path: str, table: nn.Embedding) -> None:
    above, _, name = path.rpartition(".")
    encoder.get_submodule(above).add_module(name, table)


def teach(system: System, path: Path | str, token: str = "") -> list[str]:
    """Adds the words of a file to a system's text encoders, each to the one with matching width; returns the words.

    Files are diffusers' (or its folder), AUTOMATIC1111's, CompVis' and Stable Diffusion XL's, whose names distinguish
    text encoders of one width. ``token`` replaces the name of the file's only word; the default is the file's own
    name for it or, without one, the file name. LoRAs are merged after words are added. Raises WeightsError for vectors
    that fit no text encoder or several, RecipeError for an existing word.
    """
    file = _file_of(Path(path))
    state, named = _words_of(file, token)
    if token and len(set(named.values())) > 1:
        listed = ", ".join(sorted(set(named.values()))[:6])
        raise WeightsError(
            "{file} has several words ({listed}), which cannot all be called {token!r}",
            file=file,
            listed=listed,
            token=token,
        )
    named = dict.fromkeys(named, token) if token else named
    # 8-bit dtypes do not support this check.
    broken = [name for name, value in state.items() if not bool(value.float().isfinite().all())]
    if broken:
        raise WeightsError(
            "{broken} of {file} has NaN or infinite numbers; use another file", broken=", ".join(broken), file=file
        )
    if void := [named[name] for name, value in state.items() if not value.numel()]:
        raise WeightsError("{file} has no vectors for {words}; use another file", file=file, words=Listed(void))
    fitting = [(named[name], value, *_text_encoder_for(system, file, name, value)) for name, value in state.items()]
    for word, value, index, text_encoder in fitting:
        vectors = value if value.ndim == 2 else value[None]
        _put(system, index, text_encoder, word, vectors)
    base, content = system.hashed, digest(file)
    system.weights_hash = lambda: hashlib.sha256(f"{base()}\n{content} {token}".encode()).hexdigest()
    return list(dict.fromkeys(named.values()))


def _file_of(path: Path) -> Path:
    """The file of a word, with diffusers' name in a folder. Raises WeightsError for a folder without one."""
    if not path.is_dir():
        return path
    file = next((path / name for name in LEARNT_FILES if (path / name).is_file()), None)
    if file is None:
        raise WeightsError(
            "no embedding in the folder {path}: expected {wanted}; name the file",
            path=path,
            wanted=Listed(LEARNT_FILES, "or"),
        )
    return file


def _words_of(file: Path, token: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The vectors of a file by their names in it, and their words.

    AUTOMATIC1111's and CompVis' are below ``string_to_param``, "*" for a word with the name in the file (``name``) or
    the file name; a lone tensor likewise.
    """
    contents = checkpoint_io.contents(file)
    if isinstance(contents, Tensor):
        return {file.name: contents}, {file.name: token or file.stem}
    table = cast("dict[Any, Any]", contents) if isinstance(contents, dict) else {}
    below = table.get("string_to_param")
    if isinstance(below, dict):
        own = cast("dict[Any, Any]", below)
        state = {str(key): value.detach() for key, value in own.items() if isinstance(value, Tensor)}
        if not state:
            raise WeightsError("string_to_param of {file} holds no tensor", file=file)
        word = str(table.get("name") or file.stem)
        return state, {name: token or word if name == "*" else name for name in state}
    state = checkpoint_io.read(file)
    return state, {name: token or file.stem if name in UNNAMED else name for name in state}


def table_of(text_encoder: Any) -> nn.Embedding:
    """The embedding table of a text encoder. Raises RecipeError for a text encoder that does not support new words."""
    if isinstance(text_encoder, PublishedTextEncoder) and text_encoder.teachable:
        vocab: int = cast(Any, text_encoder).part.vocab
        tables = [m for m in text_encoder.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == vocab]
        if len(tables) == 1:
            return tables[0]
    kind = type(text_encoder).__name__
    raise RecipeError("a {kind} cannot be taught a word; text encoders of CLIP, BERT, XLM-R and T5 can", kind=kind)


def _text_encoder_for(system: System, file: Path, name: str, value: Tensor) -> tuple[int, Any]:
    """The text encoder with the width of the vectors, of several the one for their ``name`` in the file."""
    able = [
        (index, text_encoder)
        for index, text_encoder in enumerate(system.text_encoders)
        if isinstance(text_encoder, PublishedTextEncoder) and text_encoder.teachable
    ]
    widths = [table_of(text_encoder).embedding_dim for _, text_encoder in able]
    fits = [
        place for place, width in zip(able, widths, strict=True) if value.ndim in (1, 2) and value.shape[-1] == width
    ]
    if len(fits) > 1 and name in PLACES:
        fits = [place for place in fits if place[0] == PLACES[name]]
    if len(fits) != 1 or not value.is_floating_point():
        raise WeightsError(
            "the vectors of {file} are {shape}, while the text encoders of {name} that can be taught words are "
            "{widths} wide: one of them, and no other, must be as wide",
            file=file,
            shape=tuple(value.shape),
            name=system.recipe.name,
            widths=Listed(widths or [0]),
        )
    return fits[0]


def _put(system: System, index: int, text_encoder: Any, token: str, vectors: Tensor) -> None:
    """Adds a word's rows to a text encoder's table, which grows if needed, and to its recipe."""
    old = table_of(text_encoder)
    first = _named(text_encoder, token, len(vectors))
    rows = max(old.num_embeddings, first + len(vectors))
    new = nn.Embedding(rows, old.embedding_dim, old.padding_idx, device=old.weight.device, dtype=old.weight.dtype)
    with torch.no_grad():
        new.weight[: old.num_embeddings] = old.weight
        new.weight[first : first + len(vectors)] = vectors.to(old.weight)
    new.weight.requires_grad_(old.weight.requires_grad)
    for path, table in _tables(text_encoder):
        if table is old:
            _put_at(text_encoder, path, new.train(old.training))
    text_encoder.part = replace(text_encoder.part, vocab=rows)
    text = (*system.recipe.text_encoders[:index], text_encoder.part, *system.recipe.text_encoders[index + 1 :])
    system.recipe = replace(system.recipe, text_encoders=text)


def _named(text_encoder: Any, token: str, count: int) -> int:
    """Adds a word with this number of vectors to a text encoder's tokenizer; returns the id of the first, which the
    others follow.

    Raises RecipeError for an existing word, and for one that is not a single word.
    """
    from tokenizers import AddedToken, Tokenizer

    old = tokenization.known(text_encoder.tokenizer)
    tokens = [token, *(f"{token}_{number}" for number in range(1, count))]
    there = [name for name in tokens if name in old.get_vocab(with_added_tokens=True)]
    other = "-".join(token.strip("<> ").split())
    if there or not token or any(c.isspace() for c in token):
        listed = ", ".join(map(repr, there)) or repr(token)
        raise RecipeError(
            "{listed} cannot be a new word: it is one already, or has spaces; take another, for instance <{other}>",
            listed=listed,
            other=other or Message("duck"),
        )
    words = Tokenizer.from_str(old.to_str())
    used_ids = set(words.get_vocab(with_added_tokens=True).values())
    words.add_tokens([AddedToken(name, normalized=False) for name in tokens])
    if used_ids & {words.token_to_id(name) for name in tokens}:
        raise RecipeError(
            "the tokenizer's numbers have gaps, so that a new word would have another one's; take a vocabulary without"
        )
    _known_by(text_encoder, words)
    return cast(int, words.token_to_id(token))


def _known_by(text_encoder: Any, words: Any) -> None:
    before: Mapping[str, int] = text_encoder.tokenizer.get_vocab(with_added_tokens=True)
    now: Mapping[str, int] = words.get_vocab(with_added_tokens=True)
    text_encoder.tokenizer = words
    if isinstance(text_encoder, BertTextEncoder):  # the known words of a lexicon, which warns about all others
        text_encoder.known = (text_encoder.known | (now.keys() - before.keys())) - (before.keys() - now.keys())
