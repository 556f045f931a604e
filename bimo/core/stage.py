"""A stage of training: what learns, from what, and how; values only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.stage_data import Augmentation, CaptionEdits

#: What pictures are shrunk to in a recipe at toy width.
TINY_SIDE = 128
TINY_STEP = 64


@dataclass(frozen=True, kw_only=True)
class Stage(Part):
    """One stage of training. ``train`` are globs over parameter names; everything else is frozen, and cached.

    ``lr`` is the peak after ``warmup`` steps; ``lr_schedule`` is what follows, down to ``floor``: "polynomial" falls as
    (1 - share)^power, "cosine_with_restarts" ``lr_cycles`` times, "piecewise_constant" by ``lr_pieces``, (until which
    step, share of lr), of which the last stays. ``lr_overrides`` are peaks of their own by glob, the last that matches.
    A step is of ``accumulate`` batches. ``ema`` is the decay of the averaged weights, 0 for none.

    ``optimiser`` "adafactor" (arXiv:1804.04235) keeps a row and a column for each matrix in place of two matrices, and
    has no use for ``betas`` and ``eps``. "muon" (arXiv:2502.16982) makes the step of a matrix orthogonal, as large as
    AdamW's at the same rate, which everything else that learns is given; with ``optimiser_args``
    ``{"convolutions": True}`` kernels [out, in, h, w] are matrices [out, in h w]. Any other name is one of the library
    pytorch-optimizer ("lion", "prodigy", "dadaptadam", "schedulefreeadamw", "came" ...), of bitsandbytes ("adamw8bit",
    on CUDA), or "package.module:Class" of an installed package: those have settings of their own,
    ``optimiser_args`` by the names of the class. ``fused_backward`` takes a parameter's step as soon as its gradient is
    there, which is then given up: one is in memory at a time (arXiv:2306.09782).

    With ``precision`` "bf16" products are worked out in bfloat16, while weights, their averages and the optimiser stay
    in float32. With "bf16_weights" the denoisers that learn are worked out in bfloat16 whole, which saves casting, and
    what is learnt is a float32 copy of their weights (arXiv:1710.03740, section 3.1); all else is float32.
    ``gradient_checkpointing`` works blocks out twice in place of keeping what is in them (arXiv:1604.06174).

    ``frozen`` is how the matrices of text encoders and denoisers that do not learn are kept meanwhile: "bf16" and
    "fp16" are narrower numbers, "int8" and "fp8" rounded by torchao, "nf4" by bitsandbytes (QLoRA, arXiv:2305.14314);
    each is made whole for its product and again for the gradient. Kernels of convolutions are kept as ``precision``
    multiplies them. ``offload`` "parts" has the text encoders in the processor's memory while the denoiser learns, and
    it while they read; "groups" has the denoiser's frozen matrices there too, of which one at a time is on the card.

    ``compiled`` has torch compile the blocks of the denoisers that repeat, once for each of their sizes;
    ``channels_last`` keeps kernels of convolutions as tensor cores read them. ``exact`` takes deterministic kernels on
    CUDA and refuses operations without one; None takes them where they exist, and says where not; False takes the
    fastest. ``log_every`` steps losses are read of the device, which is waited for meanwhile: 0 for each step on a
    processor and every tenth on a card. A loss that is no number is found then, and in any case before something is
    saved.

    What is left out, so that guidance can do without it: ``caption_dropout`` is the share of captions emptied for
    all text
    text encoders, ``encoder_dropout`` are shares for each by itself, besides; ``condition_dropout`` are shares of
    conditions by a glob over their names, the last that matches: a condition then says what it says in the null branch.
    Each goes by itself, but of the share ``joint_dropout`` all words and conditions are left out together, and of
    ``joint_keep`` none (Composer, arXiv:2302.09778, section 2.2).

    Pictures are resized until they cover ``size`` (width, height) and cut at their centre; with ``buckets`` each at the
    size nearest its own shape, a batch of one size; with neither they stay as they are. With ``sample_latents`` x is
    drawn at each step from the autoencoder's posterior, where it has one, as latent diffusion was published
    (arXiv:2112.10752) and diffusers' scripts do; without it is the mean.

    ``captions`` says how captions vary from step to step, ``augment`` how pictures do. ``repeats`` are (glob over
    "FOLDER/KEY", how often): rows of a folder of data are learnt that often in an epoch, the last glob that matches.

    ``max_unknown`` is the share of unknown tokens, ``max_truncated`` and ``max_empty`` are the shares of captions cut
    short and empty above which the stage does not begin: a wrong tokenizer knows almost nothing, while names and signs
    alone rarely reach a fifth; half of long captions may well be cut, but a text encoder that cuts most is the wrong
    one.

    ``validation`` is the share of the data that is held out; every ``validate_every`` steps its loss under noise that
    stays the same is measured with the averaged weights, and the best of them are kept.

    ``sample_every`` steps the recipe's prompts are drawn, 0 for now and then; ``save_every`` steps what is learnt is
    kept as it is then, with averaged weights, and of those the last ``keep_last``, 0 for all. ``trackers`` are told of
    each step: accelerate's, such as "tensorboard" and "wandb".

    ``adapter`` is a low-rank adapter that learns beside the frozen weights and is saved in a file of its own. ``note``
    keeps what a paper said.
    """

    name: str
    objective: Part
    train: tuple[str, ...]
    level: str = ""
    steps: int = 1000
    batch: int = 32
    lr: float = 1e-4
    weight_decay: float = 0.01
    warmup: int = 0
    lr_schedule: Literal["constant", "cosine", "cosine_with_restarts", "linear", "piecewise_constant", "polynomial"] = (
        "constant"
    )
    lr_cycles: int = 1
    lr_pieces: tuple[tuple[int, float], ...] = ()
    power: float = 1.0
    floor: float = 0.0
    lr_overrides: tuple[tuple[str, float], ...] = ()
    accumulate: int = 1
    optimiser: str = "adamw"
    optimiser_args: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fused_backward: bool = False
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    precision: Literal["fp32", "bf16", "bf16_weights", "fp16"] = "fp32"
    gradient_checkpointing: bool = False
    frozen: Literal["fp32", "bf16", "fp16", "int8", "fp8", "nf4"] = "fp32"
    offload: Literal["none", "parts", "groups"] = "none"
    compiled: bool = False
    channels_last: bool = False
    exact: bool | None = None
    log_every: int = 0
    caption_dropout: float = 0.0
    encoder_dropout: tuple[float, ...] = ()
    condition_dropout: tuple[tuple[str, float], ...] = ()
    joint_dropout: float = 0.0
    joint_keep: float = 0.0
    ema: float = 0.0
    size: tuple[int, int] | None = None
    buckets: tuple[tuple[int, int], ...] = ()
    sample_latents: bool = True
    captions: CaptionEdits = field(default_factory=CaptionEdits)
    augment: Augmentation = field(default_factory=Augmentation)
    repeats: tuple[tuple[str, int], ...] = ()
    max_unknown: float = 0.2
    max_truncated: float = 0.5
    max_empty: float = 0.05
    validation: float = 0.0
    validate_every: int = 500
    sample_every: int = 0
    save_every: int = 0
    keep_last: int = 0
    trackers: tuple[str, ...] = ()
    adapter: Part | None = None
    note: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "batch", "accumulate"):
            if getattr(self, name) < 1:
                raise RecipeError(
                    "{name} of stage {name_2!r} must be at least 1; got {value}",
                    name=name,
                    name_2=self.name,
                    value=getattr(self, name),
                )
        if not 0 <= self.lr < math.inf or (self.lr_overrides and not self.lr):
            raise RecipeError("lr of stage {name!r} must be above 0; got {lr}", name=self.name, lr=self.lr)
        if any(count < 0 for _, count in self.repeats):
            raise RecipeError(
                "repeats of stage {name!r} are counts from 0; got {repeats}", name=self.name, repeats=self.repeats
            )
        if self.log_every < 0:
            raise RecipeError(
                "log_every of stage {name!r} is {every}; expected a number of steps, or 0",
                name=self.name,
                every=self.log_every,
            )
        if min(self.sample_every, self.save_every, self.keep_last) < 0 or (self.keep_last and not self.save_every):
            raise RecipeError(
                "sample_every, save_every and keep_last of stage {name!r} are 0 or more, and keep_last goes with "
                "save_every; got {sample}, {save}, {keep}",
                name=self.name,
                sample=self.sample_every,
                save=self.save_every,
                keep=self.keep_last,
            )
        self._check_rates()
        self._check_fused()

    def _check_rates(self) -> None:
        if self.lr_cycles < 1 or (self.lr_cycles > 1 and self.lr_schedule != "cosine_with_restarts"):
            raise RecipeError(
                "lr_cycles of stage {name!r} is {cycles}; expected 1 or more, and lr_schedule cosine_with_restarts",
                name=self.name,
                cycles=self.lr_cycles,
            )
        pieces, ends = self.lr_schedule == "piecewise_constant", [end for end, _ in self.lr_pieces]
        if pieces != bool(self.lr_pieces) or ends != sorted(set(ends)) or any(left < 0 for _, left in self.lr_pieces):
            raise RecipeError(
                "lr_pieces of stage {name!r} are {pieces}; expected with lr_schedule piecewise_constant, and then "
                "alone: (until which step, share of lr), by rising steps",
                name=self.name,
                pieces=self.lr_pieces,
            )

    def _check_fused(self) -> None:
        """``fused_backward`` knows one gradient at a time, so nothing that takes them together goes with it."""
        if not self.fused_backward:
            return
        together = {
            "accumulate=1": self.accumulate == 1,
            "max_grad_norm=0": not self.max_grad_norm,
            "precision=fp32 (or bf16)": self.precision in ("fp32", "bf16"),
        }
        if wrong := [wanted for wanted, fine in together.items() if not fine]:
            raise RecipeError(
                "fused_backward of stage {name!r} knows one gradient at a time; it goes with {wanted}",
                name=self.name,
                wanted=", ".join(wrong),
            )

    @property
    def holds(self) -> bool:
        """Whether weights that do not learn are kept otherwise than as they are."""
        return self.frozen != "fp32" or self.offload != "none"

    @property
    def drops(self) -> bool:
        """Whether rows ever do without a caption or a condition."""
        return any(
            (
                self.caption_dropout,
                *self.encoder_dropout,
                *(share for _, share in self.condition_dropout),
                self.joint_dropout,
            )
        )

    def tiny(self) -> Self:
        """A few steps on pictures of about 128 pixels a side, their shapes kept."""
        small = super().tiny()
        return replace(
            small,
            steps=min(self.steps, 3),
            batch=min(self.batch, 4),
            accumulate=min(self.accumulate, 2),
            warmup=0,
            size=None if self.size is None else _tiny_size(self.size),
            buckets=tuple(dict.fromkeys(map(_tiny_size, self.buckets))),
        )


def _tiny_size(size: tuple[int, int]) -> tuple[int, int]:
    """A size of nearly the same shape, of about 128 x 128 pixels, in steps of 64."""
    scale = min(1.0, TINY_SIDE / (size[0] * size[1]) ** 0.5)
    width, height = (max(1, round(side * scale / TINY_STEP)) * TINY_STEP for side in size)
    return width, height
