"""AUTOMATIC1111's prompt syntax beside emphasis, in full width as in half width.

``[a:b:0.5]`` is a, and b after half of the steps, ``[a|b]`` takes turns, ``a AND b :0.8`` guides by both, BREAK begins
a new chunk, ``<lora:x:0.8>`` asks for an adapter. What stands in quotation marks is to be written and is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bimo.prompts.quoted_text import quoted_spans

_OPEN, _CLOSE, _COLON, _BAR = "[［", "]］", ":：", "|｜"
_ROUND_OPEN, _ROUND_CLOSE = "(（", ")）"
_NUMBER = re.compile(r"\s*[-+]?(?:\d+(?:[.．]\d*)?|[.．]\d+)\s*")
_AND = re.compile(r"(?<![A-Za-z0-9_])AND(?![A-Za-z0-9_])")
_AND_WEIGHT = re.compile(r"(?P<text>.*?)(?:\s*[:：]\s*(?P<weight>[-+]?(?:\d+[.．]?\d*|[.．]\d+)))?\s*", re.DOTALL)
BREAK = re.compile(r"\s*(?<![A-Za-z0-9_])BREAK(?![A-Za-z0-9_])\s*")
_LORA = re.compile(r"[<＜]lora[:：](?P<name>[^<>＜＞:：]+)(?:[:：](?P<weight>[^<>＜＞]*))?[>＞]", re.IGNORECASE)
#: Brackets within brackets beyond this are text.
DEEPEST = 32


@dataclass(frozen=True)
class Scheduled:
    """``before`` up to a step, ``after`` from then on; ``when`` as it was written: a share of the steps with a point in
    it, a number of steps without.
    """

    before: tuple[Node, ...]
    after: tuple[Node, ...]
    when: str

    def last_before(self, steps: int) -> int:
        """The last step of ``before``, counted from 1."""
        value = float(self.when.replace("．", "."))
        return min(steps, int(value * steps if "." in self.when or "．" in self.when else value))


@dataclass(frozen=True)
class Alternate:
    """Takes turns, a step each."""

    options: tuple[tuple[Node, ...], ...]


Node = str | Scheduled | Alternate


def schedule(prompt: str, steps: int) -> list[tuple[int, str]]:
    """What a prompt says up to which step: [(last step, text), ...] in order, the first step being 1.

    As AUTOMATIC1111's ``get_learned_conditioning_prompt_schedules``: its examples are held by a test.
    """
    nodes = _Reader(prompt).whole()
    ends = {steps}
    _ends(nodes, steps, ends)
    return [(end, _at(nodes, end, steps)) for end in sorted(ends)]


def is_edited(prompt: str) -> bool:
    """Whether a prompt says something else at some steps."""
    return any(not isinstance(node, str) for node in _Reader(prompt).whole())


def _ends(nodes: Sequence[Node], steps: int, ends: set[int]) -> None:
    for node in nodes:
        if isinstance(node, Scheduled):
            if (last := node.last_before(steps)) >= 1:
                ends.add(last)
            _ends((*node.before, *node.after), steps, ends)
        elif isinstance(node, Alternate):
            ends.update(range(1, steps + 1))
            for option in node.options:
                _ends(option, steps, ends)


def _at(nodes: Sequence[Node], step: int, steps: int) -> str:
    said: list[str] = []
    for node in nodes:
        if isinstance(node, Scheduled):
            node_now = node.before if step <= node.last_before(steps) else node.after
            said.append(_at(node_now, step, steps))
        elif isinstance(node, Alternate):
            said.append(_at(node.options[(step - 1) % len(node.options)], step, steps))
        else:
            said.append(node)
    return "".join(said)


class _Reader:
    """Reads brackets; what is not balanced is text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.quotes = dict(quoted_spans(text))
        self._failed: set[int] = set()

    def whole(self) -> tuple[Node, ...]:
        nodes: list[Node] = []
        at = 0
        while at < len(self.text):
            read = self._one(at, 0)
            if read is None:  # a bracket that nothing closes
                nodes.append(self.text[at])
                at += 1
            else:
                nodes += read[0]
                at = read[1]
        return _joined(nodes)

    def _one(self, at: int, depth: int) -> tuple[tuple[Node, ...], int] | None:
        """What begins at a place, and where it ends; None where a bracket is not balanced."""
        text = self.text
        if at in self.quotes:
            return (text[at : self.quotes[at]],), self.quotes[at]
        if text[at] == "\\" and at + 1 < len(text):
            return (text[at : at + 2],), at + 2
        if text[at] in _OPEN:
            return self._within(at, depth, _CLOSE, square=True)
        if text[at] in _ROUND_OPEN:
            return self._within(at, depth, _ROUND_CLOSE, square=False)
        return (text[at],), at + 1

    def _within(self, first: int, depth: int, close: str, square: bool) -> tuple[tuple[Node, ...], int] | None:
        if depth >= DEEPEST or first in self._failed:
            return None
        parts: list[list[Node]] = [[]]
        marks: list[str] = []
        at = first + 1
        text = self.text
        while at < len(text):
            mark = text[at]
            if mark in close:
                found = _bracket(parts, marks) if square else None
                if found is None:  # weights and brackets without a schedule stay as they are, what is in them is read
                    found = (text[first], *parts[0])
                    for between, part in zip(marks, parts[1:], strict=True):
                        found = (*found, between, *part)
                    found = (*found, mark)
                return tuple(found), at + 1
            if mark in _CLOSE + _ROUND_CLOSE:
                break
            if mark in _COLON or mark in _BAR:
                marks.append(mark)
                parts.append([])
                at += 1
                continue
            read = self._one(at, depth + 1)
            if read is None:
                break
            parts[-1] += read[0]
            at = read[1]
        self._failed.add(first)
        return None


