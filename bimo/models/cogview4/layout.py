"""CogView4's folders: GLM and a transformer of two streams."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bimo.core.messages import Message
from bimo.core.recipe import Defaults, Guidance, Level
from bimo.models.cogview4.denoiser import CogView4
from bimo.models.layouts.diffusers_folder import Folder, Reading
from bimo.models.layouts.flow_folder import LEVEL, STEPS, denoiser, flow_schedule, flux_space, reading_with
from bimo.models.layouts.language_model import text_encoder
from bimo.models.layouts.pipeline_form import Form

FORMS = (Form("CogView4Pipeline", "CogView4Transformer2DModel", ("GlmModel",)),)


def reading(folder: Folder) -> Reading:
    """A folder of a CogView4Pipeline. Raises RecipeError for unsupported ones."""
    encoder = replace(
        text_encoder(folder, ("GlmModel", "GlmForCausalLM"), "glm"),
        length=1024,
        state=-2,
        multiple=16,
    )
    own = {
        "channels": "in_channels",
        "layers": "num_layers",
        "head": "attention_head_dim",
        "heads": "num_attention_heads",
        "text": "text_embed_dim",
        "time": "time_embed_dim",
        "condition": "condition_dim",
        "positions": "pos_embed_max_size",
        "size": "sample_size",
        "axes": "rope_axes_dim",
    }
    known = {"out_channels": folder.config("transformer").fields.get("in_channels")}
    model = denoiser(folder, "CogView4Transformer2DModel", CogView4, own, **known)
    space: Any = flux_space(folder)
    level = Level(
        name=LEVEL,
        # Its pipeline leaves a shift of the latents alone.
        space=replace(space, shift=0.0),
        denoiser=replace(model, factor=2 ** (len(space.block_channels) - 1)),
        schedule=flow_schedule(folder, dynamic="root", grid="whole"),
        steps=STEPS,
        guidance=Guidance(scale=5.0),
    )
    side = model.size * 2 ** (len(space.block_channels) - 1)
    why = Message("a {pipeline}", pipeline="CogView4Pipeline")
    return reading_with(folder, "cogview4", why, encoder, level, Defaults(size=(side, side), multiple=16))
