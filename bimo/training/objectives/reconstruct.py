"""Objectives of autoencoders and text encoders: reconstruction, and contrast of text with latents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bimo.core.recipe import Stage
from bimo.diffusion.system import System
from bimo.training.objectives.objective import Objective
from bimo.training.train_inputs import TrainInputs, Vocabulary, several

MAXIMUM_LOGIT_SCALE = math.log(100)
RARE_LOGIT = -4.0


@dataclass(frozen=True, kw_only=True)
class Reconstruct(Objective):
    """The reconstruction loss of an autoencoder: L1, L1 of differences between neighbours, and L2 of means over 8 x 8
    pixels.

    Trained on crops of ``crop`` pixels, as convolutions learn as much from a part. ``scales`` are further sides of
    squares whose means have an L1 of half the weight; ``chroma`` weighs the differences red - green and blue - yellow
    over 8 x 8, without which colours are learned long after brightness.
    """

    captions: ClassVar = "none"

    level: str
    crop: int = 64
    edges: float = 0.5
    means: float = 1.0
    scales: tuple[int, ...] = ()
    chroma: float = 0.0
    sees: str = "pixels"

    def levels(self, stage: Stage) -> tuple[str, ...]:
        """That of its space."""
        return (stage.level or self.level,)

    def loss(self, inputs: TrainInputs) -> Tensor:
        """The weighted sum."""
        return self.distance(*self.reconstruct(inputs))

    def reconstruct(self, inputs: TrainInputs) -> tuple[Tensor, Tensor]:
        """The reconstruction of the batch's pixels, and these with the same crop, each [B, 3, h, w]."""
        assert inputs.pixels is not None
        pixels = self._cropped(inputs.pixels, inputs.generator)
        space: Any = inputs.system.space(self.level)
        shape = space.shape((pixels.shape[3], pixels.shape[2]))
        noise = inputs.own(torch.randn((inputs.total_rows, *shape), generator=inputs.generator))
        return space.reconstruct(pixels, noise), pixels

    def distance(self, reconstruction: Tensor, pixels: Tensor) -> Tensor:
        """The weighted loss of pictures [B, 3, h, w] in [-1, 1]."""
        loss = functional.l1_loss(reconstruction, pixels)
        for axis in (2, 3):
            loss = loss + self.edges * functional.l1_loss(reconstruction.diff(dim=axis), pixels.diff(dim=axis))
        for side in self.scales:
            error = functional.avg_pool2d(reconstruction, side) - functional.avg_pool2d(pixels, side)
            loss = loss + 0.5 * error.abs().mean()
        error = functional.avg_pool2d(reconstruction, 8) - functional.avg_pool2d(pixels, 8)
        if self.chroma:
            red, green, blue = error.unbind(1)
            opposed = (red - green).abs().mean() + (blue - (red + green) / 2).abs().mean()
            loss = loss + self.chroma * opposed
        return loss + self.means * error.square().mean()

    def _cropped(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        spare = [side - self.crop for side in pixels.shape[2:]]
        if min(spare) <= 0:
            return pixels
        # One position for the whole batch: slices without a gather, as batches are small and many.
        home = generator.device  # where numbers are read without waiting for a card
        top, left = (int(torch.randint(0, s + 1, (1,), generator=generator, device=home)) for s in spare)
        return pixels[:, :, top : top + self.crop, left : left + self.crop].contiguous()


class Contrasted(nn.Module):
    """The image encoder over latents, the heads that predict labels from text, and the temperature."""

    def __init__(
        self,
        channels: int,
        width: int,
        project: int,
        labels: Mapping[str, int],
        flat: bool = True,
        sets: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.image = nn.Sequential(
            nn.Conv2d(channels, width // 2, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.SiLU(),
            *(() if flat else (nn.AdaptiveAvgPool2d(1),)),
            nn.Flatten(),
            nn.LazyLinear(project),
        )
        self.heads = nn.ModuleDict({label: nn.Linear(project, count + 1) for label, count in labels.items()})
        self.sets = nn.ModuleDict({label: nn.Linear(project, count) for label, count in (sets or {}).items() if count})
        for head in self.sets.values():
            # A picture has few of hundreds of elements: the biases start with that prior.
            nn.init.constant_(cast(Tensor, head.bias), RARE_LOGIT)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))


@dataclass(frozen=True, kw_only=True)
class Contrast(Objective):
    """The contrastive loss of CLIP (arXiv:2103.00020, figure 3) between pooled text and an image encoder over latents,
    with heads that predict the labels of the picture from the text.

    Pairs with equal labels, if there are any, describe the same picture: they count as neither right nor wrong. With
    ``flat`` the image encoder distinguishes positions, for pictures of the recipe's own size only; without it they are
    averaged. ``sets`` are multi-valued labels, each value of which is predicted from the text: the elements of a scene,
    or those named in a verse.
    """

    level: str
    width: int = 128
    project: int = 256
    flat: bool = True
    heads: tuple[str, ...] = ()
    weight: float = 1.0
    sets: tuple[str, ...] = ()

    def tiny(self) -> Self:
        """The pooled width of tiny text encoders."""
        return replace(self, width=16, project=min(self.project, 16))

    def levels(self, stage: Stage) -> tuple[str, ...]:
        """That of its latents."""
        return (stage.level or self.level,)

    def extra(self, system: System, vocabulary: Vocabulary) -> nn.Module | None:
        """The image encoder and heads."""
        space = system.space(self.level)
        heads, sets = vocabulary.sizes(self.heads), vocabulary.sizes(self.sets)
        made = Contrasted(space.channels, self.width, self.project, heads, self.flat, sets)
        made.image(torch.zeros(1, *space.shape(system.recipe.request.size)))
        return made

    def loss(self, inputs: TrainInputs) -> Tensor:
        """Contrast in both directions plus the mean cross-entropy of the heads."""
        assert inputs.batch is not None
        extra = cast(Contrasted, inputs.extra)
        pooled = cast(Tensor, inputs.batch.encodings[-1].pooled)
        words = functional.normalize(pooled, dim=1)
        pictures = functional.normalize(extra.image(inputs.batch.x), dim=1)
        scale = extra.logit_scale.clamp(max=MAXIMUM_LOGIT_SCALE).exp()
        same, right = inputs.own(self._same(inputs.labels)), inputs.own(torch.arange(inputs.total_rows))
        to_pictures = (scale * words @ inputs.gather(pictures).T).masked_fill(same, float("-inf"))
        to_words = (scale * pictures @ inputs.gather(words).T).masked_fill(same, float("-inf"))
        loss = (functional.cross_entropy(to_pictures, right) + functional.cross_entropy(to_words, right)) / 2
        for label, head in extra.heads.items():
            wanted = inputs.own(inputs.vocabulary.indices(label, inputs.labels))
            loss = loss + self.weight * functional.cross_entropy(head(pooled), wanted) / len(self.heads)
        return loss + self._named(extra, pooled, inputs) if extra.sets else loss

    def _named(self, extra: Contrasted, pooled: Tensor, inputs: TrainInputs) -> Tensor:
        """The cross-entropy of the values of ``sets``, over the values that each row declares."""
        losses: list[Tensor] = []
        for label, head in extra.sets.items():
            wanted = inputs.own(inputs.vocabulary.members(label, inputs.labels))
            labelled = inputs.own(torch.tensor([bool(several(row.get(label))) for row in inputs.labels])).float()
            each = functional.binary_cross_entropy_with_logits(head(pooled).float(), wanted, reduction="none")
            row = each.sum(1) / wanted.sum(1).clamp(min=1)
            losses.append((row * labelled).sum() / labelled.sum().clamp(min=1))
        return self.weight * torch.stack(losses).mean()

    @staticmethod
    def _same(labels: Sequence[Mapping[str, Any]]) -> Tensor:
        sorted_labels = [sorted((k, v) for k, v in row.items() if k != "pose") for row in labels]
        # Pictures without labels differ from each other.
        keys = [repr(some or place) for place, some in enumerate(sorted_labels)]
        number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        places = torch.tensor([number[key] for key in keys])
        return (places[:, None] == places[None]) & ~torch.eye(len(keys), dtype=torch.bool)
