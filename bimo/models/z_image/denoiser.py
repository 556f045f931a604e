"""Z-Image's transformer, diffusers' ZImageTransformer2DModel."""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from bimo.core.part import Part
from bimo.core.tensors import Conditioning
from bimo.diffusion.denoiser import PublishedDenoiser
from bimo.models.flow_tokens import LAST, text_of


@dataclass(frozen=True, kw_only=True)
class ZImage(Part):
    """Z-Image's single-stream transformer; the defaults are the published model's."""

    channels: int = 16
    width: int = 3840
    layers: int = 30
    refiners: int = 2
    heads: int = 30
    key_heads: int = 30
    text: int = 2560
    eps: float = 1e-5
    normed: bool = True
    theta: float = 256.0
    scale: float = 1000.0
    axes: tuple[int, ...] = (32, 48, 48)
    lengths: tuple[int, ...] = (1536, 512, 512)

    def control_settings(self) -> dict[str, Any]:
        """Settings that its ControlNets share with the transformer."""
        return {
            "dim": self.width,
            "n_refiner_layers": self.refiners,
            "n_heads": self.heads,
            "n_kv_heads": self.key_heads,
            "norm_eps": self.eps,
            "qk_norm": self.normed,
        }

    def settings(self) -> dict[str, Any]:
        """What diffusers' transformer is called with."""
        return {
            **self.control_settings(),
            "in_channels": self.channels,
            "n_layers": self.layers,
            "cap_feat_dim": self.text,
            "rope_theta": self.theta,
            "t_scale": self.scale,
            "axes_dims": list(self.axes),
            "axes_lens": list(self.lengths),
        }

    def build(self) -> ZImageDenoiser:
        """The module."""
        return ZImageDenoiser(self)

    def tiny(self) -> Self:
        """Width 16, two layers of two heads, one refiner; the text width of tiny text encoders."""
        axes = (4, 2, 2)
        return replace(self, width=16, layers=2, refiners=1, heads=2, key_heads=2, text=16, axes=axes)


class ZImageDenoiser(PublishedDenoiser):
    """x [R, C, h, w], t [R] and conditioning -> [R, C, h, w]. Published names are below ``model.``."""

    def __init__(self, part: ZImage) -> None:
        super().__init__()
        from diffusers import ZImageTransformer2DModel

        self.part = part
        self.model: Any = ZImageTransformer2DModel(**part.settings())

    def forward(
        self, x: Tensor, t: Tensor, conditioning: Conditioning, added: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Predicts noise - x: the published model predicts x - noise, with time running from noise at 0 to x at 1.
        ``added`` are the residuals of a ControlNet.
        """
        outputs = self.model(**self.arguments(x, t, conditioning), **(added or {}), return_dict=False)[0]
        return -torch.stack(list(outputs)).squeeze(2)

    def inputs(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """The arguments of diffusers' ControlNet, including the transformer, whose layers it shares."""
        return {"network": self.model, **self.arguments(x, t, conditioning)}

    def arguments(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """What diffusers' transformer is called with."""
        text = text_of(conditioning, "ZImage")
        texts = [row if text.mask is None else row[text.mask[i]] for i, row in enumerate(text.tokens)]
        return {"x": list(x.unsqueeze(2).unbind(0)), "t": (LAST - t) / LAST, "cap_feats": texts}
