"""GGUF files of text encoders, as llama.cpp writes them and ComfyUI reads them: Qwen3, Qwen2.5-VL and Qwen3-VL without
their vision encoders, T5.

The gguf package maps transformers' names to those of llama.cpp. The tokenizer in the file is not read: that of the
folder is the one which the model was trained with.
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

#: llama.cpp's architectures -> the family of text encoders, and its display name.
ARCHITECTURES = {
    "qwen3": ("qwen3", "Qwen3"),
    "qwen2vl": ("qwen2_5_vl", "Qwen2.5-VL"),
    "qwen3vl": ("qwen3_vl", "Qwen3-VL"),
    "t5": ("t5", "T5"),
    "t5encoder": ("t5", "T5"),
}
#: Tensors that a text encoder does not use: the head, T5's decoder.
UNUSED = ("output.weight", "dec.")


def family_of(part: Part) -> str:
    """The family of a text encoder, as in the values of ARCHITECTURES; "" if GGUF files are not supported for it."""
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
        """Its family with the display name. Raises WeightsError for an unsupported one."""
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
        """The index of the text encoder that it is for. Raises WeightsError if none is of its family."""
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
        """Loads the file into a text encoder that was built without weights. Raises WeightsError that lists missing,
        unexpected and misshapen tensors.
        """
        model: nn.Module = cast(Any, encoder).model
        names = {self._llama_cpp_name(name): name for name in model.state_dict()}
        stored = gguf_file.read(self.path)
        tensors = {names.get(name, name): value for name, value in stored.items() if not name.startswith(UNUSED)}
        gguf_file.fill(model, tensors, dtype, self.path, keep=self.keep, dequantize=encoder.keep_in_fp32)

    def _llama_cpp_name(self, name: str) -> str:
        """llama.cpp's name of one of our tensors."""
        published = f"model.{name}"
        if self.family[0] == "t5":
            published = "shared.weight" if name == "embed_tokens.weight" else f"encoder.{name}"
        return str(self._names.get_name(published, (".weight", ".bias")))

    @cached_property
    def _names(self) -> Any:
        import gguf

        architectures = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
        return gguf.get_tensor_name_map(architectures[gguf_file.architecture(self.path)], MOST_LAYERS)


#: The number of layers to map names for, more than any text encoder has.
MOST_LAYERS = 128


def _title(part: Part) -> str:
    titles = dict(ARCHITECTURES.values())
    return titles.get(family_of(part), type(part).__name__)
