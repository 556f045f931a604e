"""What is measured of one model's pictures of a suite, picture by picture, and the numbers of that with their error.

A picture's value is None where a measure does not apply to it. Pictures of one prompt are not independent of each
other, so the error is that of resampled prompts (bootstrap), not of resampled pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bimo.curation.steps import ModelStep, Pair, Scorer, Tools
from bimo.evaluation.intervals import RESAMPLES, Interval, bootstrap, share, wilson
from bimo.evaluation.judges.judge import Answer
from bimo.evaluation.kept import Kept
from bimo.evaluation.metrics import similarity
from bimo.evaluation.metrics.glyphs import Glyphs, glyphs, oneig
from bimo.evaluation.progress import OnProgress
from bimo.evaluation.suite_drawings import Drawing, open_picture
from bimo.evaluation.suites.suite import Check, Prompt

#: A picture with less than this side shows no text that a reader could find.
LEGIBLE = 64
CONTROL_SIDE = 512
BATCH = 16


@dataclass
class Shown:
    """A picture with its prompt and all that was found of it. ``image`` is read when it is asked for."""

    prompt: Prompt
    drawing: Drawing
    path: Path
    values: dict[str, float | bool | None] = field(default_factory=dict[str, "float | bool | None"])
    read: tuple[str, ...] = ()
    answers: dict[str, list[tuple[Check, Answer]]] = field(default_factory=dict[str, "list[tuple[Check, Answer]]"])

    def image(self) -> Image.Image:
        """The picture. Raises ValueError where its file cannot be read any more."""
        found = open_picture(self.path)
        if found is None:
            raise ValueError(f"{self.path} cannot be read")
        return found


@dataclass(frozen=True)
class Number:
    """A number with its error: of which measure, group and language ("" for all), "share" or "mean"."""

    measure: str
    group: str
    language: str
    unit: str
    interval: Interval

    @property
    def name(self) -> str:
        """ "dishes.zh.clip-zh similarity"."""
        return ".".join(part for part in (self.group, self.language, self.measure) if part)


def numbers(shown: Sequence[Shown], measure: str) -> list[Number]:
    """The number of a measure over all pictures in each language, and over each group."""
    made: list[Number] = []
    for language in ("zh", "en"):
        spoken = [one for one in shown if one.prompt.language == language and one.values.get(measure) is not None]
        groups = list(dict.fromkeys(one.prompt.group for one in spoken))
        for group in ("", *(groups if len(groups) > 1 else ())):
            mine = [one for one in spoken if group in ("", one.prompt.group)]
            if mine:
                made.append(_number(mine, measure, group, language))
    return made


def _number(shown: Sequence[Shown], measure: str, group: str, language: str) -> Number:
    values: dict[str, list[float]] = {}
    kinds = {type(one.values[measure]) for one in shown}
    for one in shown:
        value = one.values[measure]
        assert value is not None
        values.setdefault(one.prompt.key, []).append(float(value))
    means = [sum(mine) / len(mine) for mine in values.values()]
    if kinds == {bool}:
        single = all(len(mine) == 1 for mine in values.values())
        interval = share([value == 1 for value in means]) if single else bootstrap(means)
        return Number(measure, group, language, "share", interval)
    return Number(measure, group, language, "mean", bootstrap(means))


class Reader:
    """What OCR reads of pictures, kept by the picture's bytes, and of clean prints of the same texts (control)."""

    def __init__(self, folder: Path) -> None:
        # Before the first picture, so that a missing extra is told at once.
        from bimo.curation.filters import ocr

        self._ocr = ocr
        self.identity = _reader_version()
        self.kept = Kept(folder / "readings.jsonl")

    def read(self, image: Image.Image, sha256: str) -> tuple[str, ...]:
        """The lines that stand in a picture."""
        key = f"{self.identity} {sha256}"
        if key not in self.kept.known:
            self.kept.keep(key, list(self._ocr.read(image, single=True).texts) if min(image.size) >= LEGIBLE else [])
        return tuple(self.kept.known[key])

    def control(self, written: Sequence[str]) -> Glyphs:
        """What the reader makes of the text printed black on white: its own error."""
        image = printed(written)
        return glyphs(written, self.read(image, hashlib.sha256(image.tobytes()).hexdigest()))


def _reader_version() -> str:
    from importlib.metadata import version

    return f"rapidocr {version('rapidocr')}"


