"""Options for loading a model: device, dtype, memory. The same for all commands that draw."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bimo.engine.memory import Keeping, Offload, Quantise

Dtype = Literal["auto", "fp16", "bf16", "fp32"]


@dataclass(frozen=True)
class LoadOptions:
    """The arguments of ``bimo.load`` of the same names."""

    device: str = "auto"
    dtype: Dtype = "auto"
    memory: str = ""
    offload: Offload = "none"
    quantise: Quantise = "none"
    tiles: bool = False
    compiled: bool = False
    graphs: bool = False
    engine: str = "torch"
    denoiser: Path | None = None
    text_encoder: Path | None = None

    @property
    def keeping(self) -> Keeping:
        """The requested dtype, offload, quantisation and tiling."""
        return Keeping(self.dtype, offload=self.offload, quantise=self.quantise, tiles=self.tiles)

    @property
    def estimated(self) -> tuple[str, Keeping]:
        """The device and ``keeping`` that memory is estimated for: engines are of the processor, and torch-bf16 has its
        own dtype.
        """
        keeping = replace(self.keeping, dtype="bf16") if self.engine == "torch-bf16" else self.keeping
        return self.device if self.engine == "torch" else "cpu", keeping

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that stand in for parts of one model."""
        return tuple(file for file in (self.denoiser, self.text_encoder) if file is not None)

    def arguments(self) -> dict[str, Any]:
        """The arguments of ``hub.loading.load_with``."""
        names = ("device", "dtype", "memory", "compiled", "graphs", "engine", "denoiser", "text_encoder")
        return {name: getattr(self, name) for name in names} | {"keeping": self.keeping}


DEFAULT = LoadOptions()
