"""The painters that the Chinese systems began from: Stable Diffusion 1 and 2 (arXiv:2112.10752), as levels."""

from bimo.core.recipe import Guidance, Level
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.models.spaces import Latent
from bimo.models.stable_diffusion.unet import Unet

sd_v1 = Level(
    name="image",
    space=Latent(),
    denoiser=Unet(),
    schedule=Ddpm(),
    sampler="pndm",
    steps=50,
    guidance=Guidance(scale=7.5),
)

sd_v1_768 = Level(
    name="image",
    space=Latent(),
    denoiser=Unet(size=96),
    schedule=Ddpm(),
    sampler="pndm",
    steps=50,
    guidance=Guidance(scale=7.5),
)

sd_v2_base = Level(
    name="image",
    space=Latent(),
    denoiser=Unet(heads=(5, 10, 20, 20), text=1024, linear=True),
    schedule=Ddpm(),
    sampler="pndm",
    steps=50,
    guidance=Guidance(scale=7.5),
)
