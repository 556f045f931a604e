"""A prompt suite: its prompts, their checks, and a hash of both."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from bimo.core.errors import DataError
from bimo.core.messages import Listed, Message

#: The question for checks without one of their own.
QUESTIONS = {"zh": "这张图里能看到{phrase}吗？", "en": "Can you see {phrase} in this picture?"}
DUPLICATE = Message("duplicate prompt")
ANSWERS = {"zh": ("是", "否"), "en": ("yes", "no")}


@dataclass(frozen=True)
class Check:
    """Something that a right picture shows, or must not show (``seen`` is False): a noun phrase in Chinese and English,
    "" if the suite has only the other language. ``question`` and ``answer`` replace the default question.
    """

    zh: str
    en: str
    seen: bool = True
    question: str = ""
    answer: str = ""

    def question_in(self, language: str) -> str:
        """The question in "zh" or "en", or in the only language available."""
        return self.question or QUESTIONS[self.language(language)].format(phrase=self.phrase(language))

    def expected(self, language: str) -> str:
        """The right answer."""
        return self.answer or ANSWERS[self.language(language)][not self.seen]

    def phrase(self, language: str) -> str:
        """The noun phrase in "zh" or "en", or in the only language available."""
        return (self.zh, self.en)[self.language(language) == "en"]

    def language(self, preferred: str) -> str:
        """The preferred language if the check has it, else the other."""
        return preferred if (self.zh, self.en)[preferred == "en"] else "en" if self.en else "zh"


@dataclass(frozen=True)
class Prompt:
    """One prompt of a suite. ``key`` identifies it; its translation has the same ``pair``. ``written`` is the text to
    render in the picture, ``image`` the file name of a reference picture, ``variant_of`` the key of the prompt that
    this one is another spelling of.
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
    """Prompts in order. ``unusable`` counts rows of the file that are not prompts, by reason; ``unverified`` means that
    the format was not checked against a published file.
    """

    name: str
    prompts: tuple[Prompt, ...]
    licence: str = ""
    unusable: Counter[str] = field(default_factory=Counter[str])
    unverified: bool = False

    def __post_init__(self) -> None:
        if not self.prompts and not self.unusable:
            raise DataError(
                "the suite {name} holds no row at all; give a file with a prompt in each line, or of a suite's format",
                name=self.name,
            )
        if not self.prompts:
            raise DataError(
                "the suite {name} holds no prompt ({count} rows are none: {reasons}); give a file of its format",
                name=self.name,
                count=self.unusable.total(),
                reasons=self.unusable_reasons(),
            )

    def unusable_reasons(self) -> Listed:
        """The counts of unusable rows, by reason."""
        return Listed([Message("{reason} {count}", reason=Message(r), count=n) for r, n in self.unusable.items()])

    @property
    def digest(self) -> str:
        """The SHA-256 of the prompts and their checks."""
        rows = [asdict(prompt) for prompt in self.prompts]
        return hashlib.sha256(json.dumps(rows, ensure_ascii=False, sort_keys=True).encode()).hexdigest()

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups, in their order."""
        return tuple(dict.fromkeys(prompt.group for prompt in self.prompts))

    def only(self, groups: Sequence[str] = (), language: str = "", limit: int | None = None) -> Suite:
        """A subset: some groups, one language, at most ``limit`` prompts of each group, evenly spaced. Raises DataError
        if nothing is left.
        """
        chosen = [p for p in self.prompts if (not groups or p.group in groups) and language in ("", p.language)]
        for name in groups:
            if name not in self.groups:
                raise DataError(
                    "the suite {suite} has no group {name!r}; it has {groups}",
                    suite=self.name,
                    name=name,
                    groups=Listed(self.groups),
                )
        if limit is not None:
            chosen = list(_spread(chosen, limit))
        return replace(self, prompts=tuple(chosen))


def _spread(prompts: Sequence[Prompt], limit: int) -> Iterator[Prompt]:
    """At most ``limit`` families of each group. A prompt's spellings and translations are compared with each other, so
    they are one family and stay together.
    """
    families: dict[str, list[str]] = {}
    for prompt in prompts:
        families_of_group = families.setdefault(prompt.group, [])
        family = family_of(prompt)
        if family not in families_of_group:
            families_of_group.append(family)
    picked = {
        (group, families_of_group[place * len(families_of_group) // min(limit, len(families_of_group))])
        for group, families_of_group in families.items()
        for place in range(min(limit, len(families_of_group)))
    }
    return (prompt for prompt in prompts if (prompt.group, family_of(prompt)) in picked)


def family_of(prompt: Prompt) -> str:
    """The key that a prompt shares with its other spellings and translations."""
    return prompt.variant_of.removesuffix(".en") or prompt.pair or prompt.key


def without_duplicates(prompts: Sequence[Prompt], unusable: Counter[str]) -> tuple[Prompt, ...]:
    """Drops prompts with the text and image of an earlier one, and counts them as duplicates. Repeated keys get a
    number.
    """
    seen: set[tuple[str, str]] = set()
    keys: Counter[str] = Counter()
    unique: list[Prompt] = []
    for prompt in prompts:
        if (prompt.text, prompt.image) in seen:
            unusable[DUPLICATE.text] += 1
            continue
        seen.add((prompt.text, prompt.image))
        keys[prompt.key] += 1
        occurrence = keys[prompt.key]
        unique.append(prompt if occurrence == 1 else replace(prompt, key=f"{prompt.key}-{occurrence}"))
    return tuple(unique)


def own() -> Suite:
    """The suite ``chinese``: 300 Chinese prompts written for this project, with translations except for spellings."""
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
