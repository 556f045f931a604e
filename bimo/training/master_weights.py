"""bfloat16 denoisers with float32 master weights (arXiv:1710.03740, 3.1).

Most optimiser steps are too small to be added to a bfloat16 weight; the master weights accumulate them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bimo.core.errors import TrainingError
from bimo.core.recipe import Stage
from bimo.diffusion.system import System


class MasterWeights:
    """The float32 master weights, by name, of the trained parameters of a system's denoisers, which become bfloat16.

    Raises TrainingError if a denoiser is trained in part: its modules would have two dtypes.
    """

    def __init__(self, stage: Stage, system: System, names: Sequence[str]) -> None:
        learning = frozenset(names)
        self._working: dict[str, nn.Parameter] = {}
        for level in system.recipe.levels:
            start = f"{level.name}.denoiser."
            own = {f"{start}{n}": p for n, p in system.level(level.name).denoiser.named_parameters()}
            learns = [name for name in own if name in learning]
            if learns and len(learns) < len(own):
                frozen = next(name for name in own if name not in learning)
                raise TrainingError(
                    "stage {name!r} wants bf16_weights, but {frozen} does not learn with the rest of its denoiser; let "
                    "precision be bf16, or train {glob}",
                    name=stage.name,
                    frozen=frozen,
                    glob=start + "*",
                )
            self._working |= {name: own[name] for name in learns}
        self.parameters = {name: nn.Parameter(p.detach().clone()) for name, p in self._working.items()}
        for parameter in self._working.values():
            parameter.data = parameter.data.to(torch.bfloat16)

    def take_gradients(self) -> None:
        """Moves the gradients of the bfloat16 parameters to the master weights, as float32."""
        for name, working in self._working.items():
            self.parameters[name].grad = None if working.grad is None else working.grad.float()
            working.grad = None

    @torch.no_grad()
    def copy_to_working(self) -> None:
        """Copies the master weights to the bfloat16 parameters."""
        for name, working in self._working.items():
            working.copy_(self.parameters[name])

    def values(self) -> Mapping[str, Tensor]:
        """The master weights by the names of their parameters."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    def close(self) -> None:
        """Replaces the bfloat16 parameters by the master weights."""
        for name, working in self._working.items():
            working.grad = None
            working.data = self.parameters[name].detach()
