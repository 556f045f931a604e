"""What GLM-Image's two levels are told besides words: sizes and pictures the prior, its tokens the one that draws."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from bimo.core.errors import RecipeError, RequestError, TrainingError
from bimo.core.request import Request
from bimo.core.tensors import Batch, Conditioning
from bimo.diffusion.conditioner import Conditioner, Drawing
from bimo.diffusion.image_inputs import IMAGE, pixels_of, size_of_area, upright
from bimo.diffusion.system import System
from bimo.models.cascade.conditioners import pixels_of as pixels_of_batch
from bimo.models.flow_tokens import REFERENCE
from bimo.models.glm_image.denoiser import LOOKS, REFERENCE_TOKENS, TOKENS
from bimo.models.glm_image.prior import GRIDS, PICTURE, PICTURE_GRID, TOLD
from bimo.models.glm_image.tokens import GlmImageTokenSpace, Seen, picture_names, pictures_of
from bimo.models.glm_image.words import GlmImageWordsEncoder

#: A picture is drawn at about as many pixels where no size is said.
AREA = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class PriorTask(Conditioner):
    """What the prior is to write: the grids of tokens of the size that is drawn, and before the prompt the request's
    pictures as tokens.
    """

    level: str = "prior"
    name: str = "task"
    always: ClassVar = True
    pixels: ClassVar = False

    @property
    def images(self) -> tuple[str, ...]:
        """The request's pictures."""
        return picture_names()

    def size_for(self, request: Request) -> tuple[int, int] | None:
        """The shape of the first picture, at the pixels of the published size."""
        return None if request.image is None else size_of_area(upright(request.image).size, AREA)

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Raises TrainingError: the prior is not learnt here."""
        raise TrainingError(
            "the prior of {name} writes tokens one after another and is drawn with as it was published; name the level "
            "that is conditioned on it",
            name=system.recipe.name,
        )

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Scalars of integers, on the processor: see `bimo.models.glm_image.prior`."""
        space, request = space_of(system, self.level), drawing.request
        every = seen(space, drawing)
        grids = space.grids(request.size or (0, 0), bool(every))
        numbers = {GRIDS: [side for grid in grids for side in grid], TOLD: words_of(system).told(grids)}
        for place, one in enumerate(every, 1):
            numbers |= {f"{PICTURE}{place}": one.ids.tolist(), f"{PICTURE_GRID}{place}": [one.rows, one.columns]}
        return Conditioning(scalars={name: torch.tensor([value], device="cpu") for name, value in numbers.items()})


