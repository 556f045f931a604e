"""An autoencoder's reconstruction judged by a discriminator of patches as well: textures that L1 alone leaves blurred.

What no latent holds, the grains of rice or the hairs of a brush, L1 answers by their mean; a discriminator asks for
something that looks like them (arXiv:1611.07004, section 3.2; for autoencoders arXiv:2012.09841, section 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from bimo.diffusion.system import System
from bimo.training.objectives.reconstruct import Reconstruct
from bimo.training.train_inputs import TrainInputs, Vocabulary

SLOPE = 0.2


class PatchDiscriminator(nn.Module):
    """Pictures [B, 3, H, W] -> features of each layer, then one logit a patch, [B, 1, H / 8, W / 8], as the last."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inside, outside, 4, stride=2, padding=1),
                nn.Identity() if inside == 3 else nn.GroupNorm(1, outside),
                nn.LeakyReLU(SLOPE),
            )
            for inside, outside in pairwise((3, *widths))
        )
        self.leave = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features and logits."""
        found: list[Tensor] = []
        x = x.contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        return [*found, self.leave(x)]


@dataclass(frozen=True, kw_only=True)
class Adversarial(Reconstruct):
    """``Reconstruct`` plus what a discriminator of patches finds wrong, whose gradient at the picture is as long as
    ``share`` of that of the reconstruction (the adaptive weight of arXiv:2012.09841, equation 7, taken at the picture).

    The discriminator, ``widths`` wide, learns in the same step by the hinge loss (arXiv:1705.02894); the picture is
    also to have its features of the truth, ``matching`` times their L1 (arXiv:1711.11585, equation 4). Its rate is set
    by ``lr_overrides`` of "adversarial.*".
    """

    share: float = 0.4
    matching: float = 2.0
    widths: tuple[int, ...] = (48, 96, 192)

    def tiny(self) -> Self:
        """Width 8."""
        return replace(self, widths=tuple(8 for _ in self.widths))

    def extra(self, system: System, vocabulary: Vocabulary) -> nn.Module | None:
        """The discriminator."""
        return PatchDiscriminator(self.widths)

    def loss(self, inputs: TrainInputs) -> Tensor:
        """Reconstruction and what deceives, for the autoencoder; the hinge loss, for the discriminator."""
        answer, pixels = self.answered(inputs)
        discriminator = cast(PatchDiscriminator, inputs.extra)
        *true, real = discriminator(pixels)
        *_, fake = discriminator(answer.detach())
        told_apart = functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
        frozen: Mapping[str, Tensor] = {name: value.detach() for name, value in discriminator.named_parameters()}
        *features, logits = cast("list[Tensor]", functional_call(discriminator, dict(frozen), (answer,)))
        pairs = zip(features, true, strict=True)
        unlike = sum((functional.l1_loss(one, other.detach()) for one, other in pairs), answer.new_zeros(()))
        deceives = self.matching * unlike / len(features) - logits.mean()
        distance = self.distance(answer, pixels)
        return distance + self._weight(distance, deceives, answer) * deceives + told_apart

    def _weight(self, distance: Tensor, deceives: Tensor, answer: Tensor) -> Tensor:
        """What makes the second's gradient at the picture ``share`` times as long as the first's; 0 without any."""
        if not answer.requires_grad:
            return answer.new_zeros(())
        (own,), (other,) = (torch.autograd.grad(loss, answer, retain_graph=True) for loss in (distance, deceives))
        return self.share * own.float().square().sum().sqrt() / (other.float().square().sum().sqrt() + 1e-8)
