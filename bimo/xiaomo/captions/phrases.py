"""Captions as people write them: a name, with its style, with season and hour, with its contents.

Captions only mention what the picture's labels contain. All randomness comes from the picture's key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bimo.xiaomo.artwork.captions import Text, traditional
from bimo.xiaomo.captions.lexicon import elements, elements_of, mood_of, moods, styles, subjects
from bimo.xiaomo.captions.verses import Verse, held_out
from bimo.xiaomo.chance import Chance
from bimo.xiaomo.dishes.table import dishes, ingredients
from bimo.xiaomo.dishes.vessels import VESSELS
from bimo.xiaomo.heldout import held_out_verse
from bimo.xiaomo.scenes.description import Mood

Boxes = Mapping[str, Sequence[Sequence[float]]]
Writer = Callable[[Chance], str]
SHARES: Mapping[str, float] = {"zh": 0.58, "zh-Hant": 0.05, "en": 0.32, "mixed": 0.05}
#: Labelled elements that prompts do not ask for by name.
UNSAID = frozenset({"seal", "bank", "table", "rider", "terrace rail", "moonlight", "temple hall", "hill"})
#: Measure words for dishes, by vessel.
MEASURES: Mapping[str, str] = {
    "圆盘": "盘",
    "青花盘": "盘",
    "长盘": "盘",
    "鱼盘": "盘",
    "家常碗": "碗",
    "青花碗": "碗",
    "大碗": "碗",
    "深碗": "碗",
    "砂锅": "锅",
    "石锅": "锅",
    "瓦罐": "罐",
    "铁锅": "锅",
    "蒸笼": "笼",
    "竹篮": "篮",
    "木板": "份",
    "鸳鸯锅": "锅",
    "铜火锅": "锅",
}
ASKS = ("画", "画一幅", "请画", "一幅", "来一张")


@dataclass(frozen=True)
class CaptionFacts:
    """The material for captions of a scene: its names in both languages, style, mood, and boxes of its elements.

    `verses` are matching lines of poems.
    """

    zh: tuple[str, ...]
    en: tuple[str, ...]
    style: str
    mood: Mood
    boxes: Boxes
    verses: tuple[str, ...] = ()


def facts_of_subject(subject: str, style: str, mood: Mood, boxes: Boxes) -> CaptionFacts:
    """The material for captions of a subject, without held-out verses."""
    named = subjects()[subject]
    lines = tuple(line for line in named.words if not held_out(Verse(line)) and _fits(line, mood, boxes))
    zh, en = (tuple(name for name in names if _fits(name, mood, boxes)) or names for names in (named.zh, named.en))
    return CaptionFacts(zh, en, style, mood, boxes, lines)


def _fits(name: str, mood: Mood, boxes: Boxes) -> bool:
    """Whether a name does not contradict the picture: no moon at sunrise, no spring in autumn."""
    if any(one not in boxes for one in elements_of(name) if one in ("moon", "sun", "snow", "rain")):
        return False
    if name.isascii():
        hours = {"at night": "night", "at sunset": "dusk", "snowy night": "night"}
        return all(mood.light == light for words, light in hours.items() if words in name)
    return mood_of(name, mood) == mood


def facts_of_verse(verse: Verse, style: str, mood: Mood, boxes: Boxes) -> CaptionFacts:
    """The material for captions of a verse: the line, those of its clauses that name elements, and the elements."""
    named = [one for one in verse.elements if one in boxes]
    parts = tuple(part for part in verse.clauses if elements_of(part) and not held_out_verse(part))
    table = elements()
    zh = "和".join(filter(None, ("、".join(table[one].zh[0] for one in named[:-1]), table[named[-1]].zh[0])))
    en = " and ".join(filter(None, (", ".join(table[one].en[0] for one in named[:-1]), table[named[-1]].en[0])))
    return CaptionFacts((zh,), (en,), style, mood, boxes, (verse.line.rstrip("。？！；"), *parts))


def scene_captions(facts: CaptionFacts, key: str, count: int = 12) -> list[Text]:
    """`count` captions of a scene, with the shares of languages; the first is in Chinese."""
    return _several(
        Chance(f"{key}/captions"),
        count,
        lambda chance: _chinese(facts, chance),
        lambda chance: _english(facts, chance),
        lambda chance: _mixed(_usual((*facts.verses, *facts.zh), chance), facts.style, chance),
    )


def _several(chance: Chance, count: int, chinese: Writer, english: Writer, mixed: Writer) -> list[Text]:
    """Captions with the shares of languages, the first in Chinese; some Chinese ones end with a full stop."""
    captions: list[Text] = []
    while len(captions) < count:
        language = chance.weighted(list(SHARES), list(SHARES.values())) if captions else "zh"
        text = {"en": english, "mixed": mixed}.get(language, chinese)(chance)
        if language != "en" and chance.chance(0.06):
            text += "。"
        captions.append(Text(traditional(text) if language == "zh-Hant" else text, language))
    return captions


def _mixed(name: str, style: str, chance: Chance) -> str:
    """A Chinese name with its style in English, as is common for styles known by that name."""
    return chance.pick(("{n}，{s}", "{n}, {s}", "{n} {s}")).format(n=name, s=chance.pick(styles()[style].en))


def _usual(names: Sequence[str], chance: Chance) -> str:
    """The first name with a probability of one half, else any."""
    return names[0] if chance.chance(0.5) else chance.pick(names)


def _named(facts: CaptionFacts, chance: Chance, most: int) -> list[str]:
    """Random elements that the name does not contain already."""
    inside = set(elements_of(facts.zh[0]))
    table = elements()
    free = [one for one in facts.boxes if one in table and one not in UNSAID and one not in inside]
    picked: list[str] = []
    for _ in range(min(most, len(free))):
        one = chance.pick(free)
        free.remove(one)
        picked.append(one)
    return picked


def _mood_zh(facts: CaptionFacts, chance: Chance, parts: Sequence[str]) -> str:
    names = {kind: moods()[kind][getattr(facts.mood, kind)].zh for kind in parts}
    return "".join(_usual(names[kind], chance) for kind in parts if names[kind])


def _mood_en(facts: CaptionFacts, chance: Chance, parts: Sequence[str]) -> str:
    names = {kind: moods()[kind][getattr(facts.mood, kind)].en for kind in parts}
    return " ".join(_usual(names[kind], chance) for kind in parts if names[kind])


def _parts(facts: CaptionFacts, chance: Chance) -> list[str]:
    """Which of season, light and weather are mentioned."""
    by_light = 0.2 if facts.mood.light == "day" else 0.65
    parts = [kind for kind, share in (("season", 0.6), ("light", by_light)) if chance.chance(share)]
    if facts.mood.weather != "clear" and chance.chance(0.6):
        parts.append("weather")
    return parts or ["season"]


def _where(boxes: Sequence[Sequence[float]], chinese: bool) -> str:
    """Left, right or middle, for a single element; "" for wide or several ones."""
    if len(boxes) != 1 or boxes[0][2] - boxes[0][0] > 0.45:
        return ""
    middle = (boxes[0][0] + boxes[0][2]) / 2
    side = 0 if middle < 0.4 else 2 if middle > 0.6 else 1
    return ("左边", "中间", "右边")[side] if chinese else ("on the left", "in the middle", "on the right")[side]


def _joined(parts: Sequence[str], last: str, other: str) -> str:
    return last.join(filter(None, (other.join(parts[:-1]), parts[-1])))


def _chinese(facts: CaptionFacts, chance: Chance) -> str:
    name, style = _usual(facts.zh, chance), _usual(styles()[facts.style].zh, chance)
    if facts.verses and chance.chance(0.6 if len(facts.zh) == 1 else 0.18):
        name = chance.pick(facts.verses)
        form = chance.pick(("{n}", "{n}", "{n}，{s}", "{s}：{n}", "{n}的意境，{s}", "{s}，{n}"))
        return form.format(n=name, s=style)
    table = elements()
    some = [table[one].zh[0] for one in _named(facts, chance, 3)]
    form = chance.integer(0, 9)
    if form == 0:
        return name
    if form == 1:
        return chance.pick(("{s}{n}", "{n}，{s}", "{s}，{n}", "{n} {s}", "{s}：{n}")).format(n=name, s=style)
    if form == 2:
        return f"{chance.pick(ASKS)}{name}" + (f"，{style}" if chance.chance(0.6) else "")
    mood = _mood_zh(facts, chance, _parts(facts, chance))
    if form == 3:
        return f"{mood}的{name}"
    if form == 4:
        return f"{mood}的{name}，{style}" if chance.chance(0.5) else f"{style}，{mood}，{name}"
    if not some:
        return f"{style}，{mood}，{name}"
    if form == 5:
        return f"{name}，有{_joined(some, '和', '、')}"
    if form in (6, 7):
        return f"{style}，{mood}的{name}，{_joined(some, '和', '、')}"
    one = _named(facts, chance, 1)[0]
    where = _where(facts.boxes[one], True)
    placed = f"{where}是{table[one].zh[0]}" if where else f"画里有{table[one].zh[0]}"
    if form == 8:
        return f"{name}，{placed}，{style}"
    others = [word for word in some if word != table[one].zh[0]]
    tail = f"，还有{_joined(others, '和', '、')}" if others else ""
    return f"一幅{style}，画的是{mood}的{name}，{placed}{tail}"


def _english(facts: CaptionFacts, chance: Chance) -> str:
    name, style = _usual(facts.en, chance), _usual(styles()[facts.style].en, chance)
    table = elements()
    some = [table[one].en[0] for one in _named(facts, chance, 3)]
    form = chance.integer(0, 6)
    if form == 0:
        return name
    if form == 1:
        return f"{name}, {style}"
    mood = _mood_en(facts, chance, _parts(facts, chance))
    if form == 2:
        return f"{name} {mood}"
    if form == 3 or not some:
        return f"{name} {mood}, {style}"
    if form == 4:
        return f"{name} with {_joined(some, ' and ', ', ')}, {style}"
    one = _named(facts, chance, 1)[0]
    where = _where(facts.boxes[one], False)
    placed = f"{table[one].en[0]} {where}".strip()
    if form == 5:
        return f"{name}, {placed}, {style}"
    others = [word for word in some if word != table[one].en[0]]
    return f"{style}: {name} {mood}, {placed}" + (f", {_joined(others, ' and ', ', ')}" if others else "")


def dish_captions(
    dish: str, vessel: str, style: str, boxes: Boxes, table: str, key: str, count: int = 12
) -> list[Text]:
    """`count` captions of a dish; the first is in Chinese."""
    return _several(
        Chance(f"{key}/captions"),
        count,
        lambda chance: _dish_zh(dish, vessel, style, boxes, table, chance),
        lambda chance: _dish_en(dish, vessel, style, boxes, table, chance),
        lambda chance: _mixed(dish, style, chance),
    )


def _contents(dish: str, boxes: Boxes, chance: Chance) -> list[str]:
    """Two or three of its contents."""
    there = [name for name in dishes()[dish].contents if name in boxes]
    free = [name for name in there if name not in dish] or there
    picked: list[str] = []
    for _ in range(min(len(free), chance.integer(2, 3))):
        one = chance.pick(free)
        free.remove(one)
        picked.append(one)
    return picked


def _dish_zh(dish: str, vessel: str, style: str, boxes: Boxes, table: str, chance: Chance) -> str:
    also = tuple(name for name in dishes()[dish].also if not name.isascii())
    name = dish if chance.chance(0.75) or not also else chance.pick(also)
    manner, measure = _usual(styles()[style].zh, chance), MEASURES[vessel]
    hot = chance.pick(("热气腾腾的", "热腾腾的", "冒着热气的")) if "steam" in boxes else ""
    form = chance.integer(0, 8)
    if form in (0, 1):
        return name
    if form == 2:
        return f"一{measure}{hot}{name}"
    if form == 3:
        return f"{name}，{manner}" if chance.chance(0.5) else f"{manner}，一{measure}{name}"
    if form == 4:
        return f"{vessel}里的{name}" if "板" not in vessel and "盘" not in vessel else f"{vessel}上的{name}"
    if form == 5:
        return f"{name}，有{_joined(_contents(dish, boxes, chance), '和', '、')}"
    surface = {"wood": "木桌", "cloth": "桌布", "slate": "石板桌"}[table]
    if form == 6:
        return f"{surface}上的一{measure}{name}" + ("，旁边有一双筷子" if "chopsticks" in boxes else "")
    if form == 7:
        return f"{hot}{name}，盛在{vessel}里，{manner}"
    return f"{manner}，{hot}{name}，{_joined(_contents(dish, boxes, chance), '和', '、')}，{vessel}"


def _dish_en(dish: str, vessel: str, style: str, boxes: Boxes, table: str, chance: Chance) -> str:
    name, manner = dishes()[dish].english, _usual(styles()[style].en, chance)
    ware = VESSELS[vessel].english
    hot = "steaming " if "steam" in boxes and chance.chance(0.5) else ""
    form = chance.integer(0, 5)
    if form in (0, 1):
        return f"{hot}{name}"
    if form == 2:
        return f"{hot}{name}, {manner}"
    if form == 3:
        return f"{hot}{name} {'on' if 'plate' in ware or 'board' in ware else 'in'} {ware}"
    words = [ingredients()[one].english for one in _contents(dish, boxes, chance)]
    if form == 4:
        return f"{name} with {_joined(words, ' and ', ', ')}"
    surface = {"wood": "a wooden table", "cloth": "a tablecloth", "slate": "a dark table"}[table]
    return f"{manner}: {hot}{name} with {_joined(words, ' and ', ', ')} in {ware} on {surface}"
