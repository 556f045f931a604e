"""Adapters with a control picture: ControlNet (arXiv:2302.05543), HunyuanDiT's ControlNet, T2I-Adapter
(arXiv:2302.08453).
"""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.tensors import Conditioning, TextEncoding
from bimo.diffusion.denoiser import DenoiserWrapper
from bimo.models.adapters.control_conditioner import Control, weight_name, words_name
from bimo.models.hunyuan_dit.denoiser import Hunyuan
from bimo.models.stable_diffusion.unet import Unet


@dataclass(frozen=True, kw_only=True)
class ControlPart(Part):
    """The settings of an adapter with a control picture, and the conditioner that supplies the picture."""

    def conditioner(self, name: str, level: str, source: Literal["edges", "outlines", "map"] = "edges") -> Control:
        """The conditioner that passes the control picture ``name`` to the adapter, in the space of a level."""
        return Control(name=name, level=level, source=source)

    def origin(self, name: str) -> str:
        """The name of the denoiser's tensor from which the adapter's tensor ``name`` is initialised, by default the
        same name.
        """
        return name


@dataclass(frozen=True, kw_only=True)
class Controlled(Part):
    """A denoiser with an adapter for the control picture ``name`` of the conditioning. It can be nested; the residuals
    of all adapters are summed.
    """

    denoiser: Part
    adapter: Part
    name: str = "control"

    def build(self) -> ControlledDenoiser:
        """The module."""
        return ControlledDenoiser(self)


