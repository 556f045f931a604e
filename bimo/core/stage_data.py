"""How a stage's rows are varied from step to step: their captions, and their pictures; values only."""

from __future__ import annotations

from dataclasses import dataclass

from bimo.core.errors import RecipeError
from bimo.core.part import Part


@dataclass(frozen=True, kw_only=True)
class CaptionEdits(Part):
    """What is done to a caption each time it is learnt from.

    ``trigger`` stands before it, unless it is said there already. A caption is tags between any of ``separators``:
    ``shuffle`` has them in another order each time, all but the first ``keep_tokens`` (kohya's ``shuffle_caption`` and
    ``keep_tokens``); ``tag_dropout`` leaves each of the others out with that chance.
    """

    trigger: str = ""
    shuffle: bool = False
    keep_tokens: int = 0
    tag_dropout: float = 0.0
    separators: str = ",，、"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.tag_dropout < 1 or self.keep_tokens < 0 or not self.separators:
            raise RecipeError(
                "captions of a stage want tag_dropout from 0 to below 1, keep_tokens 0 or more, and separators; got "
                "{tag_dropout}, {keep_tokens}, {separators!r}",
                tag_dropout=self.tag_dropout,
                keep_tokens=self.keep_tokens,
                separators=self.separators,
            )
        if self.keep_tokens and not self.varies:
            raise RecipeError(
                "keep_tokens does nothing without shuffle or tag_dropout; leave it out, or add one of them"
            )

    @property
    def varies(self) -> bool:
        """Whether a caption differs from step to step, so that no encoder's answer to it can be kept."""
        return self.shuffle or self.tag_dropout > 0


@dataclass(frozen=True, kw_only=True)
class Augmentation(Part):
    """How pictures are varied. Of each there are ``variants``, encoded once like the picture itself, which is the first
    of them; each step takes one of them.

    ``flip`` turns every other one left to right. ``brightness``, ``contrast`` and ``saturation`` multiply by up to 1
    plus or minus so much, ``hue`` turns by up to so much of the circle. A picture in which text is read, or whose
    captions speak of text, sides or people, stays as it is (``anyway`` varies these too).
    """

    flip: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    variants: int = 2
    anyway: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        if not all(0 <= value < 1 for value in strengths) or self.hue > 0.5 or not 2 <= self.variants <= 64:
            raise RecipeError(
                "augment of a stage wants strengths from 0 to below 1, hue at most 0.5, and 2 to 64 variants; got "
                "{strengths}, {variants}",
                strengths=", ".join(f"{value:g}" for value in strengths),
                variants=self.variants,
            )

    @property
    def count(self) -> int:
        """How many variants there are of a picture: 1 where nothing is varied."""
        return self.variants if self.flip or self.colours else 1

    @property
    def colours(self) -> bool:
        """Whether colours are varied."""
        return any((self.brightness, self.contrast, self.saturation, self.hue))
