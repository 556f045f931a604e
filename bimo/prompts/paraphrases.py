"""Commoner words for those that a model never learned: 柯基 is drawn as 狗, and words without any are left out.

For models that were trained on a list of words (``Budget.unknown``). Words that are written wrongly are read as those
that they sound or look like first (``spelling``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace

from bimo.core.messages import say
from bimo.prompts.commoner_words import table, words_in
from bimo.prompts.normalise import normal
from bimo.prompts.quoted_text import quoted_spans
from bimo.prompts.spelling import respelt
from bimo.prompts.token_budget import Budget, listed

_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
#: Prompt syntax, which is neither replaced nor left out.
_SYNTAX = re.compile(r"<[^<>]*>|[:：]\s*[-+]?[\d.．]+|[()（）\[\]［］:：|｜\\]|\b(?:AND|BREAK)\b")
#: Particles that a word left out leaves behind, at the beginning of a phrase.
_LEFT_OVER = re.compile(r"(^|[,，、。;；\s])[的地得之](?=[^,，、。;；\s])")
_COMMAS = re.compile(r"\s*[,，、]\s*(?=[,，、])|^[\s,，、]+|[\s,，、]+$")
_WORD = re.compile(r"\w")
_BLANKS = re.compile(r"\s{2,}")


@dataclass(frozen=True)
class Paraphrase:
    """A prompt as a model can read it, ``text``, with the words that were ``respelt`` (as which), ``replaced`` (by
    which) or ``left_out``.
    """

    text: str
    replaced: tuple[tuple[str, str], ...] = ()
    left_out: tuple[str, ...] = ()
    respelt: tuple[tuple[str, str], ...] = ()

    def besides(self, shown: Set[str]) -> Paraphrase:
        """Without the words that are ``shown`` (in their normal form) though the model never learned them."""
        replaced = tuple(pair for pair in self.replaced if normal(pair[0]) not in shown)
        return replace(self, replaced=replaced, left_out=tuple(w for w in self.left_out if normal(w) not in shown))

    def notes(self) -> tuple[str, ...]:
        """A sentence for the words that were respelt, one for those replaced and one for those left out, in the user's
        language.
        """
        spelt = [f"{word} → {meant}" for word, meant in self.respelt]
        read = [
            say("taken for slips of the pen, read as: {pairs} (--anyway reads what is written)", pairs=listed(spelt))
        ]
        pairs = [f"{word} → {commoner}" for word, commoner in self.replaced]
        sentences = [say("this model never learned some words and draws commoner ones: {pairs}", pairs=listed(pairs))]
        out = [say("left out, as nothing that this model could show: {words}", words=listed(self.left_out))]
        return (*(read if spelt else ()), *(sentences if pairs else ()), *(out if self.left_out else ()))


def paraphrased(text: str, budget: Callable[[str], Budget], known: Set[str] = frozenset()) -> Paraphrase:
    """A prompt with the words that are written wrongly put right, those that the model never learned replaced by
    commoner ones that it did learn, and those that name nothing to be seen left out. Other unknown words, quoted text
    and prompt syntax stay as they are.

    ``budget`` is the model's: ``Budget.unknown`` has the words of a text that it never learned; ``known`` are those
    that it learned, without which none is put right.
    """
    spelt, pairs = put_right(text, budget, known)
    return replace(_in_commoner_words(spelt, budget), respelt=pairs)


def put_right(text: str, budget: Callable[[str], Budget], known: Set[str]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """A text with the words that are written wrongly put right, and which for which; not in quotations and syntax."""
    pieces: list[str] = []
    pairs: dict[str, str] = {}
    for piece, free in _pieces(text) if known else ():
        found = respelt(piece, budget, known) if free and piece.strip() else ()
        for word, meant in found:
            piece = (piece if word in piece else normal(piece)).replace(word, meant)
        pairs |= dict(found)
        pieces.append(piece)
    return ("".join(pieces), tuple(pairs.items())) if pairs else (text, ())


def _in_commoner_words(text: str, budget: Callable[[str], Budget]) -> Paraphrase:
    """A prompt in words that the model learned."""
    unknown = budget(_free(text)).unknown
    plain = normal(text)
    if not unknown and not any(table()[plain[slice(*span)]].adorns for span in words_in(plain)):
        return Paraphrase(text)
    missing = frozenset("".join(map(normal, unknown)))
    pieces: list[str] = []
    replaced: dict[str, str] = {}
    nothing: dict[str, None] = {}
    for piece, free in _pieces(text):
        pieces.append(_replaced(piece, budget, missing, replaced, nothing) if free else piece)
    commoner, pairs = "".join(pieces), tuple(replaced.items())
    shorter = _without(commoner, tuple(nothing))
    # All that there is to draw is not left out.
    if not nothing or budget(_free(shorter)).wholly or not _WORD.search(_free(shorter)):
        return Paraphrase(commoner, pairs)
    return Paraphrase(shorter, pairs, tuple(nothing))


def proposed(words: Sequence[str], known: Callable[[str], bool]) -> tuple[str, ...]:
    """Known words for what the given ones are, or are like."""
    found: dict[str, None] = {}
    for word in words:
        row = table().get(normal(word))
        if row is not None:
            found |= dict.fromkeys([one for one in row.every(bool(_HAN.search(word))) if known(one)][:1])
    return tuple(found)


def _pieces(text: str) -> list[tuple[str, bool]]:
    """The text in pieces, and whether each is free to be changed: quotations and syntax are not."""
    fixed = sorted((*quoted_spans(text), *(found.span() for found in _SYNTAX.finditer(text))))
    pieces: list[tuple[str, bool]] = []
    at = 0
    for start, end in fixed:
        if start >= at:
            pieces += [(text[at:start], True), (text[start:end], False)]
            at = end
    return [*pieces, (text[at:], True)]


def _free(text: str) -> str:
    """What of a text is free to be changed."""
    return " ".join(piece for piece, free in _pieces(text) if free and piece.strip())


def _replaced(
    piece: str,
    budget: Callable[[str], Budget],
    missing: Set[str],
    replaced: dict[str, str],
    nothing: dict[str, None],
) -> str:
    """A piece with its words replaced; those that name nothing are added to ``nothing``. ``missing`` are the characters
    of the prompt's unknown words: 森林里 may be known where 森林 is not.
    """
    plain = normal(piece)
    aligned = plain if len(plain) == len(piece) else piece.lower()
    done, at = "", 0
    for start, end in words_in(aligned):
        word, row = piece[start:end], table()[aligned[start:end]]
        if row.adorns and _alone(aligned, start, end):
            nothing[word] = None
            continue
        strange = not missing.isdisjoint(aligned[start:end]) and _alone(aligned, start, end)
        if strange and budget(word).unknown:
            chinese = bool(_HAN.search(word))
            choices = row.plain(chinese)
            commoner = next((one for one in choices if not budget(one).unknown), None)
            if commoner is not None:
                done += piece[at:start]
                # 上海外滩: both words are the same commoner one.
                done, at = done if done.endswith(commoner) else done + commoner, end
                replaced[word] = commoner
            elif not row.every(chinese):
                nothing[word] = None
    return done + piece[at:]


def _alone(text: str, start: int, end: int) -> bool:
    """Whether a word is no part of another: letters must not touch it, nor a Chinese one of one character others."""
    before, after = text[start - 1 : start], text[end : end + 1]
    if _HAN.match(text[start]):
        return end - start > 1 or not any(_HAN.match(c) for c in (before, after) if c and c not in "的和与在里上下")
    return not any(c.isalnum() and not _HAN.match(c) for c in (before, after))


def _without(text: str, words: Sequence[str]) -> str:
    """A text without the words, and without the particles and commas that they leave behind."""
    if not words:
        return text
    pieces: list[str] = []
    for piece, free in _pieces(text):
        for word in sorted(words, key=len, reverse=True) if free else ():
            pattern = re.escape(word) if _HAN.search(word) else rf"(?<![A-Za-z0-9_]){re.escape(word)}(?![A-Za-z0-9_])"
            piece = re.sub(pattern, " " if word.isascii() else "", piece, flags=re.IGNORECASE)
        pieces.append(piece)
    shorter = _LEFT_OVER.sub(r"\1", "".join(pieces))
    return _BLANKS.sub(" ", _COMMAS.sub("", shorter)).strip()
