"""What somebody in a description does (打伞, 堆雪人, sleeping), where that is drawn."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from bimo.xiaomo.artwork.places import Placed
from bimo.xiaomo.captions.arranged import in_company, placed_by_relation
from bimo.xiaomo.captions.described_nouns import Noun
from bimo.xiaomo.captions.described_tokens import SLEEPING, Token, tokens, without_flavours
from bimo.xiaomo.captions.figures import FIGURE, act_words, company_of, figure_of


def with_acts(text: str, last: Noun | None) -> tuple[list[Token], Set[int]]:
    """The words of a clause, of which those for what somebody does are in who does it, and where in the clause who
    sleeps begins. In a clause that names nobody it is the ``last`` noun before it. Where nobody is drawn so they are
    words as any others.
    """
    every = tokens(text, acts=True)
    sleepers: set[int] = set()
    for act in [token for token in every if token.role == "act"]:
        behind = text.startswith("的", act.end)  # 打伞的女孩, or 女孩打伞
        earlier = [token.start < act.start for token in every]
        order = sorted(range(len(every)), key=lambda at: (earlier[at] is behind, -at if earlier[at] else at))
        done = next(((at, made) for at in order if (made := _doing(every[at], act.text))), None)
        of_last = last is not None and not last.together and not any(token.role == "noun" for token in every)
        made = _doing(last.token, act.text) if last is not None and of_last and act.text not in SLEEPING else None
        if done is not None:
            every[done[0]] = done[1]
            sleepers |= {done[1].start} if act.text in SLEEPING else set()
        elif last is not None and made is not None:
            last.token = made
        else:
            return without_flavours(tokens(text)), frozenset()
    return without_flavours([token for token in every if token.role != "act"]), sleepers


def _doing(token: Token, act: str) -> Token | None:
    """A noun that does what a word says (打伞), if it is somebody, or an animal, who is drawn so; else None."""
    thing = token.thing
    if token.role != "noun" or thing is None:
        return None
    if act in SLEEPING:
        return token if asleep(token) else None
    kind = figure_of(f"{act}的{token.text}")
    if not kind and thing.kind.startswith(FIGURE) and not company_of(thing.kind):
        kind = f"{thing.kind}+{act_words()[act]}"
    return replace(token, thing=replace(thing, kind=kind)) if kind else None


def who_they_are(token: Token) -> tuple[Placed, ...]:
    """Those whom a word for several people names (情侣, 一家三口); () for a word for one."""
    row = company_of(token.thing.kind) if token.thing is not None else None
    several = row is not None and row.company and not any(what == "*" for what, _ in row.company)
    return in_company(token.thing) if several and token.thing is not None else ()


def asleep(token: Token) -> tuple[Placed, ...]:
    """Somebody, or an animal, who sleeps."""
    words = f"{token.text} is sleeping" if token.english else f"{token.text}在睡觉"
    return placed_by_relation(words) or ()
