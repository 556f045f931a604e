"""The words of long descriptions, besides those for things: ``descriptions.tsv``, which anybody can mend."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import resources

from bimo.prompts.normalise import normal


@lru_cache(maxsize=1)
def described_words() -> Mapping[str, Mapping[str, str]]:
    """Role -> word in its normal form -> value; "" where a word has none."""
    found: dict[str, dict[str, str]] = {}
    text = resources.files("bimo.xiaomo.captions").joinpath("descriptions.tsv").read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    for role, value, words in (line.split("\t") for line in lines[1:]):
        for word in words.split("/"):
            found.setdefault(role, {}).setdefault(normal(word), value)
    return found
