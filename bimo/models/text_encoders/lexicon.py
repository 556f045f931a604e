"""Words of a prompt that a lexicon of known words does not have, as whole words."""

from __future__ import annotations

import difflib
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from bimo.core.messages import say
from bimo.prompts.emoji import names, sequences

_HAN = "\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_HAN_RUN = re.compile(f"[{_HAN}]+")
#: A word in another script: Latin, Cyrillic, kana, Hangul.
_WORD = re.compile(f"[^\\W_{_HAN}]+(?:['’-][^\\W_{_HAN}]+)*")
#: Numerals, which precede measure words; 一 with its measure word is a word of its own.
_NUMBERS = frozenset("一二两三四五六七八九十几半多每这那双百千数0123456789")
#: Particles, which no picture shows.
_PARTICLES = frozenset("的地得了着过吗呢吧啊呀嘛么们被把给让从向往对于以及并也都还就才又再很更最这那其之与和跟或而但")
_PARTICLES_EN = frozenset(
    re.findall(r"\w+", "a an the of and or with in on at to by for from is are as its it this that s t")
)
#: Localisers after a noun, 山上; before one they are part of a word, 上海.
_PLACES = frozenset("上下里外中内前后旁边间")
#: Single-character verbs and colours, which are adjacent to nouns.
_BESIDE = frozenset("戴吃在有是画拿穿骑坐红橙黄绿蓝紫粉棕黑白灰金银大小")
#: Last characters of place names: 天安门, 布达拉宫.
_ENDS = frozenset("门宫山河湖江海城塔桥寺庙街路岛国省市县镇村园院馆楼亭洞峰岭谷湾港站州京区节")
#: Punctuation that only divides a sentence.
_MARKS = frozenset(",.:;!?'\"()[]<>-~·、。…/&+")
_WORDS_NEAR = 3
#: Unknown words that similar ones are looked for, and letters of the longest.
_WORDS_LOOKED_AT, _LETTERS = 32, 40


@dataclass(frozen=True)
class Strange:
    """Unknown words, in the order of the text, and whether they are most, or all, of what is to be drawn."""

    words: tuple[str, ...] = ()
    mostly: bool = False
    wholly: bool = False


def strange(text: str, places: Sequence[tuple[int, int]], known: Set[str], own: Set[str] = frozenset()) -> Strange:
    """The unknown words of a text in normal form. ``places`` are the offsets of its tokens, ``own`` words added by
    textual inversion.
    """
    pieces = [(start, end) for start, end in places if start < end and text[start:end] not in own]
    starts = [start for start, _ in pieces]
    taught = {place for start, end in places if text[start:end] in own for place in range(start, end)}
    strange: dict[int, str] = {}
    learned = 0
    for word in _WORD.finditer(text):
        if word.start() in taught:
            continue
        parts = re.split("['’-]", word[0])
        if word[0] in known or all(part in known or part in _PARTICLES_EN for part in parts):
            learned += word[0] not in _PARTICLES_EN
        elif word[0] not in _PARTICLES_EN:
            strange[word.start()] = word[0]
    for run in _HAN_RUN.finditer(text):
        within = pieces[bisect_left(starts, run.start()) : bisect_left(starts, run.end())]
        inside = [(start, end) for start, end in within if end <= run.end()]
        count, words = _of_run(text, inside, known)
        learned += count
        strange |= words
    emoji = sequences(text)
    in_emoji = {place for start, end in emoji for place in range(start, end)}
    for start, end in emoji:
        strange[start] = _called(text[start:end])
    # Dividing or known marks do not matter, unless the text consists of marks only.
    alone = not strange and not learned
    for start, end in pieces:
        word = text[start:end]
        if _is_mark(word) and start not in in_emoji and (alone or not (word in known or _MARKS.issuperset(word))):
            strange[start] = word
    words = tuple(dict.fromkeys(_joined(strange)))
    return Strange(words, len(words) > learned, bool(words) and not learned)


def _joined(found: dict[int, str]) -> Iterator[str]:
    """The words in order; consecutive marks are joined: ???."""
    last = -1
    pending = ""
    for start, word in sorted(found.items()):
        if pending and _is_mark(pending) and _is_mark(word) and start == last:
            pending += word
        else:
            if pending:
                yield pending
            pending = word
        last = start + len(word)
    if pending:
        yield pending


