"""The disk cache of blocks that were converted to OpenVINO, keyed by a hash of their weights and recipe."""

# openvino leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bimo.core.part import dumps
from bimo.diffusion.system import System

#: Part of the cache key; increase it when the conversion changes.
FORMAT = 4


@dataclass(frozen=True)
class ConversionCache:
    """The disk cache of one system's converted blocks; without a folder nothing is written."""

    folder: Path | None

    @classmethod
    def of(cls, system: System, root: Path) -> ConversionCache:
        """The cache of a system's weights below the cache folder."""
        import openvino

        versions = [openvino.__version__, torch.__version__, importlib.metadata.version("diffusers"), str(FORMAT)]
        # The recipe is part of the key: the same weights may be read with other settings, such as another head width.
        identity = [system.weights_hash, dumps(system.recipe), *versions]
        key = hashlib.sha256("\n".join(identity).encode()).hexdigest()[:24]
        return cls(root / "openvino" / key)

    def find(self, name: str) -> tuple[Path, dict[str, Any]] | None:
        """The model file of a block and its JSON note; None if it was not converted yet."""
        if self.folder is None or not (self.folder / f"{name}.json").is_file():
            return None
        note = json.loads((self.folder / f"{name}.json").read_text("utf-8"))
        return self.folder / f"{name}.xml", note

    def write(self, name: str, model: Any, note: Mapping[str, Any], half: bool) -> Path | None:
        """Writes a block's model file and note, the note last, so that an interrupted write is not found. Returns the
        model file, None if the folder cannot be written to.
        """
        import openvino

        if self.folder is None:
            return None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                openvino.save_model(model, str(Path(folder) / f"{name}.xml"), compress_to_fp16=half)
                (Path(folder) / f"{name}.json").write_text(json.dumps(note), "utf-8")
                for ending in ("bin", "xml", "json"):
                    os.replace(Path(folder) / f"{name}.{ending}", self.folder / f"{name}.{ending}")
        except OSError:
            return None
        return self.folder / f"{name}.xml"

    def calibrated(self, name: str) -> bool:
        """Whether a block's int8 conversion is in the cache."""
        return self.folder is not None and any(self.folder.glob(f"{name}.*.int8.json"))
