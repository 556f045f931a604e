"""The initial noise of a drawing: of one seed, or interpolated between two."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bimo.diffusion.conditioner import Drawing
from bimo.diffusion.samplers import Sampler

#: Below this sine of their angle two noises count as parallel and are interpolated linearly.
PARALLEL = 1e-4


def gaussian(drawing: Drawing, shape: tuple[int, ...]) -> Tensor:
    """Noise [1, *shape] of a drawing's seed, interpolated towards that of its subseed."""
    own = torch.randn(1, *shape, generator=drawing.noise)
    if drawing.variation is None:
        return own
    other = torch.randn(1, *shape, generator=drawing.variation)
    return slerp(own, other, drawing.request.subseed_strength or 0.0)


def initial(sampler: Sampler, drawing: Drawing, shape: tuple[int, ...]) -> Tensor:
    """The initial x of text-to-image, [1, *shape]."""
    if not sampler.init_noise_sigma:
        return torch.zeros(1, *shape)
    return gaussian(drawing, shape) * sampler.init_noise_sigma


def slerp(first: Tensor, last: Tensor, share: float) -> Tensor:
    """Spherical linear interpolation of two noises, which preserves their norm; 0 is the first and 1 the last (Shoemake
    1985; for diffusion in arXiv:2010.02502, section 5.3).
    """
    if share in (0.0, 1.0):
        return last if share else first
    both = [one.flatten().double() for one in (first, last)]
    angle = torch.acos(functional.cosine_similarity(both[0], both[1], dim=0).clamp(-1, 1))
    if float(angle.sin()) < PARALLEL:
        return torch.lerp(first, last, share)
    weights = torch.sin((1 - share) * angle) / angle.sin(), torch.sin(share * angle) / angle.sin()
    return first * float(weights[0]) + last * float(weights[1])
