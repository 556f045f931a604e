"""Training stages that several recipes share."""

from dataclasses import replace

from bimo.core.recipe import Stage
from bimo.training.objectives.denoise import Denoise

#: The denoiser of Stable Diffusion's kind learns, from pictures of 512 pixels; the text encoders are frozen.
train_denoiser = Stage(
    name="train the denoiser", objective=Denoise(), level="image", train=("image.denoiser.*",), size=(512, 512)
)
#: The text encoders learn with it.
train_all = replace(train_denoiser, name="train the whole", train=("text.*", "image.denoiser.*"))
#: The text encoders learn for a frozen denoiser.
train_text = replace(train_denoiser, name="train the text encoders", train=("text.*",))

#: Fine-tuning of a published transformer with this project's numbers. Recipes replace ``size`` and ``note``.
fine_tune = replace(train_denoiser, name="fine-tune", size=(1024, 1024), lr=1e-5, caption_dropout=0.1)
