"""Words that count more or less: the tokens of an emphasis move away from those of the empty prompt, or nearer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from bimo.core.errors import RequestError
from bimo.core.messages import language, say
from bimo.core.request import Request, fingerprint
from bimo.core.tensors import TextEncoding
from bimo.diffusion.casting import cast_encoding
from bimo.diffusion.denoiser import DenoiserWrapper, ShortcutDenoiser
from bimo.diffusion.system import System
from bimo.diffusion.text_encoder import TextEncoder
from bimo.prompts.chunks import chunks
from bimo.prompts.weighting import Emphasis

if TYPE_CHECKING:
    from PIL import Image

#: Prompts through every text encoder, and the warnings about them.
Encoded = tuple[tuple[TextEncoding, ...], tuple[str, ...]]


class EncodingCache:
    """Remembers the last ``most`` sets of prompts as they were encoded: a prompt drawn again with another seed, or
    with other steps, asks no text encoder. Only for a system whose weights and words stay as they are.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.hits = 0
        self._known: OrderedDict[tuple[tuple[Emphasis, ...], int, bool, str, tuple[str, ...]], Encoded] = OrderedDict()

    def encoded(
        self,
        system: System,
        prompts: Sequence[Emphasis],
        skip: int = 0,
        chunked: bool = False,
        pictures: Sequence[Image.Image] = (),
    ) -> Encoded:
        """As the function of this name; warnings are in the language of then."""
        key = (tuple(prompts), skip, chunked, language(), tuple(map(fingerprint, pictures)))
        if key in self._known:
            self.hits += 1
            self._known.move_to_end(key)
            return self._known[key]
        found = encoded(system, prompts, skip, chunked, pictures)
        self._known[key] = found
        while len(self._known) > self.most:
            self._known.popitem(last=False)
        return found


def chunked(system: System, request: Request) -> bool:
    """Whether a system reads a prompt in chunks: a UNet attends to any number of words, and each of its text encoders
    takes them in pieces. Raises RequestError where the request asks for chunks and it does not.
    """
    denoiser = system.level(system.recipe.levels[-1].name).denoiser
    while isinstance(denoiser, DenoiserWrapper):
        denoiser = denoiser.denoiser
    can = isinstance(denoiser, ShortcutDenoiser) and all(encoder.chunkable for encoder in system.text_encoders)
    if request.long_prompt == "chunks" and not can:
        limits = ", ".join(str(encoder.budget("").limit) for encoder in system.text_encoders)
        raise RequestError(
            "{name} cannot read a prompt in chunks, as it reads {limits} tokens at once; leave long_prompt out",
            name=system.recipe.name,
            limits=limits,
        )
    return can


def encoded(
    system: System,
    prompts: Sequence[Emphasis],
    skip: int = 0,
    chunked: bool = False,
    pictures: Sequence[Image.Image] = (),
) -> Encoded:
    """The prompts through every text encoder, as they are emphasised, and warnings about it. ``skip`` and ``pictures``
    are as in ``System.encode``; ``chunked`` prompts are read chunk by chunk.

    z' = e + w (z - e) for the tokens of the words, e those of the empty prompt at the same places, as ComfyUI
    weighs. (AUTOMATIC1111 scales z and gives the text its old mean back: a BERT ends with a norm, its mean is
    next to zero, and the quotient of two such means may be anything.) What is pooled stays. A text encoder whose tokens
    do not stand where the text's do (a chat around it, one vector of it) reads the words plain, with a warning.
    """
    if chunked:
        return _in_chunks(system, prompts, skip)
    texts = [prompt.text for prompt in prompts]
    if not any(prompt.spans for prompt in prompts):
        return system.encode(texts, skip, pictures), ()
    plain = system.encode([*texts, ""], skip, pictures)
    every = [_weighed(encoder, prompts, e) for encoder, e in zip(system.text_encoders, plain, strict=True)]
    encodings = tuple(encoding for encoding, _ in every)
    weighted = [weighed for _, weighed in every]
    if all(weighted):
        return encodings, ()
    some = say("one text encoder of this system cannot weigh words and reads them plain")
    none = say("the text encoder of this system cannot weigh words: (word:1.3) changed nothing")
    return encodings, (some if any(weighted) else none,)


def _in_chunks(system: System, prompts: Sequence[Emphasis], skip: int) -> Encoded:
    """The chunks of each prompt through every text encoder, side by side; shorter prompts have empty chunks at their
    end, as AUTOMATIC1111 pads one to the length of another. What is pooled is the first chunk's.
    """
    pieces = [[chunks(prompt, encoder.budget) for prompt in prompts] for encoder in system.text_encoders]
    most = max(len(one) for every in pieces for one in every)
    found: list[TextEncoding] = []
    for index, every in enumerate(pieces):
        rows = [one for own in every for one in (*own, *[Emphasis("")] * (most - len(own)))]
        encoder = system.text_encoders[index]
        texts = [*(one.text for one in rows), ""]
        plain = cast_encoding(encoder.encode(texts, skip if encoder.skippable else 0), torch.float32)
        answer, _ = _weighed(encoder, rows, plain)
        mask, pooled = answer.mask, answer.pooled
        found.append(
            TextEncoding(
                answer.tokens.reshape(len(prompts), -1, answer.tokens.shape[2]),
                None if mask is None else mask.reshape(len(prompts), -1),
                None if pooled is None else pooled[::most],
            )
        )
    return tuple(found), ()


def _weighed(encoder: TextEncoder, prompts: Sequence[Emphasis], plain: TextEncoding) -> tuple[TextEncoding, bool]:
    """The encoding of the prompts, without the empty one that is its last row, and whether they could be weighed."""
    count = len(prompts)
    mask, pooled = plain.mask, plain.pooled
    rest = replace(
        plain,
        tokens=plain.tokens[:count],
        mask=None if mask is None else mask[:count],
        pooled=None if pooled is None else pooled[:count],
    )
    if encoder.begins is None:
        return rest, False
    empty = plain.tokens[count:]
    weights = torch.ones(*rest.tokens.shape[:2], 1, dtype=empty.dtype, device=empty.device)
    marks = encoder.budget("").used
    for row, prompt in enumerate(prompts):
        for start, end, weight in prompt.spans:
            # How many tokens the text has up to a place, and so at which of them a word begins and ends.
            first, last = (encoder.budget(prompt.text[:place]).used - marks + encoder.begins for place in (start, end))
            weights[row, first:last] *= weight
    return replace(rest, tokens=torch.lerp(empty, rest.tokens, weights)), True
