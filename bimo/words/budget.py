"""How much of a prompt a tower reads: tokens used and lost, words it never learned. Nothing is cut in silence."""

from __future__ import annotations

from dataclasses import dataclass

from bimo.core.errors import say


@dataclass(frozen=True)
class Budget:
    """``used`` tokens of at most ``limit``; ``lost`` is the text past the limit, ``unknown`` the words not learned."""

    used: int
    limit: int
    lost: str = ""
    unknown: tuple[str, ...] = ()

    def warnings(self) -> tuple[str, ...]:
        """A sentence for each thing the tower will not see, in the user's language."""
        told: list[str] = []
        if self.lost:
            told.append(
                say(
                    f"提示词有 {self.used} 个词元，这个模型只读前 {self.limit} 个；没有读到的 {len(self.lost)} 个字："
                    f"“{self.lost}”",
                    f"the prompt has {self.used} tokens and this model reads the first {self.limit}; "
                    f"{len(self.lost)} characters are not read: “{self.lost}”",
                )
            )
        if self.unknown:
            words = "、".join(self.unknown)
            told.append(
                say(
                    f"这个模型没有学过：{words}；画面里不会有它，或画成别的东西",
                    f"this model never learned: {words}; it will be missing or drawn as something else",
                )
            )
        return tuple(told)
