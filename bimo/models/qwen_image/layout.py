"""Qwen-Image's folders: Qwen2.5-VL's language model, a transformer of two streams and a film's autoencoder."""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from dataclasses import replace

from bimo.core.recipe import Defaults, Guidance, Level
from bimo.models.layouts.configs import defaults_of
from bimo.models.layouts.diffusers_folder import Folder, Reading
from bimo.models.layouts.flow_folder import LEVEL, STEPS, denoiser, flow_schedule, reading_with
from bimo.models.layouts.language_model import text_encoder
from bimo.models.layouts.pipeline_form import QWEN, Form
from bimo.models.qwen_image.denoiser import QwenImage
from bimo.models.qwen_image.space import QwenLatent
from bimo.models.text_encoders import prompt_templates

FORMS = (Form("QwenImagePipeline", "QwenImageTransformer2DModel", (QWEN,)),)


def reading(folder: Folder) -> Reading:
    """A folder of a QwenImagePipeline. Raises RecipeError for what cannot be drawn."""
    encoder = replace(
        text_encoder(folder, ("Qwen2_5_VLForConditionalGeneration",), "qwen2_5_vl"),
        template=prompt_templates.QWEN_IMAGE,
        drop=34,
        length=512,
    )
    own = {
        "channels": "out_channels",
        "layers": "num_layers",
        "head": "attention_head_dim",
        "heads": "num_attention_heads",
        "text": "joint_attention_dim",
        "axes": "axes_dims_rope",
    }
    fields = folder.config("transformer").fields
    # The published config still has a pooled width that its class no longer reads.
    known = {"pooled_projection_dim": fields.get("pooled_projection_dim"), "in_channels": 4 * fields["out_channels"]}
    model = denoiser(folder, "QwenImageTransformer2DModel", QwenImage, own, **known)
    level = Level(
        name=LEVEL,
        space=_qwen_space(folder),
        denoiser=model,
        schedule=flow_schedule(folder),
        steps=STEPS,
        guidance=Guidance(scale=4.0, norm="patch", lengthen=True, only_with_negative=True),
    )
    why = ("QwenImagePipeline；有反向提示词时才引导", "a QwenImagePipeline; guided where there is a negative prompt")
    return reading_with(
        folder, "qwen-image", why, encoder, level, Defaults(size=(1328, 1328), multiple=16, negative=" ")
    )


def _qwen_space(folder: Folder) -> QwenLatent:
    from diffusers import AutoencoderKLQwenImage

    folder.demand("vae", "diffusers", ("AutoencoderKLQwenImage",))
    own = {
        "channels": "z_dim",
        "width": "base_dim",
        "multiples": "dim_mult",
        "layers_per_block": "num_res_blocks",
        "frames": "temperal_downsample",
        "mean": "latents_mean",
        "deviation": "latents_std",
    }
    read = folder.config("vae").of(defaults_of(AutoencoderKLQwenImage), own.values(), ("dropout",))
    return QwenLatent(**{name: read[field] for name, field in own.items()})