def _is_mark(word: str) -> bool:
    return bool(word.strip()) and not any(c.isalnum() for c in word)


def _called(emoji: str) -> str:
    """An emoji without a known word, with its name."""
    called = names(emoji, say("en") == "zh")
    return say("{emoji} ({called})", emoji=emoji, called=called[0]) if called else emoji


def _of_run(text: str, places: Sequence[tuple[int, int]], known: Set[str]) -> tuple[int, dict[int, str]]:
    """(number of known content words, unknown words by their offsets) of a run of Han characters."""
    strange: dict[int, str] = {}
    words = [text[start:end] for start, end in places]
    measures = [
        f"一{w}" in known and s > 0 and text[s - 1] in _NUMBERS for w, (s, _) in zip(words, places, strict=True)
    ]
    plain = [w in known or m or w in _PARTICLES for w, m in zip(words, measures, strict=True)]
    for at in range(1, len(words)):
        if words[at] in _PLACES and plain[at - 1]:
            plain[at] = True  # 公园里
        elif words[at] in _PARTICLES - known and not plain[at - 1] and at + 1 < len(words) and not plain[at + 1]:
            plain[at] = False  # within an unknown word a particle is a part of it: 穿着宇航服
    aside = _PARTICLES | _NUMBERS | _BESIDE
    counted = [m or (w in known and len(w) == 2 and w[0] == "一") for w, m in zip(words, measures, strict=True)]
    says = [
        plain[at] and not counted[at] and words[at] not in _PARTICLES | _NUMBERS | _PLACES for at in range(len(words))
    ]
    # A known single character may be a part of the unknown word next to it: 上海, 天安门.
    joins = [len(w) == 1 and not m and w not in aside for w, m in zip(words, measures, strict=True)]
    free = at = 0
    while at < len(words):
        if plain[at]:
            at += 1
            continue
        first = at
        while at < len(words) and not plain[at]:
            at += 1
        unlearned = "".join(words[first:at])
        left = first > free and joins[first - 1] and _begins(words, first - 1, counted)
        right = at < len(words) and joins[at] and words[at] not in _PLACES and unlearned not in _BESIDE
        # Most words have two characters: a remaining single one belongs to its neighbour.
        odd = len(unlearned) % 2 == 1
        if left and odd and (words[first - 1] in _PLACES or not right):
            first -= 1
        elif right and (odd or words[at] in _ENDS):
            at += 1
        strange[places[first][0]] = "".join(words[first:at])
        says[first:at] = [False] * (at - first)
        free = at
    return sum(says), strange


def _begins(words: Sequence[str], at: int, counted: Sequence[bool]) -> bool:
    """Whether a known character may begin an unknown word: a localiser does if no noun precedes it."""
    return words[at] not in _PLACES or at == 0 or counted[at - 1] or words[at - 1] in _PARTICLES | _BESIDE


def near(words: Sequence[str], known: Set[str]) -> tuple[str, ...]:
    """Known words similar to the first unknown ones: in letters, or with characters in common."""
    similar: dict[str, None] = {}
    for word in words[:_WORDS_LOOKED_AT]:
        if _HAN_RUN.fullmatch(word) and len(word) > 1:
            # Of a run more than three times as long too little is shared, whatever it says.
            short = (other for other in known if len(word) <= 3 * len(other) and set(word) & set(other))
            best = sorted(((_shared(word, other), other) for other in short), key=lambda p: (-p[0], len(p[1]), p[1]))
            similar |= dict.fromkeys(other for share, other in best[:_WORDS_NEAR] if share >= 0.5)
        elif word.isascii() and 2 < len(word) <= _LETTERS:
            similar |= dict.fromkeys(difflib.get_close_matches(word, known, n=_WORDS_NEAR, cutoff=0.75))
    return tuple(similar)[: 2 * _WORDS_NEAR]


def _shared(word: str, other: str) -> float:
    """2 shared / all characters."""
    rest = list(other)
    common = sum(1 for c in word if c in rest and not rest.remove(c))
    return 2 * common / (len(word) + len(other))
