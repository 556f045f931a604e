"""The levels of Stable Diffusion 1 and 2 (arXiv:2112.10752), which the Chinese systems were initialised from."""

from dataclasses import replace

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

sd_v1_768 = replace(sd_v1, denoiser=Unet(size=96))

sd_v2_base = replace(sd_v1, denoiser=Unet(heads=(5, 10, 20, 20), text=1024, linear=True))
