"""The tensors that rooms hand to each other, with their shapes.

Letters: B batch, L tokens, D width, P pooled width, C channels; h, w are sizes in a level's space, H, W in pixels.
Pixels are float in [-1, 1], RGB, channel first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    import torch

Row = TypeVar("Row")


@dataclass(frozen=True)
class TextEncoding:
    """Encoded texts: ``tokens`` [B, L, D], ``mask`` [B, L] bool (True: real), ``pooled`` [B, P]."""

    tokens: torch.Tensor
    mask: torch.Tensor | None = None
    pooled: torch.Tensor | None = None


@dataclass(frozen=True)
class Conditioning:
    """What a denoiser is given besides x and t.

    ``streams`` are token sequences; ``vector`` [B, P]; ``spatial`` [B, Cs, h, w] is joined to x on the channels;
    ``scalars`` are small vectors by name, each [B, S]; ``pictures`` are what adapters look at by name, each [B, 3, H,
    W], or [B, C, h, w] coded as x is. ``negative`` are the words to be led away from without guidance.
    """

    streams: tuple[TextEncoding, ...] = ()
    vector: torch.Tensor | None = None
    spatial: torch.Tensor | None = None
    scalars: Mapping[str, torch.Tensor] = field(default_factory=dict[str, "torch.Tensor"])
    pictures: Mapping[str, torch.Tensor] = field(default_factory=dict[str, "torch.Tensor"])
    negative: TextEncoding | None = None


@dataclass(frozen=True)
class Nag:
    """Normalized attention guidance: how far from the negative words, how much longer than without, and how much of it
    (arXiv:2505.21179; its authors' numbers for Stable Diffusion XL).
    """

    scale: float
    tau: float = 2.5
    alpha: float = 0.5


@dataclass
class DeepFeatures:
    """What the inner layers of a UNet gave a drawing, ``value`` [R, C', h', w']: ``reused`` says whether a step is
    to use it, or to fill it (DeepCache, arXiv:2312.00858).
    """

    value: torch.Tensor | None = None
    reused: bool = False


@dataclass(eq=False)
class BlockCache:
    """A step cache of a library for the blocks of a transformer, and what it keeps of one drawing: ``kind`` and
    ``number`` as in ``diffusion.step_cache``; ``kept`` are the attributes of each module that it works by, None before
    the first step.
    """

    kind: str
    number: float
    kept: dict[Any, dict[str, Any]] | None = None


@dataclass
class StepState:
    """What a denoiser keeps of one drawing from one step of a level to the next, under keys of its own: keys and values
    of the attention of an autoregressive prior, or of reference pictures.
    """

    kept: dict[Any, Any] = field(default_factory=dict[Any, Any])


@dataclass(frozen=True)
class Shortcuts:
    """What a denoiser is to do besides or not to do: ``deep`` is whether features are "filled" or "reused" (see
    DeepFeatures); ``token_merging`` the share of tokens merged in a UNet's widest self-attentions; ``nag`` leads away
    from the words in ``Conditioning.negative``; ``seamless`` says across which edges convolutions go on.
    """

    deep: str = ""
    token_merging: float = 0.0
    nag: Nag | None = None
    seamless: str = ""


@dataclass(frozen=True)
class DenoiserInput:
    """What one call of a denoiser is given: ``x`` [R, C, h, w], ``t`` [R], R rows, one a guidance branch. ``deep`` are
    the features of DeepCache, where it is asked for; ``seamless`` says across which edges convolutions go on: "x", "y",
    "both" or "". ``states`` are one for each drawing in the call, or none where nothing is to be kept: the rows of x
    are shared out among them in order. ``blocks`` is the step cache of a library, whose drawing has calls of its own.
    """

    level: str
    x: torch.Tensor
    t: torch.Tensor
    conditioning: Conditioning
    step: int = 0
    steps: int = 1
    deep: DeepFeatures | None = None
    token_merging: float = 0.0
    nag: Nag | None = None
    seamless: str = ""
    states: tuple[StepState, ...] = ()
    blocks: BlockCache | None = None

    @property
    def shortcuts(self) -> Shortcuts:
        """What inputs must have in common to share a call."""
        deep = "" if self.deep is None else "reused" if self.deep.reused else "filled"
        return Shortcuts(deep, self.token_merging, self.nag, self.seamless)


@dataclass(frozen=True)
class Share:
    """The rows of a training step that one of several processes learns from: ``first`` to ``last`` of ``total``."""

    first: int
    last: int
    total: int

    @overload
    def of(self, values: torch.Tensor) -> torch.Tensor: ...
    @overload
    def of(self, values: Sequence[Row]) -> Sequence[Row]: ...
    def of(self, values: Any) -> Any:
        """Those rows of what has one for each of the step's: [total, ...] -> [last - first, ...]."""
        return values if len(values) == self.last - self.first else values[self.first : self.last]


@dataclass(frozen=True)
class Batch:
    """A training batch in a level's space: ``x`` [B, C, h, w], the texts as encoded, what the data declares.

    ``dropped_captions`` [B] bool says whose caption was emptied for guidance, ``dropped_conditions`` [B] bool by a
    condition's name which rows do without it; ``generator`` gives all randomness of the step. ``pixels`` [B, 3, H, W]
    are the pictures that x codes. ``scalars`` has "size_ids" [B, 6], those of SDXL (arXiv:2307.01952, section 2.2):
    height and width of the original, top and left of the cut, height and width. ``maps`` [B, 3, H, W] by name come with
    the pictures: depth, instances. ``labels`` are all that the data declares of each row.

    Where several processes share a step the B rows are one's ``share`` of the ``total``. What is random is drawn for
    the whole, alike in all of them, and then cut to one's ``own`` rows: so that it is what one process alone draws.
    """

    x: torch.Tensor
    encodings: tuple[TextEncoding, ...]
    scalars: Mapping[str, torch.Tensor]
    dropped_captions: torch.Tensor
    generator: torch.Generator
    pixels: torch.Tensor | None = None
    maps: Mapping[str, torch.Tensor] = field(default_factory=dict[str, "torch.Tensor"])
    dropped_conditions: Mapping[str, torch.Tensor] = field(default_factory=dict[str, "torch.Tensor"])
    share: Share | None = None
    labels: Sequence[Mapping[str, Any]] = ()

    @property
    def total_rows(self) -> int:
        """How many rows the step has in all processes together."""
        return len(self.x) if self.share is None else self.share.total

    def own(self, values: torch.Tensor) -> torch.Tensor:
        """The rows that are here of what has one for each of the step's: [total, ...] -> [B, ...]."""
        return values if self.share is None else self.share.of(values)

    def normal(self, *shape: int) -> torch.Tensor:
        """Normal numbers of the step's generator, [B, *shape]."""
        import torch

        return self.own(torch.randn((self.total_rows, *shape), generator=self.generator))
