"""What a picture looks like while it is drawn: the clean x that the denoiser means at a step, decoded small."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bimo.core.errors import BimoError
from bimo.core.tensors import DenoiserInput
from bimo.diffusion import image_inputs
from bimo.diffusion.system import System

if TYPE_CHECKING:
    from PIL import Image

#: The longer side of a preview in pixels, at most: decoding all of a picture takes as long as a step.
SIDE = 256


def preview(system: System, asked: DenoiserInput, answer: Tensor) -> Image.Image | None:
    """The picture as the conditional branch of a step means it, None where a level's x is no picture.

    Equation 12 of arXiv:2010.02502 for noise, x - s v for flows (`Schedule.clean`). x of more than ``SIDE`` pixels is
    averaged before it is decoded.
    """
    level = system.level(asked.level)
    space = system.space(asked.level)
    row = slice(1, 2) if len(asked.x) > 1 else slice(0, 1)
    noised = asked.x[row]
    if noised.ndim != 4:
        return None
    try:
        clean = level.schedule.clean(answer[row, : noised.shape[1]], noised, asked.t[row])
    except BimoError:  # noise that does not go by betas
        return None
    most = max(1, SIDE // space.factor)
    longest = max(clean.shape[-2:])
    if longest > most:
        height, width = (max(1, round(side * most / longest)) for side in clean.shape[-2:])
        clean = nn.functional.adaptive_avg_pool2d(clean, (height, width))
    with torch.no_grad():
        pixels = space.decode(clean)
    return image_inputs.to_image(pixels[0]) if pixels.ndim == 4 and pixels.shape[1] == 3 else None
