"""Prompt weighting: moves the tokens of emphasised words away from those of the empty prompt, or towards them."""

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

#: Encodings of prompts by every text encoder, and warnings about them.
Encoded = tuple[tuple[TextEncoding, ...], tuple[str, ...]]


class EncodingCache:
    """Caches the last ``most`` encoded sets of prompts, so that a prompt with another seed or other steps is not
    encoded again. Only valid while a system's weights and tokenizers do not change.
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
        """As the function of this name; warnings keep the language in which they were made."""
        key = (tuple(prompts), skip, chunked, language(), tuple(map(fingerprint, pictures)))
        if key in self._known:
            self.hits += 1
            self._known.move_to_end(key)
            return self._known[key]
        encodings = encoded(system, prompts, skip, chunked, pictures)
        self._known[key] = encodings
        while len(self._known) > self.most:
            self._known.popitem(last=False)
        return encodings


def chunked(system: System, request: Request) -> bool:
    """Whether a system reads a prompt in chunks: its UNet attends to any number of tokens, and each of its text
    encoders can be called on chunks. Raises RequestError if the request demands chunks and the system has none.
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
    """Encodes prompts by every text encoder, applies their weights, and returns warnings. ``skip`` and ``pictures`` are
    as in ``System.encode``; ``chunked`` prompts are read chunk by chunk.

    z' = e + w (z - e) for the tokens of weighted words, where e are those of the empty prompt at the same positions, as
    in ComfyUI. (AUTOMATIC1111 scales z and restores the mean of the text: a BERT ends with a norm, its mean is near
    zero, and the ratio of two such means is arbitrary.) Pooled outputs are unchanged. A text encoder whose tokens do
    not correspond to the text (a chat template, a single vector) ignores weights, with a warning.
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
    """Concatenates the chunks of each prompt for every text encoder; shorter prompts are padded with empty chunks, as
    in AUTOMATIC1111. The pooled output is that of the first chunk.
    """
    pieces = [[chunks(prompt, encoder.budget) for prompt in prompts] for encoder in system.text_encoders]
    most = max(len(one) for every in pieces for one in every)
    encodings: list[TextEncoding] = []
    for index, every in enumerate(pieces):
        rows = [one for own in every for one in (*own, *[Emphasis("")] * (most - len(own)))]
        encoder = system.text_encoders[index]
        texts = [*(one.text for one in rows), ""]
        plain = cast_encoding(encoder.encode(texts, skip if encoder.skippable else 0), torch.float32)
        encoding, _ = _weighed(encoder, rows, plain)
        mask, pooled = encoding.mask, encoding.pooled
        encodings.append(
            TextEncoding(
                encoding.tokens.reshape(len(prompts), -1, encoding.tokens.shape[2]),
                None if mask is None else mask.reshape(len(prompts), -1),
                None if pooled is None else pooled[::most],
            )
        )
    return tuple(encodings), ()


def _weighed(encoder: TextEncoder, prompts: Sequence[Emphasis], plain: TextEncoding) -> tuple[TextEncoding, bool]:
    """The weighted encoding of the prompts, without the last row, which is the empty prompt; and whether weights could
    be applied.
    """
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
            # The number of tokens up to a character gives the tokens at which a word begins and ends.
            first, last = (encoder.budget(prompt.text[:place]).used - marks + encoder.begins for place in (start, end))
            weights[row, first:last] *= weight
    return replace(rest, tokens=torch.lerp(empty, rest.tokens, weights)), True