class ControlledDenoiser(DenoiserWrapper):
    """x [R, C, h, w], t [R] and conditioning with a control picture -> the denoiser's output. The denoiser's parameters
    are below ``denoiser.``, the adapter's, with their published names, below ``adapter.model.``.
    """

    def __init__(self, part: Controlled) -> None:
        super().__init__()
        self.part = part
        self.denoiser: Any = cast(Any, part.denoiser).build()
        self.adapter: Any = cast(Any, part.adapter).build()

    def forward(
        self, x: Tensor, t: Tensor, conditioning: Conditioning, added: Mapping[str, Any] | None = None
    ) -> Tensor:
        """The denoiser's output. Raises RecipeError if there is no control picture."""
        own = add_residuals(self.adapter, self.part.name, self.inputs, x, t, conditioning, added)
        return self.denoiser(x, t, conditioning, own)

    def inputs(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """The arguments of the wrapped denoiser."""
        return self.denoiser.inputs(x, t, conditioning)


def add_residuals(
    adapter: Any,
    name: str,
    inputs: Callable[[Tensor, Tensor, Conditioning], Mapping[str, Any]],
    x: Tensor,
    t: Tensor,
    conditioning: Conditioning,
    added: Mapping[str, Any] | None,
) -> Mapping[str, Any]:
    """The residuals of the adapter for the control picture ``name``, summed with those in ``added``. Raises RecipeError
    if there is no control picture.
    """
    picture = conditioning.pictures.get(name)
    if picture is None:
        raise RecipeError(
            "the denoiser looks at a picture {name!r}, but no condition of the level gives one", name=name
        )
    weight = conditioning.scalars[weight_name(name)].to(x)
    own = added or {}
    words = conditioning.pictures.get(words_name(name))
    own_conditioning = conditioning if words is None else replace(conditioning, streams=(TextEncoding(words.to(x)),))
    if weight.any():
        own = sum_residuals(own, adapter(inputs(x, t, own_conditioning), picture.to(x), weight[:, :, None, None]))
    return own


def sum_residuals(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The sum of two adapters' residuals."""
    total = {**one, **other}
    for name in one.keys() & other.keys():
        a, b = one[name], other[name]
        if isinstance(a, Mapping):
            total[name] = sum_residuals(cast("Mapping[str, Any]", a), b)
        else:
            total[name] = a + b if isinstance(a, Tensor) else [x + y for x, y in zip(a, b, strict=True)]
    return total


@dataclass(frozen=True, kw_only=True)
class ControlNet(ControlPart):
    """A copy of the encoder half of ``unet`` that gets the control picture through convolutions of widths
    ``embedding``. A ``pooled`` one (the shuffle ControlNet) averages its residuals over the image, and adds nothing to
    the unconditional branch.
    """

    unet: Unet
    picture: int = 3
    embedding: tuple[int, ...] = (16, 32, 96, 256)
    order: Literal["rgb", "bgr"] = "rgb"
    pooled: bool = False

    def conditioner(self, name: str, level: str, source: Literal["edges", "outlines", "map"] = "edges") -> Control:
        """With ``guided`` if it is pooled."""
        return Control(name=name, level=level, source=source, guided=self.pooled)

    def build(self) -> ControlNetAdapter:
        """The module."""
        return ControlNetAdapter(self)

    def tiny(self) -> Self:
        """The copy of a tiny UNet, with as many embedding layers, so that the picture is downsampled by the same
        factor.
        """
        return replace(self, unet=self.unet.tiny(), embedding=(4,) * len(self.embedding))


class ControlNetAdapter(nn.Module):
    """Pictures [R, 3, H, W] in [0, 1] and weights [R, 1, 1, 1] -> residuals for the UNet's skip connections."""

    def __init__(self, part: ControlNet) -> None:
        super().__init__()
        from diffusers import ControlNetModel

        self.part = part
        self.model = ControlNetModel(
            **part.unet.settings(),
            in_channels=part.unet.channels,
            conditioning_channels=part.picture,
            conditioning_embedding_out_channels=part.embedding,
            controlnet_conditioning_channel_order=part.order,
            global_pool_conditions=part.pooled,
        )

    def forward(self, inputs: Mapping[str, Any], picture: Tensor, weight: Tensor) -> dict[str, Any]:
        """Residuals of the down blocks and of the mid block."""
        down, middle = self.model(
            inputs["sample"][:, : self.part.unet.channels],
            inputs["timestep"],
            inputs["encoder_hidden_states"],
            picture,
            class_labels=inputs["class_labels"],
            added_cond_kwargs=inputs["added_cond_kwargs"],
            return_dict=False,
        )
        return {
            "down_block_additional_residuals": [value * weight for value in down],
            "mid_block_additional_residual": middle * weight,
        }


@dataclass(frozen=True, kw_only=True)
class HunyuanControlNet(ControlPart):
    """A copy of the first half of HunyuanDiT, with the control picture encoded as x is; its residuals are added to the
    long skips.
    """

    hunyuan: Hunyuan

    def conditioner(self, name: str, level: str, source: Literal["edges", "outlines", "map"] = "edges") -> Control:
        """With the picture encoded as x is."""
        return Control(name=name, level=level, source=source, coded=True)

    def build(self) -> HunyuanAdapter:
        """The module."""
        return HunyuanAdapter(self)


class HunyuanAdapter(nn.Module):
    """Pictures [R, C, h, w] encoded as x is and weights [R, 1, 1, 1] -> residuals for the transformer's long skips."""

    def __init__(self, part: HunyuanControlNet) -> None:
        super().__init__()
        from diffusers import HunyuanDiT2DControlNetModel

        self.part = part
        settings = part.hunyuan.settings()
        self.model = HunyuanDiT2DControlNetModel(**settings, transformer_num_layers=part.hunyuan.layers)

    def forward(self, inputs: Mapping[str, Any], picture: Tensor, weight: Tensor) -> dict[str, Any]:
        """One residual [R, L, D] for each long skip."""
        residuals: Any = self.model(**inputs, controlnet_cond=picture, return_dict=False)
        return {"controlnet_block_samples": [value * weight[:, :, 0] for value in residuals[0]]}


@dataclass(frozen=True, kw_only=True)
class T2iAdapter(ControlPart):
    """A small network that gets only the control picture; its features are added to those of the UNet's down blocks.

    ``picture`` is 1 for greyscale pictures. Those for Stable Diffusion XL are of ``kind`` "full_adapter_xl".
    """

    picture: int = 3
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks: int = 2
    factor: int = 8
    kind: Literal["full_adapter", "full_adapter_xl", "light_adapter"] = "full_adapter"

    def build(self) -> T2iModule:
        """The module."""
        return T2iModule(self)

    def tiny(self) -> Self:
        """Width 8, one residual layer a block, for a tiny UNet."""
        return replace(self, widths=(8,) * len(self.widths), blocks=1)


class T2iModule(nn.Module):
    """Pictures [R, 3, H, W] in [0, 1] and weights [R, 1, 1, 1] -> residuals for the UNet's down blocks."""

    def __init__(self, part: T2iAdapter) -> None:
        super().__init__()
        from diffusers import T2IAdapter

        self.part = part
        self.model = T2IAdapter(
            in_channels=part.picture,
            channels=list(part.widths),
            num_res_blocks=part.blocks,
            downscale_factor=part.factor,
            adapter_type=part.kind,
        )

    def forward(self, inputs: Mapping[str, Any], picture: Tensor, weight: Tensor) -> dict[str, Any]:
        """One residual a block."""
        # A greyscale picture has three equal channels.
        residuals = cast("list[Tensor]", self.model(picture[:, : self.part.picture]))
        return {"down_intrablock_additional_residuals": [value * weight for value in residuals]}


def copy_weights(denoiser: nn.Module, adapter: nn.Module, origin: Callable[[str], str] = str) -> None:
    """Initialises a ControlNet, in place, with the weights of the denoiser that it is a copy of. ``origin`` is
    ``ControlPart.origin``.
    """
    source = denoiser.state_dict()
    with torch.no_grad():
        for name, value in adapter.state_dict().items():
            original = source.get(origin(name))
            if original is not None and original.shape == value.shape:
                value.copy_(original)
