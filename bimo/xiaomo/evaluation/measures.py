"""Which of the pictures are right: measures by the judge and by rules on pixels, one answer a question."""

# numpy's arrays are typed in part; what crosses it here is named where it is used.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import numpy as np
from PIL import Image

from bimo.evaluation import pixel_rules
from bimo.evaluation.figures import Answers, Figure
from bimo.evaluation.figures import figures as general_figures
from bimo.evaluation.intervals import Interval, bootstrap, share
from bimo.evaluation.pixel_rules import Mask, centre, foreground, in_place, pieces
from bimo.xiaomo.artwork.compose import cropped
from bimo.xiaomo.artwork.lexicon import COLOURS, DEFAULT_STYLE
from bimo.xiaomo.artwork.sprites import FILL
from bimo.xiaomo.artwork.sprites import SIDE as SPRITE
from bimo.xiaomo.evaluation.judge import Judge, Seen
from bimo.xiaomo.evaluation.prompts import Question
from bimo.xiaomo.evaluation.truth import stacked

HUES = {name: colour.hue for name, colour in COLOURS.items() if colour.hue is not None}


def colour_of(image: Image.Image) -> str:
    """The declared colour that a picture's foreground shows, "" for none."""
    return pixel_rules.colour_of(image, HUES)


def cut_out(image: Image.Image, piece: Mask) -> Image.Image:
    """A piece of a picture alone on white, in the size of a sprite at rest."""
    rgba = image.convert("RGBA")
    rgba.putalpha(Image.fromarray((piece * 255).astype(np.uint8)))
    inside = cropped(rgba.resize((SPRITE, SPRITE), Image.Resampling.BICUBIC), FILL)
    canvas = Image.new("RGB", (SPRITE, SPRITE), (255, 255, 255))
    canvas.paste(inside, ((SPRITE - inside.width) // 2, (SPRITE - inside.height) // 2), inside.getchannel("A"))
    return canvas


@dataclass(frozen=True)
class Drawn(Answers[Question]):
    """One painter's pictures of some questions, and what the judge saw in them."""

    seen: Seen

    def rows(self, rows: Sequence[int]) -> Self:
        """Some of them, in that order."""
        index = list(rows)
        seen = Seen(self.seen.kinds[index], self.seen.style[index], self.seen.embedding[index])
        return replace(super().rows(rows), seen=seen)


Measure = Callable[[Judge, Drawn], list[bool]]


def first_kind(judge: Judge, drawn: Drawn) -> list[bool]:
    """The judge's likeliest kind is accepted."""
    top = [judge.kinds[index] for index in drawn.seen.kinds[:, 0]]
    return [kind in q.kinds for kind, q in zip(top, drawn.questions, strict=True)]


def five_kinds(judge: Judge, drawn: Drawn) -> list[bool]:
    """An accepted kind is among the judge's five likeliest."""
    rows = [{judge.kinds[index] for index in row} for row in drawn.seen.kinds]
    return [bool(row & set(q.kinds)) for row, q in zip(rows, drawn.questions, strict=True)]


def style(judge: Judge, drawn: Drawn) -> list[bool]:
    """The judge's likeliest style is the one asked for."""
    return [judge.styles[index] == q.style for index, q in zip(drawn.seen.style, drawn.questions, strict=True)]


def kind_and_style(judge: Judge, drawn: Drawn) -> list[bool]:
    """Both the kind and the style are right."""
    return [a and b for a, b in zip(first_kind(judge, drawn), style(judge, drawn), strict=True)]


def neighbour(judge: Judge, drawn: Drawn) -> list[bool]:
    """The nearest of all true pictures in the asked style is of an accepted kind."""
    nearest = judge.nearest(drawn.seen.embedding, [q.style or DEFAULT_STYLE for q in drawn.questions])
    return [kind in q.kinds for kind, q in zip(nearest, drawn.questions, strict=True)]


def colour(judge: Judge, drawn: Drawn) -> list[bool]:
    """The rule of `colour_of` finds the colour asked for."""
    return [colour_of(image) == q.colour for image, q in zip(drawn.images, drawn.questions, strict=True)]


def colour_and_kind(judge: Judge, drawn: Drawn) -> list[bool]:
    """The colour is right, and the kind among the judge's five likeliest."""
    return [a and b for a, b in zip(colour(judge, drawn), five_kinds(judge, drawn), strict=True)]


def number(judge: Judge, drawn: Drawn) -> list[bool]:
    """There are as many pieces as things were asked for."""
    return [len(pieces(foreground(i))) == q.count for i, q in zip(drawn.images, drawn.questions, strict=True)]


def place(judge: Judge, drawn: Drawn) -> list[bool]:
    """The foreground lies where it was asked for."""
    return [in_place(foreground(i), q.place or "") for i, q in zip(drawn.images, drawn.questions, strict=True)]


def both_things(judge: Judge, drawn: Drawn) -> list[bool]:
    """The two largest pieces, cut out and shown to the judge, are the two kinds (each among its five likeliest)."""
    return [centres is not None for centres in _two(judge, drawn)]


def both_placed(judge: Judge, drawn: Drawn) -> list[bool]:
    """Both are there, and the first stands where the relation says; "and" asks for no order."""
    right: list[bool] = []
    for centres, q in zip(_two(judge, drawn), drawn.questions, strict=True):
        if centres is None:
            right.append(False)
            continue
        (x, y), (other_x, other_y) = centres
        side = {"left": x < other_x, "right": x > other_x, "above": y < other_y}
        right.append(side.get(q.relation or "", True))
    return right


def _two(judge: Judge, drawn: Drawn) -> list[tuple[tuple[float, float], tuple[float, float]] | None]:
    """For each picture the middles of the first and second thing asked for; None where they are not both found."""
    answers: list[tuple[tuple[float, float], tuple[float, float]] | None] = []
    for image, q in zip(drawn.images, drawn.questions, strict=True):
        two = pieces(foreground(image))[:2]
        answer = None
        if len(two) == 2:
            judged = judge.see(stacked([cut_out(image, piece) for piece in two]))
            named = [{judge.kinds[index] for index in row} for row in judged.kinds]
            middles = [centre(piece) for piece in two]
            for one, other in ((0, 1), (1, 0)):
                if q.kinds[0] in named[one] and q.kind2 in named[other] and answer is None:
                    answer = (middles[one], middles[other])
        answers.append(answer)
    return answers


#: By group: name of the measure -> rule.
MEASURES: Mapping[str, Mapping[str, Measure]] = {
    "seen": {"kind top-1": first_kind, "kind top-5": five_kinds, "style": style, "kind and style": kind_and_style,
             "nearest neighbour": neighbour},
    "bare": {"kind top-1": first_kind, "kind top-5": five_kinds, "nearest neighbour": neighbour},
    "unseen": {"kind top-1": first_kind, "kind top-5": five_kinds, "style": style, "kind and style": kind_and_style,
               "nearest neighbour": neighbour},
    "colour": {"colour": colour, "kind top-5": five_kinds, "colour and kind": colour_and_kind},
    "unseen colour": {"colour": colour, "kind top-5": five_kinds, "colour and kind": colour_and_kind},
    "count": {"number": number},
    "pair": {"both things": both_things, "both in order": both_placed},
    "place": {"place": place},
}  # fmt: skip


def figures(judge: Judge, painters: Mapping[str, Drawn | None], true: Drawn | None = None) -> list[Figure]:
    """Every measure of every group and language; the first painter is the model, the others baselines; ``true`` are
    the true pictures of the questions that have one.
    """
    measures = {
        group: {name: partial(measure, judge) for name, measure in named.items()} for group, named in MEASURES.items()
    }
    agreements = [agreement(judge, painters, group) for group in ("seen", "bare", "unseen")]
    return general_figures(measures, painters, true) + [figure for figure in agreements if figure is not None]


def agreement(judge: Judge, painters: Mapping[str, Drawn | None], group: str) -> Figure | None:
    """The share of questions whose Chinese and English pictures, of one seed, are the same kind to the judge."""
    shares: dict[str, Interval | None] = {}
    for name, drawn in painters.items():
        if drawn is None or name == "nearest picture":  # it is the same picture in both languages
            shares[name] = None
            continue
        part = drawn.of(group)
        likeliest: dict[str, dict[str, int]] = {}
        for q, kinds in zip(part.questions, part.seen.kinds, strict=True):
            likeliest.setdefault(q.key, {})[q.language] = int(kinds[0])
        shares[name] = share([pair["zh"] == pair["en"] for pair in likeliest.values() if len(pair) == 2])
    (_, model), *others = shares.items()
    return Figure(group, "zh and en alike", "", "share", model, dict(others)) if model is not None and model.n else None


def by_style(judge: Judge, drawn: Drawn, group: str) -> dict[str, dict[str, Interval]]:
    """Style asked for -> measure -> share, of a group in both languages."""
    part = drawn.of(group)
    measures = {name: measure(judge, part) for name, measure in MEASURES[group].items()}
    table: dict[str, dict[str, Interval]] = {}
    for asked in judge.styles:
        rows = [row for row, q in enumerate(part.questions) if q.style == asked]
        if rows:
            table[asked] = {name: share([right[row] for row in rows]) for name, right in measures.items()}
    return table


def spread(first: Drawn, second: Drawn) -> tuple[Interval, Interval]:
    """Between pictures row by row: mean absolute difference of pixels (0..1), and 1 - cosine of the embeddings."""
    pixels = [
        float(np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).mean() / 255)
        for a, b in zip(first.images, second.images, strict=True)
    ]
    cosines = (first.seen.embedding * second.seen.embedding).sum(1)
    return bootstrap(pixels), bootstrap([1 - float(c) for c in cosines])
