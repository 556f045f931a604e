"""Captions: prompts for the picture that a canvas's labels describe, in Chinese, English and both.

Every word comes from the kinds' own words and the lexicon; randomness comes from the sample's key, so captions are the
same in every process.
"""

# opencc is untyped; what crosses it here is named where it is used.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from opencc import OpenCC  # type: ignore[import-untyped]

from bimo.xiaomo.artwork.canvas import Labels, rng_of
from bimo.xiaomo.artwork.compositions import compositions, idioms
from bimo.xiaomo.artwork.english import article, plural, with_article
from bimo.xiaomo.artwork.held_out import hexcode
from bimo.xiaomo.artwork.lexicon import (
    COLOURS,
    COUNTS,
    DEFAULT_STYLE,
    PLACES,
    RELATIONS,
    SCENES,
    SIZES,
    STYLES,
    word_groups,
)
from bimo.xiaomo.artwork.places import FACE_OF
from bimo.xiaomo.artwork.sprites import Kind

LANGUAGES: Mapping[str, float] = {"zh": 0.50, "zh-Hant": 0.06, "en": 0.38, "mixed": 0.06}
DEFAULT_UNSAID = 0.55
CONNECTIVES = ("a picture of ", "an image of ", "a drawing of ", "draw ", "please draw ")
ASKS = ("画", "画一下", "请画", "来", "我想要", "帮我画")
FULL_WIDTH = str.maketrans({chr(code): chr(code + 0xFEE0) for code in range(0x30, 0x7B) if chr(code).isalnum()})


@dataclass(frozen=True)
class Text:
    """One caption: `text`, and `lang` in zh, zh-Hant, en, mixed."""

    text: str
    lang: str


@lru_cache(maxsize=1)
def _converter() -> Callable[[str], str]:
    return OpenCC("s2tw").convert


@lru_cache(maxsize=65536)
def traditional(text: str) -> str:
    """Simplified characters -> traditional."""
    return _converter()(text)


