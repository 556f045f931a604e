"""What a system is: a recipe of text encoders, levels and training stages; values only."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Self

from bimo.core.errors import RecipeError
from bimo.core.part import Part, meant

#: What sides of a list of sizes are divided by at toy width.
TINY = 4
#: What pictures are shrunk to in a recipe at toy width.
TINY_SIDE = 128
TINY_STEP = 64

Source = Literal["published weights", "published description", "reconstruction", "own"]
#: Kinds of numbers that weights may be kept as.
Dtype = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class Branch(Part):
    """One more branch of guidance, with its own weight k: which a request may set by its name.

    With ``prefix`` before the prompt it adds k (c_prefixed - c), as PanGu-Draw's style tokens do. With ``drop`` (names
    of conditions, "text" for the words) it adds k (c - c_dropped): the guidance of those conditions alone, as
    Composer's.
    """

    name: str
    scale: float = 0.0
    prefix: str = ""
    drop: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Guidance(Part):
    """Classifier-free guidance of one level (arXiv:2207.12598): what differs between systems is data.

    ``scale`` is w in e + w (c - e); 1 computes one branch only. Where ``baseline_scale`` is 0 it
    counts what is added to the conditional branch, c + w (c - e), and 0 computes one. ``only_with_negative`` guides
    only where a negative prompt is given; the empty one counts as none. ``unconditional`` says what e is conditioned
    on: the encoding of the negative prompt or of the empty text ("empty"), zeros where the prompt's tokens are, zeros
    that are all padding ("masked"), or zeros only where there is no negative prompt ("zeros_without_negative", as
    Stable Diffusion XL). ``rescale`` is phi of arXiv:2305.08891 section 3.4. ``interval`` is the share of the steps (0
    first, 1 last) between which guidance is on (arXiv:2404.07724); ``until`` ends it where (step + 1) / steps is more.
    ``channels`` guides the first channels of the answer alone, the rest (a learned variance) are the given branch's; 0
    guides all. ``norm`` shortens the guided answer to the length of the given one: over all of it ("whole"), over the
    channels of each place ("place"), those of each 2x2 places ("patch"), or over each row of each channel ("row");
    ``lengthen`` does so also where the guided one is shorter. ``branches`` are added to the sum.
    """

    scale: float = 7.5
    unconditional: Literal["empty", "zeros", "masked", "zeros_without_negative"] = "empty"
    rescale: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)
    channels: int = 0
    norm: Literal["", "whole", "place", "patch", "row"] = ""
    lengthen: bool = False
    baseline_scale: float = 1.0
    only_with_negative: bool = False
    until: float = 1.0
    branches: tuple[Branch, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Level(Part):
    """One diffusion in one space. A latent model has one; a cascade has several; a prior is one as well.

    ``space`` may be the name of another level whose space is shared. A level with ``steps`` 1 calls its denoiser once.
    ``space_dtypes`` are the dtypes narrower than float32 in which the space decodes without an overflow: that of Stable
    Diffusion XL is black in float16, and so are its relatives unless they were trained anew (madebyollin's
    sdxl-vae-fp16-fix).
    """

    name: str
    space: Part | str
    denoiser: Part
    schedule: Part
    conditioners: tuple[Part, ...] = ()
    sampler: str = ""
    steps: int = 20
    guidance: Guidance = Guidance()
    space_dtypes: tuple[Dtype, ...] = ("bf16",)


@dataclass(frozen=True, kw_only=True)
class Stage(Part):
    """One stage of training. ``train`` are globs over parameter names; everything else is frozen, and cached.

    ``lr`` is the peak after ``warmup`` steps; ``lr_schedule`` is what follows, down to ``floor`` ("polynomial" falls as
    (1 - share)^power); ``lr_overrides`` are peaks of their own by glob, the last that matches. A step is of
    ``accumulate`` batches. ``ema`` is the decay of the averaged weights, 0 for none.

    ``optimiser`` "adafactor" (arXiv:1804.04235) keeps a row and a column for each matrix in place of two matrices, and
    has no use for ``betas`` and ``eps``. "muon" (arXiv:2502.16982) makes the step of a matrix orthogonal, as large as
    AdamW's at the same rate, which everything else that learns is given. With ``precision`` "bf16" products are worked
    out in bfloat16, while weights, their averages and the optimiser stay in float32. With "bf16_weights" the denoisers
    that learn are worked out in bfloat16 whole, which saves casting, and what is learnt is a float32 copy of their
    weights (arXiv:1710.03740, section 3.1); all else is float32. ``gradient_checkpointing`` works blocks out twice in
    place of keeping what is in them (arXiv:1604.06174).

    What is left out, so that guidance can do without it: ``caption_dropout`` is the share of captions emptied for
    all text
    text encoders, ``encoder_dropout`` are shares for each by itself, besides; ``condition_dropout`` are shares of
    conditions by a glob over their names, the last that matches: a condition then says what it says in the null branch.
    Each goes by itself, but of the share ``joint_dropout`` all words and conditions are left out together, and of
    ``joint_keep`` none (Composer, arXiv:2302.09778, section 2.2).

    Pictures are resized until they cover ``size`` (width, height) and cut at their centre; with ``buckets`` each at the
    size nearest its own shape, a batch of one size; with neither they stay as they are. With ``sample_latents`` x is
    drawn at each step from the autoencoder's posterior, where it has one, as latent diffusion was published
    (arXiv:2112.10752) and diffusers' scripts do; without it is the mean.

    ``max_unknown`` is the share of unknown tokens, ``max_truncated`` and ``max_empty`` are the shares of captions cut
    short and empty above which the stage does not begin: a wrong tokenizer knows almost nothing, while names and signs
    alone rarely reach a fifth; half of long captions may well be cut, but a text encoder that cuts most is the wrong
    one.

    ``validation`` is the share of the data that is held out; every ``validate_every`` steps its loss under noise that
    stays the same is measured with the averaged weights, and the best of them are kept.

    ``adapter`` is a low-rank adapter that learns beside the frozen weights and is saved in a file of its own. ``note``
    keeps what a paper said.
    """

    name: str
    objective: Part
    train: tuple[str, ...]
    level: str = ""
    steps: int = 1000
    batch: int = 32
    lr: float = 1e-4
    weight_decay: float = 0.01
    warmup: int = 0
    lr_schedule: Literal["constant", "cosine", "linear", "polynomial"] = "constant"
    power: float = 1.0
    floor: float = 0.0
    lr_overrides: tuple[tuple[str, float], ...] = ()
    accumulate: int = 1
    optimiser: Literal["adamw", "adafactor", "muon"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    precision: Literal["fp32", "bf16", "bf16_weights", "fp16"] = "fp32"
    gradient_checkpointing: bool = False
    caption_dropout: float = 0.0
    encoder_dropout: tuple[float, ...] = ()
    condition_dropout: tuple[tuple[str, float], ...] = ()
    joint_dropout: float = 0.0
    joint_keep: float = 0.0
    ema: float = 0.0
    size: tuple[int, int] | None = None
    buckets: tuple[tuple[int, int], ...] = ()
    sample_latents: bool = True
    max_unknown: float = 0.2
    max_truncated: float = 0.5
    max_empty: float = 0.05
    validation: float = 0.0
    validate_every: int = 500
    adapter: Part | None = None
    note: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "batch", "accumulate"):
            if getattr(self, name) < 1:
                raise RecipeError(
                    "{name} of stage {name_2!r} must be at least 1; got {value}",
                    name=name,
                    name_2=self.name,
                    value=getattr(self, name),
                )
        if not 0 <= self.lr < math.inf or (self.lr_overrides and not self.lr):
            raise RecipeError("lr of stage {name!r} must be above 0; got {lr}", name=self.name, lr=self.lr)

    @property
    def drops(self) -> bool:
        """Whether rows ever do without a caption or a condition."""
        return any(
            (
                self.caption_dropout,
                *self.encoder_dropout,
                *(share for _, share in self.condition_dropout),
                self.joint_dropout,
            )
        )

    def tiny(self) -> Self:
        """A few steps on pictures of about 128 pixels a side, their shapes kept."""
        small = super().tiny()
        return replace(
            small,
            steps=min(self.steps, 3),
            batch=min(self.batch, 4),
            accumulate=min(self.accumulate, 2),
            warmup=0,
            size=None if self.size is None else _tiny_size(self.size),
            buckets=tuple(dict.fromkeys(map(_tiny_size, self.buckets))),
        )


@dataclass(frozen=True, kw_only=True)
class Published(Part):
    """Where weights were published: a Hugging Face repository, one of ModelScope, or a bundle of this package.

    ``vision`` is the repository of the image encoder, where it was published apart. ``terms`` is what a
    user must know of the licence before the first use, Chinese and English.
    """

    repo: str = ""
    modelscope: str = ""
    vision: str = ""
    bundle: str = ""
    terms: tuple[str, str] = ("", "")
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Defaults(Part):
    """The publisher's settings for drawing: what a request leaves open. ``size`` is (width, height) in pixels.

    ``multiple`` is what sides must be a multiple of where the space alone would allow more; ``sizes`` are all there
    are where a system knows no others. ``prefix`` stands before every prompt. ``paste`` keeps every pixel outside a
    request's mask as it was given, to the bit, in place of what the decoder makes of it; ``strength`` is the share of
    the steps that a picture with a mask goes through.
    """

    size: tuple[int, int] = (512, 512)
    multiple: int = 1
    sizes: tuple[tuple[int, int], ...] = ()
    prefix: str = ""
    guidance: float | None = None
    steps: int | None = None
    sampler: str = ""
    negative: str = ""
    strength: float = 1.0
    paste: bool = True

    def tiny(self) -> Self:
        """Where only listed sizes are known, a quarter of their sides."""
        if not self.sizes:
            return self
        sizes = tuple((width // TINY, height // TINY) for width, height in self.sizes)
        return replace(self, size=(self.size[0] // TINY, self.size[1] // TINY), sizes=sizes)


@dataclass(frozen=True, kw_only=True)
class Recipe(Part):
    """A whole system: how it reads text, draws, was trained and published.

    ``text_fusion`` makes one conditioning of several text encoders' encodings; without one each is a stream of its own.
    ``vision`` is an image encoder, of a system that scores how well words fit a picture; it may have no level to draw.
    ``prompts`` are drawn again and again while it learns, so that people can look. ``dtypes`` are the dtypes narrower
    than float32 in which its text encoders and denoisers stay finite, that of its publisher first: what a card draws in
    is the first of them that it has.
    """

    name: str
    title: str = ""
    paper: str = ""
    licence: str = ""
    languages: tuple[str, ...] = ("zh", "en")
    source: Source = "published weights"
    text_encoders: tuple[Part, ...] = ()
    text_fusion: Part | None = None
    vision: Part | None = None
    levels: tuple[Level, ...] = ()
    stages: tuple[Stage, ...] = ()
    weights: Published = Published()
    request: Defaults = Defaults()
    prompts: tuple[str, ...] = ()
    dtypes: tuple[Dtype, ...] = ("fp16", "bf16")
    note: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [level.name for level in self.levels]
        for stage in self.stages:
            if stage.level and stage.level not in names:
                near = meant(stage.level, names)
                raise RecipeError(
                    "stage {name!r} of recipe {name_2} names level {level!r}, which is not there{near}",
                    name=stage.name,
                    name_2=self.name,
                    level=stage.level,
                    near=near,
                )

    def level(self, name: str) -> Level:
        """The level of a name. Raises RecipeError."""
        for level in self.levels:
            if level.name == name:
                return level
        near = meant(name, [level.name for level in self.levels])
        raise RecipeError("recipe {name} has no level {name_2!r}{near}", name=self.name, name_2=name, near=near)

    def tiny(self) -> Self:
        """The same system at toy width, for tests and trials in seconds; stages of a few steps, as are the levels
        before the last, whose steps a request does not choose.
        """
        small = super().tiny()
        before = tuple(replace(level, steps=min(level.steps, 3)) for level in small.levels[:-1])
        return replace(small, name=f"{self.name}-tiny", levels=(*before, *small.levels[-1:]))


def _tiny_size(size: tuple[int, int]) -> tuple[int, int]:
    """A size of nearly the same shape, of about 128 x 128 pixels, in steps of 64."""
    scale = min(1.0, TINY_SIDE / (size[0] * size[1]) ** 0.5)
    width, height = (max(1, round(side * scale / TINY_STEP)) * TINY_STEP for side in size)
    return width, height
