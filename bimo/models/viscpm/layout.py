"""VisCPM-Paint's one file: a language model, a bridge and a UNet, distinguished by prefixes; its autoencoder is
separate.
"""

from __future__ import annotations

from pathlib import Path

import torch

from bimo.core import checkpoint_io, module_weights
from bimo.core.errors import WeightsError
from bimo.diffusion.system import System
from bimo.models.layouts.weight_files import files_of
from bimo.models.stable_diffusion.layout import vae_name

#: The names of the bridge, whole, then the prefixes of the rest.
BRIDGE = {
    "trans_block.w_out_res.weight": "out.weight",
    "trans_block.layernorm.weight": "norm.weight",
    "trans_block.layernorm.bias": "norm.bias",
}
LANGUAGE, UNET, VAE = "llm.", "unet.", "vae."


def text_name(name: str) -> str | None:
    """The text encoder's name of a tensor of the file, None for one of another component.

    Unknown names of the bridge are kept, and reported as unexpected.
    """
    if name.startswith(LANGUAGE):
        return f"model.{name.removeprefix(LANGUAGE)}"
    return BRIDGE.get(name, name) if name.startswith("trans_block.") else None


def unet_name(name: str) -> str | None:
    """The denoiser's name of a tensor of the file, None for one of another component."""
    return name.removeprefix(UNET) if name.startswith(UNET) else None


def fill(system: System, file: Path, vae: Path) -> None:
    """Puts the weights of VisCPM-Paint's file, and of the folder of Stable Diffusion 2.1's autoencoder, into a system.

    Raises WeightsError that lists missing, unexpected and misshapen names, and for a name below none of the prefixes.
    """
    state = checkpoint_io.read(file)
    strange = [name for name in state if not name.startswith((LANGUAGE, UNET, VAE, "trans_block."))]
    if strange:
        listed = ", ".join(strange[:6])
        raise WeightsError(
            "{file} has names nobody knows: {listed}; those of VisCPM-Paint begin with llm., unet., trans_block.",
            file=file,
            listed=listed,
        )
    module_weights.assign(system.get_submodule("text.0"), checkpoint_io.renamed(state, text_name), torch.float32, file)
    module_weights.assign(
        system.get_submodule("image.denoiser.model"), checkpoint_io.renamed(state, unet_name), torch.float32, file
    )
    parts = files_of(vae)
    own = {n: v for part in parts for n, v in checkpoint_io.renamed(checkpoint_io.read(part), vae_name).items()}
    module_weights.assign(system.get_submodule("image.space.model"), own, torch.float32, parts[0])
