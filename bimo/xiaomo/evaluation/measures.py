"""What is measured and by which rule: intervals, foregrounds, colours, pieces, places, and the figures of a report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bimo.xiaomo.artwork.compose import cropped
from bimo.xiaomo.artwork.lexicon import COLOURS, DEFAULT_STYLE
from bimo.xiaomo.artwork.sprites import FILL
from bimo.xiaomo.artwork.sprites import SIDE as SPRITE
from bimo.xiaomo.evaluation.judge import Judge, Seen
from bimo.xiaomo.evaluation.prompts import Question
from bimo.xiaomo.evaluation.truth import stacked

Z = 1.959964  # of the 95 % interval
RESAMPLES = 2000
APART = 28 / 255  # how far a pixel is from the background's colour, in its most different channel
PIECE = 0.012  # the least share of a picture that counts as a piece
HUE_ROOM = 22.0  # degrees either side of a colour's hue
GREY_BELOW = 0.14  # chroma under which a mean colour has no hue
BROWN_BELOW = 0.66  # value under which orange is brown
BLACK_BELOW = 0.38  # value under which grey is black
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval, over ``n`` pictures or pairs of them."""

    value: float
    low: float
    high: float
    n: int


def wilson(right: int, n: int) -> Interval:
    """The score interval of a share (E. B. Wilson, Journal of the American Statistical Association 22, 1927)."""
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    share = right / n
    middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), n)


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """The percentile interval of a mean (B. Efron, Annals of Statistics 7, 1979) from 2,000 resamples."""
    array = np.asarray(values, np.float64)
    if array.size == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    picks = np.random.default_rng(seed).integers(0, array.size, (RESAMPLES, array.size))
    means = array[picks].mean(1)
    return Interval(
        float(array.mean()), float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975)), int(array.size)
    )


def verdict(model: Interval, baseline: Interval) -> str:
    """Whether the model's interval lies wholly "above" or "below" the baseline's, or they are "not apart"."""
    if model.low > baseline.high:
        return "above"
    return "below" if model.high < baseline.low else "not apart"


@dataclass(frozen=True)
class Figure:
    """One measured number: of which group and measure, in which language ("" for all), beside the baselines'.

    ``unit`` is "share" (Wilson) or "mean" (bootstrap); ``baselines`` has None where a baseline cannot answer;
    ``ceiling`` is what the true pictures of the very things asked for score, in new poses.
    """

    group: str
    measure: str
    language: str
    unit: str
    model: Interval
    baselines: dict[str, Interval | None] = field(default_factory=dict[str, "Interval | None"])
    ceiling: Interval | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the verdict on each baseline."""
        verdicts = {n: verdict(self.model, b) for n, b in self.baselines.items() if b is not None}
        return asdict(self) | {"verdicts": verdicts}


# rules on pixels


def foreground(image: Image.Image) -> Mask:
    """[H, W]: what differs from the background, whose colour is the median of the outermost two pixels."""
    array = np.asarray(image.convert("RGB"), np.float32) / 255
    border = np.concatenate([array[:2].reshape(-1, 3), array[-2:].reshape(-1, 3), array[:, :2].reshape(-1, 3),
                             array[:, -2:].reshape(-1, 3)])  # fmt: skip
    return np.abs(array - np.median(border, 0)).max(-1) > APART


def colour_of(image: Image.Image) -> str:
    """The declared colour that the mean of the foreground shows.

    The mean is taken over foreground pixels, each weighted by 0.05 and its chroma, so that a dark outline or a white
    shine does not wash it out. A mean of little chroma is grey or black by its value; else the colour is the nearest
    declared hue, at most 22 degrees off; where orange and brown share a hue the dark one is brown. "" for none.
    """
    array = np.asarray(image.convert("RGB"), np.float32) / 255
    inside = array[foreground(image)]
    if not len(inside):
        return ""
    weight = 0.05 + inside.max(-1) - inside.min(-1)
    mean = (inside * weight[:, None]).sum(0) / weight.sum()
    value, chroma = float(mean.max()), float(mean.max() - mean.min())
    if chroma < GREY_BELOW:
        return "black" if value < BLACK_BELOW else "grey"
    hue = hue_of(mean)
    hues = {name: colour.hue for name, colour in COLOURS.items() if colour.hue is not None}
    far = {name: abs((hue - declared + 180) % 360 - 180) for name, declared in hues.items()}
    far["brown"] = math.inf
    nearest = min(far, key=lambda name: far[name])
    if far[nearest] > HUE_ROOM:
        return ""
    return "brown" if nearest in ("orange", "red") and hue > 8 and hue < 60 and value < BROWN_BELOW else nearest


def hue_of(rgb: Sequence[float] | NDArray[np.float32]) -> float:
    """The hue in degrees of an RGB colour in 0..1."""
    import colorsys

    return colorsys.rgb_to_hsv(*(float(part) for part in rgb))[0] * 360


def pieces(mask: Mask) -> list[Mask]:
    """The eight-connected pieces of a foreground with at least 1.2 % of the picture, largest first."""
    label = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        # The largest label spreads to its neighbours, and along whole runs, until nothing changes.
        padded = np.pad(label, 1)
        height, width = mask.shape
        shifted = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
        spread = np.where(mask, np.max(np.stack(shifted), 0), 0)
        spread = np.where(mask, _runs(_runs(spread, mask).T, mask.T).T, 0)
        if (spread == label).all():
            break
        label = spread
    values, counts = np.unique(label[mask], return_counts=True)
    large = [(count, value) for count, value in zip(counts, values, strict=True) if count >= PIECE * mask.size]
    return [label == value for _, value in sorted(large, reverse=True)]


def _runs(label: NDArray[np.int64], mask: Mask) -> NDArray[np.int64]:
    """Every run of a row gets its largest label."""
    # What a type checker makes of numpy's nested widths depends on what else it has read.
    left: Any = ((0, 0), (1, 0))
    starts = mask & ~np.pad(mask, left)[:, :-1]
    run = np.cumsum(starts.ravel()) - 1
    inside = mask.ravel()
    if not inside.any():
        return label
    largest = np.zeros(run.max() + 1, label.dtype)
    np.maximum.at(largest, run[inside], label.ravel()[inside])
    return np.where(inside, largest[np.maximum(run, 0)], 0).reshape(label.shape)


def centre(mask: Mask) -> tuple[float, float]:
    """Across and down of the middle of a piece, as shares of the picture; (0.5, 0.5) of nothing."""
    rows, columns = np.nonzero(mask)
    if not rows.size:
        return 0.5, 0.5
    height, width = mask.shape
    return float((columns.mean() + 0.5) / width), float((rows.mean() + 0.5) / height)


def in_place(mask: Mask, place: str) -> bool:
    """Whether the middle of the foreground lies within the outer two fifths that the place's words name."""
    across, down = centre(mask)
    asked = {"left": across < 0.4, "right": across > 0.6, "top": down < 0.4, "bottom": down > 0.6}
    return bool(mask.any()) and all(asked[word] for word in place.split())


