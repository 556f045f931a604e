"""Makes two tables of bimo/prompts by which words that are written wrongly are known: readings.tsv, the readings of
characters without tones, from Unicode's Unihan database, and real_words.txt, the words of jieba's dictionary and of
SCOWL that are like words of the bundled models: `python tools/readings.py Unihan_Readings.txt american-english`.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import defaultdict
from pathlib import Path

#: The readings of the 8,105 characters of the national standard list of 2013.
FIELD = "kTGHZ2013"
#: How often characters are read which way.
FREQUENCIES = "kHanyuPinlu"
#: A reading that is rarer, of a hundred, is nobody's slip.
RARE = 5
PROMPTS = Path(__file__).parents[1] / "bimo" / "prompts"
#: The lengths of words that are taken for others by their sound alone.
LENGTHS = (2, 3)
ACROSS = 24
_COUNTED = re.compile(r"([^()\s]+)\((\d+)\)")
#: Tones; the two points of ü stay.
TONES = {"\u0300", "\u0301", "\u0304", "\u030c"}


def toneless(reading: str) -> str:
    """A reading in pinyin without its tone."""
    letters = (letter for letter in unicodedata.normalize("NFD", reading) if letter not in TONES)
    return unicodedata.normalize("NFC", "".join(letters))


def readings(source: Path) -> dict[str, list[str]]:
    """Reading -> characters, without the rare readings of those of which frequencies are known."""
    fields: dict[str, dict[str, str]] = {FIELD: {}, FREQUENCIES: {}}
    for line in source.read_text("utf-8").splitlines():
        code, _, rest = line.partition("\t")
        field, _, value = rest.partition("\t")
        if field in fields and code.startswith("U+"):
            fields[field][chr(int(code.removeprefix("U+"), 16))] = value
    found: dict[str, list[str]] = defaultdict(list)
    for character, value in fields[FIELD].items():
        counts = {word: int(count) for word, count in _COUNTED.findall(fields[FREQUENCIES].get(character, ""))}
        rare = {word for word, count in counts.items() if count * 100 < RARE * sum(counts.values())}
        each = [one.rpartition(":")[2] for one in value.split()]
        often = [one for one in each if one not in rare and (not counts or one in counts)] or each
        for reading in dict.fromkeys(map(toneless, often)):
            found[reading].append(character)
    return found


def real_words(english: Path) -> list[str]:
    """The words of jieba's dictionary, and of a list of ``english`` ones, that would be taken for known ones."""
    import jieba

    from bimo.hub.editions import text_encoder_of
    from bimo.hub.registry import BUNDLES
    from bimo.prompts.commoner_words import table
    from bimo.prompts.spelling import near_word, sounds_like_one_of

    known = frozenset(table()).union(*(text_encoder_of(name).known for name in BUNDLES))
    lines = Path(jieba.__file__).with_name("dict.txt").read_text("utf-8").splitlines()
    words = [word for word, count, *_ in (line.split() for line in lines) if len(word) in LENGTHS and int(count) > 2]
    chinese = [word for word in words if word not in known and sounds_like_one_of(word, known)]
    letters = [word for word in english.read_text("utf-8").split() if word.islower() and word.isascii()]
    return [*chinese, *(word for word in letters if word not in known and word.isalpha() and near_word(word, known))]


def main(source: Path, english: Path) -> None:
    """Writes the tables."""
    head = "# 读音: 字的拼音（不分声调）。From Unicode's Unihan database (kTGHZ2013; see emoji.LICENSE).\n"
    found = readings(source)
    rows = (f"{reading}\t{''.join(found[reading])}\n" for reading in sorted(found))
    (PROMPTS / "readings.tsv").write_text(f"{head}reading\tcharacters\n{''.join(rows)}", "utf-8")
    words = real_words(english)
    lines = (" ".join(words[at : at + ACROSS]) for at in range(0, len(words), ACROSS))
    head = "# 真有的词，不是别字。Words that there are, of jieba's dictionary and of SCOWL; see real_words.LICENSE.\n"
    (PROMPTS / "real_words.txt").write_text(head + "\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
