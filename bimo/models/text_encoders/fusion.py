"""Fusions of several text encoders into one conditioning."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.tensors import Conditioning, TextEncoding


@dataclass(frozen=True, kw_only=True)
class Channels(Part):
    """Concatenates the tokens of text encoders with equal lengths along the width; pooled is the last one that pools.

    Stable Diffusion XL (arXiv:2307.01952, section 2.1) and PanGu-Draw v3 (arXiv:2312.16486).
    """

    def build(self) -> ChannelsFusion:
        """The module; it has no weights."""
        return ChannelsFusion()


class ChannelsFusion(nn.Module):
    """Encodings [B, L, D1], [B, L, D2] ... -> one stream [B, L, D1 + D2 ...] and the last pooled [B, P]."""

    def fuse(self, encodings: tuple[TextEncoding, ...]) -> Conditioning:
        """One stream; a position is unmasked if any text encoder has a real token there. Raises RecipeError for
        different lengths.
        """
        lengths = [e.tokens.shape[1] for e in encodings]
        if len(set(lengths)) != 1:
            raise RecipeError(
                "text encoders side by side have one length, not {lengths}; make length the same in the recipe",
                lengths=lengths,
            )
        masks = [e.mask for e in encodings if e.mask is not None]
        mask = torch.stack(masks).any(dim=0) if len(masks) == len(encodings) else None
        pooled = [e.pooled for e in encodings if e.pooled is not None]
        tokens = torch.cat([e.tokens for e in encodings], dim=-1)
        return Conditioning((TextEncoding(tokens, mask),), pooled[-1] if pooled else None)
