"""The texts of a request that are encoded: read from its prompt, over the steps, with their emphasis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bimo.core.errors import RequestError
from bimo.core.messages import say
from bimo.core.recipe import Branch
from bimo.core.request import Request
from bimo.diffusion import guidance, prompt_weighting
from bimo.diffusion.system import ZERO_NULLS, System
from bimo.prompts.a1111 import LoraTag, composed, lora_tags, schedule
from bimo.prompts.chunks import parts_between_breaks, without_breaks
from bimo.prompts.negation import negation
from bimo.prompts.styles import styled
from bimo.prompts.token_budget import listed
from bimo.prompts.weighting import Emphasis, emphasis

#: The most prompts that AND joins.
MAXIMUM_JOINED = 16


@dataclass(frozen=True)
class PromptTexts:
    """The texts of a filled request. ``prompts`` are those that AND joins, each with its weight in ``weights``, then
    those of regions, all with style and prefix; ``unstyled`` the same without.
    """

    negative: str
    prompts: tuple[str, ...]
    unstyled: tuple[str, ...]
    weights: tuple[float, ...]
    #: The prefixes of branches of guidance that read the first prompt after one.
    prefixes: tuple[str, ...]
    loras: tuple[LoraTag, ...]
    warnings: tuple[str, ...]

    @property
    def by_role(self) -> tuple[str, ...]:
        """The order of encoding: the unconditional branch, the conditional one, those of prefixes, then prompts that
        AND joins to it and those of regions.
        """
        first, *further = self.prompts
        return (self.negative, first, *(prefix + first for prefix in self.prefixes), *further)


def texts_of(system: System, request: Request) -> PromptTexts:
    """The texts of a filled request. Raises RequestError for prompts joined by AND that cannot be drawn."""
    text, negative, warnings = _negated(system, request)
    text, loras = lora_tags(text)
    joined = composed(text)
    _check_joined(request, joined)
    unstyled = (*(one for one, _ in joined), *(region.text for region in request.regions))
    prompts = tuple(system.recipe.request.prefix + styled(one, request.style) for one in unstyled)
    branches = [branch for level in system.recipe.levels for branch in level.guidance.branches]
    prefixes = dict.fromkeys(each.prefix for each in branches if each.prefix and weight_of(request, each))
    weights = tuple(weight for _, weight in joined)
    return PromptTexts(negative, prompts, unstyled, weights, tuple(prefixes), loras, warnings)


def weight_of(request: Request, branch: Branch) -> float:
    """The weight of a branch of guidance: the request's, else the recipe's."""
    return request.guidance_weights.get(branch.name, branch.scale)


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
class ScheduledTexts:
    """The texts in effect up to the step ``until``, counted from 1, as indices of all distinct texts by role."""

    until: int
    roles: tuple[int, ...]

    def prompts(self, prefixes: int) -> tuple[int, ...]:
        """The texts of the prompt, and of those that AND joins to it, if there are so many ``prefixes``."""
        return (self.roles[1], *self.roles[2 + prefixes :])


def over_steps(by_role: Sequence[str], steps: int) -> tuple[list[ScheduledTexts], list[str]]:
    """The texts of every role by step, and all distinct texts: those of the first step first, in the roles' order."""
    schedules = [schedule(text, steps) for text in by_role]
    texts: list[str] = []
    scheduled: list[ScheduledTexts] = []
    for until in sorted({end for one in schedules for end, _ in one}):
        now = [next(text for end, text in one if end >= until) for one in schedules]
        if not texts:
            texts += now
            scheduled.append(ScheduledTexts(until, tuple(range(len(now)))))
            continue
        texts += [text for text in dict.fromkeys(now) if text not in texts]
        scheduled.append(ScheduledTexts(until, tuple(texts.index(text) for text in now)))
    return scheduled, texts


@dataclass(frozen=True)
class ParsedTexts:
    """Texts with their emphasis, and whether they are read in chunks; ``commas`` says that BREAK became a comma."""

    prompts: tuple[Emphasis, ...]
    in_chunks: bool
    commas: bool


def parsed(system: System, request: Request, texts: Sequence[str]) -> ParsedTexts:
    """The texts of a filled request as its text encoders read them. Raises RequestError if it demands chunks and the
    system has none.
    """
    can = prompt_weighting.chunked(system, request)
    each = tuple(emphasis(text) for text in texts)
    broken = any(len(parts_between_breaks(one)) > 1 for one in each)
    in_chunks = can and (broken or request.long_prompt == "chunks")
    prompts = each if in_chunks else tuple(without_breaks(one) for one in each)
    return ParsedTexts(prompts, in_chunks, broken and not in_chunks)


def _negated(system: System, request: Request) -> tuple[str, str, tuple[str, ...]]:
    """(prompt, negative prompt, warnings) of a request: for our own systems 不要猫 becomes a negative prompt; published
    systems get the prompt unchanged.
    """
    negative = request.negative or ""
    text = request.read_text
    negation_ = negation(text)
    if not negation_.things:
        return text, negative, ()
    level = system.recipe.levels[-1]
    heard = (
        guidance.first_set(request.guidance, level.guidance.scale) > 1
        and level.guidance.unconditional not in ZERO_NULLS
    )
    phrases, things = listed([f"“{words}”" for words in negation_.phrases]), listed(negation_.things)
    if system.recipe.source != "own" or not heard:
        note = say(
            "{said} is read as it stands, and what it denies is likely drawn; say it with --negative {things!r}",
            said=phrases,
            things=things,
        )
        return text, negative, ((note,) if heard else ())
    note = say("{said} is taken as a negative prompt: {things}", said=phrases, things=things)
    if not negation_.text:
        note += say("; nothing else was asked for")
    comma = ", " if negative.isascii() else "，"
    return negation_.text, comma.join(filter(None, (negative, *negation_.things))), (note,)
