"""GGUF files of text encoders, as llama.cpp writes and ComfyUI reads them: Qwen3, Qwen2.5-VL without its sight, T5.

Their names are those of llama.cpp, which the gguf package maps from transformers'. The tokenizer in the file is not
read: a folder has the one that its model was trained with.
"""

# gguf has no types.
# pyright: reportMissingTypeStubs=false, reportMissingImports=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from bimo.core.errors import WeightsError
from bimo.core.messages import Listed
from bimo.core.part import Part
from bimo.diffusion.text_encoder import TextEncoder
from bimo.models.layouts import gguf_file
from bimo.models.text_encoders.language_model import LanguageModel
from bimo.models.text_encoders.t5 import T5

#: llama.cpp's architectures -> the family of text encoders, and what it is called.
ARCHITECTURES = {
    "qwen3": ("qwen3", "Qwen3"),
    "qwen2vl": ("qwen2_5_vl", "Qwen2.5-VL"),
    "t5": ("t5", "T5"),
    "t5encoder": ("t5", "T5"),
}
#: What a file has that a text encoder does not need: the head, T5's decoder.
UNUSED = ("output.weight", "dec.")


def family_of(part: Part) -> str:
    """The family of a text encoder by the names of ARCHITECTURES' values; "" for one that no GGUF file is read for."""
    if isinstance(part, T5):
        return "t5" if part.words != "bytes" else ""
    return part.family if isinstance(part, LanguageModel) else ""


@dataclass(frozen=True)
class GgufTextEncoder:
    """A text encoder in a GGUF file. ``keep`` leaves matrices quantised; otherwise everything is dequantised, for
    adapters and other engines.
    """

    path: Path
    keep: bool = False

    @cached_property
    def family(self) -> tuple[str, str]:
        """Its family and what that is called. Raises WeightsError for one that is not read."""
        architecture = gguf_file.architecture(self.path)
        if architecture not in ARCHITECTURES:
            raise WeightsError(
                "{path} says that it is a model of {architecture!r}; expected a text encoder of {known}",
                path=self.path,
                architecture=architecture,
                known=Listed(dict.fromkeys(title for _, title in ARCHITECTURES.values()), between="or"),
            )
        return ARCHITECTURES[architecture]

    def place(self, parts: Sequence[Part]) -> int:
        """Which of a recipe's text encoders it is. Raises WeightsError if none is of its family."""
        family, title = self.family
        found = next((place for place, part in enumerate(parts) if family_of(part) == family), None)
        if found is None:
            raise WeightsError(
                "{path} is a text encoder of {title}, and this model has {kinds}; name a file of its family",
                path=self.path,
                title=title,
                kinds=Listed([_title(part) for part in parts]),
            )
        return found

    def fill(self, encoder: TextEncoder, dtype: torch.dtype | None) -> None:
        """Gives a text encoder, built without weights, those of the file. Raises WeightsError that lists what is
        missing, unexpected or misshapen.
        """
        model: nn.Module = cast(Any, encoder).model
        own = {self._name(name): name for name in model.state_dict()}
        stored = gguf_file.read(self.path)
        named = {own.get(name, name): value for name, value in stored.items() if not name.startswith(UNUSED)}
        gguf_file.fill(model, named, dtype, self.path, keep=self.keep, whole=encoder.keep_in_fp32)

    def _name(self, own: str) -> str:
        """llama.cpp's name of one of our tensors."""
        published = f"model.{own}"
        if self.family[0] == "t5":
            published = "shared.weight" if own == "embed_tokens.weight" else f"encoder.{own}"
        return str(self._names.get_name(published, (".weight", ".bias")))

    @cached_property
    def _names(self) -> Any:
        import gguf

        wanted = gguf_file.architecture(self.path)
        kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
        return gguf.get_tensor_name_map(kinds[wanted], MOST_LAYERS)


#: Layers that names are made for: more than any text encoder has.
MOST_LAYERS = 128


def _title(part: Part) -> str:
    titles = dict(ARCHITECTURES.values())
    return titles.get(family_of(part), type(part).__name__)
