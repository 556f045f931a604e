"""ESRGAN's generator (arXiv:1809.00219): a picture four times larger, in one step and without noise.

A level with the schedule `SingleStepRegression` whose condition is the smaller picture. The published weights use the
channel order BGR.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from bimo.core import checkpoint_io, module_weights
from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.tensors import Conditioning
from bimo.diffusion.denoiser import Denoiser

SCALE = 4
#: The residual scaling factor (section 3.1 of the paper).
RESIDUAL = 0.2


@dataclass(frozen=True, kw_only=True)
class Esrgan(Part):
    """Residual-in-residual dense blocks, ``blocks`` of them over ``width`` features that grow by ``growth``.

    ``bgr`` says that the weights use the channel order blue, green, red.
    """

    width: int = 64
    blocks: int = 23
    growth: int = 32
    bgr: bool = True

    def build(self) -> EsrganDenoiser:
        """The module."""
        return EsrganDenoiser(self)

    def tiny(self) -> Self:
        """Width 8, two blocks."""
        return replace(self, width=8, blocks=2, growth=4)


class Dense(nn.Module):
    """Five densely connected convolutions."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for index in range(1, 6):
            after = growth if index < 5 else width
            self.add_module(f"conv{index}", nn.Conv2d(width + (index - 1) * growth, after, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h, w]."""
        features = [x]
        for index in range(1, 5):
            features.append(functional.leaky_relu(self.get_submodule(f"conv{index}")(torch.cat(features, dim=1)), 0.2))
        return x + RESIDUAL * self.get_submodule("conv5")(torch.cat(features, dim=1))


class Residual(nn.Module):
    """Three dense blocks with a skip connection."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = Dense(width, growth)
        self.rdb2 = Dense(width, growth)
        self.rdb3 = Dense(width, growth)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h, w]."""
        return x + RESIDUAL * self.rdb3(self.rdb2(self.rdb1(x)))


class EsrganDenoiser(Denoiser):
    """Ignores x and t; upscales the condition's picture [R, 3, h, w] to [R, 3, 4h, 4w], both in [-1, 1]."""

    def __init__(self, part: Esrgan) -> None:
        super().__init__()
        self.part = part
        width = part.width
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(Residual(width, part.growth) for _ in range(part.blocks)))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    @property
    def shift_equivariant(self) -> bool:
        """True: it is convolutions alone."""
        return True

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's output. Raises RecipeError if the picture is not a quarter of x."""
        small = conditioning.spatial
        if small is None or [side * SCALE for side in small.shape[-2:]] != list(x.shape[-2:]):
            size = "nothing" if small is None else str(tuple(small.shape[-2:]))
            wanted = tuple(side // SCALE for side in x.shape[-2:])
            raise RecipeError(
                "Esrgan enlarges a picture of {wanted} by {scale}; it is given {found}",
                wanted=wanted,
                scale=SCALE,
                found=size,
            )
        order = (2, 1, 0) if self.part.bgr else (0, 1, 2)
        first = self.conv_first((small / 2 + 0.5)[:, order, :, :])
        h = first + self.conv_body(self.body(first))
        for convolution in (self.conv_up1, self.conv_up2):
            wide = functional.interpolate(h, scale_factor=2.0, mode="nearest")
            h = functional.leaky_relu(convolution(wide), 0.2)
        output = self.conv_last(functional.leaky_relu(self.conv_hr(h), 0.2))
        return output[:, order, :, :] * 2 - 1


def fill(denoiser: EsrganDenoiser, path: Path) -> None:
    """Loads RRDB_ESRGAN_x4.pth, with any of its namings, into a denoiser. Raises WeightsError that lists what is
    missing, unexpected or misshapen.
    """
    module_weights.assign(
        denoiser, checkpoint_io.renamed(checkpoint_io.read(path), published_name), torch.float32, path
    )


_OLD_BLOCK = re.compile(r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.(weight|bias)")
_OLD_NAMES = {
    "model.0": "conv_first",
    "model.3": "conv_up1",
    "model.6": "conv_up2",
    "model.8": "conv_hr",
    "model.10": "conv_last",
}
_NEW_BLOCK = re.compile(r"RRDB_trunk\.(\d+)\.RDB(\d)\.conv(\d)\.(weight|bias)")
_NEW_NAMES = {"trunk_conv": "conv_body", "upconv1": "conv_up1", "upconv2": "conv_up2", "HRconv": "conv_hr"}
_LAST_OF_BODY = re.compile(r"model\.1\.sub\.\d+\.(weight|bias)")


def published_name(name: str) -> str:
    """Our name of a tensor of RRDB_ESRGAN_x4.pth, in either of its authors' two namings, or in Real-ESRGAN's, which is
    ours.
    """
    for pattern in (_OLD_BLOCK, _NEW_BLOCK):
        if found := pattern.fullmatch(name):
            return f"body.{found[1]}.rdb{found[2]}.conv{found[3]}.{found[4]}"
    if found := _LAST_OF_BODY.fullmatch(name):
        return f"conv_body.{found[1]}"
    head, _, last = name.rpartition(".")
    return f"{_OLD_NAMES.get(head) or _NEW_NAMES.get(head) or head}.{last}"
