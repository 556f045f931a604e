"""Ovis-Image's folders: Qwen3 and a transformer of two streams, then one."""

from __future__ import annotations

from dataclasses import replace

from bimo.core.messages import Message
from bimo.core.recipe import Defaults, Guidance, Level
from bimo.models.layouts.diffusers_folder import Folder, Reading
from bimo.models.layouts.flow_folder import LEVEL, STEPS, denoiser, flow_schedule, flux_space, reading_with
from bimo.models.layouts.language_model import text_encoder
from bimo.models.layouts.pipeline_form import Form
from bimo.models.ovis_image.denoiser import OvisImage

#: What its pipeline says around a prompt; the first 28 tokens are dropped.
TEMPLATE = (
    "<|im_start|>user\nDescribe the image by detailing the color, quantity, text, shape, size, texture, spatial "
    "relationships of the objects and background: {}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
DROP = 28
FORMS = (Form("OvisImagePipeline", "OvisImageTransformer2DModel", ("Qwen3Model",)),)


def reading(folder: Folder) -> Reading:
    """A folder of an OvisImagePipeline. Raises RecipeError for unsupported ones."""
    encoder = replace(text_encoder(folder, ("Qwen3Model",), "qwen3"), template=TEMPLATE, drop=DROP, length=256)
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
        schedule=flow_schedule(folder, own_sigmas=True),
        steps=STEPS,
        guidance=guide,
    )
    why = Message("an {pipeline}", pipeline="OvisImagePipeline")
    return reading_with(folder, "ovis-image", why, encoder, level, Defaults(size=(1024, 1024), multiple=16))
