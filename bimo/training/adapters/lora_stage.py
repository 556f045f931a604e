"""Stages that train a low-rank adapter (arXiv:2106.09685, arXiv:2402.09353) or a new token next to frozen weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

from torch import Tensor

from bimo.core.errors import RecipeError
from bimo.diffusion.system import System
from bimo.models.adapters.lora import eject, extract, inject, injected, save_lora
from bimo.models.adapters.lora_names import Spelling, is_unet, published
from bimo.models.text_encoders.textual_inversion import begin_word, end_word, save_word, vectors_of
from bimo.training.adapters.adapter import Adapter

#: Substrings of the names of adapters' parameters, which no other parameter has.
MARKS = (".lora.", ".learnt.", ".beside.")


@dataclass(frozen=True, kw_only=True)
class Lora(Adapter):
    """``targets`` are globs over the layers of the whole system: "image.denoiser.*.to_[qkv]", "text.0.*.query".

    It is trained with the stage's learning rates (``rates`` match it as "*.to_q.lora.*"), with the parameters of the
    stage's ``train``. At the end it is written as ``lora-<stage>.safetensors``, by default with diffusers' names; with
    ``merge`` it is merged into the weights of the run, else these are unchanged and it is loaded for drawing. With
    ``dora`` the magnitude of each row of a weight is trained separately from its direction. ``ranks`` are (glob, rank,
    alpha) for some of the layers; the last match wins.

    ``algo`` "loha", "lokr" and "oft" are those of LyCORIS (arXiv:2309.14859): Hadamard or Kronecker products of
    low-rank matrices, and orthogonal transforms in blocks of at most ``rank``, limited by ``alpha``. ``spelling`` are
    the layer names of the file: those of diffusers, "kohya" (A1111, ComfyUI; for a UNet) or "comfyui"
    (`diffusion_model.…`, for a transformer); "" is diffusers' for LoRA, and for the other algorithms the one of the two
    that fits the model.
    """

    kind: ClassVar[str] = "lora"

    targets: tuple[str, ...]
    rank: int = 4
    alpha: float = 4.0
    merge: bool = True
    dora: bool = False
    algo: Literal["lora", "loha", "lokr", "oft"] = "lora"
    ranks: tuple[tuple[str, int, float], ...] = ()
    spelling: Literal["", "diffusers", "kohya", "comfyui"] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.rank, *(rank for _, rank, _ in self.ranks), 1 << 30) < 1:
            raise RecipeError(
                "a rank of a LoRA must be at least 1; got {rank}, {ranks}", rank=self.rank, ranks=self.ranks
            )
        if self.dora and self.algo != "lora":
            raise RecipeError("dora stretches a LoRA, not {algo}; leave one of the two out", algo=self.algo)
        if self.algo != "lora" and self.spelling == "diffusers":
            raise RecipeError(
                "diffusers has no names for {algo}; let spelling be kohya (a UNet) or comfyui (a transformer)",
                algo=self.algo,
            )

    def tiny(self) -> Self:
        """Rank 2 at most, with the same scale."""
        rank = min(self.rank, 2)
        ranks = tuple((glob, min(own, 2), alpha * min(own, 2) / own) for glob, own, alpha in self.ranks)
        return replace(self, rank=rank, alpha=self.alpha * rank / self.rank, ranks=ranks)

    def layers(self) -> tuple[str, ...]:
        """``targets``."""
        return self.targets

    def put(self, system: System) -> list[str]:
        """Inserts it into a system; returns the names of its parameters. Raises RecipeError for a glob without a layer,
        and for a layer that has no name in the file.
        """
        named = published(system, self._spelling(system))
        names = inject(system, self.targets, self.rank, self.alpha, self.dora, self.algo, self.ranks)
        strangers = [layer for layer in injected(system) if layer not in named]
        if strangers:
            raise RecipeError(
                "a LoRA file has no name for {strangers}; targets are layers of a denoiser's or a text encoder's model",
                strangers=", ".join(strangers),
            )
        return names

    def learnt(self, system: System) -> dict[str, Tensor]:
        """The trained weights."""
        return extract(system)

    def write(self, system: System, path: Path, learnt: dict[str, Tensor]) -> Path:
        """Writes a .safetensors file with the names of ``spelling``."""
        file = path.with_suffix(".safetensors")
        save_lora(file, system, learnt, self._spelling(system))
        return file

    def leave(self, system: System) -> None:
        """Removes it from the system, merged if ``merge``."""
        eject(system, self.merge)

    def _spelling(self, system: System) -> Spelling:
        """The layer names of its file. Raises RecipeError for a spelling that does not exist for such a model."""
        unet = is_unet(system)
        if (self.spelling == "comfyui" and unet) or (self.spelling == "kohya" and not unet):
            raise RecipeError(
                "nobody reads a LoRA of this model in the spelling {spelling!r}; let it be {other!r}, or leave it out",
                spelling=self.spelling,
                other="kohya" if unet else "comfyui",
            )
        if self.spelling:
            return self.spelling
        return "diffusers" if self.algo == "lora" else "kohya" if unet else "comfyui"


@dataclass(frozen=True, kw_only=True)
class TextualInversion(Adapter):
    """Textual inversion (arXiv:2208.01618): the embedding of a new token is trained while all weights are frozen.

    ``token`` is a word that the ``text_encoder``-th text encoder does not have; each of its ``vectors`` is initialised
    with one of the words ``initial``. Captions with it are those of the data, or of
    ``Dreambooth`` with ``prior`` 0. It is written as ``tokens-<stage>.safetensors`` and loaded for drawing.
    """

    kind: ClassVar[str] = "tokens"

    token: str
    initial: str
    vectors: int = 1
    text_encoder: int = 0

    def put(self, system: System) -> list[str]:
        """Adds the token to the text encoder; returns its parameter's name. Raises RecipeError as ``begin_word``."""
        name = begin_word(system.text_encoders[self.text_encoder], self.token, self.initial, self.vectors)
        return [f"text.{self.text_encoder}.{name}"]

    def learnt(self, system: System) -> dict[str, Tensor]:
        """The vectors of the token."""
        return {self.token: vectors_of(system.text_encoders[self.text_encoder])}

    def write(self, system: System, path: Path, learnt: dict[str, Tensor]) -> Path:
        """Writes a .safetensors file as diffusers reads it."""
        file = path.with_suffix(".safetensors")
        save_word(file, self.token, learnt[self.token])
        return file

    def leave(self, system: System) -> None:
        """Restores the text encoder."""
        end_word(system.text_encoders[self.text_encoder])


def split_adapter_state(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Splits a system's state into that without adapters and that of the adapters being trained."""
    added = {name: value for name, value in state.items() if any(mark in name for mark in MARKS)}
    return {name: value for name, value in state.items() if name not in added}, added
