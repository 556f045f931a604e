"""How a system reads a prompt: chunks, tokens and weights of each text encoder, protected, lost and unknown text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bimo.core.request import Request
from bimo.diffusion import prompt_weighting
from bimo.diffusion.request_validation import fill_request, negated
from bimo.diffusion.system import System
from bimo.diffusion.text_encoder import TextEncoder
from bimo.prompts.a1111 import LoraTag, composed, lora_tags, schedule
from bimo.prompts.chunks import chunks, parts_between_breaks, without_breaks
from bimo.prompts.quoted_text import quoted
from bimo.prompts.styles import styled
from bimo.prompts.weighting import Emphasis, emphasis


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
    """The reading of a prompt; ``protected`` are the texts in quotation marks."""

    prompt: str
    negative: str
    steps: int
    protected: tuple[str, ...]
    loras: tuple[LoraTag, ...]
    prompts: tuple[PromptReading, ...]


def explained(system: System, request: Request | Mapping[str, object]) -> Explanation:
    """Explains how a system reads a request's prompt. Raises RequestError if it cannot be drawn."""
    full = fill_request(system, request)
    wanted, negative, _ = negated(system, full)
    wanted, tags = lora_tags(wanted)
    steps = full.steps or 1
    can = prompt_weighting.chunked(system, full)
    prompts: list[PromptReading] = []
    for text, weight in composed(wanted):
        prefixed = system.recipe.request.prefix + styled(text, full.style)
        for until, now in schedule(prefixed, steps):
            prompt = emphasis(now)
            broken = len(parts_between_breaks(prompt)) > 1
            chunked = can and (broken or full.long_prompt == "chunks")
            prompt = prompt if chunked else without_breaks(prompt)
            readings = tuple(_reading(encoder, prompt, chunked) for encoder in system.text_encoders)
            prompts.append(PromptReading(until, weight, prompt.text, readings))
    return Explanation(full.text, negative, steps, quoted(full.text), tags, tuple(prompts))


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
