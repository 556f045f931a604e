"""The Gaussian answer of a refining denoiser is the best linear one: no other leaves less error."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from bimo.core.part import Part
from bimo.core.tensors import Conditioning
from bimo.diffusion.denoiser import Denoiser
from bimo.diffusion.schedules.flow import Flow
from bimo.xiaomo.first_level import Refine


@dataclass(frozen=True, kw_only=True)
class Nothing(Part):
    """A denoiser that answers zeros."""

    def build(self) -> NothingDenoiser:
        return NothingDenoiser()


class NothingDenoiser(Denoiser):
    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return torch.zeros_like(x)


def answers(s: float, left: float, rows: int = 4096) -> tuple[Tensor, Tensor, Tensor]:
    """The Gaussian answer, the target, and what x_t and the hint offer to a linear fit."""
    generator = torch.Generator().manual_seed(1)
    conditioner = torch.randn(rows, 1, 1, 1, generator=generator)
    x = conditioner + left**0.5 * torch.randn(rows, 1, 1, 1, generator=generator)
    noise = torch.randn(rows, 1, 1, 1, generator=generator)
    t = torch.full((rows,), s * 1000)
    seen = Flow().add_noise(x, noise, t)
    made = Refine(denoiser=Nothing(), left=left).build()
    answer = made.gaussian(seen, t, conditioner, torch.ones(rows, dtype=torch.bool))
    return answer, Flow().target(x, noise, t), torch.stack([seen.flatten(), conditioner.flatten()], dim=1)


@pytest.mark.parametrize("s", [0.02, 0.3, 0.5, 0.8, 1.0])
def test_no_linear_answer_is_better(s: float) -> None:
    answer, target, offered = answers(s, 0.3)
    fitted = torch.linalg.lstsq(offered, target.reshape(-1, 1)).solution
    best = (offered @ fitted - target.reshape(-1, 1)).square().mean()
    assert (answer - target).square().mean() <= best * 1.01


def test_a_row_without_a_conditioner_has_the_variance_of_the_whole() -> None:
    made = Refine(denoiser=Nothing(), left=0.3, whole=0.85).build()
    x, t, conditioner = torch.randn(2, 3, 2, 2), torch.full((2,), 400.0), torch.zeros(2, 3, 2, 2)
    conditioner[1] = 0.5
    both = made(x, t, Conditioning(spatial=conditioner))
    alone = Refine(denoiser=Nothing(), left=0.85).build().gaussian(x, t, conditioner, torch.ones(2, dtype=torch.bool))
    torch.testing.assert_close(both[0], alone[0])
    assert not torch.allclose(both[1], alone[1])
