"""智谱 GLM-Image (January 2026): an autoregressive prior of 9 B parameters generates a picture's tokens, a diffusion
transformer of 7 B decodes them; it edits pictures as well.
"""

from dataclasses import replace

from bimo.core.recipe import Defaults, Guidance, Level, Published, Recipe
from bimo.diffusion.schedules.flow import Flow
from bimo.diffusion.schedules.next_token import NextToken
from bimo.models.glm_image.conditioners import PicturesRead, PriorTask, PriorTokens
from bimo.models.glm_image.denoiser import GlmImage
from bimo.models.glm_image.prior import GlmImagePrior
from bimo.models.glm_image.tokens import GlmImageTokens
from bimo.models.glm_image.words import GlmImageWords
from bimo.models.text_encoders.t5 import T5
from bimo.recipes.cogview4 import cogview4_latent
from bimo.recipes.stages import fine_tune

#: Rotary embedding of half of each head, by time, row and column.
ROTATION = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "mrope_section": (8, 12, 12)}
#: The mean and standard deviation of each latent channel, as bfloat16 values.
MEAN = (
    *(-0.2080078125, 1.875, -0.470703125, -1.265625, -1.421875, 0.77734375, -0.3671875, -0.9453125),
    *(0.318359375, 0.7734375, -0.1884765625, -0.022216796875, -0.220703125, -1.59375, -0.81640625, -0.255859375),
)
DEVIATION = (
    *(3.0625, 2.203125, 2.265625, 4.84375, 2.5, 3.9375, 2.203125, 3.03125),
    *(2.1875, 2.046875, 2.71875, 2.390625, 2.390625, 2.453125, 2.25, 2.15625),
)

glm_image = Recipe(
    name="glm-image",
    title="智谱 GLM-Image",
    licence="unverified",
    text_encoders=(
        GlmImageWords(),
        T5(
            width=1472,
            layers=12,
            heads=6,
            head=64,
            feed=3584,
            vocab=384,
            length=2048,
            words="bytes",
            quoted=True,
            apart=True,
        ),
    ),
    levels=(
        Level(
            name="prior",
            space=GlmImageTokens(),
            denoiser=GlmImagePrior(config={"rope_parameters": ROTATION}),
            schedule=NextToken(temperature=0.9, top_p=0.75, vocabulary=16384),
            conditioners=(PriorTask(),),
            guidance=Guidance(scale=1.0),
        ),
        Level(
            name="image",
            space=replace(cogview4_latent, mean=MEAN, deviation=DEVIATION),
            denoiser=GlmImage(),
            schedule=Flow(dynamic="root", curve="linear", base_shift=0.25, max_shift=0.75, grid="whole_open"),
            conditioners=(PriorTokens(), PicturesRead()),
            steps=50,
            guidance=Guidance(scale=1.5),
        ),
    ),
    stages=(
        replace(
            fine_tune,
            note="Ours; rates were not published. It learns to draw from the tokens that the prior's own tower names a "
            "picture by, and the prior stays as it is: how that was trained was not published beyond the names of its "
            "stages. From words alone; with --set levels.image.conditioners.image.learnt=1 maps/image has what a "
            "picture was before the edit, and its caption is the instruction.",
        ),
    ),
    dtypes=("bf16",),
    weights=Published(
        repo="zai-org/GLM-Image",
        note="The prior's sizes are the defaults of transformers' classes; the transformer's are those of sglang and "
        "FastVideo, which load the weights, and the latents' means and deviations FastVideo's. Not verified: these, "
        "ByT5's sizes and vocabulary, the rotation of the prior, how its tokens are drawn, the times, the licence of "
        "the weights. A folder's own configs decide.",
    ),
    request=Defaults(size=(1024, 1024), multiple=32),
    note="The prior writes some 256 tokens of a preview and one for each 32x32 pixels, one after another; --image, and "
    "condition images image-2 and on, are pictures to edit or to go by. A negative prompt changes nothing but what it "
    "has in quotation marks.",
)
