"""Previews of a picture while it is drawn: the predicted clean x of a step, decoded at low resolution."""

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

#: The longest side of a preview in pixels; decoding at full size takes as long as a step.
SIDE = 256


def preview(system: System, denoiser_input: DenoiserInput, output: Tensor) -> Image.Image | None:
    """The picture that the conditional branch of a step predicts; None if the level's x is not a picture.

    Equation 12 of arXiv:2010.02502 for noise prediction, x - s v for flow matching (`Schedule.clean`). x of more than
    ``SIDE`` pixels is average-pooled before decoding.
    """
    level = system.level(denoiser_input.level)
    space = system.space(denoiser_input.level)
    row = slice(1, 2) if len(denoiser_input.x) > 1 else slice(0, 1)
    noised = denoiser_input.x[row]
    if noised.ndim != 4:
        return None
    try:
        clean = level.schedule.clean(output[row, : noised.shape[1]], noised, denoiser_input.t[row])
    except BimoError:  # schedules without betas
        return None
    most = max(1, SIDE // space.factor)
    longest = max(clean.shape[-2:])
    if longest > most:
        height, width = (max(1, round(side * most / longest)) for side in clean.shape[-2:])
        clean = nn.functional.adaptive_avg_pool2d(clean, (height, width))
    with torch.no_grad():
        pixels = space.decode(clean)
    if pixels.ndim == 5:
        return image_inputs.composited([image_inputs.to_image(layer) for layer in pixels[0]])
    return image_inputs.to_image(pixels[0]) if pixels.ndim == 4 and pixels.shape[1] in (3, 4) else None
