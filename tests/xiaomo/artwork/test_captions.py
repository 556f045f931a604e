"""Words have one owner; captions say what the labels declare, in the languages they claim."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bimo.xiaomo.artwork.canvas import Labels
from bimo.xiaomo.artwork.captions import Phrases, known_words
from bimo.xiaomo.artwork.english import article, plural, with_article
from bimo.xiaomo.artwork.held_out import hexcode
from bimo.xiaomo.artwork.lexicon import COLOURS, SCENES, STYLES
from bimo.xiaomo.artwork.packages import Package, obtain
from bimo.xiaomo.artwork.sprites import Kind, read_kinds
from bimo.xiaomo.artwork.words_table import assign_words, read_aliases


@pytest.fixture(scope="module")
def kinds(fake: tuple[Path, tuple[Package, ...]], tmp_path_factory: pytest.TempPathFactory) -> list[Kind]:
    folder, table = fake
    return assign_words(read_kinds(obtain(table, tmp_path_factory.mktemp("none"), folder)))


def texts(kinds: list[Kind], labels: Labels, count: int = 200) -> list[tuple[str, str]]:
    return [(text.text, text.lang) for text in Phrases(kinds).captions(labels, "key", 0, count)]


def test_every_word_has_one_owner(kinds: list[Kind]) -> None:
    for words in ([w for k in kinds for w in k.zh_words], [w for k in kinds for w in k.en_words]):
        assert len(words) == len(set(words))
    owner = {word: kind.emoji for kind in kinds for word in (*kind.zh_words, *kind.en_words)}
    assert owner["苹果"] == "🍎"
    assert owner["car"] == "🚗"
    assert owner["猫"] == "🐈"
    assert owner["面条"] == "🍜"


def test_the_table_never_gives_a_word_twice() -> None:
    table = read_aliases()
    assert len(table) >= 450
    for column in (1, 2):
        counts = Counter(word.lower() for row in table.values() for word in row[column])
        assert [word for word, times in counts.items() if times > 1] == []


def test_languages_and_repeatability(kinds: list[Kind]) -> None:
    labels = Labels("single", hexcode("🍎"), "3d")
    found = texts(kinds, labels, 1000)
    assert found == texts(kinds, labels, 1000)
    shares = Counter(lang for _, lang in found)
    assert abs(shares["zh"] - 500) < 60
    assert abs(shares["en"] - 380) < 60
    assert shares["mixed"]
    assert shares["zh-Hant"]
    plain = {text.lower() for text, _ in found}
    assert {"苹果", "一个苹果", "apple", "an apple", "一個蘋果"} & plain >= {"苹果", "apple"}
    said = [text for text, lang in found if lang == "en" and any(word in text.lower() for word in STYLES["3d"].en)]
    assert 0.3 < len(said) / shares["en"] < 0.6
    assert all(text.isascii() for text, lang in found if lang == "en")


@pytest.mark.parametrize(
    ("labels", "zh", "en"),
    [
        (Labels("single", hexcode("🚗"), "line"), STYLES["line"].zh, STYLES["line"].en),
        (Labels("effect", hexcode("🚗"), "3d", effect="ink"), STYLES["ink"].zh, STYLES["ink"].en),
        (Labels("recolour", hexcode("🚗"), "3d", colour="blue"), COLOURS["blue"].zh, COLOURS["blue"].en),
        (Labels("background", hexcode("🚗"), "3d", background="pink"), COLOURS["pink"].zh, COLOURS["pink"].en),
        (Labels("scene", hexcode("🚗"), "3d", scene="desert"), SCENES["desert"].zh, SCENES["desert"].en),
        (Labels("count", hexcode("🐈"), "3d", count=3), ("三只", "3只", "３只"), ("three", "3")),
        (Labels("pair", hexcode("🐈"), "3d", kind2=hexcode("🚗"), relation="left"), ("左",), ("left",)),
        (Labels("accessory", hexcode("🐱"), "3d", kind2=hexcode("👑"), relation="wearing"), ("冠",), ("crown",)),
        (Labels("eating", hexcode("🐶"), "3d", kind2=hexcode("🍌"), relation="eating"), ("香蕉",), ("banana",)),
        (Labels("place", hexcode("🐶"), "3d", place="top left"), ("左上角",), ("left corner",)),
        (Labels("size", hexcode("🐶"), "3d", size="small"), ("小",), ("tiny", "very small")),
    ],
)
def test_captions_mention_what_is_declared(
    kinds: list[Kind], labels: Labels, zh: tuple[str, ...], en: tuple[str, ...]
) -> None:
    for text, lang in texts(kinds, labels):
        if lang == "zh":
            assert any(word in text for word in zh), text
        if lang == "en":
            assert any(word in text.lower() for word in en), text


def test_known_words(kinds: list[Kind]) -> None:
    words = known_words(kinds)
    assert {"苹果", "apple", "水墨", "青花瓷", "一只", "蘋果", "cats", "sunglasses"} <= set(words)
    assert words == sorted(set(words))


def test_english() -> None:
    assert [plural(word) for word in ("cat", "mouse", "cherry", "box", "slice of pizza", "fish", "sunglasses")] == [
        "cats", "mice", "cherries", "boxes", "slices of pizza", "fish", "sunglasses"
    ]  # fmt: skip
    assert article("apple") == "an"
    assert article("unicorn") == "a"
    assert with_article("rice") == "rice"
    assert with_article("owl") == "an owl"
    assert with_article("glasses") == "glasses"
