"""Export forms: how a system is written as a folder of diffusers. Each family has its ``FORMS`` in its layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bimo.core.messages import Message
from bimo.core.recipe import Guidance

if TYPE_CHECKING:
    import torch

    from bimo.diffusion.system import System

#: The entry in model_index.json of a component that is not part of the folder.
ABSENT: list[str | None] = [None, None]
#: The published classes of text encoders whose modules here have other names.
ALT = "RobertaSeriesModelWithTransformation"
CHINESE_CLIP = "ChineseCLIPTextModel"
QWEN = "Qwen2_5_VLForConditionalGeneration"
QWEN3 = "Qwen3VLForConditionalGeneration"
QWEN3_PROCESSOR = "Qwen3VLProcessor"
MISTRAL = "Mistral3Model"
#: GLM-Image's prior reads tokens without a text encoder; their tokenizer is in its processor.
GLM_IMAGE_WORDS = "GlmImageProcessor"


@dataclass(frozen=True)
class Form:
    """A pipeline of diffusers: the classes of its denoiser and text encoders, the denoiser's component, and ``fixed``
    entries of its index.

    ``zeros``: its index has ``force_zeros_for_empty_prompt``. ``single``: it can be exported as a single file.
    ``references``: the number of pictures that it edits or draws from; 2 stands for several. ``layered``: it decomposes
    a picture into layers. ``processor``: the component that preprocesses pictures for the text encoder, "" if that
    reads none. ``guiders``: the components that store a level's guidance, by name. ``unsupported``: why it cannot be
    exported, a required component that is not loaded. ``components``: the folders of the text encoders, "" for one
    without a model; ``tokenizers``: those of their tokenizers, unless they are part of the processor. ``levels``: their
    number; the denoiser and the space are those of the last. ``beside``: writes further components of a system into the
    folder with a dtype, and returns their (library, class) by name. ``apart``: splits a system of several pipelines
    into one of each, by the place of its folder in the whole.
    """

    pipeline: str
    denoiser: str
    text_encoders: tuple[str, ...]
    masked: bool = False
    component: str = "transformer"
    fixed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    zeros: bool = False
    single: bool = False
    references: int = 0
    layered: bool = False
    processor: str = "processor"
    unsupported: Message | None = None
    guiders: Callable[[Guidance], Mapping[str, Any]] | None = None
    levels: int = 1
    components: tuple[str, ...] = ("text_encoder", "text_encoder_2")
    tokenizers: tuple[str, ...] = ("tokenizer", "tokenizer_2")
    beside: Callable[[System, Path, torch.dtype | None], Mapping[str, list[str]]] | None = None
    apart: Callable[[System], Mapping[str, System]] | None = None