class Phrases:
    """Writes captions for labels; reusable for many samples of the same kinds."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self.kinds = {kind.hexcode: kind for kind in kinds}
        self.bodies = {hexcode(face): hexcode(body) for face, body in FACE_OF.items()}

    def captions(self, labels: Labels, key: str, seed: int = 0, count: int = 12) -> list[Text]:
        """`count` captions of the labels, with the shares of LANGUAGES, determined by key and seed."""
        rng = rng_of(seed, key, "captions")
        done: list[Text] = []
        for _ in range(count):
            lang = rng.choices(list(LANGUAGES), list(LANGUAGES.values()))[0]
            if lang == "en":
                text = self._english(labels, rng)
            elif lang == "mixed":
                text = self._mixed(labels, rng)
            else:
                text = self._chinese(labels, rng, hant=lang == "zh-Hant")
            done.append(Text(text, lang))
        return done

    # words of a kind

    def _word(self, kind: Kind, rng: random.Random, chinese: bool, rare: bool = False) -> str:
        """An alias (most often the first), the name, or a keyword; `rare` words only if the kind is alone in the
        picture.
        """
        words = kind.zh_words if chinese else kind.en_words
        usual = words[: max(len(kind.aliases_zh if chinese else kind.aliases_en), 1)]
        draw = rng.random()
        if draw < 0.36:
            return words[0]
        if draw < 0.86 or not rare:
            return rng.choice(usual)
        if draw < (0.96 if len(usual) > 1 else 0.88) and len(words) > len(usual):
            return words[len(usual)]
        return rng.choice(words)

    def _thing(
        self, code: str, rng: random.Random, chinese: bool, plain: bool = False, rare: bool = False
    ) -> tuple[str, Kind]:
        """A word for a kind; with `plain` an animal's face has the animal's name with a probability of 0.7."""
        kind = self.kinds[code]
        body = self.kinds.get(self.bodies.get(code, ""))
        if plain and body is not None and rng.random() < 0.7:
            words = body.aliases_zh if chinese else body.aliases_en
            return rng.choice((words[0], *words)), body
        return self._word(kind, rng, chinese, rare), kind

    # Chinese

    def _zh_thing(self, code: str, rng: random.Random, plain: bool = False, rare: bool = False) -> str:
        word, kind = self._thing(code, rng, True, plain, rare)
        if kind.classifier and word in kind.aliases_zh and rng.random() < 0.35:
            return f"一{kind.classifier}{word}"
        return word

    def _zh_core(self, labels: Labels, rng: random.Random) -> str:
        """The Chinese words for everything but the style."""
        kind = self.kinds[labels.kind]
        match labels.type:
            case "recolour":
                colour = rng.choice(COLOURS[labels.colour or ""].zh)
                word = self._word(kind, rng, True)
                the = "的" if len(colour) > 1 and (len(word) > 1 or rng.random() < 0.8) else ""
                counted = kind.classifier and word in kind.aliases_zh and rng.random() < 0.3
                unit = f"一{kind.classifier}" if counted else ""
                return f"{unit}{colour}{the}{word}"
            case "background":
                colour = _long(rng.choice(COLOURS[labels.background or ""].zh))
                thing = self._zh_thing(labels.kind, rng)
                before = (f"{colour}背景的{thing}", f"{colour}背景上的{thing}")
                return rng.choice((*before, f"{thing}，{colour}背景", f"{thing}，背景是{colour}"))
            case "scene":
                scene = rng.choice(SCENES[labels.scene or ""].zh)
                thing = self._zh_thing(labels.kind, rng)
                where = scene if scene[-1] in "上下里中前内晚" else f"{scene}上"
                return rng.choice((f"{where}的{thing}", f"{where}的{thing}", f"{thing}在{where}", f"{where}有{thing}"))
            case "pair":
                first, second = self._zh_thing(labels.kind, rng), self._zh_thing(labels.kind2 or "", rng)
                relation = rng.choice(RELATIONS[labels.relation or ""].zh)
                return first + (relation.format(b=second) if "{b}" in relation else f"{relation}{second}")
            case "count":
                word = rng.choice(kind.aliases_zh)
                number = rng.choice(COUNTS[labels.count or 2].zh)
                return f"{number}{kind.classifier}{word}"
            case "accessory":
                face, worn = self._zh_thing(labels.kind, rng, plain=True), self._thing(labels.kind2 or "", rng, True)[0]
                verb = rng.choice(("戴", "戴着"))
                return rng.choice((f"{verb}{worn}的{face}", f"{verb}{worn}的{face}", f"{face}{verb}{worn}"))
            case "eating":
                face, food = self._zh_thing(labels.kind, rng, plain=True), self._thing(labels.kind2 or "", rng, True)[0]
                forms = (f"吃{food}的{face}", f"{face}在吃{food}", f"{face}吃{food}", f"正在吃{food}的{face}")
                return rng.choice(forms)
            case "composition":
                face, thing = (
                    self._zh_thing(labels.kind, rng, plain=True),
                    self._thing(labels.kind2 or "", rng, True)[0],
                )
                return rng.choice(compositions()[labels.relation or ""].zh).format(a=face, b=thing)
            case "idiom":
                idiom = idioms()[labels.idiom or ""]
                phrases = (f"{idiom.name}，{idiom.meant}", f"{idiom.name}：{idiom.literal}", f"成语{idiom.name}")
                return rng.choice((idiom.name, idiom.name, idiom.name, idiom.literal, idiom.literal, *phrases))
            case "place":
                thing, place = self._zh_thing(labels.kind, rng), rng.choice(PLACES[labels.place or ""].zh)
                return rng.choice((f"{thing}在{place}", f"{place}的{thing}", f"{thing}，在{place}"))
            case "size":
                return rng.choice(SIZES[labels.size or ""].zh) + self._word(kind, rng, True)
            case _:
                return self._zh_thing(labels.kind, rng, rare=labels.type == "single")

    def _chinese(self, labels: Labels, rng: random.Random, hant: bool = False) -> str:
        core = self._zh_core(labels, rng)
        kind = self.kinds[labels.kind]
        if hant and labels.type in ("single", "effect") and rng.random() < 0.4 and kind.zh in kind.zh_words:
            core = kind.zh_hant
        style = self._style(labels, rng, True)
        if style:
            draw, comma = rng.random(), rng.choice(("，", "，", ",", " ", "、"))
            inner = "，" in core
            if draw < 0.45 or inner:
                text = f"{core}{comma}{style}"
            elif draw < 0.78:
                text = f"{style}的{core}" if style[-1] != "D" or rng.random() < 0.7 else f"{style}{core}"
            elif draw < 0.90:
                text = f"{style} {core}"
            else:
                text = f"{style}{core}"
        else:
            text = core
        if rng.random() < 0.10:
            text = rng.choice(ASKS) + text if rng.random() < 0.6 else f"一张{text}的图片"
        elif rng.random() < 0.04:
            text += rng.choice(("。", "！", "图", "的图"))
        if rng.random() < 0.05:
            text = text.translate(FULL_WIDTH) if not any(c.islower() for c in text) else text
        elif rng.random() < 0.06:
            text = text.replace("，", ",")
        return traditional(text) if hant else text

    # English

    def _en_thing(self, code: str, rng: random.Random, plain: bool = False, rare: bool = False) -> str:
        word, _ = self._thing(code, rng, False, plain, rare)
        return with_article(word) if rng.random() < 0.6 else word

    def _en_core(self, labels: Labels, rng: random.Random) -> str:
        """The English words for everything but the style."""
        kind = self.kinds[labels.kind]
        match labels.type:
            case "recolour":
                colour, word = rng.choice(COLOURS[labels.colour or ""].en), self._word(kind, rng, False)
                return with_article(f"{colour} {word}") if rng.random() < 0.6 else f"{colour} {word}"
            case "background":
                colour, thing = rng.choice(COLOURS[labels.background or ""].en), self._en_thing(labels.kind, rng)
                forms = (f"{thing} on {article(colour)} {colour} background", f"{thing}, {colour} background")
                return rng.choice((*forms, f"{thing} with {article(colour)} {colour} background"))
            case "scene":
                return f"{self._en_thing(labels.kind, rng)} {rng.choice(SCENES[labels.scene or ''].en)}"
            case "pair":
                first, second = self._en_thing(labels.kind, rng), self._en_thing(labels.kind2 or "", rng)
                return f"{first} {rng.choice(RELATIONS[labels.relation or ''].en)} {second}"
            case "count":
                return f"{rng.choice(COUNTS[labels.count or 2].en)} {plural(rng.choice(kind.aliases_en))}"
            case "accessory":
                face, worn = self._en_thing(labels.kind, rng, plain=True), self._en_thing(labels.kind2 or "", rng)
                return f"{face} {rng.choice(('with', 'wearing', 'wearing', 'in'))} {worn}"
            case "eating":
                face, food = self._en_thing(labels.kind, rng, plain=True), self._en_thing(labels.kind2 or "", rng)
                return f"{face} {rng.choice(('eating', 'is eating'))} {food}"
            case "composition":
                face, thing = self._en_thing(labels.kind, rng, plain=True), self._en_thing(labels.kind2 or "", rng)
                form = rng.choice(compositions()[labels.relation or ""].en)
                phrase = form.format(a=face, b=thing)
                return (
                    phrase.replace("a a ", "a ")
                    .replace("a an ", "an ")
                    .replace("the a ", "the ")
                    .replace("the an ", "the ")
                )
            case "idiom":
                idiom = idioms()[labels.idiom or ""]
                return rng.choice((idiom.en, idiom.en, f"{idiom.en}: {idiom.en_meant}", f"{idiom.name}, {idiom.en}"))
            case "place":
                return f"{self._en_thing(labels.kind, rng)} {rng.choice(PLACES[labels.place or ''].en)}"
            case "size":
                size = rng.choice(SIZES[labels.size or ""].en)
                return f"{article(size)} {size} {self._word(kind, rng, False)}"
            case _:
                return self._en_thing(labels.kind, rng, rare=labels.type == "single")

    def _english(self, labels: Labels, rng: random.Random) -> str:
        core, style = self._en_core(labels, rng), self._style(labels, rng, False)
        if style:
            draw = rng.random()
            if draw < 0.5:
                text = f"{core}, {style}"
            elif draw < 0.75:
                text = f"{core} {'in ' if style.endswith('style') else ''}{style}"
            elif style.endswith(("style", "art", "3d", "flat", "retro", "neon", "cartoon")):
                text = f"{style} {core.removeprefix('a ').removeprefix('an ')}"
            else:
                text = f"{style} of {core}"
        else:
            text = core
        if rng.random() < 0.08:
            text = rng.choice(CONNECTIVES) + text
        if rng.random() < 0.12:
            text = text[0].upper() + text[1:]
        return text

    def _mixed(self, labels: Labels, rng: random.Random) -> str:
        """The object in one language, its style or place in the other."""
        style_zh = rng.random() < 0.5
        core = self._en_core(labels, rng) if style_zh else self._zh_core(labels, rng)
        style = self._style(labels, rng, style_zh)
        if not style:
            extra = ("画一个", "请画") if style_zh else ("draw ", "a picture of ")
            return rng.choice(extra) + core
        return rng.choice((f"{core}，{style}", f"{core} {style}", f"{core}, {style}", f"{style} {core}"))

    def _style(self, labels: Labels, rng: random.Random, chinese: bool) -> str:
        """A word for the style or effect; '' if it is the default and omitted."""
        style = labels.effect or labels.style
        if style == DEFAULT_STYLE and rng.random() < DEFAULT_UNSAID:
            return ""
        words = STYLES[style].zh if chinese else STYLES[style].en
        return rng.choice((words[0], *words))


def _long(colour: str) -> str:
    return colour if colour.endswith("色") or len(colour) > 1 else f"{colour}色"


def known_words(kinds: Sequence[Kind]) -> list[str]:
    """Every word and phrase of the lexicon, lower case, sorted: for the tokenizer and for warnings of unknown words."""
    words = {word for kind in kinds for word in (*kind.zh_words, *kind.en_words)}
    words |= {traditional(word) for kind in kinds for word in kind.zh_words} | {kind.zh_hant for kind in kinds}
    words |= {f"一{kind.classifier}" for kind in kinds if kind.classifier}
    words |= {plural(word) for kind in kinds for word in kind.aliases_en}
    for group in word_groups():
        words |= {word.replace("{b}", "") for word in (*group.zh, *group.en)}
    words |= {word for idiom in idioms().values() for word in (idiom.name, *idiom.en.split())}
    words |= {*ASKS, "戴", "戴着", "吃", "正在吃", "背景", "图片", "一张", "的", "在", "有", "是"}
    words |= {"wearing", "eating", "background", "draw", "picture", "image", "drawing", "of", "a", "an", "on", "in"}
    return sorted({word.strip().lower() for word in words if word.strip()})
