"""Ovis-Image (arXiv:2511.22982): its transformer of two streams and then one, and the folders it is published in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from bimo.core.part import Part
from bimo.core.recipe import Defaults, Guidance, Level
from bimo.core.tensors import Conditioning
from bimo.models.flow_transformers import LAST, packed, unpacked, words_of
from bimo.models.layouts.diffusers_folder import Folder, Reading
from bimo.models.layouts.flow import LEVEL, STEPS, denoiser, filled, flux_space, law, recipe_with, tower

#: What its pipeline says around a prompt; the first 28 tokens are dropped.
TEMPLATE = (
    "<|im_start|>user\nDescribe the image by detailing the color, quantity, text, shape, size, texture, spatial "
    "relationships of the objects and background: {}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
DROP = 28


@dataclass(frozen=True, kw_only=True)
class OvisImage(Part):
    """Ovis-Image's transformer; the defaults are the class's. ``channels`` are x's; texts are filled up with zeros to
    ``length`` tokens, which it sees.
    """

    channels: int = 16
    layers: int = 6
    singles: int = 27
    head: int = 128
    heads: int = 24
    text: int = 2048
    axes: tuple[int, ...] = (16, 56, 56)
    length: int = 256

    def build(self) -> OvisImageDenoiser:
        """The module."""
        return OvisImageDenoiser(self)

    def tiny(self) -> Self:
        """One layer of two streams and one of one, two heads of 8; the text width of tiny towers."""
        return replace(self, layers=1, singles=1, head=8, heads=2, text=16, axes=(4, 2, 2))


class OvisImageDenoiser(nn.Module):
    """x [R, C, h, w], t [R] and conditioning -> [R, C, h, w]. Published names are below ``model.``."""

    def __init__(self, part: OvisImage) -> None:
        super().__init__()
        from diffusers import OvisImageTransformer2DModel

        self.part = part
        self.model: Any = OvisImageTransformer2DModel(
            in_channels=4 * part.channels,
            out_channels=4 * part.channels,
            num_layers=part.layers,
            num_single_layers=part.singles,
            attention_head_dim=part.head,
            num_attention_heads=part.heads,
            joint_attention_dim=part.text,
            axes_dims_rope=part.axes,  # type: ignore[arg-type]
        )

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The answer to an ask."""
        words = words_of(conditioning, "OvisImage")
        tokens = words.tokens if words.mask is None else words.tokens * words.mask[:, :, None].to(words.tokens)
        tokens = nn.functional.pad(tokens, (0, 0, 0, self.part.length - tokens.shape[1]))
        height, width = x.shape[-2:]
        text_ids = torch.arange(self.part.length).unsqueeze(1) * torch.tensor([0, 1, 1])
        rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
        image_ids = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1)
        answer = self.model(
            hidden_states=packed(x),
            timestep=t / LAST,
            encoder_hidden_states=tokens,
            txt_ids=text_ids.to(x),
            img_ids=image_ids.to(x),
            return_dict=False,
        )[0]
        return unpacked(answer, height, width)


def reading(folder: Folder) -> Reading:
    """A folder of an OvisImagePipeline. Raises RecipeError for what cannot be drawn."""
    words = replace(tower(folder, ("Qwen3Model",), "qwen3"), template=TEMPLATE, drop=DROP, length=256)
    own = {
        "layers": "num_layers",
        "singles": "num_single_layers",
        "head": "attention_head_dim",
        "heads": "num_attention_heads",
        "text": "joint_attention_dim",
        "axes": "axes_dims_rope",
    }
    model = denoiser(folder, "OvisImageTransformer2DModel", OvisImage, own)
    guide = Guidance(scale=5.0)
    level = Level(
        name=LEVEL,
        space=flux_space(folder),
        denoiser=model,
        schedule=law(folder, own_sigmas=True),
        steps=STEPS,
        guidance=guide,
    )
    why = ("OvisImagePipeline", "an OvisImagePipeline")
    return filled(folder, recipe_with("ovis-image", why, words, level, Defaults(size=(1024, 1024), multiple=16)))
