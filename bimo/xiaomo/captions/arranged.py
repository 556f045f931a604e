"""Which prompts ask for several things, or a thing somewhere, that can be put together from pictures of single ones.

What is understood are the captions of ``artwork.captions`` and what people write in their place
(``relations.tsv``): 骑自行车的熊猫, 五只羊, a cat on the grass, 守株待兔. Every word has to be understood.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle

from bimo.prompts.emoji import sequences
from bimo.prompts.normalise import normal
from bimo.xiaomo.artwork.compositions import Box, compositions, idioms
from bimo.xiaomo.artwork.held_out import hexcode
from bimo.xiaomo.artwork.lexicon import COLOURS, DEFAULT_STYLE, EFFECTS, MORE_EFFECTS, PLACES, SCENES, STYLES
from bimo.xiaomo.artwork.places import CENTRES, Placed
from bimo.xiaomo.artwork.sprites import FILL
from bimo.xiaomo.captions.colours import MANY
from bimo.xiaomo.captions.described_words import described_words
from bimo.xiaomo.captions.drawn_things import views
from bimo.xiaomo.captions.figures import FIGURE, body_of, company_of, figure_of, is_animal, somebody_who
from bimo.xiaomo.captions.in_rows import placed_alone, rows, side_by_side
from bimo.xiaomo.captions.noun_phrases import MOST, Things, kinds, names, scene_of, things_of
from bimo.xiaomo.captions.settings import SKY, flying, view_in_mood
from bimo.xiaomo.captions.tableaux import tableaux
from bimo.xiaomo.captions.worn import face_of, worn_by
from bimo.xiaomo.scenes.description import NO_MOOD, Mood
from bimo.xiaomo.tables import read_table

#: The styles that a picture is drawn in as a whole.
WHOLE = frozenset((*EFFECTS, *MORE_EFFECTS))
#: Relations of two by their places alone.
_OF_PLACE = frozenset(("below", "beside", "front", "behind", "left", "right", "above", "sitting", "looking"))
#: Of at most so many kinds a list is drawn.
LISTED = 6
#: No longer text is read, in characters: patterns take their time, and what is told at length is never all understood.
LONGEST = 80
_SIZES: Mapping[str, float] = {"small": 0.6, "": 1.0, "large": 1.25}
#: What several things of many colours are dyed in, one after the other.
_BRIGHT = ("red", "yellow", "blue", "green", "purple", "orange", "pink")
_WHOLE_FIGURE = 0.96  # the height of somebody alone


@dataclass(frozen=True)
class Arrangement:
    """Things from back to front in a ``style`` or effect, on a colour of the lexicon, in a scene or view; "" for none.
    ``sided`` if the text says what is left or right; the ``mood`` is that of a view, as far as it is said;
    ``aloft`` if its things are in the air.
    """

    things: tuple[Placed, ...]
    style: str = DEFAULT_STYLE
    background: str = ""
    scene: str = ""
    sided: bool = False
    mood: Mood = NO_MOOD
    aloft: bool = False

    @property
    def is_one_thing(self) -> bool:
        """Whether it is one thing and nothing besides."""
        return (
            len(self.things) == 1
            and not (self.background or self.scene)
            and (self.style, self.mood) == (DEFAULT_STYLE, NO_MOOD)
        )

    @property
    def fits_any_shape(self) -> bool:
        """Whether a picture of another shape than a square has more of its ground; that of an effect is a square."""
        return self.style not in WHOLE


@lru_cache(maxsize=256)
def arrangement_of(text: str) -> Arrangement | None:
    """What to put together for a text, None if it says anything else."""
    if len(text) > LONGEST:
        return None
    plain = normal(text)
    core, style = without_style(plain) if plain not in kinds() else (plain, DEFAULT_STYLE)  # 剪纸 alone is a thing
    core = core if core in kinds() or core in tableaux() or _idiom(core) else _tidy(core)
    tableau = tableaux().get(core)
    if tableau is not None:
        return Arrangement(tableau.placed(), style, "", "" if style in WHOLE else tableau.scene, True)
    core, background = _without_background(core)
    named = kinds().get(core) or (not figure_of(core) and names().get(core))
    if named:  # a name may hold what is else a relation or a scene: smiling face with sunglasses
        scene = "" if background or style in WHOLE else scene_of(core)
        return Arrangement((Placed(named, "", (0.5, 0.5, FILL)),), style, background, scene)
    aloft = None if background else flying(core, rows)
    if aloft is not None:
        return Arrangement(aloft, style, "", "" if style in WHOLE else SKY, True, aloft=True)
    view, mood = view_in_mood(core)
    if view and style not in WHOLE:
        return Arrangement((Placed(view, "", (0.5, 0.5, FILL)),), style, mood=mood)
    sided = bool(_SIDES.search(core))
    for scene, rest in _scenes(core):
        things = _placed(rest)
        if things is not None:
            return None if background or style in WHOLE else Arrangement(side_by_side(things), style, "", scene, sided)
    idiom = _idiom(core)
    if idiom:
        things = tuple(Placed(hexcode(emoji), "", box) for emoji, box in idioms()[idiom].things)
        return Arrangement(things, style, background)
    things = _placed(core)
    if things is None:
        return None
    scene = "" if background or style in WHOLE else scene_of(core)
    seen, others = ([thing for thing in things if (thing.kind in views()) is whether] for whether in (True, False))
    if len(seen) == 1 and others and not (seen[0].colour or background or style in WHOLE):  # 北极熊和冰山
        return Arrangement(placed_alone(others), style, "", seen[0].kind, sided)
    return Arrangement(things, style, background, scene, sided)


_SIDES = re.compile(r"[左右]|\b(?:left|right)\b")
_ASKED = re.compile(
    r"^(?:请|帮我|给我|我想要|我要|想要|只要|只)*(?:画一下|画|来|生成|绘制)?(?:(?:一|1)(?:张|幅|副))?"
    r"|^(?:please )?(?:draw |paint )?(?:(?:a |an )?(?:picture|image|drawing|photo|illustration) of )?"
)
_ENDING = re.compile(r"(?:的)?(?:图片|图画|照片|插图|图)?[.!?~\s]*$")


def _tidy(text: str) -> str:
    asked = _ASKED.match(text)
    core = text[asked.end() :] if asked is not None else text
    return _ENDING.sub("", core.strip()).strip(" ,.;:") or text


def _idiom(text: str) -> str:
    """The idiom that a text is, by its name or literally; "" for none. 画 is part of some."""
    said = without_style(text)[0].removeprefix("成语")
    return next((name for name, one in idioms().items() if said in map(normal, (name, one.literal, one.en))), "")


def without_style(text: str) -> tuple[str, str]:
    """A text without the words of a drawn style or effect, and its name; that of the default where it says none."""
    found = _style_pattern().search(text)
    if found is None:
        return text, DEFAULT_STYLE
    rest = f"{text[: found.start()]} {text[found.end() :]}"
    rest = re.sub(r"^\s*(?:of\s+|的)|\s+(?:in|as)(?:\s+an?)?\s*$|\s*[,]\s*$|^\s*[,]\s*", " ", rest)
    return re.sub(r"\s*,\s*(?=,|$)", "", rest).strip(" ,的"), _style_words()[found["style"]]


@lru_cache(maxsize=1)
def _style_words() -> Mapping[str, str]:
    every = {**STYLES, **MORE_EFFECTS}
    words = {normal(word): style for style, words in every.items() for word in (*words.zh, *words.en)}
    return {word: style for word, style in described_words()["style"].items() if style in STYLES} | words


@lru_cache(maxsize=1)
def _style_pattern() -> re.Pattern[str]:
    words = "|".join(map(re.escape, sorted(_style_words(), key=len, reverse=True)))
    ending = r"(?:质感|效果|画质|滤镜|画?风格?|插?画)?(?: (?:painting|style|art|drawing))?(?:的|图)?"
    return re.compile(rf"(?:(?<![a-z0-9])|(?=[^a-z0-9]))(?:一[张幅])?(?P<style>{words})(?![a-z0-9]){ending}")


def _without_background(text: str) -> tuple[str, str]:
    found = _background_pattern().search(text)
    if found is None:
        return text, ""
    word = found["zh"] or found["zh2"] or found["en"]
    name = next(name for name, colour in COLOURS.items() if word in (*colour.zh, *colour.en))
    return f"{text[: found.start()]}{text[found.end() :]}".strip(" ,的"), name


@lru_cache(maxsize=1)
def _background_pattern() -> re.Pattern[str]:
    zh = "|".join(sorted({word for colour in COLOURS.values() for word in colour.zh}, key=len, reverse=True))
    en = "|".join(sorted({word for colour in COLOURS.values() for word in colour.en}, key=len, reverse=True))
    return re.compile(
        rf"(?P<zh>{zh})色?的?背景(?:上|下|里|中)?(?:的|,)?|,?\s*背景[是为]?(?P<zh2>{zh})色?"
        rf"|,?\s*(?:(?:on|with|against)\s+)?(?:an?\s+)?(?P<en>{en}) background"
    )


def _scenes(text: str) -> Iterator[tuple[str, str]]:
    """(scene, what is in it) of every way to read a text."""
    for scene, patterns in _scene_patterns().items():
        for pattern in patterns:
            found = pattern.fullmatch(text)
            if found is not None:
                yield scene, found["rest"]


@lru_cache(maxsize=1)
def _scene_patterns() -> Mapping[str, tuple[re.Pattern[str], ...]]:
    more = {"sea": ("水里", "水中", "海中", "大海里", "海水里"), "night": ("星空里", "夜里", "夜色中", "月光下")}
    patterns: dict[str, tuple[re.Pattern[str], ...]] = {}
    for scene, words in (*SCENES.items(), *views().items()):
        zh = "|".join(sorted((*words.zh, *more.get(scene, ())), key=len, reverse=True))
        en = "|".join(words.en)
        # 北极熊 is nothing at the pole: a word between the place and what is there
        by, apart = (
            ("[边旁前畔]边?", r"(?:(?<=[上里中下])|(?=[上里中下边旁前畔的有,\s]))")
            if scene in views()
            else ("旁边", "")
        )
        patterns[scene] = (
            re.compile(
                rf"(?:(?:一[个只位名条头匹])?在(?:{zh})|(?:{zh}){apart})(?:[上里中下]|{by})?(?:的|有|,\s*|\s+)*(?P<rest>.+)"
            ),
            re.compile(rf"(?P<rest>.+?)(?:站|坐|走|跑|趴|躺|在|,|\s)+(?:{zh})"),
            re.compile(rf"(?P<rest>.+?)(?: is| are|,)? (?:{en})"),
        )
    return patterns


def _placed(text: str) -> tuple[Placed, ...] | None:
    """The things that a text without style, background and scene names, and where they are."""
    whole = things_of(text)
    if whole is not None and whole.kind.startswith(FIGURE) and not is_animal(whole.kind):
        return _listed(text)  # who does something, rather than somebody with a thing
    return _at_a_place(text) or _related(text) or _listed(text) or _somebody(text)


def _somebody(text: str) -> tuple[Placed, ...] | None:
    kind = somebody_who(text)
    return (Placed(kind, "", (0.5, 0.5, _WHOLE_FIGURE)),) if kind else None


def _at_a_place(text: str) -> tuple[Placed, ...] | None:
    for place, patterns in _place_patterns().items():
        for pattern in patterns:
            found = pattern.fullmatch(text)
            things = found and things_of(found["rest"])
            if things and things.count == 1:
                return (Placed(things.kind, things.colour, (*CENTRES[place], 0.40 * min(_SIZES[things.size], 1.0))),)
    return None


@lru_cache(maxsize=1)
def _place_patterns() -> Mapping[str, tuple[re.Pattern[str], ...]]:
    return {
        place: (
            re.compile(rf"在?(?:画面)?的?(?:{'|'.join(words.zh)})(?:的|是|有|,)?(?P<rest>.+)"),
            re.compile(rf"(?P<rest>.+?),?在(?:画面)?的?(?:{'|'.join(words.zh)})"),
            re.compile(rf"(?P<rest>.+?),?(?: is)? (?:{'|'.join(words.en)})"),
        )
        for place, words in PLACES.items()
    }


@dataclass(frozen=True)
class _Relation:
    """How a first thing and a second stand to each other; ``any``: whatever they are."""

    pattern: re.Pattern[str]
    name: str
    first: Box
    second: Box
    over: str
    any: bool


def placed_by_relation(text: str) -> tuple[Placed, ...] | None:
    """Two things in a relation (骑自行车的熊猫), in a square; None if a text in its normal form says anything else."""
    return _related(text.strip())


def _related(text: str) -> tuple[Placed, ...] | None:
    worn = worn_by(text)
    if worn is not None:
        return worn
    for relation in _relations():
        found = relation.pattern.fullmatch(text)
        first = found and things_of(found["a"])
        if not found or not first or first.count != 1:
            continue
        one = compositions().get(relation.name)
        named = found.groupdict().get("b")
        second = things_of(named) if named is not None else Things(hexcode(one.things[0])) if one is not None else None
        if (
            second is None
            or second.count != 1
            or not (relation.any or (one and second.kind in map(hexcode, one.things)))
        ):
            continue
        face = face_of(first.kind) if one is not None or relation.name == "eating" else first.kind
        face = body_of(face) if relation.name in _OF_PLACE else face
        placed = (
            Placed(face, first.colour, _sized(relation.first, first.size)),
            Placed(second.kind, second.colour, _sized(relation.second, second.size)),
        )
        return placed[::-1] if relation.over == "first" else placed
    return None


@lru_cache(maxsize=1)
def _relations() -> Sequence[_Relation]:
    """Those of the captions first, then what people write besides; each with what the captions have before anything
    else.
    """
    found = [
        _Relation(_pattern(form), name, one.first, one.second, one.over, False)
        for name, one in compositions().items()
        for form in (*one.zh, *one.en)
    ]
    later: list[_Relation] = []
    for row in read_table("captions", "relations.tsv"):
        name, anything = row["relation"], row["any"] == "yes"
        one = compositions().get(name)
        if one is None:
            first, second, over = _box(row["first"]), _box(row["second"]), row["over"]
        else:
            first, second, over = one.first, one.second, one.over
        forms = [form for cell in (row["zh"], row["en"]) for form in cell.split(";") if form]
        found += [_Relation(_pattern(form), name, first, second, over, one is None and anything) for form in forms]
        if one is not None and anything:
            forms += [form for form in (*one.zh, *one.en) if not form.startswith("{a} in ")]
            later += [_Relation(_pattern(form), name, first, second, over, True) for form in forms]
    # 宇航员骑马 is somebody who rides, not 骑马 in a spacesuit.
    found.sort(key=lambda relation: "(?P<b>" not in relation.pattern.pattern)
    return (*found, *later)


def _box(cell: str) -> Box:
    across, down, side = (float(part) for part in cell.split(","))
    return across, down, side


def _pattern(form: str) -> re.Pattern[str]:
    escaped = "".join(part if part in (",?",) else re.escape(part) for part in re.split(r"(,\?)", form))
    return re.compile(escaped.replace(r"\{a\}", "(?P<a>.+?)").replace(r"\{b\}", "(?P<b>.+?)").replace(",", r",\s*"))


def in_company(one: Things) -> tuple[Placed, ...]:
    """Somebody with the things, or the people, that belong to the picture."""
    row = company_of(one.kind)
    company = row.company if row is not None and not one.size else ()
    named = ((one.kind if what == "*" else kinds().get(normal(what)) or figure_of(what), box) for what, box in company)
    return tuple(Placed(kind, one.colour if kind == one.kind else "", _box(box)) for kind, box in named)


_AND = re.compile(r"\s*(?:和|与|跟|以及|还有|加上?|[,+&]|\band\b|\bwith\b)\s*(?:还有)?")


def _listed(text: str) -> tuple[Placed, ...] | None:
    """One kind, so many of it, or a few kinds side by side."""
    whole = things_of(text)
    parts = [whole] if whole is not None else [things_of(part) for part in _parts(text)]
    if not parts or len(parts) > LISTED or any(part is None for part in parts):
        return None
    each = [one for one in parts if one is not None for _ in range(one.count)]
    if len(each) > MOST:
        return None
    if len(each) == 1:
        company = in_company(each[0])
        if company:
            return company
        fill = _WHOLE_FIGURE if each[0].kind.startswith(FIGURE) else FILL
        side = {"": fill, "small": 0.32, "large": 0.98}[each[0].size]
        return (Placed(each[0].kind, each[0].colour, (0.5, 0.5, side)),)
    dyes = cycle(_BRIGHT)
    return tuple(
        Placed(one.kind, next(dyes) if one.colour == MANY else one.colour, _sized(box, one.size))
        for one, box in zip(each, rows(len(each)), strict=True)
    )


def _parts(text: str) -> list[str]:
    emoji = [text[start:end] for start, end in sequences(text)]
    alone = len(emoji) > 1 and not re.sub(r"[\s,]", "", text).replace("".join(emoji), "")
    return emoji if alone else _AND.split(text)


def _sized(box: Box, size: str) -> Box:
    across, down, side = box
    return across, down, side * _SIZES[size]
