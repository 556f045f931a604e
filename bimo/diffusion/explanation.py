"""How a system reads a prompt: chunks, tokens and weights of each text encoder, protected, lost and unknown text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bimo.core.request import Request
from bimo.diffusion import image_to_image
from bimo.diffusion.prompt_texts import over_steps, parsed, texts_of
from bimo.diffusion.request_filling import FilledRequest, fill_request
from bimo.diffusion.system import System
from bimo.diffusion.text_encoder import TextEncoder
from bimo.prompts.a1111 import LoraTag, schedule
from bimo.prompts.chunks import chunks
from bimo.prompts.quoted_text import quoted
from bimo.prompts.weighting import Emphasis


@dataclass(frozen=True)
class Token:
    """A token: its id, its text, its weight, and whether the encoder never learned it."""

    number: int
    text: str
    weight: float
    unknown: bool


@dataclass(frozen=True)
class EncoderReading:
    """The tokens of one text encoder by chunk, the capacity of a chunk, the text that is lost, and unknown words."""

    encoder: str
    room: int
    chunks: tuple[tuple[Token, ...], ...]
    lost: str = ""
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptReading:
    """The text in effect up to a step, for one of the prompts joined by AND."""

    until: int
    joined: float
    text: str
    readings: tuple[EncoderReading, ...]


@dataclass(frozen=True)
class Explanation:
    """The reading of a prompt; ``protected`` are the texts in quotation marks. ``draft`` is the share of the steps
    drawn over a draft by program, which may show words that the model never learned (``whole``).
    """

    prompt: str
    negative: str
    steps: int
    protected: tuple[str, ...]
    loras: tuple[LoraTag, ...]
    prompts: tuple[PromptReading, ...]
    draft: float = 0.0
    whole: bool = False


def explained(system: System, request: Request | Mapping[str, object] | FilledRequest) -> Explanation:
    """Explains how a system reads a request's prompt. Raises RequestError if it cannot be drawn."""
    full = fill_request(system, request).request
    texts = texts_of(system, full)
    steps = image_to_image.steps_taken(full, full.steps or 1)
    _, distinct = over_steps(texts.by_role, steps)
    reading = parsed(system, full, distinct)
    as_read = dict(zip(distinct, reading.prompts, strict=True))
    prompts: list[PromptReading] = []
    for text, weight in zip(texts.prompts, texts.weights, strict=False):  # those of regions come after
        for until, now in schedule(text, steps):
            prompt = as_read[now]
            readings = tuple(_reading(encoder, prompt, reading.in_chunks) for encoder in system.text_encoders)
            prompts.append(PromptReading(until, weight, prompt.text, readings))
    return Explanation(
        prompt=full.text,
        negative=texts.negative,
        steps=steps,
        protected=quoted(full.text),
        loras=texts.loras,
        prompts=tuple(prompts),
        draft=full.draft or 0.0,
        whole=image_to_image.drawn_over(system, full) is not None,
    )


def _reading(encoder: TextEncoder, prompt: Emphasis, chunked: bool) -> EncoderReading:
    budget = encoder.budget(prompt.text)
    unknown = (*budget.unknown, *budget.unread)
    lost = "" if chunked else budget.lost
    parts: Sequence[Emphasis] = (
        chunks(prompt, encoder.budget) if chunked else (prompt.part(0, len(prompt.text) - len(lost)),)
    )
    return EncoderReading(
        type(encoder).__name__, budget.limit, tuple(_tokens(encoder, part, unknown) for part in parts), lost, unknown
    )


def _tokens(encoder: TextEncoder, prompt: Emphasis, unknown: Sequence[str]) -> tuple[Token, ...]:
    tokens: list[Token] = []
    for number, text, start in encoder.pieces(prompt.text):
        weight = 1.0
        for first, last, factor in prompt.spans:
            if first <= start < last:
                weight *= factor
        strange = bool(text.strip()) and any(text in word for word in unknown)
        tokens.append(Token(number, text, weight, strange))
    return tuple(tokens)
