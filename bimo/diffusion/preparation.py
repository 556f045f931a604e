"""Fills in a request and encodes its prompts for every step, before sampling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bimo.core.errors import RequestError
from bimo.core.messages import say
from bimo.core.request import Request
from bimo.core.tensors import TextEncoding
from bimo.diffusion import image_to_image, outpainting, prompt_weighting
from bimo.diffusion.image_inputs import shown_to_text_encoders
from bimo.diffusion.prompt_texts import ParsedTexts, PromptTexts, ScheduledTexts, over_steps, parsed, texts_of
from bimo.diffusion.request_filling import FilledRequest, fill_request
from bimo.diffusion.request_warnings import request_warnings
from bimo.diffusion.system import ZERO_NULLS, System
from bimo.prompts.a1111 import schedule
from bimo.prompts.quoted_text import quoted
from bimo.prompts.weighting import emphasis


@dataclass(frozen=True)
class EncodedPrompts:
    """The encoded prompts up to a step: ``until`` is the last one, counted from 1 as the request's steps are.

    ``others`` are the prompts that AND joins to the first, which has ``weight``, each with its own weight; ``regions``
    those of the request's regions.
    """

    until: int
    prompt: tuple[TextEncoding, ...]
    negative: tuple[TextEncoding, ...]
    prefixed: Mapping[str, tuple[TextEncoding, ...]]
    weight: float = 1.0
    others: tuple[tuple[float, tuple[TextEncoding, ...]], ...] = ()
    regions: tuple[tuple[TextEncoding, ...], ...] = ()

    @property
    def joined(self) -> bool:
        """Whether the conditional branch is composed of several prompts, or of one with another weight."""
        return bool(self.others or self.regions) or self.weight != 1

    @property
    def further(self) -> tuple[tuple[TextEncoding, ...], ...]:
        """The further prompts, in the order of ``guidance.join``."""
        return (*(text for _, text in self.others), *self.regions)

    def weights(self, shares: Sequence[Tensor]) -> list[float | Tensor]:
        """The weights of the prompts, the first one's first; ``shares`` are those of the main prompt and of each
        region.
        """
        plain = [self.weight, *(weight for weight, _ in self.others)]
        return [*(weight * shares[0] for weight in plain), *shares[1:]] if shares else [*plain]


@dataclass(frozen=True)
class Prepared:
    """What was ``asked``, and the filled ``request`` that is drawn, with its prompts encoded once for all of its
    pictures: one entry of ``encoded`` unless the prompt is edited over the steps.
    """

    asked: Request
    request: Request
    encoded: tuple[EncodedPrompts, ...]
    warnings: tuple[str, ...]
    #: Why there is nothing to draw: no text encoder has learned any of the words. "" otherwise.
    nothing_known: str = ""
    #: As ``Drawing.pictures``.
    pictures: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def prompt(self) -> tuple[TextEncoding, ...]:
        """The encoded prompts of the first step."""
        return self.encoded[0].prompt


def prepare(
    system: System,
    request: Request | Mapping[str, object] | FilledRequest,
    cache: prompt_weighting.EncodingCache | None = None,
) -> Prepared:
    """Fills in a request and encodes its prompts, unless ``cache`` has them. Raises RequestError."""
    filled = fill_request(system, request)
    full = filled.request
    texts = texts_of(system, full)
    scheduled, distinct = over_steps(texts.by_role, image_to_image.steps_taken(full, full.steps or 1))
    reading = parsed(system, full, distinct)
    warnings = dict.fromkeys(_warnings(system, filled, texts, scheduled, reading))
    skipped = _skipped(system, full)
    pictures = shown_to_text_encoders(system, full)
    encode = prompt_weighting.encoded if cache is None else cache.encoded
    # Not in inference mode: training on drawings backpropagates through this.
    with torch.no_grad():
        rows, weighting_warnings = encode(system, reading.prompts, 0, reading.in_chunks, pictures)
        positive = encode(system, reading.prompts, skipped, reading.in_chunks)[0] if skipped else rows
    warnings |= dict.fromkeys(weighting_warnings)
    encoded = tuple(_encoded(one, texts, rows, positive) for one in scheduled)
    drafted = bool(full.draft) and image_to_image.draft_of(system, full) is not None
    nothing_known = "" if drafted else _nothing_known(system, texts)
    return Prepared(filled.asked, full, encoded, tuple(warnings), nothing_known, outpainting.read(full))


def _warnings(
    system: System,
    filled: FilledRequest,
    texts: PromptTexts,
    scheduled: Sequence[ScheduledTexts],
    reading: ParsedTexts,
) -> Iterator[str]:
    """What to say about a request before its prompts are encoded."""
    full = filled.request
    yield from texts.warnings
    paraphrase, draft = system.paraphrased(full.text), image_to_image.drawn_over(system, full)
    if full.drawn_text is not None and full.drawn_text == paraphrase.text:
        yield from image_to_image.unlike_its_draft(system, draft, paraphrase).notes()
    for prompt in reading.prompts:
        yield from prompt.notes
    yield from request_warnings(system, full)
    if reading.commas:
        yield say("BREAK begins a chunk of CLIP; this model reads a prompt as one, a comma stands there")
    inscribed = quoted(full.text) if full.inscribe is None else full.inscribe
    positive = (reading.prompts[i].text for one in scheduled for i in one.prompts(len(texts.prefixes)))
    for text in dict.fromkeys(positive):
        for budget in system.budgets(text):
            read = replace(budget, lost="") if reading.in_chunks else budget
            read = read.in_a_draft() if draft is not None else read
            yield from read.without(inscribed).warnings()
    yield from image_to_image.draft_warnings(system, bool(filled.asked.draft), full)
    yield from image_to_image.left_out_notes(draft)
    guided = [level.guidance.unconditional in ZERO_NULLS for level in system.recipe.levels if level.guidance.scale > 1]
    if full.negative and guided and all(guided):
        yield say("this system reads no negative prompt; yours changed nothing")


def _nothing_known(system: System, texts: PromptTexts) -> str:
    """Why there is nothing to draw, "" if there is something. A style alone is nothing."""
    plain = [emphasis(text).text for part in texts.unstyled for _, text in schedule(part, 1)]
    unlearned = [budget.nothing_known() for text in plain for budget in system.budgets(text)]
    return unlearned[0] if unlearned and all(unlearned) else ""


def _encoded(
    scheduled: ScheduledTexts,
    texts: PromptTexts,
    rows: Sequence[TextEncoding],
    positive: Sequence[TextEncoding],
) -> EncodedPrompts:
    """The prompts up to a step out of the encodings of all distinct texts: ``positive`` of what is to be drawn, with
    layers skipped if the request says so, ``rows`` without.
    """
    negative, *places = scheduled.roles
    prompt, *others = (_row(positive, place) for place in places)
    prefixed = dict(zip(texts.prefixes, others[: len(texts.prefixes)], strict=True))
    further = others[len(texts.prefixes) :]
    weight, *weights = texts.weights
    return EncodedPrompts(
        until=scheduled.until,
        prompt=prompt,
        negative=_row(rows, negative),
        prefixed=prefixed,
        weight=weight,
        others=tuple(zip(weights, further[: len(weights)], strict=True)),
        regions=tuple(further[len(weights) :]),
    )


def _row(encodings: Sequence[TextEncoding], place: int) -> tuple[TextEncoding, ...]:
    """The encodings of one text, by each text encoder, as batches of one."""
    row = slice(place, place + 1)
    return tuple(
        TextEncoding(
            each.tokens[row],
            None if each.mask is None else each.mask[row],
            None if each.pooled is None else each.pooled[row],
        )
        for each in encodings
    )


def _skipped(system: System, request: Request) -> int:
    """The number of CLIP layers that are skipped for the prompts; as in diffusers the negative prompt skips none.
    Raises RequestError without a CLIP, or without such a layer.
    """
    if request.clip_skip is None:
        return 0
    depths = [encoder.skippable for encoder in system.text_encoders if encoder.skippable]
    if not depths:
        raise RequestError(
            "the text encoder of {name} is no CLIP, clip_skip does nothing there; leave it out", name=system.recipe.name
        )
    if request.clip_skip > min(depths):
        raise RequestError(
            "clip_skip is {clip_skip}; the CLIP of {name} allows 1 to {depths}",
            clip_skip=request.clip_skip,
            name=system.recipe.name,
            depths=min(depths),
        )
    return request.clip_skip - 1