@dataclass(frozen=True, kw_only=True)
class PriorTokens(Conditioner):
    """The tokens of the picture, each at the places of 2x2 patches: those that the level ``level`` wrote, in training
    those of the picture itself. None in the unconditional branch.
    """

    level: str = "prior"
    name: str = "prior"
    reads: ClassVar = ()

    @property
    def earlier_level(self) -> str:
        """``level``."""
        return self.level

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Scalars [B, h/2 w/2]. Raises TrainingError if the batch has no pixels."""
        return self._laid(space_of(system, self.level).encode(pixels_of_batch(batch)), batch.x.shape[-2:])

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Scalars [1, h/2 w/2]: of what was written the end, without the preview."""
        count = shape[-2] * shape[-1] // 16
        return self._laid(drawing.results[self.level][:, -count:], shape[-2:])

    def unconditional(self, value: Conditioning) -> Conditioning:
        """None of them."""
        return replace(value, scalars={TOKENS: torch.full_like(value.scalars[TOKENS], -1)})

    def _laid(self, ids: Tensor, sides: tuple[int, ...]) -> Conditioning:
        return Conditioning(scalars={TOKENS: doubled(ids, sides[0] // 4, sides[1] // 4)})


@dataclass(frozen=True, kw_only=True)
class PicturesRead(Conditioner):
    """The request's pictures, coded by the space of ``level`` and named by tokens as the prior sees them. The
    unconditional branch does not look at them.

    In training the first ``learnt`` of them come with the data as maps of these names, cropped and resized as the
    picture is; none where it is learnt to draw from words alone.
    """

    level: str = "image"
    prior: str = "prior"
    name: str = IMAGE
    learnt: int = 0
    pixels: ClassVar = False
    smooth_maps: ClassVar = True

    @property
    def images(self) -> tuple[str, ...]:
        """The request's pictures."""
        return picture_names()

    @property
    def maps(self) -> tuple[str, ...]:
        """The maps that a batch must have."""
        return self.images[: self.learnt]

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Pictures [B, C, h, w] and their tokens [B, h/2 w/2]."""
        pixels = [batch.maps[name] for name in self.maps]
        return self._coded(system, pixels, [space_of(system, self.prior).encode(each) for each in pixels])

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Pictures [1, C, h', w'] and their tokens [1, h'/2 w'/2]. Raises RequestError where the denoiser is to see a
        part of the picture at a time.
        """
        images = pictures_of(drawing.request)
        if images and drawing.request.tile_size is not None:
            raise RequestError(
                "{name} looks at whole pictures, and tile_size shows it a part at a time; leave it out",
                name=system.recipe.name,
            )
        space = space_of(system, self.prior)
        every = seen(space, drawing)
        sizes = [(one.columns * space.factor, one.rows * space.factor) for one in every]
        pixels = [pixels_of(image, size) for image, size in zip(images, sizes, strict=True)]
        return self._coded(system, pixels, [one.ids[None] for one in every])

    def _coded(self, system: System, pixels: Sequence[Tensor], ids: Sequence[Tensor]) -> Conditioning:
        """Of pictures [B, 3, H, W] and the ids [B, N] that they are named by."""
        if not pixels:
            return Conditioning()
        pictures: dict[str, Tensor] = {}
        scalars: dict[str, Tensor] = {LOOKS: torch.ones(len(pixels[0]), 1)}
        factor = space_of(system, self.prior).factor
        for place, (picture, own) in enumerate(zip(pixels, ids, strict=True), 1):
            rows, columns = (side // factor for side in picture.shape[-2:])
            with torch.no_grad():
                pictures[f"{REFERENCE}{place}"] = system.space(self.level).encode(picture)
            scalars[f"{REFERENCE_TOKENS}{place}"] = doubled(own, rows, columns)
        return Conditioning(scalars=scalars, pictures=pictures)

    def unconditional(self, value: Conditioning) -> Conditioning:
        """The same, not looked at."""
        if LOOKS not in value.scalars:
            return value
        return replace(value, scalars={**value.scalars, LOOKS: torch.zeros_like(value.scalars[LOOKS])})


def doubled(ids: Tensor, rows: int, columns: int) -> Tensor:
    """Ids [B, rows x columns] -> [B, 4 x rows x columns], each at 2x2 places."""
    grid = ids.long().unflatten(1, (rows, columns))
    return grid.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2).flatten(1)


def seen(space: GlmImageTokenSpace, drawing: Drawing) -> list[Seen]:
    """The request's pictures as the prior sees them; looked at once in a drawing."""
    every: list[Seen] = []
    for place, image in enumerate(pictures_of(drawing.request), 1):
        key = f"{PICTURE}{place}"
        if key not in drawing.kept:
            one = space.seen(upright(image))
            drawing.kept[key] = one.ids.view(one.rows, one.columns)
        rows, columns = drawing.kept[key].shape
        every.append(Seen(drawing.kept[key].flatten(), rows, columns))
    return every


def space_of(system: System, level: str) -> GlmImageTokenSpace:
    """The space of the prior. Raises RecipeError where that level is in another."""
    space = system.space(level)
    if not isinstance(space, GlmImageTokenSpace):
        raise RecipeError("the level {level} writes no tokens of pictures", level=level)
    return space


def words_of(system: System) -> GlmImageWordsEncoder:
    """The words of the prior. Raises RecipeError where there are none."""
    found = [encoder for encoder in system.text_encoders if isinstance(encoder, GlmImageWordsEncoder)]
    if not found:
        raise RecipeError("{name} needs the condition {scale!r}", name="GlmImagePrior", scale=TOLD)
    return found[0]
