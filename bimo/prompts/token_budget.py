"""How much of a prompt a text encoder reads: tokens used and lost, what it cannot read or never learned. All of it is
said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bimo.core.messages import Both, say


@dataclass(frozen=True)
class Budget:
    """``used`` tokens of at most ``limit``; ``lost`` is the text past the limit, ``unknown`` the words not learned,
    ``near`` learned ones that are like those, ``mostly`` and ``wholly`` whether most, or all, words that say what to
    draw are unknown; ``unread`` is what the tokenizer has no token for.
    """

    used: int
    limit: int
    lost: str = ""
    unknown: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    mostly: bool = False
    wholly: bool = False

    def without(self, texts: Sequence[str]) -> Budget:
        """The same where ``texts`` are written letter by letter and need no word of the model's."""
        written = "".join(texts)
        return replace(self, unknown=tuple(word for word in self.unknown if word not in written))

    def warnings(self) -> tuple[str, ...]:
        """A sentence for each thing the text encoder will not see, in the user's language."""
        told: list[str] = []
        if self.lost:
            told.append(
                say(
                    "the prompt has {used} tokens and this model reads the first {limit}; {count} characters are not "
                    "read: “{lost}”",
                    used=self.used,
                    limit=self.limit,
                    count=len(self.lost),
                    lost=self.lost,
                )
            )
        if self.mostly:
            told.append(say("most of what is to be drawn was never learned; the picture will hardly be like it"))
        if self.unknown:
            told.append(
                say(
                    "this model never learned: {listed}; it will be missing or drawn as something else{near}",
                    listed=listed(self.unknown),
                    near=self._nearest(),
                )
            )
        if self.unread:
            told.append(
                say(
                    "the tokenizer of this model cannot read: {listed}; it draws without that, so say it in words",
                    listed=listed(self.unread),
                )
            )
        return tuple(told)

    def nothing_known(self) -> str:
        """The sentence for a prompt of which the text encoder learned nothing, "" for any other."""
        if not self.wholly:
            return ""
        return say(
            "this model never learned any of: {listed}{near}; a picture of it would be of nothing",
            listed=listed(self.unknown),
            near=self._nearest(),
        )

    def _nearest(self) -> Both:
        if not self.near:
            return Both("", "")
        return Both(f"；学过的相近的词：{listed(self.near)}", f"; learned words like it: {listed(self.near)}")


def listed(words: Sequence[str]) -> str:
    """Words one after another, as the language that is spoken lists them."""
    return say(", ").join(words)
