"""The folders of Lumina-Image 2.0: Gemma-2 and a transformer in one stream."""

from __future__ import annotations

import math
from dataclasses import replace

from bimo.core.messages import Message
from bimo.core.recipe import Defaults, Guidance, Level
from bimo.models.layouts.diffusers_folder import Folder, Reading
from bimo.models.layouts.flow_folder import LEVEL, STEPS, denoiser, flow_schedule, flux_space, reading_with
from bimo.models.layouts.language_model import TOKENIZERS, text_encoder
from bimo.models.layouts.pipeline_form import Form
from bimo.models.lumina.denoiser import Lumina2
from bimo.models.text_encoders.prompt_templates import LUMINA_PREFIX

OWN = {
    "channels": "in_channels",
    "size": "sample_size",
    "patch": "patch_size",
    "width": "hidden_size",
    "layers": "num_layers",
    "refiners": "num_refiner_layers",
    "heads": "num_attention_heads",
    "key_heads": "num_kv_heads",
    "multiple": "multiple_of",
    "feed": "ffn_dim_multiplier",
    "eps": "norm_eps",
    "axes": "axes_dim_rope",
    "lengths": "axes_lens",
    "text": "cap_feat_dim",
}
FORMS = (Form("Lumina2Pipeline", "Lumina2Transformer2DModel", ("Gemma2Model",)),)


def reading(folder: Folder) -> Reading:
    """A Lumina2Pipeline (once called Lumina2Text2ImgPipeline). Raises RecipeError for unsupported ones."""
    encoder = text_encoder(folder, ("Gemma2Model",), "gemma2", ("GemmaTokenizer", "GemmaTokenizerFast", *TOKENIZERS))
    fields = folder.config("transformer").fields
    same = fields.get("out_channels") == fields.get("in_channels")
    # A scale that its class reads and does nothing with.
    known = {"out_channels": fields.get("in_channels") if same else None}
    known["scaling_factor"] = fields.get("scaling_factor")
    model: Lumina2 = denoiser(folder, "Lumina2Transformer2DModel", Lumina2, OWN, **known)
    schedule = flow_schedule(folder)
    if schedule.dynamic:
        # Its pipeline takes the number of channels for the length: the same shift at every size.
        mu = schedule.mu((0, model.channels * schedule.patch**2))
        shift = math.exp(mu) if schedule.curve == "exponential" else mu
        schedule = replace(schedule, dynamic="", shift=shift)
    level = Level(
        name=LEVEL,
        space=flux_space(folder),
        denoiser=model,
        schedule=schedule,
        steps=STEPS,
        guidance=Guidance(scale=4.0, norm="row", lengthen=True, until=0.25),
    )
    side = 8 * model.size
    wanted = Defaults(size=(side, side), multiple=16, prefix=LUMINA_PREFIX)
    why = Message("a {pipeline}", pipeline="Lumina2Pipeline")
    return reading_with(folder, "lumina-image-2", why, replace(encoder, length=256, state=-2), level, wanted)
