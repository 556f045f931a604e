"""How a system is written as a folder of diffusers: each family's ``FORMS`` in its layout."""

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

#: A component that an index names and that is not there.
ABSENT: list[str | None] = [None, None]
#: The classes that text encoders are written as, where their modules are called otherwise.
ALT = "RobertaSeriesModelWithTransformation"
CHINESE_CLIP = "ChineseCLIPTextModel"
QWEN = "Qwen2_5_VLForConditionalGeneration"
QWEN3 = "Qwen3VLForConditionalGeneration"
QWEN3_PROCESSOR = "Qwen3VLProcessor"
MISTRAL = "Mistral3Model"
#: Words without a model: what a prior reads, whose processor has their tokenizer.
GLM_IMAGE_WORDS = "GlmImageProcessor"


@dataclass(frozen=True)
class Form:
    """A pipeline of diffusers: the classes of its denoiser and text encoders, the denoiser's component, what is fixed.

    ``zeros`` says that its index tells whether an empty negative prompt is zeros, ``single`` that single files have it.
    ``references`` are the pictures that it edits or takes from: none, one, or 2, which stands for several; with
    ``layered`` it takes one apart into layers; ``processor`` is the component that brings them to its text encoder, ""
    where that sees none. ``guiders`` makes, of a level's guidance, what a pipeline keeps of it in folders of their own,
    by name. ``wanting`` says what else a pipeline asks for that is not loaded: it cannot be written.
    ``components`` are the folders of the text encoders, "" for one without a model, ``tokenizers`` those of
    their words, where there are any apart from the processor. Of ``levels`` the last is written by its denoiser and
    space; ``beside`` writes, of the system into the folder in a dtype, what a pipeline has besides, and answers
    (library, class) by component.
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
    wanting: Message | None = None
    guiders: Callable[[Guidance], Mapping[str, Any]] | None = None
    levels: int = 1
    components: tuple[str, ...] = ("text_encoder", "text_encoder_2")
    tokenizers: tuple[str, ...] = ("tokenizer", "tokenizer_2")
    beside: Callable[[System, Path, torch.dtype | None], Mapping[str, list[str]]] | None = None
