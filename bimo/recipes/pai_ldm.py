"""What enlarges the pictures of PAI's first latent diffusion (EasyNLP): ESRGAN, from 256 pixels to 1024.

`smaller` is the space of a level at a quarter of the picture's side, named "image"; `enlarge` follows that level.
"""

from bimo.core.recipe import Guide, Level
from bimo.diffusion.schedule import Mean
from bimo.parts.denoisers.esrgan import Esrgan
from bimo.parts.hints.cascade import LowRes
from bimo.parts.spaces import Latent, Pixels

smaller = Latent(shrink=4)

enlarge = Level(
    name="enlarge",
    space=Pixels(),
    denoiser=Esrgan(),
    schedule=Mean(),
    hints=(LowRes(level="image", resize="none"),),
    steps=1,
    guide=Guide(scale=1.0),
)
