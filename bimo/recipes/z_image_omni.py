"""造相 Z-Image-Omni (arXiv:2511.22699): Z-Image for text-to-image and for editing pictures, which SigLIP 2 encodes."""

from dataclasses import replace

from bimo.core.recipe import Published
from bimo.models.text_encoders.prompt_templates import Z_IMAGE_OMNI
from bimo.models.text_encoders.prompt_tokens import PromptPieces
from bimo.models.z_image.omni import ZImageOmni
from bimo.models.z_image.siglip import SeenLatent, SeenReferences
from bimo.recipes.z_image import fine_tune, flux, image, qwen3_4b, z_image

first, between, template, last = Z_IMAGE_OMNI

z_image_omni = replace(
    z_image,
    name="z-image-omni",
    title="造相 Z-Image-Omni",
    source="published description",
    text_encoders=(replace(qwen3_4b, pieces=PromptPieces(first=first, between=between, template=template, last=last)),),
    levels=(
        replace(
            image,
            space=SeenLatent(**vars(flux)),
            denoiser=ZImageOmni(),
            conditioners=(SeenReferences(count=4),),
        ),
    ),
    stages=(
        replace(
            fine_tune,
            note="Ours; how it was trained was not published. From words alone; with --set "
            "levels.image.conditioners.image.learnt=1 maps/image has what a picture was before the edit, and its "
            "caption is the instruction.",
        ),
    ),
    weights=Published(
        note="No weights are known to be out: sizes, times, four pictures and So400m as the encoder that sees them are "
        "taken from diffusers' defaults, Z-Image and SigLIP 2, not verified. Z-Image-Edit has no class of its own.",
    ),
    note="It draws from words, or edits and joins pictures: --image, more than once, in the shape and size of the "
    "first, up to about 1024x1024 pixels.",
)
