"""AUTOMATIC1111's prompt syntax besides weighting, in half and full width.

``[a:b:0.5]`` switches from a to b after half of the steps, ``[a|b]`` alternates every step, ``a AND b :0.8`` composes
the guidance of both, BREAK starts a new chunk, ``<lora:x:0.8>`` asks for a LoRA, and ``<lora:x:0.8@0.2-0.6>``, which
AUTOMATIC1111 has not, for one in a range of steps. Quoted text is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bimo.core.lora_weight import LoraWeight
from bimo.prompts.quoted_text import quoted_spans

_OPEN, _CLOSE, _COLON, _BAR = "[［", "]］", ":：", "|｜"
_ROUND_OPEN, _ROUND_CLOSE = "(（", ")）"
_NUMBER = re.compile(r"\s*[-+]?(?:\d+(?:[.．]\d*)?|[.．]\d+)\s*")
_AND = re.compile(r"(?<![A-Za-z0-9_])AND(?![A-Za-z0-9_])")
_AND_WEIGHT = re.compile(r"(?P<text>.*?)(?:\s*[:：]\s*(?P<weight>[-+]?(?:\d+[.．]?\d*|[.．]\d+)))?\s*", re.DOTALL)
BREAK = re.compile(r"\s*(?<![A-Za-z0-9_])BREAK(?![A-Za-z0-9_])\s*")
_LORA = re.compile(r"[<＜]lora[:：](?P<name>[^<>＜＞:：]+)(?:[:：](?P<weight>[^<>＜＞]*))?[>＞]", re.IGNORECASE)
_NARROW = str.maketrans("：．＠－", ":.@-")
#: Brackets that are nested deeper are text.
DEEPEST = 32


@dataclass(frozen=True)
class Scheduled:
    """``before`` up to a step, ``after`` from then on. ``when`` is the number as written: with a decimal point a
    fraction of the steps, else a step number.
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
    """Options that alternate with every step."""

    options: tuple[tuple[Node, ...], ...]


Node = str | Scheduled | Alternate


def schedule(prompt: str, steps: int) -> list[tuple[int, str]]:
    """The text of a prompt for each range of steps: [(last step, text), ...] in order, steps counted from 1.

    As AUTOMATIC1111's ``get_learned_conditioning_prompt_schedules``, whose examples are a test.
    """
    nodes = _Reader(prompt).whole()
    ends = {steps}
    _ends(nodes, steps, ends)
    return [(end, _at(nodes, end, steps)) for end in sorted(ends)]


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
    texts: list[str] = []
    for node in nodes:
        if isinstance(node, Scheduled):
            node_now = node.before if step <= node.last_before(steps) else node.after
            texts.append(_at(node_now, step, steps))
        elif isinstance(node, Alternate):
            texts.append(_at(node.options[(step - 1) % len(node.options)], step, steps))
        else:
            texts.append(node)
    return "".join(texts)


class _Reader:
    """Parses brackets; unbalanced ones are text."""

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
        """The nodes that begin at a position, and their end; None for an unbalanced bracket."""
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
                nodes = _bracket(parts, marks) if square else None
                if nodes is None:  # weights and other brackets stay text, but their contents are parsed
                    nodes = (text[first], *parts[0])
                    for between, part in zip(marks, parts[1:], strict=True):
                        nodes = (*nodes, between, *part)
                    nodes = (*nodes, mark)
                return tuple(nodes), at + 1
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


def _bracket(part_nodes: Sequence[list[Node]], separators: Sequence[str]) -> tuple[Node, ...] | None:
    """A schedule or an alternation; None for any other text in brackets."""
    parts, marks = list(part_nodes), list(separators)
    if marks and all(mark in _BAR for mark in marks):
        return (Alternate(tuple(_joined(part) for part in parts)),)
    # A bar inside a schedule is text, as AUTOMATIC1111 documents: [{b|d{:.5].
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
    """Merges adjacent texts."""
    merged: list[Node] = []
    for node in nodes:
        if isinstance(node, str) and merged and isinstance(merged[-1], str):
            merged[-1] += node
        else:
            merged.append(node)
    return tuple(merged)


def _outside(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    quotes = quoted_spans(text)
    return [match for match in pattern.finditer(text) if not any(start <= match.start() < end for start, end in quotes)]


def composed(prompt: str) -> list[tuple[str, float]]:
    """The prompts joined by AND with their weights, [("a cat", 1.0), ("a dog", 0.8)]; arXiv:2206.01714."""
    cuts = _outside(_AND, prompt)
    if not cuts:
        return [(prompt, 1.0)]
    starts, ends = [0, *(cut.end() for cut in cuts)], [*(cut.start() for cut in cuts), len(prompt)]
    prompts: list[tuple[str, float]] = []
    for start, end in zip(starts, ends, strict=True):
        read = _AND_WEIGHT.fullmatch(prompt[start:end].strip())
        if read is not None and read["text"].strip():
            prompts.append((read["text"].strip(), float((read["weight"] or "1").replace("．", "."))))
    return prompts or [(prompt, 1.0)]


WHOLE = LoraWeight()


@dataclass(frozen=True)
class LoraTag:
    """A LoRA that a prompt asks for, by its file name without suffix."""

    name: str
    weight: LoraWeight = WHOLE


def lora_tags(prompt: str) -> tuple[str, tuple[LoraTag, ...]]:
    """Removes the ``<lora:name:weight>`` tags from a prompt and returns them in order. A tag whose weight is not a
    number, or whose steps are none, stays text; of several weights the first counts for both networks, as in
    AUTOMATIC1111.
    """
    tags: list[LoraTag] = []
    text: list[str] = []
    at = 0
    for match in _outside(_LORA, prompt):
        weight = LoraWeight.read((match["weight"] or "1").translate(_NARROW).split(":")[0])
        if weight is None:
            continue
        tags.append(LoraTag(match["name"].strip(), weight))
        text.append(prompt[at : match.start()])
        at = match.end()
    if not tags:
        return prompt, ()
    return "".join((*text, prompt[at:])).strip(), tuple(tags)
