"""Facts about models for the page: bounds, sizes, samplers, licences, vocabularies."""

from __future__ import annotations

import asyncio
import math
import re
from dataclasses import dataclass

from bimo.core.errors import RequestError
from bimo.core.messages import Both, Message, language
from bimo.core.recipe import Recipe
from bimo.diffusion import image_inputs
from bimo.diffusion.conditioner import Draft
from bimo.diffusion.image_to_image import drafted_words, drawn_over, left_out_notes, unlike_its_draft
from bimo.diffusion.request_validation import heeds_empty
from bimo.engine.engine import Engine
from bimo.hub import registry
from bimo.models.text_encoders.bert import BertTextEncoder
from bimo.prompts.paraphrases import Paraphrase
from bimo.prompts.token_budget import Budget
from bimo.prompts.weighting import emphasis
from bimo.serve.page.form import MAXIMUM_SIDE
from bimo.serve.page.gallery import escaped
from bimo.serve.pool import EngineKey, EnginePool

#: Aspect ratios on the page, width to height.
RATIOS = ("1:1", "4:3", "3:4", "3:2", "2:3", "16:9", "9:16")
#: The range of pixel counts for other aspect ratios, relative to the model's native one.
NEAR = (0.5, 1.3)
#: The most words shown by a search.
MOST_WORDS = 120
#: Pictures of a request that have fields of their own.
_OWN = {image_inputs.IMAGE, image_inputs.MASK}


