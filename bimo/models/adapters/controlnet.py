"""Adapters that look at a picture: ControlNet (arXiv:2302.05543), HunyuanDiT's own, T2I-Adapter (arXiv:2302.08453)."""

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
    """An adapter that looks at a picture: what its picture is to be, besides its own settings."""

    def conditioner(self, name: str, level: str, source: Literal["edges", "outlines", "map"] = "edges") -> Control:
        """The condition ``name`` that gives it the picture, in the space of a level."""
        return Control(name=name, level=level, source=source)

    def origin(self, name: str) -> str:
        """Which of the denoiser's tensors one of the adapter's begins as, where that has it: by default its
        namesake.
        """
        return name


@dataclass(frozen=True, kw_only=True)
class Controlled(Part):
    """A denoiser with an adapter beside it, which looks at the picture ``name`` of the conditioning. A controlled
    denoiser may be controlled again: what the adapters give is added.
    """

    denoiser: Part
    adapter: Part
    name: str = "control"

    def build(self) -> ControlledDenoiser:
        """The module."""
        return ControlledDenoiser(self)


class ControlledDenoiser(DenoiserWrapper):
    """x [R, C, h, w], t [R] and conditioning with a picture -> what the denoiser answers. The denoiser's names are
    below ``denoiser.``, the adapter's published ones below ``adapter.model.``.
    """

    def __init__(self, part: Controlled) -> None:
        super().__init__()
        self.part = part
        self.denoiser: Any = cast(Any, part.denoiser).build()
        self.adapter: Any = cast(Any, part.adapter).build()

    def forward(
        self, x: Tensor, t: Tensor, conditioning: Conditioning, added: Mapping[str, Any] | None = None
    ) -> Tensor:
        """The denoiser's output. Raises RecipeError where the picture is missing."""
        own = looked(self.adapter, self.part.name, self.inputs, x, t, conditioning, added)
        return self.denoiser(x, t, conditioning, own)

    def inputs(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """What the denoiser within is called with."""
        return self.denoiser.inputs(x, t, conditioning)


def looked(
    adapter: Any,
    name: str,
    inputs: Callable[[Tensor, Tensor, Conditioning], Mapping[str, Any]],
    x: Tensor,
    t: Tensor,
    conditioning: Conditioning,
    added: Mapping[str, Any] | None,
) -> Mapping[str, Any]:
    """What an adapter that looks at the picture ``name`` adds to a denoiser, and what others added before. Raises
    RecipeError where the picture is missing.
    """
    picture = conditioning.pictures.get(name)
    if picture is None:
        raise RecipeError(
            "the denoiser looks at a picture {name!r}, but no condition of the level gives one", name=name
        )
    weight = conditioning.scalars[weight_name(name)].to(x)
    own = added or {}
    words = conditioning.pictures.get(words_name(name))
    said = conditioning if words is None else replace(conditioning, streams=(TextEncoding(words.to(x)),))
    if weight.any():
        own = summed(own, adapter(inputs(x, t, said), picture.to(x), weight[:, :, None, None]))
    return own


def summed(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """What two adapters give, added up."""
    total = {**one, **other}
    for name in one.keys() & other.keys():
        a, b = one[name], other[name]
        if isinstance(a, Mapping):
            total[name] = summed(cast("Mapping[str, Any]", a), b)
        else:
            total[name] = a + b if isinstance(a, Tensor) else [x + y for x, y in zip(a, b, strict=True)]
    return total


@dataclass(frozen=True, kw_only=True)
class ControlNet(ControlPart):
    """A copy of the first half of ``unet`` that looks at a picture through layers of widths ``embedding``. A ``pooled``
    one says the same of every place (the shuffling one), and nothing to what is drawn without words.
    """

    unet: Unet
    picture: int = 3
    embedding: tuple[int, ...] = (16, 32, 96, 256)
    order: Literal["rgb", "bgr"] = "rgb"
    pooled: bool = False

    def conditioner(self, name: str, level: str, source: Literal["edges", "outlines", "map"] = "edges") -> Control:
        """A pooled one's is guided for."""
        return Control(name=name, level=level, source=source, guided=self.pooled)

    def build(self) -> ControlNetAdapter:
        """The module."""
        return ControlNetAdapter(self)

    def tiny(self) -> Self:
        """The copy of a tiny UNet; as many layers, so that the picture shrinks as much."""
        return replace(self, unet=self.unet.tiny(), embedding=(4,) * len(self.embedding))


class ControlNetAdapter(nn.Module):
    """Pictures [R, 3, H, W] in [0, 1] and weights [R, 1, 1, 1] -> what is added after the UNet's first half."""

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
        """Residuals of the blocks on the way down and of the middle."""
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
    """A copy of the first half of HunyuanDiT that looks at a picture coded as x is, added to the long skips."""

    hunyuan: Hunyuan

    def conditioner(self, name: str, level: str, source: Literal["edges", "outlines", "map"] = "edges") -> Control:
        """Coded as x is."""
        return Control(name=name, level=level, source=source, coded=True)

    def build(self) -> HunyuanAdapter:
        """The module."""
        return HunyuanAdapter(self)


class HunyuanAdapter(nn.Module):
    """Pictures [R, C, h, w] coded as x and weights [R, 1, 1, 1] -> what is added to the transformer's long skips."""

    def __init__(self, part: HunyuanControlNet) -> None:
        super().__init__()
        from diffusers import HunyuanDiT2DControlNetModel

        self.part = part
        settings = part.hunyuan.settings()
        self.model = HunyuanDiT2DControlNetModel(**settings, transformer_num_layers=part.hunyuan.layers)

    def forward(self, inputs: Mapping[str, Any], picture: Tensor, weight: Tensor) -> dict[str, Any]:
        """One residual [R, L, D] a long skip."""
        residuals: Any = self.model(**inputs, controlnet_cond=picture, return_dict=False)
        return {"controlnet_block_samples": [value * weight[:, :, 0] for value in residuals[0]]}


@dataclass(frozen=True, kw_only=True)
class T2iAdapter(ControlPart):
    """A small network that looks at the picture alone; it enlarges what the UNet's blocks on the way down answer.

    ``picture`` is 1 for an adapter of grey pictures. Of ``kind`` "full_adapter_xl" are Stable Diffusion XL's.
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
        """Width 8, one residual layer a block, to go with a tiny UNet."""
        return replace(self, widths=(8,) * len(self.widths), blocks=1)


class T2iModule(nn.Module):
    """Pictures [R, 3, H, W] in [0, 1] and weights [R, 1, 1, 1] -> what is added within the blocks on the way down."""

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
        # A grey picture has one value three times.
        residuals = cast("list[Tensor]", self.model(picture[:, : self.part.picture]))
        return {"down_intrablock_additional_residuals": [value * weight for value in residuals]}


def begun(denoiser: nn.Module, adapter: nn.Module, origin: Callable[[str], str] = str) -> None:
    """Gives a ControlNet, in place, the weights of the denoiser it is a copy of: what one is trained from. ``origin``
    is ``ControlPart.origin``.
    """
    own, given = adapter.state_dict(), denoiser.state_dict()
    with torch.no_grad():
        for name, value in own.items():
            first = given.get(origin(name))
            if first is not None and first.shape == value.shape:
                value.copy_(first)
