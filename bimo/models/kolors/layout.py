"""Kolors' folders: ChatGLM3, Stable Diffusion XL's UNet with a projection to its width, an AutoencoderKL."""

from __future__ import annotations

from typing import Any

from bimo.core.errors import RecipeError
from bimo.core.messages import say
from bimo.core.recipe import Defaults, Recipe
from bimo.models.layouts.configs import NO_EFFECT_TEXT
from bimo.models.layouts.diffusers_folder import Filling, Folder, Reading
from bimo.models.layouts.pipeline_form import ABSENT, Form
from bimo.models.stable_diffusion.layout import latent, unet, vae_name
from bimo.models.stable_diffusion.layout_xl import level_of
from bimo.models.text_encoders.chatglm import ChatGlm

#: Architecture fields with their only supported value, and the meaning of a missing field.
ONLY: dict[str, tuple[Any, Any]] = {
    "add_qkv_bias": (True, False),
    "multi_query_attention": (True, False),
    "add_bias_linear": (False, False),
    "apply_residual_connection_post_layernorm": (False, False),
    "fp32_residual_connection": (False, False),
    "rmsnorm": (True, True),
    "post_layer_norm": (True, True),
    "pre_seq_len": (None, None),
    "quantization_bit": (0, 0),
}
#: Our name of a size -> (the config's, its default).
OWN: dict[str, tuple[str, Any]] = {
    "width": ("hidden_size", 4096),
    "layers": ("num_layers", 28),
    "heads": ("num_attention_heads", 32),
    "groups": ("multi_query_group_num", 1),
    "head": ("kv_channels", 128),
    "feed": ("ffn_hidden_size", 13696),
    "vocab": ("padded_vocab_size", 65024),
    "eps": ("layernorm_epsilon", 1e-5),
}
#: Fields without effect on the text encoder's output: implementation choices, unused heads, remote code.
NO_EFFECT_GLM = {
    *("apply_query_key_layer_scaling", "attention_softmax_in_fp32", "bias_dropout_fusion", "classifier_dropout"),
    *("auto_map", "seq_length", "vocab_size", "original_rope", "prefix_projection", "hidden_dropout"),
    *("attention_dropout", "rope_ratio", "interleaved_qkv"),
}
_UNSEEN = {"image_encoder": ABSENT, "feature_extractor": ABSENT}
FORMS = (
    Form("KolorsPipeline", "UNet2DConditionModel", ("ChatGLMModel",), component="unet", fixed=_UNSEEN, zeros=True),
)


def reading(folder: Folder) -> Reading:
    """A KolorsPipeline. Raises RecipeError for unsupported ones."""
    folder.demand("text_encoder", "kolors", ("ChatGLMModel",))
    folder.demand("tokenizer", "kolors", ("ChatGLMTokenizer",))
    folder.demand("unet", "diffusers", ("UNet2DConditionModel",))
    folder.demand("vae", "diffusers", ("AutoencoderKL",))
    encoder = _text_encoder(folder)
    denoiser = unet(folder.config("unet"))
    if denoiser.bridge != encoder.width or denoiser.vector != encoder.width:
        raise RecipeError(
            "the UNet of {path} reads words {bridge} and a pooled text {vector} wide; the text encoder gives {width}",
            path=folder.path,
            bridge=denoiser.bridge,
            vector=denoiser.vector,
            width=encoder.width,
        )
    space = latent(folder.config("vae"))
    level, side = level_of(folder, denoiser, space, zeros=False)
    recipe = Recipe(
        name="kolors-inpainting" if denoiser.spatial else "kolors",
        text_encoders=(encoder,),
        levels=(level,),
        request=Defaults(size=(side, side)),
        note=say("its text encoder is ChatGLM3 ({layers} layers)", layers=encoder.layers),
    )
    return Reading(
        recipe,
        (
            Filling("text_encoder", "text.0.model", glm_name),
            Filling("unet", "image.denoiser.model"),
            Filling("vae", "image.space.model", vae_name),
        ),
        ("tokenizer",),
    )


def glm_name(name: str) -> str | None:
    """Our name of a ChatGLM3 tensor; the frequencies of its rotary embedding follow from its width."""
    name = name.removeprefix("transformer.")
    return None if name == "rotary_pos_emb.inv_freq" else name


def _text_encoder(folder: Folder) -> ChatGlm:
    config = folder.config("text_encoder")
    for name, (wanted, absent) in ONLY.items():
        value = config.fields.get(name, absent)
        if value != wanted:
            raise RecipeError(
                "{name} of {path} is {found!r}; supported is {wanted!r}, which ChatGLM3 has",
                name=name,
                path=config.path,
                found=value,
                wanted=wanted,
            )
    read = config.of(dict(OWN.values()), (field for field, _ in OWN.values()), {*NO_EFFECT_TEXT, *NO_EFFECT_GLM, *ONLY})
    return ChatGlm(**{name: read[field] for name, (field, _) in OWN.items()})
