"""Step caches: EasyCache, and guidance branches that are reused for some steps.

A cache belongs to one drawing, inside its own loop. Drawings at different steps can still share a call, and each is the
same as when it is drawn alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from bimo.core.errors import RequestError
from bimo.core.messages import Listed
from bimo.core.request import Request
from bimo.core.tensors import BlockCache, DeepFeatures, DenoiserInput, Nag

#: The names of step caches in requests ("easy:0.05"), and their default numbers.
KINDS: dict[str, float] = {"easy": 0.05, "deep": 3, "first-block": 0.1, "taylor": 3, "dbcache": 0.08}
#: Those whose number is an interval of steps, an integer.
INTERVALS = ("deep", "taylor")
#: Those of libraries, in the blocks of a transformer (`bimo.diffusion.block_cache`).
IN_BLOCKS = ("first-block", "taylor", "dbcache")
#: The first steps decide the composition and are never skipped.
WARM_STEPS = 2


@dataclass(frozen=True)
class StepCacheSetting:
    """A kind of step cache and its number.

    ``easy`` (EasyCache, arXiv:2507.02860; the number is the tolerated change, 0.05) skips whole steps; ``deep``
    (DeepCache, arXiv:2312.00858; the number is the interval at which the whole UNet is run) skips its inner layers;
    ``first-block`` (of ParaAttention; the tolerated change of the first block) and ``taylor`` (TaylorSeer,
    arXiv:2503.06923; an interval of steps) are diffusers' for transformers, ``dbcache`` (the tolerated change of the
    first block) is cache-dit's for these and others.
    """

    kind: str
    number: float

    @property
    def in_blocks(self) -> bool:
        """Whether it is a library's, in the blocks of a transformer."""
        return self.kind in IN_BLOCKS

    @classmethod
    def named(cls, text: str) -> StepCacheSetting:
        """Parses 'easy' or 'easy:0.05'. Raises RequestError."""
        kind, _, written = text.strip().partition(":")
        if kind in KINDS:
            try:
                number = float(written) if written else KINDS[kind]
            except ValueError:
                number = -1.0
            if kind in INTERVALS and number in range(2, 21):
                return cls(kind, number)
            if kind not in INTERVALS and 0 < number <= 1:
                return cls(kind, number)
        raise RequestError(
            "the step cache is {text!r}; expected one of {listed}",
            text=text,
            listed=Listed([f"{kind}:{number:g}" for kind, number in KINDS.items()]),
        )


class EasyCache:
    """Skips steps at which the output hardly changes (arXiv:2507.02860, equations 5 to 8).

    The rate k of the output's change by that of x is measured at full steps. While k |change of x| / |output|, summed
    since the last full step, stays below ``threshold``, the output is x plus the difference of output and x at the last
    full step.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._change = 0.0
        self._rate: float | None = None
        self._last_x: Tensor | None = None
        self._last_output: Tensor | None = None
        self._difference: Tensor | None = None
        self._last_full_step: tuple[Tensor, Tensor] | None = None
        #: The number of skipped steps.
        self.left_out = 0

    def guess(self, x: Tensor, rows: int, step: int, steps: int) -> Tensor | None:
        """The output [rows, ...] for x [1, ...] (the denoiser's input); None if the denoiser must be called."""
        difference = self._difference
        if difference is None or self._rate is None or self._last_x is None or self._last_output is None:
            return None
        if step < WARM_STEPS or step == steps - 1 or difference.shape[0] != rows:
            return None
        moved = _size(x - self._last_x)
        self._last_x = x
        self._change += self._rate * moved / max(_size(self._last_output), 1e-12)
        if self._change >= self.threshold:
            return None
        self.left_out += 1
        channels = x.shape[1]
        output = difference.clone()
        output[:, :channels] += x
        return output

    def keep(self, x: Tensor, output: Tensor) -> None:
        """Records a full step: x [1, C, ...] and its output [R, C or more, ...]."""
        channels = x.shape[1]
        if self._last_full_step is not None and self._last_full_step[1].shape == output.shape:
            before, last = self._last_full_step
            self._rate = _size(output - last) / max(_size(x - before), 1e-12)
        difference = output.clone()
        difference[:, :channels] -= x
        self._last_full_step = (x, output)
        self._last_x, self._last_output, self._difference, self._change = x, output, difference, 0.0


def _size(values: Tensor) -> float:
    return float(values.abs().mean())


class CachedBranches:
    """Computes the guidance branches other than the conditional one every ``every`` steps only; between them their
    difference from the conditional one is reused (after FasterCache, arXiv:2410.19355, without its frequencies).
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self._offsets: Tensor | None = None
        self._since = 0

    def holds(self) -> bool:
        """Whether the cached differences can be used at this step."""
        return self._offsets is not None and self._since < self.every

    def all_rows(self, output: Tensor) -> Tensor:
        """[1, ...] of the conditional branch -> [R, ...] in the order of ``guidance.combine``; [R, ...] is cached."""
        if len(output) == 1 and self._offsets is not None:
            self._since += 1
            return output + self._offsets
        self._offsets, self._since = output - output[1:2], 1
        return output


class StepShortcuts:
    """All shortcuts of a request for one level; none without a request."""

    def __init__(self, request: Request | None = None) -> None:
        cache = request.step_cache if request is not None else None
        setting = None if cache is None else StepCacheSetting.named(cache)
        kind, number = ("", 0.0) if setting is None else (setting.kind, setting.number)
        self._easy = EasyCache(number) if kind == "easy" else None
        self._deep = DeepFeatures() if kind == "deep" else None
        self._blocks = BlockCache(kind, number) if setting is not None and setting.in_blocks else None
        self._interval = int(number)
        self._branches = None
        self._merged, self._nag = 0.0, None
        if request is not None:
            self._branches = None if request.guidance_every is None else CachedBranches(request.guidance_every)
            self._merged = request.token_merging or 0.0
            self._nag = None if request.nag is None else Nag(request.nag)

    def branches_cached(self) -> bool:
        """Whether this step needs the conditional branch alone."""
        return self._branches is not None and self._branches.holds()

    def restore_branches(self, output: Tensor) -> Tensor:
        """The output of all branches, [R, ...], from those that were computed."""
        return output if self._branches is None else self._branches.all_rows(output)

    def guess(self, x: Tensor, rows: int, step: int, steps: int) -> Tensor | None:
        """The output of a skipped step; None if it is not skipped."""
        return None if self._easy is None else self._easy.guess(x, rows, step, steps)

    def keep(self, x: Tensor, output: Tensor) -> None:
        """Records a step that was not skipped."""
        if self._easy is not None:
            self._easy.keep(x, output)

    def with_shortcuts(self, denoiser_input: DenoiserInput) -> DenoiserInput:
        """The input with the shortcuts that the denoiser itself takes."""
        if self._deep is not None:
            held = self._deep.value
            self._deep.reused = (
                held is not None and len(held) == len(denoiser_input.x) and denoiser_input.step % self._interval != 0
            )
        if self._deep is None and not self._merged and self._nag is None and self._blocks is None:
            return denoiser_input
        settings = {"deep": self._deep, "token_merging": self._merged, "nag": self._nag, "blocks": self._blocks}
        return replace(denoiser_input, **settings)
