"""ControlNets of transformers: Qwen-Image's (union, and for painting in a mask) and Z-Image's, diffusers' classes."""

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

#: What ``controlnet_for`` makes one for, as people call it.
WITH_CONTROLNET = ("Stable Diffusion (XL)", "Kolors", "HunyuanDiT", "Qwen-Image", "Z-Image")
#: Channels of the mask of a ControlNet that paints, in tokens of 2 x 2 places.
MASK_CHANNELS = 4
#: What a ControlNet of Z-Image takes from its transformer: it has no such layers of its own.
SHARED = (
    *("t_scale", "t_embedder", "all_x_embedder", "cap_embedder", "rope_embedder", "noise_refiner", "context_refiner"),
    *("x_pad_token", "cap_pad_token"),
)


@dataclass(frozen=True, kw_only=True)
class QwenControlNet(ControlPart):
    """A copy of the first ``layers`` of Qwen-Image's transformer that looks at a picture coded as x is; what its layers
    say is added behind as many equal shares of the transformer's. With ``masked`` it looks at what a mask leaves of a
    picture, and at the mask.
    """

    qwen: QwenImage
    layers: int = 5
    masked: bool = False

    def conditioner(self, name: str, level: str, source: Literal["edges", "outlines", "map"] = "edges") -> Control:
        """Coded as x is; it reads the prompt in every branch."""
        painting: Literal["", "alone"] = "alone" if self.masked else ""
        return Control(name=name, level=level, source=source, coded=True, worded=True, painting=painting)

    def build(self) -> QwenAdapter:
        """The module."""
        return QwenAdapter(self)

    def tiny(self) -> Self:
        """A layer of a tiny transformer."""
        return replace(self, qwen=self.qwen.tiny(), layers=1)


class QwenAdapter(nn.Module):
    """Pictures [R, C, h, w] coded as x, with ``masked`` [R, C + 1, h, w], and weights [R, 1, 1, 1] -> what is added
    behind each layer of the transformer.
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
        """One [R, L, D] a layer of the transformer, whatever its own number is, so that several can be added up."""
        said: list[Tensor] = self.model(**inputs, controlnet_cond=packed(picture), return_dict=False)
        share = -(-self.part.qwen.layers // len(said))
        scaled = [value * weight[:, :, 0] for value in said]
        return {"controlnet_block_samples": [scaled[layer // share] for layer in range(self.part.qwen.layers)]}


@dataclass(frozen=True, kw_only=True)
class ZImageControlNet(ControlPart):
    """Layers of Z-Image's kind that look at a picture coded as x is; what they say is added behind the transformer's
    layers ``places``. Of more ``channels`` than x has the others are a mask and what it leaves of an image, zeros where
    there are none (version 2.0). ``refiner`` says which layers look at the picture before the words come: those of the
    first version look at it alone (""); else they see x, and are the control layers themselves or some of their own, at
    ``refiner_places``.
    """

    z_image: ZImage
    places: tuple[int, ...] = (0, 5, 10, 15, 20, 25)
    channels: int = 16
    refiner: Literal["", "control_layers", "control_noise_refiner"] = ""
    refiner_places: tuple[int, ...] = ()

    def conditioner(self, name: str, level: str, source: Literal["edges", "outlines", "map"] = "edges") -> Control:
        """Coded as x is."""
        painting: Literal["", "beside"] = "beside" if self.channels > self.z_image.channels else ""
        return Control(name=name, level=level, source=source, coded=True, painting=painting)

    def origin(self, name: str) -> str:
        """Its layers are copies of those they stand behind; what reads the picture, of what reads x."""
        head, _, rest = name.partition(".")
        if head == "control_layers":
            place, _, rest = rest.partition(".")
            return f"layers.{self.places[int(place)]}.{rest}"
        return f"{head.removeprefix('control_')}.{rest}"

    def build(self) -> ZImageAdapter:
        """The module."""
        return ZImageAdapter(self)

    def tiny(self) -> Self:
        """One layer beside a tiny transformer."""
        return replace(self, z_image=self.z_image.tiny(), places=(0,), refiner_places=self.refiner_places[:1])


class ZImageAdapter(nn.Module):
    """Pictures [R, channels, h, w] coded as x and weights [R, 1, 1, 1] -> what is added behind layers of the
    transformer, whose own embeddings and refiners it looks through.
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
        # diffusers' class looks at it, says that it can, and never sets it.
        self.model.gradient_checkpointing = False

    def forward(self, inputs: Mapping[str, Any], picture: Tensor, weight: Tensor) -> dict[str, Any]:
        """By the number of the layer [R, L, D], L being the tokens of x and of the words."""
        given = dict(inputs)
        network = given.pop("network")
        # Not as submodules: they are the transformer's, and saved with it.
        shared = vars(cast(object, self.model))
        shared.update({name: getattr(network, name) for name in SHARED})
        context = list(picture.unsqueeze(2).unbind(0))
        try:
            said: Mapping[int, Tensor] = self.model(
                **given, control_context=context, conditioning_scale=weight[:, :, 0]
            )
        finally:
            shared.update(dict.fromkeys(SHARED))
        return {"controlnet_block_samples": dict(said)}


def controlnet_for(denoiser: Part) -> ControlPart | None:
    """The ControlNet that is trained beside a denoiser, None where there is none for it."""
    if isinstance(denoiser, Unet):
        return ControlNet(unet=denoiser)
    if isinstance(denoiser, Hunyuan):
        return HunyuanControlNet(hunyuan=denoiser)
    if isinstance(denoiser, ZImage):
        return ZImageControlNet(
            z_image=denoiser, places=tuple(range(0, denoiser.layers, 5)), channels=denoiser.channels
        )
    return QwenControlNet(qwen=denoiser) if isinstance(denoiser, QwenImage) else None