def _bracket(given: Sequence[list[Node]], between: Sequence[str]) -> tuple[Node, ...] | None:
    """A schedule or a taking of turns; None for any other text in brackets."""
    parts, marks = list(given), list(between)
    if marks and all(mark in _BAR for mark in marks):
        return (Alternate(tuple(_joined(part) for part in parts)),)
    # A bar beside a number for the step is text, as documented: [{b|d{:.5].
    for place in reversed(range(len(marks))):
        if marks[place] in _BAR:
            parts[place : place + 2] = [[*parts[place], marks.pop(place), *parts[place + 1]]]
    if not 1 <= len(marks) <= 2:
        return None
    when = "".join(node for node in parts[-1] if isinstance(node, str))
    if len(parts[-1]) != len(when) or _NUMBER.fullmatch(when) is None:
        return None
    before = _joined(parts[0]) if len(parts) == 3 else ()
    return (Scheduled(before, _joined(parts[-2]), when.strip()),)


def _joined(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Nodes with the texts beside each other made one."""
    found: list[Node] = []
    for node in nodes:
        if isinstance(node, str) and found and isinstance(found[-1], str):
            found[-1] += node
        else:
            found.append(node)
    return tuple(found)


def _outside(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    quotes = quoted_spans(text)
    return [found for found in pattern.finditer(text) if not any(start <= found.start() < end for start, end in quotes)]


def composed(prompt: str) -> list[tuple[str, float]]:
    """The prompts that AND joins, each with its weight: [("a cat", 1.0), ("a dog", 0.8)]; arXiv:2206.01714."""
    cuts = _outside(_AND, prompt)
    if not cuts:
        return [(prompt, 1.0)]
    starts, ends = [0, *(cut.end() for cut in cuts)], [*(cut.start() for cut in cuts), len(prompt)]
    found: list[tuple[str, float]] = []
    for start, end in zip(starts, ends, strict=True):
        read = _AND_WEIGHT.fullmatch(prompt[start:end].strip())
        if read is not None and read["text"].strip():
            found.append((read["text"].strip(), float((read["weight"] or "1").replace("．", "."))))
    return found or [(prompt, 1.0)]


@dataclass(frozen=True)
class LoraTag:
    """An adapter that a prompt asks for, by the name of its file without the ending."""

    name: str
    weight: float = 1.0


def lora_tags(prompt: str) -> tuple[str, tuple[LoraTag, ...]]:
    """A prompt without its ``<lora:name:weight>``, and what they ask for, in order. A weight that is no number leaves
    the tag as text; AUTOMATIC1111 takes the first number for both networks, and so it is here.
    """
    tags: list[LoraTag] = []
    text: list[str] = []
    at = 0
    for found in _outside(_LORA, prompt):
        weight = (found["weight"] or "1").replace("：", ":").split(":")[0].replace("．", ".")
        if _NUMBER.fullmatch(weight) is None:
            continue
        tags.append(LoraTag(found["name"].strip(), float(weight)))
        text.append(prompt[at : found.start()])
        at = found.end()
    if not tags:
        return prompt, ()
    return "".join((*text, prompt[at:])).strip(), tuple(tags)
