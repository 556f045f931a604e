"""Denoising of a level that draws layers with transparency: x is made of the layers that come with the data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor

from bimo.core.errors import RecipeError
from bimo.core.tensors import Batch
from bimo.models.qwen_image.layered import LayeredPicture
from bimo.training.objectives.denoise import Denoise
from bimo.training.train_inputs import TrainInputs


@dataclass(frozen=True, kw_only=True)
class DenoiseLayers(Denoise):
    """As Denoise, of x that has the picture and each of its layers: the maps that its `LayeredPicture` names."""

    def loss(self, inputs: TrainInputs) -> Tensor:
        """The mean over the rows. Raises RecipeError for a level that draws no layers."""
        conditioners = inputs.system.level(inputs.stage.level).conditioners
        picture = next((each for each in conditioners if isinstance(each, LayeredPicture)), None)
        if picture is None:
            raise RecipeError("DenoiseLayers is for a level that draws layers; take Denoise")
        batch = cast(Batch, inputs.batch)
        x = picture.layers_of(inputs.system, batch)
        return super().loss(replace(inputs, batch=replace(batch, x=x)))
