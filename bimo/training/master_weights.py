"""Denoisers that work in bfloat16 while what is learnt is a float32 copy of their weights (arXiv:1710.03740, 3.1).

A step of the optimiser is mostly smaller than bfloat16 can add to a weight; added to the copy none is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bimo.core.errors import TrainingError
from bimo.core.recipe import Stage
from bimo.diffusion.system import System


class MasterWeights:
    """The float32 copies, by name, of the parameters of a system's denoisers that learn; these become bfloat16.

    Raises TrainingError where a denoiser learns in part: its modules would have numbers of two kinds.
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
        """Moves the gradients of what works to the copies, as float32."""
        for name, working in self._working.items():
            self.parameters[name].grad = None if working.grad is None else working.grad.float()
            working.grad = None

    @torch.no_grad()
    def copy_to_working(self) -> None:
        """What works becomes the copies, rounded."""
        for name, working in self._working.items():
            working.copy_(self.parameters[name])

    def values(self) -> Mapping[str, Tensor]:
        """The copies by the names that they have in the system."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    def close(self) -> None:
        """Leaves the copies, whole, in the place of what worked."""
        for name, working in self._working.items():
            working.grad = None
            working.data = self.parameters[name].detach()
