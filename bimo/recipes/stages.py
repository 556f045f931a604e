"""Training stages that several recipes share."""

from bimo.core.recipe import Stage
from bimo.training.objectives.denoise import Denoise

#: Fine-tuning of a published transformer with this project's numbers. Recipes replace ``size`` and ``note``.
fine_tune = Stage(
    name="fine-tune",
    objective=Denoise(),
    level="image",
    train=("image.denoiser.*",),
    size=(1024, 1024),
    lr=1e-5,
    caption_dropout=0.1,
)
