"""How much of a LoRA counts, and in which steps: "0.8", or "0.8@0.2-0.6" from a fifth of the steps to three fifths."""

from __future__ import annotations

import re
from dataclasses import dataclass

_WRITTEN = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+))(?:@(\d(?:\.\d+)?)-(\d(?:\.\d+)?))?")


@dataclass(frozen=True)
class LoraWeight:
    """A weight, and the first and last share of the steps that it counts in."""

    value: float = 1.0
    first: float = 0.0
    last: float = 1.0

    @classmethod
    def read(cls, text: str) -> LoraWeight | None:
        """Parses "0.8" or "0.8@0.2-0.6"; None for other text, and for a range that is empty or not within 0 to 1."""
        match = _WRITTEN.fullmatch(text.strip())
        if match is None:
            return None
        read = cls(float(match[1]), float(match[2] or 0), float(match[3] or 1))
        return read if 0 <= read.first < read.last <= 1 else None

    @property
    def whole(self) -> bool:
        """Whether it counts in every step."""
        return (self.first, self.last) == (0.0, 1.0)

    def counts(self, step: int, steps: int) -> bool:
        """Whether it counts in a step of so many, by the rule of diffusers' control_guidance_start and _end."""
        return step / steps >= self.first and (step + 1) / steps <= self.last

    def __str__(self) -> str:
        return f"{self.value:g}" if self.whole else f"{self.value:g}@{self.first:g}-{self.last:g}"
