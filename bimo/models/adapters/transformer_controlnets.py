"""ControlNets of transformers, with diffusers' classes: Qwen-Image's (union and inpainting) and Z-Image's."""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, cast

from torch import Tensor, nn

from bimo.core.part import Part
from bimo.models.adapters.control_conditioner import Control
from bimo.models.adapters.controlnet import ControlNet, ControlPart, HunyuanControlNet
from bimo.models.flow_tokens import packed
from bimo.models.hunyuan_dit.denoiser import Hunyuan
from bimo.models.qwen_image.denoiser import QwenImage
from bimo.models.stable_diffusion.unet import Unet
from bimo.models.z_image.denoiser import ZImage

#: The systems that ``controlnet_for`` supports, as messages name them.
WITH_CONTROLNET = ("Stable Diffusion (XL)", "Kolors", "HunyuanDiT", "Qwen-Image", "Z-Image")
#: Channels of an inpainting ControlNet's mask, in tokens of 2 x 2 positions.
MASK_CHANNELS = 4
#: Modules that a ControlNet of Z-Image uses from its transformer instead of its own.
SHARED = (
    *("t_scale", "t_embedder", "all_x_embedder", "cap_embedder", "rope_embedder", "noise_refiner", "context_refiner"),
    *("x_pad_token", "cap_pad_token"),
)


@dataclass(frozen=True, kw_only=True)
class QwenControlNet(ControlPart):
    """A copy of the first ``layers`` of Qwen-Image's transformer, with the control picture encoded as x is; the outputs
    of its layers are added to the transformer's, each to an equal share of consecutive layers. With ``masked`` it gets
    the masked picture and the mask.
    """

    qwen: QwenImage
    layers: int = 5
    masked: bool = False

    def conditioner(self, name: str, level: str, source: Literal["edges", "outlines", "map"] = "edges") -> Control:
        """With the picture encoded as x is, and the prompt in every branch of guidance."""
        painting: Literal["", "alone"] = "alone" if self.masked else ""
        return Control(name=name, level=level, source=source, coded=True, worded=True, painting=painting)

    def build(self) -> QwenAdapter:
        """The module."""
        return QwenAdapter(self)

    def tiny(self) -> Self:
        """One layer of a tiny transformer."""
        return replace(self, qwen=self.qwen.tiny(), layers=1)


class QwenAdapter(nn.Module):
    """Pictures [R, C, h, w] encoded as x is, with ``masked`` [R, C + 1, h, w], and weights [R, 1, 1, 1] -> a residual
    for each layer of the transformer.
    """

    def __init__(self, part: QwenControlNet) -> None:
        super().__init__()
        from diffusers import QwenImageControlNetModel

        self.part = part
        extra = MASK_CHANNELS if part.masked else 0
        self.model: Any = QwenImageControlNetModel(
            **part.qwen.settings(), num_layers=part.layers, extra_condition_channels=extra
        )

    def forward(self, inputs: Mapping[str, Any], picture: Tensor, weight: Tensor) -> dict[str, Any]:
        """One residual [R, L, D] for each layer of the transformer, whatever the number of its own layers, so that
        several can be summed.
        """
        residuals: list[Tensor] = self.model(**inputs, controlnet_cond=packed(picture), return_dict=False)
        share = -(-self.part.qwen.layers // len(residuals))
        scaled = [value * weight[:, :, 0] for value in residuals]
        return {"controlnet_block_samples": [scaled[layer // share] for layer in range(self.part.qwen.layers)]}


@dataclass(frozen=True, kw_only=True)
class ZImageControlNet(ControlPart):
    """Layers like Z-Image's, with the control picture encoded as x is; their outputs are added after the transformer's
    layers ``places``. If it has more ``channels`` than x, the others are a mask and the masked image, zeros without one
    (version 2.0). ``refiner`` names the layers that get the control picture before the text: in the first version
    separate ones without x (""), else those with x, which are the control layers themselves or refiner layers at
    ``refiner_places``.
    """

    z_image: ZImage
    places: tuple[int, ...] = (0, 5, 10, 15, 20, 25)
    channels: int = 16
    refiner: Literal["", "control_layers", "control_noise_refiner"] = ""
    refiner_places: tuple[int, ...] = ()

    def conditioner(self, name: str, level: str, source: Literal["edges", "outlines", "map"] = "edges") -> Control:
        """With the picture encoded as x is."""
        painting: Literal["", "beside"] = "beside" if self.channels > self.z_image.channels else ""
        return Control(name=name, level=level, source=source, coded=True, painting=painting)

    def origin(self, name: str) -> str:
        """Its layers are copies of those at ``places``; the embedding and refiners of the picture are copies of those
        of x.
        """
        head, _, rest = name.partition(".")
        if head == "control_layers":
            place, _, rest = rest.partition(".")
            return f"layers.{self.places[int(place)]}.{rest}"
        return f"{head.removeprefix('control_')}.{rest}"

    def build(self) -> ZImageAdapter:
        """The module."""
        return ZImageAdapter(self)

    def tiny(self) -> Self:
        """One layer, for a tiny transformer."""
        return replace(self, z_image=self.z_image.tiny(), places=(0,), refiner_places=self.refiner_places[:1])


class ZImageAdapter(nn.Module):
    """Pictures [R, channels, h, w] encoded as x is and weights [R, 1, 1, 1] -> residuals for layers of the transformer,
    whose embeddings and refiners it uses.
    """

    def __init__(self, part: ZImageControlNet) -> None:
        super().__init__()
        from diffusers import ZImageControlNetModel

        self.part = part
        self.model: Any = ZImageControlNetModel(
            control_layers_places=list(part.places),
            control_refiner_layers_places=list(part.refiner_places),
            control_in_dim=part.channels,
            add_control_noise_refiner=part.refiner or None,
            **part.z_image.control_settings(),
        )
        # diffusers' class reads this attribute, declares support for it, and never sets it.
        self.model.gradient_checkpointing = False

    def forward(self, inputs: Mapping[str, Any], picture: Tensor, weight: Tensor) -> dict[str, Any]:
        """By number of the layer [R, L, D], with L the tokens of x and of the text."""
        arguments = dict(inputs)
        network = arguments.pop("network")
        # Not as submodules: they belong to the transformer, and are saved with it.
        shared = vars(cast(object, self.model))
        shared.update({name: getattr(network, name) for name in SHARED})
        context = list(picture.unsqueeze(2).unbind(0))
        try:
            residuals: Mapping[int, Tensor] = self.model(
                **arguments, control_context=context, conditioning_scale=weight[:, :, 0]
            )
        finally:
            shared.update(dict.fromkeys(SHARED))
        return {"controlnet_block_samples": dict(residuals)}


def controlnet_for(denoiser: Part) -> ControlPart | None:
    """The ControlNet that can be trained for a denoiser, None if there is none."""
    if isinstance(denoiser, Unet):
        return ControlNet(unet=denoiser)
    if isinstance(denoiser, Hunyuan):
        return HunyuanControlNet(hunyuan=denoiser)
    if isinstance(denoiser, ZImage):
        return ZImageControlNet(
            z_image=denoiser, places=tuple(range(0, denoiser.layers, 5)), channels=denoiser.channels
        )
    return QwenControlNet(qwen=denoiser) if isinstance(denoiser, QwenImage) else None
