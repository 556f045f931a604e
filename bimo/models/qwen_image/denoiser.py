"""Qwen-Image's transformer, diffusers' QwenImageTransformer2DModel."""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.tensors import Conditioning
from bimo.diffusion.denoiser import PublishedDenoiser
from bimo.models.flow_tokens import LAST, packed, references_of, text_of, unpacked


@dataclass(frozen=True, kw_only=True)
class QwenImage(Part):
    """Qwen-Image's two-stream transformer; the defaults are the published model's. ``channels`` are x's. With
    ``zero_cond_t`` the tokens of reference pictures are told the time 0, as they have no noise (Qwen-Image-Edit-2511).
    ``layered`` is Qwen-Image-Layered's: x has the latents of several pictures of one size one after the other on its
    channels, each at places of a frame of its own, and the one reference picture is before them all; the time has one
    of two vectors added, the first of which is of pictures with transparency.
    """

    channels: int = 16
    layers: int = 60
    head: int = 128
    heads: int = 24
    text: int = 3584
    axes: tuple[int, ...] = (16, 56, 56)
    zero_cond_t: bool = False
    layered: bool = False

    def settings(self) -> dict[str, Any]:
        """What diffusers' transformer and ControlNets of it are called with alike."""
        return {
            "in_channels": 4 * self.channels,
            "out_channels": self.channels,
            "attention_head_dim": self.head,
            "num_attention_heads": self.heads,
            "joint_attention_dim": self.text,
            "axes_dims_rope": self.axes,
        }

    def build(self) -> QwenImageDenoiser:
        """The module."""
        return QwenImageDenoiser(self)

    def tiny(self) -> Self:
        """Two layers of two heads of 8; the text width of tiny text encoders."""
        return replace(self, layers=2, head=8, heads=2, text=16, axes=(4, 2, 2))


class QwenImageDenoiser(PublishedDenoiser):
    """x [R, C, h, w], t [R] and conditioning -> [R, C, h, w]. Published names are below ``model.``."""

    def __init__(self, part: QwenImage) -> None:
        super().__init__()
        from diffusers import QwenImageTransformer2DModel

        self.part = part
        self.model: Any = QwenImageTransformer2DModel(
            **part.settings(),
            num_layers=part.layers,
            zero_cond_t=part.zero_cond_t,
            use_additional_t_cond=part.layered,
            use_layer3d_rope=part.layered,
        )

    def forward(
        self, x: Tensor, t: Tensor, conditioning: Conditioning, added: Mapping[str, Any] | None = None
    ) -> Tensor:
        """noise - x. Reference pictures' tokens stand behind those of x, each at its places of a frame of its own;
        ``added`` is what a ControlNet gives the tokens of x. Raises RecipeError where x are layers without the picture
        that they are of, or are none.
        """
        frames = self._frames(x)
        given = self.inputs(x, t, conditioning)
        if self.part.layered:
            given["hidden_states"] = torch.cat([packed(frame) for frame in frames], dim=1)
            given["img_shapes"] = [[_places(frame) for frame in frames]] * len(x)
            given["additional_t_cond"] = torch.zeros(len(x), dtype=torch.long, device=x.device)
        own = given["hidden_states"].shape[1]
        pictures = [picture.to(x) for picture in references_of(conditioning)]
        if self.part.layered and len(pictures) != 1:
            raise RecipeError("{name} needs the picture that is taken apart", name="QwenImage")
        if pictures:
            given["hidden_states"] = torch.cat([given["hidden_states"], *map(packed, pictures)], dim=1)
            given["img_shapes"] = [[*given["img_shapes"][0], *map(_places, pictures)]] * len(x)
        more = given["hidden_states"].shape[1] - own
        each = {name: [nn.functional.pad(v, (0, 0, 0, more)) for v in values] for name, values in (added or {}).items()}
        answer = self.model(**given, **each, return_dict=False)[0]
        return torch.cat([unpacked(one, *x.shape[-2:]) for one in answer[:, :own].chunk(len(frames), dim=1)], dim=1)

    def _frames(self, x: Tensor) -> tuple[Tensor, ...]:
        """The pictures in x, [R, channels, h, w] each."""
        frames = torch.split(x, self.part.channels, dim=1)
        if self.part.layered and len(frames) < 2:
            raise RecipeError(
                "{name} draws layers, and there is one picture; it does not learn from pictures", name="QwenImage"
            )
        return frames

    def inputs(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """What diffusers' transformer, or a ControlNet of it, is called with, without reference pictures."""
        text = text_of(conditioning, "QwenImage")
        return {
            "hidden_states": packed(x),
            "timestep": t / LAST,
            "encoder_hidden_states": text.tokens,
            "encoder_hidden_states_mask": text.mask,
            "img_shapes": [[_places(x)]] * len(x),
        }


def _places(x: Tensor) -> tuple[int, int, int]:
    """Frames, rows and columns of the tokens of x [R, C, h, w]."""
    return 1, x.shape[-2] // 2, x.shape[-1] // 2
