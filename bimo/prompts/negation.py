"""Negations in a prompt (不要猫, a room without cats), which diffusion models ignore: they draw the negated word."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bimo.prompts.quoted_text import quoted

_END = r"(?=的|[，。；、！？,.;!?\n]|而|但|只|$)"
_NOT_A_THING = r"，。；、！？,.;!?\n的:：()（）“”「」『』《》\""
_ZH = re.compile(
    rf"(?<![要有差特分识])(?:不要|不想要|不能有|不需要|没有|别画|别要|别有|不画|不带|不含|不放|不加|不出现|去掉|不戴|没戴|不穿|没穿)(?:画|有|出现|任何)*\s*(?P<what>[^{_NOT_A_THING}]+?){_END}"
)
_EN = re.compile(
    r"(?:\b(?:no|without|not any|do not draw|don['’]t draw|excluding)\s+(?:(?:any|a|an|the)\s+)?"
    r"|(?<=[,;，；])\s*(?:(?:and|but)\s+)?not\s+(?:a|an|any|the)\s+)"
    r"(?P<what>[a-z][\w'’-]*(?:\s+(?!(?:and|but|on|in|with|at|under|near|by|of|is|are)\b)[a-z][\w'’-]*){0,3}"
    r"(?:\s+(?:and|or)\s+[a-z][\w'’-]*(?=\s*(?:[,.;!?]|$)))?)",
    re.IGNORECASE,
)
#: Phrases with a negation that excludes no object.
_SAYINGS = re.compile(
    r"no (?:entry|smoking|littering|bicycles|pedestrians|mobile|one|problem|parking|good|evil|matter|longer|more)\b"
    r"|没有(?:问题|关系|什么)|没(?:事|关系|什么|问题|落|收)|别(?:墅|针)|不(?:要紧|带电)",
    re.IGNORECASE,
)
_SEPARATORS = " ,，、;；。.!！?？"


@dataclass(frozen=True)
class Negation:
    """``text`` without its negations, the excluded ``things``, and the removed phrases as they were written."""

    text: str
    things: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()


def negation(prompt: str) -> Negation:
    """Separates a prompt from what it excludes. Quoted text is left alone."""
    things: list[str] = []
    phrases: list[str] = []
    text = prompt
    for pattern in (_ZH, _EN):
        position = 0
        while match := pattern.search(text, position):
            whole = match[0].strip()
            if _SAYINGS.match(match[0]) or _within_quotes(text, match.start()):
                position = match.end()
                continue
            things.append(
                re.sub(r"\s*(?:和|与|或|跟|\band\b|\bor\b)\s*", _between(match["what"]), match["what"]).strip()
            )
            phrases.append(whole)
            before, after = text[: match.start()], text[match.end() :]
            # 没有猫的房间 becomes 房间, without the 的.
            text = before + after.removeprefix("的")
            position = len(before)
    return Negation(_tidied(text) if phrases else prompt, tuple(things), tuple(phrases))


def _within_quotes(text: str, place: int) -> bool:
    ends = [(start, start + len(words)) for words in quoted(text) for start in (text.find(words),)]
    return any(start <= place < end for start, end in ends)


def _between(things: str) -> str:
    return ", " if things.isascii() else "，"


def _tidied(text: str) -> str:
    """Removes the commas that are left around removed phrases."""
    text = re.sub(r"\s+(?=[,，、;；。.]|$)", "", re.sub(r"\s{2,}", " ", text))
    text = re.sub(r"\s*([,，、;；])(?:\s*[,，、;；。.])+", r"\1", text)
    return re.sub(rf"(?:[{_SEPARATORS}]|但|而且|并且|\b(?:and|but|with)\b)+$", "", text, flags=re.IGNORECASE).strip(
        _SEPARATORS
    )
