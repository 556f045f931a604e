"""A stage that learns a low-rank adapter beside frozen weights (arXiv:2106.09685, arXiv:2402.09353)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from torch import Tensor

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.diffusion.system import System
from bimo.parts.denoisers.lora import eject, extract, inject, injected, save_lora
from bimo.parts.denoisers.lora_names import spellings

MARK = ".lora."


@dataclass(frozen=True, kw_only=True)
class LowRank(Part):
    """``targets`` are globs over the layers of the whole system: "image.denoiser.*.to_[qkv]", "text.0.*.query".

    It learns with the stage's own rates (``rates`` find it as "*.to_q.lora.*"), beside whatever the stage's ``train``
    names. At the end it is written as ``lora-<stage>.safetensors``, spelt as diffusers does; with ``merge`` the weights
    that the run leaves have it in them, else they are as they were and it is given with each drawing. With ``dora``
    the length of each row of a weight learns by itself, beside its direction.
    """

    targets: tuple[str, ...]
    rank: int = 4
    alpha: float = 4.0
    merge: bool = True
    dora: bool = False

    def tiny(self) -> Self:
        """Rank 2 at most, as strong."""
        rank = min(self.rank, 2)
        return replace(self, rank=rank, alpha=self.alpha * rank / self.rank)

    def put(self, system: System) -> list[str]:
        """Puts it into a system; answers the names of its parameters. Raises RecipeError for a glob without a layer,
        and for a layer that its file could not name.
        """
        named = {piece.path for pieces in spellings(system).values() for piece in pieces}
        names = inject(system, self.targets, self.rank, self.alpha, self.dora)
        strangers = [layer for layer in injected(system) if layer not in named]
        if strangers:
            raise RecipeError(
                f"LoRA 文件里没有 {', '.join(strangers)} 的写法；targets 只应指向去噪网络和文本塔的 model",
                f"a LoRA file has no name for {', '.join(strangers)}; targets are layers of a denoiser's or a text "
                "tower's model",
            )
        return names

    def leave(self, system: System, path: Path, writes: bool = True) -> None:
        """Writes what it learnt and takes it out of the system, merged where it is to be."""
        learnt = extract(system)
        eject(system, self.merge)
        if writes:
            save_lora(path, system, learnt)


def apart(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A system's state without adapters under way, and these."""
    return (
        {name: value for name, value in state.items() if MARK not in name},
        {name: value for name, value in state.items() if MARK in name},
    )
