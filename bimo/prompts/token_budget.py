"""How much of a prompt a text encoder reads: tokens used and truncated, unknown words, untokenisable characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bimo.core.messages import Listed, Message, say


@dataclass(frozen=True)
class Budget:
    """``used`` tokens of at most ``limit``. ``lost`` is the truncated text, ``unknown`` the words that the model was
    not trained on, ``near`` similar words that it knows, ``mostly`` and ``wholly`` whether most or all content words
    are unknown, ``unread`` the characters without a token.
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
        """The same without the unknown words in ``texts``, which are set as lettering and not drawn by the model."""
        lettering = "".join(texts)
        return replace(self, unknown=tuple(word for word in self.unknown if word not in lettering))

    def knowing(self, captions: Sequence[str]) -> Budget:
        """The same where the model was trained on these captions, in their normal form, besides: as by a LoRA."""
        unknown = tuple(word for word in self.unknown if not any(word in caption for caption in captions))
        if unknown == self.unknown:
            return self
        learned = len(self.unknown) - len(unknown)
        near = self.near if unknown else ()
        return replace(self, unknown=unknown, near=near, mostly=self.mostly and len(unknown) > learned, wholly=False)

    def in_a_draft(self) -> Budget:
        """The same where a draft by program shows every word, whatever the text encoder makes of it."""
        return replace(self, unknown=(), mostly=False, wholly=False, unread=())

    def warnings(self) -> tuple[str, ...]:
        """A sentence for everything that the text encoder does not see, in the user's language."""
        sentences: list[str] = []
        if self.lost:
            sentences.append(
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
            sentences.append(say("most of what is to be drawn was never learned; the picture will hardly be like it"))
        if self.unknown:
            sentences.append(
                say(
                    "this model never learned: {listed}; it will be missing or drawn as something else{near}",
                    listed=listed(self.unknown),
                    near=self._nearest(),
                )
            )
        if self.unread:
            sentences.append(
                say(
                    "the tokenizer of this model cannot read: {listed}; it draws without that, so say it in words",
                    listed=listed(self.unread),
                )
            )
        return tuple(sentences)

    def nothing_known(self) -> str:
        """The sentence for a prompt of unknown words only, "" for any other."""
        if not self.wholly:
            return ""
        return say(
            "this model never learned any of: {listed}{near}; a picture of it would be of nothing",
            listed=listed(self.unknown),
            near=self._nearest(),
        )

    def _nearest(self) -> Message:
        return Message("; learned words like it: {words}", words=Listed(self.near)) if self.near else Message("")


def listed(words: Sequence[str]) -> str:
    """Joins words by the user language's separator."""
    return say(", ").join(words)
