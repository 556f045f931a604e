"""The vision tower of Qwen3-VL (arXiv:2511.21631): several of its layers speak to the language model (DeepStack,
arXiv:2406.04334).
"""

# transformers leaves parts of its interface untyped; what crosses it here is named where it is used.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from torch import Tensor

from bimo.models.text_encoders.qwen_vision import PictureReader, PictureTower


@dataclass(frozen=True, kw_only=True)
class Qwen3Vision(PictureReader):
    """Qwen3-VL's vision tower; the defaults are the 8 B model's."""

    family: ClassVar = "qwen3_vl"
    mean: ClassVar = (0.5, 0.5, 0.5)
    deviation: ClassVar = (0.5, 0.5, 0.5)

    patch_size: int = 16
    min_pixels: int = 65536
    max_pixels: int = 16777216
    depth: int = 27
    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_heads: int = 16
    out_hidden_size: int = 4096
    num_position_embeddings: int = 2304
    deepstack_visual_indexes: tuple[int, ...] = (8, 16, 24)

    def build(self) -> Qwen3VisionTower:
        """The module."""
        return Qwen3VisionTower(self)

    def tiny(self) -> Self:
        """Width 16, two layers, both of which speak; pictures of some 64 pixels a side."""
        small = replace(self, depth=2, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=16)
        seen = {"area": 64 * 64, "min_pixels": 32 * 32}
        return replace(small, num_position_embeddings=16, deepstack_visual_indexes=(0, 1), **seen)


class Qwen3VisionTower(PictureTower):
    """Pictures -> tokens. Published names are below ``model.``."""

    def __init__(self, part: Qwen3Vision) -> None:
        super().__init__()
        from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
        from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

        self.part = part
        names = ("depth", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size", "patch_size")
        names += ("spatial_merge_size", "temporal_patch_size", "num_position_embeddings")
        settings: dict[str, Any] = {name: getattr(part, name) for name in names}
        config = Qwen3VLVisionConfig(**settings, deepstack_visual_indexes=list(part.deepstack_visual_indexes))
        self.model = Qwen3VLVisionModel(config)

    def look(self, patches: Tensor, grid: Tensor) -> list[Tensor]:
        """The last layer's tokens, then those of the layers that speak to the language model."""
        answer = self.model(patches, grid_thw=grid)
        return [answer.pooler_output, *answer.deepstack_features]
