"""Plans the stages of a fine-tuning from a wish, a model and its pictures: every number by a rule stated beside it.

The rules are common practice: the default learning rates of diffusers' scripts, the hundred repeats of a picture and
the aspect buckets of kohya-ss' scripts. A model of less than ``SMALL`` parameters learns faster and has room for larger
batches; those rules were measured on the bundled one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from bimo.core.errors import RecipeError
from bimo.core.messages import Message
from bimo.core.part import Part, meant
from bimo.core.recipe import Level, Recipe, Stage
from bimo.data.loader import Size, buckets, fitted_size
from bimo.diffusion.conditioner import Conditioner
from bimo.diffusion.schedules.single_step import SingleStepRegression
from bimo.training.adapters.adapter import Adapter
from bimo.training.adapters.control_stage import ControlAdapters
from bimo.training.adapters.lora_stage import Lora, TextualInversion
from bimo.training.finetune.wish import Wish
from bimo.training.objectives.denoise import Denoise
from bimo.training.objectives.dreambooth import Dreambooth
from bimo.training.objectives.objective import Objective
from bimo.training.preflight import size_unit
from bimo.training.tuning import attention

#: Parameters of a denoiser below which a model is small.
SMALL = 50_000_000
#: Sides of buckets are multiples of this, as of SDXL's.
BUCKET_STEP = 64
#: Samples of a stage for each picture, and the least and most samples of a stage.
LOOKS, LEAST, MOST = 100, 1000, 40_000
SMALL_LOOKS, SMALL_LEAST = 200, 3000
#: Of a data set of tens of thousands, each picture this often.
EPOCHS = 5
#: The share of the steps of a level that is conditioned on an earlier level's picture: it has less to learn.
LATER_SHARE = 0.3
#: (at most so many pictures, rank).
RANKS = ((9, 8), (500, 16), (20_000, 32))
LARGEST_RANK = 64
RATES = {"lora": 1e-4, "full": 1e-5, "embedding": 5e-3, "controlnet": 1e-5, "dreambooth full": 2e-6}
SMALL_RATES = {"lora": 2e-3, "full": 2e-4, "embedding": 2e-2, "controlnet": 1e-4, "dreambooth full": 1e-4}
#: The factor of the rate for a small model's level that is conditioned on an earlier one.
LATER_RATE = 0.5
BATCH, SMALL_BATCH = 4, 16
PRIOR, SMALL_PRIOR = 200, 40
VECTORS = 4
PROMPTS = 4
#: Caption templates for a new word, as those of textual inversion (arXiv:2208.01618).
SENTENCES = {
    "zh": ("{word}", "一张{word}的照片", "{word}的特写", "一幅{word}的画", "画面中央的{word}"),
    "en": (
        "{word}",
        "a photo of {word}",
        "a close-up photo of {word}",
        "a rendition of {word}",
        "a good photo of {word}",
    ),
}
#: Control maps that are computed from the picture, by their usual names.
COMPUTED_CONTROLS = {
    "canny": "edges",
    "edges": "edges",
    "outlines": "outlines",
    "softedge": "outlines",
    "lineart": "outlines",
}


@dataclass(frozen=True)
class Pictured:
    """What the rules use of the pictures: how many are in an epoch, their sizes, and some of their captions."""

    count: int
    sizes: tuple[Size, ...]
    captions: tuple[str, ...]

    @property
    def language(self) -> str:
        """That of the captions, "zh" where any is in Chinese."""
        return "zh" if any("\u3400" <= letter <= "\u9fff" for text in self.captions for letter in text) else "en"


@dataclass(frozen=True)
class Plan:
    """Stages, prompts of samples, and (what, value, why) of each choice."""

    stages: tuple[Stage, ...]
    prompts: tuple[str, ...]
    choices: tuple[tuple[str, str, Message], ...]


def planned(wish: Wish, recipe: Recipe, pictured: Pictured, parameters: Sequence[int]) -> Plan:
    """The plan for a wish; ``parameters`` are those of the denoiser of each level. Raises RecipeError for a model that
    cannot learn what is asked.
    """
    _learnable(wish, recipe)
    rules = _Rules(wish, recipe, pictured, max(parameters) < SMALL)
    stages = tuple(rules.stage(level, later=number > 0) for number, level in rules.levels())
    return Plan(stages, rules.prompts(), tuple(rules.choices.values()))


def _learnable(wish: Wish, recipe: Recipe) -> None:
    if not recipe.levels:
        raise RecipeError("{name} does not draw: there is no denoiser to tune", name=recipe.name)
    if wish.way == "embedding" and not recipe.text_encoders:
        raise RecipeError("{name} reads no words, so it can be taught none", name=recipe.name)
    conditioners = [cast(Conditioner, each) for level in recipe.levels for each in level.conditioners]
    maps: list[str] = [name for each in conditioners for name in each.maps]
    if maps:
        raise RecipeError(
            "{name} learns from pairs: beside each picture that which is edited, and photos are one of the two; make "
            "shards (bimo data folder), put maps/{map}/KEY.png beside them, then bimo train {name} --tune lora --data",
            name=recipe.name,
            map=maps[0],
        )


class _Rules:
    """The rules, each asked for its value; ``choices`` says what was chosen and why."""

    def __init__(self, wish: Wish, recipe: Recipe, pictured: Pictured, small: bool) -> None:
        self.wish, self.recipe, self.pictured, self.small = wish, recipe, pictured, small
        self.choices: dict[str, tuple[str, str, Message]] = {}

    def levels(self) -> list[tuple[int, Level]]:
        """The levels that get a stage of their own: of a LoRA and of full training all, else the last alone, with whose
        loss that of the others is joined.
        """
        every = list(enumerate(self.recipe.levels))
        return every if self.wish.way in ("lora", "full") else every[-1:]

    def stage(self, level: Level, later: bool) -> Stage:
        """The stage of a level, ``later`` of one that is not the first."""
        wish = self.wish
        size = self._size()
        batch = self._batch()
        return Stage(
            name=self._name(level),
            objective=self._objective(level),
            level=level.name,
            train=(f"{level.name}.denoiser.*",) if wish.way == "full" else (),
            adapter=self._adapter(level),
            steps=self._steps(batch, later),
            batch=batch,
            lr=self._rate(later),
            warmup=self._warmup(),
            lr_schedule="cosine" if self.small else "constant",
            precision=cast(Any, wish.precision or "fp32"),
            frozen=cast(Any, wish.quantise or "fp32"),
            compiled=wish.compiled,
            channels_last=wish.channels_last,
            exact=wish.exact,
            log_every=wish.log_every,
            caption_dropout=0.0 if self._one_step(level) or wish.way == "embedding" else 0.1,
            size=size,
            buckets=self._buckets(size),
            sample_every=wish.sample_every,
            max_unknown=0.5,  # names of people and things may well be new to its words
            max_truncated=1.0,
        )

    def prompts(self) -> tuple[str, ...]:
        """The prompts of the samples that are drawn during training."""
        wish, language = self.wish, self.pictured.language
        if wish.samples:
            return wish.samples
        if wish.word:
            return (wish.word, SENTENCES[language][1].format(word=wish.word))
        if wish.prompt:
            return (wish.prompt, *wish.nouns)[:PROMPTS]
        return tuple(dict.fromkeys((*self.pictured.captions, *wish.nouns)))[:PROMPTS]

    def _say(self, what: str, value: object, asked: bool, why: Message) -> None:
        self.choices.setdefault(what, (what, str(value), Message("as asked") if asked else why))

    def _name(self, level: Level) -> str:
        kind = "dreambooth" if self.wish.prompt else self.wish.way
        return kind if len(self.levels()) == 1 else f"{kind}, {level.name}"

    def _one_step(self, level: Level) -> bool:
        return isinstance(level.schedule, SingleStepRegression)

    def _objective(self, level: Level) -> Objective:
        wish = self.wish
        also = tuple(other.name for other in self.recipe.levels[:-1]) if wish.way in ("embedding",) else ()
        denoise = Denoise(also=also, mask=wish.mask)
        if wish.way == "embedding":
            texts = SENTENCES[self.pictured.language]
            return Dreambooth(subject=tuple(text.format(word=wish.word) for text in texts), prior=0.0, denoise=denoise)
        if not wish.prompt and not wish.nouns:
            return denoise
        subject = wish.prompt or ()
        if not wish.nouns:
            return Dreambooth(subject=subject, prior=0.0, denoise=denoise)
        count = wish.prior or (SMALL_PRIOR if self.small else PRIOR)
        self._say("prior", count, bool(wish.prior), Message("pictures of its class, drawn before the first step"))
        return Dreambooth(subject=subject, class_noun=wish.nouns, count=count, denoise=denoise)

    def _adapter(self, level: Level) -> Part | None:
        wish = self.wish
        if wish.way == "full":
            return None
        if wish.way == "embedding":
            vectors = wish.vectors or VECTORS
            self._say("vectors", vectors, bool(wish.vectors), Message("of the new word"))
            return TextualInversion(token=wish.word, initial=" ".join(wish.nouns), vectors=vectors)
        if wish.way == "controlnet":
            return self._control(level)
        rank = wish.rank or next((rank for most, rank in RANKS if self.pictured.count <= most), LARGEST_RANK)
        self._say("rank", rank, bool(wish.rank), Message("for {count} pictures", count=self.pictured.count))
        return Lora(targets=self._targets(level), rank=rank, alpha=wish.alpha or float(rank), dora=wish.dora)

    def _control(self, level: Level) -> Adapter:
        control_map = COMPUTED_CONTROLS.get(self.wish.control, "map")
        return ControlAdapters(name=self.wish.control, source=cast(Any, control_map), level=level.name)

    def _targets(self, level: Level) -> tuple[str, ...]:
        """Attention's projections; of a small model the feed-forwards too, and of a level of a single step all of its
        layers and the text encoder's: it alone decides the composition.
        """
        if self.small and self._one_step(level):
            return (f"{level.name}.denoiser.*", "text.*.model.*")
        globs = attention(self.recipe, level)
        return (*globs, *feed_forward(self.recipe, level)) if self.small else globs

    def _size(self) -> Size:
        size_wanted = self.wish.size or self.recipe.request.size
        unit = size_unit(self.recipe)
        if any(side % unit for side in size_wanted):
            near = tuple(max(unit, round(side / unit) * unit) for side in size_wanted)
            raise RecipeError(
                "{width}x{height} is no size that {name} can learn: sides are multiples of {unit}, as {near}",
                width=size_wanted[0],
                height=size_wanted[1],
                name=self.recipe.name,
                unit=unit,
                near="x".join(map(str, near)),
            )
        self._say("size", "x".join(map(str, size_wanted)), self.wish.size is not None, Message("the model's own"))
        return size_wanted

    def _buckets(self, size: Size) -> tuple[Size, ...]:
        """The aspect buckets of at most as many pixels, without those that have fewer pictures than a batch."""
        request = self.recipe.request
        step = math.lcm(BUCKET_STEP, size_unit(self.recipe))
        choices = request.sizes if request.sizes and self.wish.size is None else buckets(size[0] * size[1], step)
        if self.small or len(choices) < 2:
            # A small model has seen one size.
            return ()
        filled = used(self.pictured.sizes, choices, self._batch())
        if len(filled) < 2:
            return () if filled == (size,) else filled
        self._say("buckets", len(filled), False, Message("shapes that the pictures have, of as many pixels at most"))
        return filled

    def _batch(self) -> int:
        wish = self.wish
        batch = wish.batch or min(SMALL_BATCH if self.small else BATCH, max(1, self.pictured.count))
        self._say(
            "batch", batch, bool(wish.batch), Message("at most {most}", most=SMALL_BATCH if self.small else BATCH)
        )
        return batch * (2 if wish.nouns and wish.way in ("lora", "full") else 1)

    def _steps(self, batch: int, later: bool) -> int:
        wish, count = self.wish, self.pictured.count
        looks, least = (SMALL_LOOKS, SMALL_LEAST) if self.small else (LOOKS, LEAST)
        samples = max(min(MOST, max(least, looks * count)), EPOCHS * count)
        own = batch // 2 if wish.nouns and wish.way in ("lora", "full") else batch
        why = Message("about {looks} looks at each picture", looks=round(samples / max(1, count)))
        steps = -(-samples // own)
        steps = steps if not later or not self.small else max(1, round(steps * LATER_SHARE))
        self._say("steps", wish.steps or steps, bool(wish.steps), why)
        return wish.steps or steps

    def _rate(self, later: bool) -> float:
        way = "dreambooth full" if self.wish.way == "full" and self.wish.prompt else self.wish.way
        rates = SMALL_RATES if self.small else RATES
        rate = self.wish.lr or rates[way] * (LATER_RATE if later and self.small else 1.0)
        size = Message("a small model's") if self.small else Message("as diffusers' scripts begin")
        self._say("lr", f"{rate:g}", bool(self.wish.lr), size)
        return rate

    def _warmup(self) -> int:
        return 10 if self.small else 20


def used(sizes: Sequence[Size], choices: Sequence[Size], batch: int) -> tuple[Size, ...]:
    """The ``choices`` that the pictures of ``sizes`` fall into, each with at least a batch of them if possible: the one
    with the fewest pictures is removed first, and its pictures go to the nearest remaining aspect ratio.
    """
    left = list(choices)
    own = Counter(size for size in sizes if all(size))
    while True:
        counts: Counter[Size] = Counter()
        for size, count in own.items():
            counts[fitted_size(size, left)] += count
        left = sorted(counts)
        rarest = min(left, key=lambda size: (counts[size], size), default=None)
        if rarest is None or len(left) < 2 or counts[rarest] >= batch:
            return tuple(left)
        left.remove(rarest)


def feed_forward(recipe: Recipe, level: Level) -> tuple[str, ...]:
    """Globs of the feed-forwards of a level's denoiser, as diffusers names them; none where it has none so named."""
    from bimo.core.module_weights import unfilled
    from bimo.diffusion.system import System

    with unfilled():
        names = [name for name, _ in System(replace(recipe, stages=())).named_parameters()]
    start = f"{level.name}.denoiser."
    return (f"{start}*.ff.net.*",) if any(n.startswith(start) and ".ff.net." in n for n in names) else ()


def control_named(control: str) -> str:
    """The control map of a ControlNet by its name. Raises RecipeError for a name that cannot be a file's."""
    if not control.replace("-", "").replace("_", "").isalnum():
        near = meant(control, COMPUTED_CONTROLS)
        raise RecipeError("--controlnet is {control!r}{near}", control=control, near=near)
    return control
