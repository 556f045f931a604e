"""Z-Image-Omni's transformer: Z-Image's that has reference pictures, and what is seen of them, beside what is drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor

from bimo.core.tensors import Conditioning
from bimo.models.flow_tokens import LAST, PLACES, SEEN, references_of, text_of
from bimo.models.z_image.denoiser import ZImage, ZImageDenoiser


@dataclass(frozen=True, kw_only=True)
class ZImageOmni(ZImage):
    """Z-Image's transformer with features ``siglip`` wide of reference pictures."""

    siglip: int = 1152

    def settings(self) -> dict[str, Any]:
        """What diffusers' transformer is called with."""
        return {**super().settings(), "siglip_feat_dim": self.siglip}

    def build(self) -> ZImageOmniDenoiser:
        """The module."""
        return ZImageOmniDenoiser(self)

    def tiny(self) -> Self:
        """As Z-Image; the features of tiny image encoders."""
        return replace(super().tiny(), siglip=16)


class ZImageOmniDenoiser(ZImageDenoiser):
    """x [R, C, h, w], t [R] and conditioning -> [R, C, h, w]. Published names are below ``model.``."""

    def arguments(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """What diffusers' transformer is called with: the pieces of each text, which reference pictures stand between
        and what is drawn before the last, and what is seen of each. References are told the time of a picture.
        """
        text = text_of(conditioning, "ZImageOmni")
        pictures = [picture.to(x).unsqueeze(2) for picture in references_of(conditioning)]
        seen = [value.to(x).movedim(1, -1) for name, value in conditioning.pictures.items() if name.startswith(SEEN)]
        places: list[int] = cast(Any, conditioning.scalars[PLACES][0]).tolist() if pictures else []
        rows = [row if text.mask is None else row[text.mask[i]] for i, row in enumerate(text.tokens)]
        return {
            "x": [[*(picture[i] for picture in pictures), one] for i, one in enumerate(x.unsqueeze(2))],
            "t": (LAST - t) / LAST,
            "cap_feats": [list(torch.tensor_split(row, places)) for row in rows],
            "siglip_feats": [[*(each[i] for each in seen), None] if seen else None for i in range(len(x))],
            "image_noise_mask": [[0] * len(pictures) + [1]] * len(x),
        }
