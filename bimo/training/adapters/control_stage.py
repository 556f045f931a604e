"""Stages that train a control network next to a frozen denoiser: ControlNet (arXiv:2302.05543), T2I-Adapter
(arXiv:2302.08453).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from bimo.core import checkpoint_io
from bimo.core.errors import RecipeError, WeightsError
from bimo.core.messages import Listed
from bimo.core.part import Part
from bimo.core.recipe import Level
from bimo.diffusion.system import System
from bimo.models.adapters.controlnet import T2iAdapter, add_residuals, copy_weights
from bimo.models.adapters.lora_names import root_of
from bimo.models.adapters.transformer_controlnets import WITH_CONTROLNET, controlnet_for
from bimo.models.stable_diffusion.unet import Unet
from bimo.training.adapters.adapter import Adapter


@dataclass(frozen=True, kw_only=True)
class ControlAdapters(Adapter):
    """A control ``network`` for the denoiser of a ``level`` (the last by default): "controlnet", a zero-initialised
    copy of the denoiser's first half, or "t2i", a small network that reads the control picture alone.

    Control pictures are computed from each picture: its "edges" or "outlines", or they are a "map" of that ``name`` in
    the data, such as depth. The network is written as a folder ``control-<stage>`` in diffusers' layout.
    """

    kind: ClassVar[str] = "control"

    network: Literal["controlnet", "t2i"] = "controlnet"
    name: str = "control"
    source: Literal["edges", "outlines", "map"] = "edges"
    level: str = ""

    @property
    def maps(self) -> tuple[str, ...]:
        """The map that is its control picture."""
        return (self.name,) if self.source == "map" else ()

    def put(self, system: System) -> list[str]:
        """Attaches it to the denoiser; returns the names of its parameters. Raises RecipeError for a denoiser without
        such a network.
        """
        level, path = self._place(system)
        denoiser = system.get_submodule(path)
        made = cast(Any, self._part(system)).build()
        if self.network == "controlnet":
            copy_weights(cast(nn.Module, denoiser.model), made.model, made.part.origin)
        home = level.space if isinstance(level.space, str) else level.name
        conditioner = made.part.conditioner(self.name, home, self.source)
        built = system.level(level.name)
        built.conditioners = (*built.conditioners, conditioner)
        denoiser.add_module("beside", made)
        made.hook = denoiser.register_forward_pre_hook(cast(Any, partial(_add_control, self.name)))
        return [f"{path}.beside.{name}" for name, _ in made.named_parameters()]

    def learnt(self, system: System) -> dict[str, Tensor]:
        """The weights of the network."""
        network: Any = system.get_submodule(f"{self._place(system)[1]}.beside")
        return {name: value.detach().clone() for name, value in network.model.state_dict().items()}

    def write(self, system: System, path: Path, learnt: dict[str, Tensor]) -> Path:
        """Writes a folder as diffusers reads it, reads it back and compares. Raises WeightsError."""
        made = cast(Any, self._part(system)).build()
        made.model.load_state_dict(learnt)
        made.model.save_pretrained(str(path))
        (file,) = path.glob("*.safetensors")
        saved = checkpoint_io.read(file)
        if saved.keys() != learnt.keys() or not all(torch.equal(saved[n], v.cpu()) for n, v in learnt.items()):
            raise WeightsError("{path} reads back otherwise", path=path)
        return path

    def leave(self, system: System) -> None:
        """Restores the denoiser."""
        level, path = self._place(system)
        denoiser: Any = system.get_submodule(path)
        denoiser.beside.hook.remove()
        del denoiser.beside
        built = system.level(level.name)
        built.conditioners = built.conditioners[:-1]

    def _place(self, system: System) -> tuple[Level, str]:
        name = self.level or system.recipe.levels[-1].name
        return system.recipe.level(name), root_of(system, name).removesuffix(".model")

    def _part(self, system: System) -> Part:
        within: Any = self._place(system)[0].denoiser
        while controlnet_for(within) is None and hasattr(within, "denoiser"):
            within = within.denoiser
        if isinstance(within, Unet) and self.network == "t2i":
            return T2iAdapter(widths=within.block_channels)
        made = controlnet_for(within) if self.network == "controlnet" else None
        if made is not None:
            return made
        kind = type(within).__name__
        if self.network == "t2i":
            raise RecipeError("there is no t2i for a {kind}; denoisers that are a UNet have one", kind=kind)
        raise RecipeError(
            "there is no controlnet for a {kind}; {those} have one", kind=kind, those=Listed(WITH_CONTROLNET)
        )


def _add_control(name: str, denoiser: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    x, t, conditioning, *rest = inputs
    added = add_residuals(denoiser.beside, name, denoiser.inputs, x, t, conditioning, rest[0] if rest else None)
    return (x, t, conditioning, added)
