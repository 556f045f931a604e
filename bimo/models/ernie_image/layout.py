"""ERNIE-Image's folders: Ministral 3, a transformer of one stream and FLUX.2's autoencoder."""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from dataclasses import fields, replace

from bimo.core.messages import Message
from bimo.core.recipe import Defaults, Guidance, Level
from bimo.models.ernie_image.denoiser import ErnieImage
from bimo.models.ernie_image.space import PATCH, Flux2Latent
from bimo.models.layouts.configs import defaults_of
from bimo.models.layouts.diffusers_folder import Folder, Reading
from bimo.models.layouts.flow_folder import LEVEL, STEPS, denoiser, flow_schedule, reading_with
from bimo.models.layouts.language_model import inner_family, text_encoder
from bimo.models.layouts.pipeline_form import ABSENT, MISTRAL, Form
from bimo.models.layouts.text_encoders import token_limit

#: Its pipeline's prompt enhancer, which is not loaded.
_UNREWRITTEN = {"pe": ABSENT, "pe_tokenizer": ABSENT}
FORMS = (Form("ErnieImagePipeline", "ErnieImageTransformer2DModel", (MISTRAL,), fixed=_UNREWRITTEN),)
#: Both models have the same sizes and times. The transformer's config of the distilled one has these fields of how it
#: was trained; known from third parties' copies of it, unverified.
TURBO = {"lora_rank", "use_lora"}
#: Whether it is the Turbo -> why it is taken for that.
WHY = {
    False: Message("an ErnieImagePipeline: the base; prompts are not rewritten"),
    True: Message(
        "an ErnieImagePipeline whose transformer names a LoRA of its training: distilled, Turbo; prompts are not "
        "rewritten"
    ),
}


def reading(folder: Folder) -> Reading:
    """A folder of an ErnieImagePipeline. Raises RecipeError for what cannot be drawn."""
    folder.demand("text_encoder", "transformers", (MISTRAL,))
    family = inner_family(folder, ("mistral", "ministral3"))
    encoder = text_encoder(folder, (MISTRAL,), family)
    encoder = replace(encoder, length=token_limit(folder, "tokenizer", encoder.positions), state=-2)
    own = {field.name: field.name for field in fields(ErnieImage)}
    config = folder.config("transformer").fields
    known = {"out_channels": config.get("in_channels"), "lora_rank": config.get("lora_rank"), "use_lora": False}
    model = denoiser(folder, "ErnieImageTransformer2DModel", ErnieImage, own, **known)
    turbo = bool(TURBO & config.keys())
    name, guidance, steps = ("ernie-image-turbo", 1.0, 8) if turbo else ("ernie-image", 4.0, STEPS)
    level = Level(
        name=LEVEL,
        space=_flux2_space(folder),
        denoiser=model,
        schedule=flow_schedule(folder, patch=1),
        steps=steps,
        guidance=Guidance(scale=guidance),
    )
    return reading_with(folder, name, WHY[turbo], encoder, level, Defaults(size=(1024, 1024), multiple=16))


def _flux2_space(folder: Folder) -> Flux2Latent:
    from diffusers import AutoencoderKLFlux2

    folder.demand("vae", "diffusers", ("AutoencoderKLFlux2",))
    own = [field.name for field in fields(Flux2Latent) if field.name != "eps"]
    config = folder.config("vae")
    count = len(config.fields.get("block_out_channels", Flux2Latent().block_out_channels))
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * count, "up_block_types": ("UpDecoderBlock2D",) * count}
    defaults = {**defaults_of(AutoencoderKLFlux2), **blocks, "patch_size": (PATCH, PATCH)}
    # The pipeline has an eps of its own; sizes of samples are those of training, and of tiles.
    read = config.of(defaults, own, ("batch_norm_eps", "batch_norm_momentum", "sample_size", "force_upcast"))
    return Flux2Latent(**read)
