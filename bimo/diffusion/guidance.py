"""Classifier-free guidance: combines the denoiser's outputs for all branches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bimo.core.recipe import Branch, Guidance, ProjectedGuidance
from bimo.core.tensors import TextEncoding


def on(guide: Guidance, scale: float, step: int, steps: int) -> bool:
    """Whether more than the conditional branch is computed at a step.

    As in diffusers, at a scale of ``baseline_scale`` (1) or less the conditional branch is the only one.
    """
    low, high = guide.interval
    within = low <= step / max(1, steps - 1) <= high and (step + 1) / steps <= guide.until
    return scale > guide.baseline_scale and within


def wanted(guide: Guidance, scale: float, negative: str | None) -> float:
    """The scale for a negative prompt (None for none): with ``only_with_negative`` guidance is off without one."""
    return guide.baseline_scale if guide.only_with_negative and negative is None else scale


def heeds_empty(guide: Guidance) -> bool:
    """Whether an empty negative prompt has another effect than none."""
    return guide.only_with_negative or guide.unconditional == "zeros_without_negative"


class Projection:
    """The projected guidance of one drawing, with its running average over the steps."""

    def __init__(self, projected: ProjectedGuidance, prompt: Sequence[TextEncoding]) -> None:
        last = prompt[-1].mask if prompt else None
        written = last is not None and bool(last.any())
        self.projected = projected
        self.start = projected.start_written if written else projected.start
        self.average: Tensor | None = None

    def guided(self, unconditional: Tensor, conditional: Tensor, step: int) -> Tensor | None:
        """Both branches' outputs [1, ...] of a step -> the guided output; None while it only averages."""
        difference = conditional - unconditional
        own = self.projected
        average = difference if self.average is None else difference + own.momentum * self.average
        self.average = average
        if step <= self.start:
            return None
        axes = tuple(range(1, average.ndim))
        if own.threshold > 0:
            average = average * (own.threshold / _length("whole", average)).clamp(max=1.0)
        direction = conditional.double()
        direction = direction / _length("whole", direction).clamp(min=1e-12)
        parallel = (average.double() * direction).sum(dim=axes, keepdim=True) * direction
        update = (average.double() - parallel).to(average) + own.eta * parallel.to(average)
        return unconditional + own.scale * update


def combine(
    guide: Guidance,
    scale: float,
    output: Tensor,
    weights: Sequence[tuple[Branch, float]] = (),
    projection: Projection | None = None,
    step: int = 0,
) -> Tensor:
    """Combines [2 + n, C, h, w] (unconditional, conditional, then n further branches) or [1, C, h, w] (conditional
    alone) to [1, C, h, w].

    w is the scale of equation 6 in arXiv:2207.12598, counted as in diffusers: e + w (c - e). Each branch adds k (c_i -
    c) for a prefix, k (c - c_i) for dropped conditioning. Then the output is rescaled (arXiv:2305.08891, equations 15
    and 16). A ``projection`` sees every step, and replaces the sum once it has started.
    """
    if output.shape[0] == 1:
        return output
    rows = [output[row : row + 1] for row in range(len(output))]
    rest = rows[1][:, guide.channels :] if guide.channels else None
    if rest is not None:
        rows = [row[:, : guide.channels] for row in rows]
    unconditional, conditional, *others = rows
    guided = None if projection is None else projection.guided(unconditional, conditional, step)
    if guided is None:
        guided = unconditional + (scale + 1 - guide.baseline_scale) * (conditional - unconditional)
    for (branch, weight), other in zip(weights, others, strict=True):
        guided = guided + weight * ((conditional - other) if branch.drop else (other - conditional))
    axes = tuple(range(1, output.ndim))
    if guide.rescale > 0:
        fitted = guided * (conditional.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True))
        guided = torch.lerp(guided, fitted, guide.rescale)
    if guide.norm:
        ratio = _length(guide.norm, conditional) / _length(guide.norm, guided).clamp(min=1e-12)
        guided = guided * (ratio if guide.lengthen else ratio.clamp(max=1.0))
    return guided if rest is None else torch.cat([guided, rest], dim=1)


def join(guide: Guidance, output: Tensor, branches: int, weights: Sequence[float | Tensor]) -> Tensor:
    """Composes n prompts: [branches + n - 1, ...] (the rows of ``combine``, then n - 1 further prompts) -> [branches,
    ...], whose conditional row is e + sum of w_i (c_i - e), equation 11 of arXiv:2206.01714; weights are numbers or
    maps [1, 1, h, w]. A learned variance is that of the first prompt.
    """
    null, first = output[:1], output[1:2]
    prompts = [first, *(output[row : row + 1] for row in range(branches, len(output)))]
    joined = null + sum((weight * (one - null) for weight, one in zip(weights, prompts, strict=True)), null * 0)
    if guide.channels:
        joined = torch.cat([joined[:, : guide.channels], first[:, guide.channels :]], dim=1)
    return torch.cat([null, joined, output[2:branches]])


def _length(over: str, output: Tensor) -> Tensor:
    """The Euclidean norm of an output [1, C, h, w] over some of its axes, broadcastable to it."""
    squares = output.square()
    if over == "patch":
        # Qwen-Image and LongCat-Image pack 2x2 positions into one token; the norm is that of a token.
        sums = nn.functional.avg_pool2d(squares.sum(dim=1, keepdim=True), 2) * 4
        return nn.functional.interpolate(sums.sqrt(), scale_factor=2)
    axes = {"whole": tuple(range(1, output.ndim)), "place": (1,), "row": (-1,)}[over]
    return squares.sum(dim=axes, keepdim=True).sqrt()


def first_set(*values: float | None) -> float:
    """The first value that is not None."""
    return next(value for value in values if value is not None)
