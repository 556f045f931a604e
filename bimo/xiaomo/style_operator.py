"""A first level in two parts: the content in one default style, and an operator that restyles its latents.

For a kind and a style never seen together, each is known from other pairs: a style acts on latents as the same small
convolution for all kinds, so it need not be learned for each pair (content and style separated as in arXiv:1610.07629,
whose styles are scales and shifts of one network).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from bimo.core.part import Part
from bimo.core.tensors import Batch, Conditioning, TextEncoding
from bimo.diffusion.denoiser import Denoiser
from bimo.training.train_inputs import TrainInputs
from bimo.xiaomo.first_level import Expected
from bimo.xiaomo.layered_objects import LayeredObjects, layered


@dataclass(frozen=True, kw_only=True)
class Restyled(Part):
    """``content`` predicts the content; ``blocks`` of ``width`` channels restyle it, scaled and shifted by a style
    vector of ``style`` numbers that ``queries`` read from the text.
    """

    content: Expected
    width: int = 96
    blocks: int = 3
    style: int = 128
    queries: int = 2

    def build(self) -> RestyledDenoiser:
        """The module."""
        return RestyledDenoiser(self)

    def tiny(self) -> Self:
        """Width 8, one block."""
        return replace(self, content=self.content.tiny(), width=8, blocks=1, style=8)


class RestyledDenoiser(Denoiser):
    """x [R, C, h, w], t and conditioning -> [R, C, h, w]; only the shape of x is used, as by the content."""

    reads_x = False

    def __init__(self, part: Restyled) -> None:
        super().__init__()
        self.part = part
        self.content = part.content.build()
        self.operator = StyleOperator(part)

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The restyled content."""
        return self.both(x, t, conditioning)[1]

    def both(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        """The content in the default style, and restyled, each [R, C, h, w]."""
        content = self.content(x, t, conditioning)
        return content, self.operator(content, conditioning.streams[0])


class StyleOperator(nn.Module):
    """Latents [R, C, h, w] and text -> restyled latents; the identity at initialisation."""

    def __init__(self, part: Restyled) -> None:
        super().__init__()
        channels, text, width = part.content.channels, part.content.text, part.width
        self.width = text
        self.query = nn.Parameter(torch.randn(part.queries, text) / math.sqrt(text))
        self.keys = nn.Linear(text, text * 2)
        self.style = nn.Sequential(nn.Linear(part.queries * text, part.style), nn.SiLU())
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(StyledBlock(width, part.style) for _ in range(part.blocks))
        self.leave = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(cast(Tensor, self.leave.bias))

    def forward(self, x: Tensor, words: TextEncoding) -> Tensor:
        """The restyled latents."""
        style = self.read(words)
        h = self.enter(x)
        for block in self.blocks:
            h = block(h, style)
        return x + self.leave(nn.functional.silu(h))

    def read(self, words: TextEncoding) -> Tensor:
        """The style vector of the text, [R, style]."""
        keys, values = self.keys(words.tokens).chunk(2, dim=-1)
        scores = torch.einsum("qd,bld->bql", self.query, keys) / math.sqrt(self.width / 8)
        if words.mask is not None:
            scores = scores.masked_fill(~words.mask[:, None], float("-inf"))
        return self.style((scores.softmax(-1).to(values.dtype) @ values).flatten(1))


class StyledBlock(nn.Module):
    """x + a convolution of x, scaled and shifted by the style."""

    def __init__(self, width: int, style: int) -> None:
        super().__init__()
        self.shade = nn.Linear(style, 2 * width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """[R, D, h, w] and [R, style] -> [R, D, h, w]."""
        scale, shift = self.shade(style)[:, :, None, None].chunk(2, dim=1)
        h = self.first(nn.functional.silu(x)) * (1 + scale) + shift
        return x + self.second(nn.functional.silu(h))


@dataclass(frozen=True, kw_only=True)
class DefaultLook(LayeredObjects):
    """``LayeredObjects`` plus ``look`` times the squared error of the content itself in rows whose label "style" is one
    of ``looks`` and that have no effect: there the operator should be the identity.
    """

    looks: tuple[str, ...] = ()
    look: float = 0.5

    def loss(self, inputs: TrainInputs) -> Tensor:
        """The mean over the rows of all three losses."""
        batch = cast(Batch, inputs.batch)
        question = self.question(inputs, inputs.stage.level)
        denoiser = cast(RestyledDenoiser, inputs.system.level(inputs.stage.level).denoiser)
        content, restyled = denoiser.both(
            question.denoiser_input.x, question.denoiser_input.t, question.denoiser_input.conditioning
        )
        loss = self.errors(question, restyled.to(batch.x.dtype)).mean()
        rows: list[dict[str, Any]] = [dict(row) for row in inputs.own(inputs.labels)]
        plain = torch.tensor([row.get("style") in self.looks and not row.get("effect") for row in rows])
        default_look = plain.to(batch.x.device) & ~batch.dropped_captions
        error = self.errors(question, content.to(batch.x.dtype))
        loss = loss + self.look * (error * default_look).mean()
        readings = layered(inputs.system, inputs.stage.level).read_layers(question.denoiser_input.conditioning)
        return loss + self.weight * self.layer_loss(readings, rows, batch.dropped_captions, inputs)
