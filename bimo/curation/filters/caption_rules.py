"""Filters of single captions: normal form, meaningless captions, adverts, length, script, tokens, repetition.

Rules that only test a caption see it as ``bimo.prompts.normalise.normal`` folds it: width, case, script and
punctuation. They pass on the caption unchanged, except where a rule says that it edits.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from bimo.core.errors import DataError
from bimo.curation.filters.web_phrases import ADVERTS, BARE, EXTENSIONS, MEANINGLESS, TAILS
from bimo.curation.steps import CaptionStep, Verdict
from bimo.prompts.normalise import normal

#: Characters of a caption that a verdict quotes.
QUOTED = 40
#: Only captions up to this length are tested for being meaningless; longer ones always say something.
LONGEST_MEANINGLESS = 60
#: How far from its end a stock site's words or an extension are looked for, and what must be left before them.
LONGEST_ENDING = 200
LEAST_TRIMMED = 4
#: Passes of unescaping HTML: one pass may uncover further escapes ("&amp;lt;"); what is left after the last pass stays.
MAXIMUM_ROUNDS = 8

HAN = "\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3041-\u3096\u30a1-\u30fa\u30fc\u31f0-\u31ff\uff66-\uff9d"
HANGUL = "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af"
_UNIT = re.compile(rf"[{HAN}{KANA}{HANGUL}]|[^\W_{HAN}{KANA}{HANGUL}]+(?:['’.\-][^\W_{HAN}{KANA}{HANGUL}]+)*")
_WORD = re.compile(r"[a-z]+|[^\W\d_a-z]+")
_LETTER = re.compile(r"[^\W\d_]")
_SCRIPTS = {
    "zh": re.compile(f"[{HAN}]"),
    "ja": re.compile(f"[{KANA}]"),
    "ko": re.compile(f"[{HANGUL}]"),
    "en": re.compile("[A-Za-z\u00c0-\u024f]"),
    "ru": re.compile("[\u0400-\u04ff]"),
}

# Full-width letters, digits and signs; not the punctuation that is at home in Chinese: ！（），：；？～ and quotes.
_WIDE = re.compile(
    "[\u3000\uff03-\uff06\uff0a\uff0b\uff0d-\uff19\uff1c-\uff1e\uff20-\uff3d\uff3f\uff40-\uff5d\uff61-\uffdc"
    "\uffe0-\uffe6\u2f00-\u2fd5\U0001d400-\U0001d7ff]+"
)
_MARKUP = re.compile(r"</?[A-Za-z][A-Za-z0-9]{0,15}(?:\s[^<>]{0,400})?/?>")
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2800\u3164]+")
# Zero-width joiners are kept: they combine emoji, and letters of some scripts.
_JOINERS = re.compile(r"(?<![\u0590-\u109f\u2190-\u2bff\ufe0f\U0001f000-\U0001faff])[\u200c\u200d]")
# No script stacks more combining marks on a letter. More are dropped before normalising, which would take minutes for
# thousands.
_MARKS = "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
_STACKED = re.compile(f"({_MARKS}{{8}}){_MARKS}+")
_UNSEEN_KINDS = {"Cc", "Cf", "Co", "Cs", "Cn"}


@dataclass(frozen=True, kw_only=True)
class Normal(CaptionStep):
    """Edits: full-width letters and digits become half-width, HTML is removed, runs of blanks become one space,
    invisible characters are removed (control, bidirectional, zero-width, private use, lone surrogates), and so are
    combining marks beyond the eighth on a letter.

    Case, script and Chinese punctuation stay. A caption that is empty afterwards is dropped.
    """

    says: ClassVar[tuple[str, str]] = ("没有可见的字", "nothing that can be seen")

    def caption(self, text: str) -> str | Verdict:
        """The caption in its normal form."""
        for _ in range(MAXIMUM_ROUNDS):
            settled = _once(text)
            if settled == text:
                break
            text = settled
        return text or Verdict(0, 1)


@dataclass(frozen=True, kw_only=True)
class Meaningless(CaptionStep):
    """Drops captions that do not describe a picture: 图片, Image, IMG_1234.jpg, 微信图片_2020..., ids, dates, URLs.

    A Chinese file name (红烧肉.jpg) is kept without its extension. After Wukong (arXiv:2202.06767), whose list is not
    published.
    """

    says: ClassVar[tuple[str, str]] = ("没有内容的说明", "a caption that says nothing")

    def caption(self, text: str) -> str | Verdict:
        """The caption, or a verdict with the kind of meaningless caption."""
        folded = normal(text)
        stem = EXTENSIONS.sub("", folded)
        kind = _nothing(folded, stem)
        if kind:
            return Verdict(folded[:QUOTED], kind)
        return text if stem == folded else _without(EXTENSIONS, text.strip())


@dataclass(frozen=True, kw_only=True)
class Adverts(CaptionStep):
    """Drops offers, contact details, "click here" and the endings of stock sites (图库摄影, 股票视频, 图片大全).

    With ``tails="trim"`` a stock site's ending is cut off instead, where at least four characters remain.
    """

    says: ClassVar[tuple[str, str]] = ("广告或模板套话", "an advert or a template")

    tails: Literal["drop", "trim"] = "drop"

    def caption(self, text: str) -> str | Verdict:
        """The caption, or a verdict with the matched words and their kind."""
        if self.tails == "trim":
            text = _trimmed(text)
        folded = normal(text)
        for kind, pattern in ADVERTS:
            if found := pattern.search(folded):
                return Verdict(found[0][:QUOTED], kind)
        return text


@dataclass(frozen=True, kw_only=True)
class Length(CaptionStep):
    """Keeps captions of ``least`` to ``most`` units: a Chinese or Japanese character or a Korean syllable is one unit,
    and so is a word of letters or digits ("3D", "don't"); blanks and punctuation do not count.
    """

    says: ClassVar[tuple[str, str]] = ("太短或太长", "too short or too long")

    least: int = 2
    most: int = 300

    def caption(self, text: str) -> str | Verdict:
        """The caption, or its length."""
        count = len(units(text))
        if count < self.least:
            return Verdict(count, self.least)
        return Verdict(count, self.most) if count > self.most else text


@dataclass(frozen=True, kw_only=True)
class HanShare(CaptionStep):
    """Keeps captions in which at least the share ``above`` of the letters are Chinese characters; digits, marks and
    blanks do not count.
    """

    says: ClassVar[tuple[str, str]] = ("汉字太少", "too few Chinese characters")

    above: float = 0.5

    def caption(self, text: str) -> str | Verdict:
        """The caption, or the share; a text without letters has 0."""
        letters = len(_LETTER.findall(text))
        share = len(_SCRIPTS["zh"].findall(text)) / letters if letters else 0.0
        return text if share >= self.above else Verdict(round(share, 4), self.above)


@dataclass(frozen=True, kw_only=True)
class Language(CaptionStep):
    """Keeps captions in one of the languages ``among`` zh, ja, ko, en, ru, detected by script alone, without a model.

    A tenth of kana makes Chinese characters Japanese; else the script with the most units decides (characters, or
    words). All Latin script counts as "en": French is not distinguished from English.
    """

    says: ClassVar[tuple[str, str]] = ("不是要的语言", "not in a language asked for")

    among: tuple[str, ...] = ("zh", "en")

    def caption(self, text: str) -> str | Verdict:
        """The caption, or a verdict with its language, "?" for an unknown script."""
        language = language_of(text)
        return text if language in self.among else Verdict(language, " ".join(self.among))


@dataclass(frozen=True, kw_only=True)
class TokenLength(CaptionStep):
    """Keeps captions of at most ``most`` tokens, special tokens included, by the tokenizer of the text encoder to be
    trained.

    ``tokenizer`` is a folder with a tokenizer.json, or with the vocab.txt of a BERT; ``most`` is the encoder's length.
    """

    says: ClassVar[tuple[str, str]] = ("词元太多", "too many tokens")

    tokenizer: str
    most: int = 77

    def caption(self, text: str) -> str | Verdict:
        """The caption, or a verdict with its number of tokens. Raises DataError for a folder without a tokenizer."""
        count = _counter(self.tokenizer)(text)
        return text if count <= self.most else Verdict(count, self.most)


@dataclass(frozen=True, kw_only=True)
class Repetition(CaptionStep):
    """Keeps captions in which at most the share ``above`` of the n-grams of ``run`` units are repeated: 1 - different /
    all.

    After the duplicate n-grams of Gopher (arXiv:2112.11446, A1.1), in characters and words. Captions of up to ``run`` +
    4 units are always kept: a doubled word is not a repetition yet.
    """

    says: ClassVar[tuple[str, str]] = ("重复太多", "too much of it is repeated")

    above: float = 0.4
    run: int = 3

    def caption(self, text: str) -> str | Verdict:
        """The caption, or a verdict with the repeated share."""
        parts = units(normal(text))
        runs = [tuple(parts[i : i + self.run]) for i in range(len(parts) - self.run + 1)]
        if len(parts) <= self.run + 4:
            return text
        share = 1 - len(set(runs)) / len(runs)
        return text if share <= self.above else Verdict(round(share, 4), self.above)


def units(text: str) -> list[str]:
    """The units of a text in order: each Chinese, Japanese or Korean character, and each word of other scripts."""
    return _UNIT.findall(text)


def language_of(text: str) -> str:
    """zh, ja, ko, en (any Latin script), ru (any Cyrillic), or "?"."""
    counts = dict.fromkeys(_SCRIPTS, 0)
    for unit in units(text):
        for name, script in _SCRIPTS.items():
            if script.match(unit):
                counts[name] += 1
                break
    if counts["ja"] * 9 >= counts["zh"] and counts["ja"]:
        counts["ja"] += counts["zh"]
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else "?"


def _once(text: str) -> str:
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        text = _MARKUP.sub(" ", text)
    text = _WIDE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    # Blanks are replaced first, since tabs and line ends are control characters too.
    text = _BLANKS.sub(" ", text)
    if not text.isascii():
        unseen = {c for c in set(text) if unicodedata.category(c) in _UNSEEN_KINDS} - {"\u200c", "\u200d"}
        if unseen:
            text = text.translate(dict.fromkeys(map(ord, unseen)))
        text = _STACKED.sub(r"\1", text)
        text = _JOINERS.sub("", unicodedata.normalize("NFC", text))
    return _BLANKS.sub(" ", text).strip()


def _nothing(folded: str, stem: str) -> str:
    """The kind of meaningless caption of a folded text, or ""; ``stem`` is the text without its extension."""
    for kind, pattern in MEANINGLESS:
        if pattern.search(folded):
            return kind
    parts = _WORD.findall(stem)
    if not parts:
        return "no words"
    if len(stem) <= LONGEST_MEANINGLESS and all(map(_bare().fullmatch, parts)):
        return "bare word"
    if stem != folded and " " not in stem and len(_SCRIPTS["zh"].findall(stem)) < 2:
        return "file name"
    return ""


@cache
def _bare() -> re.Pattern[str]:
    return re.compile(f"(?:{'|'.join(BARE.split())})")


def _trimmed(text: str) -> str:
    """The caption without a stock site's ending."""
    shorter = _without(TAILS, text)
    return shorter if len(units(shorter)) >= LEAST_TRIMMED else text


def _without(ending: re.Pattern[str], text: str) -> str:
    """The text without an ending. Only its last characters are searched: megabytes of blanks would take hours."""
    at = max(0, len(text) - LONGEST_ENDING)
    return text[:at] + ending.sub("", text[at:])


@cache
def _counter(folder: str) -> Callable[[str], int]:
    from tokenizers import Tokenizer

    for name in ("", "tokenizer", "words.0"):
        path = Path(folder) / name
        if (path / "tokenizer.json").is_file():
            tokenizer: Any = Tokenizer.from_file(str(path / "tokenizer.json"))
            break
        if (path / "vocab.txt").is_file():
            from bimo.models.text_encoders.tokenization import word_pieces

            tokenizer, _ = word_pieces(path)
            break
    else:
        raise DataError(
            "{folder} holds no tokenizer; it should have a tokenizer.json, or a BERT's vocab.txt", folder=folder
        )
    # The tokenizer's own truncation and padding are off, since the number of tokens is what is needed.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text).ids)
