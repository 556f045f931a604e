"""What a system is: a recipe of text encoders, levels and training stages; values only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

from bimo.core.errors import RecipeError
from bimo.core.part import Part, meant
from bimo.core.stage import Stage

#: What sides of a list of sizes are divided by at toy width.
TINY = 4

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
class ProjectedGuidance(Part):
    """Adaptive projected guidance (arXiv:2410.02416), mixed with classifier-free guidance as HunyuanImage-2.1 does: in
    the steps after ``start`` (0 is the first) the answer is e + ``scale`` d in place of e + w (c - e).

    d is the running average of c - e over all guided steps, of which an earlier one counts ``momentum`` times as much
    as the next; it is shortened to a length of ``threshold`` (0: never), and what of it is parallel to c counts
    ``eta`` times. ``start_written`` is the start for a prompt of which the last text encoder reads something.
    """

    scale: float = 10.0
    momentum: float = -0.5
    threshold: float = 10.0
    eta: float = 0.0
    start: int = 5
    start_written: int = 5


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
    ``lengthen`` does so also where the guided one is shorter. ``branches`` are added to the sum. ``projected`` takes
    the place of the sum in later steps.
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
    projected: ProjectedGuidance | None = None


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
class Published(Part):
    """Where weights were published: a Hugging Face repository, one of ModelScope, or a bundle of this package.

    ``vision`` is the repository of the image encoder, where it was published apart, and ``refiner`` that of a second
    level. ``terms`` is what a
    user must know of the licence before the first use, Chinese and English.
    """

    repo: str = ""
    modelscope: str = ""
    vision: str = ""
    refiner: str = ""
    bundle: str = ""
    terms: tuple[str, str] = ("", "")
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Defaults(Part):
    """The publisher's settings for drawing: what a request leaves open. ``size`` is (width, height) in pixels.

    ``multiple`` is what sides must be a multiple of where the space alone would allow more; ``sizes`` are all there
    are where a system knows no others. ``prefix`` stands before every prompt. ``paste`` keeps every pixel outside a
    request's mask as it was given, to the bit, in place of what the decoder makes of it; ``strength`` is the share of
    the steps that a picture with a mask goes through, ``draft`` that of a model's own draft (``Conditioner.draft``).
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
    draft: float = 0.0

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

    @property
    def holds(self) -> bool:
        """Whether a stage keeps weights that do not learn otherwise than as they are."""
        return any(stage.holds for stage in self.stages)

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
