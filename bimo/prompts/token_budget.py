"""How much of a prompt a tower reads: tokens used and lost, what it cannot read or never learned. All of it is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bimo.core.errors import say


@dataclass(frozen=True)
class Budget:
    """``used`` tokens of at most ``limit``; ``lost`` is the text past the limit, ``unknown`` the words not learned,
    ``near`` learned ones that are like those, ``mostly`` whether most words that say what to draw are unknown;
    ``unread`` is what the tokenizer has no token for.
    """

    used: int
    limit: int
    lost: str = ""
    unknown: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    mostly: bool = False

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
        if self.mostly:
            told.append(
                say(
                    "这句话里要画的东西大多没有学过，画出来多半不像",
                    "most of what is to be drawn was never learned; the picture will hardly be like it",
                )
            )
        if self.unknown:
            zh, en = (f"；学过的相近的词：{listed(self.near)}", f"; learned words like it: {listed(self.near)}")
            zh, en = (zh, en) if self.near else ("", "")
            told.append(
                say(
                    f"这个模型没有学过：{listed(self.unknown)}；画面里不会有它，或画成别的东西{zh}",
                    f"this model never learned: {listed(self.unknown)}; it will be missing or drawn as something "
                    f"else{en}",
                )
            )
        if self.unread:
            told.append(
                say(
                    f"这个模型的分词器不认得：{listed(self.unread)}；它当作没有写，请用文字说",
                    f"the tokenizer of this model cannot read: {listed(self.unread)}; it draws without that, "
                    "so say it in words",
                )
            )
        return tuple(told)


def listed(words: Sequence[str]) -> str:
    """Words one after another, as the language that is spoken lists them."""
    return say("、", ", ").join(words)
