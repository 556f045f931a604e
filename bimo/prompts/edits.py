"""Edits of a request by a sentence about the last picture: 把猫换成狗, 背景改成蓝色, 大一点, 再来一张.

Each rule changes one field; a sentence that no rule matches is an error. Quoted text only changes if it is named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bimo.core.errors import RequestError
from bimo.core.messages import say
from bimo.prompts.expansion import is_chinese
from bimo.prompts.styles import SAME, STYLES

#: The factor of a picture's sides for 大一点.
LARGER = 1.5
MORE_STEPS = 1.5
#: A number with its measure word, or an article, before a thing.
_COUNTED = re.compile("[一两三四五][只个条张片座棵朵匹辆幅支把位]|an? ")
_LEAST_SIDE, _UNIT = 64, 64
_END = r"[。.!！\s]*"
_NUMBERS = {"一": 1, "两": 2, "二": 2, "三": 3, "四": 4, "五": 5, "六": 6, "七": 7, "八": 8, "九": 9, "十": 10} | {
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
}


@dataclass(frozen=True)
class Edit:
    """The fields of a request after a change, a sentence that summarises it, and whether to draw again."""

    fields: dict[str, Any]
    summary: str
    draws: bool = True


Rule = Callable[[re.Match[str], Mapping[str, Any]], Edit]


def edited(sentence: str, fields: Mapping[str, Any]) -> Edit:
    """Applies a sentence to a request's fields; before the first drawing every sentence is a prompt. Raises
    RequestError if no rule matches, or for words that the prompt does not contain.
    """
    instruction = sentence.strip()
    if not instruction:
        raise RequestError("nothing was said; say what to draw, or what to change")
    if not fields.get("text"):
        return Edit({**fields, "text": instruction}, say("drawn: {text}", text=instruction))
    for pattern, rule in _RULES:
        if match := pattern.fullmatch(instruction):
            return rule(match, fields)
    raise RequestError(
        "{sentence!r} is no change that is understood; say for instance 把猫换成狗, 背景改成蓝色, 大一点, 再来一张, "
        "撤销, or begin anew with 画 and what to draw",
        sentence=instruction,
    )


def _replaced(match: re.Match[str], fields: Mapping[str, Any]) -> Edit:
    before, after = _bare(match["before"]), _bare(match["after"])
    text = str(fields["text"])
    if before not in text:
        raise RequestError(
            "the prompt “{text}” has no {before!r}; say words that stand in it", text=text, before=before
        )
    if _COUNTED.match(after):  # 一只猫 becomes 一只老虎 and not 一只一只老虎
        text = re.sub(rf"(?:{_COUNTED.pattern})?{re.escape(before)}", lambda _: after, text)
    return Edit({**fields, "text": text.replace(before, after)}, _changed(before, after))


def _background(match: re.Match[str], fields: Mapping[str, Any]) -> Edit:
    colour = _bare(match["after"])
    text = str(fields["text"])
    if is_chinese(text):
        phrase, existing = f"{colour.removesuffix('的')}背景", re.compile(r"[^，,、。]*背景")
    else:
        phrase, existing = f"{colour} background", re.compile(r"[^,]*background", re.IGNORECASE)
    if existing.search(text):
        changed = existing.sub(lambda one: (" " if one[0].startswith(" ") else "") + phrase, text, count=1)
    else:
        changed = text.rstrip("，, ") + ("，" if is_chinese(text) else ", ") + phrase
    return Edit({**fields, "text": changed}, say("background: {colour}", colour=colour))


def _added(match: re.Match[str], fields: Mapping[str, Any]) -> Edit:
    what, text = _bare(match["what"]), str(fields["text"])
    comma = "，" if is_chinese(text) else ", "
    return Edit({**fields, "text": text.rstrip("，, 。.") + comma + what}, say("added: {what}", what=what))


def _removed(match: re.Match[str], fields: Mapping[str, Any]) -> Edit:
    what, text = _bare(match["what"]), str(fields["text"])
    pieces = re.split(r"([，,、])", text)
    parts = [part for part in pieces[::2] if what not in part]
    comma = pieces[1] if len(pieces) > 1 else "，"
    changed = (comma + (" " if comma == "," else "")).join(part.strip() for part in parts)
    negative = str(fields.get("negative") or "")
    joined = what if not negative else f"{negative}{'，' if is_chinese(what) else ', '}{what}"
    return Edit({**fields, "text": changed or text, "negative": joined}, say("not drawn: {what}", what=what))


def _sized(factor: float) -> Rule:
    def rule(_: re.Match[str], fields: Mapping[str, Any]) -> Edit:
        size = tuple(max(_LEAST_SIDE, round(side * factor / _UNIT) * _UNIT) for side in fields["size"])
        return Edit({**fields, "size": size}, say("size: {width}x{height}", width=size[0], height=size[1]))

    return rule


def _again(match: re.Match[str], fields: Mapping[str, Any]) -> Edit:
    word = match["count"] or "1"
    count = _NUMBERS.get(word.lower(), int(word) if word.isdecimal() else 1)
    seed = int(fields.get("seed") or 0) + int(fields.get("count") or 1)
    return Edit({**fields, "seed": seed, "count": count}, say("seed: {seed}", seed=seed))


def _styled(match: re.Match[str], fields: Mapping[str, Any]) -> Edit:
    name = _bare(match["style"])
    requested = name.removesuffix("风格").removesuffix("画风").removesuffix(" style").strip().lower()
    known = SAME.get(requested, requested if requested in STYLES else "")
    if known:
        return Edit({**fields, "style": known}, say("style: {style}", style=known))
    return _added(re.fullmatch("(?P<what>.*)", name, re.DOTALL) or match, {**fields, "style": None})


def _number(field: str, kind: type) -> Rule:
    def rule(match: re.Match[str], fields: Mapping[str, Any]) -> Edit:
        value = kind(match["number"])
        return Edit({**fields, field: value}, f"{field}: {value}")

    return rule


def _finer(_: re.Match[str], fields: Mapping[str, Any]) -> Edit:
    steps = round(int(fields["steps"]) * MORE_STEPS)
    return Edit({**fields, "steps": steps}, f"steps: {steps}")


def _anew(match: re.Match[str], fields: Mapping[str, Any]) -> Edit:
    text = match["what"].strip()
    settings = {name: value for name, value in fields.items() if name in ("size", "steps", "seed")}
    return Edit({**settings, "text": text}, say("drawn: {text}", text=text))


def _changed(before: str, after: str) -> str:
    return say("{before} became {after}", before=before, after=after)


def _bare(words: str) -> str:
    return words.strip(" 。.!！，,")


def _rule(pattern: str, rule: Rule) -> tuple[re.Pattern[str], Rule]:
    return re.compile(pattern + _END, re.IGNORECASE | re.DOTALL), rule


_COUNT = r"(?P<count>[一两二三四五六七八九十]|\d{1,2})"
_RULES = [
    _rule(r"(?:请)?(?:把|将)?背景(?:的颜色|颜色)?(?:改成|换成|变成|改为|换为|要)(?P<after>.+?)", _background),
    _rule(r"(?:make|change|turn) the background(?: to| into)? (?P<after>.+?)", _background),
    _rule(r"(?:请)?(?:把|将)(?P<before>.+?)(?:换成|改成|变成|改为|换为|替换成)(?P<after>.+?)", _replaced),
    _rule(r"(?:replace|change|swap|turn) (?:the )?(?P<before>.+?) (?:with|to|into|for) (?P<after>.+?)", _replaced),
    _rule(rf"(?:请)?再(?:来|画|给我)?{_COUNT}?张|换一张|重画|再来", _again),
    _rule(r"(?:one more|another(?: one)?|again|(?:draw )?(?P<count>two|three|four|\d{1,2}) more)", _again),
    _rule(r"(?:画面|图片?|尺寸)?(?:再)?(?:大一?点儿?|放大|更大)", _sized(LARGER)),
    _rule(r"(?:画面|图片?|尺寸)?(?:再)?(?:小一?点儿?|缩小|更小)", _sized(1 / LARGER)),
    _rule(r"(?:make it )?(?:a bit )?(?:larger|bigger)", _sized(LARGER)),
    _rule(r"(?:make it )?(?:a bit )?smaller", _sized(1 / LARGER)),
    _rule(r"(?:再)?(?:精细|细致|清楚|清晰)一?点|more detail(?:ed)?|finer", _finer),
    _rule(r"(?:步数|steps)(?:改成|改为|设为|[:=： ])*(?P<number>\d{1,4})", _number("steps", int)),
    _rule(r"(?:种子|seed)(?:改成|改为|设为|[:=： ])*(?P<number>\d{1,18})", _number("seed", int)),
    _rule(r"(?:引导|guidance)(?:改成|改为|设为|[:=： ])*(?P<number>\d{1,2}(?:\.\d+)?)", _number("guidance", float)),
    _rule(r"(?:改成|换成|变成|用)(?P<style>.+?(?:风格|画风|画))", _styled),
    _rule(r"(?:in|make it|as)(?: an?)? (?P<style>.+?)(?: style)?", _styled),
    _rule(r"(?:请)?(?:再)?(?:加上|加|添上|添|画上)(?P<what>.+?)", _added),
    _rule(r"add (?P<what>.+?)", _added),
    _rule(r"(?:请)?(?:去掉|删掉|不要|别画)(?P<what>.+?)", _removed),
    _rule(r"(?:remove|without|no) (?:the )?(?P<what>.+?)", _removed),
    _rule(r"(?:画|请画|draw )(?P<what>.+?)", _anew),
]
