"""Z-Image's folders: Qwen3 and a transformer of one stream."""

from __future__ import annotations

from dataclasses import replace

from bimo.core.messages import Message
from bimo.core.recipe import Defaults, Guidance, Level
from bimo.models.layouts.diffusers_folder import Folder, Reading
from bimo.models.layouts.flow_folder import LEVEL, STEPS, denoiser, flow_schedule, flux_space, reading_with
from bimo.models.layouts.language_model import text_encoder
from bimo.models.layouts.pipeline_form import Form
from bimo.models.text_encoders import prompt_templates
from bimo.models.z_image.denoiser import ZImage

FORMS = (Form("ZImagePipeline", "ZImageTransformer2DModel", ("Qwen3Model",)),)


def reading(folder: Folder) -> Reading:
    """A folder of a ZImagePipeline. Raises RecipeError for what cannot be drawn."""
    encoder = replace(
        text_encoder(folder, ("Qwen3Model", "Qwen3ForCausalLM"), "qwen3"),
        template=prompt_templates.QWEN3_CHAT,
        length=512,
        state=-2,
    )
    own = {
        "channels": "in_channels",
        "width": "dim",
        "layers": "n_layers",
        "refiners": "n_refiner_layers",
        "heads": "n_heads",
        "key_heads": "n_kv_heads",
        "text": "cap_feat_dim",
        "eps": "norm_eps",
        "normed": "qk_norm",
        "theta": "rope_theta",
        "scale": "t_scale",
        "axes": "axes_dims",
        "lengths": "axes_lens",
    }
    # A field of the published config that no class of diffusers reads.
    extra = {"nheads": folder.config("transformer").fields.get("nheads")}
    model = denoiser(folder, "ZImageTransformer2DModel", ZImage, own, **extra)
    schedule = flow_schedule(folder)
    # The two published models differ in their weights and in this number.
    turbo = not schedule.dynamic and schedule.shift == 3.0
    name, guidance, steps = ("z-image-turbo", 0.0, 9) if turbo else ("z-image", 5.0, STEPS)
    level = Level(
        name=LEVEL,
        space=flux_space(folder),
        denoiser=model,
        schedule=schedule,
        steps=steps,
        guidance=Guidance(scale=guidance, baseline_scale=0.0),
    )
    why = Message(
        "a ZImagePipeline; shift of its times is {shift:g}: {kind}",
        shift=schedule.shift,
        kind=Message("distilled, Turbo") if turbo else Message("the base"),
    )
    return reading_with(folder, name, why, encoder, level, Defaults(size=(1024, 1024), multiple=16))
