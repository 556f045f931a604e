"""Steps that ask the denoiser less: EasyCache, and the answer of guidance's other branches kept for some steps.

What is kept belongs to one drawing, inside its own loop. So drawings at different steps still share a call, and each
is the same as when it is drawn alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from bimo.core.errors import RequestError
from bimo.core.messages import Listed
from bimo.core.request import Request
from bimo.core.tensors import DeepFeatures, DenoiserInput, Nag

#: What a step cache may be called in a request, "easy:0.05", and the number where none is given.
KINDS: dict[str, float] = {"easy": 0.05, "deep": 3, "first-block": 0.1, "taylor": 3}
#: Those that are steps between two whole ones, and so are whole numbers.
INTERVALS = ("deep", "taylor")
#: The first steps decide what is drawn where, and are always whole.
WARM_STEPS = 2


@dataclass(frozen=True)
class StepCacheSetting:
    """A kind of step cache and its number.

    ``easy`` (EasyCache, arXiv:2507.02860; number: how much change is let pass, 0.05) leaves whole steps out; ``deep``
    (DeepCache, arXiv:2312.00858; every how many steps the whole UNet is asked) its inner layers; ``first-block``
    (ParaAttention's; how much the first block may change) and ``taylor`` (TaylorSeer, arXiv:2503.06923; every how many
    steps) are diffusers' for transformers.
    """

    kind: str
    number: float

    @classmethod
    def named(cls, text: str) -> StepCacheSetting:
        """'easy' or 'easy:0.05'. Raises RequestError."""
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
    """Leaves out steps at which the answer would hardly be another (arXiv:2507.02860, equations 5 to 8).

    How much an answer changes for a change of x, k, is measured at whole steps. While k |change of x| / |answer|, added
    up since the last whole step, stays below ``threshold``, that step's answer less its x is taken for this one's.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._change = 0.0
        self._rate: float | None = None
        self._seen: Tensor | None = None
        self._answer: Tensor | None = None
        self._difference: Tensor | None = None
        self._whole: tuple[Tensor, Tensor] | None = None
        #: How many steps were left out.
        self.left_out = 0

    def guess(self, seen: Tensor, rows: int, step: int, steps: int) -> Tensor | None:
        """The answer [rows, ...] for x [1, ...] as the denoiser would see it; None where it has to be asked."""
        kept = self._difference
        if kept is None or self._rate is None or self._seen is None or self._answer is None:
            return None
        if step < WARM_STEPS or step == steps - 1 or kept.shape[0] != rows:
            return None
        moved = _size(seen - self._seen)
        self._seen = seen
        self._change += self._rate * moved / max(_size(self._answer), 1e-12)
        if self._change >= self.threshold:
            return None
        self.left_out += 1
        channels = seen.shape[1]
        answer = kept.clone()
        answer[:, :channels] += seen
        return answer

    def keep(self, seen: Tensor, answer: Tensor) -> None:
        """Takes note of a whole step: x [1, C, ...] and the answer [R, C or more, ...] to it."""
        channels = seen.shape[1]
        if self._whole is not None and self._whole[1].shape == answer.shape:
            before, last = self._whole
            self._rate = _size(answer - last) / max(_size(seen - before), 1e-12)
        difference = answer.clone()
        difference[:, :channels] -= seen
        self._whole = (seen, answer)
        self._seen, self._answer, self._difference, self._change = seen, answer, difference, 0.0


def _size(values: Tensor) -> float:
    return float(values.abs().mean())


class KeptBranches:
    """The branches of guidance but the given one, asked every ``every`` steps: between them they are as far from the
    given one as they were (after FasterCache, arXiv:2410.19355, without its frequencies).
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self._apart: Tensor | None = None
        self._since = 0

    def holds(self) -> bool:
        """Whether what is kept does for this step."""
        return self._apart is not None and self._since < self.every

    def all_rows(self, answer: Tensor) -> Tensor:
        """[1, ...] of the given branch -> [R, ...] in the order of ``guidance.combine``; [R, ...] is kept."""
        if len(answer) == 1 and self._apart is not None:
            self._since += 1
            return answer + self._apart
        self._apart, self._since = answer - answer[1:2], 1
        return answer


class LessWork:
    """All that a request leaves out of one level's steps; nothing where there is no request."""

    def __init__(self, request: Request | None = None) -> None:
        cache = request.step_cache if request is not None else None
        setting = None if cache is None else StepCacheSetting.named(cache)
        kind, number = ("", 0.0) if setting is None else (setting.kind, setting.number)
        self._easy = EasyCache(number) if kind == "easy" else None
        self._deep = DeepFeatures() if kind == "deep" else None
        self._interval = int(number)
        self._branches = None
        self._merged, self._nag = 0.0, None
        if request is not None:
            self._branches = None if request.guidance_every is None else KeptBranches(request.guidance_every)
            self._merged = request.token_merging or 0.0
            self._nag = None if request.nag is None else Nag(request.nag)

    def branches_kept(self) -> bool:
        """Whether the branches of guidance but the given one need not be asked at this step."""
        return self._branches is not None and self._branches.holds()

    def all_branches(self, answer: Tensor) -> Tensor:
        """The answer of every branch, [R, ...], from that of those which were asked."""
        return answer if self._branches is None else self._branches.all_rows(answer)

    def guess(self, seen: Tensor, rows: int, step: int, steps: int) -> Tensor | None:
        """The answer of a step that is left out; None where it is not."""
        return None if self._easy is None else self._easy.guess(seen, rows, step, steps)

    def keep(self, seen: Tensor, answer: Tensor) -> None:
        """Takes note of a step that was not left out."""
        if self._easy is not None:
            self._easy.keep(seen, answer)

    def asked(self, ask: DenoiserInput) -> DenoiserInput:
        """An ask with what the denoiser itself is to leave out."""
        if self._deep is not None:
            held = self._deep.value
            self._deep.reused = held is not None and len(held) == len(ask.x) and ask.step % self._interval != 0
        if self._deep is None and not self._merged and self._nag is None:
            return ask
        return replace(ask, deep=self._deep, token_merging=self._merged, nag=self._nag)
