"""Decodes the last level's x to pixels, again in float32 if a half-precision decoder overflows."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bimo.core.messages import say
from bimo.core.pages import freed_returned
from bimo.diffusion.casting import dtype_of
from bimo.diffusion.space import Decoder

#: A picture whose brightest value is at most this is black: half of one level of 255.
BLACK = -1 + 1 / 255


def decode(space: Decoder, x: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """Decodes x [1, *shape] to pixels [1, 3, H, W], and returns warnings about them.

    A decoder with weights narrower than float32 may overflow (the autoencoder of Stable Diffusion XL in float16): the
    picture is black or not finite although x is finite. It is decoded again in float32 then. The weights are restored
    afterwards, so that the next picture does not depend on this.
    """
    with freed_returned():
        return _decoded(space, x)


def _decoded(space: Decoder, x: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    pixels = space.decode(x)
    if not isinstance(space, nn.Module):  # a tiny decoder, which is in float32 beside any system
        return pixels, ()
    kind = dtype_of(space) or torch.float32
    if kind == torch.float32 or torch.is_grad_enabled() or not bool(x.isfinite().all()) or _sound(pixels):
        return pixels, ()
    with _in_float32(space):
        again = space.decode(x)
    if not _sound(again):
        return again, ()  # not the fault of the decoder's dtype
    name = {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(kind, str(kind))
    return again, (
        say("the decoder overflowed in {dtype} and the picture was decoded again in fp32; it took longer", dtype=name),
    )


def _sound(pixels: Tensor) -> bool:
    """Whether pixels are finite and not all black; comparisons with NaN are false."""
    return bool(pixels.isfinite().all()) and bool(pixels.amax() > BLACK)


@contextmanager
def _in_float32(module: nn.Module) -> Generator[None]:
    stored_weights = {name: parameter.data for name, parameter in module.named_parameters()}
    try:
        for parameter in module.parameters():
            parameter.data = parameter.data.float()
        yield
    finally:
        for name, parameter in module.named_parameters():
            parameter.data = stored_weights[name]
