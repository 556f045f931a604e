"""智谱 GLM-Image (January 2026): a prior of 9 B parameters writes a picture's tokens, 7 B draw from them; it reads
pictures as well.
"""

from bimo.core.recipe import Defaults, Guidance, Level, Published, Recipe, Stage
from bimo.diffusion.schedules.flow import Flow
from bimo.diffusion.schedules.next_token import NextToken
from bimo.models.glm_image.conditioners import PicturesRead, PriorTask, PriorTokens
from bimo.models.glm_image.denoiser import GlmImage
from bimo.models.glm_image.prior import GlmImagePrior
from bimo.models.glm_image.tokens import GlmImageTokens
from bimo.models.glm_image.words import GlmImageWords
from bimo.models.spaces import Latent
from bimo.models.text_encoders.t5 import T5
from bimo.training.objectives.denoise import Denoise

#: Half of each head turns, by time, row and column.
ROTATION = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "mrope_section": (8, 12, 12)}

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
            space=Latent(
                channels=16,
                block_channels=(128, 512, 1024, 1024),
                layers_per_block=3,
                scaling=1.0,
                quant=False,
                post_quant=False,
                attention=False,
                mean=(0.0,) * 16,
                deviation=(1.0,) * 16,
            ),
            denoiser=GlmImage(),
            schedule=Flow(dynamic="root", curve="linear", base_shift=0.25, max_shift=0.75, grid="whole_open"),
            conditioners=(PriorTokens(), PicturesRead()),
            steps=50,
            guidance=Guidance(scale=1.5),
        ),
    ),
    stages=(
        Stage(
            name="fine-tune",
            objective=Denoise(),
            level="image",
            train=("image.denoiser.*",),
            size=(1024, 1024),
            lr=1e-5,
            caption_dropout=0.1,
            note="Ours; rates were not published. It learns to draw from the tokens that the prior's own tower names a "
            "picture by, and the prior stays as it is: how that was trained was not published beyond the names of its "
            "stages.",
        ),
    ),
    dtypes=("bf16",),
    weights=Published(
        repo="zai-org/GLM-Image",
        note="Sizes are the defaults of diffusers' and transformers' classes. Not verified: the autoencoder's sizes, "
        "means and deviations, ByT5's sizes and vocabulary, the rotation of the prior, how its tokens are drawn, the "
        "times, the licence of the weights. A folder's own configs decide.",
    ),
    request=Defaults(size=(1024, 1024), multiple=32),
    note="The prior writes some 256 tokens of a preview and one for each 32x32 pixels, one after another; --image, and "
    "condition images image-2 and on, are pictures to edit or to go by. A negative prompt changes nothing but what it "
    "has in quotation marks.",
)