def printed(written: Sequence[str]) -> Image.Image:
    """Text printed black on white, a segment under the other, wrapped where it is too long for a line."""
    lines = [part[at : at + 14] for part in written for at in range(0, len(part), 14)]
    size = max(16, min(64, CONTROL_SIDE // (max(map(len, lines)) + 1), CONTROL_SIDE // (2 * len(lines))))
    image = Image.new("RGB", (CONTROL_SIDE, CONTROL_SIDE), "white")
    draw, font = ImageDraw.Draw(image), _font(size)
    for number, line in enumerate(lines):
        draw.text((size // 2, (2 * number + 1) * CONTROL_SIDE // (2 * len(lines)) - size // 2), line, "black", font)
    return image


@cache
def _font(size: int) -> Any:
    from bimo.data.sheets import chinese_font

    return chinese_font(size)


def measure_text(shown: Sequence[Shown], reader: Reader, on_progress: OnProgress, title: str) -> None:
    """Sets the measures of text in pictures, and the reader's own on clean print beside them."""
    asked = [one for one in shown if one.prompt.written]
    for number, one in enumerate(asked, 1):
        one.read = reader.read(one.image(), one.drawing.sha256)
        found, control = glyphs(one.prompt.written, one.read), reader.control(one.prompt.written)
        one.values |= {
            "text characters": found.characters,
            "text similarity": found.similarity,
            "text sentences": found.sentences,
            "text f1": found.f1,
            "text whole": found.whole,
            "text similarity, clean print": control.similarity,
            "text characters, clean print": control.characters,
        }
        on_progress(title, number, len(asked))


def oneig_number(shown: Sequence[Shown], language: str) -> Number | None:
    """OneIG's text score with the interval of resampled prompts; None without text."""
    mine = [one for one in shown if one.prompt.written and one.prompt.language == language]
    if not mine:
        return None
    found = [glyphs(one.prompt.written, one.read) for one in mine]
    by_prompt: dict[str, list[Glyphs]] = {}
    for one, each in zip(mine, found, strict=True):
        by_prompt.setdefault(one.prompt.key, []).append(each)
    families = list(by_prompt.values())
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(families), (RESAMPLES // 4, len(families)))
    again = [oneig([each for place in row.tolist() for each in families[int(place)]]) for row in picks]
    low, high = np.quantile(again, (0.025, 0.975))
    interval = Interval(oneig(found), float(low), float(high), len(families))
    return Number("text OneIG", "", language, "mean", interval)


def measure_strokes(shown: Sequence[Shown], on_progress: OnProgress, title: str) -> None:
    """Sets ``text strokes``: of the characters asked for the share that stands stroke by stroke, by
    `bimo.inscription`. A hand that is like no font here is called wrong, so that it is a lower bound.
    """
    from bimo.inscription import drawn
    from bimo.inscription.fonts import find_faces
    from bimo.inscription.layout import characters_of

    faces = find_faces()
    asked = [one for one in shown if one.prompt.written]
    for number, one in enumerate(asked, 1):
        image = one.image()
        texts = [characters_of(part) for part in one.prompt.written]
        right = 0
        if min(image.size) >= LEGIBLE and one.read:
            pixels = np.asarray(image)
            for cells in (drawn.found(pixels, text) for text in texts):
                right += sum(drawn.judged(pixels.astype(np.float32), cell, faces).right for cell in cells or ())
        one.values["text strokes"] = right / max(1, sum(map(len, texts)))
        on_progress(title, number, len(asked))


Vectors = NDArray[np.float32]


def picture_vectors(shown: Sequence[Shown], scorer: Scorer, on_progress: OnProgress, title: str) -> Vectors:
    """[N, D] of pictures, a few at a time."""
    rows: list[Vectors] = []
    for first in range(0, len(shown), BATCH):
        part = shown[first : first + BATCH]
        rows.append(scorer.pictures([scorer.fitted(one.image()) for one in part]))
        on_progress(title, first + len(part), len(shown))
    return np.concatenate(rows)


def measure_clip(shown: Sequence[Shown], vectors: Vectors, scorer: Scorer, language: str) -> None:
    """Sets CLIP similarity and CLIP-R by a text encoder of a language, of its own language's prompts; prompts in the
    other one are compared by their translation where the suite has it.
    """
    own = {one.prompt.pair or one.prompt.key: one.prompt.text for one in shown if one.prompt.language == language}
    texts = {row: own.get(one.prompt.pair or one.prompt.key) for row, one in enumerate(shown)}
    rows = [row for row, text in texts.items() if text is not None]
    if not rows:
        return
    words = scorer.words([str(texts[row]) for row in rows])
    cosines = similarity.own_similarity(vectors[rows], words)
    right = similarity.clip_r(vectors[rows], words, [str(texts[row]) for row in rows])
    for row, cosine, first in zip(rows, cosines, right, strict=True):
        shown[row].values[f"clip-{language} similarity"] = cosine
        shown[row].values[f"clip-{language} r"] = first


def measure_agreement(shown: Sequence[Shown], vectors: Vectors, by: str) -> None:
    """Sets how alike the pictures of one seed are: of a prompt and its translation, of a prompt and its other
    spellings, and, as what they are to be held against, of a prompt and the next other one.
    """
    places = {(one.prompt.key, one.drawing.seed): row for row, one in enumerate(shown)}
    keys = list(dict.fromkeys(one.prompt.key for one in shown if one.prompt.language == "zh"))
    pairs: dict[str, list[tuple[int, int]]] = {"languages": [], "spellings": [], "others": []}
    for row, one in enumerate(shown):
        prompt, seed = one.prompt, one.drawing.seed
        if prompt.language == "en" and (other := places.get((prompt.pair, seed))) is not None:
            pairs["languages"].append((other, row))
        if prompt.variant_of and (other := places.get((prompt.variant_of, seed))) is not None:
            pairs["spellings"].append((row, other))
        if prompt.language == "zh" and not prompt.variant_of and len(keys) > 1:
            beside = places.get((keys[(keys.index(prompt.key) + len(keys) // 2) % len(keys)], seed))
            if beside is not None and beside != row:
                pairs["others"].append((row, beside))
    for kind, mine in pairs.items():
        for (row, _), cosine in zip(mine, similarity.pairs_alike(vectors, mine), strict=True):
            shown[row].values[f"alike, {kind} ({by})"] = cosine


def measure_spread(shown: Sequence[Shown], vectors: Vectors, by: str) -> None:
    """Sets how far apart the pictures of one prompt are, on the first of each prompt that has two or more."""
    found = similarity.spread(vectors, [one.prompt.key for one in shown])
    for one in shown:
        if one.prompt.key in found:
            one.values[f"apart, seeds ({by})"] = found.pop(one.prompt.key)


def measure_copies(shown: Sequence[Shown], known: NDArray[np.uint64], names: Sequence[str]) -> Mapping[str, str]:
    """Sets whether a picture is a near-copy of a known one; answers with which: drawn file -> known file."""
    found = similarity.near_copies(similarity.perceptual_hashes([one.image() for one in shown]), known)
    for row, one in enumerate(shown):
        one.values["near copy"] = row in found
    return {shown[row].drawing.file: names[other] for row, other in found.items()}


def measure_steps(
    shown: Sequence[Shown], steps: Sequence[ModelStep], tools: Tools, on_progress: OnProgress, title: str
) -> list[str]:
    """Sets the columns of curation's steps, and for each step the share that it would drop: what is not safe for work,
    beauty by a head over a CLIP, any classifier's label. Answers with what each depends on.
    """
    for step in steps:
        measured = step.open(tools)
        for first in range(0, len(shown), BATCH):
            part = shown[first : first + BATCH]
            pairs = [Pair(n, one.image(), (one.prompt.text,)) for n, one in enumerate(part)]
            for one, scores in zip(part, measured(pairs), strict=True):
                one.values |= {name: float(v) for name, v in scores.items() if isinstance(v, (int, float))}
                one.values[f"{step.score_name()}, beyond its line"] = step.judge(scores) is not None
            on_progress(title, first + len(part), len(shown))
    return [step.measuring(tools) for step in steps]


def share_of(value: float, n: int) -> Interval:
    """A share that is known as such, with its interval."""
    return wilson(round(value * n), n)


def by_length(shown: Sequence[Shown], measure: str, parts: int = 4) -> list[tuple[int, int, Interval]]:
    """(shortest, longest, mean) of a measure in parts of equally many prompts by their number of characters."""
    rows = sorted(
        (len(one.prompt.text), one.prompt.key, float(value))
        for one in shown
        if one.prompt.language == "zh" and (value := one.values.get(measure)) is not None
    )
    keys = list(dict.fromkeys(key for _, key, _ in rows))
    made: list[tuple[int, int, Interval]] = []
    for part in range(parts):
        wanted = set(keys[part * len(keys) // parts : (part + 1) * len(keys) // parts])
        mine = [(length, value) for length, key, value in rows if key in wanted]
        if mine:
            made.append((mine[0][0], mine[-1][0], bootstrap([value for _, value in mine])))
    return made


def settle(judged: Sequence[Shown], name: str, found: Callable[[Shown], list[tuple[Check, Answer]]]) -> None:
    """Sets a judge's answers: the share of a picture's checks that are right, and whether all of them are."""
    for one in judged:
        one.answers[name] = found(one)
        known = [answer.right for _, answer in one.answers[name] if answer.right is not None]
        one.values[f"checks ({name})"] = sum(known) / len(known) if known else None
        one.values[f"all checks ({name})"] = all(known) if known else None
