"""Adversarial training of an autoencoder by a patch discriminator, for textures that L1 alone leaves blurred.

L1 answers details that no latent holds, such as grains of rice or hairs of a brush, by their mean; a discriminator
demands realistic ones (arXiv:1611.07004, section 3.2; for autoencoders arXiv:2012.09841, section 3.1).
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
    """Pictures [B, 3, H, W] -> the features of each layer, then one logit for each patch, [B, 1, H / 8, W / 8], as the
    last.
    """

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
        features: list[Tensor] = []
        x = x.contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return [*features, self.leave(x)]


@dataclass(frozen=True, kw_only=True)
class Adversarial(Reconstruct):
    """``Reconstruct`` plus the loss of a patch discriminator, weighted so that its gradient by the picture has
    ``share`` of the norm of the reconstruction's (the adaptive weight of arXiv:2012.09841, equation 7, computed at the
    picture).

    The discriminator, ``widths`` wide, is trained in the same step by the hinge loss (arXiv:1705.02894); feature
    matching adds ``matching`` times the L1 of its features (arXiv:1711.11585, equation 4). Its learning rate is set by
    ``lr_overrides`` of "adversarial.*".
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
        """Reconstruction and adversarial loss for the autoencoder, plus the hinge loss for the discriminator."""
        reconstruction, pixels = self.reconstruct(inputs)
        discriminator = cast(PatchDiscriminator, inputs.extra)
        *true, real = discriminator(pixels)
        *_, fake = discriminator(reconstruction.detach())
        discriminator_loss = functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
        frozen: Mapping[str, Tensor] = {name: value.detach() for name, value in discriminator.named_parameters()}
        *features, logits = cast("list[Tensor]", functional_call(discriminator, dict(frozen), (reconstruction,)))
        pairs = zip(features, true, strict=True)
        feature_matching = sum(
            (functional.l1_loss(one, other.detach()) for one, other in pairs), reconstruction.new_zeros(())
        )
        deceives = self.matching * feature_matching / len(features) - logits.mean()
        distance = self.distance(reconstruction, pixels)
        return distance + self._weight(distance, deceives, reconstruction) * deceives + discriminator_loss

    def _weight(self, distance: Tensor, deceives: Tensor, reconstruction: Tensor) -> Tensor:
        """The weight that makes the norm of the second gradient at the picture ``share`` of the first's; 0 without
        gradients.
        """
        if not reconstruction.requires_grad:
            return reconstruction.new_zeros(())
        (own,), (other,) = (
            torch.autograd.grad(loss, reconstruction, retain_graph=True) for loss in (distance, deceives)
        )
        return self.share * own.float().square().sum().sqrt() / (other.float().square().sum().sqrt() + 1e-8)