@dataclass(frozen=True)
class Offer:
    """The settings that a model offers, with their defaults."""

    width: int
    height: int
    unit: int
    sizes: tuple[tuple[int, int], ...]
    steps: int
    guidance: float
    rescale: float
    negative: str
    samplers: tuple[str, ...]
    clip_skip: int
    heeds_empty: bool
    controls: tuple[str, ...]

    @classmethod
    def of(cls, engine: Engine) -> Offer:
        """The offer of a loaded model."""
        system, recipe = engine.system, engine.recipe
        last = recipe.levels[-1]
        factor = system.space(last.name).factor
        built = system.level(last.name)
        depths = [encoder.skippable for encoder in system.text_encoders if encoder.skippable]
        read = {name for level in recipe.levels for name in image_inputs.read_by_conditioners(system, level.name)}
        return cls(
            *recipe.request.size,
            unit=math.lcm(recipe.request.multiple, factor * max(1, 32 // factor)),
            sizes=tuple(recipe.request.sizes),
            steps=recipe.request.steps or last.steps,
            guidance=last.guidance.scale if recipe.request.guidance is None else recipe.request.guidance,
            rescale=last.guidance.rescale,
            negative=recipe.request.negative,
            samplers=tuple(built.schedule.names()),
            clip_skip=min(depths, default=0),
            heeds_empty=heeds_empty(system),
            controls=tuple(sorted(read - _OWN)),
        )

    @property
    def most(self) -> int:
        """The longest side that the page offers."""
        return min(MAXIMUM_SIDE, 4 * max(self.width, self.height))

    @property
    def ratio(self) -> str | None:
        """The aspect ratio of the model's native size, None if it is not one of RATIOS."""
        return next((ratio for ratio in RATIOS if self.shaped(ratio) == (self.width, self.height)), None)

    def shaped(self, ratio: str) -> tuple[int, int]:
        """(width, height) for an aspect ratio, with about the native number of pixels; one of the model's fixed sizes
        if it has some.
        """
        across, down = (int(part) for part in ratio.split(":"))
        target_ratio, own_pixels = across / down, self.width * self.height
        sides = range(self.unit, 8 * max(self.width, self.height), self.unit)
        candidates = self.sizes or [
            (w, h)
            for w in sides
            for h in sides
            if NEAR[0] * own_pixels <= w * h <= NEAR[1] * own_pixels and max(w, h) <= 3 * min(w, h)
        ]
        # A deviation of the ratio by 10 % is worse than 25 % fewer pixels.
        return min(
            candidates,
            key=lambda s: abs(math.log(s[0] / s[1] / target_ratio)) + 0.3 * abs(math.log(s[0] * s[1] / own_pixels)),
        )


async def loaded(pool: EnginePool, model: str) -> Engine:
    """The engine of a model; loads it if necessary. Raises RequestError for unknown names, and what loading raises."""
    key = EngineKey(pool.model_name(model or None))
    while (engine := pool.take(key)) is None:
        await asyncio.sleep(0.1)
    pool.give_back(key)
    return engine


def licence(recipe: Recipe, language: str) -> str:
    """A line about a model: title, licence, and the publisher's terms."""
    title = escaped(recipe.title or recipe.name)
    name = recipe.licence or Message("no licence is stated").said(language)
    label = Message("Licence").said(language)
    terms = Both(*recipe.weights.terms).said(language) if any(recipe.weights.terms) else ""
    note = f" · {escaped(terms)}" if terms else ""
    return f'<p class="licence"><b>{title}</b> {escaped(label)}: {escaped(name)}{note}</p>'


def recipe_of(pool: EnginePool, model: str) -> Recipe | None:
    """The recipe of a model without loading it; None if it is not known."""
    engine = pool.resident(EngineKey(model))
    if engine is not None:
        return engine.recipe
    return registry.listed().get(pool.models.get(model, ""))


def meter(engine: Engine, text: str) -> str:
    """The token meter of a prompt: tokens of the fullest text encoder, and warnings."""
    if not text.strip():
        return ""
    read, draft = _read(engine, text)
    budgets: list[Budget] = engine.system.budgets(emphasis(read.text).text)
    if not budgets:
        return ""
    if draft is not None:
        budgets = [budget.in_a_draft() for budget in budgets]
    fullest = max(budgets, key=lambda budget: budget.used / max(1, budget.limit))
    share = min(100, round(100 * fullest.used / max(1, fullest.limit)))
    over = " over" if fullest.used > fullest.limit else ""
    label = str(Message("{used} of {limit} tokens", used=fullest.used, limit=fullest.limit))
    sentences = (
        *read.notes(),
        *left_out_notes(draft),
        *(sentence for budget in budgets for sentence in budget.warnings()),
    )
    warnings = "".join(f'<p class="warning">{escaped(sentence)}</p>' for sentence in dict.fromkeys(sentences))
    return (
        f'<div class="meter{over}"><i><b style="width:{share}%"></b></i><span>{escaped(label)}</span></div>{warnings}'
    )


def _read(engine: Engine, text: str) -> tuple[Paraphrase, Draft | None]:
    """What is read of a prompt, perhaps half typed, and the draft that it is drawn over."""
    system = engine.system
    read = system.paraphrased(text)
    try:
        request = engine.fill({"text": text}).request
    except RequestError:
        return read, None
    draft = drawn_over(system, request)
    return unlike_its_draft(system, draft, read), draft


#: Words as people write them, and Chinese characters: no marks, letters, numbers, nor words run together ("3d2").
_SHOWN = re.compile(r"[^\W\d_]{2,}(?:['-][^\W\d_]+)*|\d[a-z]|\d+-[a-z]+|[\u4e00-\u9fff]")


def words_of(engine: Engine, text: str) -> str:
    """The words of a model's vocabulary, and of its drafts, that contain ``text``, as buttons that insert them into the
    prompt; those of the speaker's language first.
    """
    vocabulary = {
        word
        for encoder in engine.system.text_encoders
        if isinstance(encoder, BertTextEncoder)
        for word in encoder.known
        if _SHOWN.fullmatch(word)
    }
    if engine.recipe.request.draft:
        vocabulary |= drafted_words(engine.system)
    if not vocabulary:
        sentence = Message("this model reads any words: it learned from sentences of the web, not from a list")
        return f'<p class="nothing">{escaped(sentence)}</p>'
    query = text.strip().lower()
    matches = [word for word in vocabulary if query in word]
    chinese = language() == "zh"
    # Words before single characters, the shortest first.
    ordered = sorted(
        matches,
        key=lambda word: (word != query, word.isascii() is chinese, len(word) < 2, len(word) if query else 0, word),
    )
    count = Message("{count} of {every} words", count=len(matches), every=len(vocabulary))
    buttons = "".join(
        f'<button type="button" class="word" data-word="{escaped(word)}">{escaped(word)}</button>'
        for word in ordered[:MOST_WORDS]
    )
    rest = "<span>…</span>" if len(matches) > MOST_WORDS else ""
    return f'<p class="facts">{escaped(count)}</p><div class="words-found">{buttons}{rest}</div>'