def cut_out(image: Image.Image, piece: Mask) -> Image.Image:
    """A piece of a picture alone on white, in the size of a sprite at rest."""
    rgba = image.convert("RGBA")
    rgba.putalpha(Image.fromarray((piece * 255).astype(np.uint8)))
    inside = cropped(rgba.resize((SPRITE, SPRITE), Image.Resampling.BICUBIC), FILL)
    canvas = Image.new("RGB", (SPRITE, SPRITE), (255, 255, 255))
    canvas.paste(inside, ((SPRITE - inside.width) // 2, (SPRITE - inside.height) // 2), inside.getchannel("A"))
    return canvas


# measures: questions and what was drawn -> right or not, one a question


@dataclass(frozen=True)
class Drawn:
    """One painter's pictures of some questions, and what the judge saw in them."""

    questions: list[Question]
    images: list[Image.Image]
    seen: Seen

    def of(self, group: str, language: str | None = None) -> Drawn:
        """Those of a group, in one language or in all."""
        languages = ("zh", "en") if language is None else (language,)
        rows = [row for row, q in enumerate(self.questions) if q.group == group and q.language in languages]
        seen = Seen(self.seen.kinds[rows], self.seen.style[rows], self.seen.embedding[rows])
        return Drawn([self.questions[row] for row in rows], [self.images[row] for row in rows], seen)


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
    found = judge.nearest(drawn.seen.embedding, [q.style or DEFAULT_STYLE for q in drawn.questions])
    return [kind in q.kinds for kind, q in zip(found, drawn.questions, strict=True)]


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
    return [found is not None for found in _two(judge, drawn)]


def both_placed(judge: Judge, drawn: Drawn) -> list[bool]:
    """Both are there, and the first stands where the relation says; "and" asks for no order."""
    right = []
    for found, q in zip(_two(judge, drawn), drawn.questions, strict=True):
        if found is None:
            right.append(False)
            continue
        (x, y), (other_x, other_y) = found
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
            seen = judge.see(stacked([cut_out(image, piece) for piece in two]))
            named = [{judge.kinds[index] for index in row} for row in seen.kinds]
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


def share(right: Sequence[bool]) -> Interval:
    """The share of what is right."""
    return wilson(sum(right), len(right))


def figures(judge: Judge, painters: Mapping[str, Drawn | None], true: Drawn | None = None) -> list[Figure]:
    """Every measure of every group and language; the first painter is the model, the others baselines; ``true`` are
    the true pictures of the questions that have one.
    """
    (_, model), *others = painters.items()
    assert model is not None
    done: list[Figure] = []
    for group, measures in MEASURES.items():
        for language in ("zh", "en"):
            mine = model.of(group, language)
            if not mine.questions:
                continue
            theirs = {name: None if drawn is None else drawn.of(group, language) for name, drawn in others}
            best = None if true is None else true.of(group, language)
            for name, measure in measures.items():
                beside = {n: None if d is None else share(measure(judge, d)) for n, d in theirs.items()}
                ceiling = share(measure(judge, best)) if best is not None and best.questions else None
                done.append(Figure(group, name, language, "share", share(measure(judge, mine)), beside, ceiling))
    return done + [f for group in ("seen", "bare", "unseen") if (f := agreement(judge, painters, group)) is not None]


def agreement(judge: Judge, painters: Mapping[str, Drawn | None], group: str) -> Figure | None:
    """The share of questions whose Chinese and English pictures, of one seed, are the same kind to the judge."""
    shares: dict[str, Interval | None] = {}
    for name, drawn in painters.items():
        if drawn is None or name == "nearest picture":  # it is the same picture in both languages
            shares[name] = None
            continue
        part = drawn.of(group)
        found: dict[str, dict[str, int]] = {}
        for q, kinds in zip(part.questions, part.seen.kinds, strict=True):
            found.setdefault(q.key, {})[q.language] = int(kinds[0])
        shares[name] = share([pair["zh"] == pair["en"] for pair in found.values() if len(pair) == 2])
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
