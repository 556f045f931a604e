"""The user's settings of a fine-tuning: what is trained on which pictures, and settings that replace the rules'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Way = Literal["lora", "full", "embedding", "controlnet"]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """``way`` is what is trained of the ``model``: a LoRA, all of its denoisers, the embedding of a new ``word``, or a
    ControlNet that reads the ``control`` map of each picture.

    With a ``prompt`` the pictures are of one subject, which is called so (DreamBooth); ``nouns`` are what the subject
    is one of, or what is not to be forgotten: pictures of them that the model draws itself are learnt beside, ``prior``
    of them in all. ``quantise`` is how frozen weights are kept (``Stage.frozen``), ``mask`` the map of what counts in
    a picture, "alpha" its own channel. ``compiled``, ``channels_last``, ``exact`` and ``log_every`` are those of
    ``Stage``. What is 0 or empty is chosen by ``bimo.training.finetune.planning``.
    ``samples`` are prompts to draw while it learns, every ``sample_every`` steps.
    """

    model: str
    way: Way = "lora"
    prompt: str = ""
    nouns: tuple[str, ...] = ()
    prior: int = 0
    word: str = ""
    vectors: int = 0
    control: str = ""
    rank: int = 0
    alpha: float = 0.0
    dora: bool = False
    size: tuple[int, int] | None = None
    steps: int = 0
    lr: float = 0.0
    batch: int = 0
    precision: str = ""
    quantise: str = ""
    mask: str = ""
    compiled: bool = False
    channels_last: bool = False
    exact: bool | None = None
    log_every: int = 0
    samples: tuple[str, ...] = ()
    sample_every: int = 0
