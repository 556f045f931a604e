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
    """Qwen-Image's double-stream transformer; the defaults are the published model's. ``channels`` are those of x. With
    ``zero_cond_t`` the tokens of reference pictures get timestep 0, as they have no noise (Qwen-Image-Edit-2511).
    ``layered`` is for Qwen-Image-Layered: x has the latents of several pictures of one size, concatenated along the
    channels, each with its own frame in the position ids, preceded by the one reference picture; one of two vectors is
    added to the timestep embedding, the first of which is for pictures with transparency.
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
        """Predicts noise - x. Reference pictures' tokens follow those of x, each with its own frame in the position
        ids; ``added`` are a ControlNet's residuals. Raises RecipeError if x are layers without the picture that is
        decomposed, or has no whole number of layers.
        """
        frames = self._frames(x)
        arguments = self.inputs(x, t, conditioning)
        if self.part.layered:
            arguments["hidden_states"] = torch.cat([packed(frame) for frame in frames], dim=1)
            arguments["img_shapes"] = [[_places(frame) for frame in frames]] * len(x)
            arguments["additional_t_cond"] = torch.zeros(len(x), dtype=torch.long, device=x.device)
        own = arguments["hidden_states"].shape[1]
        pictures = [picture.to(x) for picture in references_of(conditioning)]
        if self.part.layered and len(pictures) != 1:
            raise RecipeError("{name} needs the picture that is taken apart", name="QwenImage")
        if pictures:
            arguments["hidden_states"] = torch.cat([arguments["hidden_states"], *map(packed, pictures)], dim=1)
            arguments["img_shapes"] = [[*arguments["img_shapes"][0], *map(_places, pictures)]] * len(x)
        more = arguments["hidden_states"].shape[1] - own
        each = {name: [nn.functional.pad(v, (0, 0, 0, more)) for v in values] for name, values in (added or {}).items()}
        answer = self.model(**arguments, **each, return_dict=False)[0]
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
