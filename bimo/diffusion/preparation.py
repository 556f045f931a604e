"""Fills in a request and encodes its prompts for every step, before sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bimo.core.errors import RequestError
from bimo.core.messages import say
from bimo.core.recipe import Branch
from bimo.core.request import Request
from bimo.core.tensors import TextEncoding
from bimo.diffusion import image_to_image, outpainting, prompt_weighting
from bimo.diffusion.image_inputs import shown_to_text_encoders
from bimo.diffusion.request_validation import (
    condition_warnings,
    fill_request,
    negated,
    picture_warnings,
    sampler_warnings,
    size_warnings,
)
from bimo.diffusion.step_ranges import range_warnings
from bimo.diffusion.system import ZERO_NULLS, System
from bimo.prompts.a1111 import composed, lora_tags, schedule
from bimo.prompts.chunks import parts_between_breaks, without_breaks
from bimo.prompts.quoted_text import quoted
from bimo.prompts.styles import styled
from bimo.prompts.weighting import emphasis

#: The most prompts that AND joins.
MAXIMUM_JOINED = 16


@dataclass(frozen=True)
class Words:
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
    def prompts(self) -> tuple[tuple[TextEncoding, ...], ...]:
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
    """A filled request with its prompts encoded once for all of its pictures: one entry of ``words`` unless the prompt
    is edited over the steps.
    """

    request: Request
    words: tuple[Words, ...]
    warnings: tuple[str, ...]
    #: Why there is nothing to draw: no text encoder has learned any of the words. "" otherwise.
    nothing_known: str = ""
    #: As ``Drawing.pictures``.
    pictures: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def prompt(self) -> tuple[TextEncoding, ...]:
        """The encoded prompts of the first step."""
        return self.words[0].prompt


def prepare(
    system: System,
    request: Request | Mapping[str, object],
    cache: prompt_weighting.EncodingCache | None = None,
) -> Prepared:
    """Fills in a request and encodes its prompts, unless ``cache`` has them. Raises RequestError."""
    encoded = prompt_weighting.encoded if cache is None else cache.encoded
    full = fill_request(system, request)
    wanted, negative, negation_warnings = negated(system, full)
    wanted, _ = lora_tags(wanted)
    every = [b for level in system.recipe.levels for b in level.guidance.branches if b.prefix and weight_of(full, b)]
    prefixes = list(dict.fromkeys(branch.prefix for branch in every))
    joined = composed(wanted)
    _check_joined(full, joined)
    said = [*(text for text, _ in joined), *(region.text for region in full.regions)]
    styled_texts = [system.recipe.request.prefix + styled(text, full.style) for text in said]
    # The order: the unconditional branch, the conditional one, those of prefixes, prompts joined by AND, regions.
    roles = [negative, styled_texts[0], *(prefix + styled_texts[0] for prefix in prefixes), *styled_texts[1:]]
    ends, texts = _over_steps(roles, image_to_image.steps_taken(full, full.steps or 1))
    chunked = prompt_weighting.chunked(system, full)
    each = [emphasis(text) for text in texts]
    broken = any(len(parts_between_breaks(one)) > 1 for one in each)
    prompts = each if chunked and (broken or full.long_prompt == "chunks") else [without_breaks(one) for one in each]
    in_chunks = prompts is each
    notes = (note for prompt in prompts for note in prompt.notes)
    commoner = system.paraphrased(full.text)
    if full.drawn_text is not None and full.drawn_text == commoner.text:
        notes = (*commoner.notes(), *notes)
    own = (*sampler_warnings(system, full), *size_warnings(system, full), *picture_warnings(system, full))
    own += (*condition_warnings(system, full), *range_warnings(system, full))
    warnings = dict.fromkeys((*negation_warnings, *notes, *own))
    written = quoted(full.text) if full.inscribe is None else full.inscribe
    if broken and not in_chunks:
        warnings[say("BREAK begins a chunk of CLIP; this model reads a prompt as one, a comma stands there")] = None
    positive = {
        prompt.text: prompt for end in ends for prompt in (prompts[i] for i in end.conditional_texts(len(prefixes)))
    }
    for prompt in positive.values():
        for budget in system.budgets(prompt.text):
            read = replace(budget, lost="") if in_chunks else budget
            warnings.update(dict.fromkeys(read.without(written).warnings()))
    # A style alone is nothing to draw.
    plain = [emphasis(text).text for part in said for _, text in schedule(part, 1)]
    unlearned = [budget.nothing_known() for text in plain for budget in system.budgets(text)]
    nothing = unlearned[0] if unlearned and all(unlearned) else ""
    guided = [level.guidance.unconditional in ZERO_NULLS for level in system.recipe.levels if level.guidance.scale > 1]
    asked = request.get("draft") if isinstance(request, Mapping) else request.draft
    warnings.update(dict.fromkeys(image_to_image.draft_warnings(system, bool(asked), full)))
    if full.negative and guided and all(guided):
        silent = say("this system reads no negative prompt; yours changed nothing")
        warnings[silent] = None
    pictures = shown_to_text_encoders(system, full)
    # Not in inference mode: training on drawings backpropagates through this.
    with torch.no_grad():
        rows, weighting_warnings = encoded(system, prompts, 0, in_chunks, pictures)
        skipped = encoded(system, prompts, depth, in_chunks)[0] if (depth := _skipped(system, full)) else ()
    warnings.update(dict.fromkeys(weighting_warnings))

    def row(place: int) -> tuple[TextEncoding, ...]:
        return tuple(_row(encoding, place) for encoding in skipped or rows)

    words: list[Words] = []
    for end in ends:
        negative_rows = tuple(_row(encoding, end.roles[0]) for encoding in rows)
        prompt, *others = (row(place) for place in end.roles[1:])
        prefixed = dict(zip(prefixes, others[: len(prefixes)], strict=True))
        rest = others[len(prefixes) :]
        more = tuple((weight, one) for (_, weight), one in zip(joined[1:], rest, strict=False))
        parts = tuple(rest[len(joined) - 1 :])
        words.append(Words(end.until, prompt, negative_rows, prefixed, joined[0][1], more, parts))
    return Prepared(full, tuple(words), tuple(warnings), nothing, outpainting.read(full))


def _check_joined(request: Request, joined: Sequence[tuple[str, float]]) -> None:
    """Raises RequestError for settings that skip the branches which AND and regions need, and for so many prompts that
    a call of the denoiser, which has a row for each, would not fit into memory.
    """
    if len(joined) > MAXIMUM_JOINED:
        raise RequestError("AND joins {count} prompts; at most {most}", count=len(joined), most=MAXIMUM_JOINED)
    if len(joined) == 1 and joined[0][1] == 1.0 and not request.regions:
        return
    left_out = {"guidance_every": request.guidance_every, "nag": request.nag}
    for name, value in left_out.items():
        if value is not None:
            raise RequestError(
                "{name} leaves out branches of guidance, by which AND and regions join prompts; say one", name=name
            )


@dataclass(frozen=True)
class _End:
    """The texts of all roles up to a step, as indices of the encoded texts, the negative first."""

    until: int
    roles: tuple[int, ...]

    def conditional_texts(self, prefixes: int) -> tuple[int, ...]:
        """The texts of the prompt, and of those that AND joins to it."""
        return (self.roles[1], *self.roles[2 + prefixes :])


def _over_steps(roles: Sequence[str], steps: int) -> tuple[list[_End], list[str]]:
    """The texts of every role by step, and all distinct texts: those of the first step first, in the roles' order."""
    schedules = [schedule(text, steps) for text in roles]
    texts: list[str] = []
    ends: list[_End] = []
    for until in sorted({end for one in schedules for end, _ in one}):
        now = [next(text for end, text in one if end >= until) for one in schedules]
        if not texts:
            texts += now
            ends.append(_End(until, tuple(range(len(now)))))
            continue
        texts += [text for text in dict.fromkeys(now) if text not in texts]
        ends.append(_End(until, tuple(texts.index(text) for text in now)))
    return ends, texts


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


def weight_of(request: Request, branch: Branch) -> float:
    """The weight of a branch of guidance: the request's, else the recipe's."""
    return request.guidance_weights.get(branch.name, branch.scale)


def _row(encoding: TextEncoding, row: int) -> TextEncoding:
    rows = slice(row, row + 1)
    mask, pooled = encoding.mask, encoding.pooled
    return TextEncoding(
        encoding.tokens[rows], None if mask is None else mask[rows], None if pooled is None else pooled[rows]
    )
