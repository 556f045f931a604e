"""A prompt suite: what is drawn, what must and must not be seen in it, and the hash of all that."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from bimo.core.errors import DataError
from bimo.core.messages import Listed, Message

#: How a check is asked where its suite has no question of its own.
ASKED = {"zh": "这张图里能看到{phrase}吗？", "en": "Can you see {phrase} in this picture?"}
DUPLICATE = Message("duplicate prompt")
ANSWERS = {"zh": ("是", "否"), "en": ("yes", "no")}


@dataclass(frozen=True)
class Check:
    """Something that a right picture shows, or does not (``seen``): a noun phrase in Chinese and English, "" where the
    suite has it in the other language alone. ``question`` and ``answer`` are a suite's own words where it has such.
    """

    zh: str
    en: str
    seen: bool = True
    question: str = ""
    answer: str = ""

    def asked(self, language: str) -> str:
        """The question in "zh" or "en", or in the language that there is."""
        return self.question or ASKED[self.language(language)].format(phrase=self.phrase(language))

    def expected(self, language: str) -> str:
        """The answer that is right."""
        return self.answer or ANSWERS[self.language(language)][not self.seen]

    def phrase(self, language: str) -> str:
        """The noun phrase in "zh" or "en", or in the language that there is."""
        return (self.zh, self.en)[self.language(language) == "en"]

    def language(self, wanted: str) -> str:
        """The language that the check is in, the wanted one if there are both."""
        return wanted if (self.zh, self.en)[wanted == "en"] else "en" if self.en else "zh"


@dataclass(frozen=True)
class Prompt:
    """One line of a suite. ``key`` names it; the same question in another language has the same ``pair``. ``written``
    is the text that must stand in the picture, ``image`` the file name of its reference picture, ``variant_of`` the key
    of the prompt that this one is another spelling of.
    """

    key: str
    group: str
    language: str
    text: str
    checks: tuple[Check, ...] = ()
    written: tuple[str, ...] = ()
    image: str = ""
    pair: str = ""
    variant_of: str = ""
    source: str = ""


@dataclass(frozen=True)
class Suite:
    """Prompts in their order. ``unusable`` counts the rows of the file that are no prompts, by reason; ``unverified``
    says that the format was not seen in a published file.
    """

    name: str
    prompts: tuple[Prompt, ...]
    licence: str = ""
    unusable: Counter[str] = field(default_factory=Counter[str])
    unverified: bool = False

    def __post_init__(self) -> None:
        if not self.prompts:
            raise DataError(
                "the suite {name} holds no prompt ({count} rows are none: {reasons}); give a file of its format",
                name=self.name,
                count=self.unusable.total(),
                reasons=self.said_unusable(),
            )

    def said_unusable(self) -> Listed:
        """How many rows are no prompts, by reason."""
        return Listed([Message("{reason} {count}", reason=Message(r), count=n) for r, n in self.unusable.items()])

    @property
    def digest(self) -> str:
        """The SHA-256 of the prompts and all that is asked of them."""
        rows = [asdict(prompt) for prompt in self.prompts]
        return hashlib.sha256(json.dumps(rows, ensure_ascii=False, sort_keys=True).encode()).hexdigest()

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups, in their order."""
        return tuple(dict.fromkeys(prompt.group for prompt in self.prompts))

    def only(self, groups: Sequence[str] = (), language: str = "", limit: int | None = None) -> Suite:
        """A part: some groups, one language, of each group and language at most so many, evenly spread. Raises
        DataError where nothing is left.
        """
        kept = [p for p in self.prompts if (not groups or p.group in groups) and language in ("", p.language)]
        for name in groups:
            if name not in self.groups:
                raise DataError(
                    "the suite {suite} has no group {name!r}; it has {groups}",
                    suite=self.name,
                    name=name,
                    groups=Listed(self.groups),
                )
        if limit is not None:
            kept = list(_spread(kept, limit))
        return replace(self, prompts=tuple(kept))


def _spread(prompts: Sequence[Prompt], limit: int) -> Iterator[Prompt]:
    """At most ``limit`` of each group and language. What is compared with each other stays together: spellings of one
    prompt count as one, and so do its languages.
    """
    families: dict[str, list[str]] = {}
    for prompt in prompts:
        mine = families.setdefault(prompt.group, [])
        family = family_of(prompt)
        if family not in mine:
            mine.append(family)
    picked = {
        (group, mine[place * len(mine) // min(limit, len(mine))])
        for group, mine in families.items()
        for place in range(min(limit, len(mine)))
    }
    return (prompt for prompt in prompts if (prompt.group, family_of(prompt)) in picked)


def family_of(prompt: Prompt) -> str:
    """What a prompt shares with its other spellings and languages."""
    return prompt.variant_of.removesuffix(".en") or prompt.pair or prompt.key


def without_duplicates(prompts: Sequence[Prompt], unusable: Counter[str]) -> tuple[Prompt, ...]:
    """The prompts whose text and image no earlier one has; the others are counted as duplicates. Keys are made
    distinct.
    """
    seen: set[tuple[str, str]] = set()
    keys: Counter[str] = Counter()
    kept: list[Prompt] = []
    for prompt in prompts:
        if (prompt.text, prompt.image) in seen:
            unusable[DUPLICATE.text] += 1
            continue
        seen.add((prompt.text, prompt.image))
        keys[prompt.key] += 1
        again = keys[prompt.key]
        kept.append(prompt if again == 1 else replace(prompt, key=f"{prompt.key}-{again}"))
    return tuple(kept)


def own() -> Suite:
    """``chinese``: 300 prompts for Chinese written for this project, and the English of each that is no spelling."""
    lines = Path(__file__).with_name("chinese.tsv").read_text("utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    heads = rows[0]
    prompts = [prompt for row in rows[1:] for prompt in _both(dict(zip(heads, row, strict=True)))]
    return Suite("chinese", tuple(prompts), licence="Apache-2.0")


def _both(row: dict[str, str]) -> Iterator[Prompt]:
    key = row["key"]
    checks = tuple(_checks(row["seen"], True)) + tuple(_checks(row["unseen"], False))
    written = tuple(part for part in row["written"].split(" / ") if part)
    common = Prompt(key, key.partition(".")[0], "zh", row["zh"], checks, written, pair=key, source=row["source"])
    yield replace(common, variant_of=row["variant_of"])
    if not row["variant_of"]:
        yield replace(common, key=f"{key}.en", language="en", text=row["en"])


def _checks(cell: str, seen: bool) -> Iterator[Check]:
    for part in filter(None, cell.split("; ")):
        zh, en = part.split("|")
        yield Check(zh, en, seen)
