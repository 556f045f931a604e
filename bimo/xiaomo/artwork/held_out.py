"""What is held out of training: (kind, style) pairs by a hash rule, and a list of compositions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache

from bimo.xiaomo.artwork.lexicon import DEFAULT_STYLE, DRAWN, EFFECTS, LATER
from bimo.xiaomo.artwork.sprites import Kind

ONE_IN = 20
STYLES_AT_LEAST = 4

# Written as emoji to be readable; hexcodes are compared.
PAIRS: tuple[tuple[str, str], ...] = (
    ("🐱", "🕶"),
    ("🐈", "🕶"),
    ("🐱", "🍜"),
    ("🐈", "🍜"),
    ("🐼", "👑"),
    ("🐶", "🎩"),
    ("🦊", "🍕"),
    ("🐰", "🍔"),
    ("🐸", "🕶"),
    ("🐻", "🍓"),
    ("🐕", "🚗"),
    ("🐼", "🚲"),
    ("🐈", "🐕"),
    ("🍎", "🍌"),
    ("🌹", "📖"),
    ("🚀", "🏰"),
    ("🐧", "⛄"),
    ("🐘", "🎈"),
    ("☕", "🍩"),
    ("🌲", "🏠"),
    ("🦁", "🎸"),
)
COLOURS: tuple[tuple[str, str], ...] = (
    ("🍎", "blue"),
    ("🍌", "purple"),
    ("🚗", "pink"),
    ("🐘", "pink"),
    ("🐈", "green"),
    ("🏠", "purple"),
    ("🌹", "blue"),
    ("🍓", "yellow"),
    ("☂", "orange"),
    ("🐸", "red"),
)
SCENES: tuple[tuple[str, str], ...] = (
    ("🐄", "sea"),
    ("🐧", "desert"),
    ("🚗", "snow"),
    ("🐼", "city"),
    ("🚀", "grass"),
    ("🐈", "night"),
)


def hexcode(emoji: str) -> str:
    """The hexcode of an emoji, lower case, without variation selectors."""
    return "-".join(f"{ord(character):x}" for character in emoji if character != "\ufe0f")


def held_out(kind: Kind, style: str) -> bool:
    """Whether a pair is held out; `style` is a drawn style or an effect.

    One pair in twenty by hash, of kinds with at least four drawn styles. In the default style only kinds without a
    hand-written alias are held out: plain prompts with common words must be in the training data.
    """
    if len(kind.styles) < STYLES_AT_LEAST or (style == DEFAULT_STYLE and kind.aliases_zh):
        return False
    digest = hashlib.sha256(f"{kind.hexcode}:{style}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % ONE_IN == 0


def held_out_composition(kind: str, other: str) -> bool:
    """Whether a kind (hexcode) is never composed with `other`: a kind's hexcode, a colour id or a scene id."""
    return (kind, other) in _compositions() or (other, kind) in _compositions()


def held_out_relation(face: str, relation: str, thing: str) -> bool:
    """Whether a triple of face, relation and object (hexcodes) is held out: one in twelve by hash."""
    digest = hashlib.sha256(f"relation:{face}:{relation}:{thing}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 12 == 0


@lru_cache(maxsize=1)
def _compositions() -> frozenset[tuple[str, str]]:
    pairs = ((hexcode(first), hexcode(second)) for first, second in PAIRS)
    return frozenset((*pairs, *((hexcode(kind), other) for kind, other in (*COLOURS, *SCENES))))


def held_out_list(kinds: list[Kind]) -> Mapping[str, list[list[str]]]:
    """All held-out pairs: `styles` as [kind, style], `compositions` as [kind, kind or colour or scene]."""
    styles = [
        [kind.hexcode, style] for kind in kinds for style in (*DRAWN, *LATER, *EFFECTS)
        if (style in kind.styles or style in EFFECTS) and held_out(kind, style)
    ]  # fmt: skip
    return {"styles": styles, "compositions": sorted(list(pair) for pair in _compositions())}
