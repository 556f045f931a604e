"""From the last level's x to pixels: what a half-precision decoder cannot hold is decoded again in float32."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from bimo.core.messages import say
from bimo.diffusion.casting import dtype_of
from bimo.diffusion.space import Decoder

#: A picture whose brightest value is no more is black all over: half of one of 255.
BLACK = -1 + 1 / 255


def decode(space: Decoder, x: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """x [1, *shape] -> pixels [1, 3, H, W] and what is to be said of them.

    Where the weights of a decoder are narrower than float32 and its picture is black or holds values that are no
    numbers, while x is sound, an activation has overflowed (the autoencoder of Stable Diffusion XL in float16): it is
    decoded again in float32. Its weights are left as they were, so that what is drawn next does not depend on this.
    """
    pixels = space.decode(x)
    module = cast(nn.Module, space)
    kind = dtype_of(module) or torch.float32
    if kind == torch.float32 or torch.is_grad_enabled() or not bool(x.isfinite().all()) or _sound(pixels):
        return pixels, ()
    with _in_float32(module):
        again = space.decode(x)
    if not _sound(again):
        return again, ()  # it was not the decoder's numbers
    name = {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(kind, str(kind))
    return again, (
        say("the decoder overflowed in {dtype} and the picture was decoded again in fp32; it took longer", dtype=name),
    )


def _sound(pixels: Tensor) -> bool:
    """Whether pixels are numbers and not black all over. What is no number is no more than anything."""
    return bool(pixels.isfinite().all()) and bool(pixels.amax() > BLACK)


@contextmanager
def _in_float32(module: nn.Module) -> Generator[None]:
    kept = {name: parameter.data for name, parameter in module.named_parameters()}
    try:
        for parameter in module.parameters():
            parameter.data = parameter.data.float()
        yield
    finally:
        for name, parameter in module.named_parameters():
            parameter.data = kept[name]
