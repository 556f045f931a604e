"""CogView4: 6 B parameters, conditioned on GLM-4-9B and the size of the picture; renders Chinese text."""

from dataclasses import replace

from bimo.core.recipe import Defaults, Guidance, Level, Published, Recipe
from bimo.diffusion.schedules.flow import Flow
from bimo.models.cogview4.denoiser import CogView4
from bimo.models.spaces import Latent
from bimo.models.text_encoders.language_model import LanguageModel
from bimo.recipes.stages import fine_tune

#: GLM-4-9B, the output of its second-to-last layer; padded on the left to a multiple of 16, without masking the
#: padding.
glm_4_9b = LanguageModel(
    family="glm",
    width=4096,
    layers=40,
    heads=32,
    key_heads=2,
    head=128,
    feed=13696,
    vocab=151552,
    positions=8192,
    length=1024,
    state=-2,
    multiple=16,
)

#: Its autoencoder's shape, GLM-Image's as well.
cogview4_latent = Latent(
    channels=16,
    block_channels=(128, 512, 1024, 1024),
    layers_per_block=3,
    scaling=1.0,
    quant=False,
    post_quant=False,
    attention=False,
)

cogview4 = Recipe(
    name="cogview4",
    title="CogView4 6B",
    licence="apache-2.0",
    text_encoders=(glm_4_9b,),
    levels=(
        Level(
            name="image",
            space=cogview4_latent,
            denoiser=CogView4(),
            schedule=Flow(dynamic="root", curve="linear", base_shift=0.25, max_shift=0.75, grid="whole"),
            steps=50,
            guidance=Guidance(scale=5.0),
        ),
    ),
    stages=(
        replace(
            fine_tune,
            note="Ours; rates were not published.",
        ),
    ),
    dtypes=("bf16",),
    weights=Published(
        repo="zai-org/CogView4-6B",
        modelscope="ZhipuAI/CogView4-6B",
        note="The sizes of its transformer (28 layers of 32 x 128) and autoencoder are recalled, not verified: the "
        "class's defaults are 30 layers of 64 x 40. A folder's own config decides.",
    ),
    request=Defaults(size=(1024, 1024), multiple=32, guidance=3.5),
    note="Learned sizes from 512 to 2048 a side, of multiples of 32.",
)
