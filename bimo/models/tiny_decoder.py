"""A small decoder in place of an autoencoder's own: diffusers' AutoencoderTiny (TAESD and its relatives)."""

# diffusers loads its classes lazily, which reads as private, and leaves parts of its interface untyped.
# pyright: reportPrivateImportUsage=false, reportUnknownMemberType=false

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from bimo.core.errors import WeightsError
from bimo.diffusion.casting import run_in_own_dtype
from bimo.diffusion.space import Space
from bimo.diffusion.system import System


class TinySpace:
    """The last level's space of a system, decoded by an AutoencoderTiny in float32. It is not registered as a module of
    the system, so that the system's weights are saved without it.
    """

    def __init__(self, space: Space, network: Any) -> None:
        self.space = space
        self.network = network
        self.channels = space.channels
        self.factor = space.factor

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """As the space's."""
        return self.space.shape(size)

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """As the space's own."""
        return self.space.encode(pixels, generator)

    def decode(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, 3, H, W]. It was trained on x itself, in the scale of the denoiser."""
        network = self.network.to(x.device)
        return run_in_own_dtype(network, lambda x: network.decode(x).sample, x)


def tiny_space(folder: Path, system: System) -> TinySpace:
    """The decoder of an AutoencoderTiny in a diffusers folder. Raises WeightsError if it is another class, or for
    another family.
    """
    from diffusers import AutoencoderTiny

    space = system.space(system.recipe.levels[-1].name)
    try:
        config = AutoencoderTiny.load_config(str(folder), local_files_only=True)
        if dict(cast(Any, config)).get("_class_name") != "AutoencoderTiny":
            raise ValueError(f"its config is of {dict(cast(Any, config)).get('_class_name')}")
        network = AutoencoderTiny.from_pretrained(str(folder), local_files_only=True, use_safetensors=True).eval()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            "{folder} is no AutoencoderTiny in diffusers' layout with safetensors, as madebyollin/taesd is: {cause}",
            folder=folder,
            cause=cause,
        ) from None
    settings: Any = network.config
    factor = 2 ** (len(settings.num_decoder_blocks) - 1)
    if (settings.latent_channels, factor) != (space.channels, space.factor):
        raise WeightsError(
            "the tiny decoder in {folder} reads {tiny} channels at 1/{factor}, but {name} draws {channels} at 1/{own}; "
            "take the one of its family",
            folder=folder,
            tiny=settings.latent_channels,
            factor=factor,
            name=system.recipe.name,
            channels=space.channels,
            own=space.factor,
        )
    return TinySpace(space, network.requires_grad_(False))
