"""Extends a CLIP text encoder by words and positions, so that a character is one token and long sentences fit
(Taiyi-XL, arXiv:2401.14688).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from bimo.core.errors import RecipeError
from bimo.diffusion.system import System
from bimo.models.text_encoders import tokenization
from bimo.models.text_encoders.bert import HAN
from bimo.models.text_encoders.clip import ClipTextEncoder

_HAN = re.compile(f"[{HAN}]")


def extend(system: System, words: Sequence[str], positions: int, length: int) -> list[int]:
    """Extends every text encoder of a system as ``extended``, and its recipe; returns the number of words that are new
    to each: existing tokens stay. Raises RecipeError for a text encoder that is no CLIP.
    """
    counts: list[int] = []
    for index, encoder in enumerate(system.text_encoders):
        if not isinstance(encoder, ClipTextEncoder):
            kind = type(encoder).__name__
            raise RecipeError(
                "text encoder {index} is a {kind}; words and positions are added to CLIP's text encoders alone",
                index=index + 1,
                kind=kind,
            )
        there = tokenization.known(encoder.tokenizer).get_vocab(with_added_tokens=True)
        new = [word for word in dict.fromkeys(words) if word not in there]
        grown = extended(encoder, new, max(positions, encoder.part.positions), length or encoder.part.length)
        system.text[index] = grown
        encoders = (*system.recipe.text_encoders[:index], grown.part, *system.recipe.text_encoders[index + 1 :])
        system.recipe = replace(system.recipe, text_encoders=encoders)
        counts.append(len(new))
    return counts


def characters(captions: Iterable[str], most: int) -> list[str]:
    """The most frequent Chinese characters of some captions, in order, up to a number."""
    counts = Counter(character for caption in captions for character in _HAN.findall(caption))
    return [character for character, _ in counts.most_common(most)]


def extended(encoder: ClipTextEncoder, words: Sequence[str], positions: int, length: int) -> ClipTextEncoder:
    """A copy of a text encoder with ``words`` as new tokens after the existing ones, and with ``positions``, of which a
    text may use ``length``.

    A new word is initialised with the mean of its former tokens; existing words and positions stay, so that a text
    without new words has the same encoding. New positions are initialised with the last one. Raises RecipeError for
    existing words, and if the tokenizer has fewer words than the text encoder.
    """
    from tokenizers import AddedToken, Tokenizer

    old = tokenization.known(encoder.tokenizer)
    there = old.get_vocab(with_added_tokens=True)
    twice = [word for word in words if word in there] or [w for i, w in enumerate(words) if w in words[:i]]
    if twice:
        listed = ", ".join(map(repr, twice[:6]))
        raise RecipeError("these are one token already, not to be added: {listed}", listed=listed)
    part = encoder.part
    if len(there) != part.vocab or positions < part.positions:
        raise RecipeError(
            "the text encoder has {vocab} words and {positions} positions, the tokenizer {count} words, and "
            "{positions_2} positions are asked for: words must match one to one, positions can only become "
            "more",
            vocab=part.vocab,
            positions=part.positions,
            count=len(there),
            positions_2=positions,
        )
    extended_encoder = ClipTextEncoder(replace(part, vocab=part.vocab + len(words), positions=positions, length=length))
    extended_encoder.tokenizer = Tokenizer.from_str(old.to_str())
    extended_encoder.tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    extended_encoder.pad = encoder.pad
    state = dict(encoder.state_dict())
    tokens, places = "model.embeddings.token_embedding.weight", "model.embeddings.position_embedding.weight"
    rows = state[tokens]
    means = [rows[old.encode(word, add_special_tokens=False).ids].mean(dim=0) for word in words]
    state[tokens] = torch.cat([rows, *(mean[None] for mean in means)])
    state[places] = torch.cat([state[places], state[places][-1:].expand(positions - part.positions, -1)])
    extended_encoder.load_state_dict(state)
    return extended_encoder.train(encoder.training)
